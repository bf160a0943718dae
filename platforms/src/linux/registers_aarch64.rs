//! aarch64: the kernel's register struct, and what it tells.
//!
//! The kernel looks at the result of an interrupted system call *before* it reports the stop (`do_signal` in
//! arch/arm64/kernel/signal.c): one that is to be run again stands before its `svc` instruction, with its first argument
//! back in x0, and that there was a system call is forgotten. So a call is known by the instruction at which the thread
//! stands, and its number by x8, which the kernel leaves alone.

use sampler_unwind::{Arch, Avma, Registers};

use super::abilities::{Abilities, StopWay};
use super::not_restarted::is_not_restarted;
use super::proc::syscall::{AsleepIn, SyscallState};
use super::proc::{status, syscall};
use super::ptrace::{self, PlainRegisters};
use super::reentry::{Reentry, Repair, is_among};
use super::stop_kind::StopKind;
use super::stopped_thread::{StoppedRegisters, StoppedThread};
use super::{ProcessMemory, signal_frame_aarch64};
use crate::{Pid, Tid};

/// `struct user_pt_regs` of asm/ptrace.h. A 32-bit thread has a smaller one.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct RawRegisters {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

// SAFETY: `repr(C)`, 34 numbers of 64 bits without padding.
unsafe impl PlainRegisters for RawRegisters {}

/// One register of a set of its own.
#[repr(C)]
struct Single<T>(T);

// SAFETY: one number.
unsafe impl PlainRegisters for Single<u64> {}
// SAFETY: one number.
unsafe impl PlainRegisters for Single<i32> {}

/// All zeroes.
pub(super) const ZEROED: RawRegisters = RawRegisters {
    x: [0; 31],
    sp: 0,
    pc: 0,
    pstate: 0,
};

/// PSR_MODE32_BIT (asm/ptrace.h).
const THIRTY_TWO_BIT: u64 = 0x10;

/// elf.h: the thread pointer, and the number of the system call that the kernel is in (Linux 3.18).
const NT_ARM_TLS: usize = 0x401;
const NT_ARM_SYSTEM_CALL: usize = 0x404;
/// NO_SYSCALL (asm/ptrace.h).
const NO_SYSCALL: i32 = -1;

const SVC_0: u32 = 0xd400_0001;
const INSTRUCTION_BYTES: u64 = 4;

pub(super) fn is_thirty_two_bit(raw: &RawRegisters) -> bool {
    raw.pstate & THIRTY_TWO_BIT != 0
}

/// What the kernel's struct says, and the code at which the thread stands.
pub(super) fn decode(tid: Tid, raw: RawRegisters) -> StoppedRegisters {
    let mut pointer = Single(0u64);
    let thread_pointer = match ptrace::get_register_set(tid, NT_ARM_TLS, &mut pointer) {
        Ok(_) => pointer.0,
        // Before Linux 3.10; nothing depends on it but where a stack ends.
        Err(_) => 0,
    };
    let standing = Standing::of(tid, &raw);
    StoppedRegisters {
        registers: dwarf_registers(&raw),
        syscall: standing.syscall(),
        thread_pointer,
        interrupted_syscall: standing.is_interrupted(),
        raw,
    }
}

/// What makes an interrupted call run again; `None` when there is nothing to repair, or it may be a handler that has
/// interrupted it, or its first argument cannot be had.
///
/// A thread that comes back from a handler which interrupted such a call stands where the call that a stop interrupted
/// does, with the same registers: `EINTR` is right then, and to make the call again would hide it, with an argument that
/// is another call's at that. Three things tell them apart.
///
/// - Whether there are handlers. No flag makes a handler restart these calls (signal(7)).
/// - The handler's frame ([`signal_frame_aarch64`]). Of a handler that has a stack of its own it is not found.
/// - What the kernel keeps as the call's first argument. After a handler it is what that had in x0 when it returned: so
///   it must be the one with which the thread was seen asleep in the same call, and none that handlers are likely to leave.
///
/// The last is asked of programs with handlers of their own alone. Those for faults do not count, nor do the two signals
/// that C libraries use among threads (glibc has a handler as soon as there is a second thread: `late_init` in
/// nptl/pthread_create.c), which have no stack of their own.
pub(super) fn repair(thread: &StoppedThread, stopped: &StoppedRegisters) -> Option<Repair> {
    let tid = thread.tid();
    let number = stopped.syscall?;
    // One before which the thread stands is run again without our doing; its first argument may be any number.
    if thread.kind() != StopKind::Trap
        || Standing::of(tid, &stopped.raw) != Standing::Interrupted(number)
    {
        return None;
    }
    // What cannot be read may have one.
    let handlers = status::read(Pid(tid.0)).ok()?.handled_signals;
    if handlers != 0 && comes_from_handler(thread, &stopped.raw) {
        return None;
    }
    let first_argument = first_argument(tid, number)?;
    let has_own = has_own(handlers);
    if has_own {
        let call = AsleepIn {
            number,
            first_argument,
            sp: Avma(stopped.raw.sp),
            pc: Avma(stopped.raw.pc),
        };
        // A signal that is to interrupt the SIGSTOP of PTRACE_ATTACH could not be told from it.
        let can_be_watched = Abilities::here().stop_way() == Some(StopWay::Interrupt);
        if thread.last_asleep_in() != Some(call)
            || is_left_by_handlers(first_argument, handlers)
            || !can_be_watched
        {
            return None;
        }
    }
    Some(Repair {
        registers: before_the_call(&stopped.raw, first_argument),
        reentry: has_own.then(|| Reentry::new(handlers)),
    })
}

