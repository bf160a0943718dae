//! Whether a process can be looked at at all, asked before anything is done to it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::proc::stat::{self, ProcState};
use super::proc::{is_gone, status};
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
    #[error("process {pid} runs a 32-bit program, which is not supported")]
    ThirtyTwoBit {
        /// What was asked for.
        pid: Pid,
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
    if is_thirty_two_bit(pid) {
        return Err(TargetError::ThirtyTwoBit { pid });
    }
    Ok(())
}

/// Whether its program is an ELF file of class 32. What cannot be read is not.
fn is_thirty_two_bit(pid: Pid) -> bool {
    /// elf(5): `e_ident[EI_CLASS]` is byte 4, and 1 stands for 32 bits.
    const THIRTY_TWO_BIT: &[u8] = b"\x7fELF\x01";
    let mut start = [0; 5];
    File::open(format!("/proc/{pid}/exe"))
        .and_then(|file| file.read_exact_at(&mut start, 0))
        .is_ok_and(|()| start == THIRTY_TWO_BIT)
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
