//! One process that is being sampled: its threads, its modules, its accounts.

use std::io;
use std::path::Path;
use std::time::Instant;

use rustc_hash::FxHashMap;
use sampler_platforms::linux::proc::maps::{self, Mapping};
use sampler_platforms::linux::proc::schedstat::SchedStat;
use sampler_platforms::linux::proc::stat::{self, ProcState, Stat};
use sampler_platforms::linux::proc::syscall::SyscallState;
use sampler_platforms::linux::proc::task::{self, ThreadFiles, ThreadReadError};
use sampler_platforms::linux::proc::{self, names};
use sampler_platforms::linux::{self, ProcessMemory, clock};
use sampler_platforms::{Pid, Tid};
use sampler_unwind::interpreter::{Interpreters, Languages};
use sampler_unwind::{Avma, Frame, MemoryReader, MergedFrame, Modules, Stack};

use super::budget::Share;
use super::children::ChildrenCpu;
use super::functions::FunctionIds;
use super::habits::Unexplained;
use super::images::{Images, LoadedModule, Places};
use super::look::{Looked, ProcessView};
use super::overhead::Pauses;
use super::process_table::Kin;
use super::stack_plan::{StackMappings, StackPlan};
use super::thread::Thread;
use crate::profile::{
    Birth, FrameKey, ModuleId, ProcessId, ProcessInfo, SampleSink, ThreadId, ThreadInfo,
};

/// How long after the mappings were read they are read again at the earliest, because a stack led nowhere: at first,
/// and when that has not helped time and again. In nanoseconds.
const REFRESH_PAUSE_NS_MIN: u64 = 5_000_000;
const REFRESH_PAUSE_NS_MAX: u64 = 2_000_000_000;

/// The mappings of a process that has thousands of them are read at a flush so often that it takes no more than one part
/// in this many of a CPU. Code that is not in those that are known is noticed all the same.
const MAPPINGS_PARTS: u64 = 1000;

/// Reading the CPU clock of a process with many threads takes no more than one part in this many of a CPU.
const CLOCK_PARTS: u64 = 1000;

/// How much of a command line is recorded, in bytes: a build has some thousand of them, of some thousand bytes each.
const COMMAND_LINE_BYTES_MAX: usize = 1024;

