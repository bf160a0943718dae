//! `sampler record -p PID`: processes that run already.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use sampler_tests_support::{Report, Signal, Target, need, sampler};

#[test]
fn the_profile_is_that_of_the_program() {
    let sampler = sampler!();
    let mut target = Target::start("shares", &["1500", "wait"]);
    let running = sampler.attach(target.pid(), &["-r", "499"]);
    running.until_first_sample();
    let before = target.cpu();
    target.tell("\n");
    let (ended, done) = target.wait_recorded(running);
    done.expect_code(0);
    let report = sampler.report();
    report.expect_complete().expect_cpu(ended.cpu - before);
    report.expect_share("burns_sixty", report.share_of("burns_sixty"), 0.5);
}

#[test]
fn a_target_that_ends_ends_the_recording() {
    let sampler = sampler!();
    let mut target = Target::start("exits", &["200", "status", "9", "wait"]);
    let running = sampler.attach(target.pid(), &["-r", "499", "-d", "60"]);
    running.until_first_sample();
    let before = target.cpu();
    target.tell("\n");
    let (ended, done) = target.wait_recorded(running);
    // Its status is its parent's business: the recording went well.
    done.expect_code(0);
    assert_eq!(ended.status.code(), Some(9));
    let report = sampler.report();
    // Its start was not recorded.
    report.expect_complete().expect_cpu(ended.cpu - before);
}

#[test]
fn the_duration_ends_and_the_target_runs_on() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "500ms"])
        .expect_code(0);
    target.assert_free();
    target.until_it_ran();
    let report = sampler.report();
    report.expect_complete();
    assert!(report.summary.stops > 0, "{:?}", report.summary);
    assert!(
        report.summary.pause_ns.p50 > 0
            && report.summary.pause_ns.p50 <= report.summary.pause_ns.max
    );
    assert!(report.summary.target_stopped_ns >= report.summary.pause_ns.max);
    assert!(report.summary.sampler_cpu_ns > 0 && report.summary.sampler_peak_rss_bytes > 0);
}

#[test]
fn durations_are_written_as_people_do() {
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    for duration in ["0.2", "200ms", "0.2s", "0.003m"] {
        let sampler = sampler!();
        sampler
            .run(&["record", "-p", &pid, "-d", duration])
            .expect_code(0);
        let wall_ns = sampler.report().summary.wall_ns;
        assert!(
            (150_000_000..2_000_000_000).contains(&wall_ns),
            "{duration}: {wall_ns} ns"
        );
    }
}

#[test]
fn ctrl_c_and_sigterm_write_and_let_go() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let sampler = sampler!();
        let target = Target::start("shares", &[]);
        let running = sampler.attach(target.pid(), &["-r", "499"]);
        target.until_it_ran();
        running.signal(signal);
        running.wait().expect_code(0);
        assert!(!sampler.path("sampler.data.partial").exists());
        sampler.report().expect_complete();
        target.assert_free();
        target.until_it_ran();
    }
}

#[test]
fn several_processes_are_one_profile() {
    let sampler = sampler!();
    let one = Target::start("shares", &[]);
    let other = Target::start("omit_frame_pointer", &[]);
    let pids = format!("{},{}", one.pid(), other.pid());
    sampler
        .run(&["record", "-p", &pids, "-d", "1", "-r", "299"])
        .expect_code(0);
    let report = sampler.report();
    report.expect_complete();
    report.expect_share("one", report.share_below("one_round"), 0.2);
    report.expect_share("the other", report.share_below("outermost"), 0.2);
}

#[test]
fn threads_that_ended_unseen_are_accounted_for_when_the_process_is_gone_too() {
    let sampler = sampler!();
    // A little less than two flushes' time: what only they account for would be missing.
    let mut target = Target::start("short_lived", &["1700"]);
    let running = sampler.attach(target.pid(), &["-r", "499"]);
    target.tell("\n");
    let ended = target.wait(); // reaped: nobody can ask for its clock any more
    running.wait().expect_code(0);
    let recorded = Duration::from_nanos(sampler.report().summary.cpu_ns);
    let used = ended.rusage();
    assert!(recorded > used.mul_f64(0.9), "{recorded:?} of {used:?}");
}

