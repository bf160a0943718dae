//! What a target must not notice: interrupted calls, lost signals, wakened sleepers, forks that never get done.

use std::time::Duration;

use sampler_tests_support::{Target, sampler};

#[test]
fn no_call_is_interrupted() {
    let sampler = sampler!();
    let target = Target::start("epoll_eintr", &[]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-r", "999", "-d", "3"])
        .expect_code(0);
    target.assert_free();
    let ended = target.wait();
    let lines: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("calls "))
        .collect();
    assert_eq!(lines.len(), 8, "{}", ended.stdout);
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let ["calls", kind, calls, "eintr", interrupted] = words[..] else {
            panic!("not as the fixture prints it: {line}");
        };
        let calls: u64 = calls.parse().expect("a number");
        assert!(calls > 50, "{kind} came to {calls} calls only");
        assert_eq!(interrupted, "0", "{line}");
    }
}

#[test]
fn sleepers_are_read_and_never_stopped() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
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
        let leaf = format!("[blocked: {call}");
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
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-r", "999", "-d", "2"])
        .expect_code(0);
    let stops = sampler.report().summary.stops;
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

#[test]
fn a_big_process_gets_its_forks_done() {
    let sampler = sampler!();
    let target = Target::start("forks", &["256"]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-r", "999", "-d", "2"])
        .expect_code(0);
    target.assert_free();
    let ended = target.wait();
    assert!(ended.number_after("forks") >= 10, "{}", ended.stdout);
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
