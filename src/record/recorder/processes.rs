//! Processes come and go while a recording is under way.

use sampler_platforms::Pid;

use super::super::finder::Found;
use super::super::process::{Baseline, ProcessSettings, TargetProcess};
use super::super::process_table::why_left_out;
use super::Recorder;
use crate::profile::{FrameKey, LeftOut, SampleSink};

/// No more processes than this are taken in: with some dozen mappings each, a recording holds no more.
const PROCESSES_MAX: u64 = 100_000;

/// Which processes are asked whether they have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thoroughness {
    /// Those without threads.
    WithoutThreads,
    /// All.
    All,
}

impl<S: SampleSink> Recorder<'_, S> {
    /// Takes in a process, unless it cannot be sampled: that is counted, and the others go on.
    pub(super) fn take_in(&mut self, found: Found, now_ns: u64) -> Result<(), S::Error> {
        let left_out = match found.is_root {
            true => None,
            false if self.costs.processes >= PROCESSES_MAX => Some(LeftOut::TooMany),
            false => why_left_out(found.pid),
        };
        if let Some(reason) = left_out {
            tracing::info!(pid = found.pid.0, ?reason, "a process is left out");
            self.costs.left_out(reason);
            return Ok(());
        }
        self.costs.processes += 1;
        let Found { pid, kin, .. } = found;
        let settings = ProcessSettings {
            stack_bytes_max: self.settings.stack_bytes_max,
            max_overhead: self.settings.max_overhead,
            languages: self.settings.languages,
            may_stop: self.settings.may_stop,
        };
        let mut process = TargetProcess::new(pid, kin, found.baseline, settings, self.sink)?;
        self.costs.fallbacks.extend(process.fallbacks());
        process.find_threads(now_ns, found.baseline, self.sink)?;
        process.refresh_mappings(&mut self.images, self.sink)?;
        if found.baseline == Baseline::Now {
            process.begin_now();
        }
        tracing::info!(
            pid = pid.0,
            threads = process.threads.len(),
            "a process is taken in"
        );
        self.processes.push(process);
        Ok(())
    }

    /// Drops the processes that have ended, each child before its parent, so that what it used is known there.
    pub(super) fn drop_ended(&mut self, thoroughness: Thoroughness) -> Result<(), S::Error> {
        let mut ended = Vec::new();
        for (index, process) in self.processes.iter_mut().enumerate() {
            // Whether children have ended is asked after it was asked of their parent: none of those that it has waited
            // for is overlooked.
            let is_asked = thoroughness == Thoroughness::All
                || process.threads.is_empty()
                || ended.iter().any(|&(_, pid)| process.parent == Some(pid));
            if is_asked && process.has_ended() {
                ended.push((index, process.pid));
            }
        }
        for (index, pid) in ended.into_iter().rev() {
            if self.finder.finds_children() {
                self.processes[index].read_children_cpu();
            }
            self.close_accounts(index)?;
            self.observe_children(index)?;
            let process = self.processes.remove(index);
            if let Some(parent) = process.parent.and_then(|parent| self.process(parent)) {
                parent.children.explain(process.known_cpu_ns());
            }
            self.keep_jit_of_ended(process)?;
            self.finder.ended(pid);
        }
        Ok(())
    }

    fn process(&mut self, pid: Pid) -> Option<&mut TargetProcess> {
        self.processes.iter_mut().find(|process| process.pid == pid)
    }

    /// Observes the CPU time of children that ended unseen.
    pub(super) fn account_children(&mut self) -> Result<(), S::Error> {
        if self.finder.finds_children() {
            self.processes
                .iter_mut()
                .for_each(TargetProcess::read_children_cpu);
            self.drop_ended(Thoroughness::All)?;
            for index in 0..self.processes.len() {
                self.observe_children(index)?;
            }
        }
        Ok(())
    }

    fn observe_children(&mut self, index: usize) -> Result<(), S::Error> {
        let process = &mut self.processes[index];
        let cpu_ns = process.children.take_unseen();
        if cpu_ns == 0 {
            return Ok(());
        }
        let thread = process.ended_threads(self.sink)?;
        let observation = self.unseen(FrameKey::ChildrenEnded, thread, cpu_ns)?;
        self.emit_for_nobody(observation)
    }
}
