//! One run of a program: step, follow, compare.

use std::ffi::OsString;

use anyhow::Context;
use libc::user_regs_struct;
use nix::sys::signal::Signal;
use sampler_platforms::linux::proc::maps;
use sampler_platforms::linux::{ProcessMemory, interrupts};
use sampler_unwind::{
    Arch, Avma, MemoryReader, ReadError, Registers, SliceMemory, Stack, Unwinder,
};

use crate::images::Images;
use crate::instructions::{Action, Instructions};
use crate::shadow::Shadow;
use crate::tally::Tally;
use crate::target::{Stop, Target, dwarf_registers};
use crate::verdict::judge;

/// How far below its first address the main stack may reach, in bytes.
const HOME_BYTES: u64 = 64 << 20;
/// The most of a stack that is copied at once; what lies further up is read word by word.
const COPY_BYTES_MAX: u64 = 1 << 20;
/// `rt_sigreturn` and the system calls after which code may lie elsewhere (arch/x86/entry/syscalls/syscall_64.tbl).
const RT_SIGRETURN: u64 = libc::SYS_rt_sigreturn.unsigned_abs();
const MMAP: u64 = libc::SYS_mmap.unsigned_abs();
const MPROTECT: u64 = libc::SYS_mprotect.unsigned_abs();
const MUNMAP: u64 = libc::SYS_munmap.unsigned_abs();
const MREMAP: u64 = libc::SYS_mremap.unsigned_abs();

/// What to compare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Let the program run up to its own entry point first, where no call is under way.
    pub(crate) from_entry: bool,
    /// So many instructions are followed before the first comparison.
    pub(crate) skip: u64,
    /// So many are followed after that, and then the program is killed; to its end if `None`.
    pub(crate) steps: Option<u64>,
    /// Every so many instructions there is a comparison. System calls are compared all.
    pub(crate) every: u64,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Instructions that were executed.
    pub(crate) instructions: u64,
    /// Walks from all registers, at instructions.
    pub(crate) running: Tally,
    /// Walks from what a thread shows that sleeps in a system call, at each of them.
    pub(crate) asleep: Tally,
}

/// Runs `command` and compares.
///
/// # Errors
/// When the program cannot be executed, traced or read.
pub(crate) fn run(command: &[OsString], plan: Plan) -> anyhow::Result<Outcome> {
    let mut target = Target::start(command)?;
    if plan.from_entry {
        target.run_to_entry()?;
    }
    let mut session = Session::new(&target, plan)?;
    let mut at = target.registers()?;
    let mut signal = None;
    while !session.is_done() {
        let action = session.next_instruction(&target, &at, signal)?;
        let stop = match target.step(signal).context("cannot wait for the program")? {
            Stop::Ended => break,
            stop => stop,
        };
        let now = target.registers()?;
        session.follow(&at, action, &now, signal, stop);
        signal = match stop {
            Stop::Signal(signal) => Some(signal),
            _ => None,
        };
        if stop == Stop::Executed {
            session.start_anew(&target, &now)?;
        }
        at = now;
    }
    Ok(session.outcome)
}

/// What a walk starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// All registers.
    Running,
    /// The PC behind a system call, and the stack pointer.
    Asleep,
}

struct Session {
    plan: Plan,
    memory: ProcessMemory,
    images: Images,
    decoded: Instructions,
    shadow: Shadow,
    home_end: u64,
    unwinder: Unwinder,
    outcome: Outcome,
    /// The last address was that of a string instruction, which may not be over.
    repeating: Option<u64>,
    /// Code may lie elsewhere than `images` say.
    is_stale: bool,
    /// What one comparison needs, allocated once.
    copy: Vec<u8>,
    truth: Vec<u64>,
    stack: Stack,
}

impl Session {
    fn new(target: &Target, plan: Plan) -> anyhow::Result<Self> {
        let mut session = Self {
            plan,
            memory: ProcessMemory::new(target.pid()),
            images: Images::default(),
            decoded: Instructions::default(),
            shadow: Shadow::new(0..0),
            home_end: 0,
            unwinder: Unwinder::new(),
            outcome: Outcome {
                instructions: 0,
                running: Tally::default(),
                asleep: Tally::default(),
            },
            repeating: None,
            is_stale: true,
            copy: Vec::new(),
            truth: Vec::new(),
            stack: Stack::empty(),
        };
        session.start_anew(target, &target.registers()?)?;
        Ok(session)
    }

    /// A program is about to execute its first instruction.
    fn start_anew(&mut self, target: &Target, at: &user_regs_struct) -> anyhow::Result<()> {
        let sp = Avma(at.rsp);
        let mappings = maps::read(target.pid())?;
        let stack = mappings
            .iter()
            .find(|mapping| mapping.range.contains(&sp))
            .context("the program has no stack")?;
        self.home_end = stack.range.end.0;
        self.shadow = Shadow::new(sp.0.saturating_sub(HOME_BYTES)..self.home_end);
        self.decoded.forget();
        self.is_stale = true;
        Ok(())
    }

    /// Whether all steps are done, or somebody wants to see what there is.
    fn is_done(&self) -> bool {
        if interrupts::requested() > 0 {
            return true;
        }
        self.plan
            .steps
            .is_some_and(|steps| self.outcome.instructions >= self.plan.skip.saturating_add(steps))
    }

