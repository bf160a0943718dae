//! Walks from every single instruction of a program's life, and compares with the returns that its calls really made.

mod support;

use sampler_unwind::{Avma, SliceMemory, Stack, Unwinder};
use support::programs::{build, directory};
use support::score::{Score, score};
use support::steps::Recording;

/// The fast storey must give the same stacks.
fn compare_storeys(recording: &Recording) {
    let mut complete = Unwinder::new();
    let mut fast = Unwinder::new().with_fast_storey(true);
    let (mut expected, mut found) = (Stack::empty(), Stack::empty());
    for step in recording.steps() {
        let memory = SliceMemory::new(Avma(step.stack_start), step.stack);
        complete.walk(&recording.modules, &step.registers, &memory, &mut expected);
        fast.walk(&recording.modules, &step.registers, &memory, &mut found);
        assert_eq!(found, expected);
    }
    let counts = fast.counts();
    assert_eq!(
        counts.fast_walks + counts.fast_fallbacks,
        counts.walks,
        "{counts:?}"
    );
}

#[track_caller]
fn check(name: &str, compiler: &str, source: &str, flags: &[&str]) -> (Score, Score) {
    let program = build(name, compiler, source, flags);
    let recording = Recording::of(&program, &directory(name));
    let mut unwinder = Unwinder::new();
    let all = score(&recording, &mut unwinder, true);
    assert!(all.steps > 100, "{all:?}");
    assert_eq!(
        (all.wrong, all.short),
        (0, 0),
        "{all:?} {:?}",
        unwinder.counts()
    );
    compare_storeys(&recording);
    let sleeper = score(&recording, &mut unwinder, false);
    assert_eq!(sleeper.wrong, 0, "{sleeper:?}");
    (all, sleeper)
}

#[test]
fn shapes_of_frames_optimized() {
    check("shapes-O2", "gcc", "steps_shapes.c", &["-O2"]);
}

#[test]
fn shapes_of_frames_not_optimized() {
    check("shapes-O0", "gcc", "steps_shapes.c", &["-O0"]);
}

#[test]
fn c_library_with_lazy_binding() {
    check("libc-lazy", "gcc", "steps_libc.c", &["-O2", "-Wl,-z,lazy"]);
}

#[test]
fn c_library_bound_at_start() {
    check(
        "libc-now",
        "gcc",
        "steps_libc.c",
        &["-O2", "-Wl,-z,now", "-fno-plt"],
    );
}

#[test]
fn c_library_static() {
    check("libc-static", "gcc", "steps_libc.c", &["-O2", "-static"]);
}

#[test]
fn c_library_static_pie() {
    check(
        "libc-static-pie",
        "gcc",
        "steps_libc.c",
        &["-O2", "-static-pie"],
    );
}

#[test]
fn without_a_search_table() {
    check(
        "no-hdr",
        "gcc",
        "steps_shapes.c",
        &["-O2", "-no-pie", "-Wl,--no-eh-frame-hdr"],
    );
}

#[test]
fn musl_static() {
    check(
        "musl-static",
        "musl-gcc",
        "steps_libc.c",
        &["-O2", "-static"],
    );
}

#[test]
fn musl_dynamic() {
    check("musl-dynamic", "musl-gcc", "steps_libc.c", &["-O2"]);
}

#[test]
fn tables_for_debuggers_only() {
    let flags = [
        "-O2",
        "-g",
        "-fno-asynchronous-unwind-tables",
        "-fno-exceptions",
    ];
    check("debug-frame", "gcc", "steps_shapes.c", &flags);
}

#[test]
fn no_tables() {
    let flags = ["-O2", "-fno-asynchronous-unwind-tables", "-fno-exceptions"];
    check("no-tables", "gcc", "steps_shapes.c", &flags);
}
