//! What a long recording takes: `cargo bench --bench soak`.
//!
//! Ten minutes (`SAMPLER_BENCH_SECONDS` overrides it) of a program with 100 threads, of which two work, eight wake up ten
//! times a second and the others sleep. Memory of the sampler and length of the recording, minute by minute; at the end
//! how much memory has grown since the first minute, and what a sample takes in the file.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fs;
use std::time::Duration;

use sampler_tests_support::{Target, sampler};

const SECONDS: u64 = 600;
/// Threads that work, sleep, and wake up now and then; the main thread is the hundredth.
const THREADS: [&str; 3] = ["2", "89", "8"];
/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_secs(60);
const HOUR_NS: f64 = 3600e9;
/// What starting and ending may take besides.
const MARGIN: Duration = Duration::from_secs(120);

/// The sampler's memory at a moment, in KiB as the kernel tells.
#[derive(Clone, Copy, Debug)]
struct Memory {
    resident: u64,
    /// Of that, what is no file's.
    anonymous: u64,
    /// The most there ever was.
    peak: u64,
}

fn main() {
    let seconds = std::env::var("SAMPLER_BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SECONDS);
    let length = Duration::from_secs(seconds);
    let mut target = Target::start("counts", &THREADS);
    target.live_for(length + MARGIN);
    let sampler = sampler!();
    let mut running = sampler.attach(target.pid(), &[]);
    running.live_for(length + MARGIN);
    println!(
        "{:>10} {:>14} {:>14} {:>14} {:>16}",
        "seconds", "resident KiB", "of no file", "peak KiB", "recording bytes"
    );
    let mut memory = Vec::new();
    let mut passed = Duration::ZERO;
    while passed < length {
        let next = INTERVAL.min(length - passed);
        assert!(running.runs_for(next), "the sampler runs on");
        passed += next;
        let now = memory_of(running.pid());
        let partial = sampler.path("sampler.data.partial");
        println!(
            "{:>10} {:>14} {:>14} {:>14} {:>16}",
            passed.as_secs(),
            now.resident,
            now.anonymous,
            now.peak,
            fs::metadata(partial).expect("it is being written").len()
        );
        memory.push(now);
    }
    running.interrupt().expect_code(0);
    let bytes = fs::metadata(sampler.path("sampler.data"))
        .expect("it was written")
        .len();
    let summary = sampler.report().summary;
    if let [first, .., last] = memory[..] {
        let grown = ratio(last.resident, first.resident) - 1.0;
        println!("resident, last to first: {:+.1} %", grown * 100.0);
    }
    println!(
        "samples: {}; bytes a sample: {:.2}; bytes an hour: {:.0}; peak: {} KiB",
        summary.samples,
        ratio(bytes, summary.samples),
        ratio(bytes, summary.wall_ns) * HOUR_NS,
        summary.sampler_peak_rss_bytes / 1024
    );
    println!(
        "rate: {:.1} Hz of {:.0}; sampler CPU: {:.2} %",
        summary.rate_hz_achieved,
        summary.rate_hz_requested,
        ratio(summary.sampler_cpu_ns, summary.wall_ns) * 100.0
    );
}

fn memory_of(pid: i32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the sampler runs");
    let field = |name| sampler_tests_support::number_after(&status, name);
    Memory {
        resident: field("VmRSS:"),
        anonymous: field("RssAnon:"),
        peak: field("VmHWM:"),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "bytes and nanoseconds of an hour are far below 2^52"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
