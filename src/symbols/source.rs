//! Where a name came from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of table a name was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NameTable {
    /// `.symtab`: all functions of a file.
    Symtab,
    /// `.dynsym`: those that it exports.
    Dynsym,
    /// MiniDebugInfo: a `.symtab` packed into `.gnu_debugdata`.
    MiniDebugInfo,
    /// DWARF in the file itself.
    Dwarf,
    /// DWARF that shares a supplementary file with others (`dwz`; DWARF 5, section 7.3.6).
    Dwz,
    /// DWARF left by the compiler in a file of its own for each unit (DWARF 5, section 7.3.2).
    Dwo,
    /// Such files packed into one.
    Dwp,
    /// Go's own table of functions.
    Pclntab,
    /// A stub of the procedure linkage table, named after the function that it calls.
    Plt,
    /// No name anywhere: made from the address at which unwind tables say that the function starts.
    Fde,
}

/// Which file of a module a name was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NameFile {
    /// The file that was mapped.
    Module,
    /// An image in the recording, of which there is no file.
    Recording,
    /// A separate debug file that `.gnu_debuglink` names.
    DebugLink,
    /// A separate debug file found by its build ID.
    BuildId,
}

/// Where a name came from: a table, in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameSource {
    /// The kind of table.
    pub table: NameTable,
    /// The file that the table is in, or that refers to it.
    pub file: NameFile,
}

impl fmt::Display for NameTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameTable::Symtab => ".symtab",
            NameTable::Dynsym => ".dynsym",
            NameTable::MiniDebugInfo => "MiniDebugInfo",
            NameTable::Dwarf => "DWARF",
            NameTable::Dwz => "DWARF with dwz",
            NameTable::Dwo => "DWARF in .dwo",
            NameTable::Dwp => "DWARF in .dwp",
            NameTable::Pclntab => "Go pclntab",
            NameTable::Plt => "PLT",
            NameTable::Fde => "unwind tables",
        })
    }
}

impl fmt::Display for NameFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameFile::Module => "the file itself",
            NameFile::Recording => "the recording",
            NameFile::DebugLink => "debug file by link",
            NameFile::BuildId => "debug file by build ID",
        })
    }
}

impl fmt::Display for NameSource {
    /// `.symtab (debug file by build ID)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.table, self.file)
    }
}
