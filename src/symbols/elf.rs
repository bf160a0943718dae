//! What naming addresses needs of an ELF file, read from its section headers.
//!
//! Every number in the file is hostile input: nothing here panics on one or allocates by one.

use object::elf::{
    FileHeader64, Machine, NT_GNU_BUILD_ID, SHF_COMPRESSED, SHT_DYNSYM, SHT_NOBITS, SHT_SYMTAB,
    SectionType,
};
use object::read::elf::{
    CompressionHeader, FileHeader, NoteIterator, ProgramHeader, SectionHeader, SectionTable,
    SymbolTable,
};
use object::{Endianness, U32, read::StringTable};
use sampler_unwind::{BuildId, ElfError};

pub(super) type Header = FileHeader64<Endianness>;
pub(super) type Symbols<'data> = SymbolTable<'data, Header>;

/// A deflate stream cannot grow by more than this factor (RFC 1951: 258 bytes from two bits), rounded up.
const INFLATED_PER_BYTE_MAX: u64 = 1100;

/// An ELF file of 64 bits, its headers parsed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elf<'data> {
    pub(super) data: &'data [u8],
    pub(super) endian: Endianness,
    pub(super) sections: SectionTable<'data, Header>,
    header: &'data Header,
}

/// What `.gnu_debuglink` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DebugLink<'data> {
    /// The name of the separate debug file, without a directory.
    pub(super) file_name: &'data [u8],
    /// The CRC-32 of its contents.
    pub(super) crc: u32,
}

impl<'data> Elf<'data> {
    /// Parses the headers of `data`.
    ///
    /// # Errors
    /// When `data` is no 64-bit ELF file or its section headers lie outside it.
    pub(super) fn parse(data: &'data [u8]) -> Result<Self, ElfError> {
        let header = Header::parse(data).map_err(|_| ElfError::Malformed("file header"))?;
        let endian = header
            .endian()
            .map_err(|_| ElfError::Unsupported("byte order"))?;
        let sections = header
            .sections(endian, data)
            .map_err(|_| ElfError::Malformed("section headers"))?;
        Ok(Self {
            data,
            endian,
            sections,
            header,
        })
    }

    /// What processor the code is for.
    pub(super) fn machine(&self) -> Machine {
        self.header.e_machine(self.endian)
    }

    /// The GNU build ID, from a note section or, where there are none, from a note segment.
    pub(super) fn build_id(&self) -> Option<BuildId> {
        let (endian, data) = (self.endian, self.data);
        let in_sections = self
            .sections
            .iter()
            .filter_map(|section| section.notes(endian, data).ok().flatten())
            .find_map(|notes| build_id_in(notes, endian));
        in_sections.or_else(|| {
            let segments = self.header.program_headers(endian, data).ok()?;
            segments
                .iter()
                .filter_map(|segment| segment.notes(endian, data).ok().flatten())
                .find_map(|notes| build_id_in(notes, endian))
        })
    }

    /// The `.symtab`; empty where there is none.
    pub(super) fn symbol_table(&self) -> object::Result<SymbolTable<'data, Header>> {
        self.symbols(SHT_SYMTAB)
    }

    /// The `.dynsym`; empty where there is none.
    pub(super) fn dynamic_symbols(&self) -> object::Result<SymbolTable<'data, Header>> {
        self.symbols(SHT_DYNSYM)
    }

    /// Whether DWARF is in this very file.
    pub(super) fn has_debug_info(&self) -> bool {
        [&b".debug_info"[..], b".zdebug_info"]
            .into_iter()
            .filter_map(|name| self.sections.section_by_name(self.endian, name))
            .any(|(_, section)| section.sh_type(self.endian) != SHT_NOBITS)
    }

    /// The contents of the section `name`.
    pub(super) fn section_data(&self, name: &[u8]) -> Option<&'data [u8]> {
        let (_, section) = self.sections.section_by_name(self.endian, name)?;
        section.data(self.endian, self.data).ok()
    }

    /// Where the debug information was moved to, by name and checksum (GDB manual, "Separate Debug Files").
    pub(super) fn debug_link(&self) -> Option<DebugLink<'data>> {
        let data = self.section_data(b".gnu_debuglink")?;
        let length = data.iter().position(|&byte| byte == 0)?;
        let crc_at = length.checked_add(1)?.next_multiple_of(4);
        let crc = data.get(crc_at..)?.first_chunk::<4>()?;
        Some(DebugLink {
            file_name: data.get(..length).filter(|name| !name.is_empty())?,
            crc: U32::<Endianness>::from_bytes(*crc).get(self.endian),
        })
    }

    /// A compressed section that says it is larger than its bytes can make it, by name.
    ///
    /// blazesym allocates what the section states before it inflates a byte.
    pub(super) fn overstated_section(&self) -> Option<String> {
        self.sections
            .iter()
            .filter(|section| section.sh_type(self.endian) != SHT_NOBITS)
            .find(|section| self.overstates(*section))
            .map(|section| {
                let name = self.sections.section_name(self.endian, section);
                String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
            })
    }

    fn overstates<S: SectionHeader<Elf = Header, Endian = Endianness>>(&self, section: &S) -> bool {
        let Ok(bytes) = section.data(self.endian, self.data) else {
            return false;
        };
        let stated = if section.sh_flags(self.endian).contains(SHF_COMPRESSED) {
            match section.compression(self.endian, self.data) {
                Ok(Some((header, _, _))) => header.ch_size(self.endian),
                _ => return true,
            }
        } else {
            // The older GNU form: `.zdebug_*` beginning with "ZLIB" and the size as eight bytes, big-endian.
            bytes
                .strip_prefix(b"ZLIB")
                .and_then(|rest| rest.first_chunk::<8>())
                .map_or(0, |size| u64::from_be_bytes(*size))
        };
        stated > (bytes.len() as u64).saturating_mul(INFLATED_PER_BYTE_MAX)
    }

    fn symbols(&self, kind: SectionType) -> object::Result<SymbolTable<'data, Header>> {
        // A file that keeps only debug information has the header of `.dynsym` and not its bytes.
        let found = self
            .sections
            .enumerate()
            .find(|(_, section)| section.sh_type(self.endian) == kind);
        match found {
            Some((index, _)) => self
                .sections
                .symbol_table_by_index(self.endian, self.data, index),
            None => Ok(SymbolTable::default()),
        }
    }
}

/// The name of a symbol, without the version that follows an `@`.
pub(super) fn symbol_name<'data>(strings: StringTable<'data>, offset: u32) -> Option<&'data str> {
    let name = std::str::from_utf8(strings.get(offset).ok()?).ok()?;
    let name = match name.find('@') {
        Some(at) if at > 0 => name.get(..at)?,
        _ => name,
    };
    (!name.is_empty()).then_some(name)
}

fn build_id_in(mut notes: NoteIterator<'_, Header>, endian: Endianness) -> Option<BuildId> {
    // The iterator ends with its section's bytes: each note is at least as long as its header.
    while let Ok(Some(note)) = notes.next() {
        if note.name() == object::elf::ELF_NOTE_GNU && note.n_type(endian) == NT_GNU_BUILD_ID {
            return Some(BuildId(note.desc().to_vec())).filter(|build_id| !build_id.0.is_empty());
        }
    }
    None
}
