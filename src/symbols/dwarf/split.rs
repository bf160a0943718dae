//! DWARF that the compiler left out of the program: in a `.dwo` for each unit, or packed into one `.dwp`
//! (`gcc -gsplit-dwarf`; DWARF 5, section 7.3.2, and the GNU form of it before).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use addr2line::SplitDwarfLoad;
use addr2line::gimli::{self, Dwarf, DwarfFileType, DwarfPackage, DwoId, Reader as _, UnitRef};
use rustc_hash::FxHashMap;
use sampler_unwind::ImageBytes;
use typed_arena::Arena;

use super::DwarfFiles;
use super::linked::{Reader, section};
use crate::symbols::NameTable;
use crate::symbols::files::ElfOnDisk;

/// How many `.dwo` files are opened for one module.
const DWO_MAX: usize = 1 << 14;

/// Finds and loads the files of one module.
pub(super) struct SplitFiles<'a, 'arena> {
    files: DwarfFiles<'a>,
    arena: &'arena Arena<ImageBytes>,
    package: Option<DwarfPackage<Reader<'arena>>>,
    /// Where the unit with each number was found.
    found: FxHashMap<DwoId, NameTable>,
    opened: usize,
    missing: usize,
    first_missing: Option<PathBuf>,
}

impl<'a, 'arena> SplitFiles<'a, 'arena> {
    /// For the units of `files`.
    pub(super) fn new(files: DwarfFiles<'a>, arena: &'arena Arena<ImageBytes>) -> Self {
        Self {
            files,
            arena,
            package: files.beside().find_map(|file| package(file, arena)),
            found: FxHashMap::default(),
            opened: 0,
            missing: 0,
            first_missing: None,
        }
    }

    /// The DWARF of the unit that `wanted` describes.
    pub(super) fn load(
        &mut self,
        wanted: &SplitDwarfLoad<Reader<'arena>>,
    ) -> Option<Dwarf<Reader<'arena>>> {
        let packed = self.package.as_ref().and_then(|package| {
            package
                .find_cu(wanted.dwo_id, &wanted.parent)
                .ok()
                .flatten()
        });
        if let Some(packed) = packed {
            self.found.insert(wanted.dwo_id, NameTable::Dwp);
            return Some(packed);
        }
        let candidates = self.candidates(wanted);
        let loaded = candidates
            .iter()
            .find_map(|path| self.load_dwo(path, wanted));
        match loaded {
            Some(_) => {
                self.found.insert(wanted.dwo_id, NameTable::Dwo);
            }
            None => {
                self.missing += 1;
                self.first_missing = self
                    .first_missing
                    .take()
                    .or_else(|| candidates.into_iter().next());
            }
        }
        loaded
    }

    /// Where the functions of `unit` were found, if not in the program itself.
    pub(super) fn table_of(&self, unit: &UnitRef<'_, Reader<'arena>>) -> Option<NameTable> {
        if unit.dwarf.file_type != DwarfFileType::Dwo {
            return None;
        }
        self.found.get(&unit.dwo_id?).copied()
    }

    /// What was not found.
    pub(super) fn note(self) -> Option<String> {
        let first = self.first_missing?;
        Some(format!(
            "no inlined functions from {} units whose .dwo files are not there, such as {}",
            self.missing,
            first.display()
        ))
    }

    /// Where the `.dwo` may be: where the compiler wrote it, else beside the program.
    fn candidates(&self, wanted: &SplitDwarfLoad<Reader<'arena>>) -> Vec<PathBuf> {
        let path = |part: &Option<Reader<'arena>>| -> Option<PathBuf> {
            let bytes = part.as_ref()?.to_slice().ok()?.into_owned();
            Some(PathBuf::from(OsStr::from_bytes(&bytes)))
        };
        let Some(name) = path(&wanted.path) else {
            return Vec::new();
        };
        let written = path(&wanted.comp_dir).unwrap_or_default().join(&name);
        let written = written.is_absolute().then_some(written);
        let in_sysroot = written
            .as_deref()
            .and_then(|written| self.files.paths.in_sysroot(written));
        let names = [Some(name.as_path()), name.file_name().map(Path::new)];
        let names = names
            .into_iter()
            .flatten()
            .filter(|name| name.is_relative());
        let directories = self.files.beside().filter_map(|file| file.path.parent());
        let beside =
            directories.flat_map(|directory| names.clone().map(|name| directory.join(name)));
        in_sysroot
            .into_iter()
            .chain(written)
            .chain(beside)
            .collect()
    }

    /// The DWARF in the `.dwo` at `path`, if it is the one that was made with the program.
    fn load_dwo(
        &mut self,
        path: &Path,
        wanted: &SplitDwarfLoad<Reader<'arena>>,
    ) -> Option<Dwarf<Reader<'arena>>> {
        if self.opened >= DWO_MAX {
            return None;
        }
        let file = ElfOnDisk::open(path, self.files.file.found).ok()?;
        self.opened += 1;
        let image = file.image()?;
        let mut dwarf = Dwarf::load(|id| {
            let name = id.dwo_name().unwrap_or_default();
            Ok::<_, gimli::Error>(section(self.arena, image, name))
        })
        .ok()?;
        let header = dwarf.units().next().ok()??;
        let unit = dwarf.unit(header).ok()?;
        if unit.dwo_id != Some(wanted.dwo_id) {
            return None;
        }
        dwarf.make_dwo(&wanted.parent);
        Some(dwarf)
    }
}

impl<'a> DwarfFiles<'a> {
    /// The files beside which others may lie.
    fn beside(self) -> impl Iterator<Item = &'a ElfOnDisk> {
        [Some(self.file), self.main].into_iter().flatten()
    }
}

/// The `.dwp` beside `file`.
fn package<'arena>(
    file: &ElfOnDisk,
    arena: &'arena Arena<ImageBytes>,
) -> Option<DwarfPackage<Reader<'arena>>> {
    let file = ElfOnDisk::open(&file.path_with(".dwp"), file.found).ok()?;
    let image = file.image()?;
    DwarfPackage::load(
        |id| {
            let name = id.dwo_name().unwrap_or_default();
            Ok::<_, gimli::Error>(section(arena, image, name))
        },
        Reader::default(),
    )
    .ok()
}
