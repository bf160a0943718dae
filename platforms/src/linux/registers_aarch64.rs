//! aarch64: the kernel's register struct, and what it tells.
//!
//! The kernel looks at the result of an interrupted system call *before* it reports the stop (`do_signal` in
//! arch/arm64/kernel/signal.c): one that is to be run again stands before its `svc` instruction, with its first argument
//! back in x0, and that there was a system call is forgotten. So a call is known by the instruction at which the thread
//! stands, and its number by x8, which the kernel leaves alone.

use sampler_unwind::{Arch, Avma, Registers};

use super::not_restarted::is_not_restarted;
use super::proc::syscall::SyscallState;
use super::proc::{status, syscall};
use super::ptrace::{self, PlainRegisters};
use super::stop_kind::StopKind;
use super::stopped_thread::StoppedRegisters;
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

/// The registers to write so that an interrupted call is run again; `None` when there is nothing to repair, or it may be
/// a handler that has interrupted it, or its first argument cannot be had.
pub(super) fn repaired(
    tid: Tid,
    kind: StopKind,
    stopped: &StoppedRegisters,
) -> Option<RawRegisters> {
    let number = stopped.syscall?;
    let may_be = kind == StopKind::Trap && is_eintr(&stopped.raw) && is_not_restarted(number);
    // One before which the thread stands is run again without our doing; its first argument may be any number.
    if !may_be
        || Standing::of(tid, &stopped.raw) != Standing::Interrupted(number)
        || may_have_handled_signal(tid, &stopped.raw)
    {
        return None;
    }
    let mut raw = stopped.raw;
    let [first, ..] = &mut raw.x;
    *first = first_argument(tid, number)?;
    raw.pc = raw.pc.wrapping_sub(INSTRUCTION_BYTES);
    Some(raw)
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

/// Whether a handler may just have returned to where the thread stands, behind a call that it interrupted: `EINTR` is right
/// then, and what the kernel has as first argument is another call's. No handler restarts these calls, whatever its
/// flags (signal(7)), so that a program with one has to know `EINTR` anyway. Those for faults do not count, nor do the two
/// signals that C libraries use among threads (glibc has a handler as soon as there is a second thread: `late_init` in
/// nptl/pthread_create.c); of these the frame tells.
fn may_have_handled_signal(tid: Tid, raw: &RawRegisters) -> bool {
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
    if lies_above_signal_frame(tid, raw) {
        return true;
    }
    // What cannot be read may have one.
    status::read(Pid(tid.0)).map_or(true, |status| status.handled_signals & !not_counted != 0)
}

/// Whether a handler has returned to where the thread stands, and nothing been called since: the kernel's `struct
/// rt_sigframe` still lies below a frame record at the stack pointer (`get_sigframe` in arch/arm64/kernel/signal.c), with the
/// stack pointer and PC to return to. Not seen of a handler that has a stack of its own, or with vectors that do not fit in.
fn lies_above_signal_frame(tid: Tid, raw: &RawRegisters) -> bool {
    const RECORD_BYTES: u64 = 16;
    const FRAME_BYTES: u64 = 4688;
    /// 128 bytes of siginfo, 176 before the `struct sigcontext`, in which the address of a fault and x0 to x30 come first.
    const SP_OFFSET: u64 = 128 + 176 + 8 + 31 * 8;
    let record = raw.sp.wrapping_sub(RECORD_BYTES) & !(RECORD_BYTES - 1);
    let at = record.wrapping_sub(FRAME_BYTES).wrapping_add(SP_OFFSET);
    let is_at = |at, word: u64| ptrace::peek_word(tid, at) == Ok(word.to_le_bytes());
    is_at(at, raw.sp) && is_at(at.wrapping_add(8), raw.pc)
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
