//! Walks the frozen targets of `fixtures/captures`.

mod support;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampler_unwind::{ElfImage, ImageBytes, Registers, Stack, Unwinder};
use support::capture::Capture;
use support::symbols::Symbols;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/captures")
}

/// The frames from all registers, and from no more than a sleeping thread shows.
#[track_caller]
fn check(name: &str) {
    let text = std::fs::read_to_string(captures().join(name).with_extension("capture")).unwrap();
    let target = Capture::parse(&text, |path| {
        let bytes = std::fs::read(captures().join(path)).ok()?;
        ElfImage::parse(ImageBytes::new(Arc::new(bytes))).ok()
    });
    let all = &target.registers;
    let sleeper = Registers::at(all.arch(), all.pc().unwrap(), all.sp().unwrap());
    let text = format!(
        "{}\nwith only the PC and the stack pointer known:\n{}",
        display(&target, all),
        display(&target, &sleeper)
    );
    insta::assert_snapshot!(name, text);
}

fn display(target: &Capture, start: &Registers) -> String {
    let mut stack = Stack::empty();
    Unwinder::new().walk(&target.modules, start, &target.memory, &mut stack);
    let mut symbols = Symbols::default();
    let mut text = String::new();
    for frame in &stack.frames {
        let name = symbols.name(&target.modules, frame.lookup_address());
        writeln!(text, "{:#x} {name} ({:?})", frame.address, frame.origin).unwrap();
    }
    writeln!(text, "end: {:?}", stack.end).unwrap();
    text
}

#[test]
fn assembly_without_tables() {
    check("x86_64-musl-assembly");
}

#[test]
fn a_call_as_the_last_instruction() {
    check("x86_64-musl-noreturn");
}

#[test]
fn nested_signals() {
    check("x86_64-musl-signal_nested");
}

#[test]
fn a_call_to_nowhere() {
    check("x86_64-musl-signal_null_call");
}

#[test]
fn a_thread_of_musl() {
    check("x86_64-musl-thread");
}

#[test]
fn assembly_without_tables_on_aarch64() {
    check("aarch64-musl-assembly");
}

#[test]
fn a_call_as_the_last_instruction_on_aarch64() {
    check("aarch64-musl-noreturn");
}

#[test]
fn nested_signals_on_aarch64() {
    check("aarch64-musl-signal_nested");
}

#[test]
fn a_call_to_nowhere_on_aarch64() {
    check("aarch64-musl-signal_null_call");
}

#[test]
fn a_thread_of_musl_on_aarch64() {
    check("aarch64-musl-thread");
}
