//! One look at one thread: the sample path.
//!
//! The target pays for a look only with the time in which its thread stands still. So a sleeping thread is never
//! stopped: its stack pointer and PC are in /proc, its stack is copied, and the scheduler's count proves that it did
//! not run meanwhile. A running one is stopped for as long as it takes to copy its registers and stack. Unwinding
//! happens afterwards.

use std::time::{Duration, Instant};

use sampler_platforms::linux::abilities::{MemoryWay, Rung};
use sampler_platforms::linux::proc::schedstat::SchedStat;
use sampler_platforms::linux::proc::stat::{self, ProcState};
use sampler_platforms::linux::proc::syscall::SyscallState;
use sampler_platforms::linux::proc::task::ThreadReadError;
use sampler_platforms::linux::{
    self, ProcessMemory, StopFailure, StoppedRegisters, StoppedThread, clock,
};
use sampler_platforms::{Pid, Tid};
use sampler_unwind::interpreter::{
    Interpreters, Lost, Segments, ThreadContext, VolatileBuffer, VolatileCopy, WalkedAll,
};
use sampler_unwind::{
    Arch, Avma, MergedFrame, Modules, ReadError, Registers, Stack, StackEnd, Unwinder, merge,
};

use super::costs::Costs;
use super::marks::{CopiedMarks, MarkPlan};
use super::stack_copy::{self, InterpreterMemory, StackCopy, WalkMemory};
use super::stack_plan::{StackMappings, StackPlan};
use super::thread::{Lateness, Thread};
use crate::profile::{FrameKey, Missed, ThreadState};
use crate::symbols::recorded_syscall;

/// How long a stop is waited for at least: a thread that is on a CPU stops within some tens of microseconds.
const PATIENCE_MIN: Duration = Duration::from_micros(500);

/// How long to spin for a thread that is on another CPU: a few times what it takes to stop there.
const SPIN_MAX: Duration = Duration::from_micros(150);

/// How long it takes us to notice that we are awake: the thread that we have put off its CPU waits since before that.
const WAKING_MAX: Duration = Duration::from_micros(300);

/// How long a thread may stand still for one sample by default.
pub const PAUSE_MAX_DEFAULT: Duration = Duration::from_millis(1);

/// How often a sleeping thread is read when it runs on while being read.
const SLEEPER_TRIES: usize = 2;

/// How long a rehearsal reads: those of ordinary stacks take less.
const REHEARSAL_MAX: Duration = Duration::from_micros(50);

/// The DWARF numbers of the registers with the arguments of a system call: rdi, rsi, rdx, r10, r8, r9 (System V ABI for
/// x86_64, A.2.1 and figure 3.36); x0 to x5 (syscall(2)).
const ARGUMENT_REGISTERS: [u16; 6] = if cfg!(target_arch = "aarch64") {
    [0, 1, 2, 3, 4, 5]
} else {
    [5, 4, 1, 10, 8, 9]
};

/// What a look reads of the process, besides the thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessView<'a> {
    /// Its number.
    pub pid: Pid,
    /// Its memory.
    pub memory: &'a ProcessMemory,
    /// Its modules.
    pub modules: &'a Modules,
    /// What tells modules apart that have taken each other's place.
    pub marks: &'a MarkPlan,
    /// Where stacks can be.
    pub stacks: &'a StackMappings,
    /// An address on the main thread's stack.
    pub main_stack: Option<Avma>,
    /// How much can be had of it.
    pub rung: Rung,
}

/// What the last look found, besides what it is made of.
#[derive(Debug)]
pub(super) struct Looked {
    /// The native frames.
    pub stack: Stack,
    /// The interpreted ones.
    pub segments: Segments,
    /// All of them in order, innermost first.
    pub merged: Vec<MergedFrame>,
    /// What came of the search for interpreted ones.
    pub walked: WalkedAll,
}

impl Looked {
    fn clear(&mut self) {
        self.stack.frames.clear();
        self.stack.end = StackEnd::DidNotAdvance;
        self.segments.clear();
        self.merged.clear();
        self.walked = WalkedAll::default();
    }
}

