//! Finds the tables that say how to unwind: `.eh_frame_hdr`, `.eh_frame`, `.debug_frame`.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use gimli::{BaseAddresses, EhFrameHdr, EndianSlice, LittleEndian, Pointer, Vendor};
use object::Endianness;
use object::elf::{FileHeader64, SHF_COMPRESSED, SectionHeader64};
use object::read::elf::{FileHeader, SectionHeader, SectionTable};
use object::read::{CompressedData, CompressionFormat};

use super::arm_augmentations::without_letters;
use super::{ElfImage, FdeIndex, GoFunctions, ImageBytes};
use crate::address::Svma;
use crate::arch::Arch;

/// The largest `.debug_frame` that is decompressed. That of a browser is some 30 MB.
const DECOMPRESSED_BYTES_MAX: u64 = 1 << 30;
/// More than this many bytes out of one byte is no honest compression: zlib's own limit is 1032.
const COMPRESSION_RATIO_MAX: u64 = 4096;

/// One table, and the address that it states for its first byte.
#[derive(Debug)]
pub(crate) struct UnwindSection {
    pub(crate) svma: u64,
    pub(crate) bytes: ImageBytes,
    /// Made when there is no usable search table.
    index: OnceLock<FdeIndex>,
}

impl UnwindSection {
    pub(crate) fn new(svma: u64, bytes: ImageBytes) -> Self {
        Self {
            svma,
            bytes,
            index: OnceLock::new(),
        }
    }

    /// The bytes as gimli wants them.
    pub(crate) fn reader(&self) -> EndianSlice<'_, LittleEndian> {
        EndianSlice::new(&self.bytes, LittleEndian)
    }

    /// This table's sorted index, made by `build` on the first call.
    pub(crate) fn index(&self, build: impl FnOnce() -> FdeIndex) -> &FdeIndex {
        self.index.get_or_init(build)
    }
}

/// The unwind tables of an image.
#[derive(Debug, Default)]
pub(crate) struct UnwindSections {
    pub(crate) eh_frame_hdr: Option<UnwindSection>,
    pub(crate) eh_frame: Option<UnwindSection>,
    pub(crate) debug_frame: Option<UnwindSection>,
    pub(crate) bases: BaseAddresses,
    /// Whether its tables use Arm's extensions: `DW_CFA_AARCH64_negate_ra_state`.
    has_arm_extensions: bool,
    /// Whether the search table in `.eh_frame_hdr` is sorted, found out when it first gives no answer.
    pub(crate) hdr_is_sorted: OnceLock<bool>,
    /// The functions of a Go program.
    pub(crate) go: Option<GoFunctions<ImageBytes>>,
    /// Where PLT stubs lie, if the section headers tell.
    pub(crate) plt: Vec<Range<Svma>>,
}

impl UnwindSections {
    /// Looks in `image`: by program header where there is one, because section headers can be stripped.
    pub(crate) fn find(image: &ElfImage) -> Self {
        let sections = Sections::of(image);
        let mut found = Self {
            has_arm_extensions: image.machine() == Arch::AARCH64.elf_machine,
            ..Self::default()
        };
        for name in [".plt", ".plt.sec", ".plt.got"] {
            found.plt.extend(sections.svma_range(name));
        }
        if let Some(range) = sections.svma_range(".text") {
            found.bases = found.bases.set_text(range.start.0);
        }
        if let Some(range) = sections.svma_range(".got") {
            found.bases = found.bases.set_got(range.start.0);
        }
        found.go = go_functions(image, &sections);
        found.find_eh_frame_hdr(image, &sections);
        found.find_eh_frame(image, &sections);
        found.debug_frame = sections
            .contents(".debug_frame")
            .or_else(|| debug_frame_of(image.debug_file.as_ref()?))
            .map(|bytes| UnwindSection::new(0, bytes));
        found
    }

    /// Whose extensions of call frame information the tables use.
    pub(crate) fn vendor(&self) -> Vendor {
        match self.has_arm_extensions {
            true => Vendor::AArch64,
            false => Vendor::Default,
        }
    }

    fn find_eh_frame_hdr(&mut self, image: &ElfImage, sections: &Sections<'_>) {
        let Some(range) = image
            .eh_frame_hdr
            .clone()
            .or_else(|| sections.svma_range(".eh_frame_hdr"))
        else {
            return;
        };
        let Some(bytes) = bounded_bytes(image, range.clone()) else {
            return;
        };
        self.bases = self.bases.clone().set_eh_frame_hdr(range.start.0);
        self.eh_frame_hdr = Some(UnwindSection::new(range.start.0, bytes));
    }

    fn find_eh_frame(&mut self, image: &ElfImage, sections: &Sections<'_>) {
        let named = sections.svma_range(".eh_frame");
        let start = self.eh_frame_of_hdr();
        let range = match (start, named) {
            (Some(start), Some(named)) if named.start == start => named,
            // Without section headers: to the end of the segment; a zero length ends the table before that.
            (Some(start), _) => start..Svma(u64::MAX),
            (None, Some(named)) => named,
            (None, None) => return,
        };
        let Some(bytes) = bounded_bytes(image, range.clone()) else {
            return;
        };
        self.bases = self.bases.clone().set_eh_frame(range.start.0);
        let bytes = match self.has_arm_extensions {
            true => without_letters(bytes),
            false => bytes,
        };
        self.eh_frame = Some(UnwindSection::new(range.start.0, bytes));
    }

