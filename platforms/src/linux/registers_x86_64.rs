//! x86_64: the kernel's register struct, and what it tells.

use sampler_unwind::{Arch, Avma, Registers};

use super::not_restarted::is_not_restarted;
use super::ptrace::PlainRegisters;
use super::reentry::Repair;
use super::stopped_thread::{StoppedRegisters, StoppedThread};
use crate::Tid;

/// `struct user_regs_struct` of asm/user_64.h. A 32-bit thread has a smaller one.
pub(super) type RawRegisters = libc::user_regs_struct;

// SAFETY: `repr(C)`, 27 numbers of 64 bits without padding.
unsafe impl PlainRegisters for RawRegisters {}

/// All zeroes.
pub(super) const ZEROED: RawRegisters = RawRegisters {
    r15: 0,
    r14: 0,
    r13: 0,
    r12: 0,
    rbp: 0,
    rbx: 0,
    r11: 0,
    r10: 0,
    r9: 0,
    r8: 0,
    rax: 0,
    rcx: 0,
    rdx: 0,
    rsi: 0,
    rdi: 0,
    orig_rax: 0,
    rip: 0,
    cs: 0,
    eflags: 0,
    rsp: 0,
    ss: 0,
    fs_base: 0,
    gs_base: 0,
    ds: 0,
    es: 0,
    fs: 0,
    gs: 0,
};

/// Set in the number of a system call made by x32 code (`__X32_SYSCALL_BIT`, asm/unistd.h).
const X32_SYSCALL_BIT: u64 = 0x4000_0000;

/// include/linux/errno.h: what a system call returns inside the kernel to be run again. Never seen by a program, but
/// by ptrace.
const ERESTARTSYS: i64 = 512;
const ERESTARTNOINTR: i64 = 513;
const ERESTARTNOHAND: i64 = 514;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// Whether the registers are those of x32 code: 64-bit registers, 32-bit pointers. Known only inside a system call.
pub(super) fn is_thirty_two_bit(raw: &RawRegisters) -> bool {
    in_syscall(raw) && raw.orig_rax & X32_SYSCALL_BIT != 0
}

/// What the kernel's struct says.
pub(super) fn decode(_tid: Tid, raw: RawRegisters) -> StoppedRegisters {
    let syscall = syscall_number(&raw);
    StoppedRegisters {
        registers: dwarf_registers(&raw),
        syscall,
        thread_pointer: raw.fs_base,
        interrupted_syscall: syscall.is_some_and(|number| was_interrupted(number, &raw)),
        raw,
    }
}

/// What makes an interrupted call run again; `None` when there is nothing to repair. A handler still makes it `EINTR`.
pub(super) fn repair(_thread: &StoppedThread, stopped: &StoppedRegisters) -> Option<Repair> {
    Some(Repair {
        registers: left_to_the_kernel(&stopped.raw)?,
        reentry: None,
    })
}

/// The registers that make the kernel decide whether an interrupted call returns `EINTR`; `None` when it is none.
pub(super) fn left_to_the_kernel(raw: &RawRegisters) -> Option<RawRegisters> {
    let number = syscall_number(raw)?;
    let interrupted = is_result(raw, libc::EINTR.into()) && is_not_restarted(number);
    interrupted.then(|| RawRegisters {
        rax: (-ERESTARTNOHAND).cast_unsigned(),
        ..*raw
    })
}

/// By DWARF number: System V ABI AMD64 supplement, figure 3.36.
fn dwarf_registers(raw: &RawRegisters) -> Registers {
    let mut registers = Registers::at(&Arch::X86_64, Avma(raw.rip), Avma(raw.rsp));
    let others = [
        raw.rax, raw.rdx, raw.rcx, raw.rbx, raw.rsi, raw.rdi, raw.rbp, raw.rsp, raw.r8, raw.r9,
        raw.r10, raw.r11, raw.r12, raw.r13, raw.r14, raw.r15,
    ];
    for (register, value) in (0u16..).zip(others) {
        registers.set(register, value);
    }
    registers
}