/// What a look found, besides the stack in [`Looker::stack`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// What the thread was doing.
    pub state: ThreadState,
    /// The innermost frame, if it was in the kernel.
    pub kernel: Option<FrameKey>,
    /// What a sleeper waits in.
    pub waiting: Option<Waiting>,
    /// Whether it was waiting for a CPU when we came, and so stood where it had lost its last one. Programs lose
    /// their CPU at the end of system calls more often than elsewhere: what such looks see is not where time goes.
    pub was_waiting_for_cpu: bool,
    /// The scheduler's accounts that go with it.
    pub sched: SchedStat,
}

impl Seen {
    /// Whether there is a native stack to be judged by.
    pub(super) fn has_stack(self) -> bool {
        !matches!(self.kernel, Some(FrameKey::NotStopped | FrameKey::Asleep))
    }
}

/// The system call a sleeping thread is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Its number.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Why a look found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unseen {
    /// The thread has ended.
    Ended,
    /// It could not be looked at this time.
    Missed(Missed),
}

/// Looks at threads, one at a time. Everything it needs while a thread stands still is allocated beforehand.
#[derive(Debug)]
pub(super) struct Looker {
    stop_within: Duration,
    /// How long a thread may stand still while it is copied.
    pause_max: Duration,
    /// How long a stop is spun for at most; nothing where there is one CPU only.
    spin_max: Duration,
    /// How long stops may still be waited for before the next [`Looker::wake`].
    patience: Duration,
    copy: StackCopy,
    /// What was copied with it.
    marks: CopiedMarks,
    /// What interpreters have copied.
    volatile: VolatileBuffer,
    unwinder: Unwinder,
    looked: Looked,
    /// What the last walk began with.
    context: ThreadContext,
    /// Since when we have been on a CPU ourselves: since the last sleep or the last stop that we waited for. Whom we
    /// have put off a CPU has waited no longer than since then.
    awake_since: Instant,
}

impl Looker {
    /// At most `stack_bytes_max` bytes are copied of a thread, and no more than can be in `pause_max`; one that has not
    /// stopped `stop_within` some time after it was asked to is collected later, unseen. Threads are waited for no
    /// longer than that altogether from one wake to the next; after that each gets a moment only.
    pub(super) fn new(stack_bytes_max: usize, pause_max: Duration, stop_within: Duration) -> Self {
        Self {
            stop_within,
            pause_max,
            spin_max: match std::thread::available_parallelism() {
                Ok(cpus) if cpus.get() > 1 => SPIN_MAX,
                Ok(_) | Err(_) => Duration::ZERO,
            },
            patience: stop_within,
            copy: StackCopy::new(stack_bytes_max),
            marks: CopiedMarks::default(),
            volatile: VolatileBuffer::default(),
            unwinder: Unwinder::new(),
            looked: Looked {
                stack: Stack::empty(),
                segments: Segments::default(),
                merged: Vec::new(),
                walked: WalkedAll::default(),
            },
            context: ThreadContext {
                tid: 0,
                namespace_tid: 0,
                registers: Registers::unknown(Arch::NATIVE),
                thread_pointer: None,
                stack: Avma(0)..Avma(0),
                is_running: false,
            },
            awake_since: Instant::now(),
        }
    }

    /// The stack found by the last look that found one.
    pub(super) fn stack(&self) -> &Stack {
        &self.looked.stack
    }

    /// What shows which modules lay where when that stack was copied.
    pub(super) fn marks(&self) -> &CopiedMarks {
        &self.marks
    }

    /// All that the last look found that found something.
    pub(super) fn looked(&mut self) -> &mut Looked {
        &mut self.looked
    }

    /// To be called after every sleep.
    pub(super) fn wake(&mut self) {
        self.awake_since = Instant::now();
        self.patience = self.stop_within;
    }

