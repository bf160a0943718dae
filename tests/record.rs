//! `sampler record -- CMD`: a command launched and recorded.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use sampler_tests_support::{Done, Report, Running, Sampler, Signal, fixture, sampler};

/// Records a fixture that ends by itself with status 0.
#[track_caller]
fn record(sampler: &Sampler, name: &str, arguments: &[&str]) -> (Report, Done) {
    let done = launch(sampler, &["-r", "997"], name, arguments).wait();
    done.expect_code(0);
    (sampler.report(), done)
}

#[track_caller]
fn launch(sampler: &Sampler, options: &[&str], name: &str, arguments: &[&str]) -> Running {
    let program = fixture(name);
    let mut words = vec!["record"];
    words.extend(options);
    words.extend(["--", program.to_str().expect("our paths are text")]);
    words.extend(arguments);
    sampler.start(&words)
}

/// Asserts that each function's share is within 3 points of what the fixture measured of itself.
#[track_caller]
fn expect_shares(report: &Report, done: &Done) {
    let text = done.text();
    let mut shares = 0;
    for line in text.lines() {
        let ["share", function, share] = line.split(' ').collect::<Vec<_>>()[..] else {
            continue;
        };
        let truth: f64 = share.parse().expect("the fixture prints numbers");
        let found = report.share_of(function);
        assert!(
            (found - truth).abs() <= 0.03,
            "{function}: {found:.4}, in truth {truth:.4}; the profile:\n{}",
            report.heaviest()
        );
        shares += 1;
    }
    assert_eq!(shares, 3, "{text}");
}

#[track_caller]
fn rusage(done: &Done) -> Duration {
    Duration::from_micros(done.number_after("rusage_us"))
}

/// Records two seconds of a fixture's CPU time, or eight where the machine gave the sampler so little of its CPUs that
/// the shares of two say nothing: with 400 samples a share of 60 % has a standard deviation of 2.4 %.
fn record_long_enough(sampler: &Sampler, name: &str) -> (Report, Done) {
    const ENOUGH_SAMPLES: u64 = 1200;
    let short = record(sampler, name, &["2000"]);
    if short.0.summary.samples >= ENOUGH_SAMPLES {
        return short;
    }
    record(sampler, name, &["8000"])
}

#[test]
fn work_between_two_looks_is_not_lost() {
    let sampler = sampler!();
    // So rarely that the shorter work is hardly ever met.
    for rate in ["49", "997"] {
        let done = launch(&sampler, &["-r", rate], "bursts", &["5", "50"]).wait();
        done.expect_code(0);
        let report = sampler.report();
        report.expect_cpu(rusage(&done));
        for (thread, work) in [
            ("bursts", "works_in_bursts"),
            ("moments", "works_for_moments"),
        ] {
            let truth_ns = done.number_after(&format!("{thread}_us")) * 1000;
            let of_thread = report.cpu_ns(|stack| stack.has(thread) || stack.has(work));
            // Where it was never met at work, its time is shown where it sleeps: in the same function, one further out.
            let allowed_ns = truth_ns / 10 + 8_000_000;
            assert!(
                of_thread.abs_diff(truth_ns) <= allowed_ns,
                "{rate} Hz, {thread}: {of_thread} of {truth_ns} ns; the profile:\n{}",
                report.heaviest()
            );
        }
        // A burst is met by some looks, after long sleep too.
        let truth_ns = done.number_after("bursts_us") * 1000;
        let at_work_ns = report.cpu_ns(|stack| stack.has("works_in_bursts"));
        assert!(
            at_work_ns > truth_ns / 2,
            "{rate} Hz: {at_work_ns} of {truth_ns} ns; the profile:\n{}",
            report.heaviest()
        );
    }
}

