//! Tables of every version, made here; the tables that a Go compiler makes are read in the tests of the command.

use proptest::prelude::*;

use super::go_pclntab::{GoCall, GoFunctions, GoLine};
use crate::address::Svma;

const MAGICS: [u32; 4] = [0xffff_fffb, 0xffff_fffa, 0xffff_fff0, 0xffff_fff1];
const TEXT: u64 = 0x40_1000;
/// `outer` lies at 0x10 to 0x30 of the text, `runtime.goexit` from there to 0x38.
const OUTER: u64 = TEXT + 0x10;
const GOEXIT: u64 = TEXT + 0x30;
const END: u64 = TEXT + 0x38;

fn varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A PC-value table: each value, and for how many bytes of code it holds.
fn values(steps: &[(i32, u32)]) -> Vec<u8> {
    let (mut out, mut last) = (Vec::new(), -1);
    for (value, code) in steps {
        let change: i32 = value - last;
        varint(((change << 1) ^ (change >> 31)).cast_unsigned(), &mut out);
        varint(*code, &mut out);
        last = *value;
    }
    out.push(0);
    out
}

/// Bytes in which every part's position is known.
#[derive(Default)]
struct Parts(Vec<u8>);

impl Parts {
    fn add(&mut self, bytes: &[u8]) -> u32 {
        let at = u32::try_from(self.0.len()).expect("small");
        self.0.extend(bytes);
        at
    }

    fn words(&mut self, words: &[u32]) -> u32 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.add(&bytes)
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }
}

/// A table of the version with `magic`, and its inline trees.
///
/// `outer` moves the stack pointer by 24 after 4 bytes; `inner` is inlined into `middle` and that into `outer` at 8 to
/// 12; the lines are 3 up to 8, 33 up to 12, then 4; the calls are at the lines 22 and 4.
fn table(magic: u32) -> (Vec<u8>, Vec<u8>) {
    let has_offsets = magic < 0xffff_fff8;
    let pointer = |value: u64| value.to_le_bytes();
    // All parts after the header, each at a position that counts from the first of them.
    let mut parts = Parts::default();
    parts.add(&[0]);
    let [outer, middle, inner, goexit, file, other_file] = [
        "main.outer",
        "main.middle",
        "main.inner",
        "runtime.goexit",
        "/src/a.go",
        "/src/b.go",
    ]
    .map(|name| parts.add(format!("{name}\0").as_bytes()));
    let stack = parts.add(&values(&[(0, 4), (24, 0x1c)]));
    let lines = parts.add(&values(&[(3, 8), (33, 4), (22, 1), (4, 0x13)]));
    let files = parts.add(&values(&[(1, 8), (2, 4), (1, 0x14)]));
    let inlined = parts.add(&values(&[(-1, 8), (1, 4), (0, 1), (-1, 0x13)]));
    parts.align();
    let header = match magic {
        0xffff_fffb => 16,
        0xffff_fffa => 8 + 7 * 8,
        _ => 8 + 8 * 8,
    };
    // In Go 1.2 everything counts from the first byte of the table.
    let base = if header == 16 { 24 + 5 * 8 } else { 0 };
    let at = |position: u32| position + base;
    let record = |parts: &mut Parts, entry: u64, name: u32, tables: [u32; 4], flags: u32| {
        parts.align();
        let start = if has_offsets {
            parts.words(&[u32::try_from(entry - TEXT).expect("small")])
        } else {
            parts.add(&pointer(entry))
        };
        let [stack, files, lines, inlined] =
            tables.map(|table| if table == 0 { 0 } else { at(table) });
        parts.words(&[at(name), 0, 0, stack, files, lines, 3]);
        match magic {
            0xffff_fffb => {}
            0xffff_fff1 => {
                parts.words(&[0, 1]);
            }
            _ => {
                parts.words(&[0]);
            }
        }
        // funcID, flag, padding, nfuncdata; three tables of values; function data.
        parts.words(&[
            flags << 8 | 4 << 24,
            0,
            0,
            inlined,
            u32::MAX,
            u32::MAX,
            u32::MAX,
            4,
        ]);
        start
    };
    let outer_record = record(&mut parts, OUTER, outer, [stack, files, lines, inlined], 0);
    let goexit_record = record(&mut parts, GOEXIT, goexit, [0; 4], 1);
    parts.align();
    let units = parts.words(&[2, at(file), at(other_file)]);
    parts.align();
    let index = u32::try_from(parts.0.len()).expect("small");
    let starts = [(OUTER, outer_record), (GOEXIT, goexit_record)];
    let mut header = magic.to_le_bytes().to_vec();
    header.extend([0, 0, 1, 8]);
    header.extend(pointer(2));
    if base != 0 {
        for (entry, record) in starts {
            header.extend(pointer(entry));
            header.extend(pointer(u64::from(at(record))));
        }
        header.extend(pointer(END));
        header.extend(pointer(u64::from(at(units))));
        header.extend(parts.0);
        return (header, Vec::new());
    }
    // Positions of records count from the index, which so must come first: a copy of all parts follows it.
    let index_bytes = if has_offsets { 4 * 5 } else { 8 * 5 };
    let copy = index_bytes;
    for (entry, record) in starts {
        if has_offsets {
            parts.words(&[u32::try_from(entry - TEXT).expect("small"), copy + record]);
        } else {
            parts.add(&pointer(entry));
            parts.add(&pointer(u64::from(copy + record)));
        }
    }
    if has_offsets {
        parts.words(&[u32::try_from(END - TEXT).expect("small")]);
    } else {
        parts.add(&pointer(END));
    }
    let records = parts.0.get(..index as usize).expect("inside").to_vec();
    parts.add(&records);
    header.extend(pointer(3));
    if has_offsets {
        header.extend(pointer(TEXT));
    }
    let size = u64::try_from(header.len() + 5 * 8).expect("small");
    for part in [0, units, 0, 0, index] {
        header.extend(pointer(size + u64::from(part)));
    }
    header.extend(parts.0);
    let mut trees = Parts::default();
    trees.words(&[0]);
    for (name, parent) in [(middle, 13), (inner, 12)] {
        match magic {
            0xffff_fff1 => trees.words(&[0, name, parent, 0]),
            _ => trees.words(&[0, 0, 0, name, parent]),
        };
    }
    (header, trees.0)
}

