//! Which stack of a thread each nanosecond of it is charged to.
//!
//! An observation says what a thread used up *since it was last observed* and where it is *now*, and the two need not
//! go together: a thread found asleep may have run in between, one found running may have slept. Three rules put the
//! time where it was spent, and none loses any of it:
//!
//! 1. The CPU time of one second is shared over the stacks at which the thread was caught running in that second, in
//!    proportion to how often. It is not charged to the stack that happens to be seen when it is accounted: a look
//!    that comes late, because the thread waited for a CPU, would draw the time before the wait to where the thread
//!    goes on after it (measured on an overloaded machine: 14 % where 10 % is true). CPU time of seconds in which the
//!    thread was only found asleep (or stopped) is shared over all stacks it ever ran at, in proportion to the CPU time
//!    they have by themselves. A thread that was never caught running keeps it at the stacks it slept at, set apart
//!    ([`Attributed::unseen_cpu_ns`]).
//! 2. Off-CPU time seen on a sleeping thread is charged to its stack. Seen on a running one, it is charged to where the
//!    thread slept when it was last observed; when it did not sleep then, it is shared over all stacks it slept at in
//!    proportion to the off-CPU time they have by themselves; without any it stays where it was seen.
//! 3. Wall time, run-queue time and the sample itself are charged to the stack that was seen.
//!
//! What the kernel accounted while the thread was not looked at ([`ThreadState::Unseen`]) is treated like CPU time seen
//! on a sleeping thread; if it was never caught running, it stays where it was put.
//!
//! Sums saturate at `u64::MAX`: 584 years, which only a forged recording holds.

use rustc_hash::FxHashMap;

use super::resolved::StackWeights;
use super::sample::{Observation, ThreadState, Weights};
use super::stacks::StackId;

/// For how long CPU time is shared out among the looks of the same time, in nanoseconds: long enough for some dozens of
/// looks, short enough that the rate of looking hardly changes meanwhile.
const WINDOW_NS: u64 = 1_000_000_000;

/// What one thread was observed to do, by stack.
#[derive(Debug, Default)]
pub(super) struct ThreadTally {
    window: Window,
    stacks: Vec<(StackId, StackTally)>,
    positions: FxHashMap<StackId, usize>,
    last: Option<Last>,
    /// CPU and run-queue time that was accounted after the time in which it passed, in nanoseconds.
    accounted_late_ns: u64,
}

/// The CPU time of a second, and what was seen in it. Stacks by position.
#[derive(Debug, Default)]
struct Window {
    ends_ns: u64,
    running_cpu_ns: u64,
    /// A stack at which the thread was found running, as often as it was.
    running: Vec<usize>,
    /// A stack at which it was found asleep, and the CPU time accounted there.
    asleep: Vec<(usize, u64)>,
}

/// The observation before this one.
#[derive(Clone, Copy, Debug)]
struct Last {
    stack: StackId,
    position: usize,
    was_blocked: bool,
}

/// What one thread was observed to do at one stack.
#[derive(Debug, Default)]
struct StackTally {
    /// What certainly belongs to this stack.
    certain: StackWeights,
    /// CPU time shared out to the looks that found the thread running here.
    running_cpu_ns: u64,
    running_ticks: u64,
    /// CPU time of observations that found it asleep or stopped here, with no look that found it running near.
    asleep_cpu_ns: u64,
    /// It is no place where the thread was seen, but stands for not having been seen.
    is_unseen: bool,
    /// Off-CPU time that was spent asleep here.
    blocked_off_cpu_ns: u64,
    blocked_ticks: u64,
    /// Off-CPU time of observations that found it running here, and where it slept is not known.
    running_off_cpu_ns: u64,
}

/// What is charged to one stack of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributed {
    pub(super) stack: StackId,
    pub(super) weights: StackWeights,
    /// CPU time besides `weights.cpu_ns`, of a thread that was never caught running and was found asleep here.
    pub(super) unseen_cpu_ns: u64,
}

