//! Runs the oracle over fixtures and over stretches of distribution programs, and holds the shares to their goal.
//!
//! Steps are counted, not timed: a busy machine changes nothing.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Command, Stdio};

use nix::unistd::Pid;
use sampler_tests_support::{Watchdog, fixture, need};
use serde_json::Value;

/// The figures of all walks of one kind.
#[derive(Debug)]
struct Shares {
    compared: u64,
    exact: u64,
    guessed: u64,
    wrong: u64,
    addresses: u64,
    addresses_missed: u64,
    /// Where walks went wrong, as `file function+offset (address)`.
    faults: Vec<String>,
}

impl Shares {
    fn of(summary: &Value, kind: &str) -> Self {
        let summary = &summary[kind];
        let figure = |name: &str| {
            let figure = &summary["all"][name];
            figure
                .as_u64()
                .unwrap_or_else(|| panic!("{kind} {name}: {figure}"))
        };
        let faults = summary["faults"].as_array().expect("a list of faults");
        Self {
            compared: figure("compared"),
            exact: figure("exact"),
            guessed: figure("guessed"),
            wrong: figure("wrong"),
            addresses: figure("addresses"),
            addresses_missed: figure("addresses_missed"),
            faults: faults
                .iter()
                .map(|fault| fault["at"].as_str().expect("a place").to_owned())
                .collect(),
        }
    }

    /// At least 99.99 % of instructions and 99.9 % of distinct addresses, and no frame that is wrong.
    fn meet_the_goal(&self) -> bool {
        (self.compared - self.exact) * 10_000 <= self.compared
            && self.addresses_missed * 1000 <= self.addresses
            && self.wrong + self.guessed == 0
    }
}

/// Runs the oracle with `options` over `command`; gives the figures of running and of sleeping looks.
#[track_caller]
fn oracle(options: &[&str], command: &[&OsStr]) -> (Shares, Shares) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_oracle"))
        .arg("--json")
        .args(options)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the oracle starts");
    let watchdog = Watchdog::watch(Pid::from_raw(child.id().cast_signed()));
    let mut text = String::new();
    let mut out = child.stdout.take().expect("its output is ours");
    out.read_to_string(&mut text).expect("JSON is UTF-8");
    drop(watchdog);
    let status = child.wait().expect("the oracle is our child");
    assert!(status.success(), "the oracle ended with {status}");
    let summary: Value = serde_json::from_str(&text).expect("--json writes JSON");
    (
        Shares::of(&summary, "running"),
        Shares::of(&summary, "asleep"),
    )
}

/// Compares at no fewer than `compared` instructions; nearly all stacks are exact, and of sleepers' stacks none is wrong.
#[track_caller]
fn check(options: &[&str], command: &[&OsStr], compared: u64) {
    let (running, asleep) = oracle(options, command);
    assert!(running.compared >= compared, "{running:?}");
    assert!(running.meet_the_goal(), "{running:?}");
    assert_eq!(asleep.wrong + asleep.guessed, 0, "{asleep:?}");
}

/// The program itself, without the dynamic loader, up to its end or to so many instructions.
#[track_caller]
fn check_fixture(name: &str, arguments: &[&str], compared: u64) {
    let program = fixture(name);
    let arguments = arguments.iter().map(OsStr::new);
    let command: Vec<&OsStr> = [program.as_os_str()].into_iter().chain(arguments).collect();
    let steps = compared.to_string();
    check(&["--from-entry", "--steps", &steps], &command, compared);
}

/// A program's whole life, from the dynamic loader's first instruction on.
#[test]
fn true_from_its_first_instruction_to_its_last() {
    check(&[], &[need("true").as_os_str()], 50_000);
}

#[test]
fn xz_for_a_stretch() {
    let (xz, options) = (need("xz"), ["-c", "-0", "/proc/self/exe"].map(OsStr::new));
    let command: Vec<&OsStr> = [xz.as_os_str()].into_iter().chain(options).collect();
    check(&["--from-entry", "--steps", "40000"], &command, 40_000);
}

#[test]
fn python_for_a_stretch() {
    let (python, options) = (need("python3"), ["-S", "-c", "pass"].map(OsStr::new));
    let command: Vec<&OsStr> = [python.as_os_str()].into_iter().chain(options).collect();
    check(&["--from-entry", "--steps", "40000"], &command, 40_000);
}

#[test]
fn a_program_without_a_loader() {
    check_fixture("static", &["20"], 10_000);
    check_fixture("static_pie", &["20"], 10_000);
    check_fixture("musl_static", &["20"], 2_000);
}

#[test]
fn realigned_stacks_and_lazy_binding() {
    check_fixture("realign", &["20"], 5_000);
    check_fixture("plt", &["20"], 5_000);
    check_fixture("recursion", &["20"], 20_000);
}

/// Where a longjmp or a change of context is under way, what the tables tell and what the shadow says are two ways to
/// see it (docs/unwinding.md).
#[test]
fn functions_left_in_every_way() {
    let program = fixture("odd_calls");
    let (running, asleep) = oracle(&["--from-entry"], &[program.as_os_str()]);
    assert!(running.compared > 20_000, "{running:?}");
    let is_explained = |fault: &String| fault.contains("longjmp") || fault.contains("swapcontext");
    let unexplained: Vec<&String> = running
        .faults
        .iter()
        .filter(|fault| !is_explained(fault))
        .collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
    assert!(running.faults.len() < 40, "{:?}", running.faults);
    assert_eq!(asleep.wrong + asleep.guessed, 0, "{asleep:?}");
}

/// While an exception's landing pad is installed, the registers that frames have saved are overwritten in place; it is
/// a small part of throwing one.
#[test]
fn exceptions_in_flight() {
    let program = fixture("throws");
    let (running, _) = oracle(&["--from-entry"], &[program.as_os_str()]);
    assert!(running.compared > 20_000, "{running:?}");
    assert!(running.exact * 100 > running.compared * 98, "{running:?}");
}

/// The oracle finds what is wrong: three instructions, a hundred times.
#[test]
fn wrong_tables_are_found() {
    let program = fixture("wrong_tables");
    let (running, _) = oracle(&["--from-entry"], &[program.as_os_str()]);
    assert_eq!((running.wrong, running.addresses_missed), (300, 3));
    let is_there = |fault: &String| fault.contains("wrong_tables has_wrong_tables+");
    assert!(running.faults.iter().all(is_there), "{:?}", running.faults);
}
