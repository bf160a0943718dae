//! The command under test.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::report::Report;
use crate::target::{Target, cpu_of, pid_of};
use crate::watchdog::Watchdog;

/// `sampler`, run in a folder of its own that goes away with this value.
#[derive(Debug)]
pub struct Sampler {
    program: PathBuf,
    folder: TempDir,
}

impl Sampler {
    /// The command at this path; tests say `sampler!()` instead.
    ///
    /// # Panics
    /// When there is no place for a temporary folder.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            folder: tempfile::tempdir().expect("there is a place for temporary files"),
        }
    }

    /// The folder it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in that folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// A copy of the program, and a folder, that any user may use.
    ///
    /// # Panics
    /// When the program cannot be copied.
    pub fn for_everybody(&self) -> PathBuf {
        let copy = self.path("sampler");
        fs::copy(&self.program, &copy).expect("the program can be copied");
        fs::set_permissions(self.folder(), fs::Permissions::from_mode(0o777))
            .expect("the folder is ours");
        copy
    }

    /// The command, its output to be collected, its input empty.
    ///
    /// A recording promises no overhead unless `arguments` say what: a build for tests costs more than one that is
    /// used, and most tests are about what is seen at the rate they ask for.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        let mut arguments: Vec<_> = arguments
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect();
        let is_recording = arguments.first().is_some_and(|word| word == "record");
        if is_recording && !arguments.iter().any(|word| word == "--max-overhead") {
            arguments.splice(1..1, ["--max-overhead".into(), "off".into()]);
        }
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// Lets another command that leads to `sampler` run as [`Sampler::command`] does.
    pub fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.folder())
            // Not the user's own, and none that another test has filled.
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Done {
        self.start(arguments).wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_command(&mut self.command(arguments))
    }

    /// Starts a command that came from [`Sampler::command`] or [`Sampler::prepare`].
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start_command(&self, command: &mut Command) -> Running {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .expect("inotify is there");
        inotify
            .add_watch(
                self.folder(),
                AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO,
            )
            .expect("the folder is there");
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Running {
            watchdog: Some(Watchdog::watch(pid_of(&child))),
            stdout: child.stdout.take().map(collect),
            stderr: child.stderr.take().map(collect),
            child,
            inotify,
            folder: self.folder().to_path_buf(),
        }
    }

    /// Starts `sampler record` on a running process and waits until it begins to write: see
    /// [`Running::until_first_sample`].
    #[track_caller]
    pub fn attach(&self, pid: i32, options: &[&str]) -> Running {
        let pid = pid.to_string();
        let mut arguments = vec!["record", "-p", &pid];
        arguments.extend(options);
        let running = self.start(&arguments);
        running.until_recording();
        running
    }

    /// The profile of a running target, recorded 1000 times a second for so long: far more often than anybody needs, so
    /// that whatever can happen at a bad moment happens.
    #[track_caller]
    pub fn record_often(&self, target: &Target, duration: &str) -> Report {
        let pid = target.pid_text();
        self.run(&["record", "-p", &pid, "-d", duration, "-r", "1000"])
            .expect_code(0);
        self.report()
    }

    /// The profile of the recording in its usual place.
    #[track_caller]
    pub fn report(&self) -> Report {
        self.report_of(&self.path("sampler.data"))
    }

    /// The profile of any recording.
    ///
    /// # Panics
    /// When there is no recording, or the report is not what is promised.
    #[track_caller]
    pub fn report_of(&self, recording: &Path) -> Report {
        let recording = recording.to_str().expect("our paths are text");
        self.parsed(&["report", "-f", "json", recording])
    }

    /// The profile of `sampler.data`, made with further options.
    ///
    /// # Panics
    /// When there is no recording, or the report is not what is promised.
    #[track_caller]
    pub fn report_with(&self, options: &[&str]) -> Report {
        self.parsed(&[&["report", "-f", "json"], options].concat())
    }

    #[track_caller]
    fn parsed(&self, arguments: &[&str]) -> Report {
        let done = self.run(arguments);
        done.expect_code(0);
        Report::parse(&done.stdout)
    }
}

/// `sampler` while it runs; killed on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    watchdog: Option<Watchdog>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    inotify: Inotify,
    folder: PathBuf,
}

/// How `sampler` ended.
#[derive(Debug)]
pub struct Done {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it, or the command it ran, wrote to standard output.
    pub stdout: Vec<u8>,
    /// The same for standard error.
    pub stderr: String,
}

