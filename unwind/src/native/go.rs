//! Steps through code of a Go program by Go's own table of functions.
//!
//! It tells how far the stack pointer has moved at each instruction, also in a stripped program, and marks two kinds of
//! functions of which tables made for debuggers (`.debug_frame`) know nothing: those in which a goroutine or thread
//! begins, and those that go to another stack. Marks are asked before all tables, movements after them.

use super::machine::{Followed, Machine};
use super::rule::{Rule, RuleKind};
use crate::address::Svma;
use crate::elf::{ElfImage, GoFunction};

/// What is behind the name of a function written in assembler (Go 1.17 and later).
const ASSEMBLER_SUFFIX: &str = ".abi0";

/// Functions in which stacks begin, for the versions of Go that do not mark them (before 1.17), and `mcall`: the
/// goroutine that called it has been left, and what goes on is the thread's own work (`runtime/asm_amd64.s`).
const OUTERMOST: [&str; 4] = [
    "runtime.goexit",
    "runtime.mcall",
    "runtime.mstart",
    "runtime.rt0_go",
];

/// Marked as outermost because Go's own walk begins anew behind it; the kernel called it, and its frame is a usual one.
const SIGNAL_HANDLER: &str = "runtime.sigtramp";

/// The rule that a mark of the function at `lookup` calls for; `None` where it has none.
pub(super) fn by_mark<A: Machine>(image: &ElfImage, lookup: Svma, pc: Svma) -> Option<Rule> {
    let function = image.unwind_sections().go.as_ref()?.find(lookup)?;
    if is_outermost(&function) {
        return Some(Rule::of(RuleKind::Root));
    }
    if !function.writes_stack_pointer() {
        return None;
    }
    // It may keep the stack pointer in a register, as while it calls the vDSO on the thread's stack; or it has not left
    // the stack yet. The code tells.
    match A::follow(&image, pc.0) {
        Followed::Returns(rule) => Some(rule),
        Followed::Exits | Followed::Unknown => Some(Rule::of(RuleKind::OtherStack)),
    }
}

/// Whether a return address at `pc` is where a stack begins, though no call is before it: a goroutine's first function
/// returns to the second byte of `runtime.goexit`, as if that had called it.
pub(super) fn is_start(image: &ElfImage, pc: Svma) -> bool {
    let functions = image.unwind_sections().go.as_ref();
    functions
        .and_then(|functions| functions.find(pc))
        .is_some_and(|function| is_outermost(&function))
}

/// The rule by how far the stack pointer has moved at `lookup`.
pub(super) fn by_movement<A: Machine>(image: &ElfImage, lookup: Svma) -> Option<Rule> {
    let functions = image.unwind_sections().go.as_ref()?;
    let function = functions.find(lookup)?;
    A::go_rule(functions.sp_delta(&function, lookup)?)
}

fn is_outermost(function: &GoFunction<'_>) -> bool {
    let name = function.name;
    let name = name.strip_suffix(ASSEMBLER_SUFFIX).unwrap_or(name);
    name != SIGNAL_HANDLER && (function.is_outermost() || OUTERMOST.contains(&name))
}