#[test]
fn shares_and_total_are_those_of_the_program() {
    let sampler = sampler!();
    let (report, done) = record_long_enough(&sampler, "shares");
    expect_shares(&report, &done);
    report.expect_complete().expect_cpu(rusage(&done));
    let leaf = report.stacks.iter().filter_map(|stack| stack.leaf());
    let lines = leaf.filter(|frame| {
        frame
            .file
            .as_deref()
            .is_some_and(|file| file.ends_with("shares.c"))
            && frame.line.is_some()
    });
    assert!(lines.count() > 0, "{}", report.heaviest());
}

#[test]
fn programs_linked_in_every_way_are_named_and_whole() {
    for name in ["static", "static_pie", "no_pie", "musl_static"] {
        let sampler = sampler!();
        let (report, done) = record_long_enough(&sampler, name);
        expect_shares(&report, &done);
        report.expect_complete().expect_cpu(rusage(&done));
    }
}

#[test]
fn a_stripped_program_is_whole_and_its_functions_are_called_after_where_they_start() {
    let sampler = sampler!();
    let (report, _) = record(&sampler, "stripped", &["1500"]);
    report.expect_complete();
    report.expect_share("its own code", report.share_of_module("stripped"), 0.95);
    let leaves: BTreeSet<&str> = report
        .stacks
        .iter()
        .filter_map(|stack| Some(stack.leaf()?.function.as_str()))
        .filter(|function| function.starts_with("stripped!fn_"))
        .collect();
    // One name for all addresses of each of the three functions that use the time.
    let shares: Vec<f64> = leaves
        .iter()
        .map(|function| report.share_of(function))
        .filter(|share| *share > 0.05)
        .collect();
    assert_eq!(shares.len(), 3, "{leaves:?}");
    report.expect_share("named by their starts", shares.iter().sum(), 0.95);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.starts_with("stripped: no symbols (")),
        "{:?}",
        report.notes
    );
    for format in ["table", "tree", "folded", "flamegraph"] {
        let done = sampler.run(&["report", "-f", format]);
        done.expect_code(0);
        let text = done.text();
        assert!(leaves.iter().any(|name| text.contains(name)), "{text}");
    }
}

#[test]
fn ten_thousand_frames_are_walked_to_the_root() {
    let sampler = sampler!();
    let (report, _) = record(&sampler, "recursion", &["1500"]);
    report.expect_complete();
    let deep = report.cpu_share(|stack| {
        let descents = stack
            .frames
            .iter()
            .filter(|frame| frame.function == "descends");
        descents.count() == 10_001
    });
    report.expect_share("all frames of the recursion", deep, 0.9);
}

/// The share of CPU time with these functions in this order, innermost first, others between them or not.
fn share_with_chain(report: &Report, chain: &[&str]) -> f64 {
    report.cpu_share(|stack| {
        let functions = stack.functions();
        let mut rest = functions.iter();
        chain.iter().all(|wanted| rest.any(|found| found == wanted))
    })
}

#[test]
fn chains_of_calls_are_whole() {
    let cases: [(&str, &[&str], &[&str]); 6] = [
        (
            "omit_frame_pointer",
            &["1500"],
            &["innermost", "third", "second", "outermost", "main"],
        ),
        (
            "signal_handler",
            &["raise", "1500"],
            &[
                "spins_in_handler",
                "handler",
                "inner_cause",
                "outer_cause",
                "main",
            ],
        ),
        (
            "signal_handler",
            &["altstack", "1500"],
            &[
                "spins_in_handler",
                "handler",
                "inner_cause",
                "outer_cause",
                "main",
            ],
        ),
        (
            "signal_handler",
            &["fault", "1500"],
            &[
                "spins_in_handler",
                "handler",
                "faults_at_once",
                "inner_cause",
                "outer_cause",
                "main",
            ],
        ),
        (
            "realign",
            &["1500"],
            &[
                "innermost",
                "cfa_in_rbx",
                "variable_length",
                "realigned",
                "main",
            ],
        ),
        (
            "plt",
            &["1500"],
            &["callee_in_library", "calls_through_plt", "main"],
        ),
    ];
    for (name, arguments, chain) in cases {
        let sampler = sampler!();
        let (report, done) = record(&sampler, name, arguments);
        report.expect_complete().expect_cpu(rusage(&done));
        // The callee of `plt` is so short that much of the time is in its caller and in the stub.
        let at_least = if name == "plt" { 0.1 } else { 0.95 };
        let what = format!("{name} {arguments:?}");
        report.expect_share(&what, share_with_chain(&report, chain), at_least);
        if name == "plt" {
            let caller = ["calls_through_plt", "main"];
            report.expect_share("plt", share_with_chain(&report, &caller), 0.95);
        }
    }
}

