//! How much slower a busy target runs while it is sampled: `cargo bench --bench overhead`.
//!
//! One target works throughout. Without, at 99 Hz and at 1000 Hz take turns, so that whatever else the machine does
//! hits all three alike; each round compares neighbours in time, and the median of the rounds counts. Work per second
//! that passed is what the user loses; work per CPU second leaves out what other programs took and shows what is lost
//! to cold caches; the time stood still is the sampler's own account of it.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::Duration;

use sampler_tests_support::{Sampler, Target, number_after, sampler};

/// How long each turn lasts.
const TURN: Duration = Duration::from_secs(2);
/// How often each takes its turn; `SAMPLER_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 10;

/// What the target has done up to a moment.
#[derive(Clone, Copy)]
struct Work {
    rounds: f64,
    cpu_ns: f64,
    wall_ns: f64,
}

/// Work per second, in rounds.
#[derive(Clone, Copy)]
struct Pace {
    per_cpu_second: f64,
    per_second: f64,
}

fn main() {
    let rounds = std::env::var("SAMPLER_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    let sampler = sampler!();
    let mut target = Target::start("counts", &[]);
    println!(
        "{:>7} {:>26} {:>26} {:>12}",
        "rate", "slower (work per second)", "slower (per CPU second)", "stood still"
    );
    for rate in ["99", "1000"] {
        let mut by_time = Vec::new();
        let mut by_cpu = Vec::new();
        let mut stood_still = Vec::new();
        for _ in 0..rounds {
            let before = turn(&mut target);
            let (during, share) = sampled_turn(&sampler, &mut target, rate);
            let after = turn(&mut target);
            let without = (before.per_second + after.per_second) / 2.0;
            by_time.push(1.0 - during.per_second / without);
            let without = (before.per_cpu_second + after.per_cpu_second) / 2.0;
            by_cpu.push(1.0 - during.per_cpu_second / without);
            stood_still.push(share);
        }
        println!(
            "{rate:>4} Hz {:>24.3} % {:>24.3} % {:>10.3} %",
            median(&mut by_time) * 100.0,
            median(&mut by_cpu) * 100.0,
            median(&mut stood_still) * 100.0
        );
    }
}

/// The target's pace while it is sampled, and the share of the time that it stood still by the sampler's account.
fn sampled_turn(sampler: &Sampler, target: &mut Target, rate: &str) -> (Pace, f64) {
    let running = sampler.attach(target.pid(), &["-r", rate]);
    let pace = turn(target);
    running.interrupt().expect_code(0);
    let summary = sampler.report().summary;
    let stopped = Duration::from_nanos(summary.target_stopped_ns);
    (
        pace,
        stopped.div_duration_f64(Duration::from_nanos(summary.wall_ns.max(1))),
    )
}

fn turn(target: &mut Target) -> Pace {
    let start = work(target);
    std::thread::sleep(TURN);
    let end = work(target);
    let rounds = end.rounds - start.rounds;
    Pace {
        per_cpu_second: rounds * 1e9 / (end.cpu_ns - start.cpu_ns),
        per_second: rounds * 1e9 / (end.wall_ns - start.wall_ns),
    }
}

fn work(target: &mut Target) -> Work {
    target.tell("\n");
    let line = target.until_line(|line| line.starts_with("rounds "));
    // Exact up to 2^53: a hundred days in nanoseconds.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let number = |word| number_after(&line, word) as f64;
    Work {
        rounds: number("rounds"),
        cpu_ns: number("cpu_ns"),
        wall_ns: number("wall_ns"),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
