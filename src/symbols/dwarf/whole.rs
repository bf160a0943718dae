//! DWARF that is all in one file, by blazesym.

use std::path::Path;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Reason, Sym, Symbolized, Symbolizer};

use super::{DwarfAnswer, DwarfError, INLINED_MAX};
use crate::symbols::contain::contain;
use crate::symbols::files::ElfOnDisk;
use crate::symbols::functions::{CodeFunctions, SourceLine};
use crate::symbols::{NameSource, NameTable};

/// As [`super::look_up`], in a file that needs no other.
pub(super) fn look_up(file: &ElfOnDisk, addresses: &[u64]) -> Result<DwarfAnswer, DwarfError> {
    let no_directories: [&Path; 0] = [];
    let symbolizer = Symbolizer::builder()
        .enable_auto_reload(false)
        .enable_demangling(false)
        .set_debug_dirs(Some(no_directories))
        .build();
    let source = Source::Elf(Elf::new(&file.path));
    let name_source = NameSource {
        table: NameTable::Dwarf,
        file: file.found,
    };
    let mut answer = DwarfAnswer::default();
    match contain(|| symbolizer.symbolize(&source, Input::VirtOffset(addresses))) {
        Ok(Ok(symbolized)) => answer.extend(symbolized, name_source),
        Ok(Err(error)) => return Err(DwarfError::Unreadable(format!("{error:#}"))),
        // One address made it panic: ask for each alone, and lose only that one.
        Err(_) => {
            for address in addresses {
                let address = Input::VirtOffset(std::slice::from_ref(address));
                match contain(|| symbolizer.symbolize(&source, address)) {
                    Ok(Ok(symbolized)) => answer.extend(symbolized, name_source),
                    Ok(Err(_)) | Err(_) => answer.push_damaged(),
                }
            }
        }
    }
    Ok(answer)
}

impl DwarfAnswer {
    fn extend(&mut self, symbolized: Vec<Symbolized<'_>>, source: NameSource) {
        for symbolized in symbolized {
            match symbolized {
                Symbolized::Sym(symbol) => self.push(functions_of(symbol, source)),
                Symbolized::Unknown(Reason::IgnoredError) => self.push_damaged(),
                Symbolized::Unknown(_) => self.push_unknown(),
            }
        }
    }
}

fn functions_of(symbol: Sym<'_>, source: NameSource) -> CodeFunctions {
    let name = is_from_dwarf(&symbol)
        .then(|| symbol.name.into_owned())
        .filter(|name| !name.is_empty());
    CodeFunctions {
        name,
        line: symbol.code_info.as_deref().and_then(line_of),
        // Where a name is missing the code is that of the function around it, which is true as well.
        inlined: symbol
            .inlined
            .into_iter()
            .take(INLINED_MAX)
            .filter(|inlined| !inlined.name.is_empty())
            .map(|inlined| {
                let line = inlined.code_info.as_ref().and_then(line_of);
                (inlined.name.into_owned(), line)
            })
            .collect(),
        source,
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

/// `None` where the compiler says that the code belongs to no line: it names a file all the same, any file.
fn line_of(code: &CodeInfo<'_>) -> Option<SourceLine> {
    Some(SourceLine {
        file: code.to_path().to_string_lossy().into_owned(),
        line: Some(code.line.filter(|&line| line != 0)?),
    })
}
