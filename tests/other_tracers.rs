//! A target that strace, gdb or another `sampler` traces as well: it is theirs while they hold it, which is said, and
//! sampled again when they let it go.

use std::process::{Command, Stdio};
use std::time::Duration;

use sampler_tests_support::{Report, Running, Sampler, Target, need, sampler};

const OFTEN: &[&str] = &["-r", "1000"];

/// Starts a recording, lets `meanwhile` happen and says what came of it.
#[track_caller]
fn record_while(
    sampler: &Sampler,
    target: &Target,
    meanwhile: impl FnOnce(&mut Running),
) -> (Report, String) {
    let mut running = sampler.attach(target.pid(), OFTEN);
    running.until_first_sample();
    meanwhile(&mut running);
    target.until_it_ran();
    let done = running.interrupt();
    done.expect_code(0);
    (sampler.report(), done.stderr)
}

/// How often the attach of a tracer is tried. One that comes while we hold a thread is refused.
const TRIES: usize = 100;

/// Starts a tracer that attaches to `target`, again if it met a stop of ours.
#[track_caller]
fn attach_tracer(target: &Target, start: impl Fn() -> Command) -> Target {
    let is_of =
        |tracer: &Target| target.status(target.pid(), "TracerPid") == Some(tracer.pid_text());
    for _ in 0..TRIES {
        let tracer = Target::spawn(start().stderr(Stdio::null()));
        while !tracer.has_ended() {
            if is_of(&tracer) {
                return tracer;
            }
        }
    }
    panic!("no tracer came to its turn");
}

fn strace(target: &Target) -> Command {
    let mut command = Command::new(need("strace"));
    command.args(["-f", "-p", &target.pid_text(), "-o", "/dev/null"]);
    command
}

#[test]
fn strace_may_come_and_go_meanwhile() {
    let sampler = sampler!();
    // strace by itself loses a signal now and then (7 of 96 times that it came and went, without a sampler).
    let target = Target::start("sixteen", &["without signals"]);
    let (report, said) = record_while(&sampler, &target, |_| {
        let tracer = attach_tracer(&target, || strace(&target));
        let cpu = target.cpu();
        while target.cpu() < cpu + Duration::from_millis(300) {
            target.until_it_ran();
        }
        tracer.end();
    });
    target.assert_free();
    let traced = report.summary.missed.get("traced").copied();
    assert!(traced > Some(10), "{:?}", report.summary.missed);
    assert!(said.contains("held by another tracer"), "{said}");
    assert!(report.summary.stops > 10, "{:?}", report.summary);
    let ended = target.wait();
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
    assert_eq!(ended.number_after("sent"), ended.number_after("received"));
}

#[test]
fn gdb_may_hold_everything_meanwhile() {
    let sampler = sampler!();
    let target = Target::start("sixteen", &[]);
    let mut used = 0;
    let (report, _) = record_while(&sampler, &target, |running| {
        let before = target.most_cpu_of_a_thread();
        let mut gdb = attach_tracer(&target, || {
            let mut command = Command::new(need("gdb"));
            command.args(["-nx", "-q", "-batch", "-iex", "set debuginfod enabled off"]);
            command.args([
                "-p",
                &target.pid_text(),
                "-ex",
                "echo held\\n",
                "-ex",
                "shell read line",
            ]);
            command
        });
        gdb.until_line(|line| line == "held");
        target.until("all threads to stand", || {
            let threads = target.threads().into_iter();
            let mut states = threads.filter_map(|tid| target.status(tid, "State"));
            states.all(|state| state.starts_with('t'))
        });
        let cpu = target.cpu();
        // Some hundred ticks, at which nothing of it may run.
        assert!(running.runs_for(Duration::from_millis(300)));
        assert_eq!(target.cpu(), cpu, "what gdb holds has run");
        gdb.tell("\n");
        gdb.wait();
        target.until_it_ran();
        used = target.most_cpu_of_a_thread() - before;
    });
    target.assert_free();
    // Of the thread that is always at work, as the kernel accounts it: its share depends on who else wants the CPUs.
    let at_work = report.cpu_ns(|stack| stack.has("busy") && stack.has("works"));
    assert!(
        used > 0 && at_work as f64 >= 0.9 * used as f64,
        "{at_work} of {used} ns; the profile:\n{}",
        report.heaviest()
    );
    let ended = target.wait();
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
    assert_eq!(ended.number_after("sent"), ended.number_after("received"));
}

#[test]
fn two_samplers_may_share_a_target() {
    let target = Target::start("sixteen", &[]);
    let (first, second) = (sampler!(), sampler!());
    let (of_first, _) = record_while(&first, &target, |_| {
        let (of_second, _) = record_while(&second, &target, |_| {
            let cpu = target.cpu();
            while target.cpu() < cpu + Duration::from_secs(1) {
                target.until_it_ran();
            }
        });
        of_second.expect_share("its work", of_second.share_below("works"), 0.3);
        assert!(
            !of_second.summary.missed.contains_key("denied"),
            "{:?}",
            of_second.summary
        );
    });
    of_first.expect_share("its work", of_first.share_below("works"), 0.3);
    assert!(
        !of_first.summary.missed.contains_key("denied"),
        "{:?}",
        of_first.summary
    );
    target.assert_free();
    let ended = target.wait();
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
    assert_eq!(ended.number_after("sent"), ended.number_after("received"));
}
