//! Names from `.symtab` and `.dynsym`.
//!
//! The rule that matters: a symbol names an address only if the address lies inside it. In a stripped library the
//! nearest exported function can be 100 KB before the code that ran, and its name would be a lie.

use std::cmp::Reverse;
use std::ops::Range;

use object::Endianness;
use object::elf::{
    SHF_EXECINSTR, STB_GLOBAL, STB_WEAK, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, Sym64,
};
use object::read::elf::{SectionHeader, Sym, SymbolTable};
use object::read::{StringTable, SymbolIndex};

use super::elf::{Elf, Header, symbol_name};
use super::{NameFile, NameSource, NameTable};

/// How many names for one range of code are weighed against each other.
const ALIASES_MAX: usize = 64;

/// A function symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named<'data> {
    /// As the file has it, without a version.
    pub(super) name: &'data str,
    /// Whether the file states the symbol's size. Where it does not, the symbol reaches to the next one.
    pub(super) is_sized: bool,
    /// Where the name came from.
    pub(super) source: NameSource,
}

/// The function symbols of one or more files that state the same addresses: a program and its debug file.
#[derive(Debug, Default)]
pub(super) struct FunctionSymbols<'data> {
    symbols: Vec<FunctionSymbol>,
    /// Of each table that was added.
    strings: Vec<(StringTable<'data>, NameSource)>,
}

#[derive(Clone, Copy, Debug)]
struct FunctionSymbol {
    start: u64,
    /// Where it ends; for a symbol without a size, where its section does.
    end: u64,
    is_sized: bool,
    preference: Preference,
    /// Position in `FunctionSymbols::strings`, and of the name in there.
    strings: u32,
    name: u32,
}

/// Which of several symbols for the same code is taken, apart from its name: the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    is_function: bool,
    binding: u8,
}

impl<'data> FunctionSymbols<'data> {
    /// Adds the `.symtab` of `elf`, which has all its functions; says whether it holds any.
    pub(super) fn add_symbol_table(
        &mut self,
        elf: &Elf<'data>,
        source: NameSource,
    ) -> object::Result<bool> {
        let before = self.symbols.len();
        let table = elf.symbol_table()?;
        self.add(elf, &table, SizeMissing::UpToNext, source);
        Ok(self.symbols.len() > before)
    }

    /// Adds the `.dynsym` of `elf`, which has only what is exported.
    pub(super) fn add_dynamic_symbols(
        &mut self,
        elf: &Elf<'data>,
        file: NameFile,
    ) -> object::Result<()> {
        let source = NameSource {
            table: NameTable::Dynsym,
            file,
        };
        let table = elf.dynamic_symbols()?;
        // Between two exported functions lie others without a name: a symbol without a size is its address alone.
        self.add(elf, &table, SizeMissing::OneByte, source);
        Ok(())
    }

