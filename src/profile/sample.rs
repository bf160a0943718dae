//! One look at one thread.

use std::ops::Range;

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

impl Observation {
    /// The part of it that lies in `window`. It stands for the time that ends when the thread was looked at;
    /// what was accounted meanwhile is taken to have been spent evenly.
    pub(super) fn part_within(&self, window: &Range<u64>) -> Option<Observation> {
        let Observation {
            at_ns,
            ticks,
            weights,
            ..
        } = *self;
        let whole_ns = weights.wall_ns;
        if whole_ns == 0 {
            return window.contains(&at_ns).then_some(*self);
        }
        let starts_ns = at_ns.saturating_sub(whole_ns).max(window.start);
        let ends_ns = at_ns.min(window.end);
        let part_ns = ends_ns
            .checked_sub(starts_ns)
            .filter(|&part_ns| part_ns > 0)?;
        if part_ns == whole_ns {
            return Some(*self);
        }
        // No more than `value`, because the part is no more than the whole.
        let part = |value: u64| {
            let product = u128::from(value) * u128::from(part_ns);
            u64::try_from(product / u128::from(whole_ns)).unwrap_or(value)
        };
        Some(Observation {
            at_ns: ends_ns,
            // A look is inside or not.
            ticks: match ticks {
                1 => u32::from(window.contains(&at_ns)),
                several => u32::try_from(part(several.into())).unwrap_or(several),
            },
            weights: Weights {
                cpu_ns: part(weights.cpu_ns),
                wall_ns: part_ns,
                run_queue_ns: part(weights.run_queue_ns),
            },
            ..*self
        })
    }
}
