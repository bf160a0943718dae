//! ptrace(2) and the waits that belong to it: a thin function each.
//!
//! All of them act on threads that the *calling thread* has seized or attached to; the kernel answers `ESRCH` for any other, and for
//! one that is not stopped.

use std::ffi::c_void;
use std::mem;
use std::ptr;

use nix::errno::Errno;

use super::spawn;
use super::stop_kind::StopKind;
use crate::{Pid, Tid};

/// `NT_PRSTATUS` of elf.h: the general registers.
const NT_PRSTATUS: usize = 1;

/// Begins to trace `tid` without stopping it. See PTRACE_SEIZE in
/// [ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html); Linux 3.4.
pub(super) fn seize(tid: Tid) -> Result<(), Errno> {
    let options = 0usize;
    // SAFETY: PTRACE_SEIZE touches no memory of ours; `addr` must be zero and `data` is a set of flags.
    let answer = unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid.0, 0usize, options) };
    Errno::result(answer).map(drop)
}

/// Asks a seized thread to stop. Returns before it has.
pub(super) fn interrupt(tid: Tid) -> Result<(), Errno> {
    // SAFETY: PTRACE_INTERRUPT ignores `addr` and `data`.
    let answer = unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid.0, 0usize, 0usize) };
    Errno::result(answer).map(drop)
}

/// Begins to trace `tid` and sends it a SIGSTOP of its own. Returns before it has stopped. PTRACE_ATTACH.
pub(super) fn attach(tid: Tid) -> Result<(), Errno> {
    // SAFETY: PTRACE_ATTACH ignores `addr` and `data`.
    let answer = unsafe { libc::ptrace(libc::PTRACE_ATTACH, tid.0, 0usize, 0usize) };
    Errno::result(answer).map(drop)
}

/// Lets a stopped thread go on, traced, with `signal` delivered to it unless that is zero. PTRACE_CONT.
pub(super) fn go_on(tid: Tid, signal: i32) -> Result<(), Errno> {
    let signal = libc::c_long::from(signal);
    // SAFETY: PTRACE_CONT ignores `addr`; `data` is a number that the kernel checks.
    let answer = unsafe { libc::ptrace(libc::PTRACE_CONT, tid.0, 0usize, signal) };
    Errno::result(answer).map(drop)
}

/// Lets a stopped thread go on, traced, to the next beginning or end of a system call, where it stops
/// ([`StopKind::Syscall`]). PTRACE_SYSCALL, with PTRACE_O_TRACESYSGOOD.
pub(super) fn go_on_to_syscall(tid: Tid) -> Result<(), Errno> {
    let options = libc::c_long::from(libc::PTRACE_O_TRACESYSGOOD);
    // SAFETY: PTRACE_SETOPTIONS ignores `addr`; `data` is a set of flags.
    let answer = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, tid.0, 0usize, options) };
    Errno::result(answer)?;
    // SAFETY: PTRACE_SYSCALL ignores `addr`; `data` is the number of no signal.
    let answer = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid.0, 0usize, 0usize) };
    Errno::result(answer).map(drop)
}

/// `si_code` and `si_pid` of the signal that a stopped thread is about to get; `EINVAL` when its process is stopped
/// instead (ptrace(2), "Group-stop"). PTRACE_GETSIGINFO.
pub(super) fn signal_origin(tid: Tid) -> Result<(i32, i32), Errno> {
    // SAFETY: siginfo_t is plain data for which zeroes are valid.
    let mut information: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: the kernel fills `information`, which is ours and of that size.
    let answer = unsafe {
        libc::ptrace(
            libc::PTRACE_GETSIGINFO,
            tid.0,
            0usize,
            ptr::from_mut(&mut information),
        )
    };
    Errno::result(answer)?;
    // SAFETY: any siginfo_t has bytes there, and any bytes are a number. For a signal without a sender it is none.
    let sender = unsafe { information.si_pid() };
    Ok((information.si_code, sender))
}

/// The eight bytes at `at` of a stopped thread's memory. PTRACE_PEEKDATA.
///
/// Not by the C library's function, which cannot tell a word of ones from an error.
pub(super) fn peek_word(tid: Tid, at: u64) -> Result<[u8; 8], Errno> {
    let mut word = [0u8; 8];
    // SAFETY: the system call stores one word at its last argument, which is `word`; see "C library/kernel
    // differences" in ptrace(2).
    let answer = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            libc::PTRACE_PEEKDATA,
            tid.0,
            at,
            word.as_mut_ptr(),
        )
    };
    Errno::result(answer).map(|_| word)
}

/// Stops tracing a stopped thread and lets it run, with `signal` delivered to it unless that is zero. A thread that
/// is in a group-stop stays stopped, untraced.
pub(super) fn detach(tid: Tid, signal: i32) -> Result<(), Errno> {
    let signal = libc::c_long::from(signal);
    // SAFETY: PTRACE_DETACH ignores `addr`; `data` is a number that the kernel checks.
    let answer = unsafe { libc::ptrace(libc::PTRACE_DETACH, tid.0, 0usize, signal) };
    Errno::result(answer).map(drop)
}

