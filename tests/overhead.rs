//! The overhead that `sampler record` promises, and what it does to keep it.

use std::time::Duration;

use sampler_tests_support::{Done, Report, Sampler, Target, fixture, sampler};

/// More than a build for tests can keep with a small share of a CPU.
const RATE: &str = "5000";

/// Records a fixture that ends by itself.
#[track_caller]
fn record(sampler: &Sampler, options: &[&str], name: &str, argument: &str) -> (Report, Done) {
    let program = fixture(name);
    let mut words = vec!["record", "-r", RATE];
    words.extend(options);
    words.extend([
        "--",
        program.to_str().expect("our paths are text"),
        argument,
    ]);
    let done = sampler.run(&words);
    done.expect_code(0);
    (sampler.report(), done)
}

#[test]
fn fewer_samples_are_taken_where_the_rate_would_cost_more_than_is_promised() {
    let sampler = sampler!();
    let (all, _) = record(&sampler, &["--max-overhead", "off"], "shares", "3000");
    assert_eq!(all.summary.overhead.promised, None);
    assert_eq!(all.summary.missed.get("budget"), None);

    let (some, done) = record(&sampler, &["--max-overhead", "1"], "shares", "3000");
    let overhead = &some.summary.overhead;
    assert_eq!(overhead.promised, Some(0.01));
    assert!(some.summary.missed["budget"] > 0);
    assert!(done.stderr.contains("--max-overhead"), "{}", done.stderr);
    // In the first second anything goes; of three that leaves a third and a little.
    let (few, many) = (some.summary.samples, all.summary.samples);
    assert!(few > 0 && few < many * 3 / 4, "{few} of {many}");
    // Where the machine takes the CPU away from the sampler in the middle of a stop, one stop can be too much for its
    // second; not for two.
    assert!(overhead.thread_stopped < 0.02, "{overhead:?}");
    assert!(overhead.sampler_cpu < 0.02, "{overhead:?}");
}

#[test]
fn totals_are_right_however_little_may_be_spent() {
    let sampler = sampler!();
    let (report, done) = record(&sampler, &["--max-overhead", "0.05"], "shares", "2000");
    assert!(report.summary.missed["budget"] > 0);
    // That it ended has been noticed, though nothing was left to look at it with.
    report.expect_cpu(Duration::from_micros(done.number_after("rusage_us")));
}

#[test]
fn a_budget_too_small_for_anything_is_said_to_be() {
    let sampler = sampler!();
    let target = Target::start("counts", &[]);
    let pid = target.pid_text();
    let promise = ["--max-overhead", "0.0001"];
    let mut words = vec!["record", "-p", &pid, "-d", "2"];
    words.extend(promise);
    let done = sampler.run(&words);
    done.expect_code(0);
    let is_said = done.stderr.contains("the next look can be paid for in");
    assert!(is_said, "{}", done.stderr);
    // What there was to see before the promise was in force.
    let summary = sampler.report().summary;
    assert!(summary.samples > 0 && summary.stops <= 2, "{summary:?}");
}

#[test]
fn what_is_not_copied_in_time_is_left_out_and_said_to_be() {
    let sampler = sampler!();
    let (whole, _) = record(&sampler, &["--max-pause", "1s"], "recursion", "800");
    // How deep it is has to be found out at first.
    let (truncated, samples) = (whole.summary.truncated, whole.summary.samples);
    assert!(truncated <= samples / 10, "{truncated} of {samples}");
    let (cut, _) = record(&sampler, &["--max-pause", "10us"], "recursion", "800");
    assert_eq!(cut.summary.overhead.pause_max_ns, 10_000);
    assert!(
        cut.summary.truncated > cut.summary.samples / 2,
        "{:?}",
        cut.summary
    );
}
