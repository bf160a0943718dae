//! Other programs that look at a running one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sampler_tests_support::{Signal, Target, installed};

use crate::load::Load;
use crate::turns::{Told, Turn, turn};
use crate::who::quantiles;

/// How often a program that shows all stacks once is run in a turn, a second apart or as fast as it goes.
const LOOKS: usize = 2;
const LOOKS_APART: Duration = Duration::from_secs(1);
/// A turn has no second look after this: eu-stack takes half a minute for a thousand threads.
const LOOKS_WITHIN: Duration = Duration::from_secs(10);

/// A recorder does not say when it has begun; it is left so long to do so.
pub(crate) const BEGINS_WITHIN: Duration = Duration::from_millis(700);

/// How long a peer may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(600);

/// Another program that looks at a running one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Perf,
    PySpy,
    EuStack,
    Gdb,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Perf, Self::PySpy, Self::EuStack, Self::Gdb];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::PySpy => "py-spy",
            Self::EuStack => "eu-stack",
            Self::Gdb => "gdb",
        }
    }

    fn how_to_install(self) -> &'static str {
        match self {
            Self::Perf => "apt-get install linux-perf",
            Self::PySpy => "pip install py-spy",
            Self::EuStack => "apt-get install elfutils",
            Self::Gdb => "apt-get install gdb",
        }
    }

    /// Whether it stops all of the target for long: it is run once a second.
    pub(crate) fn is_slow(self) -> bool {
        matches!(self, Self::EuStack | Self::Gdb)
    }

    pub(crate) fn needs_python(self) -> bool {
        self == Self::PySpy
    }

    /// # Panics
    /// When it is not installed; [`hindrance`] has said so.
    fn command(self) -> Command {
        Command::new(installed(self.name()).expect("it was there before"))
    }

    /// What it does to the process `pid`: once, or until it is interrupted.
    fn look(self, pid: &str, hz: u32, output: &Path) -> Command {
        let mut command = self.command();
        let hz = hz.to_string();
        match self {
            Self::Perf => command
                .args(PERF)
                .args(["-F", &hz, "-p", pid, "-o"])
                .arg(output),
            Self::PySpy => command
                .args(["record", "--native", "--nolineno", "--format", "raw"])
                .args(["--rate", &hz, "--pid", pid, "--output"])
                .arg(output),
            Self::EuStack => command.args(["-p", pid]),
            Self::Gdb => command.args(["-batch", "-p", pid, "-ex", "thread apply all bt"]),
        };
        command.stderr(Stdio::null());
        command
    }

    /// The target's pace while it looks.
    pub(crate) fn take_turn(self, folder: &Path, load: &mut Load, hz: u32) -> Turn {
        match self {
            Self::Perf | Self::PySpy => self.recorded_turn(folder, load, hz),
            Self::EuStack | Self::Gdb => self.looked_at_turn(folder, load, hz),
        }
    }

    fn recorded_turn(self, folder: &Path, load: &mut Load, hz: u32) -> Turn {
        let output = folder.join(self.name());
        let messages = folder.join(format!("{}.messages", self.name()));
        let mut command = self.look(&load.pid().to_string(), hz, &output);
        command.stderr(File::create(&messages).expect("the folder can be written"));
        let start = Instant::now();
        let mut recorder = Target::spawn(&mut command);
        recorder.live_for(ENDS_WITHIN);
        thread::sleep(BEGINS_WITHIN);
        let mut turn = turn(load, || true);
        recorder.signal(Signal::SIGINT);
        let ended = recorder.wait();
        let lived = start.elapsed();
        let messages = fs::read_to_string(&messages).expect("the folder can be read");
        let samples = match self {
            Self::Perf => samples_of_perf(&messages),
            _ => samples_of_py_spy(&output),
        };
        let samples = samples.filter(|samples| *samples > 0.0);
        turn.told = Told {
            cpu_us_per_sample: samples.map(|samples| ended.cpu.as_secs_f64() * 1e6 / samples),
            cpu_share: Some(ended.cpu.div_duration_f64(lived)),
            rate_hz: samples.map(|samples| samples / lived.as_secs_f64()),
            ..Told::default()
        };
        turn
    }

    fn looked_at_turn(self, folder: &Path, load: &mut Load, hz: u32) -> Turn {
        let pid = load.pid().to_string();
        let is_over = AtomicBool::new(false);
        let (mut turn, looks) = thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let looks = self.looks(&pid, hz, folder);
                is_over.store(true, Ordering::Relaxed);
                looks
            });
            let turn = turn(load, || is_over.load(Ordering::Relaxed));
            (turn, looks.join().expect("a peer can be run"))
        });
        let seconds = turn.wall_ns / 1e9;
        let cpu = looks.iter().map(|look| look.cpu).sum::<Duration>();
        let mut lasted_us: Vec<f64> = looks.iter().map(|look| look.lasted * 1e6).collect();
        let looks = f64::from(u16::try_from(looks.len()).unwrap_or(u16::MAX));
        turn.told = Told {
            pauses_us: quantiles(&mut lasted_us),
            cpu_us_per_sample: Some(cpu.as_secs_f64() * 1e6 / looks),
            cpu_share: Some(cpu.as_secs_f64() / seconds),
            rate_hz: Some(looks / seconds),
            ..Told::default()
        };
        turn
    }

    fn looks(self, pid: &str, hz: u32, folder: &Path) -> Vec<Look> {
        let mut looks = Vec::new();
        let first = Instant::now();
        while looks.len() < LOOKS && first.elapsed() < LOOKS_WITHIN {
            let start = Instant::now();
            let mut target = Target::spawn(&mut self.look(pid, hz, folder));
            target.live_for(ENDS_WITHIN);
            let ended = target.wait();
            looks.push(Look {
                lasted: start.elapsed().as_secs_f64(),
                cpu: ended.cpu,
            });
            thread::sleep(LOOKS_APART.saturating_sub(start.elapsed()));
        }
        looks
    }
}