    /// Looks at the instruction that is executed next, and compares if it is its turn.
    fn next_instruction(
        &mut self,
        target: &Target,
        at: &user_regs_struct,
        signal: Option<Signal>,
    ) -> anyhow::Result<Action> {
        if std::mem::take(&mut self.is_stale) && self.images.refresh(target.pid(), &self.memory)? {
            self.outcome.running.settle(&self.images);
            self.outcome.asleep.settle(&self.images);
            self.decoded.forget();
        }
        let is_constant = self.images.modules().find_index(Avma(at.rip)).is_some();
        let action = self.decoded.action(at.rip, is_constant, &self.memory);
        let goes_on = self.repeating == Some(at.rip);
        self.repeating = (action == Action::Repeat).then_some(at.rip);
        if goes_on || signal.is_some() {
            return Ok(action);
        }
        self.outcome.instructions += 1;
        if self.outcome.instructions <= self.plan.skip {
            return Ok(action);
        }
        if self.outcome.instructions.is_multiple_of(self.plan.every) {
            self.compare(&dwarf_registers(at), View::Running);
        }
        if let Action::SystemCall { next } = action
            && at.rax != RT_SIGRETURN
        {
            let shown = Registers::at(&Arch::X86_64, Avma(next), Avma(at.rsp));
            self.compare(&shown, View::Asleep);
        }
        Ok(action)
    }

    /// Walks from `start`, and counts what comes of it.
    fn compare(&mut self, start: &Registers, view: View) {
        let tally = match view {
            View::Running => &mut self.outcome.running,
            View::Asleep => &mut self.outcome.asleep,
        };
        let sp = start.sp().unwrap_or_default().0;
        if !self.shadow.is_followed(sp) {
            tally.unjudged += 1;
            return;
        }
        let from = sp.saturating_sub(Arch::X86_64.red_zone_bytes) & !7;
        let bytes = self.home_end.saturating_sub(from).min(COPY_BYTES_MAX);
        self.copy
            .resize(usize::try_from(bytes).unwrap_or_default(), 0);
        let copied = self.memory.read(Avma(from), &mut self.copy).unwrap_or(0);
        let memory = Memory {
            copy: SliceMemory::new(Avma(from), &self.copy[..copied]),
            live: &self.memory,
        };
        self.truth.clear();
        let word = |slot| memory.read_u64(Avma(slot)).ok();
        self.truth.extend(self.shadow.returns(word));
        let modules = self.images.modules();
        self.unwinder.walk(modules, start, &memory, &mut self.stack);
        let judged = judge(&self.stack, &self.truth);
        tally.count(&self.images, &self.stack, &self.truth, judged);
    }

    /// `action` at `before` has led to `now`, unless the step did not come to it.
    fn follow(
        &mut self,
        before: &user_regs_struct,
        action: Action,
        now: &user_regs_struct,
        signal: Option<Signal>,
        stop: Stop,
    ) {
        let has_moved = now.rip != before.rip || now.rsp != before.rsp;
        if matches!(stop, Stop::Signal(_)) && !has_moved {
            return;
        }
        if signal.is_some() && self.follow_handler(before, now) {
            return;
        }
        let number = before.rax;
        match action {
            Action::SystemCall { .. } if number == RT_SIGRETURN => {
                self.shadow.returned_from_handler();
            }
            Action::SystemCall { .. } => self.is_stale |= moves_code(number, before.rdx),
            _ => {}
        }
        self.shadow
            .moved_to(now.rip, now.rsp, action == Action::Pop);
        if let Action::Call { next } = action
            && now.rsp == before.rsp.wrapping_sub(8)
        {
            self.shadow.called(next, now.rsp);
        }
    }

    /// Whether the step has started the handler of a signal; `before` is what it interrupted.
    fn follow_handler(&mut self, before: &user_regs_struct, now: &user_regs_struct) -> bool {
        // `struct rt_sigframe` of arch/x86/include/asm/sigframe.h: the return address, then `struct ucontext`, whose
        // registers begin after 40 bytes; rsp and rip are the 16th and 17th (asm/sigcontext.h).
        const RSP: u64 = 8 + 40 + 15 * 8;
        const RIP: u64 = 8 + 40 + 16 * 8;
        let word = |offset| self.memory.read_u64(Avma(now.rsp.wrapping_add(offset)));
        let (Ok(trampoline), Ok(sp), Ok(pc)) = (word(0), word(RSP), word(RIP)) else {
            return false;
        };
        // A system call that will be run again has been gone back to.
        let is_interrupted = pc == before.rip || pc == before.rip.wrapping_sub(2);
        if sp != before.rsp || !is_interrupted || now.rip == before.rip {
            return false;
        }
        self.shadow.interrupted(pc, sp, trampoline, now.rsp);
        true
    }
}

/// Whether the system call may change where code lies; `protection` is its third argument.
fn moves_code(number: u64, protection: u64) -> bool {
    const PROT_EXEC: u64 = libc::PROT_EXEC.unsigned_abs() as u64;
    match number {
        MMAP | MPROTECT => protection & PROT_EXEC != 0,
        MUNMAP | MREMAP => true,
        _ => false,
    }
}

/// The stack as it was copied, and for all else the process, which stands still.
struct Memory<'a> {
    copy: SliceMemory<'a>,
    live: &'a ProcessMemory,
}

impl MemoryReader for Memory<'_> {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        self.copy
            .read(at, into)
            .or_else(|_| self.live.read(at, into))
    }

    fn read_u64(&self, at: Avma) -> Result<u64, ReadError> {
        self.copy.read_u64(at).or_else(|_| self.live.read_u64(at))
    }
}
