//! What the kernel does not give is done without: the same profile comes out, or as much of it as can be had, and the
//! summary says so.

use std::process::Command;
use std::time::Duration;

use sampler_tests_support::{
    Dump, Report, Running, Sampler, Signal, Target, fixture, need, sampler,
};

/// What a kernel of 2013 (3.10) has not, of what a program of today asks for at its start.
const OF_LATER_KERNELS: &[&str] = &[
    "statx=ENOSYS",
    "getrandom=ENOSYS",
    "clone3=ENOSYS",
    "pidfd_open=ENOSYS",
    "memfd_create=ENOSYS",
    "close_range=ENOSYS",
    "copy_file_range=ENOSYS",
    "faccessat2=ENOSYS",
    "openat2=ENOSYS",
    "rseq=ENOSYS",
    "renameat2=ENOSYS",
    "sched_setattr=ENOSYS",
];

/// Everything that there is something in the place of, at once.
const NEARLY_EVERYTHING: &[&str] = &[
    "seize=EIO",
    "process_vm_readv=ENOSYS",
    "timer_create=ENOSYS",
    "/schedstat=ENOENT",
    "/syscall=ENOENT",
];

/// What stands for the machine code of a running thread that was not stopped.
const MARK: &str = "[running, not stopped]";

/// `sampler`, which has to do without what `rules` say.
fn command_without(sampler: &Sampler, rules: &[&str], arguments: &[&str]) -> Command {
    let inner = sampler.command(arguments);
    let mut command = Command::new(fixture("without"));
    command.args(rules).arg("--").arg(inner.get_program());
    command.args(inner.get_args());
    sampler.prepare(&mut command);
    command
}

#[track_caller]
fn start_without(sampler: &Sampler, rules: &[&str], arguments: &[&str]) -> Running {
    sampler.start_command(&mut command_without(sampler, rules, arguments))
}

/// The profile of a running target, recorded for so long.
#[track_caller]
fn record_without(sampler: &Sampler, rules: &[&str], target: &Target, more: &[&str]) -> Report {
    let pid = target.pid_text();
    let arguments = [&["record", "-p", &pid, "-r", "499"], more].concat();
    start_without(sampler, rules, &arguments)
        .wait()
        .expect_code(0);
    sampler.report()
}

/// Records `shares`, and expects what comes out with everything there.
#[track_caller]
fn expect_the_same(rules: &[&str], fallbacks: &[&str]) {
    let sampler = sampler!();
    let shares = fixture("shares");
    let shares = shares.to_str().expect("our paths are text");
    let arguments = ["record", "-r", "499", "--", shares, "500"];
    let done = start_without(&sampler, rules, &arguments).wait();
    done.expect_code(0);
    let report = sampler.report();
    assert_eq!(report.summary.fallbacks, fallbacks, "{}", done.stderr);
    let said = done
        .stderr
        .lines()
        .filter(|line| line.starts_with("instead"));
    assert_eq!(said.count(), fallbacks.len(), "{}", done.stderr);
    // The launcher, which answers for the kernel, is in the recording too.
    let answering = report.cpu_ns(|stack| stack.has("answer_until_nobody_asks"));
    let truth = Duration::from_micros(done.number_after("rusage_us"));
    report
        .expect_complete()
        .expect_cpu(truth + Duration::from_nanos(answering));
    let of_three = |name: &str| report.share_of(name);
    let all = of_three("burns_sixty") + of_three("burns_thirty") + of_three("burns_ten");
    // A clock that is read by a system call takes the rest.
    report.expect_share("all three", all, 0.2);
    report.expect_share("burns_sixty", of_three("burns_sixty") / all, 0.45);
}

#[test]
fn an_old_kernel_gives_all_that_is_needed() {
    expect_the_same(OF_LATER_KERNELS, &[]);
}

#[test]
fn without_process_vm_readv() {
    expect_the_same(&["process_vm_readv=ENOSYS"], &["memory_by_file"]);
    expect_the_same(&["process_vm_readv=EPERM"], &["memory_by_file"]);
}

#[test]
fn without_any_way_to_read_memory_but_ptrace() {
    expect_the_same(
        &["process_vm_readv=EPERM", "/mem=EACCES"],
        &["memory_by_words", "sleepers_stopped"],
    );
}

