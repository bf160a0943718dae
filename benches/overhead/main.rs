//! How much slower a busy target runs while it is sampled: `cargo bench --bench overhead`.
//!
//! A target works throughout a round, in which nothing, a bare cycle of system calls and the sampler take turns, so that
//! whatever else the machine does hits all alike. What the bare cycle costs is the machine's price for looking at a
//! thread from outside at all. A turn is made of windows of 100 ms, and what is compared is the work done in a
//! window, per second that passed. Other users of the machine only ever take work away, in some windows much and in
//! some none: so beside the median the table has the best tenth of the windows with against the best tenth without,
//! which is what the sampling itself costs. The time stood still is the sampler's own account of it, and the bare
//! cycle's.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sampler_tests_support::{STACK_BYTES, Sampler, Target, bare_cycle, number_after, sampler};

/// What is compared.
const WINDOW: Duration = Duration::from_millis(100);
/// How many windows in a turn.
const WINDOWS: usize = 20;
/// How often each takes its turn; `SAMPLER_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 10;

/// What the target has done up to a moment.
#[derive(Clone, Copy)]
struct Work {
    rounds: f64,
    wall_ns: f64,
}

/// What was seen in all turns of one kind.
#[derive(Default)]
struct Turns {
    /// Rounds a second, by window.
    paces: Vec<f64>,
    /// The share of each turn that the target stood still.
    stood_still: Vec<f64>,
}

fn main() {
    let rounds = std::env::var("SAMPLER_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    let sampler = sampler!();
    println!(
        "{:<24} {:>18} {:>26} {:>12}",
        "", "slower: the median", "the best tenth of windows", "stood still"
    );
    for hz in [99, 1000] {
        let [mut without, mut bare, mut ours] = <[Turns; 3]>::default();
        for _ in 0..rounds {
            let mut target = Target::start("counts", &[]);
            without.paces.extend(turn(&mut target));
            bare_turn(&mut target, hz, &mut bare);
            sampled_turn(&sampler, &mut target, hz, &mut ours);
        }
        bare.print(&format!("{hz} Hz, bare cycle"), &mut without);
        ours.print(&format!("{hz} Hz, sampler"), &mut without);
    }
}

impl Turns {
    fn print(&mut self, name: &str, without: &mut Self) {
        let mut slower =
            |at| (1.0 - quantile(&mut self.paces, at) / quantile(&mut without.paces, at)) * 100.0;
        let [median, best] = [0.5, 0.9].map(&mut slower);
        let stood_still = quantile(&mut self.stood_still, 0.5) * 100.0;
        println!("{name:<24} {median:>16.2} % {best:>24.2} % {stood_still:>10.2} %");
    }
}

/// The target's pace while the sampler records it.
fn sampled_turn(sampler: &Sampler, target: &mut Target, hz: u32, turns: &mut Turns) {
    let running = sampler.attach(target.pid(), &["-r", &hz.to_string()]);
    turns.paces.extend(turn(target));
    running.interrupt().expect_code(0);
    let summary = sampler.report().summary;
    let stopped = Duration::from_nanos(summary.target_stopped_ns);
    let share = stopped.div_duration_f64(Duration::from_nanos(summary.wall_ns.max(1)));
    turns.stood_still.push(share);
}

/// The target's pace while its busy thread goes through a bare cycle as often.
fn bare_turn(target: &mut Target, hz: u32, turns: &mut Turns) {
    let tid = busy_thread(target.pid());
    let done = AtomicBool::new(false);
    let share = thread::scope(|scope| {
        let cycles = scope.spawn(|| cycle_until(&done, tid, Duration::from_secs(1) / hz));
        turns.paces.extend(turn(target));
        done.store(true, Ordering::Relaxed);
        cycles.join().expect("the bare cycle works here")
    });
    turns.stood_still.push(share);
}

/// Goes through the bare cycle once a period until it is `done`; gives the share of the time that took.
fn cycle_until(done: &AtomicBool, tid: i32, period: Duration) -> f64 {
    let mut stack = vec![0; STACK_BYTES];
    let mut paused = Duration::ZERO;
    let start = Instant::now();
    while !done.load(Ordering::Relaxed) {
        thread::sleep(period);
        paused += bare_cycle(tid, &mut stack).expect("the target can be traced");
    }
    paused.div_duration_f64(start.elapsed())
}

/// The thread of the target that is not its first: the one that works.
fn busy_thread(pid: i32) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the target runs");
    tasks
        .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
        .find(|&tid| tid != pid)
        .expect("the target has a second thread")
}
/// The target's pace in each window of a turn, in rounds a second.
fn turn(target: &mut Target) -> Vec<f64> {
    let mut start = work(target);
    let mut paces = Vec::with_capacity(WINDOWS);
    for _ in 0..WINDOWS {
        std::thread::sleep(WINDOW);
        let end = work(target);
        paces.push((end.rounds - start.rounds) * 1e9 / (end.wall_ns - start.wall_ns));
        start = end;
    }
    paces
}

fn work(target: &mut Target) -> Work {
    target.tell("\n");
    let line = target.until_line(|line| line.starts_with("rounds "));
    // Exact up to 2^53: a hundred days in nanoseconds.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let number = |word| number_after(&line, word) as f64;
    Work {
        rounds: number("rounds"),
        wall_ns: number("wall_ns"),
    }
}

/// The value that the share `at` of all values is below.
fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into a short list"
    )]
    let index = (values.len() as f64 * at) as usize;
    values.get(index).copied().unwrap_or(0.0)
}
