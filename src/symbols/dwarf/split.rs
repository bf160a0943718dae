//! DWARF that the compiler left out of the program: in a `.dwo` for each unit, or packed into one `.dwp`
//! (`gcc -gsplit-dwarf`; DWARF 5, section 7.3.2, and the GNU form of it before).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use addr2line::SplitDwarfLoad;
use addr2line::gimli::{self, Dwarf, DwarfFileType, DwarfPackage, DwoId, UnitRef};
use rustc_hash::FxHashMap;
use sampler_unwind::ImageBytes;
use typed_arena::Arena;

use super::DwarfFiles;
use super::linked::{Reader, UNITS_MAX, section};
use crate::symbols::NameTable;
use crate::symbols::contain::contain;
use crate::symbols::files::ElfOnDisk;

/// How many `.dwo` files are opened for one module.
const DWO_MAX: usize = 1 << 14;

/// A file into which the compiler, or who packs what it left there, put DWARF of a module.
#[derive(Debug)]
pub(in crate::symbols) enum Part<'a> {
    /// The `.dwp` beside the module's file, or beside its debug file.
    Package(&'a ElfOnDisk),
    /// A `.dwo`, and where it is looked for first: an absolute path, or one beside the module's file.
    Unit(&'a ElfOnDisk, &'a Path),
}

/// Gives `each` all files that hold DWARF of `files`. Says what is missing.
///
/// # Errors
/// When `each` fails.
pub(in crate::symbols) fn each_part(
    files: DwarfFiles<'_>,
    each: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<Option<String>> {
    for file in files.beside() {
        if let Ok(package) = ElfOnDisk::open(&file.path_with(".dwp"), file.found) {
            each(Part::Package(&package))?;
        }
    }
    // Damage ends the list; a report says more about it.
    contain(|| each_unit(files, each)).unwrap_or(Ok(None))
}

fn each_unit(
    files: DwarfFiles<'_>,
    each: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<Option<String>> {
    let arena = Arena::new();
    let Some(image) = files.file.image() else {
        return Ok(None);
    };
    let load = |id: gimli::SectionId| Ok::<_, gimli::Error>(section(&arena, image, id.name()));
    let Ok(dwarf) = Dwarf::load(load) else {
        return Ok(None);
    };
    let dwarf = Arc::new(dwarf);
    let mut split = SplitFiles::new(files, &arena);
    let mut units = dwarf.units();
    for _ in 0..UNITS_MAX {
        let Ok(Some(header)) = units.next() else {
            break;
        };
        let unit = dwarf.unit(header).ok();
        let Some(wanted) = unit.and_then(|unit| left_out(&dwarf, &unit)) else {
            continue;
        };
        if split.packed(&wanted).is_some() {
            continue;
        }
        let candidates = split.candidates(&wanted);
        let is_right = |file: &ElfOnDisk| dwo(file, &Arena::new(), wanted.dwo_id).is_some();
        let mut found = candidates.iter().filter_map(|path| split.open(path));
        match found.find(is_right) {
            Some(file) => {
                let name = path_of(&wanted.path).unwrap_or_default();
                let written = written(&wanted).unwrap_or(name);
                each(Part::Unit(&file, &written))?;
            }
            None => split.miss(candidates),
        }
    }
    Ok(split.note())
}

/// What `unit` says about DWARF of it that is elsewhere.
fn left_out<'arena>(
    dwarf: &Arc<Dwarf<Reader<'arena>>>,
    unit: &gimli::Unit<Reader<'arena>>,
) -> Option<SplitDwarfLoad<Reader<'arena>>> {
    let name = unit.dwo_name().ok()??;
    Some(SplitDwarfLoad {
        dwo_id: unit.dwo_id?,
        comp_dir: unit.comp_dir,
        path: Some(dwarf.attr_string(unit, name).ok()?),
        parent: Arc::clone(dwarf),
    })
}

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
        if let Some(packed) = self.packed(wanted) {
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
            None => self.miss(candidates),
        }
        loaded
    }

    /// The DWARF of the unit that `wanted` describes, if it is in the package.
    fn packed(&self, wanted: &SplitDwarfLoad<Reader<'arena>>) -> Option<Dwarf<Reader<'arena>>> {
        let package = self.package.as_ref()?;
        package
            .find_cu(wanted.dwo_id, &wanted.parent)
            .ok()
            .flatten()
    }

    /// None of `candidates` was it.
    fn miss(&mut self, candidates: Vec<PathBuf>) {
        self.missing += 1;
        let first = candidates.into_iter().next();
        self.first_missing = self.first_missing.take().or(first);
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
        let Some(name) = path_of(&wanted.path) else {
            return Vec::new();
        };
        let written = written(wanted);
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
        let file = self.open(path)?;
        let mut dwarf = dwo(&file, self.arena, wanted.dwo_id)?;
        dwarf.make_dwo(&wanted.parent);
        Some(dwarf)
    }

    /// The file at `path`, unless too many were opened.
    fn open(&mut self, path: &Path) -> Option<ElfOnDisk> {
        if self.opened >= DWO_MAX {
            return None;
        }
        let file = ElfOnDisk::open(path, self.files.file.found).ok()?;
        self.opened += 1;
        Some(file)
    }
}

/// The DWARF in a `.dwo`, if it is of the unit with the number `id`.
fn dwo<'arena>(
    file: &ElfOnDisk,
    arena: &'arena Arena<ImageBytes>,
    id: DwoId,
) -> Option<Dwarf<Reader<'arena>>> {
    let image = file.image()?;
    let dwarf = Dwarf::load(|id| {
        let name = id.dwo_name().unwrap_or_default();
        Ok::<_, gimli::Error>(section(arena, image, name))
    })
    .ok()?;
    let header = dwarf.units().next().ok()??;
    let unit = dwarf.unit(header).ok()?;
    (unit.dwo_id == Some(id)).then_some(dwarf)
}

fn path_of(part: &Option<Reader<'_>>) -> Option<PathBuf> {
    Some(PathBuf::from(OsStr::from_bytes(part.as_ref()?.slice())))
}

/// Where the compiler wrote the `.dwo`, if that is said in full.
fn written(wanted: &SplitDwarfLoad<Reader<'_>>) -> Option<PathBuf> {
    let folder = path_of(&wanted.comp_dir).unwrap_or_default();
    Some(folder.join(path_of(&wanted.path)?)).filter(|path| path.is_absolute())
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
