//! What a target must not notice: interrupted calls, lost signals, wakened sleepers, forks that never get done.

use std::time::Duration;

use sampler_tests_support::{Signal, Target, sampler};

/// Far more often than anybody needs, so that whatever can happen at a bad moment happens.
const OFTEN: &[&str] = &["-r", "1000"];

#[test]
fn no_call_is_interrupted() {
    let sampler = sampler!();
    let target = Target::start("epoll_eintr", &[]);
    let report = sampler.record_often(&target, "3");
    // Some fell asleep between being found running and being stopped; what that did was undone.
    assert!(report.summary.stops > 0, "{:?}", report.summary);
    assert!(report.repaired_syscalls > 0, "{:?}", report.summary);
    target.assert_free();
    let ended = target.wait();
    let lines: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("calls "))
        .collect();
    assert_eq!(lines.len(), 8, "{}", ended.stdout);
    for line in lines {
        assert_not_interrupted(line);
    }
}

#[test]
fn only_signals_interrupt_calls_of_a_program_that_handles_them() {
    for stack in ["handler", "other_stack"] {
        let sampler = sampler!();
        let mut target = Target::start("epoll_eintr", &[stack]);
        // From now on it counts.
        target.tell("\n");
        let repaired = sampler.record_often(&target, "3").repaired_syscalls;
        target.assert_free();
        assert!(repaired > 0, "none is repaired ({stack})");
        let ended = target.wait();
        let lines = |first: &str| {
            let is_of = |line: &&str| line.starts_with(first);
            ended.stdout.lines().filter(is_of).collect::<Vec<_>>()
        };
        let (calls, signalled) = (lines("calls "), lines("signalled "));
        assert_eq!((calls.len(), signalled.len()), (8, 3), "{}", ended.stdout);
        calls.into_iter().for_each(assert_not_interrupted);
        for line in signalled {
            let words: Vec<&str> = line.split(' ').collect();
            let ["signalled", _, sent, "interrupted", interrupted, rest @ ..] = &words[..] else {
                panic!("not as the fixture prints it: {line}");
            };
            assert_eq!(sent, interrupted, "{line}");
            assert_eq!(rest, ["not_ended", "0", "eintr_without", "0"], "{line}");
        }
    }
}

/// `line` says how often a call returned, and how often because it was interrupted.
fn assert_not_interrupted(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let ["calls", kind, calls, "eintr", interrupted] = words[..] else {
        panic!("not as the fixture prints it: {line}");
    };
    let calls: u64 = calls.parse().expect("a number");
    assert!(calls > 50, "{kind} came to {calls} calls only");
    assert_eq!(interrupted, "0", "{line}");
}

#[test]
fn sleepers_are_read_and_never_stopped() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    target.until_all_threads_sleep();
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-r", "499", "-d", "1"])
        .expect_code(0);
    let report = sampler.report();
    let summary = &report.summary;
    assert_eq!(summary.stops, 0, "{summary:?}");
    assert_eq!(summary.target_stopped_ns, 0, "{summary:?}");
    // 29 threads and the main one, each read at least once; after that it is known that they sleep on.
    assert!(summary.unstopped_reads >= 30, "{summary:?}");
    assert!(summary.reused > summary.unstopped_reads, "{summary:?}");
    report.expect_complete();
    // Wall time is told for each of them.
    for function in [
        "by_mutex",
        "by_read_pipe",
        "by_epoll_wait",
        "by_nanosleep",
        "by_accept",
        "by_wait4",
    ] {
        let wall_ns: u64 = report
            .stacks
            .iter()
            .filter(|stack| stack.functions().contains(&function))
            .map(|stack| stack.weights.off_cpu_ns)
            .sum();
        assert!(
            wall_ns > 500_000_000,
            "{function}: {wall_ns} ns\n{}",
            report.heaviest()
        );
    }
    let blocked = |call: &str| {
        let leaf = format!("[{call}");
        report.stacks.iter().any(|stack| {
            stack
                .frames
                .last()
                .is_some_and(|frame| frame.function.starts_with(&leaf) && frame.kind == "blocked")
        })
    };
    for call in [
        "futex",
        "read",
        "poll",
        "epoll_wait",
        "accept",
        "wait4",
        "sem",
    ] {
        assert!(
            blocked(call),
            "no stack is blocked in {call}:\n{}",
            report.heaviest()
        );
    }
    let ended = target.wait();
    assert_eq!(ended.number_after("came_back"), 0);
}

#[test]
fn signals_are_all_delivered() {
    let sampler = sampler!();
    let target = Target::start("rt_signals", &[]);
    let stops = sampler.record_often(&target, "2").summary.stops;
    assert!(stops > 50, "{stops} stops only");
    let ended = target.wait();
    assert!(ended.number_after("sent") > 100, "{}", ended.stdout);
    assert_eq!(ended.number_after("sent"), ended.number_after("received"));
    assert_eq!(
        ended.number_after("plain_sent"),
        ended.number_after("plain_received")
    );
    assert_eq!(
        ended.number_after("payload_sent"),
        ended.number_after("payload_received")
    );
}

/// As much memory as this machine can spare, up to 4 GB: in megabytes.
fn much_memory() -> u64 {
    const MOST: u64 = 4096;
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("/proc is there");
    let available = meminfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .split_whitespace()
                .next()
        })
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
        .expect("the kernel says how much memory is available");
    (available / 1024 / 3).min(MOST)
}

#[test]
fn a_big_process_gets_its_forks_done() {
    let sampler = sampler!();
    let target = Target::start("forks", &[&much_memory().to_string()]);
    let report = sampler.record_often(&target, "8");
    target.assert_free();
    let ended = target.wait();
    // A fork takes some dozen milliseconds, and as many ticks come meanwhile: an interrupted one would start anew.
    assert!(ended.number_after("forks") >= 10, "{}", ended.stdout);
    assert!(report.summary.stops > 0, "{:?}", report.summary);
}

#[test]
fn stopping_and_continuing_goes_on_meanwhile() {
    const ROUNDS: u64 = 100;
    let sampler = sampler!();
    let target = Target::start("stopped", &[]);
    let mut arguments = vec!["-d", "60"];
    arguments.extend(OFTEN);
    let running = sampler.attach(target.pid(), &arguments);
    for _ in 0..ROUNDS {
        target.until_it_ran();
        // While a sample is taken as well as between two.
        target.signal(Signal::SIGSTOP);
        target.until_status("State", |state| state.starts_with('T'));
        target.signal(Signal::SIGCONT);
        target.until_status("State", |state| !state.starts_with('T'));
    }
    running.interrupt().expect_code(0);
    target.assert_free();
    let continued = target.end().number_after("continued");
    assert!((1..=ROUNDS).contains(&continued), "{continued}");
}

#[test]
fn a_late_sampler_lets_the_target_run() {
    // Far more often than anybody can stop a thread: ticks are left out, and the target still gets its work done.
    let sampler = sampler!();
    let mut target = Target::start("shares", &["1000", "wait"]);
    let running = sampler.attach(target.pid(), &["-r", "10000"]);
    target.tell("\n");
    let ended = target.wait();
    let done = running.wait();
    done.expect_code(0);
    assert!(
        ended.rusage() < Duration::from_secs(2),
        "{:?}",
        ended.rusage()
    );
    sampler.report().expect_complete();
}
