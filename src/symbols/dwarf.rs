//! Inlined functions and source lines, by blazesym.

use std::path::PathBuf;
use std::thread;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Reason, Sym, Symbolized, Symbolizer};

use super::contain::{Panicked, contain};
use super::files::ElfOnDisk;
use super::{NameSource, NameTable};

/// How deep functions inlined into each other are followed.
const INLINED_MAX: usize = 256;
/// Address space for the stack of a look-up; memory is only taken for what is used of it.
///
/// blazesym 0.2.7 calls itself for each level of inlined functions in each other, however deep a file claims they are
/// (`dwarf/function.rs`, `parse_children`), and a stack that overflows ends the process. 5,000 levels, for which a file
/// needs 5 KB, took 8 MB in a debug build.
const STACK_BYTES: usize = 512 << 20;

/// What DWARF says about one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DwarfFunctions {
    /// The function whose code it is, as the linker names it.
    pub(super) name: Option<String>,
    /// The line in it: of the call, where the code belongs to a function that was inlined.
    pub(super) line: Option<SourceLine>,
    /// The functions that were inlined, outermost first.
    pub(super) inlined: Vec<(String, Option<SourceLine>)>,
    /// Where the names came from.
    pub(super) source: NameSource,
}

/// A place in a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceLine {
    /// The file, with its directory where that is known.
    pub(super) file: String,
    /// The line.
    pub(super) line: Option<u32>,
}

/// What DWARF says about many addresses.
#[derive(Debug)]
pub(super) struct DwarfAnswer {
    /// One entry per address asked for.
    pub(super) functions: Vec<DwarfFunctions>,
    /// For how many of them the debug information was damaged.
    pub(super) damaged: usize,
    source: NameSource,
}

/// Why there is nothing from DWARF at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum DwarfError {
    /// blazesym cannot read it.
    #[error("its debug information cannot be read: {0}")]
    Unreadable(String),
    /// It makes blazesym panic, whatever is asked.
    #[error("its debug information cannot be read: {0}")]
    Panicked(#[from] Panicked),
}

/// Looks `addresses` up in the DWARF of `file`; supplementary files (dwz) are looked for in
/// `debug_dirs`.
///
/// The file is opened and closed by this call, so that no more than one file's tables are in memory.
///
/// # Errors
/// When the file's DWARF cannot be read at all.
pub(super) fn look_up(
    file: &ElfOnDisk,
    debug_dirs: &[PathBuf],
    addresses: &[u64],
) -> Result<DwarfAnswer, DwarfError> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("symbols".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || look_up_here(file, debug_dirs, addresses))
            // Where address space is limited, with the stack there is.
            .map_or_else(
                |_| look_up_here(file, debug_dirs, addresses),
                |thread| thread.join().unwrap_or(Err(DwarfError::Panicked(Panicked))),
            )
    })
}

fn look_up_here(
    file: &ElfOnDisk,
    debug_dirs: &[PathBuf],
    addresses: &[u64],
) -> Result<DwarfAnswer, DwarfError> {
    let symbolizer = Symbolizer::builder()
        .enable_auto_reload(false)
        .enable_demangling(false)
        .set_debug_dirs(Some(debug_dirs))
        .build();
    let source = Source::Elf(Elf::new(&file.path));
    let mut answer = DwarfAnswer::of(NameSource {
        table: NameTable::Dwarf,
        file: file.found,
    });
    match contain(|| symbolizer.symbolize(&source, Input::VirtOffset(addresses))) {
        Ok(Ok(symbolized)) => answer.extend(symbolized),
        Ok(Err(error)) => return Err(DwarfError::Unreadable(format!("{error:#}"))),
        // One address made it panic: ask for each alone, and lose only that one.
        Err(_) => {
            for address in addresses {
                let address = Input::VirtOffset(std::slice::from_ref(address));
                match contain(|| symbolizer.symbolize(&source, address)) {
                    Ok(Ok(symbolized)) => answer.extend(symbolized),
                    Ok(Err(_)) | Err(_) => answer.push_damaged(),
                }
            }
        }
    }
    Ok(answer)
}

impl DwarfAnswer {
    fn of(source: NameSource) -> Self {
        Self {
            functions: Vec::new(),
            damaged: 0,
            source,
        }
    }

    fn extend(&mut self, symbolized: Vec<Symbolized<'_>>) {
        for symbolized in symbolized {
            match symbolized {
                Symbolized::Sym(symbol) => {
                    self.functions.push(DwarfFunctions::of(symbol, self.source));
                }
                Symbolized::Unknown(Reason::IgnoredError) => self.push_damaged(),
                Symbolized::Unknown(_) => self.push_unknown(),
            }
        }
    }

    fn push_damaged(&mut self) {
        self.damaged += 1;
        self.push_unknown();
    }

    fn push_unknown(&mut self) {
        self.functions.push(DwarfFunctions::none(self.source));
    }
}

impl DwarfFunctions {
    /// Nothing is known.
    fn none(source: NameSource) -> Self {
        Self {
            name: None,
            line: None,
            inlined: Vec::new(),
            source,
        }
    }

    fn of(symbol: Sym<'_>, source: NameSource) -> Self {
        let name = is_from_dwarf(&symbol)
            .then(|| symbol.name.into_owned())
            .filter(|name| !name.is_empty());
        Self {
            name,
            line: symbol.code_info.as_deref().and_then(SourceLine::of),
            // A name is missing where it lies in a supplementary file (dwz). The code is then that of the function
            // around it, which is true as well.
            inlined: symbol
                .inlined
                .into_iter()
                .take(INLINED_MAX)
                .filter(|inlined| !inlined.name.is_empty())
                .map(|inlined| {
                    let line = inlined.code_info.as_ref().and_then(SourceLine::of);
                    (inlined.name.into_owned(), line)
                })
                .collect(),
            source,
        }
    }
}

/// Whether the name is that of a function in DWARF, or of a symbol that holds the address.
///
/// Where DWARF has no function blazesym falls back to the `.symtab`, in which it lets a symbol without a size reach
/// to the next one, in whatever section. A function of several ranges has no size either, and its address is zero.
fn is_from_dwarf(symbol: &Sym<'_>) -> bool {
    symbol
        .size
        .map_or(symbol.addr == 0, |size| symbol.offset < size)
}

impl SourceLine {
    /// `None` where the compiler says that the code belongs to no line: it names a file all the same, any file.
    fn of(code: &CodeInfo<'_>) -> Option<Self> {
        Some(Self {
            file: code.to_path().to_string_lossy().into_owned(),
            line: Some(code.line.filter(|&line| line != 0)?),
        })
    }
}
