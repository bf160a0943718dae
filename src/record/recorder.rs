//! One recording, from the first look to the last: the event loop.

mod accounts;
mod jit;
mod names;
mod processes;
mod tick;

use std::time::Duration;

use sampler_platforms::linux::proc::task::ThreadFiles;
use sampler_platforms::linux::{self, JobControl, StopWatch, clock};
use sampler_platforms::{Pid, Tid};
use sampler_unwind::interpreter::Languages;

use self::jit::EndedJit;
use self::processes::Thoroughness;
use super::budget::Share;
use super::costs::{Costs, OwnUse};
use super::finder::Finder;
use super::functions::FunctionIds;
use super::images::Images;
use super::jit::JitBudget;
use super::look::{Looker, is_late};
use super::overhead::{OwnCpu, Slice, TargetCpu};
use super::process::TargetProcess;
use super::schedule::Schedule;
use super::selection::Selection;
use super::thread::rounded_ns;
use super::waits::Waits;
use crate::profile::{FrameKey, Missed, SampleSink, Summary};

/// How often what was recorded is made safe, after the first sample, in nanoseconds; what a `kill -9` can lose.
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
    /// The languages whose frames are looked for, besides machine code.
    pub languages: Languages,
    /// Whether running threads may be stopped. What is seen of them without is little: see
    /// [`Rung`](sampler_platforms::linux::abilities::Rung).
    pub may_stop: bool,
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
    jit_budget: JitBudget,
    ended_jit: EndedJit,
    looker: Looker,
    costs: Costs,
    schedule: Schedule,
    keys: Vec<FrameKey>,
    functions: FunctionIds,
    waits: Waits,
    began_ns: u64,
    flush_due_ns: u64,
    ended_due_ns: u64,
    /// What there was to tell at the last flush.
    flushed_news: u64,
    /// When all tasks are listed next, and until when none are.
    list_due_ns: u64,
    list_pause_ns: u64,
    /// Until when no runtime is asked for names of threads.
    names_pause_ns: u64,
    /// Which tick this is, from one on, and when it began.
    tick_number: u64,
    tick_ns: u64,
    /// The process that the next tick begins with: the last one had no time left for it.
    first: usize,
    slice: Slice,
    own_cpu: OwnCpu,
    /// Threads of ours whose CPU time is not part of the promise.
    apart: Vec<Apart>,
    /// CPU time that the targets have used while they were recorded.
    target_cpu: TargetCpu,
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
        let began_ns = rounded_ns(clock::monotonic_ns());
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
            jit_budget: JitBudget::default(),
            ended_jit: EndedJit::default(),
            costs: Costs::default(),
            keys: Vec::new(),
            functions: FunctionIds::default(),
            waits: Waits::default(),
            began_ns,
            flush_due_ns: began_ns + FLUSH_NS,
            ended_due_ns: began_ns + ASK_ENDED_NS,
            flushed_news: 0,
            list_due_ns: began_ns,
            list_pause_ns: began_ns,
            names_pause_ns: began_ns,
            tick_number: 0,
            tick_ns: began_ns,
            first: 0,
            slice: Slice::default(),
            own_cpu: OwnCpu::new(max_overhead, began_ns, own_before.cpu_ns),
            apart: Vec::new(),
            target_cpu: TargetCpu {
                used_ns: 0,
                read_ns: began_ns,
            },
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
                // Something may have woken us early; after a tick comes the same.
                if self.awake_since_ns < self.schedule.due_ns() {
                    self.keep_up()?;
                }
                continue;
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
            // Nobody looks at a thread that stands: it would seem to be held by a debugger.
            self.is_waiting_for_stops |= linux::are_strays();
            self.costs.tick_made(before);
            self.keep_up()?;
            let left_out = self.schedule.advance(clock::monotonic_ns());
            self.costs.missed(Missed::Late, left_out);
        }
    }

    /// What the thread `tid` of ours uses from now on is not part of the promise: it gives way to whoever wants its CPU
    /// ([`linux::give_way`]).
    pub fn leave_apart(&mut self, tid: Tid) {
        let mut files = ThreadFiles::new(Pid(std::process::id().cast_signed()), tid);
        let before = files.sched_stat().map_or(0, |sched| sched.cpu_ns);
        self.apart.push(Apart {
            files,
            before_ns: before,
            used_ns: 0,
        });
    }

    /// How long to wait until what the next tick costs us has been earned.
    fn wait_for_budget(&mut self, now_ns: u64) -> u64 {
        let apart_ns = self.apart.iter_mut().map(Apart::used_ns).sum();
        let own_ns = OwnUse::cpu_ns_now().saturating_sub(apart_ns);
        if self.own_cpu.is_waiting() {
            // What the target has used is part of what it may cost: ticks, which read it, must not have to wait for it.
            for index in 0..self.processes.len() {
                self.read_cpu(index, now_ns);
            }
        }
        self.own_cpu.read(now_ns, own_ns, self.target_cpu);
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
        self.is_waiting_for_stops = linux::release_strays() || is_waiting;
        self.is_waiting_for_stops
    }

    /// What has been recorded and what it has cost until now.
    pub fn summary(&self) -> Summary {
        let elapsed_ns = clock::monotonic_ns() - self.began_ns;
        let own = OwnUse::now().since(self.own_before);
        let mut summary = self.costs.summary(elapsed_ns, self.settings.rate_hz, own);
        summary.jit_left_out = self.jit_budget.left_out();
        summary.overhead.promised = self.settings.max_overhead;
        summary.overhead.pause_max_ns = nanoseconds(self.settings.pause_max);
        summary.overhead.sampler_cpu = self.own_cpu.most();
        summary
    }

    /// Between ticks: ended processes, the flush.
    fn keep_up(&mut self) -> Result<(), S::Error> {
        let now_ns = clock::monotonic_ns();
        let thoroughness = self.thoroughness(now_ns);
        self.drop_ended(thoroughness)?;
        self.name_threads(now_ns)?;
        let news = self.costs.news();
        // The first sample at once: a short recording that is killed has something to show as well.
        let is_first = self.flushed_news == 0 && self.costs.looks().0 > 0;
        if (is_first || now_ns >= self.flush_due_ns) && news != self.flushed_news {
            self.flush_due_ns = now_ns + FLUSH_NS;
            self.flushed_news = news;
            self.account_children()?;
            for process in &mut self.processes {
                process.refresh_names(now_ns, self.sink)?;
                process.refresh_description(self.sink)?;
                process.refresh_mappings_if_due(now_ns, &mut self.images, self.sink)?;
            }
            self.name_jit_code()?;
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

    fn finish(&mut self) -> Result<(), S::Error> {
        self.wait_for_late();
        self.account_children()?;
        for index in 0..self.processes.len() {
            self.close_accounts(index)?;
        }
        self.name_all_threads()?;
        self.name_all_jit_code()?;
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
}

/// A thread of ours whose CPU time is counted apart.
#[derive(Debug)]
struct Apart {
    files: ThreadFiles,
    /// What it had used when that began.
    before_ns: u64,
    /// What it has used since, when that was last read.
    used_ns: u64,
}

impl Apart {
    /// What it has used; what it had, once it has ended.
    fn used_ns(&mut self) -> u64 {
        if let Ok(sched) = self.files.sched_stat() {
            self.used_ns = sched.cpu_ns.saturating_sub(self.before_ns);
        }
        self.used_ns
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
