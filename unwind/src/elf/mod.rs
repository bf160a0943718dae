//! An ELF image: where its code lies, its build ID, and its unwind sections.

mod arm_augmentations;
mod fde_index;
mod go_image;
mod go_pclntab;
#[cfg(test)]
mod go_pclntab_tests;
mod image_bytes;
mod look_ups;
mod relocations;
mod unwind_sections;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use object::Endianness;
use object::elf::{
    FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader64,
};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};

use crate::address::{Avma, FileOffset, LoadBias, Svma};
use crate::interpreter::{self, Language, RuntimeImage};

pub(crate) use fde_index::{FdeIndex, bounded_cie};
pub use go_pclntab::{GoCall, GoFunction, GoFunctions, GoLine};
pub use image_bytes::ImageBytes;
pub use look_ups::{ImageSymbol, UnwindTables};
use unwind_sections::Sections;
pub(crate) use unwind_sections::{UnwindSection, UnwindSections};

/// Identifies an [`ElfImage`] among all that this process has parsed; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(pub u32);

/// The descriptor of a `NT_GNU_BUILD_ID` note, usually a SHA-1.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(pub Vec<u8>);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// One `PT_LOAD` program header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the file states it will lie.
    pub svma: Range<Svma>,
    /// Where its bytes are in [`ElfImage::bytes`]: in the file, or for an image read from memory, where they lay
    /// above the image's first byte.
    pub file: Range<FileOffset>,
    /// Whether code lies in it.
    pub executable: bool,
}

/// Why bytes are not an ELF image that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not ELF, or its headers point outside the file.
    #[error("not a valid ELF file: {0}")]
    Malformed(&'static str),
    /// A class, byte order or machine that is not supported.
    #[error("unsupported ELF file: {0}")]
    Unsupported(&'static str),
}

/// Where the bytes of an image were taken from, and so how addresses relate to positions in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// The file: program and section headers give positions.
    File,
    /// The memory of a process: positions are addresses above the image's first byte.
    Memory,
}

/// A parsed ELF image. Parsing reads headers only; tables are decoded when a walk first needs them.
#[derive(Debug)]
pub struct ElfImage {
    id: ImageId,
    bytes: ImageBytes,
    layout: Layout,
    machine: u16,
    entry: Svma,
    segments: Vec<Segment>,
    eh_frame_hdr: Option<Range<Svma>>,
    build_id: Option<BuildId>,
    build_id_svma: Option<Svma>,
    asks_for_loader: bool,
    debug_file: Option<Arc<ElfImage>>,
    unwind_sections: OnceLock<UnwindSections>,
    runtimes: OnceLock<Runtimes>,
    go_functions: OnceLock<Option<GoFunctions<ImageBytes>>>,
}

/// The interpreters that an image holds, each with the language of its frames.
pub type Runtimes = Vec<(Language, Arc<dyn RuntimeImage>)>;

impl ElfImage {
    /// Parses the headers of the ELF file `bytes`.
    ///
    /// # Errors
    /// When `bytes` is no 64-bit little-endian ELF file or its program headers cannot be read.
    pub fn parse(bytes: ImageBytes) -> Result<Self, ElfError> {
        Self::parse_as(bytes, Layout::File)
    }

    /// Parses an image as it lay in the memory of a process, from its ELF header on: the vdso, or a file that can
    /// no longer be opened. Where memory could not be read, `bytes` may hold zeros.
    ///
    /// # Errors
    /// As [`ElfImage::parse`].
    pub fn parse_memory(bytes: ImageBytes) -> Result<Self, ElfError> {
        Self::parse_as(bytes, Layout::Memory)
    }

    /// Also looks into the `.debug_frame` of a separate debug file of this image, if this image has none itself.
    ///
    /// The caller has made sure that the two belong together, by their build IDs. It is looked into when a walk first
    /// needs tables.
    #[must_use]
    pub fn with_debug_file(mut self, debug_file: ElfImage) -> Self {
        self.debug_file = Some(Arc::new(debug_file));
        self.unwind_sections = OnceLock::new();
        self
    }

