//! Names for code that no table names: stubs are called after their function, all else after where it starts.

use std::borrow::Cow;
use std::cell::OnceCell;

use sampler_unwind::{ElfImage, Svma};

use super::elf::Elf;
use super::plt::PltStubs;
use super::symbol_table::Named;
use super::{NameFile, NameSource, NameTable};

/// Makes names for the addresses of one module.
#[derive(Debug)]
pub(super) struct StandIns<'a> {
    module_name: &'a str,
    file: NameFile,
    image: &'a ElfImage,
    elf: Elf<'a>,
    /// Read when they are first asked for.
    stubs: OnceCell<Option<PltStubs<'a>>>,
}

impl<'a> StandIns<'a> {
    /// For the module called `module_name`, whose file was read as both `image` and `elf`.
    pub(super) fn new(
        module_name: &'a str,
        file: NameFile,
        image: &'a ElfImage,
        elf: Elf<'a>,
    ) -> Self {
        Self {
            module_name,
            file,
            image,
            elf,
            stubs: OnceCell::new(),
        }
    }

    /// `printf@plt` for a stub, and `libx.so!fn_1a2b0` for code that unwind tables say starts there; `None` for all
    /// else.
    pub(super) fn name_at(&self, address: u64) -> Option<Named<'static>> {
        let stub = || {
            let stubs = self.stubs.get_or_init(|| PltStubs::find(&self.elf));
            Some((stubs.as_ref()?.name_at(address)?, NameTable::Plt))
        };
        let start = || {
            let start = self.image.function_range(Svma(address))?.start.0;
            Some((format!("{}!fn_{start:x}", self.module_name), NameTable::Fde))
        };
        let (name, table) = stub().or_else(start)?;
        Some(Named {
            name: Cow::Owned(name),
            is_sized: false,
            source: NameSource {
                table,
                file: self.file,
            },
        })
    }
}
