//! Which files on disk hold the names of a module, and whether they are the ones that ran.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sampler_platforms::MappedFile;
use sampler_platforms::linux::target_file;
use sampler_unwind::{BuildId, ElfError, ElfImage, ImageBytes};

use super::NameFile;
use super::elf::{DebugLink, Elf};
use crate::profile::ModuleInfo;

/// No program is larger, in bytes; a file can say that it is, and have nothing in it.
const FILE_BYTES_MAX: u64 = 16 << 30;

/// Where distributions put separate debug files.
const DEBUG_DIR: &str = "/usr/lib/debug";

/// Where to look for files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymbolPaths {
    /// A directory that holds the file system of the machine or container that was recorded. Paths of a recording
    /// are looked up in it first.
    pub sysroot: Option<PathBuf>,
    /// Directories with separate debug files, laid out like `/usr/lib/debug`, which is searched after them.
    pub debug_dirs: Vec<PathBuf>,
}

/// An ELF file of which it is known that it belongs to a module.
#[derive(Debug)]
pub(super) struct ElfOnDisk {
    pub(super) path: PathBuf,
    /// How it was found.
    pub(super) found: NameFile,
    bytes: ImageBytes,
    image: OnceLock<Option<ElfImage>>,
}

/// What was found for a module.
#[derive(Debug, Default)]
pub(super) struct ModuleFiles {
    /// The file that was mapped.
    pub(super) main: Option<ElfOnDisk>,
    /// Its separate debug file.
    pub(super) debug: Option<ElfOnDisk>,
    /// Why a file is not used, each a line.
    pub(super) refused: Vec<String>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("not a regular file")]
    NotAFile,
    #[error("larger than any program")]
    TooLarge,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Elf(#[from] ElfError),
}

impl ElfOnDisk {
    /// Opens the file at `path`, which was found as `found` says.
    ///
    /// # Errors
    /// When there is no such file, or it is no ELF file.
    pub(super) fn open(path: &Path, found: NameFile) -> Result<Self, FileError> {
        // Not opened before it is known to be one: to open a pipe, which a recording may name, waits for its other end.
        let file = match target_file::open_regular(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(FileError::NotAFile);
            }
            opened => opened?,
        };
        if file.metadata()?.len() > FILE_BYTES_MAX {
            return Err(FileError::TooLarge);
        }
        let bytes = MappedFile::map(&file)?;
        Elf::parse(bytes.as_ref())?;
        Ok(Self {
            path: path.to_owned(),
            found,
            bytes: ImageBytes::new(Arc::new(bytes)),
            image: OnceLock::new(),
        })
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The parsed headers.
    ///
    /// # Errors
    /// Never for a file that stays as it was when it was opened.
    pub(super) fn elf(&self) -> Result<Elf<'_>, ElfError> {
        Elf::parse(&self.bytes)
    }

    /// The file as unwinding knows it.
    pub(super) fn image(&self) -> Option<&ElfImage> {
        self.image
            .get_or_init(|| ElfImage::parse(self.bytes.clone()).ok())
            .as_ref()
    }

    /// Its path with `suffix` appended.
    pub(super) fn path_with(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        PathBuf::from(path)
    }

    /// Its GNU build ID.
    pub(super) fn build_id(&self) -> Option<BuildId> {
        self.elf().ok()?.build_id()
    }
}

impl ModuleFiles {
    /// Whether one of them has DWARF.
    pub(super) fn has_debug_info(&self) -> bool {
        let files = [&self.main, &self.debug].into_iter().flatten();
        files
            .filter_map(|file| file.elf().ok())
            .any(|elf| elf.has_debug_info())
    }

    /// The one that the DWARF is in, or begins in.
    pub(super) fn with_dwarf(&self) -> Option<&ElfOnDisk> {
        let mut files = [&self.debug, &self.main].into_iter().flatten();
        files.find(|file| file.elf().is_ok_and(|elf| elf.has_debug_info()))
    }

    /// Takes the debug file at `path`, if it is the one of `build_id`.
    pub(super) fn set_debug(&mut self, path: &Path, build_id: &BuildId) {
        let file = ElfOnDisk::open(path, NameFile::BuildId).ok();
        self.debug = file.filter(|file| file.build_id().as_ref() == Some(build_id));
    }
}

