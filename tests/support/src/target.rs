//! A process to be profiled, killed on drop.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::sampler::{Done, Running};
use crate::watchdog::{LIMIT, Watchdog};

/// A running process; its input and output are pipes to us.
#[derive(Debug)]
pub struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    watchdog: Option<Watchdog>,
}

/// What a target left behind.
#[derive(Debug)]
pub struct Ended {
    /// What it printed since the last line read.
    pub stdout: String,
    /// How it ended.
    pub status: ExitStatus,
    /// The CPU time of its whole life, by the kernel's account.
    pub cpu: Duration,
}

impl Ended {
    /// The whole number that stands after `words` in the output, e.g. the one after `rusage_us`.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn number_after(&self, word: &str) -> u64 {
        number_after(&self.stdout, word)
    }

    /// The CPU time the program itself says it used (getrusage).
    #[track_caller]
    pub fn rusage(&self) -> Duration {
        Duration::from_micros(self.number_after("rusage_us"))
    }
}

/// The whole number after `word` in `text`.
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn number_after(text: &str, word: &str) -> u64 {
    text.split_whitespace()
        .skip_while(|&found| found != word)
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number after `{word}` in {text:?}"))
}

impl Target {
    /// Starts a fixture and waits until it says that it is ready.
    ///
    /// # Panics
    /// When it cannot be built or started, or ends before it is ready.
    #[track_caller]
    pub fn start(fixture: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(crate::fixture(fixture));
        Self::start_command(command.args(arguments))
    }

    /// Starts a command that leads to a fixture, and waits until that says that it is ready.
    ///
    /// # Panics
    /// When it cannot be started, or ends before it is ready.
    #[track_caller]
    pub fn start_command(command: &mut Command) -> Self {
        let mut target = Self::spawn(command);
        target.until_ready();
        target
    }

