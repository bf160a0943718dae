//! Code that a process compiled while it ran: which function was where, and from when on.

use std::ops::Range;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::stacks::{JitId, ProcessId};

/// How many codes that begin before an address are asked whether they reach it. Codes overlap where memory was used
/// again; no compiler comes near this at one place.
const OVERLAPPING_MAX: usize = 4096;

/// A function, or a stub, that was compiled into memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JitCode {
    /// Whose memory it is in.
    pub process: ProcessId,
    /// Its first address in the process.
    pub start: u64,
    /// How many bytes it has.
    pub size: u64,
    /// From when on it was there, in nanoseconds since the recording began; 0 for what was there before.
    pub from_ns: u64,
    /// Who says so.
    pub source: JitSource,
    /// Its name, as the compiler gives it.
    pub name: String,
    /// The source files that its lines are in.
    pub files: Vec<String>,
    /// Where its lines begin, in ascending order.
    pub lines: Vec<JitLine>,
}

/// From where on code belongs to a line, until the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JitLine {
    /// How many bytes after the start of the code.
    pub offset: u64,
    /// The position of its file in [`JitCode::files`].
    pub file: u32,
    /// The line.
    pub line: u32,
}

/// What names the code of compilers at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JitSource {
    /// `/tmp/perf-PID.map`: it does not say when; the time is that of the last look at which a line was missing.
    PerfMap,
    /// `jit-PID.dump`, with times.
    JitDump,
}

impl JitCode {
    /// The address after its last.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }

    /// The source file and line of the code at `address`.
    pub fn line_at(&self, address: u64) -> Option<(&str, u32)> {
        let offset = address.checked_sub(self.start)?;
        let after = self.lines.partition_point(|line| line.offset <= offset);
        let line = self.lines.get(after.checked_sub(1)?)?;
        let file = self.files.get(usize::try_from(line.file).ok()?)?;
        Some((file, line.line))
    }
}

/// All code of a recording that was compiled at run time.
#[derive(Debug, Default)]
pub struct JitTable {
    codes: Vec<JitCode>,
    by_process: FxHashMap<ProcessId, Codes>,
}

/// The codes of one process.
#[derive(Debug, Default)]
struct Codes {
    /// Ascending by start, then by time, then in the order in which they were told.
    sorted: Vec<Place>,
    /// How many of them are in order; others were added since.
    in_order: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    from_ns: u64,
    id: JitId,
    end: u64,
    /// The highest end of this one and all before it.
    end_max: u64,
}

/// What was at an address, and how long that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `None` where nothing is known to have been.
    pub(super) code: Option<JitId>,
    /// For which times the answer is the same.
    pub(super) valid_ns: Range<u64>,
}

impl JitTable {
    /// Everything in it, by [`JitId`].
    pub fn codes(&self) -> &[JitCode] {
        &self.codes
    }

    /// The code with this id.
    pub fn get(&self, id: JitId) -> Option<&JitCode> {
        self.codes.get(id.index())
    }

    /// Adds one. [`JitTable::sort`] makes it findable.
    pub(super) fn add(&mut self, code: JitCode) {
        // A recording cannot hold 2^32 of them.
        let id = JitId(u32::try_from(self.codes.len()).unwrap_or(u32::MAX));
        let place = Place {
            start: code.start,
            from_ns: code.from_ns,
            id,
            end: code.end(),
            end_max: 0,
        };
        let codes = self.by_process.entry(code.process).or_default();
        codes.sorted.push(place);
        self.codes.push(code);
    }

    /// Puts what was added in order.
    pub(super) fn sort(&mut self) {
        self.by_process.values_mut().for_each(Codes::sort);
    }

    /// What was at `address` of `process` at a time: what was put there last before it. What a perf map says of the
    /// address later holds before as well, if nothing else does: its lines may be written late.
    pub(super) fn find(&self, process: ProcessId, address: u64, at_ns: u64) -> Found {
        let mut found = Found {
            code: None,
            valid_ns: 0..u64::MAX,
        };
        let mut earliest: Option<(u64, JitId)> = None;
        let mut latest: Option<(u64, JitId)> = None;
        for place in self.covering(process, address) {
            if place.from_ns <= at_ns {
                found.valid_ns.start = found.valid_ns.start.max(place.from_ns);
                latest = latest.max(Some((place.from_ns, place.id)));
                continue;
            }
            found.valid_ns.end = found.valid_ns.end.min(place.from_ns);
            let is_vague = |code: &JitCode| code.source == JitSource::PerfMap;
            if self.get(place.id).is_some_and(is_vague) {
                let this = (place.from_ns, place.id);
                earliest = Some(earliest.map_or(this, |other| other.min(this)));
            }
        }
        found.code = latest.or(earliest).map(|(_, id)| id);
        found
    }

    /// What is said of `address` at any time, the first if there is more: for what was named only afterwards.
    pub fn find_whenever(&self, process: ProcessId, address: u64) -> Option<JitId> {
        let places = self.covering(process, address);
        places
            .map(|place| (place.from_ns, place.id))
            .min()
            .map(|(_, id)| id)
    }