fn functions(magic: u32) -> GoFunctions<Vec<u8>> {
    let (bytes, trees) = table(magic);
    GoFunctions::parse(bytes, None)
        .unwrap_or_else(|| panic!("{magic:#x} is a table"))
        .with_inline_trees(trees)
}

#[test]
fn functions_of_every_version_are_found_by_address() {
    for magic in MAGICS {
        let functions = functions(magic);
        let name = |svma| functions.find(Svma(svma)).map(|function| function.name);
        let found = [OUTER - 1, OUTER, GOEXIT - 1, GOEXIT, END - 1, END].map(name);
        let (outer, goexit) = (Some("main.outer"), Some("runtime.goexit"));
        assert_eq!(
            found,
            [None, outer, outer, goexit, goexit, None],
            "{magic:#x}"
        );
        let goexit = functions.find(Svma(GOEXIT)).expect("it is there");
        assert_eq!((goexit.entry, goexit.end), (Svma(GOEXIT), Svma(END)));
        assert_eq!(goexit.is_outermost(), magic != MAGICS[0]);
        assert!(!goexit.writes_stack_pointer());
    }
}

#[test]
fn the_stack_pointer_and_the_lines_follow_the_code() {
    for magic in MAGICS {
        let functions = functions(magic);
        let outer = functions.find(Svma(OUTER)).expect("it is there");
        let delta = |offset| functions.sp_delta(&outer, Svma(OUTER + offset));
        assert_eq!(
            [0, 3, 4, 0x1f].map(delta),
            [Some(0), Some(0), Some(24), Some(24)]
        );
        assert_eq!(delta(0x20), None);
        let goexit = functions.find(Svma(GOEXIT)).expect("it is there");
        assert_eq!(functions.sp_delta(&goexit, Svma(GOEXIT)), None);
        let line = |offset| functions.line(&outer, Svma(OUTER + offset));
        let (a, b) = ("/src/a.go", "/src/b.go");
        let [first, inlined] = [(a, 3), (b, 33)].map(|(file, line)| Some(GoLine { file, line }));
        assert_eq!(
            [0, 7, 8, 11].map(line),
            [first, first, inlined, inlined],
            "{magic:#x}"
        );
    }
}

#[test]
fn inlined_functions_come_innermost_first() {
    for magic in MAGICS {
        let functions = functions(magic);
        let outer = functions.find(Svma(OUTER)).expect("it is there");
        let calls = functions.calls(&outer, Svma(OUTER + 8));
        let known: Vec<_> = calls
            .iter()
            .map(|GoCall { name, line }| (*name, line.map_or(0, |line| line.line)))
            .collect();
        let expected: &[_] = if magic < 0xffff_fff8 {
            &[("main.inner", 33), ("main.middle", 22), ("main.outer", 4)]
        } else {
            &[("main.outer", 33)]
        };
        assert_eq!(known, expected, "{magic:#x}");
    }
}

#[test]
fn the_start_of_the_text_is_taken_from_the_caller_where_the_header_has_none() {
    let (mut bytes, _) = table(MAGICS[3]);
    bytes.splice(24..32, [0; 8]);
    assert!(GoFunctions::parse(&bytes[..], None).is_none());
    let functions = GoFunctions::parse(&bytes[..], Some(Svma(0x1000))).expect("a table");
    let name = functions.find(Svma(0x1010)).map(|function| function.name);
    assert_eq!(name, Some("main.outer"));
}

fn ask_everything(functions: &GoFunctions<Vec<u8>>, svma: Svma) {
    if let Some(function) = functions.find(svma) {
        assert!((function.entry..function.end).contains(&svma));
        functions.sp_delta(&function, svma);
        functions.line(&function, svma);
        assert!(!functions.calls(&function, svma).is_empty());
    }
}

proptest! {
    #[test]
    fn damaged_tables_are_read_without_a_panic(
        version in 0usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
        offset in 0u64..0x60,
    ) {
        let (mut bytes, mut trees) = table(MAGICS[version]);
        for (at, byte) in changes {
            let length = bytes.len();
            let at = at.index(length + trees.len());
            match bytes.get_mut(at) {
                Some(place) => *place = byte,
                None => trees[at - length] = byte,
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(functions) = GoFunctions::parse(bytes, Some(Svma(TEXT))) {
            ask_everything(&functions.with_inline_trees(trees), Svma(TEXT + offset));
        }
    }

    #[test]
    fn any_bytes_after_the_magic_end_in_an_answer(
        version in 0usize..4,
        rest in prop::collection::vec(any::<u8>(), 0..300),
        svma in any::<u64>(),
    ) {
        let mut bytes = MAGICS[version].to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 8]);
        bytes.extend(&rest);
        if let Some(functions) = GoFunctions::parse(bytes, Some(Svma(svma))) {
            ask_everything(&functions.with_inline_trees(rest), Svma(svma));
        }
    }
}
