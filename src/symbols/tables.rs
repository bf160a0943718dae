//! Which tables there are to name a module's code by, without naming any.

use super::elf::Elf;
use super::{FileSymbolizer, NameFile, NameSource, NameTable};
use crate::profile::ModuleInfo;

impl FileSymbolizer {
    /// The tables with names that are there for `module`, those that tell the most first: lines and inlined functions,
    /// then all functions, then those that it exports. Empty where its functions would have no names.
    pub fn tables(&mut self, module: &ModuleInfo) -> Vec<NameSource> {
        let files = self.find_files(module);
        let mut found = Vec::new();
        for file in [&files.main, &files.debug].into_iter().flatten() {
            if let Ok(elf) = file.elf() {
                found.extend(tables_in(&elf, file.found));
            }
            let is_go = file
                .image()
                .is_some_and(|image| image.go_functions().is_some());
            found.extend(is_go.then_some(NameSource {
                table: NameTable::Pclntab,
                file: file.found,
            }));
        }
        // What the recording would keep, because the file's path does not lead to it.
        let kept = module
            .image
            .as_deref()
            .and_then(|image| Elf::parse(image).ok());
        found.extend(
            kept.iter()
                .flat_map(|elf| tables_in(elf, NameFile::Recording)),
        );
        found.sort_by_key(|source| rank(source.table));
        found
    }
}

fn tables_in(elf: &Elf<'_>, file: NameFile) -> Vec<NameSource> {
    let has = |symbols: object::Result<super::elf::Symbols<'_>>| {
        symbols.is_ok_and(|table| !table.is_empty())
    };
    let tables = [
        (NameTable::Dwarf, elf.has_debug_info()),
        (NameTable::Symtab, has(elf.symbol_table())),
        (
            NameTable::MiniDebugInfo,
            elf.section_data(b".gnu_debugdata").is_some(),
        ),
        (NameTable::Dynsym, has(elf.dynamic_symbols())),
    ];
    let there = tables.into_iter().filter(|(_, is_there)| *is_there);
    there.map(|(table, _)| NameSource { table, file }).collect()
}

fn rank(table: NameTable) -> u8 {
    match table {
        NameTable::Dwarf | NameTable::Dwz | NameTable::Dwo | NameTable::Dwp => 0,
        NameTable::Pclntab => 1,
        NameTable::Symtab => 2,
        NameTable::MiniDebugInfo => 3,
        NameTable::Dynsym => 4,
        NameTable::Plt | NameTable::Fde => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sampler_tests_support::fixture;

    use super::*;
    use crate::symbols::SymbolPaths;

    fn tables_of(path: &Path) -> Vec<NameTable> {
        let module = ModuleInfo {
            path: path.display().to_string(),
            build_id: None,
            image: None,
        };
        let found = FileSymbolizer::new(SymbolPaths::default()).tables(&module);
        found.into_iter().map(|source| source.table).collect()
    }

    #[test]
    fn what_a_program_has_is_listed_the_best_first() {
        let whole = tables_of(&fixture("shares"));
        assert_eq!(whole.first(), Some(&NameTable::Dwarf), "{whole:?}");
        assert!(whole.contains(&NameTable::Symtab), "{whole:?}");
        let stripped = tables_of(&fixture("stripped"));
        assert!(
            stripped.iter().all(|table| *table == NameTable::Dynsym),
            "{stripped:?}"
        );
        assert_eq!(tables_of(Path::new("/no/such/program")), []);
    }
}
