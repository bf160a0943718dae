//! One recording, from the first look to the last: the event loop.

mod processes;

use std::time::Duration;

use sampler_platforms::linux::proc::schedstat::SchedStat;
use sampler_platforms::linux::proc::task::ThreadReadError;
use sampler_platforms::linux::{self, JobControl, StopWatch, clock};

use self::processes::Thoroughness;
use super::budget::Share;
use super::costs::{Costs, OwnUse};
use super::finder::Finder;
use super::images::Images;
use super::look::{Looker, Seen, Unseen, is_late};
use super::overhead::{OwnCpu, Slice};
use super::process::{Baseline, TargetProcess};
use super::schedule::Schedule;
use super::selection::Selection;
use crate::profile::{
    End, FrameKey, Missed, Observation, SampleSink, Summary, ThreadId, ThreadState, Weights,
};

/// How often what was recorded is made safe, after the first look, in nanoseconds; what a `kill -9` can lose.
const FLUSH_NS: u64 = 1_000_000_000;

/// How often processes are asked whether they have ended, in nanoseconds.
const ASK_ENDED_NS: u64 = 100_000_000;

/// How long a stop may take to happen before it is left to be collected later: a thread that we have put off its CPU
/// by waking up there gets it back within a scheduler's slice.
const STOP_WITHIN: Duration = Duration::from_millis(6);

/// How long threads that have yet to stop are waited for at the end, in nanoseconds.
const LATE_NS_MAX: u64 = 1_000_000_000;

/// How long a sleep is at most, in nanoseconds: the end of a recording and its next flush are not put off by a low
/// rate.
const SLEEP_NS_MAX: u64 = 100_000_000;

/// CPU time of a thread that cannot be looked at is accounted for when there is so much of it, in nanoseconds.
const UNSEEN_CPU_NS_MAX: u64 = 5_000_000;

/// Tasks are listed so often that it takes no more than one part in this many of a CPU: where there are few, at every
/// tick at which their number has changed, so that short-lived ones are found.
const LIST_TASKS_PARTS: u64 = 200;

/// Tasks are listed at least so often, in nanoseconds: as many may have come as have gone.
const LIST_TASKS_NS_MAX: u64 = 250_000_000;

/// What to record and how.
#[derive(Clone, Debug)]
pub struct RecordSettings {
    /// Ticks per second.
    pub rate_hz: f64,
    /// The most that is copied of one stack, in bytes.
    pub stack_bytes_max: usize,
    /// The share of its time that a thread of the target may stand still because of us; and the CPU time that we may
    /// use ourselves, as a share of what the target uses or of one CPU, whichever is more.
    pub max_overhead: Share,
    /// How long a thread may stand still for one sample.
    pub pause_max: Duration,
}

/// Why a recording is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// All targets have ended.
    TargetsEnded,
    /// The time asked for has passed.
    Duration,
    /// The user or the system asked us to stop.
    Interrupted,
}

/// A recording under way, fed into `S`.
#[derive(Debug)]
pub struct Recorder<'s, S: SampleSink> {
    settings: RecordSettings,
    sink: &'s mut S,
    finder: Finder,
    /// In the order in which they were found: parents before their children.
    processes: Vec<TargetProcess>,
    images: Images,
    looker: Looker,
    costs: Costs,
    schedule: Schedule,
    keys: Vec<FrameKey>,
    began_ns: u64,
    flush_due_ns: u64,
    ended_due_ns: u64,
    /// How many samples there were at the last flush.
    flushed_samples: u64,
    /// When all tasks are listed next, and until when none are.
    list_due_ns: u64,
    list_pause_ns: u64,
    /// Which tick this is, from one on, and when it began.
    tick_number: u64,
    tick_ns: u64,
    /// The process that the next tick begins with: the last one had no time left for it.
    first: usize,
    slice: Slice,
    own_cpu: OwnCpu,
    /// CPU time that the targets have used while they were recorded.
    target_cpu_ns: u64,
    /// CPU time, since their last observation, of threads that this tick does not look at.
    passed_over_cpu_ns: u64,
    /// What threads may have used at most between the reading of their process's clock and their look.
    unsure_cpu_ns: u64,
    /// Since when we have been awake.
    awake_since_ns: u64,
    /// A thread was asked to stop and has not yet.
    is_waiting_for_stops: bool,
    /// `None` where signals cannot be held back.
    job_control: Option<JobControl>,
    /// What we had used ourselves when the recording began.
    own_before: OwnUse,
}