    fn parse_as(bytes: ImageBytes, layout: Layout) -> Result<Self, ElfError> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        check_kind(&bytes)?;
        let header = FileHeader64::<Endianness>::parse(&*bytes)
            .map_err(|_| ElfError::Malformed("file header"))?;
        let endian = Endianness::Little;
        let headers = header
            .program_headers(endian, &*bytes)
            .map_err(|_| ElfError::Malformed("program headers"))?;
        let base = match layout {
            Layout::File => None,
            Layout::Memory => Some(memory_base(headers)),
        };
        let segments = segments_of(headers, base, bytes.len() as u64);
        let eh_frame_hdr = headers
            .iter()
            .find(|program_header| program_header.p_type(endian) == PT_GNU_EH_FRAME)
            .map(svma_range);
        let mut image = Self {
            id: ImageId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            machine: header.e_machine(endian).0,
            entry: Svma(header.e_entry(endian)),
            segments,
            eh_frame_hdr,
            build_id: None,
            build_id_svma: None,
            asks_for_loader: headers
                .iter()
                .any(|program_header| program_header.p_type(endian) == PT_INTERP),
            debug_file: None,
            unwind_sections: OnceLock::new(),
            runtimes: OnceLock::new(),
            go_functions: OnceLock::new(),
            layout,
            bytes: bytes.clone(),
        };
        match image.find_build_id(headers) {
            Some((build_id, svma)) => {
                (image.build_id, image.build_id_svma) = (Some(build_id), Some(svma));
            }
            // Go's linker puts it in a section that no note segment covers.
            None => {
                let section = image.section(".note.gnu.build-id");
                image.build_id = section.and_then(|notes| build_id_in(&notes, 4));
            }
        }
        Ok(image)
    }

    /// Identifies this image.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// The whole file, or all that was read of the image in memory.
    pub fn bytes(&self) -> &ImageBytes {
        &self.bytes
    }

    /// The `PT_LOAD` segments, in the file's order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The GNU build ID.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// What kind of processor its code is for: `e_machine`, as in [`crate::Arch::elf_machine`].
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// Whether it names the dynamic loader that it is to be run by (`PT_INTERP`): programs do, and C libraries.
    pub fn asks_for_loader(&self) -> bool {
        self.asks_for_loader
    }

    /// Where the build ID itself lies.
    pub fn build_id_svma(&self) -> Option<Svma> {
        self.build_id_svma
    }

    /// The address of the first instruction of a program, or of the loader itself.
    pub fn entry(&self) -> Svma {
        self.entry
    }

    /// Whether positions in [`ElfImage::bytes`] are those in the file, so that section headers mean something.
    pub(crate) fn is_file_layout(&self) -> bool {
        self.layout == Layout::File
            || self
                .segments
                .iter()
                .all(|segment| segment.svma.start.0 == segment.file.start.0)
    }

    /// The load bias, given that the file's bytes from `offset` on are mapped at `start`.
    ///
    /// Taken from the program headers, because a segment's address and its file offset may differ (lld, mold).
    pub fn bias_of_mapping(
        &self,
        start: Avma,
        offset: FileOffset,
        executable: bool,
    ) -> Option<LoadBias> {
        const PAGE: u64 = 0xfff;
        self.segments
            .iter()
            .filter(|segment| {
                segment.file.start.0 & !PAGE <= offset.0 && offset.0 < segment.file.end.0
            })
            .max_by_key(|segment| segment.executable == executable)
            .map(|segment| {
                let svma = segment
                    .svma
                    .start
                    .0
                    .wrapping_sub(segment.file.start.0)
                    .wrapping_add(offset.0);
                LoadBias(start.0.wrapping_sub(svma))
            })
    }

    /// The image's bytes from `svma` to the end of its segment.
    pub fn bytes_at(&self, svma: Svma) -> Option<&[u8]> {
        self.bytes.get(self.position(svma, false)?)
    }

    /// As [`ElfImage::bytes_at`], in an executable segment only.
    pub(crate) fn code_at(&self, svma: Svma) -> Option<&[u8]> {
        self.bytes.get(self.position(svma, true)?)
    }

    /// Up to `bytes_max` bytes of code that lie straight before `svma`.
    pub(crate) fn code_before(&self, svma: Svma, bytes_max: u64) -> Option<&[u8]> {
        let last = Svma(svma.0.checked_sub(1)?);
        let segment = self.segment_of(last, true)?;
        let start = svma.0.saturating_sub(bytes_max).max(segment.svma.start.0);
        let code = self.code_at(Svma(start))?;
        code.get(..usize::try_from(svma.0 - start).ok()?)
    }

    /// As [`ElfImage::bytes_at`], kept alive on its own.
    pub(crate) fn shared_bytes_at(&self, svma: Svma) -> Option<ImageBytes> {
        self.bytes.part(self.position(svma, false)?)
    }

    /// Where the unwind tables are, found on the first call.
    pub(crate) fn unwind_sections(&self) -> &UnwindSections {
        self.unwind_sections
            .get_or_init(|| UnwindSections::find(self))
    }

    /// The interpreters it holds, found on the first call.
    pub fn runtimes(&self) -> &Runtimes {
        self.runtimes.get_or_init(|| interpreter::detect(self))
    }

    /// The contents of the section `name`, decompressed if need be; `None` where there is no such section, or no bytes
    /// of it are in this file.
    pub fn section(&self, name: &str) -> Option<ImageBytes> {
        Sections::of(self).contents(name)
    }

    /// Go's table of functions, if this is a Go program; found on the first call.
    pub fn go_functions(&self) -> Option<&GoFunctions<ImageBytes>> {
        self.go_functions
            .get_or_init(|| go_image::find(self))
            .as_ref()
    }

    fn segment_of(&self, svma: Svma, executable: bool) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|segment| segment.svma.contains(&svma) && (segment.executable || !executable))
    }

    /// The positions in `bytes` from `svma` to the end of its segment.
    fn position(&self, svma: Svma, executable: bool) -> Option<Range<usize>> {
        let segment = self.segment_of(svma, executable)?;
        let offset = segment
            .file
            .start
            .0
            .checked_add(svma.0 - segment.svma.start.0)?;
        let end = segment.file.end.0.min(self.bytes.len() as u64);
        Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
    }

    fn find_build_id(&self, headers: &[ProgramHeader64<Endianness>]) -> Option<(BuildId, Svma)> {
        let endian = Endianness::Little;
        let notes = headers
            .iter()
            .filter(|program_header| program_header.p_type(endian) == PT_NOTE)
            .filter_map(|program_header| {
                let svma = Svma(program_header.p_vaddr(endian));
                let notes = match self.layout {
                    Layout::File => program_header.data(endian, &*self.bytes).ok()?,
                    Layout::Memory => {
                        let bytes = usize::try_from(program_header.p_filesz(endian)).ok()?;
                        self.bytes_at(svma)?.get(..bytes)?
                    }
                };
                Some((svma, notes))
            });
        let mut found = notes.filter_map(|(svma, notes)| {
            let build_id = build_id_in(notes, 4).or_else(|| build_id_in(notes, 8))?;
            let bytes_before = notes
                .windows(build_id.0.len().max(1))
                .position(|window| window == build_id.0)?;
            Some((build_id, Svma(svma.0.checked_add(bytes_before as u64)?)))
        });
        found.next()
    }
}

