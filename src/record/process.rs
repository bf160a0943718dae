//! One process that is being sampled: its threads, its modules, its accounts.

mod names;

use rustc_hash::FxHashMap;
use sampler_platforms::linux::abilities::{self, Abilities, MemoryWay, Rung, StopWay};
use sampler_platforms::linux::proc::schedstat::SchedStat;
use sampler_platforms::linux::proc::stat::{self, ProcState, Stat};
use sampler_platforms::linux::proc::syscall::SyscallState;
use sampler_platforms::linux::proc::task::{self, TaskCount, ThreadFiles, ThreadReadError};
use sampler_platforms::linux::proc::{self, names as kernel_names};
use sampler_platforms::linux::{ProcessMemory, clock};
use sampler_platforms::{Pid, Tid};
use sampler_unwind::interpreter::{Interpreters, Languages};
use sampler_unwind::{Avma, MemoryReader, MergedFrame, Stack};

use super::address_space::AddressSpace;
use super::budget::Share;
use super::children::ChildrenCpu;
use super::cpu_account::CpuAccount;
use super::description::describe;
use super::functions::FunctionIds;
use super::habits::Turn;
use super::images::Images;
use super::jit::{JitBudget, JitNames};
use super::look::{Looked, ProcessView};
use super::marks::CopiedMarks;
use super::overhead::Pauses;
use super::process_table::Kin;
use super::stack_plan::StackPlan;
use super::thread::Thread;
use super::thread_name::ThreadName;
use crate::profile::{
    Fallback, FrameKey, ProcessId, ProcessInfo, SampleSink, ThreadId, ThreadInfo,
};

/// Whether a number is that of one of its threads is asked of so many.
const THREADS_ASKED_MAX: usize = 4096;

/// At how many looks at a process it is asked whether it has become another program, however familiar its code looks:
/// a process that was just forked mostly does.
const LOOKS_AS_NEW: u8 = 4;
/// How often the clocks of a process and of its threads are read until none has gone on in between.
const BEGIN_TRIES: usize = 8;

/// What the kernel had accounted to threads when the recording began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Baseline {
    /// What they had used before is not part of the recording: the process was running already.
    Now,
    /// All they ever used is: the process was started for the recording.
    Zero,
}

/// How processes are sampled.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessSettings {
    /// The most that is copied of one stack, in bytes.
    pub stack_bytes_max: usize,
    /// How much of its time a thread may stand still because of us.
    pub max_overhead: Share,
    /// The languages whose frames are looked for.
    pub languages: Languages,
    /// Whether threads may be stopped, where that is possible.
    pub may_stop: bool,
}

/// A process that is being sampled.
#[derive(Debug)]
pub(super) struct TargetProcess {
    /// Its number.
    pub pid: Pid,
    /// Its number in the recording.
    pub id: ProcessId,
    /// Its threads, in the order in which they were found.
    pub threads: Vec<Thread>,
    /// Whose turn it is at a tick, in the same order.
    pub turns: Vec<Turn>,
    /// Its memory, read through a thread that lives: see [`TargetProcess::find_living`].
    memory: ProcessMemory,
    /// What lies where in it.
    space: AddressSpace,
    interpreters: Interpreters,
    /// How much can be had of it.
    rung: Rung,
    stack_bytes_max: usize,
    /// How much of its time a thread may stand still because of us.
    max_overhead: Share,
    /// The thread that the next tick begins with: the last one had no time left for it.
    pub go_on_at: usize,
    task_count: TaskCount,
    /// How many threads it had when they were listed last.
    listed: u64,
    /// What it has used, and what was observed of that.
    pub cpu: CpuAccount,
    /// It has had more than one thread.
    had_others: bool,
    /// Threads have ended since their CPU time was last accounted for.
    pub threads_ended: bool,
    ended_threads: Option<ThreadId>,
    description: ProcessInfo,
    /// Who it is, and whose child; `None` when it was gone before that could be read.
    kin: Option<Kin>,
    /// Its parent when it was last asked.
    pub parent: Option<Pid>,
    /// What its children used.
    pub children: ChildrenCpu,
    /// Looks at it that are still to come in which it counts as new.
    looks_as_new: u8,
    /// Names of the code that it compiles.
    jit: JitNames,
    /// What the kernel has called its first thread.
    own_names: Vec<String>,
    /// Runtimes are to be asked what they call threads.
    are_names_due: bool,
}