impl<'s, S: SampleSink> Recorder<'s, S> {
    /// Begins with those of `selection` that are there. Of those that it names, it must be known that they can be
    /// sampled.
    ///
    /// # Errors
    /// When `sink` could not keep what is known of them.
    pub fn new(
        settings: RecordSettings,
        selection: Selection,
        sink: &'s mut S,
    ) -> Result<Self, S::Error> {
        let began_ns = clock::monotonic_ns();
        let own_before = OwnUse::now();
        let max_overhead = settings.max_overhead;
        let mut recorder = Self {
            looker: Looker::new(settings.stack_bytes_max, settings.pause_max, STOP_WITHIN),
            schedule: Schedule::new(settings.rate_hz, began_ns, fastrand::Rng::new()),
            settings,
            sink,
            finder: Finder::new(selection),
            processes: Vec::new(),
            images: Images::default(),
            costs: Costs::default(),
            keys: Vec::new(),
            began_ns,
            // The first look at once: a short recording that is killed has something to show as well.
            flush_due_ns: began_ns,
            ended_due_ns: began_ns + ASK_ENDED_NS,
            flushed_samples: 0,
            list_due_ns: began_ns,
            list_pause_ns: began_ns,
            tick_number: 0,
            tick_ns: began_ns,
            first: 0,
            slice: Slice::default(),
            own_cpu: OwnCpu::new(max_overhead, began_ns, own_before.cpu_ns),
            target_cpu_ns: 0,
            passed_over_cpu_ns: 0,
            unsure_cpu_ns: 0,
            awake_since_ns: began_ns,
            is_waiting_for_stops: false,
            job_control: JobControl::hold_back().ok(),
            own_before,
        };
        for found in recorder.finder.begin(began_ns) {
            recorder.take_in(found, began_ns)?;
        }
        Ok(recorder)
    }

    /// Whether nobody is there to be recorded yet, or nobody who can be.
    pub fn has_nobody(&self) -> bool {
        self.processes.is_empty() && !self.finder.is_over()
    }

    /// Records until `over` says why to end; it is asked before every tick, with the time since the beginning in
    /// nanoseconds and the counters so far. Returns early when all targets have ended.
    ///
    /// # Errors
    /// When the sink could not keep what was recorded. The targets run on in any case.
    pub fn run(
        &mut self,
        mut over: impl FnMut(u64, &Costs) -> Option<Over>,
    ) -> Result<Over, S::Error> {
        loop {
            let now_ns = clock::monotonic_ns();
            let reason = match over(now_ns - self.began_ns, &self.costs) {
                None if self.finder.is_over() => Some(Over::TargetsEnded),
                reason => reason,
            };
            // Whoever asks to end straight away still gets one look at everything.
            if let Some(reason) = reason.filter(|_| self.tick_number > 0) {
                self.finish()?;
                return Ok(reason);
            }
            if now_ns < self.schedule.due_ns() {
                self.sleep();
                self.awake_since_ns = clock::monotonic_ns();
                self.keep_up()?;
                continue; // something may have woken us early
            }
            let wait_ns = self.wait_for_budget(now_ns);
            if wait_ns > 0 {
                let wait = Duration::from_nanos(wait_ns);
                self.costs.longest_wait = self.costs.longest_wait.max(wait);
                // Not longer: the target may come to use more CPU time.
                self.keep_up()?;
                let left_out = self.schedule.put_off(now_ns, wait_ns.min(SLEEP_NS_MAX));
                self.costs.missed(Missed::Budget, left_out);
                continue;
            }
            let before = self.costs.looks();
            self.tick()?;
            self.costs.tick_made(before);
            self.keep_up()?;
            let left_out = self.schedule.advance(clock::monotonic_ns());
            self.costs.missed(Missed::Late, left_out);
        }
    }