    /// Looks at `thread`, whose scheduler's accounts were `sched` a moment ago.
    ///
    /// # Errors
    /// [`Unseen`] when there is no stack to show; the reason is not an error of the recording.
    pub(super) fn look(
        &mut self,
        process: ProcessView<'_>,
        interpreters: &mut Interpreters,
        thread: &mut Thread,
        mut sched: SchedStat,
        costs: &mut Costs,
    ) -> Result<Seen, Unseen> {
        if process.rung == Rung::States {
            return self.look_from_afar(thread, sched);
        }
        if !interpreters.is_empty() {
            self.context.namespace_tid = thread.namespace_tid();
        }
        for attempt in 1..=SLEEPER_TRIES {
            let state = thread.files.syscall().map_err(unseen)?;
            thread.asleep_in = state.asleep_in().or(thread.asleep_in);
            let (pc, sp) = match state {
                SyscallState::Running if process.rung == Rung::Stops => {
                    return self.look_at_running(process, interpreters, thread, sched, costs);
                }
                SyscallState::Running => {
                    return self.look_unstopped(process, interpreters, thread, sched, costs);
                }
                SyscallState::Hidden => {
                    return self.look_at_hidden(process, interpreters, thread, sched, costs);
                }
                SyscallState::Blocked { pc, sp, .. }
                | SyscallState::BlockedOutsideSyscall { pc, sp } => (pc, sp),
            };
            if sp == Avma(0) {
                return Err(Unseen::Ended);
            }
            if process.memory.way() == MemoryWay::Words {
                return self.look_at_hidden(process, interpreters, thread, sched, costs);
            }
            if thread.has_not_run_since_let_go(sched) {
                return Err(Unseen::Missed(Missed::NotScheduled));
            }
            if let Some(own) = own_stack(process, thread.tid, None) {
                thread.plan.settle(own, process.stacks);
            }
            self.copy_stack(process, &thread.plan, sp, || true)
                .map_err(unreadable)?;
            let registers = registers_asleep(state, pc, sp);
            self.capture(process, interpreters, thread, registers, None);
            thread.expected.learn(&self.volatile);
            let after = thread.files.sched_stat().map_err(unseen)?;
            if after.timeslices == sched.timeslices {
                self.walk_again(process, interpreters, thread);
                // By now it is known where the interpreter's state is. The stack will hold for as long as it sleeps.
                let was_too_early = self.looked.walked.lost == Some(Lost::NotFound);
                if was_too_early && attempt < SLEEPER_TRIES {
                    sched = after;
                    continue;
                }
                costs.read_unstopped();
                return Ok(asleep(process.pid, thread.tid, state, after));
            }
            sched = after;
        }
        Err(Unseen::Missed(Missed::Torn))
    }