/// The registers that make the kernel decide whether an interrupted call returns `EINTR`, at the end of a call at which it
/// has not looked yet; `None` when the result is another.
pub(super) fn left_to_the_kernel(raw: &RawRegisters) -> Option<RawRegisters> {
    /// include/linux/errno.h: to be run again unless a handler runs. Never seen by a program, but by ptrace.
    const ERESTARTNOHAND: i64 = 514;
    let mut left = *raw;
    let [first, ..] = &mut left.x;
    *first = (-ERESTARTNOHAND).cast_unsigned();
    is_eintr(raw).then_some(left)
}

fn before_the_call(behind: &RawRegisters, first_argument: u64) -> RawRegisters {
    let mut raw = *behind;
    let [first, ..] = &mut raw.x;
    *first = first_argument;
    raw.pc = raw.pc.wrapping_sub(INSTRUCTION_BYTES);
    raw
}

/// The registers of a thread before a call that is to have been interrupted: undoes [`before_the_call`].
pub(super) fn interrupted(before: &RawRegisters) -> RawRegisters {
    let mut raw = *before;
    let [first, ..] = &mut raw.x;
    *first = (-i64::from(libc::EINTR)).cast_unsigned();
    raw.pc = raw.pc.wrapping_add(INSTRUCTION_BYTES);
    raw
}

/// Whether some of these signals are the program's own business: bit n for signal n + 1.
fn has_own(handlers: u64) -> bool {
    const NOT_COUNTED: [i32; 8] = [
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGSEGV,
        libc::SIGSYS,
        32,
        33,
    ];
    let not_counted = NOT_COUNTED
        .iter()
        .fold(0u64, |mask, signal| mask | 1 << (signal - 1));
    handlers & !not_counted != 0
}

/// Whether a handler may have left this in x0: its argument, the number of a signal that is handled, or what the call
/// that it made last has returned, mostly.
fn is_left_by_handlers(value: u64, handlers: u64) -> bool {
    value <= 1 || i32::try_from(value).is_ok_and(|value| is_among(value, handlers))
}

/// Whether a handler has just returned to where the thread stands, as far as its stack shows.
fn comes_from_handler(thread: &StoppedThread, raw: &RawRegisters) -> bool {
    let memory = ProcessMemory::new(thread.pid());
    let _readable = memory.through(thread);
    let bytes_max = signal_frame_aarch64::bytes_max();
    signal_frame_aarch64::returns_to(&memory, bytes_max, &raw.x, (raw.sp, raw.pc))
}

/// The first argument of the call of this number that the thread was in, which its result has overwritten. The kernel has
/// it still, and shows it in /proc of a thread that it takes for one inside a system call.
///
/// This opens a file while the thread stands still; it is needed for the rare one that fell asleep in one of a few
/// calls just when it was to be stopped.
fn first_argument(tid: Tid, number: u32) -> Option<u64> {
    let set = |number: i32| ptrace::set_register_set(tid, NT_ARM_SYSTEM_CALL, &Single(number));
    set(i32::try_from(number).ok()?).ok()?;
    let state = syscall::read(tid);
    // It can fail only for a thread that was killed.
    let _killed = set(NO_SYSCALL);
    match state.ok()? {
        SyscallState::Blocked { arguments, .. } => Some(arguments[0]),
        _ => None,
    }
}

/// By DWARF number: x0 to x30, the stack pointer, the PC.
fn dwarf_registers(raw: &RawRegisters) -> Registers {
    let mut registers = Registers::at(&Arch::AARCH64, Avma(raw.pc), Avma(raw.sp));
    for (register, value) in (0u16..).zip(raw.x) {
        registers.set(register, value);
    }
    registers
}

