//! What this kernel, and what stands between it and us, lets us do.
//!
//! An ability may be missing because the kernel is older than it (process_vm_readv(2) can be left out of one), or
//! because a seccomp filter refuses the system call, as containers and sandboxes do. Each is tried once, on ourselves,
//! where nobody's rights come into it; what a process allows us besides is [`rung`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::gettid;
use sampler_unwind::{Avma, MemoryReader, ReadError};

use super::proc::schedstat;
use super::proc::task::{ThreadFiles, ThreadReadError};
use super::process_memory::ProcessMemory;
use super::{deadline, ptrace};
use crate::{Pid, Tid};

/// Whether something works, or what is answered instead.
pub type Ability = Result<(), Errno>;

/// What works here, for whoever has the rights: see [`Abilities::here`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// PTRACE_SEIZE (Linux 3.4): threads are stopped without a signal.
    pub seize: Ability,
    /// PTRACE_ATTACH: threads are stopped by SIGSTOP.
    pub attach: Ability,
    /// process_vm_readv(2) (Linux 3.2, CONFIG_CROSS_MEMORY_ATTACH).
    pub process_vm_readv: Ability,
    /// /proc/PID/mem can be opened and read.
    pub memory_file: Ability,
    /// /proc/PID/task/TID/schedstat counts (CONFIG_SCHED_INFO).
    pub sched_stat: Ability,
    /// /proc/PID/task/TID/syscall is there (CONFIG_HAVE_ARCH_TRACEHOOK).
    pub syscall_file: Ability,
    /// timer_create(2) gives a timer for one thread, which bounds blocking waits.
    pub timer: Ability,
    /// pidfd_open(2) (Linux 5.3). Nothing here needs it.
    pub pidfd_open: Ability,
}

/// How threads are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWay {
    /// PTRACE_SEIZE and PTRACE_INTERRUPT.
    Interrupt,
    /// PTRACE_ATTACH, which sends SIGSTOP.
    Signal,
}

/// How memory is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryWay {
    /// process_vm_readv(2).
    Call,
    /// `/proc/PID/mem`.
    File,
    /// PTRACE_PEEKDATA, a word at a time and only from a thread that stands still.
    Words,
}

/// How much can be had of a process, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Its threads can be stopped and read: everything.
    Stops,
    /// Its memory can be read, and nothing stopped: whole stacks of sleeping threads; of running ones no machine code.
    Reads,
    /// Only what /proc tells everybody: which threads run, and their CPU time.
    States,
}

impl Abilities {
    /// What works here, found out when it is first asked for.
    pub fn here() -> &'static Self {
        static HERE: OnceLock<Abilities> = OnceLock::new();
        HERE.get_or_init(Self::probe)
    }

    /// Tries everything, on ourselves. Some ten system calls; nothing is left behind.
    pub fn probe() -> Self {
        Self {
            seize: unless_nobody(ptrace::seize(Tid(0))),
            attach: unless_nobody(ptrace::attach(Tid(0))),
            process_vm_readv: try_call(),
            memory_file: try_memory_file(),
            sched_stat: try_sched_stat(),
            syscall_file: try_file("syscall").map(drop),
            timer: try_timer(),
            pidfd_open: try_pidfd_open(),
        }
    }

    /// How threads are stopped; `None` where they cannot be.
    pub fn stop_way(&self) -> Option<StopWay> {
        match (self.seize, self.attach) {
            (Ok(()), _) => Some(StopWay::Interrupt),
            (Err(_), Ok(())) => Some(StopWay::Signal),
            (Err(_), Err(_)) => None,
        }
    }

    /// How memory is read; `None` where it cannot be.
    pub fn memory_way(&self) -> Option<MemoryWay> {
        if self.process_vm_readv.is_ok() {
            Some(MemoryWay::Call)
        } else if self.memory_file.is_ok() {
            Some(MemoryWay::File)
        } else {
            self.stop_way().map(|_| MemoryWay::Words)
        }
    }

    /// Whether a sleeping thread can be read as it sleeps. Where not, it has to be stopped to be seen.
    pub fn can_read_sleepers(&self) -> bool {
        let can_read = self.process_vm_readv.is_ok() || self.memory_file.is_ok();
        can_read && self.syscall_file.is_ok()
    }
}

/// How much can be had of process `pid`, which is seen by what its thread `living` allows; with or without stops.
///
/// Asks for a byte of its memory and for what one thread is doing: the kernel judges both as it judges ptrace
/// (PTRACE_MODE_ATTACH). A process that is gone is not judged: it is as high as any.
pub fn rung(pid: Pid, living: Tid, may_stop: bool) -> Rung {
    let here = Abilities::here();
    let can_stop = may_stop && here.stop_way().is_some();
    let reads = match here.memory_way() {
        Some(MemoryWay::Call | MemoryWay::File) => may_read(pid, living),
        Some(MemoryWay::Words) | None => can_stop && may_be_asked(pid, living),
    };
    match (reads, can_stop) {
        (true, true) => Rung::Stops,
        (true, false) => Rung::Reads,
        (false, _) => Rung::States,
    }
}

