//! The shortest cycle of system calls that takes one sample, which the benches compare ours with.

use std::io::IoSliceMut;
use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options, regset};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// What is copied of the stack: more than 95 of 100 threads use no more.
pub const STACK_BYTES: usize = 16 << 10;
/// The part below the stack pointer that a leaf function may use (System V ABI for x86_64, 3.2.2).
#[cfg(target_arch = "x86_64")]
const RED_ZONE_BYTES: u64 = 128;
/// There is none (AAPCS64, 6.4.5.2).
#[cfg(target_arch = "aarch64")]
const RED_ZONE_BYTES: u64 = 0;

/// What a C program would do to look at a running thread once: SEIZE, INTERRUPT, wait, GETREGSET, one
/// process_vm_readv, DETACH; no deadline, no check. Gives the time it took, seen from this side.
///
/// # Errors
/// Whatever the kernel answers.
pub fn bare_cycle(tid: i32, stack: &mut [u8]) -> nix::Result<Duration> {
    let pid = Pid::from_raw(tid);
    let start = Instant::now();
    ptrace::seize(pid, Options::empty())?;
    ptrace::interrupt(pid)?;
    waitpid(pid, Some(WaitPidFlag::__WALL))?;
    let registers = ptrace::getregset::<regset::NT_PRSTATUS>(pid)?;
    #[cfg(target_arch = "x86_64")]
    let sp = registers.rsp;
    #[cfg(target_arch = "aarch64")]
    let sp = registers.sp;
    let base =
        usize::try_from(sp.saturating_sub(RED_ZONE_BYTES)).map_err(|_| nix::Error::EOVERFLOW)?;
    let len = stack.len();
    process_vm_readv(
        pid,
        &mut [IoSliceMut::new(stack)],
        &[RemoteIoVec { base, len }],
    )?;
    ptrace::detach(pid, None)?;
    Ok(start.elapsed())
}