#[test]
fn without_seize() {
    expect_the_same(&["seize=EIO"], &["stops_by_signal"]);
}

#[test]
fn without_schedstat() {
    expect_the_same(&["/schedstat=ENOENT"], &["cpu_by_ticks"]);
}

#[test]
fn without_the_syscall_file() {
    expect_the_same(&["/syscall=ENOENT"], &["sleepers_stopped"]);
}

#[test]
fn without_timers() {
    expect_the_same(&["timer_create=ENOSYS"], &["stops_polled"]);
}

#[test]
fn without_nearly_everything() {
    let fallbacks = [
        "memory_by_file",
        "stops_by_signal",
        "sleepers_stopped",
        "cpu_by_ticks",
        "stops_polled",
    ];
    expect_the_same(NEARLY_EVERYTHING, &fallbacks);
}

/// Sleepers that have to be stopped to be seen are stopped once, whole, and sleep on.
#[test]
fn hidden_sleepers_are_stopped_once() {
    for rules in [&["/syscall=ENOENT"], NEARLY_EVERYTHING] {
        let sampler = sampler!();
        let mut target = Target::start("sleepers", &[]);
        target.until_all_threads_sleep();
        let report = record_without(&sampler, rules, &target, &["-d", "3"]);
        let summary = &report.summary;
        report.expect_complete();
        // Some 45,000 looks at 30 threads. A sleeper has to run to stop: on a busy machine one look is not enough.
        assert!(summary.stops >= 30 && summary.stops < 1000, "{summary:?}");
        assert!(summary.reused > 10 * summary.stops, "{summary:?}");
        for function in ["by_mutex", "by_epoll_wait", "by_nanosleep", "by_wait4"] {
            let is_there = report.stacks.iter().any(|stack| stack.has(function));
            assert!(is_there, "{function}: {summary:?}\n{}", report.heaviest());
        }
        target.assert_free();
        target.tell("\n");
        // A write that has written a part returns when its thread is stopped: nobody can undo that.
        assert!(target.wait().number_after("came_back") <= 1);
    }
}

#[test]
fn calls_of_hidden_sleepers_are_not_interrupted() {
    let sampler = sampler!();
    let target = Target::start("epoll_eintr", &[]);
    let report = record_without(&sampler, NEARLY_EVERYTHING, &target, &["-d", "2"]);
    assert!(report.repaired_syscalls > 0, "{:?}", report.summary);
    target.assert_free();
    let ended = target.wait();
    let calls = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("calls "));
    assert_eq!(calls.clone().count(), 8, "{}", ended.stdout);
    for line in calls {
        assert!(line.ends_with(" eintr 0"), "{line}");
    }
}

#[test]
fn signals_are_all_delivered_where_stops_are_signals() {
    let sampler = sampler!();
    let target = Target::start("rt_signals", &[]);
    record_without(&sampler, &["seize=EIO"], &target, &["-d", "1"]);
    target.assert_free();
    let ended = target.wait();
    for kind in ["", "plain_", "payload_"] {
        let [sent, received] = ["sent", "received"].map(|what| format!("{kind}{what}"));
        let received = ended.number_after(&received);
        assert_eq!(ended.number_after(&sent), received, "{}", ended.stdout);
    }
}

#[test]
fn stopping_and_continuing_goes_on_where_stops_are_signals() {
    let sampler = sampler!();
    let target = Target::start("stopped", &[]);
    let pid = target.pid_text();
    let arguments = ["record", "-p", &pid, "-r", "1000", "-d", "60"];
    let running = start_without(&sampler, &["seize=EIO"], &arguments);
    running.until_recording();
    for _ in 0..50 {
        target.until_it_ran();
        target.signal(Signal::SIGSTOP);
        target.until_status("State", |state| state.starts_with('T'));
        target.signal(Signal::SIGCONT);
        target.until_status("State", |state| !state.starts_with('T'));
    }
    running.interrupt().expect_code(0);
    target.assert_free();
    target.until_it_ran();
}

