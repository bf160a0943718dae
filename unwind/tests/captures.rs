//! Walks odd stacks that programs have written down, and compares the names of the frames.

mod support;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::LazyLock;

use sampler_unwind::{Frame, FrameOrigin, Registers, Stack, StackEnd, Unwinder};
use support::capture::Capture;
use support::programs::{build, directory, run};
use support::symbols::Symbols;

const FLAGS: [&str; 3] = ["-O2", "-fno-optimize-sibling-calls", "-pthread"];

fn program(name: &str, compiler: &str, extra: &[&str]) -> PathBuf {
    build(name, compiler, "shapes.c", &[&FLAGS, extra].concat())
}

static DYNAMIC: LazyLock<PathBuf> = LazyLock::new(|| program("shapes-dynamic", "gcc", &[]));
static STATIC: LazyLock<PathBuf> = LazyLock::new(|| program("shapes-static", "gcc", &["-static"]));
static NO_PIE: LazyLock<PathBuf> = LazyLock::new(|| program("shapes-no-pie", "gcc", &["-no-pie"]));
static STATIC_PIE: LazyLock<PathBuf> =
    LazyLock::new(|| program("shapes-static-pie", "gcc", &["-static-pie"]));
static MUSL: LazyLock<PathBuf> = LazyLock::new(|| program("shapes-musl", "musl-gcc", &[]));
static MUSL_STATIC: LazyLock<PathBuf> =
    LazyLock::new(|| program("shapes-musl-static", "musl-gcc", &["-static"]));

fn capture(program: &std::path::Path, shape: &str) -> Capture {
    let name = program
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    let path = directory(name).join(format!("{shape}.capture"));
    run(program, &[path.as_os_str(), OsStr::new(shape)]);
    Capture::load(&path)
}

fn walk(capture: &Capture, start: &Registers) -> Stack {
    let mut stack = Stack::empty();
    Unwinder::new().walk(&capture.modules, start, &capture.memory, &mut stack);
    stack
}

fn names(capture: &Capture, stack: &Stack) -> Vec<String> {
    let mut symbols = Symbols::default();
    stack
        .frames
        .iter()
        .map(|frame| symbols.name(&capture.modules, frame.lookup_address()))
        .collect()
}

/// Checks that the stack of `shape` begins with the functions `expected` and ends at its root, without a guess.
#[track_caller]
fn check(program: &std::path::Path, shape: &str, expected: &[&str]) -> (Capture, Stack) {
    let (capture, stack) = check_guessed(program, shape, expected);
    let is_guessed = |frame: &Frame| frame.origin >= FrameOrigin::FramePointer;
    assert!(!stack.frames.iter().any(is_guessed), "{stack:#x?}");
    (capture, stack)
}

/// As [`check`], where some frame can be no more than a guess.
#[track_caller]
fn check_guessed(program: &std::path::Path, shape: &str, expected: &[&str]) -> (Capture, Stack) {
    let capture = capture(program, shape);
    let stack = walk(&capture, &capture.registers);
    let names = names(&capture, &stack);
    let first = names.get(..expected.len().min(names.len())).unwrap();
    assert_eq!(first, expected, "{names:?} {stack:#x?}");
    assert_eq!(stack.end, StackEnd::Root, "{names:?} {stack:#x?}");
    check_sleeper(&capture, &stack);
    (capture, stack)
}

/// With no more known than a sleeping thread shows, the stack may be shorter, not another.
#[track_caller]
fn check_sleeper(capture: &Capture, expected: &Stack) {
    let registers = &capture.registers;
    let start = Registers::at(
        registers.arch(),
        registers.pc().unwrap(),
        registers.sp().unwrap(),
    );
    let stack = walk(capture, &start);
    let pairs = stack.frames.iter().zip(&expected.frames);
    let same = pairs
        .clone()
        .take_while(|(found, _)| found.origin != FrameOrigin::Scan)
        .all(|(found, expected)| found.address == expected.address && found.sp == expected.sp);
    assert!(same, "{stack:#x?} {expected:#x?}");
    let is_whole = stack.frames.len() == expected.frames.len();
    assert!(
        is_whole || stack.end != StackEnd::Root,
        "{stack:#x?} {expected:#x?}"
    );
}

fn all_programs() -> [&'static PathBuf; 4] {
    [&DYNAMIC, &STATIC, &NO_PIE, &STATIC_PIE]
}

#[test]
fn recursion_of_ten_thousand_frames_comes_whole() {
    for program in all_programs() {
        let (capture, stack) = check(program, "recursion", &["deep"]);
        let names = names(&capture, &stack);
        assert_eq!(names.iter().filter(|name| *name == "deep").count(), 10001);
        assert_eq!(names[10001..10003], ["recursion", "main"]);
        assert_eq!(names.last().unwrap(), "_start");
    }
}