    /// How long to wait until what the next tick costs us has been earned.
    fn wait_for_budget(&mut self, now_ns: u64) -> u64 {
        self.own_cpu
            .read(now_ns, OwnUse::cpu_ns_now(), self.target_cpu_ns);
        self.own_cpu.wait_ns()
    }

    /// Sleeps until the next tick is due; no longer than until a signal comes, a thread stops that was late, or it is
    /// time to ask again whether the recording is over.
    fn sleep(&mut self) {
        let until_ns = self
            .schedule
            .due_ns()
            .min(clock::monotonic_ns() + SLEEP_NS_MAX);
        if self.is_waiting_for_stops {
            match StopWatch::new() {
                Ok(watch) if self.collect_late() => {
                    watch.sleep_until(until_ns);
                    return;
                }
                Ok(_) | Err(_) => {}
            }
        }
        match &self.job_control {
            Some(control) if !self.is_waiting_for_stops => {
                control.allow(|| clock::sleep_until(until_ns))
            }
            // Where nothing can be watched, the next tick collects them.
            Some(_) | None => clock::sleep_until(until_ns),
        };
    }

    /// Lets go the threads that have stopped too late. Says whether there are some that have yet to stop.
    fn collect_late(&mut self) -> bool {
        let mut is_waiting = false;
        for process in &mut self.processes {
            for thread in &mut process.threads {
                is_waiting |= is_late(thread, self.awake_since_ns, &mut self.costs);
            }
        }
        let strays = linux::release_strays();
        self.is_waiting_for_stops = is_waiting || strays;
        self.is_waiting_for_stops
    }

    /// What has been recorded and what it has cost until now.
    pub fn summary(&self) -> Summary {
        let elapsed_ns = clock::monotonic_ns() - self.began_ns;
        let own = OwnUse::now().since(self.own_before);
        let mut summary = self.costs.summary(elapsed_ns, self.settings.rate_hz, own);
        summary.overhead.promised = self.settings.max_overhead;
        summary.overhead.pause_max_ns = nanoseconds(self.settings.pause_max);
        summary.overhead.sampler_cpu = self.own_cpu.most();
        summary
    }

    /// Looks once at every thread, or at as many as can be paid for: the next tick goes on with the others.
    fn tick(&mut self) -> Result<(), S::Error> {
        self.tick_number += 1;
        self.tick_ns = clock::monotonic_ns();
        self.looker.wake();
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
    fn find_threads(&mut self) -> Result<(), S::Error> {
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
            self.list_due_ns = done_ns + LIST_TASKS_NS_MAX;
        }
        let pause_ns = (done_ns - now_ns).saturating_mul(LIST_TASKS_PARTS);
        self.list_pause_ns = done_ns + pause_ns.min(LIST_TASKS_NS_MAX);
        Ok(())
    }

