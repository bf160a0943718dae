//! Processes and threads for tests to look at. Each is in the state to be looked at when its constructor returns, and
//! ends with its guard.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use sampler_unwind::Avma;

use super::proc::syscall::SyscallState;
use super::proc::task::ThreadFiles;
use crate::{Pid, Tid};

/// The system call by which the C library waits for events.
#[cfg(target_arch = "x86_64")]
pub(super) const EPOLL_WAIT: libc::c_long = libc::SYS_epoll_wait;
/// The system call by which the C library waits for events.
#[cfg(target_arch = "aarch64")]
pub(super) const EPOLL_WAIT: libc::c_long = libc::SYS_epoll_pwait;
/// The system call of pause(2).
#[cfg(target_arch = "x86_64")]
pub(super) const PAUSE: libc::c_long = libc::SYS_pause;
/// The system call of pause(2).
#[cfg(target_arch = "aarch64")]
pub(super) const PAUSE: libc::c_long = libc::SYS_ppoll;

/// After this long something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn own_pid() -> Pid {
    Pid(std::process::id().cast_signed())
}

pub(super) fn own_tid() -> Tid {
    Tid(nix::unistd::gettid().as_raw())
}

/// Asks again and again until it is so.
#[track_caller]
pub(super) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "still not so after {PATIENCE:?}");
        thread::yield_now();
    }
}

/// A thread of this process. It cannot be stopped: nobody traces himself.
pub(super) struct TargetThread {
    tid: Tid,
    pipe: io::PipeWriter,
    thread: JoinHandle<()>,
}

impl TargetThread {
    /// Reads an empty pipe, or is about to.
    pub(super) fn blocked_in_read() -> Self {
        let (mut reader, pipe) = io::pipe().unwrap();
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            sender.send(own_tid()).unwrap();
            io::Read::read(&mut reader, &mut [0]).unwrap();
        });
        Self {
            tid: receiver.recv().unwrap(),
            pipe,
            thread,
        }
    }

    pub(super) fn tid(&self) -> Tid {
        self.tid
    }

    /// Waits until it does read the pipe.
    pub(super) fn wait_until_blocked(&self, files: &mut ThreadFiles) -> SyscallState {
        let mut state = SyscallState::Running;
        wait_until(|| {
            state = files.syscall().unwrap();
            matches!(state, SyscallState::Blocked { number, .. } if i64::from(number) == libc::SYS_read)
        });
        state
    }

    /// Returns when the kernel has forgotten it, which is a little later than a join does.
    pub(super) fn end(mut self) {
        self.pipe.write_all(b"x").unwrap();
        self.thread.join().unwrap();
        // SAFETY: signal zero only asks whether there is such a thread.
        wait_until(|| unsafe { libc::syscall(libc::SYS_tgkill, own_pid().0, self.tid.0, 0) } != 0);
    }
}

/// A child process, forked from this one. As other threads may hold locks at that moment, what it runs makes system
/// calls only.
pub(super) struct Target {
    pid: Pid,
    shared: Shared,
}