impl TargetProcess {
    /// Begins with `pid`. Its threads are found by [`TargetProcess::find_threads`].
    ///
    /// # Errors
    /// When `sink` could not keep it.
    pub(super) fn new<S: SampleSink>(
        pid: Pid,
        kin: Option<Kin>,
        baseline: Baseline,
        settings: ProcessSettings,
        sink: &mut S,
    ) -> Result<Self, S::Error> {
        let living = living_thread(pid);
        let description = describe(pid, living, kin);
        let id = sink.process(&description)?;
        let (cpu, children_ns_before) = match baseline {
            Baseline::Now => (
                CpuAccount::from_now(pid),
                stat::read(pid).map_or(0, |stat| stat.waited_cpu_ns()),
            ),
            Baseline::Zero => (CpuAccount::from_start(pid), 0),
        };
        Ok(Self {
            pid,
            id,
            threads: Vec::new(),
            turns: Vec::new(),
            memory: probed_memory(living),
            space: AddressSpace::default(),
            interpreters: Interpreters::of(settings.languages),
            rung: abilities::rung(pid, Tid(living.0), settings.may_stop),
            stack_bytes_max: settings.stack_bytes_max,
            max_overhead: settings.max_overhead,
            go_on_at: 0,
            task_count: TaskCount::new(pid),
            listed: 0,
            cpu,
            had_others: false,
            threads_ended: false,
            ended_threads: None,
            description,
            kin,
            parent: kin.map(|kin| kin.parent),
            children: ChildrenCpu::new(children_ns_before),
            looks_as_new: LOOKS_AS_NEW,
            jit: JitNames::default(),
            own_names: Vec::new(),
            are_names_due: false,
        })
    }

    /// What a look at one of its threads reads, and the threads to look at.
    pub(super) fn split(&mut self) -> (ProcessView<'_>, &mut Interpreters, &mut Vec<Thread>) {
        let view = ProcessView {
            pid: self.pid,
            memory: &self.memory,
            modules: self.space.modules(),
            marks: self.space.mark_plan(),
            stacks: self.space.stacks(),
            main_stack: self.space.main_stack(),
            rung: self.rung,
        };
        (view, &mut self.interpreters, &mut self.threads)
    }

    /// What it is recorded by for want of something better.
    pub(super) fn fallbacks(&self) -> impl Iterator<Item = Fallback> {
        let here = Abilities::here();
        let (way, rung) = (self.memory.way(), self.rung);
        let is_read = rung != Rung::States;
        let is_stopped = rung == Rung::Stops;
        let in_use = [
            (Fallback::MemoryByFile, is_read && way == MemoryWay::File),
            (Fallback::MemoryByWords, is_read && way == MemoryWay::Words),
            (
                Fallback::StopsBySignal,
                is_stopped && here.stop_way() == Some(StopWay::Signal),
            ),
            (
                Fallback::SleepersStopped,
                is_stopped && (here.syscall_file.is_err() || way == MemoryWay::Words),
            ),
            (Fallback::CpuByTicks, here.sched_stat.is_err()),
            (Fallback::StopsPolled, is_stopped && here.timer.is_err()),
            (Fallback::NoStops, rung == Rung::Reads),
            (Fallback::StatesOnly, rung == Rung::States),
        ];
        let in_use = in_use.into_iter().filter(|(_, is_used)| *is_used);
        in_use.map(|(fallback, _)| fallback)
    }