impl SymbolPaths {
    /// The directories with separate debug files, in the order in which they are asked.
    pub(super) fn debug_dirs(&self) -> Vec<PathBuf> {
        let mut dirs = self.debug_dirs.clone();
        if let Some(sysroot) = &self.sysroot {
            dirs.push(below(sysroot, Path::new(DEBUG_DIR)));
        }
        dirs.push(PathBuf::from(DEBUG_DIR));
        dirs
    }

    /// Looks for the files of `module`.
    pub(super) fn find(&self, module: &ModuleInfo) -> ModuleFiles {
        let mut files = ModuleFiles::default();
        if !module.path.starts_with('/') {
            return files;
        }
        files.main = self.find_main(module, &mut files.refused);
        let build_id = module
            .build_id
            .clone()
            .or_else(|| files.main.as_ref()?.build_id());
        files.debug = self.find_debug(module, build_id.as_ref(), &mut files);
        let is_missing = files.main.is_none() && files.debug.is_none() && module.image.is_none();
        if is_missing && files.refused.is_empty() {
            let missing = format!("{}: {} not found", module_name(module), module.path);
            files.refused.push(missing);
        }
        files
    }

    fn find_main(&self, module: &ModuleInfo, refused: &mut Vec<String>) -> Option<ElfOnDisk> {
        let recorded = Path::new(&module.path);
        let in_sysroot = self.in_sysroot(recorded);
        // With a sysroot the file of this machine is only an answer if it is proven to be the same.
        let here = (in_sysroot.is_none() || module.build_id.is_some()).then(|| recorded.to_owned());
        [in_sysroot, here]
            .into_iter()
            .flatten()
            .find_map(|path| open_main(&path, module, refused))
    }

    fn find_debug(
        &self,
        module: &ModuleInfo,
        build_id: Option<&BuildId>,
        files: &mut ModuleFiles,
    ) -> Option<ElfOnDisk> {
        let by_build_id = build_id.into_iter().flat_map(|id| self.by_build_id(id));
        for path in by_build_id {
            if let Some(file) =
                open_debug(&path, NameFile::BuildId, build_id, None, &mut files.refused)
            {
                return Some(file);
            }
        }
        let main = files.main.as_ref();
        let elf = main.and_then(|main| main.elf().ok());
        let link = elf.as_ref().and_then(Elf::debug_link);
        let recorded = Path::new(&module.path);
        let (path, name) = match (main, link) {
            (Some(main), Some(link)) => (main.path.as_path(), file_name(link)?.to_owned()),
            // The file says that it has no debug file elsewhere.
            (Some(_), None) => return None,
            // Without the file there is no link to follow, only a habit.
            (None, _) => (recorded, with_debug_suffix(recorded.file_name()?)),
        };
        self.by_name(path, recorded, &name)
            .iter()
            .filter(|candidate| Some(candidate.as_path()) != main.map(|main| main.path.as_path()))
            .find_map(|candidate| {
                let found = NameFile::DebugLink;
                open_debug(candidate, found, build_id, link, &mut files.refused)
            })
    }

    /// Where `path` is in the sysroot, if there is one.
    pub(super) fn in_sysroot(&self, path: &Path) -> Option<PathBuf> {
        Some(below(self.sysroot.as_ref()?, path))
    }

    /// Where a debug file may be that has the `build_id`.
    pub(super) fn by_build_id(&self, build_id: &BuildId) -> Vec<PathBuf> {
        let hex = build_id.to_string();
        let Some((first, rest)) = hex.split_at_checked(2).filter(|(_, rest)| !rest.is_empty())
        else {
            return Vec::new();
        };
        self.debug_dirs()
            .iter()
            .map(|dir| {
                dir.join(".build-id")
                    .join(first)
                    .join(format!("{rest}.debug"))
            })
            .collect()
    }

