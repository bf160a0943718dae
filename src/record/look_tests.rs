//! What a look does to threads that are not as they were a moment ago: those that fell asleep, interruptibly or not,
//! between being found running and being stopped.

use sampler_platforms::Pid;
use sampler_platforms::linux::clock;
use sampler_tests_support::Target;
use sampler_unwind::interpreter::Languages;

use super::super::images::Images;
use super::super::process::{Baseline, ProcessSettings, TargetProcess};
use super::*;
use crate::profile::ProfileBuilder;

const STACK_BYTES_MAX: usize = 64 << 10;

/// A fixture as the recorder holds it.
fn process_of(target: &Target) -> TargetProcess {
    let sink = &mut ProfileBuilder::new();
    let now_ns = clock::monotonic_ns();
    let mut process = TargetProcess::new(
        Pid(target.pid()),
        None,
        Baseline::Now,
        ProcessSettings {
            stack_bytes_max: STACK_BYTES_MAX,
            max_overhead: None,
            languages: Languages::NONE,
            may_stop: true,
        },
        sink,
    )
    .unwrap();
    process.find_threads(now_ns, Baseline::Now, sink).unwrap();
    process
        .refresh_mappings(&mut Images::default(), sink)
        .unwrap();
    process
}

/// Looks at every thread that sleeps as if it had been found running: so does one that falls asleep under our hands.
/// Calls `asleep` with what came of it.
fn stop_sleepers(
    process: &mut TargetProcess,
    looker: &mut Looker,
    costs: &mut Costs,
    mut asleep: impl FnMut(Result<Seen, Unseen>),
) {
    let (view, interpreters, threads) = process.split();
    for thread in threads {
        let Ok(SyscallState::Blocked { .. }) = thread.files.syscall() else {
            continue;
        };
        if is_late(thread, 0, costs) {
            continue;
        }
        let sched = thread.files.sched_stat().unwrap();
        looker.wake();
        asleep(looker.look_at_running(view, interpreters, thread, sched, costs));
    }
}

#[test]
fn who_falls_asleep_under_our_hands_sees_no_eintr() {
    const ROUNDS: usize = 100;
    let target = Target::start("epoll_eintr", &[]);
    let mut process = process_of(&target);
    let mut looker = Looker::new(
        STACK_BYTES_MAX,
        PAUSE_MAX_DEFAULT,
        Duration::from_millis(200),
    );
    let mut costs = Costs::default();
    let mut blocked = 0;
    for _ in 0..ROUNDS {
        stop_sleepers(&mut process, &mut looker, &mut costs, |seen| {
            let is_asleep = |seen: &Seen| matches!(seen.kernel, Some(FrameKey::Blocked(_)));
            blocked += usize::from(seen.as_ref().is_ok_and(is_asleep));
        });
    }
    assert!(blocked > ROUNDS, "{blocked} sleepers stopped");
    let repaired = costs.summary(1, 1.0, Default::default()).repaired_syscalls;
    assert!(repaired > ROUNDS as u64, "{repaired} of {blocked} repaired");
    target.assert_free();
    let ended = target.wait();
    let lines = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("calls "));
    let interrupted: Vec<&str> = lines.filter(|line| !line.ends_with(" eintr 0")).collect();
    assert!(interrupted.is_empty(), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("calls io_getevents"),
        "{}",
        ended.stdout
    );
}

#[test]
fn who_falls_asleep_uninterruptibly_is_not_waited_for() {
    let mut target = Target::start("vforks", &[]);
    target.tell("\n");
    target.until_line(|line| line == "holding");
    let mut process = process_of(&target);
    let mut looker = Looker::new(STACK_BYTES_MAX, PAUSE_MAX_DEFAULT, Duration::from_millis(2));
    let mut costs = Costs::default();
    // It sleeps so until it is told otherwise; the others now and then.
    let is_held = |process: &mut TargetProcess| {
        let threads = process.split().2.iter_mut();
        threads
            .map(|thread| thread.lateness(0, 0))
            .any(|lateness| lateness == Lateness::Waiting)
    };
    while !is_held(&mut process) {
        stop_sleepers(&mut process, &mut looker, &mut costs, |_| {});
    }
    // Whoever waits for it would wait for ever; the others are looked at all the same.
    let mut running = 0;
    while running < 100 {
        let (view, interpreters, threads) = process.split();
        for thread in threads {
            let Ok(sched) = thread.files.sched_stat() else {
                continue;
            };
            looker.wake();
            if !is_late(thread, 0, &mut costs)
                && let Ok(seen) = looker.look(view, interpreters, thread, sched, &mut costs)
            {
                running += usize::from(seen.state == ThreadState::Running);
            }
        }
    }
    drop(process);
    target.tell("\n");
    while linux::release_strays() {
        std::thread::yield_now();
    }
    // All of its threads must run to their ends.
    let ended = target.wait();
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
}
