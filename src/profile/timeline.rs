//! When what was observed happened: what each stack of each thread was seen to use up, by parts of the recording.
//!
//! A part is as long as it takes for their number, and that of the entries, to stay bounded: when there are too many,
//! two parts become one, from the beginning of the recording on. What an observation stands for is put into the parts in
//! which it passed, not into the one in which it was seen: a thread may have slept for seconds before that.
//!
//! The numbers here say *when*, not how much: that is what [`super::attribution`] finds out, whose totals are to be
//! shared out in proportion to these.

use rustc_hash::FxHashMap;

use super::resolved::StackWeights;
use super::sample::{Observation, ThreadState};
use super::stacks::{StackId, ThreadId};

/// How long a part is at first, in nanoseconds: finer than the time between two looks at a thread usually is.
const PART_NS: u64 = 4_000_000;
/// How many parts a recording is divided into at most: a screen has about as many columns.
const PARTS_MAX: u64 = 2048;
/// How many entries are held at most, each of some 60 bytes; more only where the whole recording has as many distinct
/// stacks.
const SLICES_MAX: usize = 1 << 20;

/// What the threads of a recording did in its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    part_ns: u64,
    threads: Vec<ThreadTimeline>,
    slices: usize,
    /// At more slices than so many parts are made longer.
    slices_max: usize,
    /// The same for now: more, where that did not help because there are as many distinct stacks.
    halve_above: usize,
}

/// What a thread did at one stack in one part of the recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeSlice {
    /// The stack.
    pub stack: u32,
    /// The part: its position among them.
    pub part: u32,
    /// What was observed then.
    pub weights: StackWeights,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ThreadTimeline {
    /// By part.
    slices: Vec<TimeSlice>,
    /// Where the last part's slices are, by stack.
    last_part: FxHashMap<u32, usize>,
    /// Until when it was observed.
    until_ns: u64,
    /// Where it slept when it was last observed.
    slept_at: Option<StackId>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            part_ns: PART_NS,
            threads: Vec::new(),
            slices: 0,
            slices_max: SLICES_MAX,
            halve_above: SLICES_MAX,
        }
    }
}

impl Timeline {
    /// How long each part is, in nanoseconds.
    pub fn part_ns(&self) -> u64 {
        self.part_ns
    }

    /// How many parts there are.
    pub fn parts(&self) -> u32 {
        let last = |thread: &ThreadTimeline| thread.slices.iter().map(|slice| slice.part).max();
        let last = self.threads.iter().filter_map(last).max();
        last.map_or(0, |part| part.saturating_add(1))
    }

    /// What a thread did at one of its stacks, by part; empty where nothing is known.
    pub fn slices(&self, thread: ThreadId, stack: StackId) -> &[TimeSlice] {
        let slices = self.threads.get(thread.index());
        let slices = slices.map_or(&[][..], |thread| &thread.slices);
        let first = slices.partition_point(|slice| slice.stack < stack.0);
        let of_stack = slices.get(first..).unwrap_or_default();
        let count = of_stack.partition_point(|slice| slice.stack == stack.0);
        of_stack.get(..count).unwrap_or_default()
    }

    /// Takes a thread's next observation.
    pub(super) fn observe(&mut self, observation: &Observation) {
        let at_ns = observation.at_ns;
        while at_ns / self.part_ns >= PARTS_MAX {
            self.halve();
        }
        let thread = observation.thread.index();
        if thread >= self.threads.len() {
            self.threads.resize_with(thread + 1, Default::default);
        }
        let Some(thread) = self.threads.get_mut(thread) else {
            return;
        };
        let before = thread.slices.len();
        thread.observe(observation, self.part_ns);
        self.slices += thread.slices.len() - before;
        while self.slices > self.halve_above && at_ns >= self.part_ns {
            self.halve();
            self.halve_above = self.slices_max.max(self.slices / 2 * 3);
        }
    }

    /// Makes two parts one.
    fn halve(&mut self) {
        self.part_ns = self.part_ns.saturating_mul(2);
        self.threads.iter_mut().for_each(ThreadTimeline::halve);
        let slices = self.threads.iter().map(|thread| thread.slices.len());
        self.slices = slices.sum();
    }

    /// Nothing more comes: slices can be looked up from now on.
    pub(super) fn finished(mut self) -> Self {
        for thread in &mut self.threads {
            thread.last_part = FxHashMap::default();
            thread
                .slices
                .sort_unstable_by_key(|slice| (slice.stack, slice.part));
        }
        self
    }
}

/// A stretch of the recording, in nanoseconds since its start.
#[derive(Clone, Copy)]
struct Span {
    from_ns: u64,
    until_ns: u64,
}