/// Fills `into` with the general registers of a stopped thread and says how many bytes those were: a 32-bit thread
/// has fewer than a 64-bit one. PTRACE_GETREGSET; Linux 2.6.34.
pub(super) fn get_registers<T: PlainRegisters>(tid: Tid, into: &mut T) -> Result<usize, Errno> {
    get_register_set(tid, NT_PRSTATUS, into)
}

/// As [`get_registers`], of the registers of kind `set`, `NT_*` of elf.h.
pub(super) fn get_register_set<T: PlainRegisters>(
    tid: Tid,
    set: usize,
    into: &mut T,
) -> Result<usize, Errno> {
    let mut vector = libc::iovec {
        iov_base: ptr::from_mut(into).cast::<c_void>(),
        iov_len: mem::size_of::<T>(),
    };
    // SAFETY: the kernel writes at most `iov_len` bytes to `iov_base`, which is `into`; `T: PlainRegisters` may hold
    // any bytes. `vector` is ours for the length of the call.
    let answer = unsafe {
        libc::ptrace(
            libc::PTRACE_GETREGSET,
            tid.0,
            set,
            ptr::from_mut(&mut vector),
        )
    };
    Errno::result(answer).map(|_| vector.iov_len)
}

/// Replaces the general registers of a stopped thread. PTRACE_SETREGSET; Linux 2.6.34.
pub(super) fn set_registers<T: PlainRegisters>(tid: Tid, registers: &T) -> Result<(), Errno> {
    set_register_set(tid, NT_PRSTATUS, registers)
}

/// As [`set_registers`], of the registers of kind `set`, `NT_*` of elf.h.
pub(super) fn set_register_set<T: PlainRegisters>(
    tid: Tid,
    set: usize,
    registers: &T,
) -> Result<(), Errno> {
    let mut vector = libc::iovec {
        iov_base: ptr::from_ref(registers).cast_mut().cast::<c_void>(),
        iov_len: mem::size_of::<T>(),
    };
    // SAFETY: the kernel only reads the `iov_len` bytes at `iov_base`, which are `registers`.
    let answer = unsafe {
        libc::ptrace(
            libc::PTRACE_SETREGSET,
            tid.0,
            set,
            ptr::from_mut(&mut vector),
        )
    };
    Errno::result(answer).map(drop)
}

/// A register struct of the kernel's: numbers without padding, in which every pattern of bits is a value.
///
/// # Safety
/// The implementor is `repr(C)`, has no padding, and is valid for any bytes.
pub(super) unsafe trait PlainRegisters {}

/// Takes the next report about a traced thread or a child, and decodes it. With `WNOHANG` in `flags`, `None` says
/// that there is none yet. `__WALL` is always set, because before Linux 4.7 it is not implied for traced threads; so
/// is `__WNOTHREAD`: what other threads of ours trace is theirs.
///
/// A command of ours that has ended stays to be reaped by [`spawn::Launched::reap`]: only until then does the kernel
/// tell what it used.
///
/// libc's function and not nix's, which answers `EINVAL` for a stop by a real-time signal, and loses it.
pub(super) fn wait(tid: Tid, flags: i32) -> Result<Option<StopKind>, Errno> {
    if spawn::is_ours(Pid(tid.0)) {
        match peek(tid, flags)? {
            Some(kind) if kind.exit_status().is_none() => {}
            none_or_end => return Ok(none_or_end),
        }
    }
    let mut status = 0;
    // SAFETY: `status` is ours and writable for the length of the call.
    let answer = unsafe {
        libc::waitpid(
            tid.0,
            &raw mut status,
            flags | libc::__WALL | libc::__WNOTHREAD,
        )
    };
    match Errno::result(answer)? {
        0 => Ok(None),
        _ => Ok(Some(StopKind::decode(status))),
    }
}

/// The next report about a child, which is left to be taken.
fn peek(tid: Tid, flags: i32) -> Result<Option<StopKind>, Errno> {
    let flags = flags | libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT;
    let id = tid.0.cast_unsigned();
    let Some((_, code, status)) = waitid(libc::P_PID, id, flags)? else {
        return Ok(None);
    };
    Ok(Some(match code {
        libc::CLD_EXITED => StopKind::Exited { code: status },
        libc::CLD_KILLED | libc::CLD_DUMPED => StopKind::Killed {
            signal: status,
            core_dumped: code == libc::CLD_DUMPED,
        },
        _ => StopKind::decode(status << 8 | STOPPED),
    }))
}

/// How the wait status of a stop begins; see `WIFSTOPPED` of wait(2).
const STOPPED: i32 = 0x7f;

/// Whom waitid(2) reports, with `si_code` and `si_status`.
pub(super) fn waitid(
    kind: libc::idtype_t,
    id: libc::id_t,
    flags: i32,
) -> Result<Option<(Tid, i32, i32)>, Errno> {
    // SAFETY: siginfo_t is plain data for which zeroes are valid.
    let mut information: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: `information` is ours and writable for the length of the call.
    let answer = unsafe { libc::waitid(kind, id, &raw mut information, flags) };
    Errno::result(answer)?;
    // SAFETY: waitid has filled the fields of SIGCHLD, or left the zeroes of above, which say that there is no report.
    let tid = unsafe { information.si_pid() };
    // SAFETY: as above.
    let status = unsafe { information.si_status() };
    Ok((tid != 0).then_some((Tid(tid), information.si_code, status)))
}