#[test]
fn one_of_several_may_end() {
    let sampler = sampler!();
    let stays = Target::start("shares", &[]);
    let mut ends = Target::start("exits", &["100", "status", "0", "wait"]);
    let pids = format!("{},{}", ends.pid(), stays.pid());
    let running = sampler.start(&["record", "-p", &pids, "-r", "299"]);
    running.until_recording();
    ends.tell("\n");
    ends.wait();
    stays.until_it_ran();
    running.interrupt().expect_code(0);
    let report = sampler.report();
    report.expect_share("the one that stays", report.share_below("one_round"), 0.2);
    stays.assert_free();
}

#[test]
fn the_recording_can_go_to_standard_output() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let path = sampler.path("from-stdout");
    let file = fs::File::create(&path).expect("the folder can be written");
    let pid = target.pid_text();
    let mut command = sampler.command(["record", "-p", &pid, "-d", "500ms", "-o", "-"]);
    command.stdout(Stdio::from(file));
    sampler.start_command(&mut command).wait().expect_code(0);
    sampler.report_of(&path).expect_complete();
    assert!(!sampler.path("sampler.data").exists() && !sampler.path("-").exists());

    // Through a pipe as well, where nothing can be gone back to.
    let done = sampler.run(&["record", "-p", &pid, "-d", "300ms", "-o", "-"]);
    done.expect_code(0);
    let path = sampler.path("from-pipe");
    fs::write(&path, &done.stdout).expect("the folder can be written");
    sampler.report_of(&path).expect_complete();
}

#[test]
fn a_stopped_process_stays_stopped() {
    let sampler = sampler!();
    let target = Target::start("stopped", &[]);
    target.signal(Signal::SIGSTOP);
    target.until_status("State", |state| state.starts_with('T'));
    let pid = target.pid_text();
    let done = sampler.run(&["record", "-p", &pid, "-d", "400ms", "-r", "299"]);
    assert!(
        matches!(done.code, Some(0 | 5)),
        "{:?}\n{}",
        done.code,
        done.stderr
    );
    let state = target.status(target.pid(), "State").unwrap_or_default();
    assert!(state.starts_with('T'), "{state}");
    target.signal(Signal::SIGCONT);
    target.until_it_ran();
    assert_eq!(target.end().number_after("continued"), 1);
}

#[test]
fn ctrl_z_during_a_recording_holds() {
    let sampler = sampler!();
    let target = Target::start("stopped", &[]);
    let mut running = sampler.attach(target.pid(), &["-r", "999"]);
    for _ in 0..5 {
        target.until_it_ran();
        target.signal(Signal::SIGSTOP);
        target.until_status("State", |state| state.starts_with('T'));
        let before = target.cpu();
        // Some dozen ticks in which it must not get to run.
        assert!(running.runs_for(std::time::Duration::from_millis(50)));
        assert_eq!(target.cpu(), before, "a stopped process ran");
        target.signal(Signal::SIGCONT);
    }
    target.until_it_ran();
    running.interrupt().expect_code(0);
    target.assert_free();
    // A SIGCONT may come while the one before is pending, never more of them.
    let continued = target.end().number_after("continued");
    assert!((1..=5).contains(&continued), "{continued}");
}

#[test]
fn a_big_program_is_sampled_like_a_small_one() {
    let sampler = sampler!();
    let library = sampler_tests_support::fixture("big_library.so");
    let library = library.to_str().expect("our paths are text");
    let target = Target::start("big_mapping", &[library, "5"]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "1"])
        .expect_code(0);
    let report: Report = sampler.report();
    report.expect_complete();
    report.expect_share("hot", report.share_of("burns_beside_big_files"), 0.9);
}

/// Many threads that sleep, and one that runs while the clocks of them all are read.
const ONE_RUNS: &str = "
import threading, time
def spins():
    while True: sum(range(1000))
sleepers = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(300)]
for thread in [*sleepers, threading.Thread(target=spins, daemon=True)]: thread.start()
print('ready', flush=True)
time.sleep(1000)
";

#[test]
fn no_thread_is_said_to_have_ended_that_runs_on() {
    let sampler = sampler!();
    let mut target = Target::spawn(Command::new(need("python3")).args(["-c", ONE_RUNS]));
    target.until_ready();
    for _ in 0..24 {
        let pid = target.pid_text();
        let words = ["record", "-p", &pid, "-r", "499", "-d", "50ms"];
        sampler.run(&words).expect_code(0);
        let report = sampler.report();
        let ended = report.stacks.iter().find(|stack| stack.thread.tid == 0);
        assert!(ended.is_none(), "{ended:?}");
    }
}