impl Running {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        pid_of(&self.child).as_raw()
    }

    /// The CPU time it has used.
    ///
    /// # Panics
    /// When it has ended.
    #[track_caller]
    pub fn cpu(&self) -> Duration {
        cpu_of(pid_of(&self.child))
    }

    /// Lets it run for so long from now on, however long that is.
    pub fn live_for(&mut self, limit: Duration) {
        self.watchdog = Some(Watchdog::watch_for(pid_of(&self.child), limit));
    }

    /// Waits until `sampler.data.partial` is there.
    ///
    /// # Panics
    /// When it ends before that.
    #[track_caller]
    pub fn until_recording(&self) {
        let partial = self.folder.join("sampler.data.partial");
        self.until_file(|| partial.exists());
    }

    /// Waits until the first sample is written: what the target uses from then on is part of the recording.
    ///
    /// # Panics
    /// When it ends before that.
    #[track_caller]
    pub fn until_first_sample(&self) {
        /// More than what is written before it.
        const START_BYTES: u64 = 600;
        self.until_recorded(START_BYTES);
    }

    /// Waits until `sampler.data.partial` has at least so many bytes.
    ///
    /// # Panics
    /// When it ends before that.
    #[track_caller]
    pub fn until_recorded(&self, bytes: u64) {
        let partial = self.folder.join("sampler.data.partial");
        self.until_file(|| fs::metadata(&partial).is_ok_and(|file| file.len() >= bytes));
    }

    /// Waits until the files in its folder please; they are looked at each time one has changed.
    ///
    /// # Panics
    /// When it ends before that.
    #[track_caller]
    pub fn until_file(&self, pleases: impl Fn() -> bool) {
        // It may end between two looks, after which no file changes any more.
        const LOOK_AGAIN_MS: u16 = 100;
        while !pleases() {
            assert!(
                !self.has_ended(),
                "sampler ended before the file was as wanted"
            );
            let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS)).expect("inotify can be polled");
            // Nothing to read is no fault: then the time was up.
            let _events = self.inotify.read_events();
        }
    }

    fn has_ended(&self) -> bool {
        self.state().is_none_or(|state| state == 'Z')
    }

    /// The state that the kernel shows of its main thread, e.g. `T`; `None` when it is gone.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits until its main thread is in this state, e.g. `T`.
    ///
    /// # Panics
    /// When it ends first.
    #[track_caller]
    pub fn until_state(&self, state: char) {
        while self.state() != Some(state) {
            assert!(!self.has_ended(), "sampler ended before it was in {state}");
            std::thread::yield_now();
        }
    }

    /// Lets it run for so long; `true` when it is still running then.
    pub fn runs_for(&mut self, time: Duration) -> bool {
        // A change in its folder may come or not: what is waited for is time, at a moment of the caller's choice.
        let end = std::time::Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || self.has_ended() {
                return !self.has_ended();
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            let _woken = poll(&mut fds, timeout);
            let _events = self.inotify.read_events();
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(pid_of(&self.child), signal).expect("sampler is there");
    }

    /// Ctrl-C, and waits.
    #[track_caller]
    pub fn interrupt(self) -> Done {
        self.signal(Signal::SIGINT);
        self.wait()
    }

    /// `kill -9`, and waits until it is gone.
    #[track_caller]
    pub fn kill(self) -> Done {
        self.signal(Signal::SIGKILL);
        self.wait()
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// When it panicked.
    #[track_caller]
    pub fn wait(mut self) -> Done {
        let status = self.child.wait().expect("a child can be waited for");
        self.watchdog = None;
        let text = |reader: Option<JoinHandle<Vec<u8>>>| {
            reader.map_or_else(Vec::new, |reader| {
                reader.join().expect("the reader does not panic")
            })
        };
        let stdout = text(self.stdout.take());
        let stderr = String::from_utf8_lossy(&text(self.stderr.take())).into_owned();
        assert!(
            !stderr.contains("panicked at"),
            "sampler panicked: {stderr}"
        );
        Done {
            code: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watchdog = None;
        // Both fail only when it was waited for already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Done {
    /// Asserts the exit code.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code of sampler (signal {:?}); it wrote:\n{}\n{}",
            self.signal,
            self.stderr,
            String::from_utf8_lossy(&self.stdout)
        );
        self
    }

    /// Asserts that it failed with this code and said so in one line that has these words; a hint may follow.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn expect_error(&self, code: i32, words: &[&str]) -> &Self {
        self.expect_code(code);
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("sampler: "))
            .collect();
        assert_eq!(
            errors.len(),
            1,
            "one line says what is wrong:\n{}",
            self.stderr
        );
        for word in words {
            assert!(
                self.stderr.to_lowercase().contains(&word.to_lowercase()),
                "`{word}` is missing from:\n{}",
                self.stderr
            );
        }
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The whole number after `word` on standard output, i.e. of the command that was run.
    #[track_caller]
    pub fn number_after(&self, word: &str) -> u64 {
        crate::target::number_after(&self.text(), word)
    }
}

fn collect(mut from: impl std::io::Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)
            .expect("a pipe from a child can be read");
        bytes
    })
}