    /// What it and its threads have used until now is not part of the recording: finding them has taken its time.
    pub(super) fn begin_now(&mut self) {
        let mut beginning: Vec<usize> = (0..self.threads.len()).collect();
        for _ in 0..BEGIN_TRIES {
            self.cpu.begin();
            for &at in &beginning {
                let thread = &mut self.threads[at];
                if let Ok(used) = thread.files.sched_stat() {
                    thread.begin(clock::monotonic_ns(), used);
                }
            }
            // What a thread has used after the one reading and before the other would be nobody's, as if it were of a
            // thread that ended.
            self.cpu.read();
            if self.cpu.unobserved_ns() == 0 {
                return;
            }
            beginning.retain(|&at| {
                let thread = &mut self.threads[at];
                let used = thread.files.sched_stat();
                used.is_ok_and(|used| thread.unobserved_cpu_ns(used) > 0)
            });
        }
    }

    /// Whether the number of its threads is another than when they were listed last.
    pub(super) fn has_other_threads(&mut self) -> bool {
        self.task_count.read().ok() != Some(self.listed)
    }

    /// Lists the tasks and takes in those that are new. Threads that are gone drop out when they are next looked at.
    ///
    /// # Errors
    /// When `sink` could not keep a thread.
    pub(super) fn find_threads<S: SampleSink>(
        &mut self,
        now_ns: u64,
        baseline: Baseline,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let Ok(tids) = task::list(self.pid) else {
            return Ok(()); // it has ended, which the looks will notice
        };
        self.listed = tids.len() as u64;
        let known: FxHashMap<Tid, ()> =
            self.threads.iter().map(|thread| (thread.tid, ())).collect();
        for tid in tids.into_iter().filter(|tid| !known.contains_key(tid)) {
            self.add_thread(tid, now_ns, baseline, sink)?;
        }
        let reads_through = Tid(self.memory.pid().0);
        if !self
            .threads
            .iter()
            .any(|thread| thread.tid == reads_through)
        {
            self.find_living();
        }
        Ok(())
    }

    /// Reads memory and mappings through another thread if the one that they were read through has ended. The first
    /// thread of a process may end before the others; what the kernel shows under the process's number is that thread's.
    pub(super) fn find_living(&mut self) {
        let mut threads = self.threads.iter_mut();
        let living = threads
            .find_map(|thread| (!has_exited(&mut thread.files)).then_some(Pid(thread.tid.0)));
        if let Some(living) = living.filter(|&living| living != self.memory.pid()) {
            self.memory = probed_memory(living);
        }
    }

    fn add_thread<S: SampleSink>(
        &mut self,
        tid: Tid,
        now_ns: u64,
        baseline: Baseline,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let mut files = ThreadFiles::new(self.pid, tid);
        if has_exited(&mut files) {
            return Ok(());
        }
        let used = match baseline {
            Baseline::Zero => SchedStat::default(),
            Baseline::Now => match files.sched_stat() {
                Ok(used) => used,
                Err(_) => return Ok(()), // it ended between the listing and now
            },
        };
        let name = kernel_names::of_a_thread(self.pid, tid).unwrap_or_default();
        self.note_own_name(tid, &name);
        let id = sink.thread(&ThreadInfo {
            process: self.id,
            tid: tid.0,
            name: name.clone(),
        })?;
        let name = ThreadName::new(name);
        let plan = StackPlan::new(self.stack_bytes_max);
        let pauses = Pauses::new(self.max_overhead, now_ns);
        let mut thread = Thread::new(tid, id, name, files, plan, pauses);
        thread.begin(now_ns, used);
        self.threads.push(thread);
        self.turns.push(Turn::default());
        self.had_others |= self.threads.len() > 1;
        Ok(())
    }