/// One run of a program that shows all stacks once.
#[derive(Debug)]
struct Look {
    /// In seconds.
    lasted: f64,
    cpu: Duration,
}

const PERF: [&str; 5] = ["record", "-e", "cpu-clock", "--call-graph", "dwarf"];

/// Why a peer cannot be compared with here.
pub(crate) fn hindrance(peer: Peer, folder: &Path) -> Option<String> {
    let Some(_path) = installed(peer.name()) else {
        return Some(format!("not installed ({})", peer.how_to_install()));
    };
    match peer {
        Peer::Perf => perf_is_refused(&peer, folder),
        Peer::PySpy | Peer::EuStack | Peer::Gdb => None,
    }
}

/// Whether the kernel lets it open its event, asked with a command that ends at once.
fn perf_is_refused(perf: &Peer, folder: &Path) -> Option<String> {
    let output: PathBuf = folder.join("perf.probe");
    let probe = perf
        .command()
        .args(PERF)
        .arg("-o")
        .arg(output)
        .args(["--", "true"])
        .output()
        .expect("a program that is installed can be started");
    let said = String::from_utf8_lossy(&probe.stderr).into_owned();
    let line = said.lines().find(|line| !line.trim().is_empty());
    (!probe.status.success()).then(|| {
        format!(
            "not permitted here ({})",
            line.unwrap_or("it does not say why").trim()
        )
    })
}

/// From `Captured and wrote 0.020 MB FILE (123 samples)`.
fn samples_of_perf(messages: &str) -> Option<f64> {
    let (before, _) = messages.split_once(" samples)")?;
    let (_, count) = before.rsplit_once('(')?;
    count.parse().ok()
}

/// The counts at the ends of all lines.
fn samples_of_py_spy(output: &Path) -> Option<f64> {
    let lines = fs::read_to_string(output).ok()?;
    let counts = lines
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Some(counts.sum())
}
