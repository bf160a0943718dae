//! Inlined functions and source lines, from DWARF.
//!
//! blazesym reads files that hold all of their DWARF. Where a part is in other files (`dwz`, `.dwo`, `.dwp`), addr2line
//! is given them by us: blazesym 0.2.7 knows no `.dwo`, and would open whatever a file names, be it a pipe.

mod linked;
mod split;
mod supplementary;
mod whole;

pub(super) use split::{Part, each_part};

use std::thread;

use super::contain::{Panicked, contain};
use super::files::{ElfOnDisk, SymbolPaths};
use super::functions::CodeFunctions;

/// How deep functions inlined into each other are followed.
const INLINED_MAX: usize = 256;
/// Address space for the stack of a look-up; memory is only taken for what is used of it.
///
/// blazesym 0.2.7 and addr2line 0.27 call themselves for each level of inlined functions in each other, however deep a
/// file claims they are (`function.rs`, `parse_children`), and a stack that overflows ends the process. 5,000 levels,
/// for which a file needs 5 KB, took 8 MB in a debug build.
const STACK_BYTES: usize = 512 << 20;

/// Where the DWARF of a module is.
#[derive(Clone, Copy, Debug)]
pub(super) struct DwarfFiles<'a> {
    /// The file that it is in, or that refers to it.
    pub(super) file: &'a ElfOnDisk,
    /// The file that was mapped, where it is another.
    pub(super) main: Option<&'a ElfOnDisk>,
    /// Where other files are looked for.
    pub(super) paths: &'a SymbolPaths,
}

/// What DWARF says about many addresses.
#[derive(Debug, Default)]
pub(super) struct DwarfAnswer {
    /// One entry per address asked for.
    pub(super) functions: Vec<Option<CodeFunctions>>,
    /// For how many of them the debug information was damaged.
    pub(super) damaged: usize,
    /// What should be told about files that belong to this one.
    pub(super) notes: Vec<String>,
}

/// Why there is nothing from DWARF at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum DwarfError {
    /// The reader cannot read it.
    #[error("its debug information cannot be read: {0}")]
    Unreadable(String),
    /// It makes the reader panic, whatever is asked.
    #[error("its debug information cannot be read: {0}")]
    Panicked(#[from] Panicked),
}

impl DwarfAnswer {
    fn push(&mut self, functions: CodeFunctions) {
        self.functions
            .push(functions.is_some().then_some(functions));
    }

    fn push_unknown(&mut self) {
        self.functions.push(None);
    }

    fn push_damaged(&mut self) {
        self.damaged += 1;
        self.push_unknown();
    }
}

/// Looks `addresses` up in the DWARF of `files`.
///
/// Files are opened and closed by this call, so that no more than one module's tables are in memory.
///
/// # Errors
/// When the file's DWARF cannot be read at all.
pub(super) fn look_up(files: DwarfFiles<'_>, addresses: &[u64]) -> Result<DwarfAnswer, DwarfError> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("symbols".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || look_up_here(files, addresses))
            // Where address space is limited, with the stack there is.
            .map_or_else(
                |_| look_up_here(files, addresses),
                |thread| thread.join().unwrap_or(Err(DwarfError::Panicked(Panicked))),
            )
    })
}

fn look_up_here(files: DwarfFiles<'_>, addresses: &[u64]) -> Result<DwarfAnswer, DwarfError> {
    if contain(|| linked::names_other_files(files.file))? {
        linked::look_up(files, addresses)
    } else {
        whole::look_up(files.file, addresses)
    }
}
