//! Finds Go's table of functions, and what belongs to it, in an image.

use std::ops::Range;

use super::go_pclntab::{GoFunctions, TEXT_START_WORD};
use super::unwind_sections::{Sections, bounded_bytes};
use super::{ElfImage, ImageBytes};
use crate::address::Svma;

/// Pointers lie at multiples of this, and tables do too.
const ALIGN: u64 = 8;
/// How many places are looked at that may be `moduledata`, or may begin a table.
const CANDIDATES_MAX: usize = 64;
/// Which word of `moduledata` holds the start of the text (`runtime/symtab.go`, Go 1.18 and later).
const TEXT_WORD: u64 = 22;

/// Go's table of functions in `image`: by the name of its section, or without section headers by its first bytes.
pub(super) fn find(image: &ElfImage) -> Option<GoFunctions<ImageBytes>> {
    let sections = Sections::of(image);
    let named = [".gopclntab", ".data.rel.ro.gopclntab"]
        .into_iter()
        .find_map(|name| sections.svma_range(name));
    match named {
        Some(range) => table_at(image, &sections, range),
        // To read a whole file for it is only right where nothing says what is in the file.
        None if sections.is_empty() => {
            search(image).find_map(|start| table_at(image, &sections, start..Svma(u64::MAX)))
        }
        None => None,
    }
}

fn table_at(
    image: &ElfImage,
    sections: &Sections<'_>,
    range: Range<Svma>,
) -> Option<GoFunctions<ImageBytes>> {
    let relocated = Relocated { image };
    // `moduledata` begins with the address of the table.
    let places: Vec<Svma> = relocated.places_of(range.start).collect();
    let text_of = |moduledata: &Svma| {
        let text = relocated.word_at(*moduledata, TEXT_WORD)?;
        image.code_at(text).map(|_| text)
    };
    // Before position independent code is loaded its relocations have what will be in the header.
    let text_start = relocated
        .word_at(range.start, TEXT_START_WORD)
        .or_else(|| places.iter().find_map(text_of))
        .or_else(|| Some(sections.svma_range(".text")?.start));
    let functions = GoFunctions::parse(bounded_bytes(image, range)?, text_start)?;
    let trees = places
        .iter()
        .filter(|moduledata| text_of(moduledata) == Some(functions.text_start()))
        .flat_map(|moduledata| {
            let words = functions.inline_tree_words().iter();
            words.filter_map(|word| relocated.word_at(*moduledata, *word))
        })
        .filter_map(|trees| image.shared_bytes_at(trees))
        .find(|trees| functions.fits_inline_trees(trees));
    Some(match trees {
        Some(trees) => functions.with_inline_trees(trees),
        None => functions,
    })
}

/// Where in `image` a table may begin.
fn search(image: &ElfImage) -> impl Iterator<Item = Svma> {
    image
        .segments
        .iter()
        .filter_map(|segment| Some((segment.svma.start, image.bytes_at(segment.svma.start)?)))
        .flat_map(|(start, bytes)| aligned(start, bytes))
        .filter(|(_, bytes)| GoFunctions::<ImageBytes>::is_start(bytes))
        .map(|(svma, _)| svma)
        .take(CANDIDATES_MAX)
}

/// The addresses in `bytes`, which lie at `start`, at which a pointer or a table may lie, each with the bytes from there.
fn aligned(start: Svma, bytes: &[u8]) -> impl Iterator<Item = (Svma, &[u8])> {
    let first = start.0.wrapping_neg() % ALIGN;
    (first..bytes.len() as u64)
        .step_by(8)
        .filter_map(move |offset| {
            let rest = bytes.get(usize::try_from(offset).ok()?..)?;
            Some((Svma(start.0.checked_add(offset)?), rest))
        })
}

/// The pointers of an image as they will be: from the relocations where there is one, else from the bytes.
struct Relocated<'a> {
    image: &'a ElfImage,
}

impl Relocated<'_> {
    /// The word number `index` from `start` on; `None` where it is zero.
    fn word_at(&self, start: Svma, index: u64) -> Option<Svma> {
        let svma = Svma(start.0.checked_add(index.checked_mul(8)?)?);
        let relocated = self.image.relative_relocations();
        let addend = relocated
            .filter(|(place, _)| *place == svma)
            .map(|(_, value)| value)
            .next();
        addend
            .or_else(|| {
                let bytes = self.image.bytes_at(svma)?;
                Some(Svma(u64::from_le_bytes(*bytes.first_chunk()?)))
            })
            .filter(|pointer| pointer.0 != 0)
    }

    /// Where the address `svma` is stored.
    fn places_of(&self, svma: Svma) -> impl Iterator<Item = Svma> {
        let in_relocations = self
            .image
            .relative_relocations()
            .filter(move |(_, value)| *value == svma)
            .map(|(place, _)| place);
        let in_bytes = self
            .image
            .segments
            .iter()
            .filter(|segment| !segment.executable)
            .filter_map(|segment| {
                let start = segment.svma.start;
                Some((start, self.image.bytes_at(start)?))
            })
            .flat_map(|(start, bytes)| aligned(start, bytes))
            .filter(move |(_, bytes)| bytes.first_chunk() == Some(&svma.0.to_le_bytes()))
            .map(|(place, _)| place);
        in_relocations.chain(in_bytes).take(CANDIDATES_MAX)
    }
}