#[test]
fn the_vdso_is_named_and_walked_through() {
    let sampler = sampler!();
    let (report, _) = record(&sampler, "vdso", &["1500"]);
    report.expect_complete();
    report.expect_share("in the vDSO", report.share_of_module("[vdso]"), 0.3);
    report.expect_share("its caller", report.share_below("asks_for_the_time"), 0.95);
}

#[test]
fn threads_that_come_and_go_lose_no_cpu_time() {
    let sampler = sampler!();
    let (report, done) = record(&sampler, "short_lived", &["1500"]);
    report.expect_cpu(rusage(&done));
    // Most live and end between two looks; their time is there all the same, and says so.
    report.expect_share("seen alive", report.share_below("short_life"), 0.01);
}

#[test]
fn another_program_after_exec_is_recorded_on() {
    let sampler = sampler!();
    let shares = fixture("shares");
    let shares = shares.to_str().expect("our paths are text");
    let (report, done) = record(&sampler, "exec_midway", &["500", shares, "1500"]);
    // The clock runs on over exec: a third of it was used before.
    report.expect_complete().expect_cpu(rusage(&done));
    report.expect_share("before", report.share_below("before_exec"), 0.25);
    report.expect_share("after", report.share_of("burns_sixty"), 0.3);
}

#[test]
fn the_commands_status_is_ours() {
    for (arguments, code) in [
        (["150", "status", "0"], 0),
        (["150", "status", "3"], 3),
        (["150", "status", "125"], 125),
        (["150", "signal", "15"], 128 + 15),
        (["150", "signal", "9"], 128 + 9),
    ] {
        let sampler = sampler!();
        launch(&sampler, &[], "exits", &arguments)
            .wait()
            .expect_code(code);
        sampler.report().expect_complete();
    }
}

#[test]
fn a_command_that_cannot_be_run_is_told_as_env_does() {
    let sampler = sampler!();
    sampler
        .run(&["record", "--", "no-such-command-anywhere"])
        .expect_error(127, &["no-such-command-anywhere"]);
    let not_executable = sampler.path("not-executable");
    fs::write(&not_executable, "#!/bin/sh\n").expect("the folder can be written");
    let path = not_executable.to_str().expect("our paths are text");
    sampler
        .run(&["record", "--", path])
        .expect_error(126, &["not-executable"]);
    assert!(!sampler.path("sampler.data").exists());
}

#[test]
fn the_commands_arguments_are_its_own() {
    let sampler = sampler!();
    // Without `--`, what follows the command is the command's all the same.
    let done = sampler.run(&["record", "/bin/echo", "-r", "--output", "x"]);
    assert_eq!(done.text(), "-r --output x\n");
}

#[test]
fn when_the_duration_ends_the_command_runs_on() {
    let sampler = sampler!();
    let running = launch(
        &sampler,
        &["-d", "300ms"],
        "exits",
        &["2000", "status", "7"],
    );
    let recording = sampler.path("sampler.data");
    running.until_file(|| recording.exists());
    let report = sampler.report();
    running.wait().expect_code(7);
    assert!(
        (200_000_000..1_500_000_000).contains(&report.summary.wall_ns),
        "recorded for {} ns",
        report.summary.wall_ns
    );
    report.expect_complete();
}