/// At how many looks at a process it is asked whether it has become another program, however familiar its code looks:
/// a process that was just forked mostly does.
const LOOKS_AS_NEW: u8 = 4;

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
    /// Its memory, read through a thread that lives: see [`TargetProcess::find_living`].
    memory: ProcessMemory,
    mappings: Vec<Mapping>,
    modules: Modules,
    module_ids: Vec<ModuleId>,
    stacks: StackMappings,
    interpreters: Interpreters,
    /// Whose frames are looked for.
    languages: Languages,
    /// An address on the main thread's stack.
    main_stack: Option<Avma>,
    /// An address outside every known mapping was met: the mappings have changed.
    stale: bool,
    refresh_due_ns: u64,
    refresh_pause_ns: u64,
    /// When they are read at a flush again, and how long it took last.
    mappings_due_ns: u64,
    mappings_took_ns: u64,
    stack_bytes_max: usize,
    /// How much of its time a thread may stand still because of us.
    max_overhead: Share,
    /// The thread that the next tick begins with: the last one had no time left for it.
    pub go_on_at: usize,
    /// How many threads it had when they were listed last.
    listed: u64,
    /// When the process's CPU clock is read next.
    clock_due_ns: u64,
    /// Whether it was read at this tick.
    is_clock_fresh: bool,
    /// The process's CPU clock when the recording of it began.
    cpu_ns_before: u64,
    /// The same when it was last read: once its parent has reaped it there is none.
    cpu_ns_read: u64,
    unexplained: Unexplained,
    /// CPU time turned into observations so far.
    pub observed_cpu_ns: u64,
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
    /// Where which module was said to lie.
    placed: Places,
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
        let (cpu_ns_before, children_ns_before) = match baseline {
            Baseline::Now => (
                cpu_ns(pid).unwrap_or(0),
                stat::read(pid).map_or(0, |stat| stat.waited_cpu_ns()),
            ),
            Baseline::Zero => (0, 0),
        };
        Ok(Self {
            pid,
            id,
            threads: Vec::new(),
            memory: probed_memory(living),
            mappings: Vec::new(),
            modules: Modules::default(),
            module_ids: Vec::new(),
            stacks: StackMappings::default(),
            interpreters: Interpreters::default(),
            languages: settings.languages,
            main_stack: None,
            stale: true,
            refresh_due_ns: 0,
            refresh_pause_ns: REFRESH_PAUSE_NS_MIN,
            mappings_due_ns: 0,
            mappings_took_ns: 0,
            stack_bytes_max: settings.stack_bytes_max,
            max_overhead: settings.max_overhead,
            go_on_at: 0,
            listed: 0,
            clock_due_ns: 0,
            is_clock_fresh: false,
            cpu_ns_before,
            cpu_ns_read: cpu_ns_before,
            unexplained: Unexplained::default(),
            observed_cpu_ns: 0,
            threads_ended: false,
            ended_threads: None,
            description,
            kin,
            parent: kin.map(|kin| kin.parent),
            children: ChildrenCpu::new(children_ns_before),
            looks_as_new: LOOKS_AS_NEW,
            placed: Places::default(),
        })
    }

    /// What a look at one of its threads reads, and the threads to look at.
    pub(super) fn split(&mut self) -> (ProcessView<'_>, &mut Interpreters, &mut Vec<Thread>) {
        let view = ProcessView {
            pid: self.pid,
            memory: &self.memory,
            modules: &self.modules,
            stacks: &self.stacks,
            main_stack: self.main_stack,
        };
        (view, &mut self.interpreters, &mut self.threads)
    }

    /// What it and its threads have used until now is not part of the recording: finding them has taken its time.
    pub(super) fn begin_now(&mut self) {
        self.read_cpu_clock();
        self.cpu_ns_before = self.cpu_ns_read;
        for thread in &mut self.threads {
            if let Ok(used) = thread.files.sched_stat() {
                thread.begin(clock::monotonic_ns(), used);
            }
        }
    }

    /// Whether the number of its threads is another than when they were listed last.
    pub(super) fn has_other_threads(&self) -> bool {
        task::count(self.pid).map_or(true, |count| count != self.listed)
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
        let name = names::of_a_thread(self.pid, tid).unwrap_or_default();
        let id = sink.thread(&ThreadInfo {
            process: self.id,
            tid: tid.0,
            name: name.clone(),
        })?;
        let plan = StackPlan::new(self.stack_bytes_max);
        let pauses = Pauses::new(self.max_overhead, now_ns);
        let mut thread = Thread::new(tid, id, name, files, plan, pauses);
        thread.begin(now_ns, used);
        self.threads.push(thread);
        Ok(())
    }

    /// Reads names again: programs name their threads after starting them.
    ///
    /// # Errors
    /// When `sink` could not keep one.
    pub(super) fn refresh_names<S: SampleSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        for thread in self
            .threads
            .iter_mut()
            .filter(|thread| !thread.is_name_current)
        {
            let Ok(name) = names::of_a_thread(self.pid, thread.tid) else {
                continue;
            };
            thread.is_name_current = true;
            if name != thread.name {
                thread.id = sink.thread(&ThreadInfo {
                    process: self.id,
                    tid: thread.tid.0,
                    name: name.clone(),
                })?;
                thread.name = name;
            }
        }
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
        self.stale = false;
        let living = self.memory.pid();
        let began = Instant::now();
        let Ok(mappings) = maps::read(living) else {
            return Ok(false); // it has ended, or is between two programs in execve
        };
        self.mappings_took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if mappings == self.mappings || mappings.is_empty() {
            return Ok(false);
        }
        let loaded = images.load(living, &mappings, &self.memory, sink)?;
        self.placed
            .make_room(loaded.iter().map(LoadedModule::place));
        for new in &loaded {
            if !self.placed.insert(new.place()) {
                continue;
            }
            let (start, end) = (new.module.avma.start.0, new.module.avma.end.0);
            sink.mapping(self.id, new.id, start, end, new.module.bias.0)?;
        }
        let executable = mappings
            .iter()
            .filter(|mapping| mapping.executable)
            .map(|mapping| mapping.range.clone());
        let mut loaded = loaded;
        loaded.sort_by_key(|new| new.module.avma.start);
        self.module_ids = loaded.iter().map(|new| new.id).collect();
        self.modules = Modules::new(
            loaded.into_iter().map(|new| new.module).collect(),
            executable.collect(),
        );
        self.interpreters
            .refresh(&self.modules, self.languages, &self.memory);
        let stacks = mappings
            .iter()
            .filter(|mapping| mapping.readable && mapping.writable);
        self.stacks = StackMappings::new(stacks.map(|mapping| mapping.range.clone()).collect());
        let main = mappings
            .iter()
            .find(|mapping| mapping.name.as_deref() == Some(Path::new("[stack]")));
        self.main_stack = main.map(|mapping| mapping.range.start);
        self.mappings = mappings;
        Ok(true)
    }

    /// Does so at a flush, unless reading them takes long: no more than one part in [`MAPPINGS_PARTS`] of the time.
    ///
    /// # Errors
    /// When `sink` could not keep them.
    pub(super) fn refresh_mappings_if_due<S: SampleSink>(
        &mut self,
        now_ns: u64,
        images: &mut Images,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        if now_ns >= self.mappings_due_ns {
            self.refresh_mappings(images, sink)?;
            let pause_ns = self.mappings_took_ns.saturating_mul(MAPPINGS_PARTS);
            self.mappings_due_ns = now_ns.saturating_add(pause_ns);
        }
        Ok(())
    }

    /// Does so if a stack has shown that they may have changed, and says whether they had. Where they had not, the next
    /// time is put off further and further.
    ///
    /// # Errors
    /// When `sink` could not keep what is new.
    pub(super) fn refresh_stale_mappings<S: SampleSink>(
        &mut self,
        now_ns: u64,
        images: &mut Images,
        sink: &mut S,
    ) -> Result<bool, S::Error> {
        if !self.stale || now_ns < self.refresh_due_ns {
            return Ok(false);
        }
        let changed = self.refresh_mappings(images, sink)?;
        self.refresh_pause_ns = if changed {
            REFRESH_PAUSE_NS_MIN
        } else {
            (self.refresh_pause_ns * 2).min(REFRESH_PAUSE_NS_MAX)
        };
        self.refresh_due_ns = now_ns + self.refresh_pause_ns;
        Ok(changed)
    }

    /// Notes whether `stack` shows that the mappings may have changed, or, while the process is new, its name.
    pub(super) fn check(&mut self, stack: &Stack) {
        if self.looks_as_new > 0 {
            self.looks_as_new -= 1;
            self.stale |= self.has_another_name();
        }
        let is_outside = |frame: &Frame| {
            !self.modules.is_executable(frame.address) || self.stacks.find(frame.sp).is_none()
        };
        self.stale |= !stack.end.is_complete() || stack.frames.first().is_some_and(is_outside);
    }

    /// Whether its first thread is called otherwise than when that was last read: execve(2) names it.
    fn has_another_name(&self) -> bool {
        let main = self
            .threads
            .iter()
            .find(|thread| thread.tid.0 == self.pid.0);
        main.is_some_and(|main| names::of_a_process(self.pid).is_ok_and(|name| name != main.name))
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
                    keys.extend(looked.stack.frames.get(at).map(|frame| self.key(frame)));
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

    fn key(&self, frame: &Frame) -> FrameKey {
        let module = self.modules.find_index(frame.lookup_address());
        let address = match module.and_then(|index| self.modules.iter().nth(index)) {
            Some(module) => module.svma(frame.address).0,
            None => frame.address.0,
        };
        FrameKey::Code {
            module: module.and_then(|index| self.module_ids.get(index)).copied(),
            address,
            is_return_address: frame.is_return_address(),
            origin: frame.origin,
        }
    }

    /// Reads the process's CPU clock, at every tick unless that takes long (the kernel adds up all threads): at most one
    /// part in [`CLOCK_PARTS`] of the time goes into it. Says how much it has used since the last reading.
    pub(super) fn read_cpu_clock_if_due(&mut self, now_ns: u64) -> u64 {
        self.is_clock_fresh = now_ns >= self.clock_due_ns;
        if !self.is_clock_fresh {
            return 0;
        }
        let began = Instant::now();
        let used_ns = self.read_cpu_clock();
        let took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.clock_due_ns = now_ns.saturating_add(took_ns.saturating_mul(CLOCK_PARTS));
        used_ns
    }

    /// Reads the process's CPU clock, at every tick: when it has ended and somebody else's child it was, this is the
    /// last that is known of threads that were never seen. Says how much it has used since the last reading.
    pub(super) fn read_cpu_clock(&mut self) -> u64 {
        let Ok(used_ns) = cpu_ns(self.pid) else {
            return 0;
        };
        let before_ns = std::mem::replace(&mut self.cpu_ns_read, used_ns);
        used_ns.saturating_sub(before_ns)
    }

    /// Ends the rest of all threads that are left alone, if the process has used more CPU time than was seen: one of
    /// them may have woken up. To be called after a tick, with the CPU time that is known to be of threads that were
    /// not looked at, and what threads may have used at most between the reading of the clock and their look.
    pub(super) fn wake_resting(&mut self, explained_ns: u64, unsure_ns: u64) {
        if !self.is_clock_fresh {
            return;
        }
        let used_ns = self.cpu_ns_read.saturating_sub(self.cpu_ns_before);
        let unexplained_ns = used_ns
            .saturating_sub(self.observed_cpu_ns)
            .saturating_sub(explained_ns);
        if self.unexplained.has_grown(unexplained_ns, unsure_ns) {
            self.threads.iter_mut().for_each(|thread| thread.rest.end());
        }
    }

    /// CPU time that the process has used since its recording began and that neither an observation nor a live
    /// thread's accounts show: that of threads which ended between two looks.
    pub(super) fn unobserved_cpu_ns(&mut self) -> u64 {
        self.read_cpu_clock();
        let pending = self.threads.iter_mut().filter_map(|thread| {
            let sched = thread.files.sched_stat().ok()?;
            Some(thread.unobserved_cpu_ns(sched))
        });
        self.cpu_ns_read
            .saturating_sub(self.cpu_ns_before)
            .saturating_sub(self.observed_cpu_ns)
            .saturating_sub(pending.sum::<u64>())
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
        self.cpu_ns_before
            .saturating_add(self.observed_cpu_ns)
            .saturating_add(self.children.known_ns())
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
        Ok(_) | Err(_) => false,
    }
}

