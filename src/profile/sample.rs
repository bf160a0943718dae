//! One look at one thread.

use serde::{Deserialize, Serialize};

use super::stacks::{StackId, ThreadId};

/// What a thread was doing when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ThreadState {
    /// On a CPU, or waiting for one.
    Running,
    /// Asleep in the kernel.
    Blocked,
    /// Stopped by a signal (Ctrl-Z) or by a debugger.
    Stopped,
    /// Not looked at: its CPU time is known from the kernel's accounts alone.
    Unseen,
}

/// What one observation stands for, in nanoseconds since the thread was last observed.
///
/// All three are what the kernel accounted (`/proc/PID/task/TID/schedstat`, and the monotonic clock): the sum over a
/// thread's observations is its real CPU, wall and run-queue time at any sampling rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Time on a CPU.
    pub cpu_ns: u64,
    /// Time that passed.
    pub wall_ns: u64,
    /// Time ready to run and waiting for a CPU.
    pub run_queue_ns: u64,
}

impl Weights {
    /// Time spent neither running nor waiting to run.
    pub fn off_cpu_ns(self) -> u64 {
        self.wall_ns
            .saturating_sub(self.cpu_ns)
            .saturating_sub(self.run_queue_ns)
    }
}

impl std::ops::AddAssign for Weights {
    fn add_assign(&mut self, other: Self) {
        self.cpu_ns = self.cpu_ns.saturating_add(other.cpu_ns);
        self.wall_ns = self.wall_ns.saturating_add(other.wall_ns);
        self.run_queue_ns = self.run_queue_ns.saturating_add(other.run_queue_ns);
    }
}

/// One look at one thread, or several in a row that are known to have found the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Which thread.
    pub thread: ThreadId,
    /// When it was (last) looked at, in nanoseconds since the recording began.
    pub at_ns: u64,
    /// What it was doing.
    pub state: ThreadState,
    /// Where it was.
    pub stack: StackId,
    /// How many ticks this covers: more than one for a thread that provably slept on.
    pub ticks: u32,
    /// What it stands for.
    pub weights: Weights,
}