/// Memory that a target shares with the test: numbers to count in.
#[derive(Clone, Copy)]
pub(super) struct Shared(&'static [AtomicU64; 16]);

impl Shared {
    fn new() -> Self {
        let bytes = size_of::<[AtomicU64; 16]>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: large enough, aligned to a page, all zeroes, and never unmapped.
        Self(unsafe { &*start.cast() })
    }

    pub(super) fn get(self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    pub(super) fn set(self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Relaxed);
    }

    pub(super) fn increment(self, index: usize) {
        self.set(index, self.get(index).wrapping_add(1));
    }
}

impl Target {
    /// A child that runs `body`, which must not allocate, lock or panic, and ends when it returns.
    pub(super) fn run(body: impl FnOnce(Shared)) -> Self {
        let shared = Shared::new();
        // SAFETY: the child makes system calls and touches its own stack and the shared numbers only.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            // SAFETY: takes a number. Should the test die, so does the child.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            body(shared);
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        Self {
            pid: Pid(pid),
            shared,
        }
    }

    /// Counts in number 0 for ever.
    pub(super) fn busy() -> Self {
        let target = Self::run(|shared| {
            loop {
                shared.increment(0);
            }
        });
        target.wait_for_progress(0);
        target
    }

    /// Waits for a signal for ever. Blocked when this returns.
    pub(super) fn pausing() -> Self {
        let target = Self::run(|_| {
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        });
        target.wait_until_blocked_in(PAUSE);
        target
    }

    /// A zombie.
    pub(super) fn ended_after_using_cpu() -> Self {
        let target = Self::run(|shared| {
            while shared.get(0) < 100_000 {
                shared.increment(0);
            }
        });
        let mut information = unsafe_zeroed_siginfo();
        let pid = target.pid.0.cast_unsigned();
        let flags = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: `information` is ours for the length of the call.
        let answer = unsafe { libc::waitid(libc::P_PID, pid, &raw mut information, flags) };
        assert_eq!(answer, 0);
        target
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its only thread.
    pub(super) fn tid(&self) -> Tid {
        Tid(self.pid.0)
    }

    pub(super) fn shared(&self) -> Shared {
        self.shared
    }

    /// Waits until number `index` has changed twice: the target has run since this was called.
    #[track_caller]
    pub(super) fn wait_for_progress(&self, index: usize) {
        for _ in 0..2 {
            let before = self.shared.get(index);
            wait_until(|| self.shared.get(index) != before);
        }
    }

    #[track_caller]
    pub(super) fn wait_until_blocked_in(&self, number: libc::c_long) {
        let mut files = ThreadFiles::new(self.pid, self.tid());
        wait_until(
            || matches!(files.syscall(), Ok(SyscallState::Blocked { number: now, .. }) if i64::from(now) == number),
        );
    }

    pub(super) fn signal(&self, signal: i32) {
        // SAFETY: kill touches no memory; the child has not been reaped, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.pid.0, signal) }, 0);
    }

    /// Kills and reaps it.
    pub(super) fn end(self) {
        drop(self);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // SAFETY: kill touches no memory; the child has not been reaped, so the number is its own.
        unsafe { libc::kill(self.pid.0, libc::SIGKILL) };
        // SAFETY: the status is not asked for.
        while unsafe { libc::waitpid(self.pid.0, ptr::null_mut(), libc::__WALL) } == -1
            && Errno::last() == Errno::EINTR
        {}
    }
}

fn unsafe_zeroed_siginfo() -> libc::siginfo_t {
    // SAFETY: siginfo_t is plain data for which zeroes are valid.
    unsafe { std::mem::zeroed() }
}

/// Reads one byte from `fd`, as the body of a target may.
pub(super) fn read_byte(fd: RawFd) {
    let mut byte = 0u8;
    // SAFETY: one byte is written, to `byte`.
    unsafe { libc::read(fd, ptr::from_mut(&mut byte).cast(), 1) };
}

/// Pages of this process with nothing behind them: the file that is mapped there has no more.
///
/// Memory without rights would not do, because `/proc/PID/mem` reads it all the same.
pub(super) struct Mapped {
    start: *mut libc::c_void,
    bytes: usize,
}

impl Mapped {
    pub(super) fn with_a_hole_behind(pages: usize) -> Self {
        const PAGE: usize = 4096;
        let file = tempfile::tempfile().unwrap();
        file.set_len((pages * PAGE) as u64).unwrap();
        let bytes = (pages + 1) * PAGE;
        // SAFETY: a new mapping, at a place of the kernel's choice. Only the kernel reads it.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start, bytes }
    }

    pub(super) fn start(&self) -> Avma {
        Avma(self.start as usize as u64)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

/// The descriptor of something that a target inherits.
pub(super) fn raw(fd: &impl AsRawFd) -> RawFd {
    fd.as_raw_fd()
}
