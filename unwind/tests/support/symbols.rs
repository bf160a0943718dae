//! Names for addresses, from symbol tables.

use object::{Object, ObjectSymbol};
use sampler_unwind::{Avma, ImageId, Modules};
use std::collections::HashMap;

/// The functions of each image, by address.
#[derive(Default)]
pub(crate) struct Symbols {
    tables: HashMap<ImageId, Vec<(u64, u64, String)>>,
}

impl Symbols {
    /// The function at `avma`, or the address itself.
    pub(crate) fn name(&mut self, modules: &Modules, avma: Avma) -> String {
        let Some(module) = modules.find(avma) else {
            return format!("{avma:?}");
        };
        let table = self
            .tables
            .entry(module.image.id())
            .or_insert_with(|| functions(module.image.bytes()));
        let svma = module.svma(avma).0;
        let after = table.partition_point(|(start, ..)| *start <= svma);
        table[..after]
            .iter()
            .rev()
            .take(4)
            .find(|(start, size, _)| *size == 0 || svma < start + size)
            .map_or_else(|| format!("{avma:?}"), |(.., name)| name.clone())
    }
}

fn functions(bytes: &[u8]) -> Vec<(u64, u64, String)> {
    let Ok(file) = object::File::parse(bytes) else {
        return Vec::new();
    };
    let mut table: Vec<_> = file
        .symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| symbol.is_definition() && symbol.kind() == object::SymbolKind::Text)
        .map(|symbol| {
            let name = symbol.name().unwrap_or_default().to_owned();
            (symbol.address(), symbol.size(), name)
        })
        .collect();
    table.sort();
    table
}
