//! What is sampled: programs that say how much they have done.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sampler_tests_support::{Target, installed, number_after};

/// A program at work.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The fixture `counts` with these arguments.
    Counts(&'static [&'static str]),
    /// The same, with all its threads on one CPU: the others are the sampler's.
    CountsOnOneCpu(&'static [&'static str]),
    /// redis-server, kept at work by redis-benchmark.
    Redis,
    /// python3 with a thread that works and some that sleep.
    Python,
}

pub(crate) const SCENARIOS: [Scenario; 6] = [
    scenario("busy: 1 of 1", Kind::Counts(&["1"])),
    scenario("busy: 2 of 64", Kind::Counts(&["2", "62"])),
    scenario("busy: 2 of 1000", Kind::Counts(&["2", "998"])),
    scenario("one CPU: 2 of 1000", Kind::CountsOnOneCpu(&["2", "998"])),
    scenario("redis", Kind::Redis),
    scenario("python", Kind::Python),
];

const fn scenario(name: &'static str, kind: Kind) -> Scenario {
    Scenario { name, kind }
}

/// How many clients redis-benchmark has.
const REDIS_CLIENTS: &str = "20";

const PYTHON: &str = "
import sys, threading, time
rounds = 0
def step(x):
    return (x * 31 + 7) % 1000003
def works():
    global rounds
    x = 1
    while True:
        for _ in range(100):
            x = step(x)
        rounds += 1
for _ in range(8):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
threading.Thread(target=works, daemon=True, name='busy').start()
print('ready', flush=True)
for line in sys.stdin:
    print('rounds', rounds, 'wall_ns', time.monotonic_ns(), flush=True)
";

impl Scenario {
    pub(crate) fn is_python(&self) -> bool {
        matches!(self.kind, Kind::Python)
    }

    /// Whether its programs are installed; says so if not.
    pub(crate) fn is_there(&self) -> bool {
        let (programs, install): (&[&str], _) = match self.kind {
            Kind::Counts(_) => (&[], ""),
            Kind::CountsOnOneCpu(_) => (&["taskset"], "util-linux"),
            Kind::Redis => (
                &["redis-server", "redis-benchmark"],
                "redis-server redis-tools",
            ),
            Kind::Python => (&["python3"], "python3"),
        };
        let is_there = programs.iter().all(|program| installed(program).is_some());
        if !is_there {
            println!("{}: not installed (apt-get install {install})", self.name);
        }
        is_there
    }

    /// Starts it; `folder` is for its files.
    pub(crate) fn start(&self, folder: &Path) -> Load {
        match self.kind {
            Kind::Counts(arguments) => Load {
                target: Target::start("counts", arguments),
                clients: None,
            },
            Kind::CountsOnOneCpu(arguments) => {
                let target = Target::start("counts", arguments);
                stay_on_one_cpu(&target);
                Load {
                    target,
                    clients: None,
                }
            }
            Kind::Redis => start_redis(folder),
            Kind::Python => start_python(),
        }
    }
}

/// All threads that `target` has stay on the first CPU from now on.
fn stay_on_one_cpu(target: &Target) {
    let done = Command::new("taskset")
        .args([
            "--all-tasks",
            "--cpu-list",
            "--pid",
            "0",
            &target.pid_text(),
        ])
        .stdout(Stdio::null())
        .status();
    let done = done.expect("taskset is there");
    assert!(done.success(), "taskset says {done}");
}

/// A program at work, killed on drop.
#[derive(Debug)]
pub(crate) struct Load {
    target: Target,
    clients: Option<Clients>,
}

/// Who keeps redis-server at work, and a connection to ask it how much it has done.
#[derive(Debug)]
struct Clients {
    benchmark: Target,
    connection: BufReader<UnixStream>,
    began: Instant,
}

/// What has been done up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) rounds: f64,
    pub(crate) wall_ns: f64,
}

impl Load {
    pub(crate) fn pid(&self) -> i32 {
        self.target.pid()
    }

    pub(crate) fn live_for(&mut self, limit: Duration) {
        self.target.live_for(limit);
        if let Some(clients) = &mut self.clients {
            clients.benchmark.live_for(limit);
        }
    }

    /// The threads that work: those named so, or else the first.
    pub(crate) fn busy_threads(&self) -> Vec<i32> {
        let pid = self.pid();
        let is_busy = |tid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"))
                .is_ok_and(|name| name.trim_end() == "busy")
        };
        let mut busy = self.target.threads();
        busy.retain(is_busy);
        if busy.is_empty() { vec![pid] } else { busy }
    }

    pub(crate) fn work(&mut self) -> Work {
        match &mut self.clients {
            Some(clients) => clients.work(),
            None => self.work_told(),
        }
    }

    /// By the target itself, at each line.
    fn work_told(&mut self) -> Work {
        self.target.tell("\n");
        let line = self.target.until_line(|line| line.starts_with("rounds "));
        Work {
            rounds: float(number_after(&line, "rounds")),
            wall_ns: float(number_after(&line, "wall_ns")),
        }
    }
}

impl Clients {
    /// redis's own count of commands, of which asking is one.
    fn work(&mut self) -> Work {
        let ask = self.connection.get_mut().write_all(b"INFO stats\r\n");
        ask.expect("redis-server can be asked");
        let mut length = String::new();
        let read = self.connection.read_line(&mut length);
        read.expect("redis-server answers");
        let bytes: usize = length
            .trim_end()
            .strip_prefix('$')
            .and_then(|length| length.parse().ok())
            .expect("the answer is a bulk string");
        // The line's end is not counted.
        let mut answer = vec![0; bytes + 2];
        let read = self.connection.read_exact(&mut answer);
        read.expect("redis-server answers all of it");
        let wall_ns = self.began.elapsed().as_secs_f64() * 1e9;
        let answer = String::from_utf8_lossy(&answer).replace(':', " ");
        Work {
            rounds: float(number_after(&answer, "total_commands_processed")),
            wall_ns,
        }
    }
}

fn start_redis(folder: &Path) -> Load {
    let socket = folder.join("redis.sock");
    let program = installed("redis-server").expect("it was there before");
    let mut target = Target::spawn(
        Command::new(program)
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .current_dir(folder),
    );
    target.until_line(|line| line.contains("eady to accept connections"));
    let program = installed("redis-benchmark").expect("it was there before");
    // `-l`: for ever.
    let benchmark = Target::spawn(
        Command::new(program)
            .arg("-s")
            .arg(&socket)
            .args(["-l", "-q", "-c", REDIS_CLIENTS, "-t", "set,get"])
            .stderr(Stdio::null()),
    );
    let connection = UnixStream::connect(&socket).expect("redis-server listens");
    let mut clients = Clients {
        benchmark,
        connection: BufReader::new(connection),
        began: Instant::now(),
    };
    let begun = clients.work().rounds;
    while clients.work().rounds < begun + 10_000.0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    Load {
        target,
        clients: Some(clients),
    }
}

fn start_python() -> Load {
    let program = installed("python3").expect("it was there before");
    let mut target = Target::spawn(Command::new(program).args(["-S", "-c", PYTHON]));
    target.until_ready();
    Load {
        target,
        clients: None,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53: a hundred days in nanoseconds"
)]
fn float(number: u64) -> f64 {
    number as f64
}
