//! /proc/PID/task: the threads of a process, and what is read of each at every tick.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sampler_unwind::Avma;

use super::super::abilities::Abilities;
use super::schedstat::{self, SchedStat};
use super::stat::{self, ProcState};
use super::syscall::{self, SyscallState};
use super::{Malformed, of_process, of_thread};
use crate::{Pid, Tid};

/// The threads of `pid`, in no particular order. Costs about half a microsecond a thread.
///
/// # Errors
/// What the kernel answers: `ENOENT` or `ESRCH` when the process is gone.
pub fn list(pid: Pid) -> io::Result<Vec<Tid>> {
    let mut tids = Vec::new();
    for entry in fs::read_dir(of_process(pid, "task"))? {
        let name = entry?.file_name();
        let tid = name.to_str().and_then(|name| name.parse().ok());
        tids.push(Tid(tid.ok_or(Malformed {
            file: "task",
            field: "thread number",
        })?));
    }
    Ok(tids)
}

/// How many threads a process has, without listing them: the kernel counts them as links of the directory besides its own
/// two (proc_task_getattr() in fs/proc/base.c).
#[derive(Debug)]
pub struct TaskCount {
    pid: Pid,
    folder: Kept,
}

impl TaskCount {
    /// Opens nothing yet.
    pub fn new(pid: Pid) -> Self {
        Self {
            pid,
            folder: Kept::default(),
        }
    }

    /// How many there are now; none when the process is gone.
    ///
    /// # Errors
    /// What the kernel answers: `ENOENT` or `ESRCH` when the process was gone at the first time.
    pub fn read(&mut self) -> io::Result<u64> {
        let path = || of_process(self.pid, "task");
        let links = self
            .folder
            .with(path, |folder| Ok(folder.metadata()?.nlink()))?;
        Ok(links.saturating_sub(2))
    }
}

/// Descriptors that kept files leave for everything else.
const DESCRIPTORS_SPARED: u64 = 64;

/// How many files may be kept open: until the limit is raised, half of what every process may have by default.
static KEPT_MAX: AtomicU64 = AtomicU64::new(512);
static KEPT: AtomicU64 = AtomicU64::new(0);

/// The soft limit before it was raised; zero when it was not.
static ORIGINAL_LIMIT: AtomicU64 = AtomicU64::new(0);

/// Raises the number of descriptors this process may have to what an unprivileged process may raise it to, and
/// returns it. Programs that we start get it too, unless [`super::super::spawn`] starts them.
///
/// # Errors
/// What getrlimit(2) or setrlimit(2) answers.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        ORIGINAL_LIMIT.store(soft, Ordering::Relaxed);
    }
    let limit = soft.max(hard);
    KEPT_MAX.store(limit.saturating_sub(DESCRIPTORS_SPARED), Ordering::Relaxed);
    Ok(limit)
}

/// The soft and the hard limit that a command of ours is to have, if we have changed our own.
pub(in super::super) fn original_descriptor_limit() -> Option<(u64, u64)> {
    let soft = ORIGINAL_LIMIT.load(Ordering::Relaxed);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft != 0).then_some((soft, hard))
}