/// Where a thread stands with regard to system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// In its own code.
    Elsewhere,
    /// Behind one of this number that has returned.
    Behind(u32),
    /// The same, and it returned because of the stop.
    Interrupted(u32),
    /// Before one that the kernel will run again.
    Before(u32),
}

impl Standing {
    fn of(tid: Tid, raw: &RawRegisters) -> Self {
        match ptrace::peek_word(tid, raw.pc.wrapping_sub(INSTRUCTION_BYTES)) {
            Ok([a, b, c, d, e, f, g, h]) => {
                let [before, next] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
                Self::at(before, next, raw)
            }
            Err(_) => Self::Elsewhere,
        }
    }

    /// `before` and `next` are the instructions around the PC.
    fn at(before: u32, next: u32, raw: &RawRegisters) -> Self {
        /// The register with the number of a system call.
        const NUMBER: usize = 8;
        let Ok(number) = u32::try_from(raw.x[NUMBER]) else {
            return Self::Elsewhere;
        };
        match (before, next) {
            (_, SVC_0) => Self::Before(number),
            (SVC_0, _) if is_eintr(raw) && is_not_restarted(number) => Self::Interrupted(number),
            (SVC_0, _) => Self::Behind(number),
            _ => Self::Elsewhere,
        }
    }

    fn syscall(self) -> Option<u32> {
        match self {
            Self::Elsewhere => None,
            Self::Behind(number) | Self::Interrupted(number) | Self::Before(number) => Some(number),
        }
    }

    fn is_interrupted(self) -> bool {
        matches!(self, Self::Interrupted(_) | Self::Before(_))
    }
}

fn is_eintr(raw: &RawRegisters) -> bool {
    raw.x[0].cast_signed() == -i64::from(libc::EINTR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RET: u32 = 0xd65f_03c0;

    fn raw(number: i64, result: i64) -> RawRegisters {
        let mut raw = ZEROED;
        raw.x[0] = result.cast_unsigned();
        raw.x[8] = number.cast_unsigned();
        raw
    }

    #[test]
    fn registers_have_their_dwarf_numbers() {
        let mut raw = ZEROED;
        for (register, value) in (1..).zip(&mut raw.x) {
            *value = register;
        }
        (raw.sp, raw.pc) = (32, 33);
        let registers = dwarf_registers(&raw);
        for register in 0..33 {
            assert_eq!(
                registers.get(register),
                Some(u64::from(register) + 1),
                "{register}"
            );
        }
    }

    #[test]
    fn what_handlers_leave_is_told_from_an_argument() {
        let handlers = 1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGSEGV - 1) | 1 << 63;
        let left = |value| is_left_by_handlers(value, handlers);
        assert!(left(0) && left(1) && left(10) && left(11) && left(64));
        assert!(!left(2) && !left(12) && !left(63) && !left(65) && !left(u64::MAX));
    }

    #[test]
    fn handlers_for_faults_and_of_c_libraries_do_not_count() {
        let set = |signals: &[i32]| {
            signals
                .iter()
                .fold(0, |set, signal| set | 1 << (signal - 1))
        };
        assert!(!has_own(set(&[])));
        assert!(!has_own(set(&[libc::SIGSEGV, libc::SIGBUS, 32, 33])));
        assert!(has_own(set(&[libc::SIGSEGV, libc::SIGUSR1])));
        assert!(has_own(set(&[64])));
    }

    #[test]
    fn a_call_is_made_again_with_its_first_argument() {
        let mut behind = raw(libc::SYS_epoll_pwait, -i64::from(libc::EINTR));
        behind.pc = 0x1004;
        let before = before_the_call(&behind, 7);
        assert_eq!(
            (before.x[0], before.x[8], before.pc),
            (7, behind.x[8], 0x1000)
        );
        let undone = interrupted(&before);
        assert_eq!((undone.x, undone.pc), (behind.x, behind.pc));
    }

    #[test]
    fn a_system_call_is_known_by_the_instruction() {
        let eintr = -i64::from(libc::EINTR);
        let sleeps = u32::try_from(libc::SYS_epoll_pwait).unwrap();
        let of =
            |before, next, result| Standing::at(before, next, &raw(libc::SYS_epoll_pwait, result));
        assert_eq!(of(SVC_0, RET, eintr), Standing::Interrupted(sleeps));
        assert_eq!(of(SVC_0, RET, 1), Standing::Behind(sleeps));
        assert_eq!(of(RET, SVC_0, 4), Standing::Before(sleeps));
        assert_eq!(of(RET, RET, eintr), Standing::Elsewhere);
        let close = Standing::at(SVC_0, RET, &raw(libc::SYS_close, eintr));
        assert!(!close.is_interrupted() && close.syscall().is_some());
    }
}
