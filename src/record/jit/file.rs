//! A file that names code: read piece by piece, again and again as it grows and as more is to be named.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustc_hash::FxHashSet;

use super::NamedCode;
use super::jitdump::JitDumpParser;
use super::perf_map::PerfMapParser;
use super::wanted::Wanted;
use crate::profile::JitSource;

/// How much is read at once, in bytes. No name and no record's beginning is longer.
const READ_BYTES: usize = 64 << 10;

/// How far into a file is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// How many codes of one file are recorded.
const CODES_MAX: usize = 1 << 16;

/// At how many times it is remembered how long the file was.
const MARKS_MAX: usize = 1 << 10;

/// A file that is read.
#[derive(Debug)]
pub(super) struct JitFile {
    file: File,
    /// Device and inode: which file it is.
    identity: (u64, u64),
    parser: Parser,
    position: u64,
    /// How long the file was when there was nothing more to read in it.
    read_to_end_of: Option<u64>,
    /// How many addresses were wanted when the reading that is under way began at the start of the file.
    wanted_at_start: usize,
    /// The codes that were recorded, by their place in the file.
    recorded: FxHashSet<u64>,
    growth: Growth,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Parser {
    PerfMap(PerfMapParser),
    JitDump(Box<JitDumpParser>),
}

impl JitFile {
    /// `None` where nothing is known of the file.
    pub(super) fn new(file: File, source: JitSource) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        let parser = match source {
            JitSource::PerfMap => Parser::PerfMap(PerfMapParser::default()),
            JitSource::JitDump => Parser::JitDump(Box::default()),
        };
        Some(Self {
            file,
            identity: (metadata.dev(), metadata.ino()),
            parser,
            position: 0,
            read_to_end_of: None,
            wanted_at_start: 0,
            recorded: FxHashSet::default(),
            growth: Growth::default(),
            buffer: Vec::new(),
        })
    }

    /// Whether `other` is the same file.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Whether all that is wanted was looked for in all that there is.
    pub(super) fn is_done(&self, wanted: &Wanted) -> bool {
        let length = self.file.metadata().map_or(0, |file| file.len());
        self.read_to_end_of == Some(length.min(FILE_BYTES_MAX))
            && self.wanted_at_start == wanted.len()
    }

    /// Reads on for at most `budget` bytes, of which it takes what it has read. Tells of each code that is wanted once,
    /// with the time since which it has been there, as far as that is known.
    pub(super) fn read(
        &mut self,
        wanted: &Wanted,
        now_ns: u64,
        has_ended: bool,
        budget: &mut u64,
        found: &mut impl FnMut(NamedCode, Option<u64>),
    ) {
        let Ok(length) = self.file.metadata().map(|file| file.len()) else {
            return;
        };
        let length = length.min(FILE_BYTES_MAX);
        self.growth.mark(length, now_ns);
        if self.position == 0 {
            self.wanted_at_start = wanted.len();
        }
        self.read_to_end_of = None;
        let mut may_restart = true;
        // Each turn takes from the budget, or is the last or the last but one.
        while *budget > 0 {
            if self.read_once(wanted, length, has_ended, budget, found) > 0 {
                continue;
            }
            if !may_restart || !self.has_more_to_name(wanted) {
                self.read_to_end_of = Some(length);
                break;
            }
            may_restart = false;
            self.restart(wanted);
        }
        self.buffer = Vec::new();
    }

    /// Reads once and parses what it gets; how far that led.
    fn read_once(
        &mut self,
        wanted: &Wanted,
        length: u64,
        has_ended: bool,
        budget: &mut u64,
        found: &mut impl FnMut(NamedCode, Option<u64>),
    ) -> u64 {
        let left = length.saturating_sub(self.position);
        let size = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        self.buffer.resize(size, 0);
        let Ok(filled) = self.file.read_at(&mut self.buffer, self.position) else {
            return 0;
        };
        *budget = budget.saturating_sub(filled as u64);
        let bytes = self.buffer.get(..filled).unwrap_or_default();
        let is_full = filled == READ_BYTES;
        let (position, recorded, growth) = (self.position, &mut self.recorded, &self.growth);
        let mut tell = |offset: u64, code: NamedCode, time_ns: Option<u64>| {
            let place = position + offset;
            if recorded.len() < CODES_MAX && recorded.insert(place) {
                found(code, time_ns.or_else(|| growth.absent_until(place)));
            }
        };
        let done = match &mut self.parser {
            Parser::PerfMap(parser) => {
                let is_last = has_ended && self.position + filled as u64 >= length;
                parser.parse(bytes, is_full, is_last, wanted, &mut |offset, code| {
                    tell(offset, code, None);
                })
            }
            Parser::JitDump(parser) => parser.parse(bytes, is_full, wanted, &mut tell),
        };
        self.position = self.position.saturating_add(done);
        done
    }

