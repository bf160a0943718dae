//! A sleep that a stop ends: in the main thread, which the test harness does not give to tests.
#![expect(clippy::print_stdout, reason = "it is its own test harness")]

use sampler_platforms::linux::StopWatch;
use sampler_platforms::linux::clock::{Slept, monotonic_ns};

/// Longer than any child here lives, in nanoseconds.
const MINUTE_NS: u64 = 60_000_000_000;

fn main() {
    the_end_of_a_child_before_the_sleep_ends_it_at_once();
    println!("1 passed, 0 failed");
}

fn the_end_of_a_child_before_the_sleep_ends_it_at_once() {
    let watch = StopWatch::new().expect("signals can be blocked");
    let status = std::process::Command::new("true")
        .status()
        .expect("true runs");
    assert!(status.success());
    let slept = watch.sleep_until(monotonic_ns() + MINUTE_NS);
    assert_eq!(slept, Slept::Interrupted);
}
