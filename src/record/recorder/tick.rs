//! One tick: a look at every thread, or at as many as can be paid for.

use sampler_platforms::linux::clock;
use sampler_platforms::linux::proc::schedstat::SchedStat;
use sampler_platforms::linux::proc::task::ThreadReadError;

use super::super::look::{Seen, Unseen, is_late};
use super::super::overhead::Slice;
use super::super::process::Baseline;
use super::super::settle::settle;
use super::Recorder;
use crate::profile::{End, FrameKey, Missed, SampleSink};

/// CPU time of a thread that cannot be looked at is accounted for when there is so much of it, in nanoseconds.
const UNSEEN_CPU_NS_MAX: u64 = 5_000_000;

/// Tasks are listed so often that it takes no more than one part in this many of a CPU: where there are few, at every
/// tick at which their number has changed, so that short-lived ones are found.
const LIST_TASKS_PARTS: u64 = 200;

/// Tasks are listed also when their number is the same, as many may have come as have gone: no more often than it takes
/// one part in this many of a CPU.
const LIST_ALL_TASKS_PARTS: u64 = 1000;

/// Nor more often than this, in nanoseconds.
const LIST_TASKS_NS_MAX: u64 = 250_000_000;

impl<S: SampleSink> Recorder<'_, S> {
    /// Looks once at every thread, or at as many as can be paid for: the next tick goes on with the others.
    pub(super) fn tick(&mut self) -> Result<(), S::Error> {
        self.tick_number += 1;
        self.tick_ns = clock::monotonic_ns();
        self.looker.wake();
        self.waits.begin_tick(self.tick_ns);
        for found in self.finder.find(self.tick_ns) {
            self.take_in(found, self.tick_ns)?;
        }
        self.find_threads()?;
        self.slice = Slice::new(self.own_cpu.slice_ns());
        let count = self.processes.len();
        for turn in 0..count {
            let index = (self.first + turn) % count;
            if !self.tick_process(index)? {
                self.first = index;
                let rest = (turn + 1..count).map(|turn| (index + turn) % count);
                let left_out = rest
                    .map(|index| self.processes[index].threads.len())
                    .sum::<usize>();
                self.costs.missed(Missed::Budget, left_out as u64);
                return Ok(());
            }
        }
        self.first = 0;
        Ok(())
    }

    /// Takes in new threads, as often as it is worth.
    pub(super) fn find_threads(&mut self) -> Result<(), S::Error> {
        let now_ns = clock::monotonic_ns();
        if now_ns < self.list_pause_ns {
            return Ok(());
        }
        let is_due = now_ns >= self.list_due_ns;
        for process in &mut self.processes {
            if is_due || process.has_other_threads() {
                process.find_threads(now_ns, Baseline::Zero, self.sink)?;
            }
        }
        let done_ns = clock::monotonic_ns();
        if is_due {
            let pause_ns = (done_ns - now_ns).saturating_mul(LIST_ALL_TASKS_PARTS);
            self.list_due_ns = done_ns + pause_ns.max(LIST_TASKS_NS_MAX);
        }
        let pause_ns = (done_ns - now_ns).saturating_mul(LIST_TASKS_PARTS);
        self.list_pause_ns = done_ns + pause_ns.min(LIST_TASKS_NS_MAX);
        Ok(())
    }

    /// Looks at the threads of one process; `false` if some of them were left to the next tick.
    pub(super) fn tick_process(&mut self, index: usize) -> Result<bool, S::Error> {
        self.read_cpu(index, self.tick_ns);
        let clock_ns = self.processes[index].cpu.read_at_ns();
        (self.passed_over_cpu_ns, self.unsure_cpu_ns) = (0, 0);
        let mut left = self.processes[index].threads.len();
        let mut at = std::mem::take(&mut self.processes[index].go_on_at);
        while left > 0 {
            if self.slice.is_over() {
                self.processes[index].go_on_at = at;
                self.costs.missed(Missed::Budget, left as u64);
                return Ok(false);
            }
            if at >= self.processes[index].threads.len() {
                at = 0;
            }
            let turn = &mut self.processes[index].turns[at];
            // One that has taken the place of another that has ended may have had its turn.
            if !turn.comes(self.tick_number) {
                at += 1;
                continue;
            }
            left -= 1;
            if turn.rest.goes_on(self.tick_ns) {
                at += 1;
                continue;
            }
            if self.tick_thread(index, at)? {
                if self.slice.is_used() {
                    self.unsure_cpu_ns += clock::monotonic_ns() - clock_ns;
                }
                at += 1;
            } else {
                self.drop_thread(index, at)?;
            }
        }
        self.processes[index].wake_resting(self.passed_over_cpu_ns, self.unsure_cpu_ns);
        Ok(true)
    }

    /// Reads the CPU clock of a process, if it is time to.
    pub(super) fn read_cpu(&mut self, index: usize, now_ns: u64) {
        let cpu = &mut self.processes[index].cpu;
        self.target_cpu.used_ns += cpu.read_if_due(now_ns);
        self.target_cpu.read_ns = self.target_cpu.read_ns.max(cpu.read_at_ns());
    }

    /// Looks at one thread; `false` if it has ended.
    pub(super) fn tick_thread(&mut self, index: usize, at: usize) -> Result<bool, S::Error> {
        let process = &mut self.processes[index];
        let count = process.threads.len();
        let (thread, rest) = (&mut process.threads[at], &mut process.turns[at].rest);
        let sched = match thread.files.sched_stat() {
            Ok(sched) => sched,
            Err(ThreadReadError::Gone) => return Ok(false),
            Err(_) => {
                self.costs.missed(Missed::Unreadable, 1);
                return Ok(true);
            }
        };
        if is_late(thread, self.awake_since_ns, &mut self.costs) {
            self.pass_over(index, at, sched, Missed::NotScheduled);
            return Ok(true);
        }
        if let Some((end, ticks)) = thread.holds_still(rest, self.tick_ns, sched, count) {
            self.costs.reused(end, ticks);
            return Ok(true);
        }
        self.costs.missed(Missed::LeftAlone, rest.in_vain().into());
        // Whatever it does now: looked at only when it sleeps, it would seem to sleep more than it does.
        if !thread.pauses.allow(self.tick_ns) {
            self.pass_over(index, at, sched, Missed::Budget);
            return Ok(true);
        }
        self.slice.used();
        let (view, interpreters, threads) = process.split();
        let (thread, costs) = (&mut threads[at], &mut self.costs);
        match self.looker.look(view, interpreters, thread, sched, costs) {
            Ok(seen) if seen.was_waiting_for_cpu => {
                self.pass_over(index, at, seen.sched, Missed::NotScheduled);
                self.account_unseen(index, at, seen.sched).map(|()| true)
            }
            Ok(seen) => self.observe(index, at, seen).map(|()| true),
            Err(Unseen::Missed(reason)) => {
                self.is_waiting_for_stops |= reason == Missed::NotScheduled;
                self.pass_over(index, at, sched, reason);
                if reason == Missed::ThreadEnded {
                    self.processes[index].find_living();
                }
                self.account_unseen(index, at, sched).map(|()| true)
            }
            Err(Unseen::Ended) => {
                self.costs.missed(Missed::ThreadEnded, 1);
                Ok(false)
            }
        }
    }

    /// A thread was not looked at, for `reason`.
    pub(super) fn pass_over(&mut self, index: usize, at: usize, sched: SchedStat, reason: Missed) {
        self.costs.missed(reason, 1);
        self.passed_over_cpu_ns += self.processes[index].threads[at].unobserved_cpu_ns(sched);
    }

    /// Accounts for the CPU time of a thread that could not be looked at, if it is much: should it end, nobody else
    /// tells.
    pub(super) fn account_unseen(
        &mut self,
        index: usize,
        at: usize,
        sched: SchedStat,
    ) -> Result<(), S::Error> {
        let thread = &mut self.processes[index].threads[at];
        if thread.unobserved_cpu_ns(sched) < UNSEEN_CPU_NS_MAX {
            return Ok(());
        }
        let stack = self.sink.stack(&[FrameKey::NoStack], End::Partial)?;
        let held = thread.take_held();
        let unseen = thread.take_cpu(clock::monotonic_ns(), sched, stack);
        for observation in held.into_iter().chain([unseen]) {
            self.emit(index, observation)?;
        }
        Ok(())
    }

    pub(super) fn observe(&mut self, index: usize, at: usize, seen: Seen) -> Result<(), S::Error> {
        let process = &mut self.processes[index];
        let are_others = match seen.has_stack() {
            true => settle(&mut self.looker, process, at, &mut self.images, self.sink)?,
            false => {
                let now_ns = clock::monotonic_ns();
                process.refresh_stale_mappings(now_ns, &mut self.images, self.sink)?
            }
        };
        if are_others {
            // Perhaps all of them are others: it has executed another program.
            process.refresh_names(clock::monotonic_ns(), self.sink)?;
            process.refresh_description(self.sink)?;
        }
        let now_ns = clock::monotonic_ns();
        let looked = self.looker.looked();
        self.costs.walked(looked);
        let kernel = self.waits.key(process, &seen, self.sink)?.or(seen.kernel);
        let functions = &mut self.functions;
        process.keys(looked, kernel, functions, self.sink, &mut self.keys)?;
        process.note_anonymous_code(&self.keys);
        if looked.walked.is_interpreted {
            process.met_runtime(at);
        }
        let end = End::from(looked.stack.end);
        let id = self.sink.stack(&self.keys, end)?;
        let thread = &mut process.threads[at];
        if let Some(held) = thread.take_held() {
            self.emit(index, held)?;
        }
        let observation =
            self.processes[index].threads[at].observe(now_ns, seen.sched, seen.state, id, end);
        self.emit(index, observation)
    }

    /// A thread has ended. What it used since its last observation is found in its process's clock.
    pub(super) fn drop_thread(&mut self, index: usize, at: usize) -> Result<(), S::Error> {
        let process = &mut self.processes[index];
        process.threads_ended = true;
        let left_alone = process.turns.swap_remove(at).rest.in_vain();
        let mut thread = process.threads.swap_remove(at);
        self.costs.missed(Missed::LeftAlone, left_alone.into());
        match thread.take_held() {
            Some(held) => self.emit(index, held),
            None => Ok(()),
        }
    }
}
