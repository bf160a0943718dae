//! Starting the command that is to be profiled, and learning how it ended.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};

use super::check::{ThirtyTwoBit, thirty_two_bit};
use super::proc::task;
use super::ptrace;
use crate::Pid;

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No such file, neither as a path nor in `PATH`. Exit code 127 by custom.
    #[error("{} was not found", program.display())]
    NotFound {
        /// What was asked for.
        program: OsString,
    },
    /// The file is there and cannot be executed. Exit code 126 by custom.
    #[error("{} cannot be executed", program.display())]
    NotExecutable {
        /// What was asked for.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is a program of the x32 ABI: hardly a kernel runs it, and we could not look at it. Exit code 126.
    #[error("{} is a 32-bit program ({kind}), which is not supported", program.display())]
    ThirtyTwoBit {
        /// What was asked for.
        program: OsString,
        /// Of which kind.
        kind: ThirtyTwoBit,
    },
    /// No process could be made.
    #[error("cannot start {}", program.display())]
    Other {
        /// What was asked for.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A command that we started. Dropping it lets it run on.
#[derive(Debug)]
pub struct Launched {
    pid: Pid,
}

/// How a command ended, and what it used.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// CPU time in its own code, with that of the children it has waited for.
    pub user: Duration,
    /// CPU time in the kernel, likewise.
    pub system: Duration,
    /// The most memory it, or a child it has waited for, had resident.
    pub peak_rss_bytes: u64,
}

/// Where a command's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildStdout {
    /// Where ours goes.
    Inherited,
    /// Where our standard error goes, because ours is for something else.
    ToStderr,
}

/// Starts `program`, looked up in `PATH`, as a foreground command beside us: same terminal, same process group, so
/// that Ctrl-C reaches both. When this returns, the program itself runs already (execve(2) is done).
///
/// It starts as we were started ourselves: our signal mask and ignored signals, our limit of open files before
/// [`task::raise_descriptor_limit`].
///
/// # Errors
/// See [`LaunchError`].
pub fn launch(
    program: &OsStr,
    arguments: &[OsString],
    stdout: ChildStdout,
) -> Result<Launched, LaunchError> {
    // The C library has the shell read what the kernel does not run: it would say something else about it.
    let is_path = program.as_encoded_bytes().contains(&b'/');
    if is_path && thirty_two_bit(Path::new(program)) == Some(ThirtyTwoBit::X32) {
        let kind = ThirtyTwoBit::X32;
        let program = program.to_owned();
        return Err(LaunchError::ThirtyTwoBit { program, kind });
    }
    let inherited = Inherited::read().map_err(|errno| LaunchError::Other {
        program: program.to_owned(),
        source: errno.into(),
    })?;
    let mut command = Command::new(program);
    command.args(arguments);
    if stdout == ChildStdout::ToStderr {
        command.stdout(Stdio::from(io::stderr()));
    }
    // SAFETY: between fork and exec `restore` makes system calls only: it neither allocates nor locks.
    unsafe { command.pre_exec(move || Ok(inherited.restore()?)) };
    let child = command
        .spawn()
        .map_err(|source| launch_error(program, source))?;
    let pid = Pid(child.id().cast_signed());
    children().push(pid);
    Ok(Launched { pid })
}

impl Launched {
    /// Which process it is.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has ended, without reaping it: its CPU clock can still be read.
    ///
    /// # Errors
    /// What waitid(2) answers.
    pub fn try_wait_keep(&self) -> io::Result<bool> {
        Ok(self.wait_without_reaping(libc::WNOHANG)?)
    }

    /// Sleeps until it has ended, without reaping it. `false` when a signal has interrupted that.
    ///
    /// # Errors
    /// What waitid(2) answers.
    pub fn wait_keep(&self) -> io::Result<bool> {
        match self.wait_without_reaping(0) {
            Err(Errno::EINTR) => Ok(false),
            answer => Ok(answer?),
        }
    }

