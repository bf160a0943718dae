//! What a recording holds and what it cost.

use std::collections::{BTreeMap, BTreeSet};

use sampler_unwind::interpreter::Lost;
use serde::{Deserialize, Serialize};

/// Why a sample that was due was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// The sampler came late and left ticks out: it never catches up.
    Late,
    /// The thread ended before it could be looked at.
    ThreadEnded,
    /// The thread was not scheduled within the deadline of a stop.
    NotScheduled,
    /// Another tracer holds the thread.
    Traced,
    /// The kernel refused.
    Denied,
    /// The thread's memory or registers could not be read.
    Unreadable,
    /// The thread ran on each time it was read asleep.
    Torn,
    /// The thread had slept for long, was left alone for a while, and woke up meanwhile.
    LeftAlone,
    /// It would have cost more than was promised.
    Budget,
}

/// Why a process that was to be recorded was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// It ended before it could be looked at.
    Ended,
    /// The kernel does not let us look at it.
    Denied,
    /// It runs a 32-bit program.
    ThirtyTwoBit,
    /// It is part of the kernel.
    KernelThread,
    /// What the kernel tells of it cannot be read.
    Unreadable,
    /// So many were recorded already that a recording holds no more.
    TooMany,
}

/// Why interpreted frames of a stack are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FramesLost {
    /// Where the interpreter's state lies was not known yet.
    NotFound,
    /// What was copied contradicts itself.
    Inconsistent,
    /// Memory that it leads to could not be read.
    Unreadable,
    /// A function or string was no longer what it had been when the sample was taken.
    Changed,
    /// More frames, or a larger stack, than is copied or walked.
    TooDeep,
    /// Native frames of the interpreter have no frames in it.
    Unmatched,
    /// The interpreter's version is not supported.
    Unsupported,
}

impl From<Lost> for FramesLost {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::NotFound => FramesLost::NotFound,
            Lost::Inconsistent => FramesLost::Inconsistent,
            Lost::Unreadable => FramesLost::Unreadable,
            Lost::Changed => FramesLost::Changed,
            Lost::TooDeep => FramesLost::TooDeep,
            Lost::Unmatched => FramesLost::Unmatched,
            Lost::Unsupported => FramesLost::Unsupported,
        }
    }
}

/// What the recorder had to make do with, because the kernel or a filter on it has not, or does not give, what it would
/// rather use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Memory is read from `/proc/PID/mem`, not by process_vm_readv.
    MemoryByFile,
    /// Memory is read by PTRACE_PEEKDATA, and only while a thread stands still.
    MemoryByWords,
    /// Threads are stopped by PTRACE_ATTACH, not by PTRACE_SEIZE.
    StopsBySignal,
    /// Sleeping threads are stopped too, because they cannot be read as they sleep.
    SleepersStopped,
    /// CPU time in ticks, and none on the run queue: there is no schedstat.
    CpuByTicks,
    /// Stops are polled for: there is no timer to end a wait.
    StopsPolled,
    /// Running threads are not stopped: nothing is known of their machine code.
    NoStops,
    /// Nothing is known of a process but what its threads do and their CPU time.
    StatesOnly,
}

impl Fallback {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::MemoryByFile,
        Self::MemoryByWords,
        Self::StopsBySignal,
        Self::SleepersStopped,
        Self::CpuByTicks,
        Self::StopsPolled,
        Self::NoStops,
        Self::StatesOnly,
    ];
}

/// How long threads stood still, per stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseNs {
    /// Half of the stops were at most this long.
    pub p50: u64,
    /// 99 of 100 stops were at most this long.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// The overhead that was promised, and the most there was of it in any second; shares of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overhead {
    /// What neither of the two shares below was to exceed; `None` when nothing was promised.
    pub promised: Option<f64>,
    /// How long a stop was to last at most, in nanoseconds.
    pub pause_max_ns: u64,
    /// The longest that a single thread stood still because of us within a second.
    pub thread_stopped: f64,
    /// The most CPU time that the sampler itself used within a second, of the CPU time that the target used in it or
    /// of one CPU, whichever is more. Without the first second, in which it finds out what the target is made of.
    pub sampler_cpu: f64,
}

/// What a recording holds and what it cost, so far. Its JSON form is part of `sampler report --format json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Looks at threads, however they were made: `stops + unstopped_reads + reused`, less those that gave no stack.
    pub samples: u64,
    /// Threads stopped and let go again.
    pub stops: u64,
    /// Threads read without a stop: sleeping ones, and running ones where nothing is stopped.
    pub unstopped_reads: u64,
    /// Threads that provably had not run since they were last looked at.
    pub reused: u64,
    /// Sleeping threads that ran on while they were read, twice in a row.
    pub torn: u64,
    /// Stacks with something missing at their root: a register or unwind information.
    pub partial: u64,
    /// Stacks cut by a limit of ours.
    pub truncated: u64,
    /// Stacks walked that were in interpreted code, all of whose frames were found.
    pub interpreted: u64,
    /// Those of which frames are missing.
    pub interpreted_lost: BTreeMap<FramesLost, u64>,
    /// Samples that were due and not taken.
    pub missed: BTreeMap<Missed, u64>,
    /// Processes that were recorded.
    pub processes: u64,
    /// Processes that were to be recorded and were not.
    pub left_out: BTreeMap<LeftOut, u64>,
    /// Functions compiled at run time whose names were found, and for which there was no room in the recording.
    pub jit_left_out: u64,
    /// CPU time of the target while it was recorded.
    pub cpu_ns: u64,
    /// How long the recording lasted.
    pub wall_ns: u64,
    /// How long threads stood still because of us, added up.
    pub target_stopped_ns: u64,
    /// The same per stop.
    pub pause_ns: PauseNs,
    /// CPU time of the sampler itself.
    pub sampler_cpu_ns: u64,
    /// The most memory the sampler held.
    pub sampler_peak_rss_bytes: u64,
    /// Ticks per second asked for.
    pub rate_hz_requested: f64,
    /// Ticks per second made.
    pub rate_hz_achieved: f64,
    /// Share of samples whose stack reaches its outermost frame; 0 without samples.
    pub complete_ratio: f64,
    /// System calls of the target that a stop would have interrupted, and that were restarted.
    pub repaired_syscalls: u64,
    /// What was promised, and whether it was kept.
    pub overhead: Overhead,
    /// What the recorder had to make do with.
    pub fallbacks: BTreeSet<Fallback>,
}