fn may_read(pid: Pid, living: Tid) -> bool {
    // Nothing is mapped at zero, and every way of reading says so.
    let answer = ProcessMemory::new(Pid(living.0)).read_u64(Avma(0));
    !matches!(answer, Err(ReadError::Denied(_))) && may_be_asked(pid, living)
}

fn may_be_asked(pid: Pid, living: Tid) -> bool {
    let answer = ThreadFiles::new(pid, living).syscall();
    !matches!(answer, Err(ThreadReadError::Denied(_)))
}

/// No thread has the number 0: a request that gets through finds that there is none.
fn unless_nobody(answer: Result<(), Errno>) -> Ability {
    match answer {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn try_call() -> Ability {
    let (from, mut into) = (1u8, [0u8]);
    let remote = RemoteIoVec {
        base: std::ptr::from_ref(&from) as usize,
        len: 1,
    };
    let own = nix::unistd::getpid();
    process_vm_readv(own, &mut [io::IoSliceMut::new(&mut into)], &[remote]).map(drop)
}

fn try_memory_file() -> Ability {
    let from = 1u8;
    let at = std::ptr::from_ref(&from) as usize as u64;
    let read = File::open("/proc/self/mem").and_then(|file| file.read_exact_at(&mut [0], at));
    read.map_err(|error| errno_of(&error))
}

fn try_sched_stat() -> Ability {
    let text = try_file("schedstat")?;
    let counts = schedstat::parse(text.as_bytes()).map_err(|_| Errno::EINVAL)?;
    // We have a CPU. Kernels that do not count print zeroes.
    match counts.timeslices {
        0 => Err(Errno::ENOSYS),
        _ => Ok(()),
    }
}

/// A file of the calling thread's own.
fn try_file(name: &str) -> Result<String, Errno> {
    let path = format!("/proc/self/task/{}/{name}", gettid());
    std::fs::read_to_string(path).map_err(|error| errno_of(&error))
}

fn try_timer() -> Ability {
    let has_timer = deadline::arm(std::time::Duration::from_secs(1));
    deadline::disarm();
    if has_timer {
        Ok(())
    } else {
        Err(Errno::ENOSYS)
    }
}

fn try_pidfd_open() -> Ability {
    let own = nix::unistd::getpid().as_raw();
    // SAFETY: takes numbers only. See pidfd_open(2).
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, own, 0) };
    let descriptor = i32::try_from(Errno::result(answer)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the descriptor was just made, and nobody else knows of it.
    let _closed = unsafe { libc::close(descriptor) };
    Ok(())
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::Target;

    const ALL: Abilities = Abilities {
        seize: Ok(()),
        attach: Ok(()),
        process_vm_readv: Ok(()),
        memory_file: Ok(()),
        sched_stat: Ok(()),
        syscall_file: Ok(()),
        timer: Ok(()),
        pidfd_open: Ok(()),
    };

    #[test]
    fn everything_works_where_the_tests_run() {
        assert_eq!(Abilities::probe(), ALL);
    }

    #[test]
    fn what_is_missing_has_something_in_its_place() {
        let none = Err(Errno::EPERM);
        assert_eq!(ALL.stop_way(), Some(StopWay::Interrupt));
        let by_signal = Abilities { seize: none, ..ALL };
        assert_eq!(by_signal.stop_way(), Some(StopWay::Signal));
        let no_stop = Abilities {
            attach: none,
            ..by_signal
        };
        assert_eq!(no_stop.stop_way(), None);

        assert_eq!(ALL.memory_way(), Some(MemoryWay::Call));
        let by_file = Abilities {
            process_vm_readv: none,
            ..ALL
        };
        assert_eq!(by_file.memory_way(), Some(MemoryWay::File));
        assert!(by_file.can_read_sleepers());
        let by_words = Abilities {
            memory_file: none,
            ..by_file
        };
        assert_eq!(by_words.memory_way(), Some(MemoryWay::Words));
        assert!(!by_words.can_read_sleepers());
        let nothing = Abilities {
            seize: none,
            attach: none,
            ..by_words
        };
        assert_eq!(nothing.memory_way(), None);
    }

    #[test]
    fn a_process_of_ours_is_on_the_highest_rung() {
        let target = Target::pausing();
        assert_eq!(rung(target.pid(), target.tid(), true), Rung::Stops);
        assert_eq!(rung(target.pid(), target.tid(), false), Rung::Reads);
    }
}