    /// Waits for it to end and takes its status. Signals do not interrupt this.
    ///
    /// # Errors
    /// What wait4(2) answers.
    pub fn reap(self) -> io::Result<Ended> {
        // SAFETY: rusage is plain data for which zeroes are valid.
        let mut usage: libc::rusage = unsafe { mem::zeroed() };
        loop {
            let mut status = 0;
            // SAFETY: `status` and `usage` are ours and writable for the length of the call.
            let answer = unsafe { libc::wait4(self.pid.0, &raw mut status, 0, &raw mut usage) };
            match Errno::result(answer) {
                Ok(_) => return Ok(Ended::new(status, &usage)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn wait_without_reaping(&self, flags: i32) -> Result<bool, Errno> {
        let id = self.pid.0.cast_unsigned();
        let report = ptrace::waitid(libc::P_PID, id, flags | libc::WEXITED | libc::WNOWAIT)?;
        Ok(report.is_some())
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        children().retain(|&pid| pid != self.pid);
    }
}

impl Ended {
    fn new(status: i32, usage: &libc::rusage) -> Self {
        let kibibytes = u64::try_from(usage.ru_maxrss).unwrap_or(0);
        Self {
            status: ExitStatus::from_raw(status),
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            peak_rss_bytes: kibibytes.saturating_mul(1024),
        }
    }
}

fn children() -> MutexGuard<'static, Vec<Pid>> {
    static CHILDREN: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `pid` is a command of ours that has not been reaped.
pub(super) fn is_ours(pid: Pid) -> bool {
    children().contains(&pid)
}

/// What a child inherits over execve(2) and we have, or may have, changed for ourselves.
#[derive(Clone, Copy)]
struct Inherited {
    mask: SigSet,
    sigchld_ignored: bool,
    sigpipe_ignored: bool,
    descriptors: Option<(u64, u64)>,
}

impl Inherited {
    fn read() -> Result<Self, Errno> {
        Ok(Self {
            mask: SigSet::thread_get_mask()?,
            sigchld_ignored: stop_ignoring_children()?,
            sigpipe_ignored: SIGPIPE_IGNORED.load(Ordering::Relaxed),
            descriptors: task::original_descriptor_limit(),
        })
    }

    /// Runs in the child, after std has emptied the mask and stopped ignoring SIGPIPE.
    fn restore(&self) -> Result<(), Errno> {
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None)?;
        let ignored = [
            (Signal::SIGCHLD, self.sigchld_ignored),
            (Signal::SIGPIPE, self.sigpipe_ignored),
        ];
        for (number, _) in ignored.iter().filter(|(_, ignored)| *ignored) {
            // SAFETY: ignoring a signal runs no code.
            unsafe { signal(*number, SigHandler::SigIgn) }?;
        }
        if let Some((soft, hard)) = self.descriptors {
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        }
        Ok(())
    }
}

/// Whoever ignores SIGCHLD is not told how a child ended. Says whether we were started like that.
fn stop_ignoring_children() -> Result<bool, Errno> {
    static IGNORED: AtomicBool = AtomicBool::new(false);
    if is_ignored(libc::SIGCHLD) {
        IGNORED.store(true, Ordering::Relaxed);
        // SAFETY: the default for SIGCHLD is to do nothing.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    }
    Ok(IGNORED.load(Ordering::Relaxed))
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data for which zeroes are valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: `action` is ours and writable for the length of the call; nothing is set.
    let answer = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    answer == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Whether SIGPIPE was ignored when we were started, as systemd does for its services.
static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// Rust's start-up code ignores SIGPIPE before `main`, so this has to look before that: the C library calls what
/// stands in this section first.
// SAFETY: the section holds pointers to functions of this type, and the function needs nothing that is not there yet.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_SIGPIPE: extern "C" fn() = look_at_sigpipe;

extern "C" fn look_at_sigpipe() {
    SIGPIPE_IGNORED.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
}

fn launch_error(program: &OsStr, source: io::Error) -> LaunchError {
    let program = program.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => LaunchError::NotFound { program },
        Some(libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR | libc::ELOOP) => {
            LaunchError::NotExecutable { program, source }
        }
        _ => LaunchError::Other { program, source },
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tid;
    use crate::linux::clock::process_cpu_time;
    use crate::linux::stop_kind::StopKind;

    fn sh(script: &str) -> Launched {
        launch(
            "sh".as_ref(),
            &["-c".into(), script.into()],
            ChildStdout::Inherited,
        )
        .unwrap()
    }

    #[test]
    fn a_command_can_be_read_until_it_is_reaped() {
        let launched = sh("exit 7");
        assert!(launched.wait_keep().unwrap());
        assert!(launched.try_wait_keep().unwrap());
        assert!(process_cpu_time(launched.pid()).unwrap() > Duration::ZERO);
        let pid = launched.pid();
        let ended = launched.reap().unwrap();
        assert_eq!(ended.status.code(), Some(7));
        assert!(ended.peak_rss_bytes > 0);
        assert!(process_cpu_time(pid).is_err());
    }

    #[test]
    fn a_running_command_has_not_ended() {
        let launched = sh("exec sleep 1000");
        assert!(!launched.try_wait_keep().unwrap());
        // SAFETY: kill touches no memory; the child has not been reaped, so the number is its own.
        unsafe { libc::kill(launched.pid().0, libc::SIGKILL) };
        let status = launched.reap().unwrap().status;
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_command_starts_as_we_were_started() {
        let directory = tempfile::tempdir().unwrap();
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGUSR2);
        let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
        let original = own_proc_file(directory.path(), "limits");
        task::raise_descriptor_limit().unwrap();
        let limits = own_proc_file(directory.path(), "limits");
        let text = own_proc_file(directory.path(), "status");
        before.thread_set_mask().unwrap();
        assert_eq!(limits, original);
        let set = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
        };
        assert_eq!(set("SigBlk:"), 1 << (libc::SIGUSR2 - 1));
        let sigpipe = set("SigIgn:") & 1 << (libc::SIGPIPE - 1) != 0;
        assert_eq!(sigpipe, SIGPIPE_IGNORED.load(Ordering::Relaxed));
    }

    /// What a command that we start finds in /proc/self. Not a shell: it empties the signal mask.
    fn own_proc_file(directory: &std::path::Path, name: &str) -> String {
        let copy = directory.join(name);
        let file = format!("/proc/self/{name}");
        let launched = launch(
            "cp".as_ref(),
            &[file.into(), copy.clone().into()],
            ChildStdout::Inherited,
        )
        .unwrap();
        assert!(launched.reap().unwrap().status.success());
        std::fs::read_to_string(copy).unwrap()
    }

    #[test]
    fn an_end_that_a_stop_has_reported_is_not_lost() {
        let launched = sh("exit 3");
        launched.wait_keep().unwrap();
        let tid = Tid(launched.pid().0);
        let reported = ptrace::wait(tid, libc::WNOHANG).unwrap();
        assert_eq!(reported, Some(StopKind::Exited { code: 3 }));
        assert!(process_cpu_time(launched.pid()).unwrap() > Duration::ZERO);
        assert!(launched.try_wait_keep().unwrap());
        assert_eq!(launched.reap().unwrap().status.code(), Some(3));
    }

    #[test]
    fn what_cannot_be_started_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("not executable");
        std::fs::write(&file, "text").unwrap();
        let start = |program: &OsStr| launch(program, &[], ChildStdout::Inherited).map(drop);
        assert!(matches!(
            start("no-such-command-here".as_ref()),
            Err(LaunchError::NotFound { .. })
        ));
        for program in [file.as_os_str(), directory.path().as_os_str()] {
            assert!(matches!(
                start(program),
                Err(LaunchError::NotExecutable { .. })
            ));
        }
    }
}
