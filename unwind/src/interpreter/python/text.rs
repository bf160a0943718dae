//! `str` objects (`Include/cpython/unicodeobject.h`, PEP 393).

use super::layout::Layout;
use crate::address::Avma;
use crate::memory::MemoryReader;

/// `PyASCIIObject.length` and `.state`.
const LENGTH: usize = 16;
const STATE: usize = 32;

/// The string object at `at`, if it is one: of a longer one, the last `characters_max` characters, behind a mark.
pub(super) fn read(
    layout: &Layout,
    at: Avma,
    characters_max: usize,
    memory: &dyn MemoryReader,
) -> Option<String> {
    let mut header = [0; STATE + 4];
    memory.read_exact(at, &mut header).ok()?;
    let length = u64::from_le_bytes(*header.get(LENGTH..)?.first_chunk()?);
    let state = u32::from_le_bytes(*header.get(STATE..)?.first_chunk()?);
    let State { width, is_ascii } = State::of(state)?;
    let data = match is_ascii {
        true => layout.ascii_header,
        false => layout.text_header,
    };
    let data = at.checked_add(u64::from(data))?;
    let taken = length.min(characters_max as u64);
    let skipped = length - taken;
    let mut bytes = vec![0; usize::try_from(taken).ok()? * width];
    let from = data.checked_add(skipped.checked_mul(width as u64)?)?;
    memory.read_exact(from, &mut bytes).ok()?;
    let mut text = String::with_capacity(bytes.len());
    if skipped > 0 {
        text.push('…');
    }
    text.extend(bytes.chunks_exact(width).map(|character| {
        let number = character
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u32::from(*byte));
        char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
    }));
    Some(text)
}

/// Whether the string object at `at` is `text`, which is ASCII.
pub(super) fn is(layout: &Layout, at: Avma, text: &str, memory: &dyn MemoryReader) -> bool {
    let length = at.checked_add(LENGTH as u64);
    let length = length.and_then(|length| memory.read_u64(length).ok());
    // Nearly all others are longer or shorter.
    length == Some(text.len() as u64)
        && read(layout, at, text.len(), memory).is_some_and(|read| read == text)
}

/// How the characters of a string lie.
struct State {
    /// Bytes of a character.
    width: usize,
    is_ascii: bool,
}

impl State {
    /// `interned`, of 2 bits, or of 16 in some releases of 3.14; then `kind` of 3 bits, `compact`, and `ascii`. `None` for a
    /// string whose characters lie elsewhere, as no name or path does.
    fn of(state: u32) -> Option<Self> {
        [state >> 2, state >> 16].into_iter().find_map(|state| {
            let width = state & 7;
            let is_compact = state & 8 != 0;
            let is_ascii = state & 16 != 0;
            let is_possible = matches!(width, 1 | 2 | 4) && is_compact && (width == 1 || !is_ascii);
            is_possible.then_some(Self {
                width: width as usize,
                is_ascii,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::layout::PythonVersion;
    use super::*;
    use crate::memory::SliceMemory;

    fn layout(minor: u8) -> &'static Layout {
        Layout::of(PythonVersion { minor, micro: None }).unwrap()
    }

    fn object(layout: &Layout, length: u64, state: u32, characters: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend(length.to_le_bytes());
        bytes.extend([0xff; 8]);
        bytes.extend(state.to_le_bytes());
        let is_ascii = state & 0x40 != 0 || state >> 20 & 1 != 0;
        let header = match is_ascii {
            true => layout.ascii_header as usize,
            // With the length in UTF-8 and a pointer to that; before 3.12 one more length.
            false => layout.ascii_header as usize + if layout.ascii_header == 48 { 24 } else { 16 },
        };
        bytes.resize(header, 0);
        bytes.extend(characters);
        bytes
    }

    #[track_caller]
    fn check(minor: u8, length: u64, state: u32, characters: &[u8], expected: Option<&str>) {
        let layout = layout(minor);
        let bytes = object(layout, length, state, characters);
        let read = read(
            layout,
            Avma(0x1000),
            5,
            &SliceMemory::new(Avma(0x1000), &bytes),
        );
        assert_eq!(read.as_deref(), expected);
    }

    #[test]
    fn characters_of_one_two_and_four_bytes() {
        for minor in [8, 11, 12] {
            check(minor, 3, 1 << 2 | 0x60, b"abc", Some("abc"));
            check(minor, 2, 1 << 2 | 0x20, b"a\xe4", Some("aä"));
            check(minor, 2, 2 << 2 | 0x21, &[0x61, 0, 0xac, 0x20], Some("a€"));
            check(minor, 1, 4 << 2 | 0x20, &[0, 0xf6, 1, 0], Some("😀"));
        }
        check(12, 3, 1 | (1 | 8 | 16) << 16, b"abc", Some("abc"));
    }

    #[test]
    fn what_is_too_long_is_cut_at_its_beginning_and_what_is_none_is_refused() {
        check(11, 7, 1 << 2 | 0x60, b"abcdefg", Some("…cdefg"));
        check(11, 3, 3 << 2 | 0x60, b"abc", None);
        check(11, 3, 1 << 2 | 0x40, b"abc", None);
        check(11, 9, 1 << 2 | 0x60, b"abc", None);
        check(11, u64::MAX, 4 << 2 | 0x20, b"abc", None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_string_or_none(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let memory = SliceMemory::new(Avma(0x1000), &bytes);
            let text = read(layout(8), Avma(0x1000), 5, &memory);
            prop_assert!(text.is_none_or(|text| text.chars().count() <= 6));
        }
    }
}