    fn has_more_to_name(&self, wanted: &Wanted) -> bool {
        let needs_another_pass = match &self.parser {
            Parser::PerfMap(_) => false,
            Parser::JitDump(parser) => parser.needs_another_pass(),
        };
        needs_another_pass || self.wanted_at_start < wanted.len()
    }

    fn restart(&mut self, wanted: &Wanted) {
        self.position = 0;
        self.wanted_at_start = wanted.len();
        match &mut self.parser {
            Parser::PerfMap(parser) => *parser = PerfMapParser::default(),
            Parser::JitDump(parser) => parser.restart(),
        }
    }
}

/// How long the file was at which times.
#[derive(Debug, Default)]
struct Growth {
    /// The length, and when it was last seen to be so.
    marks: Vec<(u64, u64)>,
}

impl Growth {
    fn mark(&mut self, length: u64, now_ns: u64) {
        match self.marks.last_mut() {
            Some((last, at_ns)) if *last >= length => *at_ns = now_ns,
            _ => {
                if self.marks.len() >= MARKS_MAX {
                    // The older half is told less exactly from now on.
                    let mut number = 0;
                    self.marks.retain(|_| {
                        number += 1;
                        number % 2 == 0 || number > MARKS_MAX / 2
                    });
                }
                self.marks.push((length, now_ns));
            }
        }
    }

    /// The last time at which the file did not reach to `offset` yet; `None` for what was there from the start.
    fn absent_until(&self, offset: u64) -> Option<u64> {
        let before = self.marks.partition_point(|&(length, _)| length <= offset);
        self.marks
            .get(before.checked_sub(1)?)
            .map(|&(_, at_ns)| at_ns)
    }
}

