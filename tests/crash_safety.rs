//! `kill -9` of `sampler` at any moment: the target runs on, and what was recorded can be read.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use sampler_tests_support::{Running, Sampler, Signal, Target, sampler};

const OFTEN: &[&str] = &["-r", "1000"];

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
    let mut running = sampler.attach(target.pid(), OFTEN);
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

/// More than what is written before the first sample.
const START_BYTES: u64 = 600;

#[test]
fn a_disk_that_fills_up_is_told_and_what_was_written_stays() {
    let sampler = sampler!();
    let target = Target::start("sixteen", &[]);
    let pid = target.pid_text();
    // A file that may grow no further, with the signal for that ignored, is what a full disk is: write(2) fails.
    let script = "trap '' XFSZ; ulimit -f 24; exec \"$0\" record \"$@\"";
    let mut command = Command::new("/bin/bash");
    let program = sampler.command([""; 0]).get_program().to_owned();
    command.args(["-c", script]).arg(program);
    command.args(OFTEN).args(["-p", &pid]);
    sampler.prepare(&mut command);
    let done = sampler.start_command(&mut command).wait();
    done.expect_error(
        1,
        &["sampler.data.partial", "file too large", "sampler report"],
    );
    target.assert_free();
    target.until_all_threads_ran();
    let partial = sampler.path("sampler.data.partial");
    let report = sampler.report_of(&partial);
    assert!(report.summary.samples > 0, "{:?}", report.summary);
    report.expect_complete();
    let ended = target.wait();
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
}

#[test]
fn a_reader_that_leaves_ends_the_recording_and_not_the_target() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
    let mut command = sampler.command(["record", "-p", &pid, "-o", "-"]);
    command.args(OFTEN).stdout(Stdio::from(writer));
    let running = sampler.start_command(&mut command);
    drop(command); // and with it our end of the pipe
    let mut first = vec![0; 1024];
    reader.read_exact(&mut first).expect("samples come");
    drop(reader);
    running
        .wait()
        .expect_error(1, &["standard output", "broken pipe"]);
    target.assert_free();
    target.until_it_ran();
}

#[test]
fn nobody_may_listen() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let mut command = sampler.command(["record", "-p", &pid, "-d", "300ms"]);
    command.stderr(Stdio::from(writer));
    sampler.start_command(&mut command).wait().expect_code(0);
    sampler.report().expect_complete();
    target.assert_free();
}

#[test]
fn a_target_killed_at_any_moment_leaves_its_recording() {
    for moment in moments().skip(40).take(20) {
        let sampler = sampler!();
        let target = Target::start("sixteen", &[]);
        let mut running = sampler.attach(target.pid(), OFTEN);
        running.until_recorded(START_BYTES);
        assert!(running.runs_for(moment), "sampler ended by itself");
        target.signal(Signal::SIGKILL);
        let cpu = target.wait().cpu;
        let done = running.wait();
        done.expect_code(0);
        assert!(
            done.stderr.contains("wrote sampler.data"),
            "{}",
            done.stderr
        );
        let report = sampler.report();
        report.expect_complete();
        let recorded = Duration::from_nanos(report.summary.cpu_ns);
        assert!(
            recorded <= cpu + Duration::from_millis(8),
            "{recorded:?} of {cpu:?}"
        );
    }
}

/// Stops `sampler` as a suspended machine would, until the target has used so much CPU time.
#[track_caller]
fn suspend(running: &Running, target: &Target, for_cpu: Duration) {
    loop {
        running.signal(Signal::SIGSTOP);
        running.until_state('T');
        let tracers = target.threads().into_iter();
        let mut tracers = tracers.filter_map(|tid| target.status(tid, "TracerPid"));
        if tracers.all(|tracer| tracer == "0") {
            break;
        }
        // It was stopped while it held a thread: nobody can help that. Another moment.
        running.signal(Signal::SIGCONT);
        target.until_it_ran();
    }
    let cpu = target.cpu() + for_cpu;
    while target.cpu() < cpu {
        target.until_it_ran();
    }
    running.signal(Signal::SIGCONT);
}

#[test]
fn a_suspended_sampler_goes_on_as_if_nothing_had_been() {
    let sampler = sampler!();
    let mut target = Target::start("shares", &["5000", "wait"]);
    let running = sampler.attach(target.pid(), OFTEN);
    running.until_first_sample();
    target.tell("\n");
    target.until_it_ran();
    suspend(&running, &target, Duration::from_secs(1));
    let (ended, done) = target.wait_recorded(running);
    done.expect_code(0);
    let report = sampler.report();
    // What was used meanwhile is there, shared out as what was seen.
    report.expect_complete().expect_cpu(ended.cpu);
    report.expect_share("burns_sixty", report.share_of("burns_sixty"), 0.5);
    // The ticks of that second were left out and not caught up, which is said.
    let late = report.summary.missed.get("late").copied().unwrap_or(0);
    assert!(late >= 1000, "{:?}", report.summary);
    assert!(
        done.stderr.contains("because the sampler came late"),
        "{}",
        done.stderr
    );
    let wall = Duration::from_nanos(report.summary.wall_ns).as_secs_f64();
    let ticks = report.summary.rate_hz_achieved * wall;
    let due = 1000.0 * wall;
    assert!(
        ticks <= due * 1.1 - 1000.0,
        "{ticks} ticks and {late} left out, of {due}"
    );
}
