//! What a sleeper waits for, in words: a lock and who holds it, a file, a peer.
//!
//! A sleeper is asked about when it is looked at anew, never while it sleeps on. That costs one or two system calls;
//! what is found is kept by descriptor. Whom a socket or a pipe leads to is not in the descriptor: sockets are in a list
//! that grows with the machine's ([`Sockets`]), the other end of a pipe is in some process's descriptors
//! ([`Pipes`]). Both are read seldom and in pieces, for no more than one part in [`LOOKUP_PARTS`] of a CPU.

mod calls;
mod futex;
mod pipes;
mod sockets;

use rustc_hash::FxHashMap;
use sampler_platforms::Pid;
use sampler_platforms::linux::proc::fd::{self, Descriptor};
use sampler_unwind::{Avma, MemoryReader};

use self::calls::Subject;
use self::pipes::Pipes;
use self::sockets::Sockets;
use super::look::{Seen, Waiting};
use super::process::TargetProcess;
use crate::profile::{FrameKey, SampleSink, ThreadState, WaitId, WaitInfo};
use crate::symbols::recorded_syscall;

/// Reading lists of sockets, and others' descriptors, takes no more than one part in this many of a CPU.
const LOOKUP_PARTS: u64 = 200;

/// So many sleepers are asked about in a tick; what others wait for is told by their system call alone.
const ASKED_PER_TICK_MAX: u32 = 256;

/// So many different waits are told; those that come later are told by their system call alone.
const WAITS_MAX: usize = 1 << 16;

/// So many descriptors are remembered.
const DESCRIPTORS_MAX: usize = 1 << 14;

/// How long a wait may be in words, in bytes; paths are cut.
const WHAT_BYTES_MAX: usize = 256;

/// What sleepers wait for.
#[derive(Debug, Default)]
pub(super) struct Waits {
    ids: FxHashMap<WaitInfo, WaitId>,
    /// What the descriptors of processes led to when they were asked about last.
    descriptors: FxHashMap<(Pid, i32), (Descriptor, Described)>,
    sockets: Sockets,
    pipes: Pipes,
    now_ns: u64,
    asked: u32,
}

/// A descriptor in words, and whether there may be more to say later.
#[derive(Clone, Debug)]
struct Described {
    what: String,
    is_final: bool,
}

impl Waits {
    /// To be called before each tick.
    pub(super) fn begin_tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.asked = 0;
        self.pipes.search_on(now_ns);
    }

    /// The innermost frame of a sleeper of `process`, where more is known than its system call.
    ///
    /// # Errors
    /// When `sink` could not keep it.
    pub(super) fn key<S: SampleSink>(
        &mut self,
        process: &mut TargetProcess,
        seen: &Seen,
        sink: &mut S,
    ) -> Result<Option<FrameKey>, S::Error> {
        let Some(waiting) = seen.waiting.filter(|_| seen.state == ThreadState::Blocked) else {
            return Ok(None);
        };
        if self.asked >= ASKED_PER_TICK_MAX {
            return Ok(None);
        }
        let Some(what) = self.what(process, waiting) else {
            return Ok(None);
        };
        let wait = WaitInfo {
            syscall: recorded_syscall(waiting.number),
            what: cut(what),
        };
        let id = match self.ids.get(&wait) {
            Some(&id) => id,
            None if self.ids.len() >= WAITS_MAX => return Ok(None),
            None => {
                let id = sink.wait(&wait)?;
                self.ids.insert(wait, id);
                id
            }
        };
        Ok(Some(FrameKey::BlockedOn(id)))
    }

    fn what(&mut self, process: &mut TargetProcess, waiting: Waiting) -> Option<String> {
        let subject = calls::subject(waiting)?;
        self.asked += 1;
        match subject {
            Subject::Futex { address, expected } => futex::held_by(process, address, expected),
            Subject::Descriptor(number) => self.descriptor(process.pid, number),
            // A list of one: `struct pollfd` begins with the descriptor (poll(2)).
            Subject::PollList(list) => {
                let number = process.memory().read_u32(Avma(list)).ok()?;
                self.descriptor(process.pid, number.cast_signed())
            }
        }
    }

    fn descriptor(&mut self, pid: Pid, number: i32) -> Option<String> {
        // Asked each time: a number is given again to another file at once.
        let descriptor = fd::describe(pid, number).ok()?;
        let known = self.descriptors.get(&(pid, number));
        let known = known.filter(|(known, described)| described.is_final && *known == descriptor);
        if let Some((_, described)) = known {
            return Some(described.what.clone());
        }
        let described = self.describe(pid, number, &descriptor);
        if self.descriptors.len() >= DESCRIPTORS_MAX {
            self.descriptors.clear();
        }
        let what = described.what.clone();
        self.descriptors
            .insert((pid, number), (descriptor, described));
        Some(what)
    }

    fn describe(&mut self, pid: Pid, number: i32, descriptor: &Descriptor) -> Described {
        let found = match *descriptor {
            Descriptor::Socket { inode } => {
                let endpoint = self.sockets.find(pid, inode, self.now_ns);
                endpoint.map(ToString::to_string)
            }
            Descriptor::Pipe { inode } => {
                let peer = self.pipes.peer(pid, number, inode, self.now_ns);
                peer.map(|peer| format!("pipe → pid {} ({})", peer.pid, peer.name))
            }
            Descriptor::File { .. } => Some(format!("file {descriptor}")),
            _ => Some(descriptor.to_string()),
        };
        Described {
            is_final: found.is_some(),
            what: found.unwrap_or_else(|| match descriptor {
                Descriptor::Pipe { .. } => "pipe".to_owned(),
                _ => "socket".to_owned(),
            }),
        }
    }
}

/// A text of no more than [`WHAT_BYTES_MAX`] bytes, without its middle: the start says what it is, the end of a long path
/// tells most.
fn cut(what: String) -> String {
    if what.len() <= WHAT_BYTES_MAX {
        return what;
    }
    // A letter has at most four bytes.
    let (start, end) = (WHAT_BYTES_MAX / 4, what.len() - WHAT_BYTES_MAX / 2);
    let start = (start.saturating_sub(3)..=start)
        .rev()
        .find_map(|at| what.get(..at));
    let end = (end..end.saturating_add(4)).find_map(|at| what.get(at..));
    format!("{}…{}", start.unwrap_or_default(), end.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_cut_to_its_bound_and_keeps_its_ends(what in "(file |)\\PC{0,200}[a-zé/]{0,300}") {
            let text = cut(what.clone());
            prop_assert!(text.len() <= WHAT_BYTES_MAX);
            prop_assert!(what.len() > WHAT_BYTES_MAX || text == what);
            if what.starts_with("file ") {
                prop_assert!(text.starts_with("file "));
            }
        }
    }
}
