//! Symbol packs: what a recording needs to be named on another machine, in one file.
//!
//! A pack is a tar archive, compressed with gzip: under `root/` the files that were mapped, at their paths, without what
//! naming does not need; under `debug/` their debug files, laid out as `/usr/lib/debug` is. Unpacked into a folder that
//! goes away with the report, that is all a report has to look into. Who made a pack is not known: nothing in it is
//! written anywhere else, and what it claims to be large it must be able to be.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use object::read::elf::SectionHeader;
use sampler_unwind::BuildId;
use tar::{Archive, Builder, EntryType, Header};
use tempfile::TempDir;

use super::NameFile;
use super::dwarf::{self, DwarfFiles, Part};
use super::elf::Elf;
use super::files::{ElfOnDisk, ModuleFiles, SymbolPaths, below, module_name};
use crate::profile::ModuleInfo;

/// The first entry, which says that this is a pack, and of which version.
const MARK_NAME: &str = "sampler-symbol-pack";
const MARK: &[u8] = b"1\n";

const ROOT: &str = "root";
const DEBUG: &str = "debug";

/// How many files a pack may hold.
const FILES_MAX: usize = 1 << 16;
/// How large one file, and all of them, may say that they are, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 30;
const PACK_BYTES_MAX: u64 = 64 << 30;
/// What is not zero in the files may be this many times as large as the pack, and a bit: debug information compresses to a
/// third, and to a tenth at best.
const RATIO_MAX: u64 = 50;
const RATIO_FREE_BYTES: u64 = 64 << 20;
/// Files are written in pieces of so many bytes; those of zeros are left out.
const PIECE_BYTES: usize = 64 << 10;

/// Sections that hold what ran and nothing that names it.
const UNNEEDED_SECTIONS: [&str; 3] = [".text", ".rodata", ".data"];

/// What a pack came to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackSummary {
    /// Files that were mapped.
    pub modules: usize,
    /// Their debug files.
    pub debug_files: usize,
    /// What is not in it, each a line.
    pub notes: Vec<String>,
}

/// Why a pack cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It cannot be read or unpacked.
    #[error("cannot unpack it")]
    Io(#[from] io::Error),
    /// It does not begin as packs do.
    #[error("it is no symbol pack of this version of sampler")]
    NotAPack,
    /// An entry is none that packs have.
    #[error("it holds something that no symbol pack holds: {0}")]
    Entry(String),
    /// It holds more than a pack may.
    #[error("it holds more than a symbol pack can")]
    TooLarge,
}

/// A pack, unpacked into a folder that is removed with this value.
#[derive(Debug)]
pub struct SymbolPack {
    folder: TempDir,
}

impl SymbolPack {
    /// Unpacks the pack at `path`.
    ///
    /// # Errors
    /// When it is no pack, or one that no sampler made.
    pub fn open(path: &Path) -> Result<Self, PackError> {
        let file = File::open(path)?;
        let packed_bytes = file.metadata()?.len();
        let folder = tempfile::Builder::new().prefix("sampler-pack-").tempdir()?;
        let limit = packed_bytes
            .saturating_mul(RATIO_MAX)
            .saturating_add(RATIO_FREE_BYTES);
        unpack(
            GzDecoder::new(io::BufReader::new(file)),
            folder.path(),
            limit,
        )?;
        Ok(Self { folder })
    }

    /// Lets `paths` find its files, before all others.
    pub(super) fn add_to(&self, paths: &mut SymbolPaths) {
        paths.sysroot = Some(self.folder.path().join(ROOT));
        paths.debug_dirs.insert(0, self.folder.path().join(DEBUG));
    }
}