/// What is to be shared out over a stretch of the recording.
struct Share {
    stack: StackId,
    span: Span,
    of: fn(&mut StackWeights) -> &mut u64,
    amount: u64,
    /// How much of it has been.
    given: u64,
}

impl Share {
    /// How much of the amount falls into the time before `end_ns` that was not given yet.
    fn take_until(&mut self, end_ns: u64) -> u64 {
        let Span { from_ns, until_ns } = self.span;
        let due = match u128::from(until_ns.saturating_sub(from_ns)) {
            0 if end_ns < from_ns => 0,
            0 => self.amount,
            length => {
                let passed = u128::from(end_ns.min(until_ns).saturating_sub(from_ns));
                // At most the amount, because no more than the length has passed.
                let due = u128::from(self.amount) * passed / length;
                u64::try_from(due).unwrap_or(self.amount)
            }
        };
        let new = due.saturating_sub(self.given);
        self.given += new;
        new
    }
}

impl ThreadTimeline {
    fn observe(&mut self, observation: &Observation, part_ns: u64) {
        let Observation { stack, weights, .. } = *observation;
        let until_ns = observation.at_ns.max(self.until_ns);
        let from_ns = until_ns.saturating_sub(weights.wall_ns).max(self.until_ns);
        let whole = Span { from_ns, until_ns };
        let off_cpu_ns = weights.off_cpu_ns();
        let slept_at = self
            .slept_at
            .filter(|_| observation.state == ThreadState::Running);
        // A thread that was asleep and now runs slept first.
        let woke_ns = match slept_at {
            Some(_) => from_ns.saturating_add(off_cpu_ns).min(until_ns),
            None => from_ns,
        };
        let awake = Span {
            from_ns: woke_ns,
            until_ns,
        };
        let asleep = match slept_at {
            Some(_) => Span {
                from_ns,
                until_ns: woke_ns,
            },
            None => whole,
        };
        let share = |stack, span, of, amount| Share {
            stack,
            span,
            of,
            amount,
            given: 0,
        };
        let mut shares = [
            share(
                slept_at.unwrap_or(stack),
                asleep,
                |to| &mut to.off_cpu_ns,
                off_cpu_ns,
            ),
            share(stack, whole, |to| &mut to.wall_ns, weights.wall_ns),
            share(stack, awake, |to| &mut to.cpu_ns, weights.cpu_ns),
            share(
                stack,
                awake,
                |to| &mut to.run_queue_ns,
                weights.run_queue_ns,
            ),
            share(
                stack,
                whole,
                |to| &mut to.samples,
                u64::from(observation.ticks),
            ),
        ];
        // Few, because parts are made longer until there are.
        for part in from_ns / part_ns..=until_ns / part_ns {
            let end_ns = (part + 1).saturating_mul(part_ns);
            for share in &mut shares {
                let new = share.take_until(end_ns);
                if new > 0 {
                    let to = (share.of)(self.weights(share.stack, part));
                    *to = to.saturating_add(new);
                }
            }
        }
        self.until_ns = until_ns;
        if observation.state != ThreadState::Unseen {
            let is_asleep = observation.state == ThreadState::Blocked;
            self.slept_at = is_asleep.then_some(stack);
        }
    }

    /// Where to add what was used up at `stack` in `part`, which is the last part there is anything of, or a later one.
    fn weights(&mut self, stack: StackId, part: u64) -> &mut StackWeights {
        let part = u32::try_from(part).unwrap_or(u32::MAX);
        if self.slices.last().is_none_or(|last| last.part != part) {
            self.last_part.clear();
        }
        let slices = &mut self.slices;
        let at = *self.last_part.entry(stack.0).or_insert_with(|| {
            slices.push(TimeSlice {
                stack: stack.0,
                part,
                weights: StackWeights::default(),
            });
            slices.len() - 1
        });
        &mut slices[at].weights
    }

    fn halve(&mut self) {
        for slice in &mut self.slices {
            slice.part /= 2;
        }
        let key = |slice: &TimeSlice| (slice.part, slice.stack);
        self.slices.sort_unstable_by_key(key);
        self.slices.dedup_by(|next, kept| {
            let is_same = key(next) == key(kept);
            if is_same {
                kept.weights += next.weights;
            }
            is_same
        });
        let last = self.slices.last().map(|slice| slice.part);
        let of_last = self.slices.iter().enumerate().rev();
        let of_last = of_last.take_while(|(_, slice)| Some(slice.part) == last);
        self.last_part = of_last.map(|(at, slice)| (slice.stack, at)).collect();
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