impl ThreadTally {
    /// Takes the thread's next observation.
    pub(super) fn observe(&mut self, observation: &Observation) {
        if observation.at_ns >= self.window.ends_ns {
            self.close_window();
            self.window.ends_ns = observation.at_ns.saturating_add(WINDOW_NS);
        }
        let position = self.position(observation.stack);
        let ticks = u64::from(observation.ticks);
        let weights = observation.weights;
        let off_cpu_ns = self.off_cpu_ns(weights);
        let slept_at = self.last.filter(|last| last.was_blocked);

        let tally = &mut self.stacks[position].1;
        add(&mut tally.certain.samples, ticks);
        add(&mut tally.certain.wall_ns, weights.wall_ns);
        add(&mut tally.certain.run_queue_ns, weights.run_queue_ns);
        match observation.state {
            ThreadState::Running => {
                add(&mut tally.running_ticks, ticks);
                add(&mut self.window.running_cpu_ns, weights.cpu_ns);
                self.window.running.push(position);
                match slept_at {
                    Some(last) => add(
                        &mut self.stacks[last.position].1.blocked_off_cpu_ns,
                        off_cpu_ns,
                    ),
                    None => add(&mut tally.running_off_cpu_ns, off_cpu_ns),
                }
            }
            ThreadState::Blocked => {
                self.window.asleep.push((position, weights.cpu_ns));
                add(&mut tally.blocked_off_cpu_ns, off_cpu_ns);
                add(&mut tally.blocked_ticks, ticks);
            }
            ThreadState::Stopped => {
                self.window.asleep.push((position, weights.cpu_ns));
                add(&mut tally.certain.off_cpu_ns, off_cpu_ns);
            }
            ThreadState::Unseen => {
                tally.is_unseen = true;
                self.window.asleep.push((position, weights.cpu_ns));
                add(&mut tally.certain.off_cpu_ns, off_cpu_ns);
            }
        }
        self.last = Some(Last {
            stack: observation.stack,
            position,
            was_blocked: observation.state == ThreadState::Blocked,
        });
    }

    /// The time in which the thread neither ran nor waited to run.
    ///
    /// A wait for a CPU that has not ended is in no account yet, and looks like sleep. It is accounted when it ends,
    /// with more than has passed since: that much of later sleep is taken back.
    fn off_cpu_ns(&mut self, weights: Weights) -> u64 {
        let accounted = weights.cpu_ns.saturating_add(weights.run_queue_ns);
        let late = self.accounted_late_ns.saturating_add(accounted);
        self.accounted_late_ns = late.saturating_sub(weights.wall_ns);
        weights.wall_ns.saturating_sub(late)
    }

    /// Shares out the CPU time of the second that has passed.
    fn close_window(&mut self) {
        let window = &mut self.window;
        if window.running.is_empty() {
            for (position, cpu_ns) in window.asleep.drain(..) {
                add(&mut self.stacks[position].1.asleep_cpu_ns, cpu_ns);
            }
            return;
        }
        let cpu_ns = window
            .asleep
            .drain(..)
            .fold(window.running_cpu_ns, |sum, (_, cpu_ns)| {
                sum.saturating_add(cpu_ns)
            });
        let looks = window.running.len() as u64;
        let (each, rest) = (cpu_ns / looks, cpu_ns % looks);
        for (look, position) in (0..).zip(window.running.drain(..)) {
            add(
                &mut self.stacks[position].1.running_cpu_ns,
                each + u64::from(look < rest),
            );
        }
        window.running_cpu_ns = 0;
    }

    /// What is charged to each stack, in the order they were first observed in.
    pub(super) fn attribute(&mut self) -> Vec<Attributed> {
        self.close_window();
        let mut charged: Vec<Attributed> = self
            .stacks
            .iter()
            .map(|(stack, tally)| Attributed {
                stack: *stack,
                weights: tally.certain,
                unseen_cpu_ns: 0,
            })
            .collect();
        self.charge_cpu(&mut charged);
        self.charge_off_cpu(&mut charged);
        charged
    }

    /// The position of `stack` in what [`ThreadTally::attribute`] returns.
    pub(super) fn position_of(&self, stack: StackId) -> Option<usize> {
        self.positions.get(&stack).copied()
    }

