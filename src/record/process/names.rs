//! What its threads are called.

use std::path::Path;

use sampler_platforms::Tid;
use sampler_platforms::linux::proc::names;

use super::TargetProcess;
use crate::profile::{SampleSink, ThreadInfo};

/// Threads of a process whose names a runtime is asked for at once: some hundred microseconds.
const ASKED_AT_ONCE_MAX: usize = 32;

/// Names that the first thread has had and that are remembered.
const OWN_NAMES_MAX: usize = 16;

impl TargetProcess {
    /// Reads names again: programs name their threads after starting them.
    ///
    /// # Errors
    /// When `sink` could not keep one.
    pub(in crate::record) fn refresh_names<S: SampleSink>(
        &mut self,
        now_ns: u64,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        for at in 0..self.threads.len() {
            let Some(thread) = self.threads.get_mut(at) else {
                break;
            };
            self.are_names_due |= thread.name.is_due(now_ns);
            if thread.is_name_current {
                continue;
            }
            let Ok(name) = names::of_a_thread(self.pid, thread.tid) else {
                continue;
            };
            thread.is_name_current = true;
            if name != thread.name.kernel() {
                let shown = thread.name.shown().to_owned();
                let tid = thread.tid;
                thread.name.set_kernel(name.clone());
                self.note_own_name(tid, &name);
                self.rename(at, &shown, sink)?;
            }
        }
        Ok(())
    }

    /// Thread `at` was seen in a runtime, which may have a name for it.
    pub(in crate::record) fn met_runtime(&mut self, at: usize) {
        // The first one is what the whole process is called by.
        let thread = self.threads.get_mut(at);
        if let Some(thread) = thread.filter(|thread| thread.tid.0 != self.pid.0) {
            self.are_names_due |= thread.name.met_runtime();
        }
    }

    /// Whether runtimes are to be asked what they call threads.
    pub(in crate::record) fn are_names_due(&self) -> bool {
        self.are_names_due
    }

    /// Asks runtimes what they call threads of which that is to be known, or to be known again: some of them at once.
    ///
    /// # Errors
    /// When `sink` could not keep a name.
    pub(in crate::record) fn ask_for_names<S: SampleSink>(
        &mut self,
        now_ns: u64,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let mut asked = Vec::new();
        self.are_names_due = false;
        for (at, thread) in self.threads.iter_mut().enumerate() {
            if !thread.name.is_due(now_ns) {
                continue;
            }
            if asked.len() >= ASKED_AT_ONCE_MAX {
                self.are_names_due = true;
                break;
            }
            thread.name.asked(now_ns);
            asked.push((at, thread.namespace_tid()));
        }
        let tids: Vec<i32> = asked.iter().map(|(_, tid)| *tid).collect();
        let mut found = self.interpreters.thread_names(&tids, &self.memory);
        for (at, tid) in asked {
            let name = found.iter_mut().find(|(named, _)| *named == tid);
            let (Some((_, name)), Some(thread)) = (name, self.threads.get_mut(at)) else {
                continue;
            };
            let shown = thread.name.shown().to_owned();
            thread.name.set_runtime(std::mem::take(name));
            self.rename(at, &shown, sink)?;
        }
        Ok(())
    }

    /// The kernel calls thread `tid` so.
    pub(super) fn note_own_name(&mut self, tid: Tid, name: &str) {
        let own = &mut self.own_names;
        let is_new = tid.0 == self.pid.0 && !own.iter().any(|own| own == name);
        if is_new && own.len() < OWN_NAMES_MAX {
            own.push(name.to_owned());
        }
    }

    /// Something of what thread `at`, shown as `before`, is called has changed.
    fn rename<S: SampleSink>(
        &mut self,
        at: usize,
        before: &str,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let Some(thread) = self.threads.get_mut(at) else {
            return Ok(());
        };
        let (own, executable) = (&self.own_names, &self.description.executable);
        thread
            .name
            .choose(|name| is_of_process(name, own, executable));
        if thread.name.shown() != before {
            thread.id = sink.thread(&ThreadInfo {
                process: self.id,
                tid: thread.tid.0,
                name: thread.name.shown().to_owned(),
            })?;
        }
        Ok(())
    }
}

/// Whether a thread that the kernel calls `name` is called like its process, and by no name of its own: threads are called
/// like who has started them.
fn is_of_process(name: &str, own_names: &[String], executable: &str) -> bool {
    let program = Path::new(executable).file_name().unwrap_or_default();
    // `python3` may be a link to `python3.11`.
    own_names.iter().any(|own| own == name) || program.to_string_lossy().starts_with(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_process_are_those_of_its_first_thread_and_its_program() {
        let own = ["python3".to_owned(), "serve: idle".to_owned()];
        let is_one = |name| is_of_process(name, &own, "/usr/bin/python3.11");
        assert!(is_one("python3") && is_one("serve: idle") && is_one("python3.11"));
        assert!(!is_one("serve") && !is_one("python3.12") && !is_one("worker"));
    }
}