/// Refuses what is not 64-bit little-endian ELF, naming why.
fn check_kind(bytes: &[u8]) -> Result<(), ElfError> {
    match bytes.get(..6) {
        Some([0x7f, b'E', b'L', b'F', 2, 1]) => Ok(()),
        Some([0x7f, b'E', b'L', b'F', 2, 2]) => Err(ElfError::Unsupported("big-endian")),
        Some([0x7f, b'E', b'L', b'F', 1, _]) => Err(ElfError::Unsupported("32-bit")),
        _ => Err(ElfError::Malformed("no ELF magic")),
    }
}

fn svma_range(program_header: &ProgramHeader64<Endianness>) -> Range<Svma> {
    let endian = Endianness::Little;
    let start = program_header.p_vaddr(endian);
    Svma(start)..Svma(start.saturating_add(program_header.p_memsz(endian)))
}

/// The address that lies at the image's first byte: the ELF header is mapped with the first segment.
fn memory_base(headers: &[ProgramHeader64<Endianness>]) -> u64 {
    let endian = Endianness::Little;
    headers
        .iter()
        .filter(|program_header| program_header.p_type(endian) == PT_LOAD)
        .map(|header| header.p_vaddr(endian).wrapping_sub(header.p_offset(endian)))
        .next()
        .unwrap_or_default()
}

fn segments_of(
    headers: &[ProgramHeader64<Endianness>],
    memory_base: Option<u64>,
    bytes: u64,
) -> Vec<Segment> {
    let endian = Endianness::Little;
    headers
        .iter()
        .filter(|program_header| program_header.p_type(endian) == PT_LOAD)
        .map(|program_header| {
            let svma = svma_range(program_header);
            let (offset, size) = match memory_base {
                None => (
                    program_header.p_offset(endian),
                    program_header.p_filesz(endian),
                ),
                Some(base) => (
                    svma.start.0.wrapping_sub(base),
                    program_header.p_memsz(endian),
                ),
            };
            let end = offset.saturating_add(size);
            Segment {
                svma,
                file: FileOffset(offset)..FileOffset(match memory_base {
                    None => end,
                    Some(_) => end.min(bytes.max(offset)),
                }),
                executable: program_header.p_flags(endian).0 & PF_X.0 != 0,
            }
        })
        .collect()
}

fn build_id_in(notes: &[u8], align: u64) -> Option<BuildId> {
    let endian = Endianness::Little;
    let mut notes = NoteIterator::<FileHeader64<Endianness>>::new(endian, align, notes).ok()?;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == object::elf::ELF_NOTE_GNU
            && note.n_type(endian) == object::elf::NT_GNU_BUILD_ID
        {
            return Some(BuildId(note.desc().to_vec()));
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod test_images {
    use std::sync::Arc;

    use super::*;

    /// A 64-bit ELF header, and program headers of (type, flags, offset, address, size in file and memory).
    pub(crate) fn elf(headers: &[(u32, u32, u64, u64, u64)], contents: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        bytes.resize(16, 0);
        bytes.extend([3, 0, 62, 0, 1, 0, 0, 0]);
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        let count = u16::try_from(headers.len()).unwrap();
        for half in [64, 56, count, 64, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        for (kind, flags, offset, svma, size) in headers {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            for word in [*offset, *svma, *svma, *size, *size, 1] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes.extend(contents);
        bytes
    }

    pub(crate) fn image(bytes: Vec<u8>) -> ElfImage {
        ElfImage::parse(ImageBytes::new(Arc::new(bytes))).unwrap()
    }

    pub(crate) fn empty_image() -> ElfImage {
        image(elf(&[], &[]))
    }
}