pub(super) fn unpack(
    archive: impl Read,
    folder: &Path,
    mut written_max: u64,
) -> Result<(), PackError> {
    let mut archive = Archive::new(archive);
    let mut bytes_max = PACK_BYTES_MAX;
    let mut count = 0;
    // Raw: names and links that come in entries of their own would be read whole, however long.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        if entry.header().entry_type() != EntryType::Regular {
            return Err(PackError::Entry(described(entry.header())));
        }
        let path = entry.path()?.into_owned();
        let size = entry.header().size()?;
        if count == 0 {
            let mut mark = Vec::new();
            (&mut entry)
                .take(MARK.len() as u64 + 1)
                .read_to_end(&mut mark)?;
            if path != Path::new(MARK_NAME) || mark != MARK {
                return Err(PackError::NotAPack);
            }
            count += 1;
            continue;
        }
        if !is_inside(&path) {
            return Err(PackError::Entry(described(entry.header())));
        }
        bytes_max = bytes_max.checked_sub(size).ok_or(PackError::TooLarge)?;
        if count > FILES_MAX || size > FILE_BYTES_MAX {
            return Err(PackError::TooLarge);
        }
        count += 1;
        let to = folder.join(&path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        write_sparse(&mut entry, &to, &mut written_max)?;
    }
    if count == 0 {
        Err(PackError::NotAPack)
    } else {
        Ok(())
    }
}