    fn look_at_running(
        &mut self,
        process: ProcessView<'_>,
        interpreters: &mut Interpreters,
        thread: &mut Thread,
        before: SchedStat,
        costs: &mut Costs,
    ) -> Result<Seen, Unseen> {
        let awake_since = self.awake_since;
        self.rehearse(process, interpreters, thread);
        let began = Instant::now();
        let asked_ns = clock::monotonic_ns();
        let within = self.patience.max(PATIENCE_MIN);
        let spin = thread.spin.next(self.spin_max);
        let stopped = linux::stop(process.pid, thread.tid, within, spin);
        self.patience = self.patience.saturating_sub(began.elapsed());
        let within_spin = matches!(&stopped, Ok(stopped) if stopped.since_asked() < spin);
        thread.spin.learn(within_spin);
        let stopped = stopped.map_err(|failure| not_stopped(failure, thread, asked_ns, before))?;
        let stood_since = Instant::now();
        let until = stood_since + self.pause_max;
        let looked = self.copy_stopped(process, interpreters, thread, &stopped, until);
        // A thread that was killed while it stood does not say for how long.
        let pause = stopped.detach().unwrap_or_else(|_| began.elapsed());
        self.awake_since = Instant::now();
        let sched = thread.files.sched_stat().unwrap_or(before);
        let waited = Duration::from_nanos(sched.run_queue_ns.saturating_sub(before.run_queue_ns));
        // Before it could stop it had to get a CPU; that it waited for one is not our doing.
        let stood = pause
            .saturating_sub(waited)
            .max(self.awake_since.duration_since(stood_since));
        costs.stopped(stood);
        costs.worst_second(thread.pauses.stood(clock::monotonic_ns(), stood));
        let (registers, is_repaired) = looked?;
        if is_repaired {
            costs.repaired_syscall();
        }
        thread.let_go_at = Some(sched);
        thread.expected.learn(&self.volatile);
        self.walk_again(process, interpreters, thread);
        // A thread that fell asleep under our hands was asleep when it was stopped.
        let (state, kernel, waiting) = match registers.syscall {
            Some(number) if registers.interrupted_syscall => {
                let argument = |register| registers.registers.get(register).unwrap_or(0);
                let arguments = ARGUMENT_REGISTERS.map(argument);
                let waiting = Waiting { number, arguments };
                (
                    ThreadState::Blocked,
                    Some(FrameKey::Blocked(recorded_syscall(number))),
                    Some(waiting),
                )
            }
            number => {
                let kernel = number.map(|number| FrameKey::Syscall(recorded_syscall(number)));
                (ThreadState::Running, kernel, None)
            }
        };
        Ok(Seen {
            state,
            kernel,
            waiting,
            was_waiting_for_cpu: waited > awake_since.elapsed() + WAKING_MAX,
            sched,
        })
    }

    /// Does what interpreters will probably do, while the thread still runs, so that in the stop all of it is in the
    /// caches: code, tables, and the target's words. A read of six regions after a sleep takes 15 µs, and the second time
    /// 8 µs. Interpreters are given the stack that was copied last, if it is this thread's; what they find is not used.
    fn rehearse(
        &mut self,
        process: ProcessView<'_>,
        interpreters: &mut Interpreters,
        thread: &Thread,
    ) {
        if interpreters.is_empty() || process.memory.way() == MemoryWay::Words {
            return;
        }
        let until = Instant::now() + REHEARSAL_MAX;
        let may_go_on = || Instant::now() < until;
        self.volatile.clear();
        let mut volatile = VolatileCopy::new(&mut self.volatile, &self.copy, process.memory)
            .as_long_as(&may_go_on);
        volatile.expect(&thread.expected);
        if self.context.tid == thread.tid.0 && self.context.stack == self.copy.live_range() {
            interpreters.capture(&self.context, &mut volatile);
        }
    }

    /// Copies the registers and the stack of a thread that stands still, and repairs the system call it was in.
    fn copy_stopped(
        &mut self,
        process: ProcessView<'_>,
        interpreters: &mut Interpreters,
        thread: &mut Thread,
        stopped: &StoppedThread,
        until: Instant,
    ) -> Result<(StoppedRegisters, bool), Unseen> {
        let registers = stopped
            .registers()
            .map_err(|_| Unseen::Missed(Missed::Unreadable))?;
        stopped.was_last_asleep_in(thread.asleep_in);
        // Whatever else fails: the target must not see that it was stopped.
        let repaired = stopped.repair_interrupted_syscall(&registers);
        if let Some(own) = own_stack(process, thread.tid, Some(&registers)) {
            thread.plan.settle(own, process.stacks);
        }
        let _readable = process.memory.through(stopped);
        let sp = registers.registers.sp().unwrap_or_default();
        self.copy_stack(process, &thread.plan, sp, || Instant::now() < until)
            .map_err(unreadable)?;
        thread.thread_pointer = Some(registers.thread_pointer);
        self.capture(
            process,
            interpreters,
            thread,
            registers.registers,
            Some(until),
        );
        Ok((registers, repaired.unwrap_or(false)))
    }

