//! What is asked of an image by name: symbols, sections, and which functions its unwind tables know.

use std::ops::Range;

use gimli::{CfaRule, EhFrame, UnwindContext};
use object::Endianness;
use object::elf::{FileHeader64, SHT_DYNSYM, SHT_SYMTAB, SectionType};
use object::read::elf::{FileHeader, Sym, SymbolTable};

use super::unwind_sections::Sections;
use super::{ElfImage, FdeIndex, Segment};
use crate::address::Svma;
use crate::arch::Arch;
use crate::native;

/// Symbols looked at in one table. That of a browser has a million.
const SYMBOLS_MAX: usize = 1 << 23;

/// How many segments with data are looked through, and how much of each, in bytes. Those of a browser have some 100 MB;
/// a file can say that it has more than there is, which costs time to read all the same.
const DATA_SEGMENTS_MAX: usize = 64;
const DATA_BYTES_MAX: usize = 512 << 20;

/// A symbol with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSymbol {
    /// Where it is.
    pub svma: Svma,
    /// How many bytes belong to it; 0 where that is not told.
    pub bytes: u64,
}

/// Which tables say how to unwind an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindTables {
    /// `.eh_frame`, which most compilers write for all code.
    pub eh_frame: bool,
    /// `.debug_frame`, which comes with debug information.
    pub debug_frame: bool,
    /// Go's table of functions.
    pub go: bool,
}

impl ElfImage {
    /// Which tables say how to unwind it, those of its debug file included.
    pub fn unwind_tables(&self) -> UnwindTables {
        let sections = self.unwind_sections();
        let has_entries = |section: &super::UnwindSection| {
            // A table that is there and empty ends with its first length.
            section
                .bytes
                .first_chunk::<4>()
                .is_some_and(|length| *length != [0; 4])
        };
        UnwindTables {
            eh_frame: sections.eh_frame.as_ref().is_some_and(has_entries),
            debug_frame: sections.debug_frame.as_ref().is_some_and(has_entries),
            go: sections.go.is_some(),
        }
    }

    /// The symbols of these names, defined here: from the dynamic symbol table, which stripping leaves, or else from
    /// the full one. All tables are read once for all names.
    pub fn symbols<const N: usize>(&self, names: [&str; N]) -> [Option<ImageSymbol>; N] {
        let mut found = [None; N];
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            if found.iter().all(Option::is_some) {
                break;
            }
            let Some(table) = self.symbol_table(kind) else {
                continue;
            };
            for symbol in table.symbols().iter().take(SYMBOLS_MAX) {
                let endian = Endianness::Little;
                if symbol.is_undefined(endian) || symbol.st_value(endian) == 0 {
                    continue;
                }
                let Ok(name) = table.symbol_name(endian, symbol) else {
                    continue;
                };
                for (wanted, found) in names.iter().zip(&mut found) {
                    if found.is_none() && wanted.as_bytes() == name {
                        *found = Some(ImageSymbol {
                            svma: Svma(symbol.st_value(endian)),
                            bytes: symbol.st_size(endian),
                        });
                    }
                }
            }
        }
        found
    }

    /// The symbol of this name; see [`ElfImage::symbols`].
    pub fn symbol(&self, name: &str) -> Option<ImageSymbol> {
        let [symbol] = self.symbols([name]);
        symbol
    }

    fn symbol_table(&self, kind: SectionType) -> Option<SymbolTable<'_, FileHeader64<Endianness>>> {
        if !self.is_file_layout() {
            return None;
        }
        let bytes: &[u8] = &self.bytes;
        let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
        let sections = header.sections(Endianness::Little, bytes).ok()?;
        sections.symbols(Endianness::Little, bytes, kind).ok()
    }

    /// Where the section of this name lies. Without section headers there are none.
    pub fn section_range(&self, name: &str) -> Option<Range<Svma>> {
        Sections::of(self).svma_range(name)
    }

    /// The bytes of all segments where constants and strings are, as far as they are looked through: those without code, and
    /// one with the headers and all else that is only read. Linkers make such a one unless told `-z separate-code`, which is
    /// what they do on x86_64, and not on aarch64.
    pub fn data_segments(&self) -> impl Iterator<Item = &[u8]> {
        let has_data = |segment: &&Segment| !segment.executable || segment.file.start.0 == 0;
        let data = self.segments().iter().filter(has_data);
        data.take(DATA_SEGMENTS_MAX)
            .filter_map(|segment| self.bytes_at(segment.svma.start))
            .map(|bytes| bytes.get(..DATA_BYTES_MAX).unwrap_or(bytes))
    }

    /// Every stretch of code that `.eh_frame` has an entry for, by ascending address. These survive stripping.
    pub fn fde_ranges(&self) -> Vec<Range<Svma>> {
        let sections = self.unwind_sections();
        let Some(section) = &sections.eh_frame else {
            return Vec::new();
        };
        let table = EhFrame::from(section.reader());
        section
            .index(|| FdeIndex::build(&table, &sections.bases))
            .starts()
            .filter_map(|start| native::function(self, Svma(start)))
            .collect()
    }

    /// Where the caller's frame begins at `svma`, where the unwind tables have that as a register's value and a number of
    /// bytes more.
    pub fn cfa_at(&self, svma: Svma) -> Option<(u16, i64)> {
        let mut context = UnwindContext::new();
        native::with_row(self, svma, &mut context, |cfa| match cfa {
            CfaRule::RegisterAndOffset { register, offset } => Some((register.0, *offset)),
            _ => None,
        })
    }

    /// Whether the unwind tables say that nothing is on the stack at `svma` but what a call puts there, as where functions
    /// begin.
    pub fn is_at_entry(&self, svma: Svma) -> bool {
        Arch::of_machine(self.machine()).is_some_and(|arch| {
            let at_entry = (arch.stack_pointer, arch.call_stack_bytes.cast_signed());
            self.cfa_at(svma) == Some(at_entry)
        })
    }
}
