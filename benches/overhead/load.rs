//! What is sampled: programs that say how much they have done.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
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
    /// nginx with Lua in it, kept at work by wrk.
    Nginx,
}

pub(crate) const SCENARIOS: [Scenario; 7] = [
    scenario("busy: 1 of 1", Kind::Counts(&["1"])),
    scenario("busy: 2 of 64", Kind::Counts(&["2", "62"])),
    scenario("busy: 2 of 1000", Kind::Counts(&["2", "998"])),
    scenario("one CPU: 2 of 1000", Kind::CountsOnOneCpu(&["2", "998"])),
    scenario("redis", Kind::Redis),
    scenario("python", Kind::Python),
    scenario("nginx + Lua", Kind::Nginx),
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
            Kind::Nginx => (
                &["nginx", "wrk"],
                "nginx-light libnginx-mod-http-lua lua-cjson wrk",
            ),
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
            Kind::Nginx => start_nginx(folder),
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

/// Who keeps a server at work, and how it is asked how much it has done.
#[derive(Debug)]
struct Clients {
    benchmark: Target,
    server: Server,
    began: Instant,
}

#[derive(Debug)]
enum Server {
    Redis(BufReader<UnixStream>),
    /// The port that it listens on.
    Nginx(u16),
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
    /// The server's own count, of which asking is one.
    fn work(&mut self) -> Work {
        let rounds = match &mut self.server {
            Server::Redis(connection) => commands(connection),
            Server::Nginx(port) => requests(*port),
        };
        Work {
            rounds: float(rounds),
            wall_ns: self.began.elapsed().as_secs_f64() * 1e9,
        }
    }
}

/// What redis-server has processed.
fn commands(connection: &mut BufReader<UnixStream>) -> u64 {
    let ask = connection.get_mut().write_all(b"INFO stats\r\n");
    ask.expect("redis-server can be asked");
    let mut length = String::new();
    let read = connection.read_line(&mut length);
    read.expect("redis-server answers");
    let bytes: usize = length
        .trim_end()
        .strip_prefix('$')
        .and_then(|length| length.parse().ok())
        .expect("the answer is a bulk string");
    // The line's end is not counted.
    let mut answer = vec![0; bytes + 2];
    let read = connection.read_exact(&mut answer);
    read.expect("redis-server answers all of it");
    let answer = String::from_utf8_lossy(&answer).replace(':', " ");
    number_after(&answer, "total_commands_processed")
}

/// What nginx has answered (ngx_http_stub_status_module): the third number below a line of names.
fn requests(port: u16) -> u64 {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("nginx listens");
    let ask = connection.write_all(b"GET /status HTTP/1.0\r\n\r\n");
    ask.expect("nginx can be asked");
    let mut answer = String::new();
    let read = connection.read_to_string(&mut answer);
    read.expect("nginx answers");
    let numbers = answer
        .lines()
        .skip_while(|line| !line.contains("requests"))
        .nth(1);
    let requests = numbers.and_then(|numbers| numbers.split_whitespace().nth(2)?.parse().ok());
    requests.unwrap_or_else(|| panic!("no number of requests in {answer:?}"))
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
        server: Server::Redis(BufReader::new(connection)),
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

fn start_nginx(folder: &Path) -> Load {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
    let port = listener.local_addr().expect("it has an address").port();
    drop(listener);
    let text = include_str!("../../fixtures/lua/nginx.conf").replace("PORT", &port.to_string());
    let configuration = folder.join("nginx.conf");
    fs::write(&configuration, text).expect("its folder is ours");
    let program = installed("nginx").expect("it was there before");
    let mut nginx = Command::new(program);
    let nginx = nginx.arg("-p").arg(folder).arg("-c").arg(&configuration);
    let target = Target::spawn(nginx);
    target.until("nginx listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let program = installed("wrk").expect("it was there before");
    let mut wrk = Command::new(program);
    wrk.args(["-t1", "-c8", "-d1h"])
        .arg(format!("http://127.0.0.1:{port}/"));
    let mut clients = Clients {
        benchmark: Target::spawn(&mut wrk),
        server: Server::Nginx(port),
        began: Instant::now(),
    };
    let begun = clients.work().rounds;
    while clients.work().rounds < begun + 1_000.0 {
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