    /// Says again what the process is, if it has executed another program.
    ///
    /// # Errors
    /// When `sink` could not keep it.
    pub(super) fn refresh_description<S: SampleSink>(
        &mut self,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let description = describe(self.pid, self.memory.pid(), self.kin);
        if description != self.description && !description.executable.is_empty() {
            sink.process(&description)?;
            self.description = description;
        }
        Ok(())
    }

    /// Reads the mappings again, and takes in files that are new. Says whether anything had changed.
    ///
    /// # Errors
    /// When `sink` could not keep them.
    pub(super) fn refresh_mappings<S: SampleSink>(
        &mut self,
        images: &mut Images,
        sink: &mut S,
    ) -> Result<bool, S::Error> {
        let changed = self.space.refresh(self.id, &self.memory, images, sink)?;
        self.refresh_interpreters(changed);
        Ok(changed)
    }

    /// Does so at a flush, unless reading them takes long.
    ///
    /// # Errors
    /// When `sink` could not keep them.
    pub(super) fn refresh_mappings_if_due<S: SampleSink>(
        &mut self,
        now_ns: u64,
        images: &mut Images,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let space = &mut self.space;
        let changed = space.refresh_if_due(now_ns, self.id, &self.memory, images, sink)?;
        self.refresh_interpreters(changed);
        Ok(())
    }

    /// Does so if a stack has shown that they may have changed, and says whether they had.
    ///
    /// # Errors
    /// When `sink` could not keep what is new.
    pub(super) fn refresh_stale_mappings<S: SampleSink>(
        &mut self,
        now_ns: u64,
        images: &mut Images,
        sink: &mut S,
    ) -> Result<bool, S::Error> {
        let space = &mut self.space;
        let changed = space.refresh_if_stale(now_ns, self.id, &self.memory, images, sink)?;
        self.refresh_interpreters(changed);
        Ok(changed)
    }

    /// Interpreters come with modules.
    fn refresh_interpreters(&mut self, have_modules_changed: bool) {
        if have_modules_changed {
            let modules = self.space.modules();
            self.interpreters.refresh(modules, &self.memory);
        }
    }

    /// Puts modules in the place of others if `marks`, copied with the last stack, show that they lay there. Says whether
    /// it did.
    pub(super) fn switch_modules(&mut self, marks: &CopiedMarks) -> bool {
        let has_switched = self.space.switch(marks);
        self.refresh_interpreters(has_switched);
        has_switched
    }

    /// Notes whether `stack`, with which `marks` were copied, shows that the mappings may have changed, or, while the
    /// process is new, its name.
    pub(super) fn check(&mut self, stack: &Stack, marks: &CopiedMarks) {
        if self.looks_as_new > 0 {
            self.looks_as_new -= 1;
            if self.has_another_name() {
                self.space.doubt();
            }
        }
        self.space.check(stack, marks, &self.memory);
    }

    /// Notes whether the modules that were just found are those that lay there when `stack` was copied.
    pub(super) fn check_new(&mut self, stack: &Stack, marks: &CopiedMarks) {
        self.space.check_new(stack, marks, &self.memory);
    }

    /// Whether its first thread is called otherwise than when that was last read: execve(2) names it.
    fn has_another_name(&self) -> bool {
        let main = self
            .threads
            .iter()
            .find(|thread| thread.tid.0 == self.pid.0);
        main.is_some_and(|main| {
            kernel_names::of_a_process(self.pid).is_ok_and(|name| name != main.name.kernel())
        })
    }

    /// Its memory.
    pub(super) fn memory(&self) -> &ProcessMemory {
        &self.memory
    }

    /// Whose thread calls itself `tid`, if it is one of ours: the number in its own pid namespace.
    pub(super) fn thread_called(&mut self, tid: i32) -> Option<&Thread> {
        let is_in_ours = self
            .threads
            .first_mut()
            .is_some_and(|first| first.namespace_tid() == first.tid.0);
        let is_it = |thread: &mut Thread| match is_in_ours {
            true => thread.tid.0 == tid,
            // Asked for once a thread.
            false => thread.namespace_tid() == tid,
        };
        let threads = self.threads.iter_mut();
        let at = threads.take(THREADS_ASKED_MAX).position(is_it)?;
        self.threads.get(at)
    }

