//! Registers and memory in, stacks out.
//!
//! This crate knows no process and does no I/O: whoever calls it has already read the registers, says which ELF
//! images lie where ([`Modules`]), and hands in the target's memory as a [`MemoryReader`], be it a live process, a
//! copy taken while a thread stood still, or a capture in a test. What comes back is a [`Stack`] in which every
//! frame says how it was found ([`FrameOrigin`]) and whose end says why the walk ended ([`StackEnd`]): a stack that
//! was cut never looks complete.
#![forbid(unsafe_code)]

mod address;
mod arch;
mod elf;
pub mod interpreter;
mod memory;
mod merge;
mod modules;
mod native;
mod registers;
mod stack;

pub use address::{Avma, FileOffset, LoadBias, Svma};
pub use arch::Arch;
pub use elf::{
    BuildId, ElfError, ElfImage, GoCall, GoFunction, GoFunctions, GoLine, ImageBytes, ImageId,
    ImageSymbol, Runtimes, Segment, UnwindTables,
};
pub use memory::{MemoryReader, ReadError, SliceMemory};
pub use merge::{MergedFrame, merge};
pub use modules::{Module, Modules};
pub use native::{UnwindCounts, Unwinder, WalkGuide};
pub use registers::Registers;
pub use stack::{Frame, FrameOrigin, Stack, StackEnd};
