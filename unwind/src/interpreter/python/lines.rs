//! Which line an instruction of a code object belongs to.
//!
//! The encodings are described in CPython's sources: `Objects/lnotab_notes.txt` for 3.8 to 3.10, `Objects/locations.md`
//! (later `InternalDocs/code_objects.md`) from 3.11 on.

use super::layout::LineTable;

/// The line of the instruction at byte `at` of a code object that begins in line `first` and has `table`; `None` where the
/// table says that it has none, or makes no sense.
pub(super) fn line_at(encoding: LineTable, table: &[u8], first: u32, at: u32) -> Option<u32> {
    match encoding {
        LineTable::Lnotab => in_lnotab(table, first, at),
        LineTable::Ranges => in_ranges(table, first, at),
        LineTable::Locations => in_locations(table, first, at),
    }
}

/// Pairs: so many bytes further on, so many lines further down (signed).
fn in_lnotab(table: &[u8], first: u32, at: u32) -> Option<u32> {
    let mut line = i64::from(first);
    let mut address = 0;
    for &[bytes, lines] in table.as_chunks().0 {
        address += u64::from(bytes);
        if address > u64::from(at) {
            break;
        }
        line += i64::from(lines.cast_signed());
    }
    u32::try_from(line).ok()
}

/// Pairs: a range of so many bytes, which begins so many lines further down (signed); -128 for one without a line.
fn in_ranges(table: &[u8], first: u32, at: u32) -> Option<u32> {
    const NO_LINE: i8 = -128;
    let mut line = i64::from(first);
    let mut end = 0;
    for &[bytes, lines] in table.as_chunks().0 {
        let lines = lines.cast_signed();
        if lines != NO_LINE {
            line += i64::from(lines);
        }
        end += u64::from(bytes);
        if u64::from(at) < end {
            return (lines != NO_LINE).then(|| u32::try_from(line).ok())?;
        }
    }
    None
}

/// Entries for so many instructions each, of a kind that says how the line is given.
fn in_locations(table: &[u8], first: u32, at: u32) -> Option<u32> {
    let mut entries = Locations { rest: table };
    let mut line = i64::from(first);
    let mut end = 0;
    loop {
        let entry = entries.next_entry()?;
        line = line.checked_add(entry.lines.unwrap_or(0))?;
        end += entry.bytes;
        if u64::from(at) < end {
            return entry.lines.and(u32::try_from(line).ok());
        }
    }
}

/// One entry of a location table.
struct Location {
    bytes: u64,
    /// How many lines below the entry before; `None` for one without a line.
    lines: Option<i64>,
}

struct Locations<'a> {
    rest: &'a [u8],
}

impl Locations<'_> {
    fn next_entry(&mut self) -> Option<Location> {
        let head = self.byte()?;
        if head & 0x80 == 0 {
            return None; // not where an entry begins
        }
        let bytes = (u64::from(head & 7) + 1) * 2;
        let lines = match head >> 3 & 0xf {
            0..=9 => {
                self.byte()?;
                Some(0)
            }
            code @ 10..=12 => {
                self.byte()?;
                self.byte()?;
                Some(i64::from(code) - 10)
            }
            13 => Some(self.signed()?),
            14 => {
                let lines = self.signed()?;
                for _ in 0..3 {
                    self.number()?;
                }
                Some(lines)
            }
            _ => None,
        };
        Some(Location { bytes, lines })
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    /// Six bits in each byte, the lowest first; the seventh bit says that more follow.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..60).step_by(6) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x3f) << shift;
            if byte & 0x40 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// The sign is the lowest bit.
    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        let magnitude = i64::try_from(number >> 1).ok()?;
        Some(if number & 1 == 0 {
            magnitude
        } else {
            -magnitude
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pairs_of_3_8_go_up_and_down() {
        // As `Objects/lnotab_notes.txt` has it: byte 0 is line 1, 6 is 2, 50 is 7, 350 is 207, 361 is 208.
        let up = [6, 1, 44, 5, 255, 0, 45, 127, 0, 73, 11, 1];
        let line = |at| in_lnotab(&up, 1, at);
        assert_eq!(
            [0, 5, 6, 49, 50, 349, 350, 360, 361, 999].map(line),
            [1, 1, 2, 2, 7, 7, 207, 207, 208, 208].map(Some)
        );
        assert_eq!(in_lnotab(&[2, 3, 2, 0xfe], 10, 4), Some(11));
        assert_eq!(in_lnotab(&[0, 0x80, 0, 0x80], 10, 0), None);
    }

    #[test]
    fn the_ranges_of_3_10_may_have_no_line() {
        let table = [6, 1, 4, 0x80, 2, 0xff, 0, 5, 2, 1];
        let line = |at| in_ranges(&table, 10, at);
        assert_eq!(
            [0, 4, 6, 8, 10, 12, 14].map(line),
            [Some(11), Some(11), None, None, Some(10), Some(16), None]
        );
    }

    #[test]
    fn the_entries_of_3_11_have_five_kinds() {
        let table = [
            0x80 | 10 << 3 | 1,
            0,
            0, // two instructions, the same line
            0x80 | 3 << 3,
            0x11, // one, short form
            0x80 | 11 << 3,
            0,
            0, // one, a line further
            0x80 | 13 << 3,
            0x49,
            0x02,               // one, 68 lines back
            0x80 | 15 << 3 | 7, // eight without
            0x80 | 14 << 3,
            0x06,
            0x00,
            0x41,
            0x01,
            0x02, // one, three lines further
        ];
        let line = |at| in_locations(&table, 100, at);
        assert_eq!(
            [0, 2, 4, 6, 8, 10, 24, 26, 28].map(line),
            [
                Some(100),
                Some(100),
                Some(100),
                Some(101),
                Some(33),
                None,
                None,
                Some(36),
                None
            ]
        );
        assert_eq!(in_locations(&[0x00], 1, 0), None);
    }

    proptest! {
        #[test]
        fn any_table_is_read_to_its_end(
            table in prop::collection::vec(any::<u8>(), 0..200),
            first in any::<u32>(),
            at in any::<u32>(),
        ) {
            for encoding in [LineTable::Lnotab, LineTable::Ranges, LineTable::Locations] {
                let _line = line_at(encoding, &table, first, at);
            }
        }
    }
}
