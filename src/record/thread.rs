//! One thread of a target, between two looks at it.

use std::time::Duration;

use sampler_platforms::linux::LateStop;
use sampler_platforms::linux::proc::schedstat::SchedStat;
use sampler_platforms::linux::proc::status;
use sampler_platforms::linux::proc::syscall::AsleepIn;
use sampler_platforms::linux::proc::task::ThreadFiles;
use sampler_platforms::{Pid, Tid};
use sampler_unwind::interpreter::Expected;

use super::habits::{Rest, SpinHabit};
use super::overhead::Pauses;
use super::stack_plan::StackPlan;
use super::thread_name::ThreadName;
use crate::profile::{End, Observation, StackId, ThreadId, ThreadState, Weights};

/// A thread that is being sampled.
#[derive(Debug)]
pub(super) struct Thread {
    /// Its number.
    pub tid: Tid,
    /// Its number in the recording.
    pub id: ThreadId,
    /// Its name when it was last read.
    pub name: ThreadName,
    /// It has not run since the kernel's was read, so it cannot have named itself.
    pub is_name_current: bool,
    /// Its files in /proc, kept open.
    pub files: ThreadFiles,
    /// How much of its stack to copy.
    pub plan: StackPlan,
    /// What interpreters will ask for besides.
    pub expected: Expected,
    /// A stop that was asked for and has not happened yet.
    late: Option<Late>,
    /// Its number in the innermost pid namespace that it is in, once an interpreter has asked for it.
    namespace_tid: Option<i32>,
    /// The base of its thread-local storage, once it was stopped: a sleeper does not show it, and it does not change.
    pub thread_pointer: Option<u64>,
    /// In which of the calls that a stop interrupts it was seen asleep last.
    pub asleep_in: Option<AsleepIn>,
    /// How long it has stood still because of us, beside how long it may.
    pub pauses: Pauses,
    /// The scheduler's accounts straight after we let it go last. Until it has a CPU again it looks as if it slept
    /// where we stopped it.
    pub let_go_at: Option<SchedStat>,
    /// Whether to spin for its next stop.
    pub spin: SpinHabit,
    accounted: Accounted,
    last: Option<LastLook>,
}

/// Whether a stop that was asked for is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lateness {
    /// None is.
    None,
    /// It is.
    Waiting,
    /// It has just been found to have come, and the thread runs again. It stood still for no longer than this.
    Over(Duration),
}

/// A stop that was asked for and has not happened yet.
#[derive(Debug)]
struct Late {
    stop: LateStop,
    asked_ns: u64,
    /// How long it had waited for a CPU before that, altogether.
    run_queue_ns: u64,
    /// When it was last seen not to have stopped.
    polled_ns: u64,
}

impl Late {
    /// How long it stood still at most, let go at `now_ns` with these accounts: not before it was seen not to, not
    /// while we slept, whom it would have woken, and not while it waited for a CPU to stop on.
    fn stood_ns(&self, now_ns: u64, awake_since_ns: u64, after: Option<SchedStat>) -> u64 {
        let seen_ns = now_ns.saturating_sub(self.polled_ns.max(awake_since_ns));
        let waited_ns = after.map_or(0, |after| {
            after.run_queue_ns.saturating_sub(self.run_queue_ns)
        });
        let scheduled_ns = now_ns
            .saturating_sub(self.asked_ns)
            .saturating_sub(waited_ns);
        seen_ns.min(scheduled_ns)
    }
}

/// Times are kept in whole microseconds: the nanoseconds are noise, and noise is what makes a recording large. What is
/// rounded, down, are the accounts since the thread began, so that the parts still add up. In nanoseconds.
const RESOLUTION_NS: u64 = 1_000;

/// Up to where the kernel's accounts of a thread have been turned into observations, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Accounted {
    at_ns: u64,
    cpu_ns: u64,
    run_queue_ns: u64,
}

/// What the last look found.
#[derive(Clone, Copy, Debug)]
struct LastLook {
    state: ThreadState,
    stack: StackId,
    end: End,
    /// When that was.
    seen_ns: u64,
    /// How often the thread had been switched in.
    timeslices: u64,
    /// Looks since then that proved it had not run, not yet observed.
    held_ticks: u32,
    /// The last of these, and the accounts at that time.
    held: Accounted,
}

impl Accounted {
    fn new(at_ns: u64, sched: SchedStat) -> Self {
        Self {
            at_ns: rounded_ns(at_ns),
            cpu_ns: rounded_ns(sched.cpu_ns),
            run_queue_ns: rounded_ns(sched.run_queue_ns),
        }
    }

    fn since(self, earlier: Self) -> Weights {
        Weights {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            wall_ns: self.at_ns.saturating_sub(earlier.at_ns),
            run_queue_ns: self.run_queue_ns.saturating_sub(earlier.run_queue_ns),
        }
    }
}