#[test]
fn a_call_may_be_the_last_instruction_of_its_function() {
    let expected = ["never_returns", "calls_at_end", "noreturn", "main"];
    check(&DYNAMIC, "noreturn", &expected);
}

/// Looked up where it leads instead of inside the call, a return address belongs to another function, with another
/// frame: from there the walk goes wrong.
#[test]
fn a_return_address_looked_up_where_it_leads_belongs_to_another_function() {
    let expected = [
        "never_returns",
        "asm_ends_in_call",
        "noreturn_exactly",
        "main",
    ];
    let (capture, stack) = check(&DYNAMIC, "noreturn_exactly", &expected);
    let frame = stack.frames[1];
    let mut symbols = Symbols::default();
    let name = symbols.name(&capture.modules, frame.address);
    assert_eq!(name, "asm_behind_it");
    let start = Registers::at(capture.registers.arch(), frame.address, frame.sp);
    let wrong = walk(&capture, &start);
    let callers =
        |frames: &[Frame]| -> Vec<_> { frames.iter().map(|frame| frame.address).collect() };
    assert_ne!(
        callers(&wrong.frames[1..]),
        callers(&stack.frames[2..]),
        "{wrong:#x?}"
    );
}

#[test]
fn goes_through_signal_handlers() {
    for program in all_programs() {
        let (_, stack) = check(program, "signal_raised", &["in_handler", "handler"]);
        let signal_frames = stack
            .frames
            .iter()
            .filter(|frame| frame.origin == FrameOrigin::SignalFrame);
        assert_eq!(signal_frames.count(), 2, "{stack:#x?}");
        let (capture, stack) = check(program, "signal_nested", &["in_handler", "handler"]);
        let names = names(&capture, &stack);
        let known: Vec<_> = names
            .iter()
            .filter(|name| ["handler", "raises", "nested_handler", "main"].contains(&name.as_str()))
            .collect();
        assert_eq!(known, ["handler", "raises", "nested_handler", "main"]);
    }
}

#[test]
fn an_interrupted_instruction_is_not_looked_up_one_byte_back() {
    for program in all_programs() {
        let (capture, stack) = check(
            program,
            "signal_at_first_instruction",
            &["in_handler", "handler"],
        );
        assert_eq!(
            names(&capture, &stack)[3..6],
            ["faults", "signal_at_first_instruction", "main"]
        );
    }
}

#[test]
fn goes_from_a_signal_stack_to_the_stack_that_was_interrupted() {
    let (capture, stack) = check(&DYNAMIC, "signal_stack", &["in_handler", "handler"]);
    let names = names(&capture, &stack);
    assert!(names.contains(&"on_signal_stack".to_owned()), "{names:?}");
}

#[test]
fn comes_back_from_a_call_to_nowhere() {
    let (capture, stack) = check(&DYNAMIC, "signal_null_call", &["in_handler", "handler"]);
    assert_eq!(names(&capture, &stack)[4..6], ["signal_null_call", "main"]);
}

#[test]
fn knows_a_trampoline_without_tables() {
    let expected = ["in_handler", "handler", "own_restorer"];
    check(&DYNAMIC, "signal_own_restorer", &expected);
}

#[test]
fn threads_end_where_they_were_cloned() {
    for program in [&DYNAMIC, &STATIC, &MUSL, &MUSL_STATIC] {
        check(program, "thread", &["in_thread"]);
    }
}

#[test]
fn coroutines_end_at_their_base() {
    check(&DYNAMIC, "coroutine", &["in_coroutine", "coroutine_start"]);
}

#[test]
fn follows_assembly_without_tables() {
    let expected = [
        "captures",
        "asm_pushes",
        "asm_subtracts",
        "asm_rbp_is_data",
        "asm_frame_pointer",
        "asm_saves_sp",
        "assembly",
        "main",
    ];
    for program in all_programs() {
        check(program, "assembly", &expected);
    }
}

#[test]
fn unwinds_the_vdso() {
    for program in all_programs() {
        let capture = capture(program, "vdso");
        let stack = walk(&capture, &capture.registers);
        let names = names(&capture, &stack);
        assert_eq!(stack.end, StackEnd::Root, "{names:?}");
        assert!(names.contains(&"asks_the_time".to_owned()), "{names:?}");
        check_sleeper(&capture, &stack);
    }
}

#[test]
fn constructors_end_at_the_loader() {
    for program in all_programs() {
        check(program, "constructor", &["constructor"]);
        check(program, "exiting", &["at_exit"]);
    }
}

#[test]
fn musl_has_no_tables() {
    for program in [&MUSL, &MUSL_STATIC] {
        check(program, "recursion", &["deep"]);
        check(program, "signal_raised", &["in_handler", "handler"]);
    }
    // Nothing tells how `exit`, which does not return, finds its caller.
    let (capture, stack) = check_guessed(&MUSL, "exiting", &["at_exit"]);
    assert_eq!(names(&capture, &stack)[2..5], ["exit", "exiting", "main"]);
}
