//! The walk through interpreted code: what a runtime must tell, and who asks it.
//!
//! A runtime is a folder here and a line in [`RUNTIMES`]. It answers in four steps, each with more at hand than the one
//! before:
//!
//! 1. [`Runtime::detect`]: is this ELF image one of mine, and which version? Once per image.
//! 2. [`RuntimeImage::attach`]: where does it lie in this process? Once per process and module.
//! 3. [`Interpreter::capture`]: while a thread stands still, the few words are copied that will have changed by the time
//!    it is thought about; a bounded number of bytes in a bounded number of reads.
//! 4. [`Interpreter::visit`] and [`Interpreter::walk`]: after the thread runs again. What does not change (functions,
//!    strings, line tables) is read from the live process then, and checked to still be what it was.
//!
//! What comes out are [`Segments`]: frames, and which native frames (the interpreter's loop) each run of them stands
//! for; [`crate::merge`] lays them into the native stack.

mod attached;
#[cfg(test)]
mod captured_tests;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod jumps;
mod lua;
mod luajit;
mod python;
mod stretches;
mod volatile;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::address::{Avma, Svma};
use crate::elf::ElfImage;
use crate::memory::MemoryReader;
use crate::modules::Module;
use crate::registers::Registers;
use crate::stack::Stack;

pub(crate) use attached::detect;
pub use attached::{Interpreters, WalkedAll};
pub use frames::{
    Function, FunctionKind, InterpretedFrame, Language, Languages, LinePrecision, Lost, Segment,
    Segments,
};
pub use volatile::{Expected, VolatileBuffer, VolatileCopy};

/// All runtimes there are.
pub static RUNTIMES: &[&dyn Runtime] = &[&luajit::LuaJit, &lua::PucLua, &python::CPython];

/// One kind of interpreter. It has no state: what it knows of a binary is in the [`RuntimeImage`] it gives out.
pub trait Runtime: fmt::Debug + Sync {
    /// What its frames are written in.
    fn language(&self) -> Language;

    /// The facts of a binary, if it holds such an interpreter. Asked once per image; the image may be hostile.
    fn detect(&self, image: &ElfImage) -> Option<Arc<dyn RuntimeImage>>;
}

/// Facts of a binary that holds an interpreter: its version, where its loop lies, its layouts. The same in all processes.
pub trait RuntimeImage: fmt::Debug + Send + Sync {
    /// In words, for a person: `LuaJIT 2.1.1700008891`.
    fn version(&self) -> String;

    /// Where its own code lies, if that is less than all of the image. Where it cannot be walked, it is missed in threads
    /// that are there.
    fn code(&self) -> Option<Range<Svma>> {
        None
    }

    /// The interpreter in one process, where the image lies as `module`. `memory` is that of the live process.
    ///
    /// # Errors
    /// When this version cannot be walked; the native frames are shown all the same.
    fn attach(
        &self,
        module: &Module,
        memory: &dyn MemoryReader,
    ) -> Result<Box<dyn Interpreter>, Unsupported>;
}

/// Why an interpreter that was found cannot be walked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{version} is not supported: {reason}")]
pub struct Unsupported {
    /// As [`RuntimeImage::version`] has it.
    pub version: String,
    /// Why, as part of a sentence.
    pub reason: String,
}

/// What is known of a thread that is looked at.
#[derive(Clone, Debug)]
pub struct ThreadContext {
    /// Its number, as the profiler sees it. Tells threads of one process apart.
    pub tid: i32,
    /// Its number in the innermost pid namespace that it is in: what `gettid` gives it.
    pub namespace_tid: i32,
    /// Its registers: all of a thread that was stopped; of a sleeper the stack pointer, the PC, and what its system call
    /// left alone.
    pub registers: Registers,
    /// The base of its thread-local storage (x86_64: fs base); known once the thread was stopped at some time.
    pub thread_pointer: Option<u64>,
    /// What was copied of its stack: from below the stack pointer upwards.
    pub stack: Range<Avma>,
    /// Whether it was running and was stopped, rather than asleep.
    pub is_running: bool,
}

/// A frame of the native walk, as it is met.
#[derive(Clone, Copy, Debug)]
pub struct NativeFrame<'a> {
    /// Its position in [`Stack::frames`].
    pub index: usize,
    /// What is known of the registers there. The stack pointer and the PC always are.
    pub registers: &'a Registers,
    /// Whether the PC is where a call will return to.
    pub is_return_address: bool,
    /// Whether it is in an ELF image, rather than in memory that was made executable at run time.
    pub is_in_image: bool,
}

/// An interpreter in one process.
///
/// For each sample the order of calls is: `capture`; then, once the thread runs again, `begin`, `visit` for each native
/// frame from the innermost outwards, and `walk`. The last three may be repeated for the same capture.
pub trait Interpreter: fmt::Debug + Send {
    /// Copies what will have changed once the thread runs again. The thread stands still, or sleeps and is checked
    /// afterwards not to have run: so nothing is allocated here, and nothing searched for. Roots (where the
    /// interpreter's state lies) are known from earlier samples; while they are not, there is nothing to be copied.
    fn capture(&mut self, thread: &ThreadContext, copy: &mut VolatileCopy<'_>);

    /// The native walk begins. `memory` is what was captured, then the stack as it was copied, laid over the live
    /// process.
    fn begin(&mut self, _thread: &ThreadContext, _memory: &dyn MemoryReader) {}

    /// A native frame was found. Where it is the interpreter's own code for which tables tell nothing (compiled traces,
    /// helpers written in assembly), gives the registers of its caller; `None` leaves the frame to the native walk.
    fn visit(
        &mut self,
        frame: NativeFrame<'_>,
        thread: &ThreadContext,
        memory: &dyn MemoryReader,
    ) -> Option<Registers>;

    /// Whether the thread held the lock that lets one thread execute at a time, where the runtime has one: of the capture
    /// that was walked last.
    fn holds_lock(&self) -> Option<bool> {
        None
    }

    /// The frames of the thread. Puts them into `out`, also those that were found before something went wrong.
    fn walk(
        &mut self,
        thread: &ThreadContext,
        native: &Stack,
        memory: &dyn MemoryReader,
        out: &mut Segments,
    ) -> Walked;
}

/// What came of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walked {
    /// The thread was not in this interpreter.
    NotHere,
    /// All its frames were found.
    Whole,
    /// It was, and some or all frames are missing.
    Lost {
        /// Why.
        reason: Lost,
        /// The native frame, by its position, at which the missing ones would be.
        at: Option<usize>,
    },
}