    /// Starts any program.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let watchdog = Some(Watchdog::watch(pid_of(&child)));
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout was asked for"));
        Self {
            child,
            stdin,
            stdout,
            watchdog,
        }
    }

    /// Lets it live for so long from now on, however long that is.
    pub fn live_for(&mut self, limit: Duration) {
        self.watchdog = Some(Watchdog::watch_for(pid_of(&self.child), limit));
    }

    /// Reads lines up to `ready`.
    ///
    /// # Panics
    /// When the target ends first.
    #[track_caller]
    pub fn until_ready(&mut self) {
        self.until_line(|line| line == "ready");
    }

    /// Reads lines until one pleases, and gives that one.
    ///
    /// # Panics
    /// When the output ends first.
    #[track_caller]
    pub fn until_line(&mut self, pleases: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        loop {
            let start = seen.len();
            let bytes = self.stdout.read_line(&mut seen);
            assert!(
                bytes.is_ok_and(|bytes| bytes > 0),
                "the target ended early, having said {seen:?}"
            );
            let line = seen[start..].trim_end();
            if pleases(line) {
                return line.to_owned();
            }
        }
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        pid_of(&self.child).as_raw()
    }

    /// Its number as an argument.
    pub fn pid_text(&self) -> String {
        self.pid().to_string()
    }

    /// Writes to its standard input.
    ///
    /// # Panics
    /// When it reads no more.
    #[track_caller]
    pub fn tell(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("its input is still open");
        stdin
            .write_all(text.as_bytes())
            .expect("the target reads its input");
    }

    /// Takes its standard input, to write much or to close it.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(pid_of(&self.child), signal).expect("the target is there");
    }

    /// The CPU time it has used, by the kernel's account; it may be a tick old for a thread on a CPU.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn cpu(&self) -> Duration {
        cpu_of(pid_of(&self.child))
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// When its output cannot be read.
    #[track_caller]
    pub fn end(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Closes its input and waits until it ends.
    ///
    /// # Panics
    /// When its output cannot be read.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let stdout = self.until_over();
        self.reap(stdout)
    }

    /// The same while it is recorded: it is reaped when the recording is over. A process that its parent reaps at once
    /// takes its accounts with it, and what it used since the sampler last read them is in no recording.
    ///
    /// # Panics
    /// When its output cannot be read, or `sampler` does not end.
    #[track_caller]
    pub fn wait_recorded(mut self, sampler: Running) -> (Ended, Done) {
        let stdout = self.until_over();
        let done = sampler.wait();
        (self.reap(stdout), done)
    }

    fn until_over(&mut self) -> String {
        self.stdin = None;
        let mut stdout = Vec::new();
        self.stdout
            .read_to_end(&mut stdout)
            .expect("the target's output can be read");
        self.until_zombie();
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// The account of a process that ended stays until it is reaped.
    fn reap(mut self, stdout: String) -> Ended {
        let cpu = self.cpu();
        self.watchdog = None;
        let status = self.child.wait().expect("a child can be waited for");
        Ended {
            stdout,
            status,
            cpu,
        }
    }

    /// Waits until it has ended, without reaping it.
    ///
    /// # Panics
    /// When it is no child of ours.
    #[track_caller]
    pub fn until_zombie(&self) {
        waitid(
            Id::Pid(pid_of(&self.child)),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT,
        )
        .expect("a child can be waited for");
    }

    /// Its threads now.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn threads(&self) -> Vec<i32> {
        fs::read_dir(format!("/proc/{}/task", self.pid()))
            .expect("the target is there")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// A field of `/proc/PID/task/TID/status`, e.g. `State` or `TracerPid`; `None` when the thread is gone.
    pub fn status(&self, tid: i32, field: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/task/{tid}/status", self.pid())).ok()?;
        status.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == field).then(|| value.trim().to_owned())
        })
    }

    /// Waits until all its threads are asleep.
    ///
    /// # Panics
    /// When they never are.
    #[track_caller]
    pub fn until_all_threads_sleep(&self) {
        self.until("all threads asleep", || {
            let states = self
                .threads()
                .into_iter()
                .map(|tid| self.status(tid, "State"));
            states
                .flatten()
                .all(|state| state.starts_with('S') || state.starts_with('D'))
        });
    }

    /// Waits until the state of each thread begins with this letter (/proc/PID/task/TID/status, `State`).
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn until_all_threads(&self, state: &str) {
        self.until(&format!("all threads in state {state}"), || {
            self.threads().into_iter().all(|tid| {
                self.status(tid, "State")
                    .is_none_or(|found| found.starts_with(state))
            })
        });
    }

    /// Waits until a field of the main thread's status pleases.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn until_status(&self, field: &str, pleases: impl Fn(&str) -> bool) {
        self.until(&format!("{field} as wanted"), || {
            self.status(self.pid(), field)
                .is_some_and(|value| pleases(&value))
        });
    }

    /// Waits until it has used CPU time: it runs.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn until_it_ran(&self) {
        // More than a tick, so that it is not time of before.
        let enough = self.cpu() + Duration::from_millis(12);
        self.until("CPU time to be used", || self.cpu() >= enough);
    }

    /// Waits until each of its threads but the main one has had a CPU since this was called.
    ///
    /// # Panics
    /// When one never does.
    #[track_caller]
    pub fn until_all_threads_ran(&self) {
        let mut waiting: Vec<(i32, String)> = self
            .threads()
            .into_iter()
            .filter(|&tid| tid != self.pid())
            .map(|tid| (tid, self.sched_stat(tid)))
            .collect();
        let start = Instant::now();
        while !waiting.is_empty() {
            waiting.retain(|(tid, before)| self.sched_stat(*tid) == *before);
            assert!(
                start.elapsed() < LIMIT,
                "threads {waiting:?} of process {} do not run",
                self.pid()
            );
            std::thread::yield_now();
        }
    }

    /// The CPU time of the thread that has used the most, in nanoseconds.
    pub fn most_cpu_of_a_thread(&self) -> u64 {
        let of_thread = |tid| self.sched_stat(tid).split(' ').next()?.parse().ok();
        let all = self.threads().into_iter().filter_map(of_thread);
        all.max().expect("a thread is there")
    }

    /// CPU time, time on the run queue and how often it was switched in; nothing for a thread that is gone.
    fn sched_stat(&self, tid: i32) -> String {
        fs::read_to_string(format!("/proc/{}/task/{tid}/schedstat", self.pid())).unwrap_or_default()
    }

    /// Asserts that nobody traces it and that no thread of it stands still.
    ///
    /// # Panics
    /// When a thread is traced or stopped.
    #[track_caller]
    pub fn assert_free(&self) {
        for tid in self.threads() {
            let (Some(state), Some(tracer)) =
                (self.status(tid, "State"), self.status(tid, "TracerPid"))
            else {
                continue; // it ended meanwhile
            };
            assert!(
                !state.starts_with(['T', 't', 'Z', 'X']),
                "thread {tid} is in state {state}"
            );
            assert_eq!(tracer, "0", "thread {tid} is still traced");
        }
    }

    /// Whether it has ended; it may not have been waited for.
    pub fn has_ended(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .map_or(true, |stat| stat.contains(") Z "))
    }

    /// Waits for whatever it is.
    ///
    /// # Panics
    /// When it never comes.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(
                start.elapsed() < LIMIT,
                "waited in vain for {what} of process {}",
                self.pid()
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.watchdog = None;
        // Both fail only for a target that was waited for already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("the kernel's pids are i32"))
}

#[track_caller]
pub(crate) fn cpu_of(pid: Pid) -> Duration {
    let clock = clock_getcpuclockid(pid).expect("the process is there");
    let time = clock_gettime(clock).expect("the process is there");
    Duration::from(time)
}