/// The registers of a thread before a call that is to have been interrupted.
pub(super) fn interrupted(before: &RawRegisters) -> RawRegisters {
    const SYSCALL_BYTES: u64 = 2;
    RawRegisters {
        rax: (-i64::from(libc::EINTR)).cast_unsigned(),
        rip: before.rip.wrapping_add(SYSCALL_BYTES),
        ..*before
    }
}

fn syscall_number(raw: &RawRegisters) -> Option<u32> {
    in_syscall(raw)
        .then(|| u32::try_from(raw.orig_rax).ok())
        .flatten()
}

/// `orig_rax` is negative for a thread that came into the kernel by an interrupt or a fault.
fn in_syscall(raw: &RawRegisters) -> bool {
    raw.orig_rax.cast_signed() >= 0
}

fn was_interrupted(number: u32, raw: &RawRegisters) -> bool {
    let restarted = [
        ERESTARTSYS,
        ERESTARTNOINTR,
        ERESTARTNOHAND,
        ERESTART_RESTARTBLOCK,
    ];
    restarted.iter().any(|&errno| is_result(raw, errno))
        || is_result(raw, libc::EINTR.into()) && is_not_restarted(number)
}

fn is_result(raw: &RawRegisters, errno: i64) -> bool {
    raw.rax.cast_signed() == -errno
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_syscall(number: i64, result: i64) -> StoppedRegisters {
        decode(
            Tid(0),
            RawRegisters {
                orig_rax: number.cast_unsigned(),
                rax: result.cast_unsigned(),
                ..ZEROED
            },
        )
    }

    #[test]
    fn registers_have_their_dwarf_numbers() {
        let stopped = decode(
            Tid(0),
            RawRegisters {
                rdx: 1,
                rbx: 3,
                rdi: 5,
                rbp: 6,
                rsp: 7,
                r8: 8,
                r15: 15,
                rip: 16,
                orig_rax: u64::MAX,
                ..ZEROED
            },
        );
        for register in [1, 3, 5, 6, 7, 8, 15, 16] {
            assert_eq!(
                stopped.registers.get(register),
                Some(u64::from(register)),
                "{register}"
            );
        }
        assert_eq!(stopped.registers.get(0), Some(0));
        assert_eq!(stopped.syscall, None);
    }

    #[test]
    fn only_calls_that_return_eintr_are_repaired() {
        let eintr = -i64::from(libc::EINTR);
        let repaired = |stopped: StoppedRegisters| left_to_the_kernel(&stopped.raw);
        assert!(repaired(at_syscall(libc::SYS_epoll_wait, eintr)).is_some());
        assert!(repaired(at_syscall(libc::SYS_recvfrom, eintr)).is_some());
        assert!(repaired(at_syscall(libc::SYS_epoll_wait, 1)).is_none());
        assert!(repaired(at_syscall(libc::SYS_close, eintr)).is_none());
        assert!(repaired(at_syscall(-1, eintr)).is_none());
        assert!(at_syscall(libc::SYS_futex, -ERESTARTSYS).interrupted_syscall);
        assert!(at_syscall(libc::SYS_nanosleep, -ERESTART_RESTARTBLOCK).interrupted_syscall);
        assert!(!at_syscall(libc::SYS_read, 10).interrupted_syscall);
    }

    #[test]
    fn x32_code_is_told_by_its_system_calls() {
        let x32 = RawRegisters {
            orig_rax: X32_SYSCALL_BIT,
            ..ZEROED
        };
        let interrupted_user_code = RawRegisters {
            orig_rax: u64::MAX,
            ..ZEROED
        };
        assert!(is_thirty_two_bit(&x32));
        assert!(!is_thirty_two_bit(&interrupted_user_code));
    }
}
