//! What a recording takes of a program's work, to some tenths of a percent: `cargo bench --bench in_turn`.
//!
//! Where others work on the same machine, a program's pace changes by a tenth from one second to the next, and what is
//! to be measured drowns. So one recording goes on all the while and is frozen and thawed again, and each window of
//! 200 ms with it is compared with the one beside it without it. What a recording does once, at its start, is no part
//! of that. The bare cycle, which is the machine's price for looking at a thread at all, is put on and off likewise.
//!
//! Arguments choose among scenarios by a part of their names: `cargo bench --bench in_turn -- nginx "2 of 1000"`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "overhead/load.rs"]
#[expect(dead_code, reason = "who looks at python3 is the other bench's")]
mod load;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use load::{Load, SCENARIOS, Scenario};
use sampler_tests_support::{Running, STACK_BYTES, Sampler, Signal, bare_cycle, sampler};

/// How long each line takes; `SAMPLER_BENCH_SECONDS` overrides it.
const SECONDS: u64 = 60;
/// What is compared.
const WINDOW: Duration = Duration::from_millis(200);
/// What who looks is given to begin or to cease.
const SETTLES_WITHIN: Duration = Duration::from_millis(10);
/// What starting and ending may take besides.
const MARGIN: Duration = Duration::from_secs(600);
/// What a recording does once.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);

/// Who looks, how often, and with which options.
const LOOKERS: [(&str, u32, &[&str]); 5] = [
    ("bare cycle", 99, &[]),
    ("sampler, 2 % promised", 99, &["--max-overhead", "2"]),
    ("sampler, 2 % promised", 997, &["--max-overhead", "2"]),
    ("sampler, without a promise", 99, &["--max-overhead", "off"]),
    (
        "sampler, without a promise",
        997,
        &["--max-overhead", "off"],
    ),
];

fn main() {
    let seconds = std::env::var("SAMPLER_BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SECONDS);
    let pairs = u32::try_from(Duration::from_secs(seconds).as_millis() / (2 * WINDOW).as_millis())
        .unwrap_or(u32::MAX);
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_wanted = |scenario: &&Scenario| {
        words.is_empty() || words.iter().any(|word| scenario.name.contains(word))
    };
    println!(
        "{:<20} {:<27} {:>4} {:>10} {:>20} {:>8} {:>8}",
        "scenario", "who", "Hz", "slower", "19 of 20 times in", "all", "CPU"
    );
    let sampler = sampler!();
    for scenario in SCENARIOS.iter().filter(is_wanted) {
        if !scenario.is_there() {
            continue;
        }
        let mut load = scenario.start(sampler.folder());
        load.live_for(MARGIN + WINDOW * 2 * pairs * 5);
        for (who, hz, options) in LOOKERS {
            let seen = match who {
                "bare cycle" => beside_bare_cycle(&mut load, hz, pairs),
                _ => beside_sampler(&sampler, &mut load, hz, options, pairs),
            };
            println!("{:<20} {who:<27} {hz:>4} {}", scenario.name, seen.row());
        }
    }
    println!(
        "slower: the median of all pairs of windows; all: the work of all windows together; CPU: of who looks, as a share of one."
    );
}

/// Who can be told to cease and to go on.
trait InTurn {
    fn cease(&self, load: &Load);
    fn go_on(&self);
    /// CPU time used so far, if it is known.
    fn cpu(&self) -> Option<Duration>;
}

impl InTurn for Running {
    /// Not while it keeps a thread of the target standing.
    fn cease(&self, load: &Load) {
        const TRIES: usize = 1000;
        for _ in 0..TRIES {
            self.signal(Signal::SIGSTOP);
            self.until_state('T');
            // A thread that was asked to stop does so as soon as it runs.
            thread::sleep(SETTLES_WITHIN / 2);
            let pid = load.pid();
            let stands = |tid: &i32| {
                let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"));
                stat.is_ok_and(|stat| stat.contains(") t "))
            };
            if !load.busy_threads().iter().any(stands) {
                return;
            }
            self.go_on();
            thread::sleep(SETTLES_WITHIN / 5);
        }
        panic!("there is always a thread that stands still");
    }

    fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn cpu(&self) -> Option<Duration> {
        Some(self.cpu())
    }
}

/// The bare cycle: whether it is put on.
struct Switch(AtomicBool);

impl InTurn for Switch {
    fn cease(&self, _: &Load) {
        self.0.store(false, Ordering::Relaxed);
        thread::sleep(SETTLES_WITHIN / 2);
    }

    fn go_on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn cpu(&self) -> Option<Duration> {
        None
    }
}

fn beside_sampler(
    sampler: &Sampler,
    load: &mut Load,
    hz: u32,
    options: &[&str],
    pairs: u32,
) -> Seen {
    let rate = hz.to_string();
    let options: Vec<&str> = ["-r", &rate].iter().chain(options).copied().collect();
    let mut running = sampler.attach(load.pid(), &options);
    running.live_for(MARGIN + WINDOW * 2 * pairs);
    thread::sleep(BEGINS_WITHIN);
    let seen = in_turn(load, &running, pairs);
    running.interrupt().expect_code(0);
    seen
}

fn beside_bare_cycle(load: &mut Load, hz: u32, pairs: u32) -> Seen {
    let tids = load.busy_threads();
    let (on, done) = (Switch(AtomicBool::new(false)), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stack = vec![0; STACK_BYTES];
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_secs(1) / hz);
                for &tid in tids.iter().filter(|_| on.0.load(Ordering::Relaxed)) {
                    bare_cycle(tid, &mut stack).expect("the target can be traced");
                }
            }
        });
        let seen = in_turn(load, &on, pairs);
        done.store(true, Ordering::Relaxed);
        seen
    })
}

