//! Looks up call frame information: which FDE covers an address, and its row there.

use std::ops::Range;

use gimli::{
    DebugFrame, EhFrame, EhFrameHdr, FrameDescriptionEntry, ParsedEhFrameHdr, UnwindContext,
    UnwindSection,
};

use crate::address::Svma;
use crate::elf::{ElfImage, FdeIndex, UnwindSections, bounded_cie};
use crate::stack::FrameOrigin;

/// An FDE longer than this is not believed: executing its instructions takes time in proportion.
const FDE_BYTES_MAX: usize = 1 << 20;

pub(crate) type Reader<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;
pub(crate) type Row = gimli::UnwindTableRow<usize>;
type Fde<'a> = FrameDescriptionEntry<Reader<'a>>;

/// Which table call frame information was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CfiSource {
    EhFrame,
    DebugFrame,
}

impl CfiSource {
    /// How frames found by this table are marked.
    pub(crate) fn origin(self) -> FrameOrigin {
        match self {
            CfiSource::EhFrame => FrameOrigin::CallFrameInfo,
            CfiSource::DebugFrame => FrameOrigin::DebugFrame,
        }
    }

    /// The bytes that offsets of expressions count from.
    pub(crate) fn section(self, image: &ElfImage) -> Option<Reader<'_>> {
        let sections = image.unwind_sections();
        match self {
            CfiSource::EhFrame => sections.eh_frame.as_ref(),
            CfiSource::DebugFrame => sections.debug_frame.as_ref(),
        }
        .map(|section| section.reader())
    }
}

/// What the call frame information says at one address.
#[derive(Debug)]
pub(crate) struct CfiRow<'a> {
    pub(crate) source: CfiSource,
    pub(crate) row: &'a Row,
    /// Which column is the return address.
    pub(crate) return_address: u16,
    /// Whether this is a signal frame: the caller was interrupted, it did not call (augmentation `S`).
    pub(crate) is_signal_frame: bool,
}

/// Whether there is call frame information for an address.
#[derive(Debug)]
pub(crate) enum CfiLookup<T> {
    /// What was made of the row.
    Found(T),
    /// No FDE covers the address.
    None,
    /// An FDE covers the address and cannot be used.
    Bad,
}

/// Looks into `.eh_frame`, then into `.debug_frame`, for the row at `svma`, and has `read` make something of it;
/// `None` from `read` is a row that makes no sense.
pub(crate) fn look_up<T>(
    image: &ElfImage,
    svma: Svma,
    context: &mut UnwindContext<usize>,
    mut read: impl FnMut(&CfiRow<'_>) -> Option<T>,
) -> CfiLookup<T> {
    let sections = image.unwind_sections();
    let mut bad = false;
    if let Some((table, fde)) = eh_frame_fde(sections, svma) {
        match execute(CfiSource::EhFrame, &table, &fde, sections, svma, context)
            .and_then(|row| read(&row))
        {
            Some(found) => return CfiLookup::Found(found),
            None => bad = true,
        }
    }
    if let Some((table, fde)) = debug_frame_fde(sections, svma) {
        match execute(CfiSource::DebugFrame, &table, &fde, sections, svma, context)
            .and_then(|row| read(&row))
        {
            Some(found) => return CfiLookup::Found(found),
            None => bad = true,
        }
    }
    if bad { CfiLookup::Bad } else { CfiLookup::None }
}

impl ElfImage {
    /// The addresses of the function that `svma` lies in, as the unwind tables have it: of its FDE in `.eh_frame`, else
    /// in `.debug_frame`. A function that was split, into a hot and a cold part, has several.
    pub fn function_range(&self, svma: Svma) -> Option<Range<Svma>> {
        function(self, svma)
    }
}

/// The addresses of the function that `svma` belongs to, as far as call frame information knows.
pub(crate) fn function(image: &ElfImage, svma: Svma) -> Option<Range<Svma>> {
    let sections = image.unwind_sections();
    let range = |fde: Fde<'_>| {
        let start = fde.initial_address();
        Svma(start)..Svma(start.saturating_add(fde.len()))
    };
    eh_frame_fde(sections, svma)
        .map(|(_, fde)| range(fde))
        .or_else(|| debug_frame_fde(sections, svma).map(|(_, fde)| range(fde)))
}

