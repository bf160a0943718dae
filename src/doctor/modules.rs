//! The modules and interpreters of a process, in words.

use sampler_unwind::UnwindTables;
use serde::Serialize;

use crate::record::{InspectedModule, InspectedRuntime};
use crate::symbols::{FileSymbolizer, NameTable};

/// A module of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Its path in the process's mount namespace.
    pub path: String,
    /// Its GNU build ID.
    pub build_id: Option<String>,
    /// Where names of its code would come from, those that tell the most first; empty for none.
    pub names: Vec<String>,
    /// Whether there are source lines.
    pub lines: bool,
    /// What says how to unwind it; empty for nothing: then code is read, and frame pointers are believed.
    pub unwinding: Vec<&'static str>,
    /// Whether all its functions have names, rather than none or only those that it exports.
    pub all_functions: bool,
}

/// An interpreter in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Runtime {
    /// What its frames are written in.
    pub language: &'static str,
    /// Such as `LuaJIT 2.1.1700008891`.
    pub version: String,
    /// Why its frames cannot be shown; `None` where they are.
    pub unsupported: Option<String>,
    /// The path of the module that it is in.
    pub module: String,
}

impl Module {
    pub(super) fn new(module: &InspectedModule, symbolizer: &mut FileSymbolizer) -> Self {
        let tables = symbolizer.tables(&module.info);
        let mut names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        names.dedup();
        let is_whole =
            |table| !matches!(table, NameTable::Dynsym | NameTable::Plt | NameTable::Fde);
        Self {
            path: module.info.path.clone(),
            build_id: module.info.build_id.as_ref().map(ToString::to_string),
            lines: tables
                .iter()
                .any(|source| matches!(source.table, NameTable::Dwarf | NameTable::Pclntab)),
            // The vDSO exports all that it has.
            all_functions: tables.iter().any(|source| is_whole(source.table))
                || !module.info.path.starts_with('/') && !tables.is_empty(),
            unwinding: words(module.unwinding),
            names,
        }
    }
}

impl Runtime {
    pub(super) fn new(runtime: &InspectedRuntime) -> Self {
        Self {
            language: runtime.language.name(),
            version: runtime.version.clone(),
            unsupported: runtime.unsupported.clone(),
            module: runtime.module.clone(),
        }
    }
}

fn words(tables: UnwindTables) -> Vec<&'static str> {
    let all = [
        (tables.eh_frame, ".eh_frame"),
        (tables.debug_frame, ".debug_frame"),
        (tables.go, "Go pclntab"),
    ];
    let there = all.into_iter().filter(|(is_there, _)| *is_there);
    there.map(|(_, name)| name).collect()
}
