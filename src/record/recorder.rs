//! One recording, from the first look to the last: the event loop.

mod processes;

use std::time::Duration;

use sampler_platforms::linux::proc::schedstat::SchedStat;
use sampler_platforms::linux::proc::task::ThreadReadError;
use sampler_platforms::linux::{self, JobControl, StopWatch, clock};

use self::processes::Thoroughness;
use super::costs::{Costs, OwnUse};
use super::finder::Finder;
use super::images::Images;
use super::look::{Looker, Seen, Unseen};
use super::process::{Baseline, TargetProcess};
use super::schedule::Schedule;
use super::selection::Selection;
use crate::profile::{
    End, FrameKey, Missed, Observation, SampleSink, Summary, ThreadId, ThreadState, Weights,
};

/// How often what was recorded is made safe, in nanoseconds; what a `kill -9` can lose.
const FLUSH_NS: u64 = 1_000_000_000;

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

/// Tasks are listed so often that it takes no more than one part in this many of a CPU: at every tick where there are
/// few, so that short-lived ones are found.
const LIST_TASKS_PARTS: u64 = 100;

/// Tasks are listed at least so often, in nanoseconds.
const LIST_TASKS_NS_MAX: u64 = 250_000_000;

/// What to record and how.
#[derive(Clone, Debug)]
pub struct RecordSettings {
    /// Ticks per second.
    pub rate_hz: f64,
    /// The most that is copied of one stack, in bytes.
    pub stack_bytes_max: usize,
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
    list_due_ns: u64,
    /// When the current tick began.
    tick_ns: u64,
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
        let mut recorder = Self {
            looker: Looker::new(settings.stack_bytes_max, STOP_WITHIN),
            schedule: Schedule::new(settings.rate_hz, began_ns, fastrand::Rng::new()),
            settings,
            sink,
            finder: Finder::new(selection),
            processes: Vec::new(),
            images: Images::default(),
            costs: Costs::default(),
            keys: Vec::new(),
            began_ns,
            flush_due_ns: began_ns + FLUSH_NS,
            list_due_ns: began_ns,
            tick_ns: began_ns,
            is_waiting_for_stops: false,
            job_control: JobControl::hold_back().ok(),
            own_before: OwnUse::now(),
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
            if let Some(reason) = reason.filter(|_| self.costs.ticks > 0) {
                self.finish()?;
                return Ok(reason);
            }
            if now_ns < self.schedule.due_ns() {
                self.sleep();
                self.keep_up()?;
                continue; // something may have woken us early
            }
            self.tick()?;
            self.keep_up()?;
            let left_out = self.schedule.advance(clock::monotonic_ns());
            self.costs.missed(Missed::Late, left_out);
        }
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
        let threads = self
            .processes
            .iter_mut()
            .flat_map(|process| process.split().1);
        let late = threads
            .map(|thread| usize::from(thread.is_late()))
            .sum::<usize>();
        let strays = linux::release_strays();
        self.is_waiting_for_stops = late > 0 || strays;
        self.is_waiting_for_stops
    }

    /// What has been recorded and what it has cost until now.
    pub fn summary(&self) -> Summary {
        let elapsed_ns = clock::monotonic_ns() - self.began_ns;
        let own = OwnUse::now().since(self.own_before);
        self.costs.summary(elapsed_ns, self.settings.rate_hz, own)
    }

    /// Looks once at every thread.
    fn tick(&mut self) -> Result<(), S::Error> {
        self.costs.ticks += 1;
        self.tick_ns = clock::monotonic_ns();
        self.looker.wake();
        for found in self.finder.find(self.tick_ns) {
            self.take_in(found, self.tick_ns)?;
        }
        self.find_threads()?;
        for index in 0..self.processes.len() {
            self.tick_process(index)?;
        }
        Ok(())
    }

    /// Takes in new threads, as often as it is worth.
    fn find_threads(&mut self) -> Result<(), S::Error> {
        let now_ns = clock::monotonic_ns();
        if now_ns >= self.list_due_ns {
            for process in &mut self.processes {
                process.find_threads(now_ns, Baseline::Zero, self.sink)?;
            }
            let done_ns = clock::monotonic_ns();
            let pause_ns = (done_ns - now_ns).saturating_mul(LIST_TASKS_PARTS);
            self.list_due_ns = done_ns + pause_ns.min(LIST_TASKS_NS_MAX);
        }
        Ok(())
    }

    fn tick_process(&mut self, index: usize) -> Result<(), S::Error> {
        self.processes[index].read_cpu_clock();
        let mut at = 0;
        while at < self.processes[index].threads.len() {
            if self.tick_thread(index, at)? {
                at += 1;
            } else {
                self.drop_thread(index, at)?;
            }
        }
        self.processes[index].wake_resting();
        Ok(())
    }

    /// Looks at one thread; `false` if it has ended.
    fn tick_thread(&mut self, index: usize, at: usize) -> Result<bool, S::Error> {
        let process = &mut self.processes[index];
        let (view, threads) = process.split();
        let thread = &mut threads[at];
        if thread.is_late() {
            self.costs.missed(Missed::NotScheduled, 1);
            return Ok(true);
        }
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
        if let Some((end, ticks)) = thread.holds_still(self.tick_ns, sched) {
            self.costs.reused(end, ticks);
            return Ok(true);
        }
        let left_alone = thread.rest.in_vain();
        self.costs.missed(Missed::LeftAlone, left_alone.into());
        match self.looker.look(view, thread, sched, &mut self.costs) {
            Ok(seen) if seen.was_waiting_for_cpu => {
                self.costs.missed(Missed::NotScheduled, 1);
                self.account_unseen(index, at, seen.sched).map(|()| true)
            }
            Ok(seen) => self.observe(index, at, seen).map(|()| true),
            Err(Unseen::Missed(reason)) => {
                self.is_waiting_for_stops |= reason == Missed::NotScheduled;
                self.costs.missed(reason, 1);
                self.account_unseen(index, at, sched).map(|()| true)
            }
            Err(Unseen::Ended) => {
                self.costs.missed(Missed::ThreadEnded, 1);
                Ok(false)
            }
        }
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
        self.drop_ended(Thoroughness::WithoutThreads)?;
        if now_ns >= self.flush_due_ns {
            self.flush_due_ns = now_ns + FLUSH_NS;
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