/// What was done in all windows, with and without.
#[derive(Debug, Default)]
struct Seen {
    /// How much slower the window with was, by pairs.
    slower: Vec<f64>,
    rounds: [f64; 2],
    wall_ns: [f64; 2],
    cpu: Option<Duration>,
}

/// Windows with and without, which of the two first in turn too.
fn in_turn(load: &mut Load, who: &impl InTurn, pairs: u32) -> Seen {
    let mut seen = Seen::default();
    for pair in 0..pairs {
        let mut paces = [0.0; 2];
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for with in order {
            if with == 1 {
                who.go_on();
                thread::sleep(SETTLES_WITHIN);
            } else {
                who.cease(load);
            }
            let (cpu, start) = (who.cpu(), load.work());
            thread::sleep(WINDOW);
            let end = load.work();
            let (rounds, wall_ns) = (end.rounds - start.rounds, end.wall_ns - start.wall_ns);
            paces[with] = rounds / wall_ns;
            seen.rounds[with] += rounds;
            seen.wall_ns[with] += wall_ns;
            if with == 1 {
                let used = who.cpu().zip(cpu).map(|(end, start)| end - start);
                seen.cpu = used.map(|used| seen.cpu.unwrap_or_default() + used);
            }
        }
        seen.slower.push(1.0 - paces[1] / paces[0]);
    }
    who.go_on();
    seen
}

impl Seen {
    fn row(mut self) -> String {
        self.slower.sort_by(f64::total_cmp);
        let pairs = self.slower.len();
        // Of the median, by the signs: half of the pairs and a deviation of √n/2, twice.
        let around = pairs.isqrt();
        let at = |place: usize| {
            self.slower
                .get(place)
                .map_or(f64::NAN, |slower| slower * 100.0)
        };
        let [median, from, to] = [
            pairs / 2,
            (pairs / 2).saturating_sub(around),
            pairs / 2 + around,
        ]
        .map(at);
        let [without, with] = [0, 1].map(|at| self.rounds[at] / self.wall_ns[at]);
        let all = (1.0 - with / without) * 100.0;
        let cpu = self.cpu.map_or_else(
            || "-".to_owned(),
            |cpu| format!("{:.2} %", cpu.as_secs_f64() * 1e11 / self.wall_ns[1]),
        );
        format!(
            "{median:>8.2} % {:>20} {all:>6.2} % {cpu:>8}",
            format!("{from:.2} to {to:.2} %")
        )
    }
}