    /// Beside the file at `path`, in `.debug` there, and in the directories for debug files under the path that was
    /// recorded and the one found; symbolic links resolved, because packages name the real directory.
    fn by_name(&self, path: &Path, recorded: &Path, name: &OsStr) -> Vec<PathBuf> {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut directories = Vec::new();
        for directory in [real.parent(), path.parent(), recorded.parent()]
            .into_iter()
            .flatten()
        {
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
        let beside = directories
            .iter()
            .flat_map(|directory| [directory.join(name), directory.join(".debug").join(name)]);
        let dirs = self.debug_dirs();
        let apart = dirs.iter().flat_map(|dir| {
            directories
                .iter()
                .map(move |directory| below(dir, directory).join(name))
        });
        beside.chain(apart).collect()
    }
}

/// Opens the file that a module was mapped from, if it still is that file.
fn open_main(path: &Path, module: &ModuleInfo, refused: &mut Vec<String>) -> Option<ElfOnDisk> {
    let name = module_name(module);
    let file = match ElfOnDisk::open(path, NameFile::Module) {
        Ok(file) => file,
        Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            refused.push(format!(
                "{name}: {} cannot be used: {error}",
                path.display()
            ));
            return None;
        }
    };
    match (file.build_id(), &module.build_id) {
        (Some(on_disk), Some(recorded)) if on_disk == *recorded => Some(file),
        // The recording holds its names because this path did not lead to it.
        (_, None) if module.image.is_some() => None,
        (Some(on_disk), Some(recorded)) => {
            refused.push(format!(
                "{name}: build ID on disk is {on_disk}, recorded {recorded}: not used"
            ));
            None
        }
        (None, Some(recorded)) => {
            refused.push(format!(
                "{name}: no build ID on disk, recorded {recorded}: not used"
            ));
            None
        }
        (Some(on_disk), None) => {
            refused.push(format!(
                "{name}: build ID on disk is {on_disk}, recorded none: used, but it may be another file than ran"
            ));
            Some(file)
        }
        // Nothing to compare, as with every file built without one.
        (None, None) => Some(file),
    }
}

/// Opens a separate debug file, if it is proven to belong: by its build ID, or where either has none by the checksum
/// in the link. Equal build IDs need no checksum, and reading gigabytes for one is left out.
fn open_debug(
    path: &Path,
    found: NameFile,
    build_id: Option<&BuildId>,
    link: Option<DebugLink<'_>>,
    refused: &mut Vec<String>,
) -> Option<ElfOnDisk> {
    let file = match ElfOnDisk::open(path, found) {
        Ok(file) => file,
        Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            refused.push(format!("{} cannot be used: {error}", path.display()));
            return None;
        }
    };
    let reason = match (file.build_id(), build_id, link) {
        (Some(found), Some(wanted), _) if found == *wanted => return Some(file),
        (Some(found), Some(wanted), _) => format!("build ID is {found}, recorded {wanted}"),
        (_, _, Some(link)) => match crc32fast::hash(&file.bytes) {
            crc if crc == link.crc => return Some(file),
            crc => format!("checksum is {crc:08x}, the link says {:08x}", link.crc),
        },
        (None, Some(wanted), None) => format!("no build ID, recorded {wanted}"),
        // Found by its name alone: nothing says that it belongs, and nobody asked for it.
        (_, None, None) => return None,
    };
    refused.push(format!("{}: {reason}: not used", path.display()));
    None
}

/// The file name of a module's path.
pub(crate) fn module_name(module: &ModuleInfo) -> &str {
    match module.path.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => name,
        _ => &module.path,
    }
}

/// The absolute path `path` inside the directory `root`. `..` is left out: it must not lead out of it.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part),
        _ => None,
    });
    root.iter().chain(parts).collect()
}

/// The file that a link names; it has no business in another directory.
fn file_name(link: DebugLink<'_>) -> Option<&OsStr> {
    Path::new(OsStr::from_bytes(link.file_name)).file_name()
}

fn with_debug_suffix(name: &OsStr) -> OsString {
    let mut name = name.to_owned();
    name.push(".debug");
    name
}

/// Whether the file at `path` is an ELF file with this build ID.
pub(super) fn has_build_id(path: &Path, build_id: &BuildId) -> bool {
    ElfOnDisk::open(path, NameFile::BuildId)
        .is_ok_and(|file| file.build_id().as_ref() == Some(build_id))
}
