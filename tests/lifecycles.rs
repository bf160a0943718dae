//! Processes that change under our hands: children by vfork, programs executed, threads that come and go by the
//! thousand, a main thread that ends first, sleeps that nothing can interrupt.

use std::time::Duration;

use sampler_tests_support::{Target, fixture, sampler};

/// Far more often than anybody needs, so that whatever can happen at a bad moment happens.
const OFTEN: &[&str] = &["-r", "1000"];

#[test]
fn vfork_and_exec_go_on() {
    let sampler = sampler!();
    let mut target = Target::start("vforks", &[]);
    let report = sampler.record_often(&target, "3");
    target.assert_free();
    target.tell("\n");
    target.until_line(|line| line == "holding");
    let ended = target.wait();
    // Left alone it makes some thousand of them a second.
    assert!(ended.number_after("executed") > 300, "{}", ended.stdout);
    assert!(ended.number_after("waited") > 100, "{}", ended.stdout);
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
    // It waits for its children off the CPU.
    let waiting: u64 = report
        .stacks
        .iter()
        .filter(|stack| stack.has("waits"))
        .map(|stack| stack.weights.off_cpu_ns)
        .sum();
    assert!(waiting > 1_000_000_000, "{}", report.heaviest());
    report.expect_share("the busy thread", report.share_of("busy"), 0.2);
}

#[test]
fn a_sleep_that_cannot_be_interrupted_holds_nobody_up() {
    let sampler = sampler!();
    let mut target = Target::start("vforks", &[]);
    let running = sampler.attach(target.pid(), OFTEN);
    running.until_first_sample();
    target.tell("\n");
    target.until_line(|line| line == "holding");
    let uninterruptible = || {
        let threads = target.threads().into_iter();
        let mut states = threads.filter_map(|tid| target.status(tid, "State"));
        states.any(|state| state.starts_with('D'))
    };
    // Whoever of them is left in D now stays so for good.
    target.until("a thread asleep for good", uninterruptible);
    target.until_it_ran();
    target.until_it_ran();
    // It ends in its own time all the same, and lets go what it had asked to stop.
    running.interrupt().expect_code(0);
    target.assert_free();
    let report = sampler.report();
    report.expect_share("the busy thread", report.share_of("busy"), 0.2);
    let ended = target.wait();
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
}

#[test]
fn an_exec_in_a_thread_is_followed() {
    // It takes the first thread's place: the kernel's accounts of that one are from then on its own.
    for (others, before) in [("busy", "ends_with_exec"), ("asleep", "executes")] {
        let sampler = sampler!();
        let shares = fixture("shares");
        let shares = shares.to_str().expect("our paths are text");
        let program = fixture("exec_in_thread");
        let program = program.to_str().expect("our paths are text");
        let mut arguments = vec!["record"];
        arguments.extend(OFTEN);
        arguments.extend(["--", program, "600", others, shares, "1600"]);
        let done = sampler.run(&arguments);
        done.expect_code(0);
        assert!(done.text().contains("share burns_sixty"), "{}", done.text());
        let report = sampler.report();
        report.expect_cpu(Duration::from_micros(done.number_after("rusage_us")));
        report.expect_share("before", report.share_of(before), 0.15);
        report.expect_share("after", report.share_of("burns_sixty"), 0.15);
    }
}

#[test]
fn execs_in_threads_are_survived_whenever_they_happen() {
    // Each exec comes at another moment of a tick, and all threads end at that moment.
    for step_ms in 2..8 {
        let sampler = sampler!();
        let exits = fixture("exits");
        let exits = exits.to_str().expect("our paths are text");
        let program = fixture("exec_in_thread");
        let program = program.to_str().expect("our paths are text");
        let moments: Vec<String> = (1..=100).map(|exec| (exec * step_ms).to_string()).collect();
        let mut arguments = vec!["record"];
        arguments.extend(OFTEN);
        arguments.push("--");
        for cpu_ms in &moments {
            arguments.extend([program, cpu_ms, "busy"]);
        }
        arguments.extend([exits, "1", "status", "3"]);
        sampler.run(&arguments).expect_code(3);
    }
}

#[test]
fn a_main_thread_may_end_first() {
    let sampler = sampler!();
    let mut target = Target::start("main_exits", &[]);
    let running = sampler.attach(target.pid(), OFTEN);
    running.until_first_sample();
    target.tell("\n");
    target.until_status("State", |state| state.starts_with('Z'));
    let cpu = target.cpu();
    while target.cpu() < cpu + Duration::from_secs(1) {
        target.until_it_ran();
    }
    running.interrupt().expect_code(0);
    let report = sampler.report();
    let burnt = report.share_of("burns_after_main");
    report.expect_complete();
    report.expect_share("the thread that runs on", burnt, 0.9);

    // And when it has ended before anybody looks.
    let report = sampler.record_often(&target, "1");
    let burnt = report.share_of("burns_after_main");
    report.expect_complete();
    report.expect_share("the thread that runs on", burnt, 0.9);
    let sleeps = report
        .stacks
        .iter()
        .any(|stack| stack.has("sleeps_after_main") && stack.weights.off_cpu_ns > 0);
    assert!(sleeps, "{}", report.heaviest());
    let ended = target.end();
    assert!(ended.status.success(), "{}", ended.status);
}

#[test]
fn a_thousand_threads_a_second_come_and_go() {
    let sampler = sampler!();
    let mut target = Target::start("thread_storm", &["4000"]);
    let running = sampler.attach(target.pid(), OFTEN);
    running.until_first_sample();
    target.tell("\n");
    let ended = target.wait();
    running.wait().expect_code(0);
    // A thread that is traced when it ends stays listed until its tracer has let it go.
    assert_eq!(ended.number_after("left"), 0, "{}", ended.stdout);
    assert_eq!(ended.number_after("made"), 4000, "{}", ended.stdout);
    assert_eq!(ended.number_after("ended"), 4000, "{}", ended.stdout);
    assert_eq!(ended.number_after("failed"), 0, "{}", ended.stdout);
    let report = sampler.report();
    let recorded = Duration::from_nanos(report.summary.cpu_ns);
    let used = ended.rusage();
    assert!(recorded > used.mul_f64(0.9), "{recorded:?} of {used:?}");
}