    /// Has the interpreters copy what they need besides the stack. The thread stands still, at most `until` then, or
    /// sleeps.
    fn capture(
        &mut self,
        process: ProcessView<'_>,
        interpreters: &mut Interpreters,
        thread: &Thread,
        registers: Registers,
        until: Option<Instant>,
    ) {
        self.context = ThreadContext {
            tid: thread.tid.0,
            namespace_tid: self.context.namespace_tid,
            registers,
            thread_pointer: thread.thread_pointer,
            stack: self.copy.live_range(),
            is_running: until.is_some(),
        };
        self.volatile.clear();
        let may_go_on = || until.is_none_or(|until| Instant::now() < until);
        let mut volatile = VolatileCopy::new(&mut self.volatile, &self.copy, process.memory)
            .as_long_as(&may_go_on);
        if process.memory.way() != MemoryWay::Words {
            volatile.expect(&thread.expected);
        }
        interpreters.capture(&self.context, &mut volatile);
    }

    fn copy_stack(
        &mut self,
        process: ProcessView<'_>,
        plan: &StackPlan,
        sp: Avma,
        may_go_on: impl FnMut() -> bool,
    ) -> Result<(), ReadError> {
        let plan = plan.plan(sp, Arch::NATIVE.red_zone_bytes, process.stacks);
        let piece_bytes = match process.memory.way() {
            MemoryWay::Call | MemoryWay::File => stack_copy::PIECE_BYTES,
            MemoryWay::Words => stack_copy::PIECE_BYTES_BY_WORDS,
        };
        let marks = &mut self.marks;
        marks.begin(process.marks);
        let read = |regions: [(Avma, &mut [u8]); 2]| marks.read(process.memory, regions);
        self.copy.fill(&plan, piece_bytes, read, may_go_on)
    }

    /// Walks what was copied last: for the first time, or once more with modules that were not known then.
    pub(super) fn walk_again(
        &mut self,
        process: ProcessView<'_>,
        interpreters: &mut Interpreters,
        thread: &mut Thread,
    ) {
        if interpreters.is_empty() {
            self.walk_native(process);
        } else {
            self.walk_scripts(process, interpreters);
        }
        if interpreters.meet(&self.looked.stack, process.modules, process.memory) {
            self.walk_scripts(process, interpreters);
        }
        let looked = &mut self.looked;
        merge(
            looked.stack.frames.len(),
            &mut looked.segments,
            &mut looked.merged,
        );
        thread.plan.learn(&looked.stack, process.stacks);
    }

    fn walk_native(&mut self, process: ProcessView<'_>) {
        let memory = WalkMemory {
            copy: &self.copy,
            live: process.memory,
            modules: process.modules,
        };
        let (start, looked) = (&self.context.registers, &mut self.looked);
        self.unwinder
            .walk(process.modules, start, &memory, &mut looked.stack);
        looked.segments.clear();
        looked.walked = WalkedAll::default();
    }

    fn walk_scripts(&mut self, process: ProcessView<'_>, interpreters: &mut Interpreters) {
        let memory = WalkMemory {
            copy: &self.copy,
            live: process.memory,
            modules: process.modules,
        };
        let all = InterpreterMemory {
            volatile: &self.volatile,
            copy: &self.copy,
            live: process.memory,
        };
        let (context, looked) = (&self.context, &mut self.looked);
        let (start, stack) = (&context.registers, &mut looked.stack);
        let mut guide = interpreters.guide(context, &all);
        self.unwinder
            .walk_with_guide(process.modules, start, &memory, &mut guide, stack);
        drop(guide);
        looked.walked = interpreters.walk(context, stack, &all, &mut looked.segments);
    }
}

/// What is known of the registers of a sleeping thread. A system call keeps those with its arguments: vfork(2) of glibc
/// has its return address in one.
fn registers_asleep(state: SyscallState, pc: Avma, sp: Avma) -> Registers {
    let mut registers = Registers::at(Arch::NATIVE, pc, sp);
    if let SyscallState::Blocked { arguments, .. } = state {
        for (register, value) in ARGUMENT_REGISTERS.into_iter().zip(arguments) {
            registers.set(register, value);
        }
    }
    registers
}

