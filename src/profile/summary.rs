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

impl Summary {
    /// What two recordings hold and cost together: sums, but for what is a bound, which is the larger one. Rates and
    /// shares are means, by the time and the samples that they are of.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let mean = |one: (f64, u64), other: (f64, u64)| {
            let all = one.1.saturating_add(other.1);
            match all {
                0 => 0.0,
                all => one.0 * share(one.1, all) + other.0 * share(other.1, all),
            }
        };
        let by_time = |one: f64, another: f64| mean((one, self.wall_ns), (another, other.wall_ns));
        let (a, b) = (self, other);
        Self {
            samples: a.samples.saturating_add(b.samples),
            stops: a.stops.saturating_add(b.stops),
            unstopped_reads: a.unstopped_reads.saturating_add(b.unstopped_reads),
            reused: a.reused.saturating_add(b.reused),
            torn: a.torn.saturating_add(b.torn),
            partial: a.partial.saturating_add(b.partial),
            truncated: a.truncated.saturating_add(b.truncated),
            interpreted: a.interpreted.saturating_add(b.interpreted),
            interpreted_lost: sums(&a.interpreted_lost, &b.interpreted_lost),
            missed: sums(&a.missed, &b.missed),
            processes: a.processes.saturating_add(b.processes),
            left_out: sums(&a.left_out, &b.left_out),
            fallbacks: a.fallbacks.union(&b.fallbacks).copied().collect(),
            jit_left_out: a.jit_left_out.saturating_add(b.jit_left_out),
            cpu_ns: a.cpu_ns.saturating_add(b.cpu_ns),
            wall_ns: a.wall_ns.saturating_add(b.wall_ns),
            target_stopped_ns: a.target_stopped_ns.saturating_add(b.target_stopped_ns),
            pause_ns: PauseNs {
                p50: a.pause_ns.p50.max(b.pause_ns.p50),
                p99: a.pause_ns.p99.max(b.pause_ns.p99),
                max: a.pause_ns.max.max(b.pause_ns.max),
            },
            sampler_cpu_ns: a.sampler_cpu_ns.saturating_add(b.sampler_cpu_ns),
            sampler_peak_rss_bytes: a.sampler_peak_rss_bytes.max(b.sampler_peak_rss_bytes),
            rate_hz_requested: by_time(a.rate_hz_requested, b.rate_hz_requested),
            rate_hz_achieved: by_time(a.rate_hz_achieved, b.rate_hz_achieved),
            complete_ratio: mean((a.complete_ratio, a.samples), (b.complete_ratio, b.samples)),
            repaired_syscalls: a.repaired_syscalls.saturating_add(b.repaired_syscalls),
            overhead: a
                .overhead
                .merged(b.overhead, a.wall_ns == 0, b.wall_ns == 0),
        }
    }
}

impl Overhead {
    /// Either may be of no recording at all, and then says nothing.
    fn merged(self, other: Self, is_none: bool, is_other_none: bool) -> Self {
        match (is_none, is_other_none) {
            (true, _) => other,
            (_, true) => self,
            (false, false) => Self {
                promised: self.promised.zip(other.promised).map(|(a, b)| a.max(b)),
                pause_max_ns: self.pause_max_ns.max(other.pause_max_ns),
                thread_stopped: self.thread_stopped.max(other.thread_stopped),
                sampler_cpu: self.sampler_cpu.max(other.sampler_cpu),
            },
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share is given to a few digits"
)]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn sums<K: Ord + Copy>(one: &BTreeMap<K, u64>, other: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let mut sums = one.clone();
    for (&key, &value) in other {
        let sum = sums.entry(key).or_default();
        *sum = sum.saturating_add(value);
    }
    sums
}