/// Reads `bytes` as a file of `source` that has `first` of them when it is read first; how many codes it names of those at
/// `addresses`.
///
/// # Panics
/// When there is no room for a file, or reading it never ends.
#[cfg(any(test, fuzzing))]
pub(super) fn read_any(bytes: &[u8], first: usize, source: JitSource, addresses: &[u64]) -> usize {
    use std::io::Write as _;
    /// Each reads all there is.
    const TURNS_MAX: usize = 8;
    let mut wanted = Wanted::default();
    addresses.iter().for_each(|&address| wanted.add(address));
    wanted.sort();
    let mut writing = tempfile::NamedTempFile::new().expect("there is room for files");
    let reading = writing.reopen().expect("it is there");
    let mut file = JitFile::new(reading, source).expect("it is there");
    let mut codes = 0;
    let (start, end) = bytes.split_at(first.min(bytes.len()));
    for (piece, is_last) in [(start, false), (end, true)] {
        writing.write_all(piece).expect("there is room for files");
        let mut turns = 0;
        loop {
            let mut budget = u64::MAX;
            file.read(&wanted, 0, is_last, &mut budget, &mut |_, _| codes += 1);
            if file.is_done(&wanted) {
                break;
            }
            turns += 1;
            assert!(turns < TURNS_MAX, "it is read again and again");
        }
    }
    assert!(codes <= CODES_MAX);
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn wanted(addresses: &[u64]) -> Wanted {
        let mut wanted = Wanted::default();
        addresses.iter().for_each(|&address| wanted.add(address));
        wanted.sort();
        wanted
    }

    fn read(
        file: &mut JitFile,
        wanted: &Wanted,
        now_ns: u64,
        mut budget: u64,
    ) -> Vec<(String, Option<u64>)> {
        let mut names = Vec::new();
        file.read(wanted, now_ns, false, &mut budget, &mut |code, time_ns| {
            names.push((code.name, time_ns));
        });
        names
    }

    fn named(names: &[(&str, Option<u64>)]) -> Vec<(String, Option<u64>)> {
        names
            .iter()
            .map(|&(name, time_ns)| (name.to_owned(), time_ns))
            .collect()
    }

    #[test]
    fn a_file_that_grows_is_read_on_and_what_is_wanted_later_is_found_too() {
        let mut map = tempfile::NamedTempFile::new().unwrap();
        let mut file = JitFile::new(map.reopen().unwrap(), JitSource::PerfMap).unwrap();
        map.write_all(b"1000 10 f\n2000 10 g\n").unwrap();
        let few = wanted(&[0x1000, 0x3000]);
        assert_eq!(read(&mut file, &few, 5, u64::MAX), named(&[("f", None)]));
        assert!(file.is_done(&few));
        map.write_all(b"3000 10 h\n4000 10 i\n").unwrap();
        assert!(!file.is_done(&few));
        assert_eq!(read(&mut file, &few, 9, u64::MAX), named(&[("h", Some(5))]));
        let all = wanted(&[0x1000, 0x2000, 0x3000, 0x4000]);
        assert!(!file.is_done(&all));
        assert_eq!(
            read(&mut file, &all, 12, u64::MAX),
            named(&[("g", None), ("i", Some(5))])
        );
        assert!(file.is_done(&all));
        assert_eq!(read(&mut file, &all, 15, u64::MAX), []);
    }

    #[test]
    fn a_budget_bounds_what_is_read_at_a_time() {
        let mut map = tempfile::NamedTempFile::new().unwrap();
        for number in 0..100_000 {
            writeln!(map, "{:x} 10 f{number}", number * 16).unwrap();
        }
        map.flush().unwrap();
        let mut file = JitFile::new(map.reopen().unwrap(), JitSource::PerfMap).unwrap();
        let wanted = wanted(&[0, 99_999 * 16]);
        assert_eq!(read(&mut file, &wanted, 0, 1), named(&[("f0", None)]));
        let mut turns = 0;
        while !file.is_done(&wanted) {
            let names = read(&mut file, &wanted, 0, 1 << 20);
            assert!(names.is_empty() || names == named(&[("f99999", None)]));
            turns += 1;
        }
        assert!((2..10).contains(&turns), "{turns}");
    }

    #[test]
    fn times_are_bounds_however_often_the_file_grows() {
        let mut growth = Growth::default();
        for second in 0..10 * MARKS_MAX as u64 {
            growth.mark(second * 100, second);
            assert!(growth.marks.len() <= MARKS_MAX);
        }
        let last = 10 * MARKS_MAX as u64 - 1;
        assert_eq!(growth.absent_until(last * 100), Some(last));
        assert_eq!(growth.absent_until(last * 100 - 1), Some(last - 1));
        for offset in 0..1000 {
            assert!(
                growth
                    .absent_until(offset)
                    .is_none_or(|at_ns| at_ns <= offset / 100)
            );
        }
    }

    /// Lines and records, some of which make sense.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let number = || prop_oneof![0..0x40u64, any::<u64>()];
        let line = (number(), number())
            .prop_map(|(start, size)| format!("{start:x} {size:x} f\n").into_bytes());
        let record = (0..5u32, 0..100u32, prop::collection::vec(number(), 0..12)).prop_map(
            |(kind, length, numbers)| {
                let head = [kind.to_le_bytes(), length.to_le_bytes(), [0; 4], [0; 4]].concat();
                let body = numbers.iter().flat_map(|number| number.to_le_bytes());
                head.into_iter().chain(body).collect()
            },
        );
        prop_oneof![line, record, prop::collection::vec(any::<u8>(), 0..40)]
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_it_is_read_to_its_end(
            pieces in prop::collection::vec(piece(), 0..12), first in 0..600usize,
        ) {
            let header = [b"DTiJ\x01\0\0\0\x28\0\0\0".as_slice(), &[0; 28]].concat();
            let bytes = [vec![header], pieces].concat().concat();
            for source in [JitSource::PerfMap, JitSource::JitDump] {
                read_any(&bytes, first, source, &[0, 0x10, 0x1000]);
            }
        }
    }
}