#[test]
fn ctrl_c_and_sigterm_write_and_wait_for_the_command() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let sampler = sampler!();
        let running = launch(&sampler, &[], "exits", &["2000", "status", "6"]);
        running.until_first_sample();
        running.signal(signal);
        let recording = sampler.path("sampler.data");
        running.until_file(|| recording.exists());
        let report = sampler.report();
        // The command got no signal from us: it ends by itself.
        running.wait().expect_code(6);
        assert!(
            report.summary.wall_ns < 2_000_000_000,
            "{signal}: {:?}",
            report.summary
        );
    }
}

#[test]
fn a_second_ctrl_c_leaves_the_command_running() {
    let sampler = sampler!();
    let mut running = launch(&sampler, &["-d", "100ms"], "shares", &["3000"]);
    let recording = sampler.path("sampler.data");
    running.until_file(|| recording.exists());
    // Again and again, for one that comes before it waits for the command says nothing about waiting.
    running.signal(Signal::SIGINT);
    while running.runs_for(Duration::from_millis(50)) {
        running.signal(Signal::SIGINT);
    }
    running.wait().expect_code(130);
    sampler.report();
}

#[test]
fn rate_and_duration_are_kept() {
    let sampler = sampler!();
    launch(
        &sampler,
        &["-F", "250", "--duration", "0.5"],
        "shares",
        &["1000"],
    )
    .wait()
    .expect_code(0);
    let summary = sampler.report().summary;
    assert_eq!(summary.rate_hz_requested, 250.0);
    // A busy machine makes a sampler late, which then leaves ticks out; it never makes more of them.
    assert!(
        (25.0..300.0).contains(&summary.rate_hz_achieved),
        "{} Hz",
        summary.rate_hz_achieved
    );
    assert!(
        (400_000_000..2_000_000_000).contains(&summary.wall_ns),
        "{} ns",
        summary.wall_ns
    );
    let missed: u64 = summary.missed.values().sum();
    assert!(
        summary.samples > 0 && summary.samples + missed >= 12,
        "{summary:?}"
    );
}

#[test]
fn the_end_is_told_in_words_and_the_way_there_in_none() {
    let sampler = sampler!();
    let done = launch(&sampler, &[], "shares", &["300"]).wait();
    for word in ["samples", "stop", "sampler.data"] {
        assert!(
            done.stderr.contains(word),
            "`{word}` is missing: {}",
            done.stderr
        );
    }
    assert!(!done.stderr.contains(['\r', '\x1b']), "{:?}", done.stderr);
    let output = done.text();
    assert!(
        output.starts_with("ready\n"),
        "only the command writes to stdout: {output}"
    );
}

#[test]
fn the_output_goes_where_it_is_told() {
    let sampler = sampler!();
    let running = launch(&sampler, &["-o", "other.rec"], "shares", &["600"]);
    let partial = sampler.path("other.rec.partial");
    running.until_file(|| partial.exists());
    running.wait().expect_code(0);
    assert!(!partial.exists());
    assert!(!sampler.path("sampler.data").exists());
    sampler
        .report_of(&sampler.path("other.rec"))
        .expect_complete();
}

#[test]
fn a_failed_recording_leaves_the_older_one() {
    let sampler = sampler!();
    let recording = sampler.path("sampler.data");
    fs::write(&recording, "the older one").expect("the folder can be written");
    sampler
        .run(&["record", "--", "no-such-command-anywhere"])
        .expect_code(127);
    sampler.run(&["record", "-p", "999999999"]).expect_code(4);
    let running = launch(&sampler, &[], "exits", &["3000"]);
    running.until_recording();
    running.kill();
    assert_eq!(fs::read(&recording).expect("it is there"), b"the older one");
    launch(&sampler, &[], "exits", &["200"])
        .wait()
        .expect_code(0);
    sampler.report().expect_complete();
}
