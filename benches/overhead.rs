//! How much slower a busy target runs while it is sampled: `cargo bench --bench overhead`.
//!
//! One target works throughout; with and without the sampler take turns, at 99 and at 1000 Hz, so that whatever else
//! the machine does hits both alike. A turn is made of windows of 100 ms, and what is compared is the work done in a
//! window, per second that passed. Other users of the machine only ever take work away, in some windows much and in
//! some none: so beside the median the table has the best tenth of the windows with against the best tenth without,
//! which is what the sampler itself costs. The time stood still is the sampler's own account of it.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::Duration;

use sampler_tests_support::{Sampler, Target, number_after, sampler};

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

fn main() {
    let rounds = std::env::var("SAMPLER_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    let sampler = sampler!();
    let mut target = Target::start("counts", &[]);
    println!(
        "{:>7} {:>20} {:>28} {:>12}",
        "rate", "slower: the median", "the best tenth of windows", "stood still"
    );
    for rate in ["99", "1000"] {
        let mut without = Vec::new();
        let mut with = Vec::new();
        let mut stood_still = Vec::new();
        for _ in 0..rounds {
            without.extend(turn(&mut target));
            with.extend(sampled_turn(&sampler, &mut target, rate, &mut stood_still));
        }
        let slower = |at| (1.0 - quantile(&mut with, at) / quantile(&mut without, at)) * 100.0;
        let [median, best] = [0.5, 0.9].map(slower);
        let stood_still = quantile(&mut stood_still, 0.5) * 100.0;
        println!("{rate:>4} Hz {median:>18.2} % {best:>26.2} % {stood_still:>10.2} %");
    }
}

/// The target's pace while it is sampled; adds the share of the time that it stood still by the sampler's account.
fn sampled_turn(
    sampler: &Sampler,
    target: &mut Target,
    rate: &str,
    stood_still: &mut Vec<f64>,
) -> Vec<f64> {
    let running = sampler.attach(target.pid(), &["-r", rate]);
    let paces = turn(target);
    running.interrupt().expect_code(0);
    let summary = sampler.report().summary;
    let stopped = Duration::from_nanos(summary.target_stopped_ns);
    stood_still.push(stopped.div_duration_f64(Duration::from_nanos(summary.wall_ns.max(1))));
    paces
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
