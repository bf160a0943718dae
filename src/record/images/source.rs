//! Where the bytes of an image come from: the mapped file itself, or what is mapped of it in the target's memory.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};
use sampler_platforms::linux::ProcessMemory;
use sampler_platforms::linux::proc::maps::Mapping;
use sampler_platforms::linux::target_file;
use sampler_platforms::{MappedFile, Pid};
use sampler_unwind::{Avma, ElfImage, ImageBytes, MemoryReader};

/// The most that is read of an image that only exists in the target's memory, in bytes.
const IMAGE_BYTES_MAX: u64 = 64 << 20;

/// How much is read of an image in memory to see its program headers, in bytes: they follow its first 64 bytes.
const HEADERS_BYTES_MAX: usize = 16 << 10;

/// No program is larger, in bytes; a file can say that it is, and have nothing in it.
const FILE_BYTES_MAX: u64 = 16 << 30;

/// Where distributions put separate debug files.
const DEBUG_DIR: &str = "/usr/lib/debug";

/// An image, and where it can be had again.
#[derive(Debug)]
pub(super) struct Source {
    /// The image.
    pub image: ElfImage,
    /// What holds its bytes.
    pub holder: Holder,
}

/// What holds the bytes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// The file that its path leads to, for us as for the target.
    FileAtItsPath,
    /// A file that we have open, and that its path does not lead to: deleted, replaced, never named (memfd), or named
    /// so in another mount namespace.
    FileElsewhere,
    /// The target's memory alone; ours is a copy.
    Memory,
}

/// The image in the file that `mapping` maps.
pub(super) fn from_file(pid: Pid, mapping: &Mapping) -> Option<Source> {
    let file = target_file::open(pid, mapping).ok()?.file;
    let holder = match mapping.path().is_some_and(|path| leads_to(path, &file)) {
        true => Holder::FileAtItsPath,
        false => Holder::FileElsewhere,
    };
    if !is_believable(&file) {
        return None;
    }
    let bytes = ImageBytes::new(Arc::new(MappedFile::map(&file).ok()?));
    let image = ElfImage::parse(bytes).ok()?;
    let image = match mapping
        .path()
        .and_then(|path| debug_file(pid, path, &image))
    {
        Some(debug_file) => image.with_debug_file(debug_file),
        None => image,
    };
    Some(Source { image, holder })
}

/// The separate debug file of `image`, whose path in the target is `path`, if one has the same build ID. It may hold
/// call frame information that the file itself does not.
fn debug_file(pid: Pid, path: &Path, image: &ElfImage) -> Option<ElfImage> {
    let build_id = image.build_id()?;
    let hex = build_id.to_string();
    let (first, rest) = hex.split_at_checked(2)?;
    let by_build_id = format!("{DEBUG_DIR}/.build-id/{first}/{rest}.debug");
    let folder = path.parent()?;
    let by_name = debug_link(image.bytes()).map(|name| {
        let apart = folder.strip_prefix("/").unwrap_or(folder);
        [
            folder.join(name),
            folder.join(".debug").join(name),
            Path::new(DEBUG_DIR).join(apart).join(name),
        ]
    });
    let paths = by_name.into_iter().flatten();
    paths.chain([by_build_id.into()]).find_map(|path| {
        let file = target_file::open_regular_of(pid, &path).ok()?;
        if !is_believable(&file) {
            return None;
        }
        let bytes = ImageBytes::new(Arc::new(MappedFile::map(&file).ok()?));
        let found = ElfImage::parse(bytes).ok()?;
        (found.build_id() == Some(build_id)).then_some(found)
    })
}

/// The name of the separate debug file (GDB manual, "Separate Debug Files").
fn debug_link(file: &[u8]) -> Option<&Path> {
    let endian = Endianness::Little;
    let header = FileHeader64::<Endianness>::parse(file).ok()?;
    let sections = header.sections(endian, file).ok()?;
    let (_, section) = sections.section_by_name(endian, b".gnu_debuglink")?;
    let data = section.data(endian, file).ok()?;
    let name = data.split(|&byte| byte == 0).next()?;
    // It has no business in another directory.
    Path::new(OsStr::from_bytes(name))
        .file_name()
        .map(Path::new)
}

/// Whether it may be an ELF file, of a size that one can have.
fn is_believable(file: &File) -> bool {
    let length = file.metadata().map_or(u64::MAX, |file| file.len());
    length <= FILE_BYTES_MAX && begins_as_elf(file)
}

/// Read, not mapped: a process can have code in a file of huge pages, and to touch one that is not there kills.
fn begins_as_elf(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF"
}

/// Whether `path` is a name of `file` where we are.
fn leads_to(path: &Path, file: &File) -> bool {
    let (Ok(named), Ok(mapped)) = (fs::metadata(path), file.metadata()) else {
        return false;
    };
    (named.dev(), named.ino()) == (mapped.dev(), mapped.ino())
}

/// The image that `parts` are mapped from, as it lies in memory: the vDSO, or a file that cannot be had.
///
/// What its program headers say is believed as far as it is mapped; the rest is zeros.
pub(super) fn from_memory(parts: &[&Mapping], memory: &ProcessMemory) -> Option<Source> {
    let first = parts
        .iter()
        .find(|part| part.offset.0 == 0 && part.readable)?;
    let start = first.range.start;
    let extent = extent_in_memory(start, memory)?;
    let mapped = first.range.end.0.saturating_sub(start.0);
    // What is mapped of no file is there whole, with the section headers behind what its program headers speak of.
    let is_whole = first.path().is_none() && mapped <= IMAGE_BYTES_MAX;
    let end = start.checked_add(if is_whole { extent.max(mapped) } else { extent })?;
    let mut image = vec![0; usize::try_from(end.0 - start.0).ok()?];
    for part in parts.iter().filter(|part| part.readable) {
        let (from, upto) = (part.range.start.max(start), part.range.end.min(end));
        let within = |avma: Avma| usize::try_from(avma.0.checked_sub(start.0)?).ok();
        if let (Some(from_byte), Some(upto_byte)) = (within(from), within(upto))
            && let Some(into) = image.get_mut(from_byte..upto_byte)
        {
            // What cannot be read, or is gone meanwhile, is as if it were not mapped.
            let _bytes = memory.read(from, into);
        }
    }
    let image = ElfImage::parse_memory(ImageBytes::new(Arc::new(image))).ok()?;
    Some(Source {
        image,
        holder: Holder::Memory,
    })
}

/// How many bytes the image at `start` takes up by its program headers.
fn extent_in_memory(start: Avma, memory: &ProcessMemory) -> Option<u64> {
    let mut headers = vec![0; HEADERS_BYTES_MAX];
    let bytes = memory.read(start, &mut headers).ok()?;
    headers.truncate(bytes);
    let headers = ElfImage::parse_memory(ImageBytes::new(Arc::new(headers))).ok()?;
    let ends = headers.segments().iter().map(|segment| {
        let bytes = segment.svma.end.0.wrapping_sub(segment.svma.start.0);
        segment.file.start.0.saturating_add(bytes)
    });
    ends.max().map(|end| end.min(IMAGE_BYTES_MAX))
}