fn execute<'a, 'c, S: UnwindSection<Reader<'a>>>(
    source: CfiSource,
    table: &S,
    fde: &Fde<'a>,
    sections: &UnwindSections,
    svma: Svma,
    context: &'c mut UnwindContext<usize>,
) -> Option<CfiRow<'c>> {
    if fde.entry_len() > FDE_BYTES_MAX {
        return None;
    }
    let row = fde
        .unwind_info_for_address(table, &sections.bases, context, svma.0)
        .ok()?;
    Some(CfiRow {
        source,
        row,
        return_address: fde.cie().return_address_register().0,
        is_signal_frame: fde.is_signal_trampoline(),
    })
}

fn eh_frame_fde<'a>(
    sections: &'a UnwindSections,
    svma: Svma,
) -> Option<(EhFrame<Reader<'a>>, Fde<'a>)> {
    let section = sections.eh_frame.as_ref()?;
    let mut table = EhFrame::from(section.reader());
    table.set_vendor(sections.vendor());
    if let Some(fde) = search_hdr(sections, &table, svma) {
        return Some((table, fde));
    }
    if hdr_is_reliable(sections) {
        return None;
    }
    let index = section.index(|| FdeIndex::build(&table, &sections.bases));
    let fde = search_index(index, &table, sections, svma)?;
    Some((table, fde))
}

fn debug_frame_fde<'a>(
    sections: &'a UnwindSections,
    svma: Svma,
) -> Option<(DebugFrame<Reader<'a>>, Fde<'a>)> {
    let section = sections.debug_frame.as_ref()?;
    let mut table = DebugFrame::from(section.reader());
    table.set_address_size(8);
    table.set_vendor(sections.vendor());
    let index = section.index(|| FdeIndex::build(&table, &sections.bases));
    let fde = search_index(index, &table, sections, svma)?;
    Some((table, fde))
}

fn search_index<'a, S: UnwindSection<Reader<'a>>>(
    index: &FdeIndex,
    table: &S,
    sections: &UnwindSections,
    svma: Svma,
) -> Option<Fde<'a>> {
    index
        .candidates(svma.0)
        .filter_map(|offset| {
            table
                .fde_from_offset(&sections.bases, offset.into(), bounded_cie)
                .ok()
        })
        .find(|fde| fde.contains(svma.0))
}

/// The parsed `.eh_frame_hdr`. Only with a count of 16 or 32 unsigned bits, as all linkers write it: gimli multiplies
/// the count without a check, and a larger one could overflow.
fn parsed_hdr(sections: &UnwindSections) -> Option<ParsedEhFrameHdr<Reader<'_>>> {
    let section = sections.eh_frame_hdr.as_ref()?;
    let count_encoding = gimli::DwEhPe(*section.bytes.get(2)?);
    if !matches!(
        count_encoding,
        gimli::DW_EH_PE_udata2 | gimli::DW_EH_PE_udata4
    ) {
        return None;
    }
    EhFrameHdr::from(section.reader())
        .parse(&sections.bases, 8)
        .ok()
}

fn search_hdr<'a>(
    sections: &'a UnwindSections,
    table: &EhFrame<Reader<'a>>,
    svma: Svma,
) -> Option<Fde<'a>> {
    let hdr = parsed_hdr(sections)?;
    let search_table = hdr.table()?;
    let pointer = search_table.lookup(svma.0, &sections.bases).ok()?;
    // Not `pointer_to_offset`: a table that lies may point below `.eh_frame`, and that subtraction overflows.
    let offset = pointer
        .direct()
        .ok()?
        .checked_sub(sections.eh_frame.as_ref()?.svma)?;
    table
        .fde_from_offset(
            &sections.bases,
            usize::try_from(offset).ok()?.into(),
            bounded_cie,
        )
        .ok()
        .filter(|fde| fde.contains(svma.0))
}

/// Whether "not in the search table" can be believed: the table exists, is as long as it says, and is sorted.
pub(crate) fn hdr_is_reliable(sections: &UnwindSections) -> bool {
    *sections.hdr_is_sorted.get_or_init(|| {
        let Some(hdr) = parsed_hdr(sections) else {
            return false;
        };
        let Some(table) = hdr.table() else {
            return false;
        };
        let mut previous = 0;
        let mut rows = table.iter(&sections.bases);
        loop {
            match rows.next() {
                Ok(Some((start, _))) if start.pointer() >= previous => previous = start.pointer(),
                Ok(None) => return true,
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    })
}