    fn position(&mut self, stack: StackId) -> usize {
        if let Some(last) = self.last.filter(|last| last.stack == stack) {
            return last.position;
        }
        let next = self.stacks.len();
        let position = *self.positions.entry(stack).or_insert(next);
        if position == next {
            self.stacks.push((stack, StackTally::default()));
        }
        position
    }

    fn charge_cpu(&self, charged: &mut [Attributed]) {
        for (charged, (_, tally)) in charged.iter_mut().zip(&self.stacks) {
            add(&mut charged.weights.cpu_ns, tally.running_cpu_ns);
        }
        let asleep_ns = self.sum(|tally| tally.asleep_cpu_ns);
        let shares = self.shares(
            asleep_ns,
            |tally| tally.running_cpu_ns,
            |tally| tally.running_ticks,
        );
        match shares {
            Some(shares) => {
                for (charged, share) in charged.iter_mut().zip(shares) {
                    add(&mut charged.weights.cpu_ns, share);
                }
            }
            None => {
                for (charged, (_, tally)) in charged.iter_mut().zip(&self.stacks) {
                    if tally.is_unseen {
                        add(&mut charged.weights.cpu_ns, tally.asleep_cpu_ns);
                    } else {
                        charged.unseen_cpu_ns = tally.asleep_cpu_ns;
                    }
                }
            }
        }
    }

    fn charge_off_cpu(&self, charged: &mut [Attributed]) {
        for (charged, (_, tally)) in charged.iter_mut().zip(&self.stacks) {
            add(&mut charged.weights.off_cpu_ns, tally.blocked_off_cpu_ns);
        }
        let running_ns = self.sum(|tally| tally.running_off_cpu_ns);
        let shares = self.shares(
            running_ns,
            |tally| tally.blocked_off_cpu_ns,
            |tally| tally.blocked_ticks,
        );
        let shares = shares.unwrap_or_else(|| self.column(|tally| tally.running_off_cpu_ns));
        for (charged, share) in charged.iter_mut().zip(shares) {
            add(&mut charged.weights.off_cpu_ns, share);
        }
    }

    /// `total` in proportion to `first`, or to `second` where `first` is zero for all stacks.
    fn shares(
        &self,
        total: u64,
        first: impl Fn(&StackTally) -> u64,
        second: impl Fn(&StackTally) -> u64,
    ) -> Option<Vec<u64>> {
        share(total, &self.column(first)).or_else(|| share(total, &self.column(second)))
    }

    fn column(&self, value: impl Fn(&StackTally) -> u64) -> Vec<u64> {
        self.stacks.iter().map(|(_, tally)| value(tally)).collect()
    }

    fn sum(&self, value: impl Fn(&StackTally) -> u64) -> u64 {
        self.stacks
            .iter()
            .fold(0, |sum, (_, tally)| sum.saturating_add(value(tally)))
    }
}

fn add(sum: &mut u64, value: u64) {
    *sum = sum.saturating_add(value);
}

/// `total` in proportion to `bases`, in whole numbers that add up to `total` (largest remainder). `None` when all bases
/// are zero.
fn share(total: u64, bases: &[u64]) -> Option<Vec<u64>> {
    let sum: u128 = bases.iter().map(|&base| u128::from(base)).sum();
    if sum == 0 {
        return None;
    }
    let mut shares = Vec::with_capacity(bases.len());
    let mut remainders = Vec::with_capacity(bases.len());
    let mut left = total;
    for (position, &base) in bases.iter().enumerate() {
        // Two numbers below 2^64: their product fits.
        let product = u128::from(total) * u128::from(base);
        // The quotient is at most `total`, because `base` is at most `sum`.
        let share = u64::try_from(product / sum).unwrap_or(u64::MAX);
        left = left.saturating_sub(share);
        shares.push(share);
        remainders.push((product % sum, position));
    }
    // `left` is the sum of the remainders over `sum`: fewer than there are remainders above zero.
    remainders.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, position) in remainders {
        if left == 0 {
            break;
        }
        shares[position] += 1;
        left -= 1;
    }
    Some(shares)
}

#[cfg(test)]
#[path = "attribution_tests.rs"]
mod tests;