    /// The function at each of `addresses`, which are in ascending order.
    ///
    /// Where functions lie inside each other it is the one that starts last, and one whose size is known before one
    /// whose size is not: labels inside assembler code have none.
    pub(super) fn names_at(&mut self, addresses: &[u64]) -> Vec<Option<Named<'data>>> {
        self.sort_and_end();
        let mut waiting = self.symbols.iter().peekable();
        // Symbols that have started, the last started on top. One whose end was passed never comes back, because the
        // addresses ascend: each symbol is pushed once and popped once.
        let (mut sized, mut sizeless) = (Vec::new(), Vec::new());
        addresses
            .iter()
            .map(|&address| {
                while let Some(symbol) = waiting.next_if(|symbol| symbol.start <= address) {
                    let open = if symbol.is_sized {
                        &mut sized
                    } else {
                        &mut sizeless
                    };
                    open.push(symbol);
                }
                for open in [&mut sized, &mut sizeless] {
                    while open
                        .pop_if(|symbol: &mut &FunctionSymbol| symbol.end <= address)
                        .is_some()
                    {}
                }
                self.best_name(&sized).or_else(|| self.best_name(&sizeless))
            })
            .collect()
    }

    fn add(
        &mut self,
        elf: &Elf<'data>,
        table: &SymbolTable<'data, Header>,
        size_missing: SizeMissing,
        source: NameSource,
    ) {
        let code = code_sections(elf);
        let Ok(strings) = u32::try_from(self.strings.len()) else {
            return;
        };
        self.strings.push((table.strings(), source));
        let symbols = table.enumerate().filter_map(|(index, symbol)| {
            let section = code_section_of(elf, &code, table, index, symbol)?;
            FunctionSymbol::new(elf.endian, symbol, section, size_missing, strings)
        });
        self.symbols.extend(symbols);
    }

    /// Orders the symbols so that of those that hold an address the best comes last, and ends those without a size
    /// where the next one starts; where one with a size starts at the same address, that one alone is right.
    fn sort_and_end(&mut self) {
        self.symbols.sort_unstable_by_key(|symbol| {
            let (start, end) = (symbol.start, Reverse(symbol.end));
            (start, symbol.is_sized, end, symbol.preference)
        });
        let (mut start, mut next_start, mut has_sized) = (u64::MAX, u64::MAX, false);
        for symbol in self.symbols.iter_mut().rev() {
            if symbol.start != start {
                (next_start, start, has_sized) = (start, symbol.start, false);
            }
            has_sized |= symbol.is_sized;
            if !symbol.is_sized {
                let bound = if has_sized { start } else { next_start };
                symbol.end = symbol.end.min(bound);
            }
        }
        // A label inside a function does not reach out of it.
        let mut sized_end = 0;
        for symbol in &mut self.symbols {
            if symbol.is_sized {
                sized_end = symbol.end.max(sized_end);
            } else if symbol.start < sized_end {
                symbol.end = symbol.end.min(sized_end);
            }
        }
    }

    /// The name of the symbol on top of `open`, or a better one for exactly the same code.
    fn best_name(&self, open: &[&FunctionSymbol]) -> Option<Named<'data>> {
        let top = open.last()?;
        open.iter()
            .rev()
            .take_while(|symbol| symbol.is_alias_of(top))
            .take(ALIASES_MAX)
            .filter_map(|symbol| Some((symbol, self.name(symbol)?)))
            .max_by_key(|(symbol, (name, _))| {
                // `write` rather than `__libc_write`, then the shorter, then the same one every time.
                let underscores = name.bytes().take_while(|&byte| byte == b'_').count();
                (
                    symbol.preference.is_function,
                    Reverse(underscores),
                    symbol.preference.binding,
                    Reverse((name.len(), *name)),
                )
            })
            .map(|(symbol, (name, source))| Named {
                name,
                is_sized: symbol.is_sized,
                source,
            })
    }

    fn name(&self, symbol: &FunctionSymbol) -> Option<(&'data str, NameSource)> {
        let (strings, source) = self.strings.get(usize::try_from(symbol.strings).ok()?)?;
        Some((symbol_name(*strings, symbol.name)?, *source))
    }
}

impl FunctionSymbol {
    fn new(
        endian: Endianness,
        symbol: &Sym64<Endianness>,
        section: &Range<u64>,
        size_missing: SizeMissing,
        strings: u32,
    ) -> Option<Self> {
        let start = symbol.st_value(endian);
        if !section.contains(&start) {
            return None;
        }
        let size = symbol.st_size(endian);
        let end = match (size, size_missing) {
            (0, SizeMissing::UpToNext) => section.end,
            (0, SizeMissing::OneByte) => start.saturating_add(1),
            (size, _) => start.saturating_add(size).min(section.end),
        };
        Some(Self {
            start,
            end,
            is_sized: size != 0,
            preference: Preference {
                is_function: symbol.st_type() != STT_NOTYPE,
                binding: match symbol.st_bind() {
                    STB_GLOBAL => 2,
                    STB_WEAK => 1,
                    _ => 0,
                },
            },
            strings,
            name: symbol.st_name(endian),
        })
    }

    fn is_alias_of(&self, other: &Self) -> bool {
        (self.start, self.end, self.is_sized) == (other.start, other.end, other.is_sized)
    }
}

/// How far a symbol reaches whose size is zero, which is how ELF says "unknown".
#[derive(Clone, Copy, Debug)]
enum SizeMissing {
    UpToNext,
    OneByte,
}

/// By section number the addresses of those that hold code.
fn code_sections(elf: &Elf<'_>) -> Vec<Option<Range<u64>>> {
    elf.sections
        .iter()
        .map(|section| {
            let start = section.sh_addr(elf.endian);
            section
                .sh_flags(elf.endian)
                .contains(SHF_EXECINSTR)
                .then(|| start..start.saturating_add(section.sh_size(elf.endian)))
        })
        .collect()
}

/// The section of code that `symbol` is in; `None` for a symbol that is no function.
fn code_section_of<'code>(
    elf: &Elf<'_>,
    code: &'code [Option<Range<u64>>],
    table: &SymbolTable<'_, Header>,
    index: SymbolIndex,
    symbol: &Sym64<Endianness>,
) -> Option<&'code Range<u64>> {
    if !matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC | STT_NOTYPE) {
        return None;
    }
    let section = table
        .symbol_section(elf.endian, symbol, index)
        .ok()
        .flatten()?;
    code.get(section.0)?.as_ref()
}