    /// The frames that were found as they are recorded, outermost first, with `kernel` innermost.
    ///
    /// # Errors
    /// When `sink` could not keep a function.
    pub(super) fn keys<S: SampleSink>(
        &self,
        looked: &Looked,
        kernel: Option<FrameKey>,
        functions: &mut FunctionIds,
        sink: &mut S,
        keys: &mut Vec<FrameKey>,
    ) -> Result<(), S::Error> {
        keys.clear();
        for merged in looked.merged.iter().rev() {
            match *merged {
                MergedFrame::Native(at) => {
                    let frame = looked.stack.frames.get(at);
                    keys.extend(frame.map(|frame| self.space.key(frame)));
                }
                MergedFrame::Interpreted(at) => {
                    if let Some(frame) = looked.segments.frames.get(at) {
                        keys.push(functions.key(frame, sink)?);
                    }
                }
            }
        }
        keys.extend(kernel);
        keys.extend(looked.walked.holds_lock.then_some(FrameKey::HoldsLock));
        Ok(())
    }

    /// Notes where the last walked stack, recorded as `keys`, has code that no file backs, so that it gets names.
    pub(super) fn note_anonymous_code(&mut self, keys: &[FrameKey]) {
        let mut is_first = false;
        for lookup_address in keys.iter().filter_map(|key| key.anonymous_code()) {
            if self.space.modules().is_executable(Avma(lookup_address)) {
                is_first |= self.jit.want(lookup_address);
            }
        }
        // Not only at the next flush, when it may have ended.
        if is_first {
            self.jit
                .find_files(self.memory.pid(), self.space.mappings());
        }
    }

    /// Takes names for the code it has compiled, as far as `budget` goes.
    ///
    /// # Errors
    /// When `sink` could not keep them.
    pub(super) fn name_jit_code<S: SampleSink>(
        &mut self,
        began_ns: u64,
        budget: &mut JitBudget,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        self.jit
            .find_files(self.memory.pid(), self.space.mappings());
        let now_ns = clock::monotonic_ns();
        let codes = self.jit.read(self.id, now_ns, began_ns, false, budget);
        codes.iter().try_for_each(|code| sink.jit_code(code))
    }

    /// What is left to name when it has ended, and under which number.
    pub(super) fn into_jit(self) -> (ProcessId, JitNames) {
        (self.id, self.jit)
    }

    /// Ends the rest of all threads that are left alone, if the process has used more CPU time than was seen: one of
    /// them may have woken up. To be called after a tick; see [`CpuAccount::has_unexplained`].
    pub(super) fn wake_resting(&mut self, explained_ns: u64, unsure_ns: u64) {
        if self.cpu.has_unexplained(explained_ns, unsure_ns) {
            self.end_rests();
        }
    }

    /// All threads are looked at again at the next tick.
    pub(super) fn end_rests(&mut self) {
        self.turns.iter_mut().for_each(|turn| turn.rest.end());
    }

    /// CPU time that the process has used since its recording began and that neither an observation nor a live
    /// thread's accounts show: that of threads which ended between two looks.
    pub(super) fn unobserved_cpu_ns(&mut self) -> u64 {
        self.cpu.read();
        let pending = self.threads.iter_mut().filter_map(|thread| {
            let sched = thread.files.sched_stat().ok()?;
            Some(thread.unobserved_cpu_ns(sched))
        });
        self.cpu
            .unobserved_ns()
            .saturating_sub(pending.sum::<u64>())
    }

