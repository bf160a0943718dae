//! /proc/PID/task/TID/syscall: where a sleeping thread stands, without stopping it.

use std::io;

use sampler_unwind::Avma;

use super::super::not_restarted::is_not_restarted;
use super::{Malformed, decimal, fields, hexadecimal, of_process, read_all};
use crate::{Pid, Tid};

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyscallState {
    /// On a CPU, or waiting for one: where it is cannot be told without a stop.
    Running,
    /// Asleep in a system call.
    Blocked {
        /// Of the system call; a 32-bit program has other numbers than a 64-bit one.
        number: u32,
        /// The registers that hold the call's arguments. A call with fewer has left-overs in the rest.
        arguments: [u64; 6],
        /// The thread's stack pointer.
        sp: Avma,
        /// Behind the instruction that made the call.
        pc: Avma,
    },
    /// Asleep, and the kernel does not tell where: it has no such file. Never parsed, but what
    /// [`super::task::ThreadFiles::syscall`] makes of the thread's state then.
    Hidden,
    /// Asleep for another reason: a page fault, or stopped. Both are zero of a thread that has ended.
    BlockedOutsideSyscall {
        /// The thread's stack pointer.
        sp: Avma,
        /// The instruction it will go on with.
        pc: Avma,
    },
}

/// A system call in which a thread was seen asleep, and which it has to be put back to by us if a stop interrupts it there
/// some other time: [`super::super::StoppedThread::was_last_asleep_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsleepIn {
    pub(in super::super) number: u32,
    pub(in super::super) first_argument: u64,
    pub(in super::super) sp: Avma,
    pub(in super::super) pc: Avma,
}

impl SyscallState {
    /// In which of these calls the thread is asleep, if in any. On x86_64 nobody needs to know.
    pub fn asleep_in(self) -> Option<AsleepIn> {
        match self {
            Self::Blocked {
                number,
                arguments: [first_argument, ..],
                sp,
                pc,
            } if cfg!(target_arch = "aarch64") && is_not_restarted(number) => Some(AsleepIn {
                number,
                first_argument,
                sp,
                pc,
            }),
            _ => None,
        }
    }
}

/// What the file of one thread says, opened for this once; [`super::task::ThreadFiles`] keeps it open.
///
/// # Errors
/// What the kernel answers, or [`Malformed`].
pub fn read(tid: Tid) -> io::Result<SyscallState> {
    Ok(parse(&read_all(&of_process(Pid(tid.0), "syscall"))?)?)
}

/// `running`, `NUMBER ARGUMENT*6 SP PC`, or `-1 SP PC` (`proc_pid_syscall` in fs/proc/base.c).
///
/// # Errors
/// When it has none of these forms.
pub fn parse(text: &[u8]) -> Result<SyscallState, Malformed> {
    let text = text.trim_ascii_end();
    if text == b"running" {
        return Ok(SyscallState::Running);
    }
    let mut fields = fields(text);
    let number: i64 = fields
        .next()
        .and_then(decimal)
        .ok_or(malformed("system call number"))?;
    let mut address = |field| {
        fields
            .next()
            .and_then(|field| hexadecimal(field.strip_prefix(b"0x")?))
            .ok_or(malformed(field))
    };
    if number == -1 {
        return Ok(SyscallState::BlockedOutsideSyscall {
            sp: Avma(address("stack pointer")?),
            pc: Avma(address("program counter")?),
        });
    }
    let number = u32::try_from(number).map_err(|_| malformed("system call number"))?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = address("argument")?;
    }
    Ok(SyscallState::Blocked {
        number,
        arguments,
        sp: Avma(address("stack pointer")?),
        pc: Avma(address("program counter")?),
    })
}

fn malformed(field: &'static str) -> Malformed {
    Malformed {
        file: "syscall",
        field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_form_is_understood() {
        assert_eq!(parse(b"running\n"), Ok(SyscallState::Running));
        assert_eq!(
            parse(b"-1 0x7ffc 0x401000\n"),
            Ok(SyscallState::BlockedOutsideSyscall {
                sp: Avma(0x7ffc),
                pc: Avma(0x40_1000)
            })
        );
        assert!(parse(b"-2 0x1 0x2").is_err());
        assert!(parse(b"0 0x1 0x2").is_err());
        assert!(parse(b"").is_err());
    }

    proptest! {
        #[test]
        fn says_what_the_kernel_said(number: u32, arguments: [u64; 6], sp: u64, pc: u64) {
            let [a, b, c, d, e, f] = arguments;
            let text = format!("{number} {a:#x} {b:#x} {c:#x} {d:#x} {e:#x} {f:#x} {sp:#x} {pc:#x}\n");
            let expected = SyscallState::Blocked { number, arguments, sp: Avma(sp), pc: Avma(pc) };
            prop_assert_eq!(parse(text.as_bytes()), Ok(expected));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