fn cpu_ns(pid: Pid) -> io::Result<u64> {
    linux::process_cpu_time(pid).map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
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

/// The command line of a process, its arguments joined by spaces; its name when it has none.
pub(super) fn command_line_of(pid: Pid) -> String {
    let arguments = names::command_line(pid).unwrap_or_default();
    let words: Vec<_> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .collect();
    match words.is_empty() {
        true => names::of_a_process(pid).unwrap_or_default(),
        false => words.join(" "),
    }
}

/// What process `pid` is, as its thread `living` shows it.
fn describe(pid: Pid, living: Pid, kin: Option<Kin>) -> ProcessInfo {
    let mut command_line = command_line_of(living);
    if command_line.len() > COMMAND_LINE_BYTES_MAX {
        let cut = (0..COMMAND_LINE_BYTES_MAX).rfind(|&at| command_line.is_char_boundary(at));
        command_line.truncate(cut.unwrap_or(0));
        command_line.push('…');
    }
    let executable = names::executable(living)
        .map(|(path, _)| path.to_string_lossy().into_owned())
        .unwrap_or_default();
    ProcessInfo {
        pid: pid.0,
        birth: kin.map(|kin| Birth {
            parent: kin.parent.0,
            started_ticks: kin.started_ticks,
        }),
        command_line,
        executable,
    }
}
