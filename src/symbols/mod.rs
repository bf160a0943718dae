//! Address to name.
//!
//! [`FileSymbolizer`] asks, for each module, the file that was mapped and its separate debug file: first whether they
//! are what ran (build ID), then for the function, for what was inlined into it and for lines. docs/symbols.md has the
//! sources and their order. Nothing of this happens before a report is made. What was answered before comes from a
//! cache, what is not here from a symbol pack, or from a server where that is asked for.

mod cache;
mod contain;
mod debuginfod;
mod demangle;
mod dwarf;
mod elf;
mod files;
mod functions;
#[cfg(fuzzing)]
pub mod fuzzing;
mod go;
mod mini_debug_info;
mod pack;
mod plt;
mod remembered;
mod source;
mod stand_ins;
mod symbol_table;
mod symbolizer;
mod syscall;
mod tables;
#[cfg(test)]
mod tests;

pub use cache::SymbolCache;
pub use debuginfod::DebuginfodSettings;
pub use demangle::demangle;
pub use files::SymbolPaths;
pub(crate) use files::module_name;
pub use pack::{PackError, PackSummary, SymbolPack};
pub use remembered::Remembered;
pub use source::{NameFile, NameSource, NameTable};
pub use symbolizer::{FileSymbolizer, ModuleSources};
pub use syscall::{recorded_syscall, syscall_name};

use crate::profile::ModuleInfo;

/// One function at an address. An address inside inlined code has several, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The demangled name.
    pub function: String,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// Whether this function was inlined into the next one.
    pub inlined: bool,
    /// Where the name came from; the file and line may be known from elsewhere.
    pub source: NameSource,
}

/// Names addresses of a module.
pub trait Symbolize {
    /// For each of `addresses` (as the file states them, already inside the call for a return address) the functions
    /// there, innermost inlined first; an empty list where nothing is known.
    fn symbolize(&mut self, module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>>;

    /// What should be told about the modules asked for so far, a line each: no symbols, a build ID that differs.
    fn notes(&self) -> Vec<String>;
}