/// A thread with Python code on its stack that runs, and one that sleeps.
const PYTHON: &str = "
import threading, time
def sleeps_inside(): time.sleep(1000)
def sleeps(): sleeps_inside()
threading.Thread(target=sleeps, daemon=True).start()
def runs_inside():
    x = 0
    while True: x = (x * 31 + 7) % 1000003
def runs(): runs_inside()
print('ready', flush=True)
runs()
";

fn start_python() -> Target {
    let mut target = Target::spawn(Command::new(need("python3")).args(["-c", PYTHON]));
    target.until_ready();
    target
}

/// All that can be seen of [`PYTHON`] without stopping anything.
#[track_caller]
fn expect_unstopped(report: &Report) {
    let summary = &report.summary;
    assert_eq!(summary.stops, 0, "{summary:?}");
    assert!(
        summary.fallbacks.iter().any(|word| word == "no_stops"),
        "{summary:?}"
    );
    let marked = report.cpu_share(|stack| stack.has("runs_inside") && stack.has(MARK));
    report.expect_share("running Python, marked", marked, 0.8);
    let sleeper = report
        .stacks
        .iter()
        .find(|stack| stack.has("sleeps_inside"));
    let sleeper = sleeper.unwrap_or_else(|| panic!("no sleeper:\n{}", report.heaviest()));
    assert_eq!(sleeper.end, "complete");
    let waits = sleeper.frames.iter().any(|frame| frame.kind == "blocked");
    assert!(waits, "{sleeper:?}");
}

#[test]
fn without_ptrace_sleepers_and_python_are_seen() {
    let target = start_python();
    for rules in [
        &["ptrace=EPERM"][..],
        &["ptrace=ENOSYS", "process_vm_readv=EPERM"],
    ] {
        let sampler = sampler!();
        let report = record_without(&sampler, rules, &target, &["-d", "1"]);
        expect_unstopped(&report);
    }
    target.assert_free();
}

#[test]
fn no_stop_stops_nothing() {
    let sampler = sampler!();
    let target = start_python();
    let report = record_without(&sampler, &[], &target, &["-d", "1", "--no-stop"]);
    expect_unstopped(&report);
}

#[test]
fn a_dump_without_ptrace_shows_what_it_can() {
    let sampler = sampler!();
    let target = start_python();
    let pid = target.pid_text();
    let done = start_without(&sampler, &["ptrace=EPERM"], &["dump", "--json", "-p", &pid]).wait();
    let dump = Dump::parse(&done);
    for wanted in ["sleeps_inside", MARK] {
        let mut frames = dump.groups.iter().flat_map(|group| &group.frames);
        let is_there = frames.any(|frame| frame.function.starts_with(wanted));
        assert!(is_there, "{wanted}: {dump:?}");
    }
}

/// Where nothing may be read either, what everybody may know is recorded, and why there is no more of it is said.
#[test]
fn without_ptrace_and_memory_states_and_cpu_time_are_known() {
    let sampler = sampler!();
    let mut target = Target::start("shares", &["600", "wait"]);
    let pid = target.pid_text();
    let rules = [
        "ptrace=EPERM",
        "process_vm_readv=EPERM",
        "/mem=EACCES",
        "/syscall=EACCES",
    ];
    let running = start_without(&sampler, &rules, &["record", "-p", &pid, "-r", "499"]);
    running.until_recording();
    target.tell("\n");
    let (ended, done) = target.wait_recorded(running);
    done.expect_code(0);
    assert!(done.stderr.contains("seccomp"), "{}", done.stderr);
    let report = sampler.report();
    assert_eq!(report.summary.fallbacks, ["states_only"]);
    report.expect_cpu(ended.cpu);
    report.expect_share("running", report.share_below(MARK), 0.9);
}

#[test]
fn a_stopped_process_remains_so_where_stops_are_signals() {
    let sampler = sampler!();
    let target = Target::start("stopped", &[]);
    target.signal(Signal::SIGSTOP);
    target.until_all_threads("T");
    let report = record_without(&sampler, NEARLY_EVERYTHING, &target, &["-d", "300ms"]);
    let stopped = report.stacks.iter().any(|stack| stack.has("[stopped]"));
    assert!(stopped, "{}", report.heaviest());
    target.until_all_threads("T");
    target.signal(Signal::SIGCONT);
    target.until_it_ran();
}