fn asleep(pid: Pid, tid: Tid, state: SyscallState, sched: SchedStat) -> Seen {
    let (state, kernel, waiting) = match state {
        SyscallState::Blocked {
            number, arguments, ..
        } => (
            ThreadState::Blocked,
            FrameKey::Blocked(recorded_syscall(number)),
            Some(Waiting { number, arguments }),
        ),
        _ if is_stopped(pid, tid) => (ThreadState::Stopped, FrameKey::Stopped, None),
        _ => (ThreadState::Blocked, FrameKey::BlockedInFault, None),
    };
    Seen {
        state,
        kernel: Some(kernel),
        waiting,
        was_waiting_for_cpu: false,
        sched,
    }
}

/// Why a thread did not stop. One that may still do so is kept in `thread`.
fn not_stopped(
    failure: StopFailure,
    thread: &mut Thread,
    asked_ns: u64,
    before: SchedStat,
) -> Unseen {
    match failure {
        StopFailure::Gone { .. } | StopFailure::Exited { .. } => Unseen::Ended,
        StopFailure::Late(late) => {
            thread.will_stop(late, asked_ns, before, clock::monotonic_ns());
            Unseen::Missed(Missed::NotScheduled)
        }
        StopFailure::Executing { .. } | StopFailure::Uninterruptible { .. } => {
            Unseen::Missed(Missed::NotScheduled)
        }
        StopFailure::AlreadyTraced { .. } => Unseen::Missed(Missed::Traced),
        StopFailure::Denied { .. } => Unseen::Missed(Missed::Denied),
        StopFailure::Failed { .. } => Unseen::Missed(Missed::Unreadable),
    }
}

/// Whether `thread` was asked to stop and has not yet. One that has by now is let go; whoever asks would have been
/// woken by that, and has been awake since `awake_since_ns`.
pub(super) fn is_late(thread: &mut Thread, awake_since_ns: u64, costs: &mut Costs) -> bool {
    // Nearly none is, of the thousands that are asked at every tick; to read the clock for each costs more than the rest.
    if !thread.is_awaited() {
        return false;
    }
    let now_ns = clock::monotonic_ns();
    match thread.lateness(now_ns, awake_since_ns) {
        Lateness::None => false,
        Lateness::Waiting => true,
        Lateness::Over(stood) => {
            costs.stopped(stood);
            costs.worst_second(thread.pauses.stood(now_ns, stood));
            false
        }
    }
}

/// An address on the stack that a thread was started on: glibc and musl lay a thread's block of variables at the upper
/// end of it.
fn own_stack(
    process: ProcessView<'_>,
    tid: Tid,
    registers: Option<&StoppedRegisters>,
) -> Option<Avma> {
    if tid.0 == process.pid.0 {
        process.main_stack
    } else {
        registers.map(|registers| Avma(registers.thread_pointer))
    }
}

/// Whether a thread was stopped by a signal or a debugger.
pub(super) fn is_stopped(pid: Pid, tid: Tid) -> bool {
    stat::read_thread(pid, tid)
        .is_ok_and(|stat| matches!(stat.state, ProcState::Stopped | ProcState::TracingStop))
}

fn unseen(error: ThreadReadError) -> Unseen {
    match error {
        ThreadReadError::Gone => Unseen::Ended,
        ThreadReadError::Denied(_) => Unseen::Missed(Missed::Denied),
        ThreadReadError::OutOfDescriptors(_)
        | ThreadReadError::Malformed(_)
        | ThreadReadError::Other(_) => Unseen::Missed(Missed::Unreadable),
    }
}

fn unreadable(error: ReadError) -> Unseen {
    match error {
        // Whether it was this thread that has ended, or the one that memory is read through, its files will tell.
        ReadError::Gone(_) => Unseen::Missed(Missed::ThreadEnded),
        ReadError::Denied(_) => Unseen::Missed(Missed::Denied),
        ReadError::Unmapped(_) | ReadError::NotCopied(_) => Unseen::Missed(Missed::Unreadable),
    }
}

mod otherwise;

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
