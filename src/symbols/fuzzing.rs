//! Any bytes as what symbols are read from: what the fuzz targets call. Only there when those are built.

use super::NameFile;
use super::elf::Elf;
use super::symbol_table::FunctionSymbols;
use super::{NameSource, NameTable, mini_debug_info, pack};

/// How much a pack may write, in bytes.
const WRITTEN_BYTES_MAX: u64 = 1 << 20;

/// Unpacks `bytes` as the archive in a pack.
///
/// # Panics
/// When there is no room for files.
pub fn pack(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("there is room for files");
    let _refused = pack::unpack(bytes, folder.path(), WRITTEN_BYTES_MAX);
}

/// Unpacks `bytes` as MiniDebugInfo, and takes it for the symbol table that may be in there as well.
pub fn mini_debug_info(bytes: &[u8]) {
    let unpacked = mini_debug_info::unpack(bytes).unwrap_or_default();
    for bytes in [&unpacked, bytes] {
        let Ok(elf) = Elf::parse(bytes) else {
            continue;
        };
        let source = NameSource {
            table: NameTable::MiniDebugInfo,
            file: NameFile::Module,
        };
        let mut tables = FunctionSymbols::default();
        let _damaged = tables.add_symbol_table(&elf, source);
        let _damaged = tables.add_dynamic_symbols(&elf, NameFile::Module);
        let _names = tables.names_at(&[0, 0x1000, 0x1234, u64::MAX]);
    }
}
