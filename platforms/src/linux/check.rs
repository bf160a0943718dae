//! Whether a process can be looked at at all, asked before anything is done to it.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::proc::stat::{self, ProcState};
use super::proc::{is_gone, status};
use super::target_file;
use crate::Pid;

/// Why a process is no target, whoever asks.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Nothing has this number.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// What was asked for.
        pid: Pid,
    },
    /// The number is that of a thread.
    #[error("{pid} is a thread of process {process}")]
    Thread {
        /// What was asked for.
        pid: Pid,
        /// The process to ask for instead.
        process: Pid,
    },
    /// It has ended, and its parent has not asked how.
    #[error("process {pid} has already ended (it is a zombie)")]
    Zombie {
        /// What was asked for.
        pid: Pid,
    },
    /// It is part of the kernel and has no memory of its own.
    #[error("{pid} is a kernel thread")]
    KernelThread {
        /// What was asked for.
        pid: Pid,
    },
    /// It is us.
    #[error("process {pid} is this very command, which cannot stop itself")]
    Ourselves {
        /// What was asked for.
        pid: Pid,
    },
    /// It runs a 32-bit program.
    #[error("process {pid} runs a 32-bit program ({kind}), which is not supported")]
    ThirtyTwoBit {
        /// What was asked for.
        pid: Pid,
        /// Of which kind.
        kind: ThirtyTwoBit,
    },
    /// What /proc says about it cannot be read.
    #[error("cannot read the state of process {pid}")]
    Unreadable {
        /// What was asked for.
        pid: Pid,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A kind of program with pointers of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThirtyTwoBit {
    /// For CPUs before x86_64.
    #[error("i386")]
    I386,
    /// The x32 ABI: the instructions and registers of x86_64.
    #[error("x32")]
    X32,
    /// For another machine, by an emulator.
    #[error("of another machine")]
    Other,
}

/// Whether `pid` is a living process of a kind that can be sampled. Rights are not asked for: that it may be traced
/// shows when it is.
///
/// # Errors
/// See [`TargetError`].
pub fn check_target(pid: Pid) -> Result<(), TargetError> {
    if pid.0 == std::process::id().cast_signed() {
        return Err(TargetError::Ourselves { pid });
    }
    let unreadable = |source| {
        if is_gone(&source) {
            TargetError::NoSuchProcess { pid }
        } else {
            TargetError::Unreadable { pid, source }
        }
    };
    let process = status::read(pid).map_err(unreadable)?.process;
    if process != pid {
        return Err(TargetError::Thread { pid, process });
    }
    let stat = stat::read(pid).map_err(unreadable)?;
    if stat.is_kernel_thread() {
        return Err(TargetError::KernelThread { pid });
    }
    // The first thread may have ended before the others; then the process lives on.
    if matches!(stat.state, ProcState::Zombie | ProcState::Dead) && stat.threads <= 1 {
        return Err(TargetError::Zombie { pid });
    }
    match thirty_two_bit(format!("/proc/{pid}/exe").as_ref()) {
        Some(kind) => Err(TargetError::ThirtyTwoBit { pid, kind }),
        None => Ok(()),
    }
}

/// Of which kind the program at `path` is, if it is an ELF file of class 32. What cannot be read is not.
pub(super) fn thirty_two_bit(path: &Path) -> Option<ThirtyTwoBit> {
    let mut header = [0; HEADER_BYTES];
    let file = target_file::open_regular(path).ok()?;
    file.read_exact_at(&mut header, 0).ok()?;
    kind_of(&header)
}

/// How much of an ELF file says for what it was made.
const HEADER_BYTES: usize = 20;

/// elf(5): `e_ident[EI_CLASS]` is byte 4, and 1 stands for 32 bits; `e_machine` is at byte 18.
fn kind_of(header: &[u8; HEADER_BYTES]) -> Option<ThirtyTwoBit> {
    const THIRTY_TWO_BIT: &[u8] = b"\x7fELF\x01";
    const EM_386: u16 = 3;
    const EM_X86_64: u16 = 62;
    let machine = u16::from_le_bytes([header[18], header[19]]);
    header.starts_with(THIRTY_TWO_BIT).then_some(match machine {
        EM_386 => ThirtyTwoBit::I386,
        EM_X86_64 => ThirtyTwoBit::X32,
        _ => ThirtyTwoBit::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::{Target, TargetThread, own_pid};

    #[test]
    fn a_living_process_is_a_target() {
        let target = Target::pausing();
        assert!(check_target(target.pid()).is_ok());
        let pid = target.pid();
        target.end();
        let message = check_target(pid).map_err(|error| error.to_string());
        assert_eq!(message, Err(format!("there is no process {pid}")));
    }

    /// The first bytes of an ELF file of class `class`, for `machine`.
    fn header(class: u8, machine: u16) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
        header[18..].copy_from_slice(&machine.to_le_bytes());
        header
    }

    #[test]
    fn programs_with_pointers_of_32_bits_are_known_by_their_headers() {
        let kinds = [(1, 3), (1, 62), (1, 40), (2, 62), (2, 3)];
        let known = kinds.map(|(class, machine)| kind_of(&header(class, machine)));
        let (i386, x32, other) = (ThirtyTwoBit::I386, ThirtyTwoBit::X32, ThirtyTwoBit::Other);
        assert_eq!(known, [Some(i386), Some(x32), Some(other), None, None]);
        assert_eq!(kind_of(b"#!/bin/sh, and more "), None);
        let error = TargetError::ThirtyTwoBit {
            pid: Pid(7),
            kind: x32,
        };
        let words = "process 7 runs a 32-bit program (x32), which is not supported";
        assert_eq!(error.to_string(), words);
    }

    #[test]
    fn what_is_no_target_is_told_why() {
        let message = |pid| check_target(pid).map_err(|error| error.to_string());
        let zombie = Target::ended_after_using_cpu();
        let pid = zombie.pid();
        let expected = format!("process {pid} has already ended (it is a zombie)");
        assert_eq!(message(pid), Err(expected));
        let thread = TargetThread::blocked_in_read();
        let expected = format!("{} is a thread of process {}", thread.tid(), own_pid());
        assert_eq!(message(Pid(thread.tid().0)), Err(expected));
        thread.end();
        assert!(matches!(
            check_target(own_pid()),
            Err(TargetError::Ourselves { .. })
        ));
        for nobody in [-1, 0, i32::MAX] {
            assert!(matches!(
                check_target(Pid(nobody)),
                Err(TargetError::NoSuchProcess { .. })
            ));
        }
    }
}