    /// Looks at the threads of one process; `false` if some of them were left to the next tick.
    fn tick_process(&mut self, index: usize) -> Result<bool, S::Error> {
        self.target_cpu_ns += self.processes[index].read_cpu_clock_if_due(self.tick_ns);
        let clock_ns = clock::monotonic_ns();
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
            // One that has taken the place of another that has ended may have had its turn.
            let thread = &mut self.processes[index].threads[at];
            if std::mem::replace(&mut thread.ticked, self.tick_number) == self.tick_number {
                at += 1;
                continue;
            }
            left -= 1;
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

    /// Looks at one thread; `false` if it has ended.
    fn tick_thread(&mut self, index: usize, at: usize) -> Result<bool, S::Error> {
        let process = &mut self.processes[index];
        let (view, threads) = process.split();
        let thread = &mut threads[at];
        if thread.rest.goes_on(self.tick_ns) {
            return Ok(true);
        }
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
        if let Some((end, ticks)) = thread.holds_still(self.tick_ns, sched) {
            self.costs.reused(end, ticks);
            return Ok(true);
        }
        let left_alone = thread.rest.in_vain();
        self.costs.missed(Missed::LeftAlone, left_alone.into());
        // Whatever it does now: looked at only when it sleeps, it would seem to sleep more than it does.
        if !thread.pauses.allow(self.tick_ns) {
            self.pass_over(index, at, sched, Missed::Budget);
            return Ok(true);
        }
        self.slice.used();
        match self.looker.look(view, thread, sched, &mut self.costs) {
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
    fn pass_over(&mut self, index: usize, at: usize, sched: SchedStat, reason: Missed) {
        self.costs.missed(reason, 1);
        self.passed_over_cpu_ns += self.processes[index].threads[at].unobserved_cpu_ns(sched);
    }

    /// Accounts for the CPU time of a thread that could not be looked at, if it is much: should it end, nobody else
    /// tells.
    fn account_unseen(
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

    fn observe(&mut self, index: usize, at: usize, seen: Seen) -> Result<(), S::Error> {
        let process = &mut self.processes[index];
        process.check(self.looker.stack());
        let now_ns = clock::monotonic_ns();
        if process.refresh_stale_mappings(now_ns, &mut self.images, self.sink)? {
            // Perhaps all of them are others: it has executed another program.
            process.refresh_names(self.sink)?;
            process.refresh_description(self.sink)?;
            let (view, threads) = process.split();
            self.looker.walk_again(view, &mut threads[at]);
        }
        let stack = self.looker.stack();
        self.costs.walked(stack.end);
        process.keys(stack, seen.kernel, &mut self.keys);
        let end = End::from(stack.end);
        let id = self.sink.stack(&self.keys, end)?;
        let thread = &mut process.threads[at];
        if let Some(held) = thread.take_held() {
            self.emit(index, held)?;
        }
        let observation =
            self.processes[index].threads[at].observe(now_ns, seen.sched, seen.state, id, end);
        self.emit(index, observation)
    }

    fn emit(&mut self, index: usize, observation: Observation) -> Result<(), S::Error> {
        self.processes[index].observed_cpu_ns += observation.weights.cpu_ns;
        self.emit_for_nobody(observation)
    }

    /// The same for what is not of a process's own accounts.
    fn emit_for_nobody(&mut self, mut observation: Observation) -> Result<(), S::Error> {
        self.costs.cpu_ns += observation.weights.cpu_ns;
        observation.at_ns = observation.at_ns.saturating_sub(self.began_ns);
        self.sink.observation(&observation)
    }

    /// A thread has ended. What it used since its last observation is found in its process's clock.
    fn drop_thread(&mut self, index: usize, at: usize) -> Result<(), S::Error> {
        let mut thread = self.processes[index].threads.swap_remove(at);
        self.processes[index].threads_ended = true;
        let left_alone = thread.rest.in_vain();
        self.costs.missed(Missed::LeftAlone, left_alone.into());
        match thread.take_held() {
            Some(held) => self.emit(index, held),
            None => Ok(()),
        }
    }

    /// Between ticks: ended processes, the flush.
    fn keep_up(&mut self) -> Result<(), S::Error> {
        let now_ns = clock::monotonic_ns();
        let thoroughness = self.thoroughness(now_ns);
        self.drop_ended(thoroughness)?;
        let samples = self.costs.samples();
        if now_ns >= self.flush_due_ns && samples > self.flushed_samples {
            self.flush_due_ns = now_ns + FLUSH_NS;
            self.flushed_samples = samples;
            self.account_children()?;
            for process in &mut self.processes {
                process.refresh_names(self.sink)?;
                process.refresh_description(self.sink)?;
                process.refresh_mappings(&mut self.images, self.sink)?;
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Processes are asked whether they have ended when all their threads were found to have, and now and then also
    /// when those are left alone or cannot be paid for.
    fn thoroughness(&mut self, now_ns: u64) -> Thoroughness {
        if now_ns < self.ended_due_ns {
            return Thoroughness::WithoutThreads;
        }
        self.ended_due_ns = now_ns + ASK_ENDED_NS;
        Thoroughness::All
    }

    fn flush(&mut self) -> Result<(), S::Error> {
        for index in 0..self.processes.len() {
            for at in 0..self.processes[index].threads.len() {
                if let Some(held) = self.processes[index].threads[at].take_held() {
                    self.emit(index, held)?;
                }
            }
            if std::mem::take(&mut self.processes[index].threads_ended) {
                self.account_ended(index)?;
            }
        }
        let summary = self.summary();
        if self.sink.flush(&summary)? {
            self.processes
                .iter_mut()
                .flat_map(|process| &mut process.threads)
                .for_each(|thread| thread.forget_stack());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), S::Error> {
        self.wait_for_late();
        self.account_children()?;
        for index in 0..self.processes.len() {
            self.close_accounts(index)?;
        }
        self.flush()
    }

    /// Waits a while for threads that have yet to stop: what comes after the last sample may take long. Those that do
    /// not stop even then are let go by whoever calls [`linux::release_strays`], or when we end.
    fn wait_for_late(&mut self) {
        let until_ns = clock::monotonic_ns() + LATE_NS_MAX;
        let Ok(watch) = StopWatch::new() else { return };
        while self.is_waiting_for_stops && self.collect_late() && clock::monotonic_ns() < until_ns {
            watch.sleep_until(until_ns);
        }
    }

    /// Turns what the kernel has accounted to a process and no observation shows yet into observations, so that the
    /// total is right.
    fn close_accounts(&mut self, index: usize) -> Result<(), S::Error> {
        let no_stack = self.sink.stack(&[FrameKey::NoStack], End::Partial)?;
        for at in 0..self.processes[index].threads.len() {
            let thread = &mut self.processes[index].threads[at];
            let now_ns = clock::monotonic_ns();
            let sched = thread.files.sched_stat().ok();
            // One that was left alone until now is asked a last time.
            if thread.rest.is_unproven() {
                let proof = sched.and_then(|sched| thread.holds_still(now_ns, sched));
                match proof {
                    Some((end, ticks)) => self.costs.reused(end, ticks),
                    None => self
                        .costs
                        .missed(Missed::LeftAlone, thread.rest.in_vain().into()),
                }
            }
            let held = thread.take_held();
            let rest = sched.and_then(|sched| thread.unobserved(now_ns, sched, no_stack));
            for observation in held.into_iter().chain(rest) {
                self.emit(index, observation)?;
            }
        }
        self.account_ended(index)
    }

    /// Observes the CPU time of threads that ended since they were last looked at: what the process's clock shows
    /// beyond all that was observed of its threads.
    fn account_ended(&mut self, index: usize) -> Result<(), S::Error> {
        let process = &mut self.processes[index];
        let cpu_ns = process.unobserved_cpu_ns();
        if cpu_ns == 0 {
            return Ok(());
        }
        let thread = process.ended_threads(self.sink)?;
        let observation = self.unseen(FrameKey::Ended, thread, cpu_ns)?;
        self.emit(index, observation)
    }

    /// CPU time that is known from accounts alone, under the only frame `key`.
    fn unseen(
        &mut self,
        key: FrameKey,
        thread: ThreadId,
        cpu_ns: u64,
    ) -> Result<Observation, S::Error> {
        let stack = self.sink.stack(&[key], End::Partial)?;
        Ok(Observation {
            thread,
            at_ns: clock::monotonic_ns(),
            state: ThreadState::Unseen,
            stack,
            ticks: 0,
            weights: Weights {
                cpu_ns,
                ..Weights::default()
            },
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
