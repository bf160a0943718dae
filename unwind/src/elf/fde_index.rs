//! A sorted index of the FDEs in one table, for tables without a search table.

use gimli::UnwindSection;
use rustc_hash::FxHashMap;

/// CIEs longer than this are not believed; real ones have some 30 bytes.
///
/// A bound, because hostile FDEs can each name another place in one huge CIE, and each would be parsed anew.
pub(crate) const CIE_BYTES_MAX: usize = 1 << 16;
/// More different CIEs than this are not remembered while an index is built. Each kind of code needs a few.
const CIES_MAX: usize = 1 << 16;

type Reader<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;

/// Where each FDE starts to apply, and its position in the table.
#[derive(Debug, Default)]
pub(crate) struct FdeIndex {
    /// Sorted by address.
    entries: Vec<(u64, usize)>,
}

impl FdeIndex {
    /// Reads all of `section`. An entry that makes no sense is left out, and the others are still found.
    pub(crate) fn build<'a, S: UnwindSection<Reader<'a>>>(
        section: &S,
        bases: &gimli::BaseAddresses,
    ) -> Self
    where
        S::Offset: From<usize>,
    {
        let bytes = section.section().slice();
        let mut cies = FxHashMap::default();
        let mut entries = Vec::new();
        let mut offset = 0;
        while let Some(end) = end_of_entry(bytes, offset) {
            // A CIE is no FDE to gimli, and so is left out as a bad entry is.
            entries.extend(
                start_of_fde(section, bases, offset, &mut cies).map(|start| (start, offset)),
            );
            offset = end;
        }
        entries.sort_unstable();
        Self { entries }
    }

    /// The first addresses of all, ascending.
    pub(crate) fn starts(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|(start, _)| *start)
    }

    /// The FDEs that may cover `svma`, most likely first. Where addresses overlap, as those of dropped functions in a
    /// linked `.debug_frame` do, the first is not always the right one.
    pub(crate) fn candidates(&self, svma: u64) -> impl Iterator<Item = usize> {
        const CANDIDATES_MAX: usize = 8;
        let after = self.entries.partition_point(|(start, _)| *start <= svma);
        self.entries
            .get(..after)
            .unwrap_or_default()
            .iter()
            .rev()
            .take(CANDIDATES_MAX)
            .map(|(_, offset)| *offset)
    }
}

/// The first address that the FDE at `offset` covers.
fn start_of_fde<'a, S: UnwindSection<Reader<'a>>>(
    section: &S,
    bases: &gimli::BaseAddresses,
    offset: usize,
    cies: &mut FxHashMap<usize, Option<gimli::CommonInformationEntry<Reader<'a>>>>,
) -> Option<u64>
where
    S::Offset: From<usize>,
{
    let fde = section
        .fde_from_offset(bases, offset.into(), |section, bases, cie_offset| {
            if cies.len() >= CIES_MAX {
                return bounded_cie(section, bases, cie_offset);
            }
            cies.entry(gimli::UnwindOffset::into(cie_offset))
                .or_insert_with(|| bounded_cie(section, bases, cie_offset).ok())
                .clone()
                .ok_or(gimli::Error::NotCieId(0))
        })
        .ok()?;
    (fde.len() > 0 && fde.initial_address() != 0).then(|| fde.initial_address())
}

/// The CIE at `offset`, unless it is longer than a CIE can honestly be.
pub(crate) fn bounded_cie<'a, S: UnwindSection<Reader<'a>>>(
    section: &S,
    bases: &gimli::BaseAddresses,
    offset: S::Offset,
) -> gimli::Result<gimli::CommonInformationEntry<Reader<'a>>> {
    let position: usize = gimli::UnwindOffset::into(offset);
    match end_of_entry(section.section().slice(), position) {
        Some(end) if end - position <= CIE_BYTES_MAX => section.cie_from_offset(bases, offset),
        _ => Err(gimli::Error::NotCieId(0)),
    }
}

