//! Relocations that the loader applies to any image that it moves: a place, and the address that will be stored there.

use object::Endianness;
use object::elf::{self, FileHeader64, Rela64};
use object::pod;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

use super::ElfImage;
use crate::address::Svma;

/// Entries of `.dynamic` that are looked at. Real ones have some thirty.
const DYNAMIC_MAX: usize = 1 << 12;

impl ElfImage {
    /// Each place in this image that is relative to where it is loaded, with the address that belongs there; nothing
    /// for an image that was read from memory, in which that has been done.
    pub(super) fn relative_relocations(&self) -> impl Iterator<Item = (Svma, Svma)> {
        let endian = Endianness::Little;
        let table = self.relocations().unwrap_or_default();
        table
            .iter()
            .filter(move |relocation| {
                let kind = relocation.r_type(endian, false);
                kind == elf::R_X86_64_RELATIVE || kind == elf::R_AARCH64_RELATIVE
            })
            .map(move |relocation| {
                let addend = relocation.r_addend.get(endian).cast_unsigned();
                (Svma(relocation.r_offset.get(endian)), Svma(addend))
            })
    }

    /// The table that `DT_RELA` and `DT_RELASZ` name.
    fn relocations(&self) -> Option<&[Rela64<Endianness>]> {
        let endian = Endianness::Little;
        if !self.is_file_layout() {
            return None;
        }
        let header = FileHeader64::<Endianness>::parse(&**self.bytes()).ok()?;
        let headers = header.program_headers(endian, &**self.bytes()).ok()?;
        let dynamic = headers
            .iter()
            .find_map(|header| header.dynamic(endian, &**self.bytes()).ok().flatten())?;
        let value = |tag| {
            dynamic
                .iter()
                .take(DYNAMIC_MAX)
                .find(|entry| entry.d_tag(endian) == tag)
                .map(|entry| entry.d_val(endian))
        };
        let bytes = self.bytes_at(Svma(value(elf::DT_RELA)?))?;
        let size = usize::try_from(value(elf::DT_RELASZ)?).ok()?;
        let count = size.min(bytes.len()) / size_of::<Rela64<Endianness>>();
        Some(pod::slice_from_bytes(bytes, count).ok()?.0)
    }
}