    fn covering(&self, process: ProcessId, address: u64) -> impl Iterator<Item = &Place> {
        let places = self.by_process.get(&process).map_or(&[][..], |codes| {
            codes.sorted.get(..codes.in_order).unwrap_or_default()
        });
        let after = places.partition_point(|place| place.start <= address);
        places[..after]
            .iter()
            .rev()
            .take(OVERLAPPING_MAX)
            .take_while(move |place| place.end_max > address)
            .filter(move |place| place.end > address)
    }
}

impl Codes {
    fn sort(&mut self) {
        if self.in_order == self.sorted.len() {
            return;
        }
        self.sorted
            .sort_unstable_by_key(|place| (place.start, place.from_ns, place.id));
        let mut end_max = 0;
        for place in &mut self.sorted {
            end_max = place.end.max(end_max);
            place.end_max = end_max;
        }
        self.in_order = self.sorted.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROCESS: ProcessId = ProcessId(3);

    fn code(start: u64, size: u64, from_ns: u64, source: JitSource) -> JitCode {
        JitCode {
            process: PROCESS,
            start,
            size,
            from_ns,
            source,
            name: format!("{start:x}@{from_ns}"),
            files: Vec::new(),
            lines: Vec::new(),
        }
    }

    fn table(codes: impl IntoIterator<Item = JitCode>) -> JitTable {
        let mut table = JitTable::default();
        codes.into_iter().for_each(|code| table.add(code));
        table.sort();
        table
    }

    fn name_at(table: &JitTable, address: u64, at_ns: u64) -> Option<&str> {
        let id = table.find(PROCESS, address, at_ns).code?;
        table.get(id).map(|code| code.name.as_str())
    }

    #[test]
    fn memory_that_is_used_again_has_another_name_from_then_on() {
        let table = table([
            code(0x1000, 0x100, 50, JitSource::JitDump),
            code(0x1000, 0x80, 70, JitSource::JitDump),
        ]);
        assert_eq!(name_at(&table, 0x1010, 49), None);
        assert_eq!(name_at(&table, 0x1010, 50), Some("1000@50"));
        assert_eq!(name_at(&table, 0x1010, 69), Some("1000@50"));
        assert_eq!(name_at(&table, 0x1010, 70), Some("1000@70"));
        assert_eq!(name_at(&table, 0x10ff, 70), Some("1000@50"));
        assert_eq!(name_at(&table, 0x1100, 70), None);
        assert_eq!(table.find(PROCESS, 0x1010, 60).valid_ns, 50..70);
        assert_eq!(table.find(ProcessId(1), 0x1010, 60).code, None);
    }

    #[test]
    fn a_line_of_a_perf_map_may_come_late() {
        let table = table([
            code(0x1000, 0x100, 50, JitSource::PerfMap),
            code(0x1000, 0x100, 90, JitSource::PerfMap),
        ]);
        assert_eq!(name_at(&table, 0x1000, 10), Some("1000@50"));
        assert_eq!(name_at(&table, 0x1000, 90), Some("1000@90"));
    }

    #[test]
    fn lines_reach_to_the_next_one() {
        let mut code = code(0x1000, 0x100, 0, JitSource::JitDump);
        code.files = vec!["a.js".to_owned()];
        code.lines = [(4, 0, 7), (8, 0, 9), (16, 9, 1)]
            .map(|(offset, file, line)| JitLine { offset, file, line })
            .to_vec();
        assert_eq!(code.line_at(0x1003), None);
        assert_eq!(code.line_at(0x1007), Some(("a.js", 7)));
        assert_eq!(code.line_at(0x1008), Some(("a.js", 9)));
        assert_eq!(code.line_at(0x1010), None);
        assert_eq!(code.line_at(0xfff), None);
    }

    proptest! {
        #[test]
        fn what_was_put_there_last_is_found(
            codes in prop::collection::vec((0..64u64, 0..16u64, 0..8u64), 0..40), address in 0..80u64, at_ns in 0..8u64,
        ) {
            let codes: Vec<JitCode> = codes
                .into_iter()
                .map(|(start, size, from_ns)| code(start, size, from_ns, JitSource::JitDump))
                .collect();
            let expected = codes
                .iter()
                .enumerate()
                .filter(|(_, code)| (code.start..code.end()).contains(&address) && code.from_ns <= at_ns)
                .max_by_key(|(index, code)| (code.from_ns, *index))
                .map(|(index, _)| index);
            let table = table(codes);
            let found = table.find(PROCESS, address, at_ns);
            prop_assert_eq!(found.code.map(JitId::index), expected);
            prop_assert!(found.valid_ns.contains(&at_ns));
            for other_ns in found.valid_ns.start..found.valid_ns.end.min(10) {
                prop_assert_eq!(&table.find(PROCESS, address, other_ns), &found);
            }
        }
    }
}