/// A time as it is kept.
pub(super) fn rounded_ns(ns: u64) -> u64 {
    ns - ns % RESOLUTION_NS
}

impl Thread {
    /// A thread of which nothing is known yet; [`Thread::begin`] says from when on it is recorded.
    pub(super) fn new(
        tid: Tid,
        id: ThreadId,
        name: ThreadName,
        files: ThreadFiles,
        plan: StackPlan,
        pauses: Pauses,
    ) -> Self {
        Self {
            tid,
            id,
            name,
            is_name_current: false,
            files,
            plan,
            expected: Expected::default(),
            late: None,
            namespace_tid: None,
            thread_pointer: None,
            asleep_in: None,
            pauses,
            let_go_at: None,
            spin: SpinHabit::default(),
            accounted: Accounted::new(0, SchedStat::default()),
            last: None,
        }
    }

    /// Its number in the innermost pid namespace that it is in: what it takes itself for.
    pub(super) fn namespace_tid(&mut self) -> i32 {
        let tid = self.tid.0;
        *self.namespace_tid.get_or_insert_with(|| {
            let status = status::read(Pid(tid)).ok();
            let innermost = status.and_then(|status| status.namespace_pids.last().copied());
            innermost.unwrap_or(tid)
        })
    }

    /// What it had used by `now_ns` is not part of the recording, nor is the time until then.
    pub(super) fn begin(&mut self, now_ns: u64, used: SchedStat) {
        self.accounted = Accounted::new(now_ns, used);
    }

    /// It was asked to stop at `asked_ns`, when its accounts were `before`, and has not until `now_ns`.
    pub(super) fn will_stop(
        &mut self,
        mut stop: LateStop,
        asked_ns: u64,
        before: SchedStat,
        now_ns: u64,
    ) {
        stop.was_last_asleep_in(self.asleep_in);
        self.late = Some(Late {
            stop,
            asked_ns,
            run_queue_ns: before.run_queue_ns,
            polled_ns: now_ns,
        });
    }

    /// Whether it was asked to stop, and has not been let go again.
    pub(super) fn is_awaited(&self) -> bool {
        self.late.is_some()
    }

    /// Whether it was asked to stop and has not yet. If it has by now, it is let go. Whoever asks has been awake since
    /// `awake_since_ns`, and would have been woken by the stop.
    pub(super) fn lateness(&mut self, now_ns: u64, awake_since_ns: u64) -> Lateness {
        let Some(late) = &mut self.late else {
            return Lateness::None;
        };
        if !late.stop.poll() {
            late.polled_ns = now_ns;
            return Lateness::Waiting;
        }
        self.let_go_at = self.files.sched_stat().ok();
        let stood_ns = late.stood_ns(now_ns, awake_since_ns, self.let_go_at);
        self.late = None;
        Lateness::Over(Duration::from_nanos(stood_ns))
    }

    /// Whether it has had no CPU since we let it go.
    pub(super) fn has_not_run_since_let_go(&self, sched: SchedStat) -> bool {
        self.let_go_at
            .is_some_and(|then| then.timeslices == sched.timeslices && then.cpu_ns == sched.cpu_ns)
    }

    /// Whether it slept when it was last looked at and has not run since, so that its stack still holds; notes the
    /// look. The proof is the number of times it was switched in: CPU time alone is up to a tick stale.
    /// Says for how many ticks, this one and those in which it was left alone, to `rest`, and how its stack ended. It is
    /// one of `threads`.
    pub(super) fn holds_still(
        &mut self,
        rest: &mut Rest,
        now_ns: u64,
        sched: SchedStat,
        threads: usize,
    ) -> Option<(End, u32)> {
        let last = self.last.as_mut()?;
        let asleep = matches!(last.state, ThreadState::Blocked | ThreadState::Stopped);
        if !asleep || last.timeslices != sched.timeslices {
            return None;
        }
        let passed = rest.proven(now_ns, last.seen_ns, threads);
        let ticks = passed.saturating_add(1);
        last.held_ticks = last.held_ticks.saturating_add(ticks);
        last.held = Accounted::new(now_ns, sched);
        Some((last.end, ticks))
    }

    /// What is to be observed of the time in which the thread provably slept on.
    pub(super) fn take_held(&mut self) -> Option<Observation> {
        let last = self.last.as_mut().filter(|last| last.held_ticks > 0)?;
        let observation = Observation {
            thread: self.id,
            at_ns: last.held.at_ns,
            state: last.state,
            stack: last.stack,
            ticks: last.held_ticks,
            weights: last.held.since(self.accounted),
        };
        self.accounted = last.held;
        last.held_ticks = 0;
        Some(observation)
    }