    /// How much of the CPU time that the accounts of one of its threads show beyond what was observed of that is not
    /// observed yet: see [`CpuAccount::not_observed_of`].
    pub(super) fn not_observed(&mut self, thread_cpu_ns: u64) -> u64 {
        if !self.had_others || thread_cpu_ns <= self.cpu.unobserved_ns() {
            return thread_cpu_ns;
        }
        match self.task_count.read() {
            Ok(0..=1) => self.cpu.not_observed_of(thread_cpu_ns),
            Ok(_) | Err(_) => thread_cpu_ns,
        }
    }

    /// The entry in the recording under which the CPU time of threads that ended unseen is kept.
    ///
    /// # Errors
    /// When `sink` could not keep it.
    pub(super) fn ended_threads<S: SampleSink>(
        &mut self,
        sink: &mut S,
    ) -> Result<ThreadId, S::Error> {
        if let Some(id) = self.ended_threads {
            return Ok(id);
        }
        let id = sink.thread(&ThreadInfo {
            process: self.id,
            tid: 0,
            name: "(ended threads)".to_owned(),
        })?;
        self.ended_threads = Some(id);
        Ok(id)
    }

    /// Whether the process has ended, be it that its parent has not taken notice yet. Takes notice of who its parent
    /// is, if it has not.
    pub(super) fn has_ended(&mut self) -> bool {
        // Of the first thread: for that of the process the kernel adds up all threads.
        match stat::read_thread(self.pid, Tid(self.pid.0)) {
            // Its number may have been given to another.
            Ok(stat) if self.is_another(&stat) => true,
            Ok(stat) if matches!(stat.state, ProcState::Zombie | ProcState::Dead) => {
                task::list(self.pid).map_or(true, |tids| tids.len() <= 1)
            }
            Ok(stat) => {
                self.parent = Some(stat.parent);
                false
            }
            Err(error) => proc::is_gone(&error),
        }
    }

    fn is_another(&self, stat: &Stat) -> bool {
        self.kin
            .is_some_and(|kin| kin.started_ticks != stat.start_time_ticks)
    }

    /// Reads what it is accounted of its children.
    pub(super) fn read_children_cpu(&mut self) {
        if let Ok(stat) = stat::read(self.pid)
            && !self.is_another(&stat)
        {
            self.children.read(&stat);
        }
    }

    /// All that it and its children are known to have used, before the recording too.
    pub(super) fn known_cpu_ns(&self) -> u64 {
        self.cpu.known_ns().saturating_add(self.children.known_ns())
    }
}

/// Its memory, read once: how it can be read is not to be found out while a thread stands still.
fn probed_memory(pid: Pid) -> ProcessMemory {
    let memory = ProcessMemory::new(pid);
    // Nothing is mapped at zero, and every way of reading says so.
    let _nothing_there = memory.read_u64(Avma(0));
    memory
}

/// Whether a thread has ended and is listed all the same: the main thread, while others run on or nobody has waited for
/// the process. It has given up its stack.
fn has_exited(files: &mut ThreadFiles) -> bool {
    match files.syscall() {
        Ok(SyscallState::BlockedOutsideSyscall { sp, .. }) => sp == Avma(0),
        Err(ThreadReadError::Gone) => true,
        // Who may not ask where it stands may ask whether it lives.
        Err(ThreadReadError::Denied(_)) => {
            let state = files.state();
            matches!(state, Ok(ProcState::Zombie | ProcState::Dead))
        }
        Ok(_) | Err(_) => false,
    }
}

/// A thread of process `pid` through which its memory can be read: its first one, unless that has ended before others.
fn living_thread(pid: Pid) -> Pid {
    let Ok(ProcState::Zombie | ProcState::Dead) = stat::read(pid).map(|stat| stat.state) else {
        return pid;
    };
    let others = task::list(pid).unwrap_or_default().into_iter();
    others
        .map(|tid| Pid(tid.0))
        .find(|&other| other != pid)
        .unwrap_or(pid)
}