/// Why a file of a thread could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ThreadReadError {
    /// The thread has ended.
    #[error("the thread has ended")]
    Gone,
    /// It may not be read: [`super::super::permission::why`] tells why.
    #[error("reading the state of a thread was denied")]
    Denied(#[source] io::Error),
    /// We, or the whole system, have no file descriptor left.
    #[error("out of file descriptors")]
    OutOfDescriptors(#[source] io::Error),
    /// The kernel has no such file, or it does not have its documented form.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Anything else.
    #[error("the state of a thread cannot be read")]
    Other(#[source] io::Error),
}

/// The files of one thread that are read again and again: kept open, because opening costs six times a read.
///
/// A kept file belongs to this thread alone: after its end it answers [`ThreadReadError::Gone`], also when its number
/// is given to another.
#[derive(Debug)]
pub struct ThreadFiles {
    pid: Pid,
    tid: Tid,
    schedstat: Kept,
    syscall: Kept,
    /// What is read in their place where they are not there.
    stat: Kept,
    status: Kept,
}

impl ThreadFiles {
    /// Opens nothing yet.
    pub fn new(pid: Pid, tid: Tid) -> Self {
        Self {
            pid,
            tid,
            schedstat: Kept::default(),
            syscall: Kept::default(),
            stat: Kept::default(),
            status: Kept::default(),
        }
    }

    /// Which thread.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// How long it has run, and how often. Needs no rights over the target. Where the kernel does not count:
    /// [`schedstat::stand_in`].
    ///
    /// # Errors
    /// See [`ThreadReadError`].
    pub fn sched_stat(&mut self) -> Result<SchedStat, ThreadReadError> {
        if Abilities::here().sched_stat.is_err() {
            return self.counted_switches();
        }
        /// Three numbers of up to 20 digits.
        const BYTES_MAX: usize = 64;
        let mut buffer = [0; BYTES_MAX];
        let path = || of_thread(self.pid, self.tid, "schedstat");
        let text = self.schedstat.read(path, &mut buffer)?;
        Ok(schedstat::parse(text)?)
    }

    fn counted_switches(&mut self) -> Result<SchedStat, ThreadReadError> {
        /// Some two kilobytes, with room for a thousand groups; the counts come last.
        const BYTES_MAX: usize = 16384;
        let mut stat = [0; STAT_BYTES_MAX];
        let path = || of_thread(self.pid, self.tid, "stat");
        let stat = self.stat.read(path, &mut stat)?;
        let mut status = [0; BYTES_MAX];
        let path = || of_thread(self.pid, self.tid, "status");
        let status = self.status.read(path, &mut status)?;
        Ok(schedstat::stand_in(stat, status)?)
    }

    /// What the scheduler has it down for. Needs no rights over the target.
    ///
    /// # Errors
    /// See [`ThreadReadError`].
    pub fn state(&mut self) -> Result<ProcState, ThreadReadError> {
        let mut buffer = [0; STAT_BYTES_MAX];
        let path = || of_thread(self.pid, self.tid, "stat");
        let text = self.stat.read(path, &mut buffer)?;
        Ok(stat::state_and_cpu_ns(text)?.0)
    }

    /// Where it stands if it sleeps. Needs the right to trace the target. Where the kernel has no such file only its
    /// state is known.
    ///
    /// # Errors
    /// See [`ThreadReadError`].
    pub fn syscall(&mut self) -> Result<SyscallState, ThreadReadError> {
        if Abilities::here().syscall_file.is_err() {
            return Ok(match self.state()? {
                ProcState::Running => SyscallState::Running,
                ProcState::Zombie | ProcState::Dead => SyscallState::BlockedOutsideSyscall {
                    sp: Avma(0),
                    pc: Avma(0),
                },
                _ => SyscallState::Hidden,
            });
        }
        /// A number of up to 20 digits and eight of up to 18, with spaces: 173.
        const BYTES_MAX: usize = 192;
        let mut buffer = [0; BYTES_MAX];
        let path = || of_thread(self.pid, self.tid, "syscall");
        let text = self.syscall.read(path, &mut buffer)?;
        Ok(syscall::parse(text)?)
    }
}

/// A name of up to 63 bytes and some fifty numbers of up to 20 digits.
const STAT_BYTES_MAX: usize = 1280;

/// A file that stays open from its first read on, unless descriptors are short.
#[derive(Debug, Default)]
struct Kept(Option<File>);

impl Kept {
    fn read<'a>(
        &mut self,
        path: impl FnOnce() -> String,
        buffer: &'a mut [u8],
    ) -> Result<&'a [u8], ThreadReadError> {
        let bytes = self.with(path, |file| file.read_at(buffer, 0))?;
        Ok(buffer.get(..bytes).unwrap_or_default())
    }

    /// Asks the file, which is opened if it was not kept.
    fn with<T>(
        &mut self,
        path: impl FnOnce() -> String,
        ask: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some(file) = &self.0 {
            return ask(file);
        }
        let file = File::open(path())?;
        let answer = ask(&file)?;
        self.keep(file);
        Ok(answer)
    }

    fn keep(&mut self, file: File) {
        if KEPT.fetch_add(1, Ordering::Relaxed) < KEPT_MAX.load(Ordering::Relaxed) {
            self.0 = Some(file);
        } else {
            KEPT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.0.is_some() {
            KEPT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl From<io::Error> for ThreadReadError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => Self::Gone,
            Some(libc::EPERM | libc::EACCES) => Self::Denied(error),
            Some(libc::EMFILE | libc::ENFILE) => Self::OutOfDescriptors(error),
            _ => Self::Other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::{Target, TargetThread, own_pid, own_tid};

    #[test]
    fn a_thread_is_listed_and_read_until_it_ends() {
        let thread = TargetThread::blocked_in_read();
        assert!(list(own_pid()).unwrap().contains(&thread.tid()));
        let mut files = ThreadFiles::new(own_pid(), thread.tid());
        let before = files.sched_stat().unwrap();
        assert!(before.timeslices > 0);
        let SyscallState::Blocked { number, sp, .. } = thread.wait_until_blocked(&mut files) else {
            unreachable!("it waits until it is blocked")
        };
        assert_eq!(i64::from(number), libc::SYS_read);
        assert_ne!(sp.0, 0);
        thread.end();
        assert!(matches!(files.sched_stat(), Err(ThreadReadError::Gone)));
        assert!(matches!(files.syscall(), Err(ThreadReadError::Gone)));
        assert!(!list(own_pid()).unwrap().contains(&files.tid()));
    }

    #[test]
    fn threads_are_counted_as_they_come_and_go() {
        let target = Target::busy();
        let mut count = TaskCount::new(target.pid());
        for _ in 0..2 {
            assert_eq!(count.read().unwrap(), 1);
            assert!(count.folder.0.is_some());
        }
        let mut own = TaskCount::new(own_pid());
        let thread = TargetThread::blocked_in_read();
        assert!(own.read().unwrap() >= 2);
        thread.end();
        drop(target);
        // The number may be another's by now; the folder is not.
        assert_eq!(count.read().unwrap_or_default(), 0);
    }

    #[test]
    fn a_busy_thread_is_running() {
        let target = Target::busy();
        let mut files = ThreadFiles::new(target.pid(), target.tid());
        assert_eq!(files.syscall().unwrap(), SyscallState::Running);
    }

    #[test]
    fn what_cannot_be_kept_is_opened_again_and_again() {
        let mut kept = Kept::default();
        let path = || of_thread(own_pid(), own_tid(), "schedstat");
        let over = KEPT_MAX.load(Ordering::Relaxed);
        KEPT.fetch_add(over, Ordering::Relaxed);
        for _ in 0..2 {
            assert!(!kept.read(path, &mut [0; 64]).unwrap().is_empty());
            assert!(kept.0.is_none());
        }
        KEPT.fetch_sub(over, Ordering::Relaxed);
    }

    #[test]
    fn each_error_has_its_kind() {
        let kind = |errno| ThreadReadError::from(io::Error::from_raw_os_error(errno));
        assert!(matches!(kind(libc::ESRCH), ThreadReadError::Gone));
        assert!(matches!(kind(libc::EACCES), ThreadReadError::Denied(_)));
        assert!(matches!(
            kind(libc::EMFILE),
            ThreadReadError::OutOfDescriptors(_)
        ));
        assert!(matches!(kind(libc::EIO), ThreadReadError::Other(_)));
    }
}
