//! Names that were asked for before: a live view asks for the same addresses every second.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use sampler_unwind::BuildId;

use super::{Symbol, Symbolize};
use crate::profile::ModuleInfo;

/// Asks another symbolizer for what it was not asked before.
///
/// Its memory grows with the number of distinct addresses: some ten thousand for a large program.
#[derive(Debug, Default)]
pub struct Remembered<S> {
    inner: S,
    known: FxHashMap<ModuleKey, FxHashMap<u64, Vec<Symbol>>>,
}

type ModuleKey = (String, Option<BuildId>);

impl<S> Remembered<S> {
    /// Asks `inner`.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            known: FxHashMap::default(),
        }
    }
}

impl<S: Symbolize> Symbolize for Remembered<S> {
    fn symbolize(&mut self, module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        let key = (module.path.clone(), module.build_id.clone());
        let known = self.known.entry(key).or_default();
        let new: Vec<u64> = addresses
            .iter()
            .copied()
            .filter(|address| !known.contains_key(address))
            .collect();
        if !new.is_empty() {
            let symbols = self.inner.symbolize(module, &new);
            known.extend(new.into_iter().zip(symbols));
        }
        addresses
            .iter()
            .map(|address| known.get(address).cloned().unwrap_or_default())
            .collect()
    }

    fn notes(&self) -> Vec<String> {
        self.inner.notes()
    }
}

/// For several that ask: each waits while another is answered.
impl<S: Symbolize> Symbolize for Arc<Mutex<S>> {
    fn symbolize(&mut self, module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        let mut inner = self.lock().unwrap_or_else(PoisonError::into_inner);
        inner.symbolize(module, addresses)
    }

    fn notes(&self) -> Vec<String> {
        self.lock().unwrap_or_else(PoisonError::into_inner).notes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::{NameFile, NameSource, NameTable};

    /// Names every even address by itself, and notes what it was asked.
    #[derive(Default)]
    struct Counting {
        asked: Vec<u64>,
    }

    impl Symbolize for Counting {
        fn symbolize(&mut self, _module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>> {
            self.asked.extend_from_slice(addresses);
            let symbol = |address: &u64| Symbol {
                function: address.to_string(),
                file: None,
                line: None,
                inlined: false,
                source: NameSource {
                    table: NameTable::Symtab,
                    file: NameFile::Module,
                },
            };
            let symbols =
                |address: &u64| Vec::from_iter(address.is_multiple_of(2).then(|| symbol(address)));
            addresses.iter().map(symbols).collect()
        }

        fn notes(&self) -> Vec<String> {
            vec!["a note".to_owned()]
        }
    }

    fn module(path: &str, build_id: u8) -> ModuleInfo {
        ModuleInfo {
            path: path.to_owned(),
            build_id: Some(BuildId(vec![build_id])),
            image: None,
        }
    }

    #[test]
    fn each_address_of_a_module_is_asked_for_once() {
        let mut names = Remembered::new(Counting::default());
        let mut ask = |module: &ModuleInfo, addresses: &[u64]| -> Vec<Option<String>> {
            let symbols = names.symbolize(module, addresses);
            let first = |symbols: Vec<Symbol>| symbols.into_iter().next();
            symbols
                .into_iter()
                .map(|symbols| first(symbols).map(|symbol| symbol.function))
                .collect()
        };
        let name = |text: &str| Some(text.to_owned());
        let one = module("/lib/one.so", 1);
        assert_eq!(ask(&one, &[2, 3]), [name("2"), None]);
        assert_eq!(ask(&one, &[3, 4, 2]), [None, name("4"), name("2")]);
        // The file was replaced: another program.
        assert_eq!(ask(&module("/lib/one.so", 2), &[2]), [name("2")]);
        assert_eq!(names.inner.asked, [2, 3, 4, 2]);
        assert_eq!(names.notes(), ["a note"]);
    }
}