/// Whether `path` stays where packs have their files.
fn is_inside(path: &Path) -> bool {
    let mut parts = path.components();
    let folder = parts.next();
    let is_known = [ROOT, DEBUG]
        .iter()
        .any(|name| folder == Some(Component::Normal(OsStr::new(name))));
    is_known
        && parts.clone().next().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn described(header: &Header) -> String {
    let path = String::from_utf8_lossy(&header.path_bytes()).into_owned();
    match header.entry_type() {
        EntryType::Regular => path,
        other => format!("{path} ({other:?})"),
    }
}

/// Writes a new file, leaving holes for zeros, and takes what is not zero from `written_max`.
fn write_sparse(from: &mut impl Read, path: &Path, written_max: &mut u64) -> Result<(), PackError> {
    // Never through a link or over another entry.
    let mut to = File::create_new(path)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut length = 0u64;
    loop {
        let filled = read_piece(from, &mut piece)?;
        let bytes = piece.get(..filled).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        if bytes.iter().any(|&byte| byte != 0) {
            *written_max = written_max
                .checked_sub(filled as u64)
                .ok_or(PackError::TooLarge)?;
            to.seek(SeekFrom::Start(length))?;
            to.write_all(bytes)?;
        }
        length += filled as u64;
    }
    to.set_len(length)?;
    Ok(())
}

fn read_piece(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes a pack, file by file.
pub(super) struct PackWriter<W: Write> {
    archive: Builder<GzEncoder<W>>,
    names: BTreeSet<PathBuf>,
    summary: PackSummary,
}

impl<W: Write> PackWriter<W> {
    pub(super) fn create(out: W) -> io::Result<Self> {
        let mut writer = Self {
            archive: Builder::new(GzEncoder::new(out, Compression::default())),
            names: BTreeSet::new(),
            summary: PackSummary::default(),
        };
        writer.append(Path::new(MARK_NAME), MARK.len() as u64, MARK)?;
        Ok(writer)
    }

    /// Adds what is to be had of `module`.
    pub(super) fn add(&mut self, module: &ModuleInfo, files: &ModuleFiles) -> io::Result<()> {
        let build_id = files.main.as_ref().and_then(ElfOnDisk::build_id);
        let build_id = build_id.or_else(|| module.build_id.clone());
        if let Some(main) = &files.main {
            let by_id = build_id.as_ref().filter(|_| files.debug.is_none());
            let path = below(Path::new(ROOT), Path::new(&module.path));
            // One path may have had several files, and a build ID names each of them.
            let is_added = self.add_file(&path, main, Trim::Unneeded)?
                || match by_id.and_then(debug_path) {
                    Some(path) => self.add_file(&path, main, Trim::Unneeded)?,
                    None => false,
                };
            match is_added {
                true => self.summary.modules += 1,
                false => self.note(
                    module,
                    "another file of this name is in the pack, or the name is too long",
                ),
            }
        }
        if let Some(debug) = &files.debug {
            let path = debug.build_id().as_ref().and_then(debug_path).or_else(|| {
                // As its link has it: by name, below the folder of the file.
                let folder = Path::new(&module.path).parent()?;
                Some(below(Path::new(DEBUG), folder).join(debug.path.file_name()?))
            });
            let is_added = match path {
                Some(path) => {
                    self.names.contains(&path) || self.add_file(&path, debug, Trim::Nothing)?
                }
                None => false,
            };
            match is_added {
                true => self.summary.debug_files += 1,
                false => self.note(module, "its debug file has a name that is too long"),
            }
        }
        Ok(())
    }

    /// Adds the files that `files` share parts of their debug information with.
    pub(super) fn add_shared(
        &mut self,
        paths: &SymbolPaths,
        files: &ModuleFiles,
    ) -> io::Result<()> {
        for file in [&files.main, &files.debug].into_iter().flatten() {
            let Some((shared, build_id)) = shared_by(paths, file) else {
                continue;
            };
            let Some(path) = debug_path(&build_id) else {
                continue;
            };
            if !self.names.contains(&path) && self.add_file(&path, &shared, Trim::Nothing)? {
                self.summary.debug_files += 1;
            }
        }
        Ok(())
    }

    /// Adds what the compiler left of their debug information in files of its own.
    pub(super) fn add_split(
        &mut self,
        module: &ModuleInfo,
        paths: &SymbolPaths,
        files: &ModuleFiles,
    ) -> io::Result<()> {
        let Some(file) = files.with_dwarf() else {
            return Ok(());
        };
        let dwarf_files = DwarfFiles {
            file,
            main: files.main.as_ref(),
            paths,
        };
        let main = Path::new(&module.path);
        let by_id = || debug_path(&file.build_id().or_else(|| module.build_id.clone())?);
        let by_path = || below(Path::new(ROOT), main);
        let beside = match &files.main {
            Some(_) => by_path(),
            None => by_id().unwrap_or_else(by_path),
        };
        let mut unnameable = 0;
        let missing = dwarf::each_part(dwarf_files, &mut |part| {
            let (file, path) = match part {
                Part::Package(package) => {
                    let mut path = beside.clone().into_os_string();
                    path.push(".dwp");
                    (package, PathBuf::from(path))
                }
                Part::Unit(unit, path) => {
                    // An absolute path stays what it is.
                    let path = main.parent().unwrap_or(main).join(path);
                    (unit, below(Path::new(ROOT), &path))
                }
            };
            if self.names.contains(&path) {
                return Ok(());
            }
            match self.add_file(&path, file, Trim::Nothing)? {
                true => self.summary.debug_files += 1,
                false => unnameable += 1,
            }
            Ok(())
        })?;
        if let Some(missing) = missing {
            self.note(module, &missing);
        }
        if unnameable > 0 {
            let note = format!("{unnameable} .dwo files have names that are too long");
            self.note(module, &note);
        }
        Ok(())
    }

    /// Says that something of `module` is missing.
    pub(super) fn note(&mut self, module: &ModuleInfo, what: &str) {
        let note = format!("{}: {what}", module_name(module));
        self.summary.notes.push(note);
    }

    pub(super) fn finish(self) -> io::Result<PackSummary> {
        self.archive.into_inner()?.finish()?.flush()?;
        Ok(self.summary)
    }

    /// Says whether there was room for it under this name.
    fn add_file(&mut self, path: &Path, file: &ElfOnDisk, trim: Trim) -> io::Result<bool> {
        let bytes = file.bytes();
        let is_nameable = Header::new_ustar().set_path(path).is_ok();
        if !is_nameable || !self.names.insert(path.to_owned()) {
            return Ok(false);
        }
        let blank = match (trim, file.elf()) {
            (Trim::Unneeded, Ok(elf)) => unneeded(&elf),
            _ => Vec::new(),
        };
        let trimmed = Blanked {
            bytes,
            blank: &blank,
            position: 0,
        };
        self.append(path, bytes.len() as u64, trimmed)?;
        Ok(true)
    }

    fn append(&mut self, path: &Path, size: u64, content: impl Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(path)?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_entry_type(EntryType::Regular);
        header.set_cksum();
        self.archive.append(&header, content)
    }
}

/// What of a file is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trim {
    Nothing,
    Unneeded,
}

/// The file that dwz(1) moved parts of the debug information of `file` and others to, if it is here.
///
/// `.gnu_debugaltlink` has its name and its build ID.
fn shared_by(paths: &SymbolPaths, file: &ElfOnDisk) -> Option<(ElfOnDisk, BuildId)> {
    let elf = file.elf().ok()?;
    let link = elf.section_data(b".gnu_debugaltlink")?;
    let length = link.iter().position(|&byte| byte == 0)?;
    let name = Path::new(OsStr::from_bytes(link.get(..length)?));
    let build_id = BuildId(link.get(length + 1..)?.to_vec());
    let mut candidates = paths.by_build_id(&build_id);
    candidates.push(file.path.parent()?.join(name));
    let shared = candidates.iter().find_map(|path| {
        let shared = ElfOnDisk::open(path, NameFile::BuildId).ok()?;
        (shared.build_id().as_ref() == Some(&build_id)).then_some(shared)
    })?;
    Some((shared, build_id))
}

/// Where debug folders have the file of `build_id`.
fn debug_path(build_id: &BuildId) -> Option<PathBuf> {
    let hex = build_id.to_string();
    let (first, rest) = hex
        .split_at_checked(2)
        .filter(|(_, rest)| !rest.is_empty())?;
    let folder = Path::new(DEBUG).join(".build-id").join(first);
    Some(folder.join(format!("{rest}.debug")))
}

/// Where the contents of sections lie that no name comes from, in ascending order and apart from each other.
fn unneeded(elf: &Elf<'_>) -> Vec<Range<usize>> {
    let is_unneeded = |name: &[u8]| {
        UNNEEDED_SECTIONS.iter().any(|section| {
            let rest = name.strip_prefix(section.as_bytes());
            rest.is_some_and(|rest| {
                // `.data.rel.ro.gopclntab` is a table of functions.
                rest.is_empty() || (rest.starts_with(b".") && !rest.ends_with(b"pclntab"))
            })
        })
    };
    let mut ranges: Vec<Range<usize>> = elf
        .sections
        .iter()
        .filter(|section| {
            let name = elf.sections.section_name(elf.endian, section);
            name.is_ok_and(is_unneeded)
        })
        .filter_map(|section| {
            let (start, size) = section.file_range(elf.endian)?;
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(size).ok()?)?;
            Some(start..end)
        })
        .collect();
    ranges.sort_unstable_by_key(|range| range.start);
    ranges
}

