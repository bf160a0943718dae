//! Names, lines and inlined functions from the table that Go programs carry for their own runtime.

use sampler_unwind::{ElfImage, GoLine, Svma};

use super::functions::{CodeFunctions, SourceLine};
use super::{NameFile, NameSource, NameTable};

/// What Go's table says about many addresses.
#[derive(Debug)]
pub(super) struct GoAnswer {
    /// One entry per address asked for.
    pub(super) functions: Vec<Option<CodeFunctions>>,
    /// Whether nothing more can be learned from DWARF about the addresses that have an entry.
    pub(super) is_complete: bool,
}

/// Looks `addresses` up in Go's table of functions; `None` where there is no such table.
pub(super) fn look_up(image: &ElfImage, file: NameFile, addresses: &[u64]) -> Option<GoAnswer> {
    let table = image.go_functions()?;
    let source = NameSource {
        table: NameTable::Pclntab,
        file,
    };
    let functions = addresses.iter().map(|&address| {
        let function = table.find(Svma(address))?;
        let mut calls = table.calls(&function, Svma(address));
        let outermost = calls.pop()?;
        Some(CodeFunctions {
            name: Some(outermost.name.to_owned()),
            line: outermost.line.map(source_line),
            inlined: calls
                .into_iter()
                .rev()
                .map(|call| (call.name.to_owned(), call.line.map(source_line)))
                .collect(),
            source,
        })
    });
    Some(GoAnswer {
        functions: functions.collect(),
        is_complete: table.has_inline_trees(),
    })
}

fn source_line(line: GoLine<'_>) -> SourceLine {
    SourceLine {
        file: line.file.to_owned(),
        line: Some(line.line),
    }
}
