//! What sources say about one address, and how it is brought together.

use super::symbol_table::Named;
use super::{NameSource, NameTable, Symbol, demangle};

/// The functions at one address, as one source has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodeFunctions {
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

impl CodeFunctions {
    /// Whether anything is known.
    pub(super) fn is_some(&self) -> bool {
        self.name.is_some() || self.line.is_some() || !self.inlined.is_empty()
    }
}

/// The functions at one address, innermost first.
///
/// For the function whose code it is a symbol is preferred to DWARF, which does not tell a cold part or a copy from
/// its original and often leaves out the linkage name; but not a symbol that only reaches to the next one. Go's own
/// table is preferred to either: it has what Go programmers know the function by.
pub(super) fn symbols_at(named: Option<&Named<'_>>, code: Option<&CodeFunctions>) -> Vec<Symbol> {
    let from_symbol = named.map(|named| (&*named.name, named.source));
    let from_code = code.and_then(|code| Some((code.name.as_deref()?, code.source)));
    let is_symbol_better = named.is_some_and(|named| named.is_sized)
        && from_code.is_none_or(|(_, source)| source.table != NameTable::Pclntab);
    let name = if is_symbol_better {
        from_symbol
    } else {
        from_code.or(from_symbol)
    };
    let Some((name, source)) = name else {
        return Vec::new();
    };
    let mut symbols: Vec<Symbol> = code
        .into_iter()
        .flat_map(|code| {
            let inlined = code.inlined.iter().rev();
            inlined.map(|(name, line)| symbol(name, line.as_ref(), true, code.source))
        })
        .collect();
    let line = code.and_then(|code| code.line.as_ref());
    symbols.push(symbol(name, line, false, source));
    symbols
}

fn symbol(name: &str, line: Option<&SourceLine>, inlined: bool, source: NameSource) -> Symbol {
    let function = match source.table {
        // As they are shown already; in a Go name a dot does not begin what a compiler appended.
        NameTable::Pclntab | NameTable::Plt | NameTable::Fde => name.to_owned(),
        _ => demangle(name),
    };
    Symbol {
        function,
        file: line.map(|line| line.file.clone()),
        line: line.and_then(|line| line.line),
        inlined,
        source,
    }
}