/// The bytes of a file, with zeros in some ranges.
struct Blanked<'b> {
    bytes: &'b [u8],
    /// In ascending order by their starts.
    blank: &'b [Range<usize>],
    position: usize,
}

impl Read for Blanked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        let (from, to) = (self.position, self.position + length);
        buffer[..length].copy_from_slice(&rest[..length]);
        for range in self.blank.iter().take_while(|range| range.start < to) {
            let (start, end) = (range.start.max(from), range.end.min(to));
            if start < end {
                buffer[start - from..end - from].fill(0);
            }
        }
        self.position = to;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for (name, kind, content) in entries {
            let mut header = Header::new_ustar();
            // As it is: `set_path` refuses what leads out.
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(*kind);
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc").unwrap();
            }
            header.set_cksum();
            archive.append(&header, *content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    const REGULAR: EntryType = EntryType::Regular;

    fn open(bytes: &[u8]) -> Result<SymbolPack, PackError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        SymbolPack::open(file.path())
    }

    fn open_with(name: &str, kind: EntryType, content: &[u8]) -> Result<SymbolPack, PackError> {
        open(&packed(&[
            (MARK_NAME, REGULAR, MARK),
            (name, kind, content),
        ]))
    }

    #[test]
    fn files_come_out_as_they_went_in() {
        let content = [
            vec![0; 3 * PIECE_BYTES + 5],
            vec![7; 9],
            vec![0; PIECE_BYTES],
        ]
        .concat();
        let pack = open_with("root/usr/bin/x", REGULAR, &content).unwrap();
        let unpacked = pack.folder.path().join("root/usr/bin/x");
        assert_eq!(fs::read(unpacked).unwrap(), content);
    }

    #[test]
    fn what_leads_out_or_is_no_file_is_refused() {
        for name in [
            "root/../../../tmp/x",
            "/etc/passwd",
            "../x",
            "root/..",
            "root",
            "other/x",
            "root/./../x",
        ] {
            let refused = open_with(name, REGULAR, b"x");
            assert!(
                matches!(refused, Err(PackError::Entry(_))),
                "{name}: {refused:?}"
            );
        }
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Fifo,
            EntryType::Char,
            EntryType::Directory,
            EntryType::GNULongName,
            EntryType::XHeader,
            EntryType::GNUSparse,
        ] {
            let refused = open_with("root/x", kind, b"");
            assert!(
                matches!(refused, Err(PackError::Entry(_))),
                "{kind:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_is_no_pack_is_refused() {
        assert!(matches!(
            open(b""),
            Err(PackError::NotAPack | PackError::Io(_))
        ));
        assert!(matches!(open(b"no archive"), Err(PackError::Io(_))));
        let other = packed(&[("root/x", REGULAR, b"x")]);
        assert!(matches!(open(&other), Err(PackError::NotAPack)));
        let newer = packed(&[(MARK_NAME, REGULAR, b"2\n")]);
        assert!(matches!(open(&newer), Err(PackError::NotAPack)));
        let twice = packed(&[
            (MARK_NAME, REGULAR, MARK),
            ("root/x", REGULAR, b"1"),
            ("root/x", REGULAR, b"2"),
        ]);
        assert!(matches!(open(&twice), Err(PackError::Io(_))));
    }

    #[test]
    fn sizes_are_not_believed() {
        // Says that it has 60 GiB, and has nothing.
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for (name, size, content) in [
            (MARK_NAME, MARK.len() as u64, MARK),
            ("root/x", 60 << 30, b""),
        ] {
            let mut header = Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(size);
            header.set_entry_type(REGULAR);
            header.set_cksum();
            archive.append(&header, content).unwrap();
        }
        let bytes = archive.into_inner().unwrap().finish().unwrap();
        assert!(matches!(open(&bytes), Err(PackError::TooLarge)));
        // A hundred megabytes of the same byte in a hundred kilobytes.
        let bomb = vec![1; 100 << 20];
        assert!(matches!(
            open_with("root/x", REGULAR, &bomb),
            Err(PackError::TooLarge)
        ));
    }

    proptest! {
        #[test]
        fn blanked_ranges_are_zeros_however_they_are_read(
            length in 0..300usize, ranges in prop::collection::vec((0..300usize, 0..50usize), 0..5), step in 1..70usize,
        ) {
            let bytes = vec![1; length];
            let mut blank: Vec<Range<usize>> = ranges.into_iter().map(|(start, size)| start..start + size).collect();
            blank.sort_unstable_by_key(|range| range.start);
            let mut reader = Blanked { bytes: &bytes, blank: &blank, position: 0 };
            let (mut all, mut piece) = (Vec::new(), vec![9; step]);
            loop {
                match reader.read(&mut piece).unwrap() {
                    0 => break,
                    read => all.extend_from_slice(&piece[..read]),
                }
            }
            prop_assert_eq!(all.len(), length);
            for (at, byte) in all.into_iter().enumerate() {
                prop_assert_eq!(byte == 0, blank.iter().any(|range| range.contains(&at)));
            }
        }

        #[test]
        fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
            let folder = tempfile::tempdir().unwrap();
            prop_assert!(unpack(bytes.as_slice(), folder.path(), 1000).is_err());
        }

        #[test]
        fn a_damaged_archive_ends_in_a_result(
            changes in prop::collection::vec((0..4096usize, any::<u8>()), 0..12), cut in 0..5000usize,
        ) {
            let mut archive = Builder::new(Vec::new());
            for (name, content) in [(MARK_NAME, MARK), ("root/a", b"1"), ("debug/b/c", &[7; 600])] {
                let mut header = Header::new_ustar();
                header.set_path(name).unwrap();
                header.set_size(content.len() as u64);
                header.set_entry_type(REGULAR);
                header.set_cksum();
                archive.append(&header, content).unwrap();
            }
            let mut bytes = archive.into_inner().unwrap();
            for (at, byte) in changes {
                if let Some(slot) = bytes.get_mut(at) {
                    *slot = byte;
                }
            }
            let folder = tempfile::tempdir().unwrap();
            let _refused = unpack(bytes.get(..cut).unwrap_or(&bytes), folder.path(), 1000);
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            prop_assert!(names.into_iter().all(|name| name == ROOT || name == DEBUG));
        }
    }
}
