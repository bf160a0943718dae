//! `kill -9` of `sampler` at any moment: the target runs on, and what was recorded can be read.

use std::time::Duration;

use sampler_tests_support::{Sampler, Target, sampler};

/// Moments after the recording began: spread unevenly over some ticks and some writes, the same in every run.
fn moments() -> impl Iterator<Item = Duration> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    std::iter::from_fn(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        Some(Duration::from_micros((state >> 33) % 120_000))
    })
}

#[track_caller]
fn kill_after(sampler: &Sampler, target: &Target, moment: Duration) {
    let mut running = sampler.attach(target.pid(), &["-r", "999"]);
    assert!(running.runs_for(moment), "sampler ended by itself");
    let done = running.kill();
    assert_eq!(done.signal, Some(9));
}

#[test]
fn a_busy_target_runs_on_whenever_sampler_is_killed() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    for moment in moments().take(20) {
        kill_after(&sampler, &target, moment);
        target.assert_free();
        target.until_it_ran();
    }
    assert!(target.end().status.success());
}

#[test]
fn many_threads_run_on_whenever_sampler_is_killed() {
    let sampler = sampler!();
    let mut target = Target::start("threads64", &[]);
    target.tell("\n");
    for moment in moments().skip(20).take(10) {
        kill_after(&sampler, &target, moment);
        target.assert_free();
        target.until_it_ran();
    }
    assert!(target.end().status.success());
}

#[test]
fn signals_survive_a_killed_sampler() {
    let sampler = sampler!();
    let target = Target::start("rt_signals", &[]);
    for moment in moments().skip(30).take(10) {
        kill_after(&sampler, &target, moment);
        target.assert_free();
    }
    let ended = target.wait();
    assert_eq!(ended.number_after("sent"), ended.number_after("received"));
    assert_eq!(
        ended.number_after("plain_sent"),
        ended.number_after("plain_received")
    );
}

#[test]
fn the_partial_recording_is_readable() {
    let sampler = sampler!();
    let mut target = Target::start("shares", &["0", "wait"]);
    let running = sampler.attach(target.pid(), &["-r", "499"]);
    let partial = sampler.path("sampler.data.partial");
    let before = std::fs::metadata(&partial).map_or(0, |file| file.len());
    target.tell("\n");
    // Chunks come at least each second; one with samples is a good deal longer than an empty one.
    running.until_recorded(before + 1);
    target.until_it_ran();
    let now = std::fs::metadata(&partial).map_or(0, |file| file.len());
    running.until_recorded(now + 1);
    running.kill();
    target.assert_free();
    assert!(!sampler.path("sampler.data").exists());
    let report = sampler.report_of(&partial);
    report.expect_complete();
    report.expect_share("one_round", report.share_below("one_round"), 0.9);

    // And the next recording takes its place.
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "200ms"])
        .expect_code(0);
    assert!(!partial.exists());
    sampler.report().expect_complete();
}

#[test]
fn a_launched_command_outlives_a_killed_sampler() {
    let sampler = sampler!();
    let fixture = sampler_tests_support::fixture("shares");
    let done_file = sampler.path("done");
    let script = format!("{} 700 > {}", fixture.display(), done_file.display());
    let running = sampler.start(&["record", "--", "/bin/sh", "-c", &script]);
    running.until_recording();
    running.until_file(|| done_file.exists());
    let ready_then_rest = || std::fs::read_to_string(&done_file).unwrap_or_default();
    running.kill();
    let start = std::time::Instant::now();
    while !ready_then_rest().contains("rusage_us") {
        assert!(
            start.elapsed() < sampler_tests_support::LIMIT,
            "the command did not get to its end: {:?}",
            ready_then_rest()
        );
        std::thread::yield_now();
    }
}
