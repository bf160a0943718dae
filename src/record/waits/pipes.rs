//! Who holds the other end of a pipe. Nobody lists that: it is looked for among the descriptors of all processes, first
//! those of the parent, then of those whose numbers are near, as those of a pipeline are.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;
use sampler_platforms::linux::clock;
use sampler_platforms::linux::proc::fd::{self, Descriptor};
use sampler_platforms::linux::proc::{names, processes, stat};
use sampler_platforms::{Pid, Tid};

use super::LOOKUP_PARTS;

/// How long is searched at once, in nanoseconds.
const PIECE_NS: u64 = 3_000_000;

/// How many descriptors are looked at of a process.
const DESCRIPTORS_MAX: usize = 1024;

/// So many pipes are remembered.
const PIPES_MAX: usize = 4096;

/// After how long it is looked again for an end that was not found, in nanoseconds.
const SEARCH_AGAIN_NS: u64 = 10_000_000_000;

/// Who holds the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) pid: Pid,
    pub(super) name: String,
}

/// One end of a pipe: which one, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PipeEnd {
    inode: u64,
    /// Whether the one who waits reads.
    reads: bool,
    /// Who waits.
    pid: Pid,
}

/// The other ends of pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    /// What was found of each; `None` for nothing, by when it may be looked for again.
    known: FxHashMap<PipeEnd, Result<Peer, u64>>,
    search: Option<Search>,
    /// Until when nothing is searched: what the last piece took is to be made up for.
    pause_ns: u64,
}

/// A search that goes on.
#[derive(Debug)]
struct Search {
    wanted: PipeEnd,
    /// Those still to be asked, the next one last.
    pids: Vec<Pid>,
}

impl Pipes {
    /// Who holds the other end of the pipe that process `pid` has as descriptor `number`, if that is known by now.
    pub(super) fn peer(&mut self, pid: Pid, number: i32, inode: u64, now_ns: u64) -> Option<Peer> {
        let (reads, writes) = fd::access(pid, number).ok()?;
        if reads && writes {
            return None; // a named pipe that was opened for both
        }
        let end = PipeEnd { inode, reads, pid };
        match self.known.get(&end) {
            Some(Ok(peer)) => return Some(peer.clone()),
            Some(Err(again_ns)) if now_ns < *again_ns => return None,
            Some(Err(_)) | None => {}
        }
        if self.search.is_none() {
            let mut pids = processes::list().ok()?;
            pids.retain(|&other| other != pid);
            let parent = stat::read_thread(pid, Tid(pid.0)).map(|stat| stat.parent);
            let is_parent = |other: Pid| matches!(parent, Ok(parent) if parent == other);
            // The next one is the last.
            pids.sort_by_key(|&other| (is_parent(other), Reverse(other.0.abs_diff(pid.0))));
            self.search = Some(Search { wanted: end, pids });
            self.search_on(now_ns);
        }
        self.known.get(&end)?.clone().ok()
    }

    /// Searches for a while, if something is searched for and it may.
    pub(super) fn search_on(&mut self, now_ns: u64) {
        let Some(search) = self.search.as_mut().filter(|_| now_ns >= self.pause_ns) else {
            return;
        };
        let began_ns = clock::monotonic_ns();
        let mut ended_ns = began_ns;
        let mut found = None;
        while found.is_none() && ended_ns - began_ns < PIECE_NS {
            let Some(pid) = search.pids.pop() else { break };
            found = has_other_end(pid, search.wanted).then_some(pid);
            ended_ns = clock::monotonic_ns();
        }
        self.pause_ns = ended_ns + (ended_ns - began_ns).saturating_mul(LOOKUP_PARTS);
        if found.is_none() && !search.pids.is_empty() {
            return;
        }
        let peer = found.map(|pid| Peer {
            pid,
            name: names::of_a_process(pid).unwrap_or_default(),
        });
        let wanted = search.wanted;
        self.search = None;
        if self.known.len() >= PIPES_MAX {
            self.known.clear();
        }
        let again_ns = ended_ns + SEARCH_AGAIN_NS;
        self.known.insert(wanted, peer.ok_or(again_ns));
    }
}

fn has_other_end(pid: Pid, wanted: PipeEnd) -> bool {
    let numbers = fd::list(pid, DESCRIPTORS_MAX).unwrap_or_default();
    numbers.into_iter().any(|number| {
        let descriptor = fd::describe(pid, number);
        let is_it = matches!(descriptor, Ok(Descriptor::Pipe { inode }) if inode == wanted.inode);
        // Who has both ends is mostly a parent that has yet to close them: either may be the one.
        is_it
            && fd::access(pid, number).is_ok_and(|(reads, writes)| match wanted.reads {
                true => writes,
                false => reads,
            })
    })
}
