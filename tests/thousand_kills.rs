//! `kill -9` of `sampler`, a thousand times at random moments: each time the target runs on and does everything right,
//! and what was recorded can be read.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use sampler::profile::ProfileBuilder;
use sampler::recording::{self, DamageKind, ReadOutcome};
use sampler_tests_support::{Running, Sampler, Target, sampler};

const OFTEN: &[&str] = &["-r", "1000"];

/// More than what is written before the first sample.
const START_BYTES: u64 = 600;

/// How long fifty kills may take on a slow disk.
const LONGER_THAN_ALL: Duration = Duration::from_secs(900);

/// Microseconds, spread unevenly, the same in every run.
fn random(seed: u64, range: std::ops::Range<u64>) -> impl Iterator<Item = Duration> {
    let mut state = seed;
    std::iter::from_fn(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let micros = range.start + (state >> 33) % (range.end - range.start);
        Some(Duration::from_micros(micros))
    })
}

/// A recording whose first samples are on disk.
#[track_caller]
fn begin(sampler: &Sampler, target: &Target) -> Running {
    let running = sampler.attach(target.pid(), OFTEN);
    running.until_recorded(START_BYTES);
    running
}

/// Reads what a killed sampler has left.
#[track_caller]
fn read_partial(sampler: &Sampler) -> ReadOutcome {
    let path = sampler.path("sampler.data.partial");
    let file = File::open(&path).expect("a killed sampler leaves what it wrote");
    let outcome = recording::read(file, &mut ProfileBuilder::new())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!outcome.complete);
    // It may have been killed in the middle of a write, and then the end is cut: nothing else.
    if let Some(damage) = &outcome.damage {
        assert_eq!(damage.what, DamageKind::Truncated, "{damage:?}");
    }
    outcome
}

#[test]
fn the_target_runs_on_and_the_recording_is_readable_a_thousand_times() {
    const TARGETS: usize = 20;
    const KILLS_OF_EACH: usize = 50;
    let mut moments = random(1, 5_000..60_000);
    for _ in 0..TARGETS {
        kill_again_and_again(moments.by_ref().take(KILLS_OF_EACH));
    }
}

#[track_caller]
fn kill_again_and_again(moments: impl Iterator<Item = Duration>) {
    let sampler = sampler!();
    let mut target = Target::start("sixteen", &[]);
    target.live_for(LONGER_THAN_ALL);
    assert_eq!(target.threads().len(), 17);
    for moment in moments {
        let mut running = begin(&sampler, &target);
        assert!(running.runs_for(moment), "sampler ended by itself");
        assert_eq!(running.kill().signal, Some(9));
        target.assert_free();
        target.until_all_threads_ran();
        let outcome = read_partial(&sampler);
        let summary = outcome.summary.expect("the first samples were on disk");
        assert!(summary.samples > 0, "{summary:?}");
        fs::remove_file(sampler.path("sampler.data.partial")).expect("it is ours");
    }
    let ended = target.wait();
    assert_eq!(ended.number_after("threads"), 16, "{}", ended.stdout);
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
    assert_eq!(ended.number_after("sent"), ended.number_after("received"));
    let sum_of = |word| ended.number_after(word);
    assert_eq!(sum_of("sent_sum"), sum_of("received_sum"));
}

#[test]
fn no_more_than_the_last_second_is_lost() {
    /// What is written at each second may come late on a busy machine.
    const LATE_MAX: Duration = Duration::from_millis(900);
    for moment in random(2, 1_500_000..3_500_000).take(4) {
        let sampler = sampler!();
        let target = Target::start("sixteen", &[]);
        let mut running = begin(&sampler, &target);
        let began = Instant::now();
        assert!(running.runs_for(moment), "sampler ended by itself");
        let lasted = began.elapsed();
        running.kill();
        assert_eq!(target.wait().number_after("wrong"), 0);
        let summary = read_partial(&sampler).summary.expect("it was on disk");
        let kept = Duration::from_nanos(summary.wall_ns);
        assert!(
            kept + Duration::from_secs(1) + LATE_MAX > lasted,
            "{kept:?} of {lasted:?} are left"
        );
        // It is shown as any other recording is.
        let report = sampler.report_of(&sampler.path("sampler.data.partial"));
        report.expect_complete();
        report.expect_share("its threads", report.share_below("start_thread"), 0.8);
    }
}