    /// Where `.eh_frame_hdr` says that `.eh_frame` is.
    fn eh_frame_of_hdr(&self) -> Option<Svma> {
        let hdr = EhFrameHdr::from(self.eh_frame_hdr.as_ref()?.reader());
        match hdr.parse(&self.bases, 8).ok()?.eh_frame_ptr() {
            Pointer::Direct(svma) => Some(Svma(svma)),
            Pointer::Indirect(_) => None,
        }
    }
}

/// The table of functions of a Go program. A position independent one does not state where its code begins. Where the Go
/// linker has made it, that is where its section of code does; a C linker puts the start code of C, with its section
/// `.init`, before it, and then it is not known.
fn go_functions(image: &ElfImage, sections: &Sections<'_>) -> Option<GoFunctions<ImageBytes>> {
    let table = [".gopclntab", ".data.rel.ro.gopclntab"]
        .into_iter()
        .find_map(|name| sections.svma_range(name))?;
    let is_by_go = sections.find(".init").is_none();
    let text = sections.svma_range(".text").filter(|_| is_by_go);
    let text = text.map(|text| text.start);
    GoFunctions::parse(bounded_bytes(image, table)?, text)
}

/// The `.debug_frame` of `image` alone, to be attached to another.
fn debug_frame_of(image: &ElfImage) -> Option<ImageBytes> {
    Sections::of(image).contents(".debug_frame")
}

/// The bytes of `range`, or as much of it as its segment has.
pub(super) fn bounded_bytes(image: &ElfImage, range: Range<Svma>) -> Option<ImageBytes> {
    let bytes = image.shared_bytes_at(range.start)?;
    let wanted = usize::try_from(range.end.0.checked_sub(range.start.0)?).unwrap_or(usize::MAX);
    bytes.part(0..bytes.len().min(wanted))
}

/// The section headers of an image, if it has any.
pub(super) struct Sections<'a> {
    image: &'a ElfImage,
    table: SectionTable<'a, FileHeader64<Endianness>>,
}

impl<'a> Sections<'a> {
    pub(super) fn of(image: &'a ElfImage) -> Self {
        let bytes: &[u8] = image.bytes();
        let table = image
            .is_file_layout()
            .then(|| FileHeader64::<Endianness>::parse(bytes).ok())
            .flatten()
            .and_then(|header| header.sections(Endianness::Little, bytes).ok())
            .unwrap_or_default();
        Self { image, table }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn find(&self, name: &str) -> Option<&'a SectionHeader64<Endianness>> {
        self.table
            .section_by_name(Endianness::Little, name.as_bytes())
            .map(|(_, section)| section)
    }

    /// The addresses of the section `name`, if it has any.
    pub(super) fn svma_range(&self, name: &str) -> Option<Range<Svma>> {
        let section = self.find(name)?;
        let start = section.sh_addr(Endianness::Little);
        let end = start.checked_add(section.sh_size(Endianness::Little))?;
        (start != 0 && end > start).then_some(Svma(start)..Svma(end))
    }

    /// The contents of a debug section, decompressed if need be, also under its old name (`.zdebug_frame`).
    pub(super) fn contents(&self, name: &str) -> Option<ImageBytes> {
        let endian = Endianness::Little;
        let bytes: &[u8] = self.image.bytes();
        let Some(section) = self.find(name) else {
            let old_name = name.replacen(".debug_", ".zdebug_", 1);
            let data = self.find(&old_name)?.data(endian, bytes).ok()?;
            return decompress(gnu_compressed(data)?);
        };
        if section.sh_flags(endian).0 & SHF_COMPRESSED.0 == 0 {
            let (offset, size) = section.file_range(endian)?;
            let end = usize::try_from(offset.checked_add(size)?).ok()?;
            return self
                .image
                .bytes()
                .part(usize::try_from(offset).ok()?..end)
                .filter(|part| !part.is_empty());
        }
        let (header, offset, size) = section.compression(endian, bytes).ok()??;
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        let format = match header.ch_type.get(endian) {
            object::elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
            object::elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
            _ => return None,
        };
        decompress(CompressedData {
            format,
            data: bytes.get(start..end)?,
            uncompressed_size: header.ch_size.get(endian),
        })
    }
}

/// The GNU form of before 2013: `ZLIB`, then the size as a big-endian number.
fn gnu_compressed(data: &[u8]) -> Option<CompressedData<'_>> {
    let rest = data.strip_prefix(b"ZLIB")?;
    let (size, data) = rest.split_first_chunk::<8>()?;
    Some(CompressedData {
        format: CompressionFormat::Zlib,
        data,
        uncompressed_size: u64::from_be_bytes(*size),
    })
}

fn decompress(compressed: CompressedData<'_>) -> Option<ImageBytes> {
    let plausible_bytes = DECOMPRESSED_BYTES_MAX
        .min((compressed.data.len() as u64).saturating_mul(COMPRESSION_RATIO_MAX));
    if compressed.uncompressed_size > plausible_bytes {
        return None;
    }
    let bytes = compressed.decompress().ok()?.into_owned();
    Some(ImageBytes::new(Arc::new(bytes)))
}
