//! What interpreters add to the stop of a thread: `cargo bench --bench capture`.
//!
//! A script runs throughout; recordings with its frames and without (`--lang none`) take turns. The goal is at most
//! 10 µs more in half of the stops.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::process::Command;
use std::time::Duration;

use sampler_tests_support::{Sampler, Target, installed, sampler};

/// How often each takes its turn; `SAMPLER_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 5;

const LUA: &str = "print('ready') io.stdout:flush()
    local function leaf(n) local s = 0 for i = 1, n do s = s + #string.format('%d', i) end return s end
    local function middle(n) local ok, s = pcall(leaf, n) return s end
    while true do middle(99) end";

/// Ever new coroutines: nothing lies where it lay at the last sample.
const COROUTINES: &str = "print('ready') io.stdout:flush()
    local function leaf(n) local s = 0 for i = 1, n do s = s + #string.format('%d', i) end return s end
    local function middle(n) local ok, s = pcall(leaf, n) return s end
    while true do coroutine.wrap(function() local s = middle(99) return s end)() end";

const PYTHON: &str = "print('ready', flush=True)
def leaf(n): return sum(len(str(i)) for i in range(n))
def middle(n): return leaf(n) + 1
while True: middle(99)";

fn main() {
    let rounds = std::env::var("SAMPLER_BENCH_ROUNDS");
    let rounds = rounds.ok().and_then(|text| text.parse().ok());
    let programs = [
        ("luajit", "", "-e", LUA),
        ("luajit", ", ever new coroutines", "-e", COROUTINES),
        ("lua5.4", "", "-e", LUA),
        ("lua5.4", ", ever new coroutines", "-e", COROUTINES),
        ("python3", "", "-c", PYTHON),
    ];
    println!(
        "| program | p50 without, us | with, us | ratio | p99 without, us | with, us | ratio |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, what, flag, text) in programs {
        match installed(name) {
            Some(program) => println!(
                "{}",
                row(
                    &format!("{name}{what}"),
                    Command::new(program).args([flag, text]),
                    rounds.unwrap_or(ROUNDS)
                )
            ),
            None => println!("| {name} | not installed |"),
        }
    }
}

fn row(name: &str, command: &mut Command, rounds: usize) -> String {
    let sampler = sampler!();
    let mut target = Target::spawn(command);
    target.live_for(Duration::from_secs(600));
    target.until_ready();
    let mut without = Vec::new();
    let mut with = Vec::new();
    for _ in 0..rounds {
        without.push(pauses(&sampler, &target, "none"));
        with.push(pauses(&sampler, &target, "auto"));
    }
    let cells = [0, 1].map(|which| {
        let [without, with] = [&without, &with].map(|pauses| median(pauses, which));
        format!("{without:.1} | {with:.1} | {:.2}", with / without)
    });
    format!("| {name} | {} |", cells.join(" | "))
}

/// p50 and p99, in microseconds.
fn pauses(sampler: &Sampler, target: &Target, languages: &str) -> [f64; 2] {
    let options = ["-r", "997", "-d", "2", "--lang", languages];
    sampler.attach(target.pid(), &options).wait().expect_code(0);
    let pauses = sampler.report().summary.pause_ns;
    [pauses.p50, pauses.p99].map(|ns| Duration::from_nanos(ns).as_secs_f64() * 1e6)
}

fn median(pauses: &[[f64; 2]], which: usize) -> f64 {
    let mut values: Vec<f64> = pauses.iter().map(|pauses| pauses[which]).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