    /// A look found the thread in `state` at `stack`. Call [`Thread::take_held`] first.
    pub(super) fn observe(
        &mut self,
        now_ns: u64,
        sched: SchedStat,
        state: ThreadState,
        stack: StackId,
        end: End,
    ) -> Observation {
        let accounted = Accounted::new(now_ns, sched);
        let observation = Observation {
            thread: self.id,
            at_ns: accounted.at_ns,
            state,
            stack,
            ticks: 1,
            weights: accounted.since(self.accounted),
        };
        self.accounted = accounted;
        self.is_name_current = false;
        self.last = Some(LastLook {
            state,
            stack,
            end,
            seen_ns: now_ns,
            timeslices: sched.timeslices,
            held_ticks: 0,
            held: accounted,
        });
        observation
    }

    /// What the accounts show beyond the last observation, with no look at the thread, if anything.
    pub(super) fn unobserved(
        &mut self,
        now_ns: u64,
        sched: SchedStat,
        no_stack: StackId,
    ) -> Option<Observation> {
        let accounted = Accounted::new(now_ns, sched);
        let weights = accounted.since(self.accounted);
        self.accounted = accounted;
        (weights != Weights::default()).then_some(Observation {
            thread: self.id,
            at_ns: accounted.at_ns,
            state: ThreadState::Unseen,
            stack: no_stack,
            ticks: 0,
            weights,
        })
    }

    /// The CPU time that the accounts show beyond the last observation, with no look at the thread. What else has
    /// passed belongs to its next look.
    pub(super) fn take_cpu(
        &mut self,
        now_ns: u64,
        sched: SchedStat,
        no_stack: StackId,
    ) -> Observation {
        let accounted = Accounted::new(now_ns, sched);
        let weights = Weights {
            cpu_ns: accounted.since(self.accounted).cpu_ns,
            ..Weights::default()
        };
        self.accounted.cpu_ns = accounted.cpu_ns;
        Observation {
            thread: self.id,
            at_ns: accounted.at_ns,
            state: ThreadState::Unseen,
            stack: no_stack,
            ticks: 0,
            weights,
        }
    }

    /// The accounts that have not been turned into observations, up to `sched`.
    pub(super) fn unobserved_cpu_ns(&self, sched: SchedStat) -> u64 {
        sched.cpu_ns.saturating_sub(self.accounted.cpu_ns)
    }

    /// Stack ids given so far are void: the next look must be a real one.
    pub(super) fn forget_stack(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: u64 = 3_600_000_000_000;
    const TICK_NS: u64 = 1_000_000;

    fn sched(cpu_ns: u64, timeslices: u64) -> SchedStat {
        SchedStat {
            cpu_ns,
            run_queue_ns: 0,
            timeslices,
        }
    }

    /// Of nobody: only its accounts are looked at.
    fn thread(now_ns: u64) -> Thread {
        let files = ThreadFiles::new(Pid(0), Tid(0));
        let plan = StackPlan::new(4096);
        let pauses = Pauses::new(None, now_ns);
        let name = ThreadName::new(String::new());
        let mut thread = Thread::new(Tid(0), ThreadId(0), name, files, plan, pauses);
        thread.begin(now_ns, sched(0, 1));
        thread
    }

    fn observe(thread: &mut Thread, now_ns: u64, sched: SchedStat, state: ThreadState) -> Weights {
        let stack = StackId(0);
        let observation = thread.observe(now_ns, sched, state, stack, End::Complete);
        observation.weights
    }

    #[test]
    fn a_jump_of_the_clock_is_no_cpu_time() {
        let mut thread = thread(0);
        let running = ThreadState::Running;
        let before = observe(&mut thread, TICK_NS, sched(TICK_NS / 2, 2), running);
        assert_eq!((before.cpu_ns, before.wall_ns), (TICK_NS / 2, TICK_NS));
        // What the kernel accounted in that hour, no more.
        let now_ns = TICK_NS + HOUR_NS;
        let after = observe(&mut thread, now_ns, sched(TICK_NS, 3), running);
        assert_eq!((after.cpu_ns, after.wall_ns), (TICK_NS / 2, HOUR_NS));
        let next = observe(
            &mut thread,
            now_ns + TICK_NS,
            sched(2 * TICK_NS, 4),
            running,
        );
        assert_eq!((next.cpu_ns, next.wall_ns), (TICK_NS, TICK_NS));
    }

    #[test]
    fn who_slept_through_a_jump_of_the_clock_slept_so_long() {
        let mut thread = thread(0);
        observe(&mut thread, TICK_NS, sched(10, 2), ThreadState::Blocked);
        let (_, ticks) = thread
            .holds_still(&mut Rest::default(), TICK_NS + HOUR_NS, sched(10, 2), 1)
            .unwrap();
        assert_eq!(ticks, 1, "one look, however long after the last");
        let held = thread.take_held().unwrap();
        assert_eq!((held.weights.cpu_ns, held.weights.wall_ns), (0, HOUR_NS));
        assert!(thread.take_held().is_none());
    }
}