/// Where the entry (CIE or FDE) at `offset` ends; `None` at the end of the table, which a length of zero also marks.
fn end_of_entry(bytes: &[u8], offset: usize) -> Option<usize> {
    let rest = bytes.get(offset..)?;
    let length32 = u32::from_le_bytes(*rest.first_chunk()?);
    let (length, length_bytes) = match length32 {
        0 => return None,
        // 64-bit DWARF (DWARF 5, section 7.4).
        u32::MAX => (u64::from_le_bytes(*rest.get(4..)?.first_chunk()?), 12),
        length => (u64::from(length), 4),
    };
    let end = offset
        .checked_add(length_bytes)?
        .checked_add(usize::try_from(length).ok()?)?;
    (end <= bytes.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of `.debug_frame` in 32-bit or 64-bit DWARF.
    fn entry(is_64_bit: bool, id: u64, contents: &[u8]) -> Vec<u8> {
        let id = id.to_le_bytes();
        let id = if is_64_bit { &id[..] } else { &id[..4] };
        let length = (id.len() + contents.len()) as u64;
        let mut bytes = if is_64_bit {
            [&u32::MAX.to_le_bytes()[..], &length.to_le_bytes()].concat()
        } else {
            length.to_le_bytes()[..4].to_vec()
        };
        bytes.extend(id);
        bytes.extend(contents);
        bytes
    }

    fn fde(is_64_bit: bool, cie: usize, start: u64, length: u64) -> Vec<u8> {
        let contents = [start.to_le_bytes(), length.to_le_bytes()].concat();
        entry(is_64_bit, cie as u64, &contents)
    }

    /// Version 4, no augmentation, addresses of 8 bytes, factors 1 and -8, return address in column 16.
    const CIE: [u8; 7] = [4, 0, 8, 0, 1, 0x78, 16];

    fn index(table: &[u8]) -> FdeIndex {
        let section = gimli::DebugFrame::new(table, gimli::LittleEndian);
        FdeIndex::build(&section, &gimli::BaseAddresses::default())
    }

    #[test]
    fn finds_entries_of_both_formats_and_leaves_out_bad_ones() {
        let mut table = Vec::new();
        for is_64_bit in [false, true] {
            let cie = table.len();
            table.extend(entry(is_64_bit, u64::MAX, &CIE));
            table.extend(fde(is_64_bit, cie, 0x1000 << u32::from(is_64_bit), 0x10));
            // Of a CIE that is none, of a function that was dropped, and of one without code.
            table.extend(fde(is_64_bit, cie + 5, 0x5000, 0x10));
            table.extend(fde(is_64_bit, cie, 0, 0x10));
            table.extend(fde(is_64_bit, cie, 0x6000, 0));
        }
        let found: Vec<_> = index(&table)
            .entries
            .iter()
            .map(|(start, _)| *start)
            .collect();
        assert_eq!(found, [0x1000, 0x2000]);
        table.extend([0; 4]);
        table.extend(fde(false, 0, 0x7000, 0x10));
        assert_eq!(
            index(&table).entries.len(),
            2,
            "a length of zero ends the table"
        );
    }

    #[test]
    fn the_nearest_entry_below_comes_first() {
        let mut table = entry(false, u64::MAX, &CIE);
        for start in [0x3000, 0x1000, 0x2000] {
            table.extend(fde(false, 0, start, 0x10));
        }
        let index = index(&table);
        let starts = |svma| {
            let offsets = index.candidates(svma);
            let start_of = |offset| {
                index
                    .entries
                    .iter()
                    .find(|entry| entry.1 == offset)
                    .unwrap()
                    .0
            };
            offsets.map(start_of).collect::<Vec<_>>()
        };
        assert_eq!(starts(0x2004), [0x2000, 0x1000]);
        assert!(starts(0xfff).is_empty());
    }
}
