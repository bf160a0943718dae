//! Jitdump: what a compiler put where, and when, as records.
//!
//! tools/perf/Documentation/jitdump-specification.txt of the kernel, version 1. Written by V8 (`--perf-prof`), the JVM (by
//! libperf-jvmti), .NET (`DOTNET_PerfMapEnabled=1` writes both), LLVM, Wasmtime, Cranelift and others.

use rustc_hash::{FxHashMap, FxHashSet};

use super::wanted::Wanted;
use super::{NamedCode, name_of};
use crate::profile::{JitLine, JitSource};

/// `JiTD`, as a number in the byte order of the machine that wrote it.
const MAGIC: u32 = 0x4a69_5444;
const HEADER_BYTES: u64 = 40;
/// Timestamps are counts of the CPU, not nanoseconds of CLOCK_MONOTONIC.
const FLAG_ARCH_TIMESTAMP: u64 = 1;
/// The record is as long as its header says, and that is at least so much.
const RECORD_HEADER_BYTES: u64 = 16;

const CODE_LOAD: u32 = 0;
const CODE_MOVE: u32 = 1;
const CODE_DEBUG_INFO: u32 = 2;

/// How many lines of one function are kept.
const LINES_MAX: usize = 4096;
/// How many source files of one function are kept.
const FILES_MAX: usize = 64;
/// How many functions are remembered by number because they were moved to a wanted address.
const MOVED_MAX: usize = 1 << 12;

/// Where `perf inject` puts the code in the ELF file that it makes of it: some compilers (V8, LLVM) add this to the
/// addresses of lines, others do not.
const ELF_HEADER_BYTES: u64 = 0x40;

/// Where in a jitdump we are.
#[derive(Debug, Default)]
pub(super) struct JitDumpParser {
    /// Makes no sense from here on.
    is_over: bool,
    has_header: bool,
    is_big_endian: bool,
    /// Times are nanoseconds of CLOCK_MONOTONIC.
    has_times: bool,
    /// Lines were found to be behind the code they belong to.
    are_lines_shifted: bool,
    /// The debug information that comes before its function.
    debug_info: Vec<u8>,
    /// Functions that were moved to a wanted address, by number; and those of them whose names are known.
    moved: FxHashSet<u64>,
    moved_names: FxHashMap<u64, String>,
    /// One of `moved` was named before it was known to matter.
    needs_another_pass: bool,
}

impl JitDumpParser {
    /// Starts again from the beginning of the file.
    pub(super) fn restart(&mut self) {
        (self.has_header, self.needs_another_pass) = (false, false);
        self.debug_info.clear();
    }

    /// Whether something can be named only by starting again.
    pub(super) fn needs_another_pass(&self) -> bool {
        self.needs_another_pass
    }

    /// Parses the header or the record at the start of `bytes`, as much as a read gives, or several. Says how far to go
    /// on, which may be behind `bytes`; 0 when the first record is not whole yet.
    pub(super) fn parse(
        &mut self,
        bytes: &[u8],
        is_full: bool,
        wanted: &Wanted,
        found: &mut impl FnMut(u64, NamedCode, Option<u64>),
    ) -> u64 {
        let mut done = 0;
        while !self.is_over {
            let Some(rest) = usize::try_from(done)
                .ok()
                .and_then(|done| bytes.get(done..))
            else {
                break;
            };
            let length = match self.has_header {
                false => self.header(rest),
                true => self.record(rest, is_full && done == 0, wanted, &mut |code, time| {
                    found(done, code, time);
                }),
            };
            match length {
                Some(length) => done = done.saturating_add(length),
                None => break,
            }
        }
        done
    }

    fn header(&mut self, bytes: &[u8]) -> Option<u64> {
        let header = bytes.get(..usize::try_from(HEADER_BYTES).ok()?)?;
        self.is_big_endian = header.starts_with(&MAGIC.to_be_bytes());
        let mut fields = self.fields(header);
        let (magic, _version, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let flags = self.fields(header.get(32..)?).u64()?;
        let length = u64::from(length);
        if magic != MAGIC || length < HEADER_BYTES {
            self.is_over = true;
            return None;
        }
        self.has_header = true;
        self.has_times = flags & FLAG_ARCH_TIMESTAMP == 0;
        Some(length)
    }

    /// Parses one record, of which at least the beginning is in `bytes`; all that there will be if `is_all`.
    fn record(
        &mut self,
        bytes: &[u8],
        is_all: bool,
        wanted: &Wanted,
        found: &mut dyn FnMut(NamedCode, Option<u64>),
    ) -> Option<u64> {
        let mut fields = self.fields(bytes);
        let (kind, length, time) = (fields.u32()?, u64::from(fields.u32()?), fields.u64()?);
        if length < RECORD_HEADER_BYTES {
            self.is_over = true;
            return None;
        }
        let length_here = usize::try_from(length).ok()?.min(bytes.len());
        if !is_all && (length_here as u64) < length {
            return None;
        }
        let body = bytes.get(16..length_here)?;
        let time = self.has_times.then_some(time);
        match kind {
            CODE_LOAD => self.load(body, time, wanted, found),
            CODE_MOVE => self.code_move(body, time, wanted, found),
            CODE_DEBUG_INFO => {
                self.debug_info.clear();
                self.debug_info.extend_from_slice(body);
                Some(())
            }
            // How to unwind, that the file ends here, or what is not known yet.
            _ => Some(()),
        };
        Some(length)
    }

    /// `None` where the record is shorter than it must be.
    fn load(
        &mut self,
        body: &[u8],
        time: Option<u64>,
        wanted: &Wanted,
        found: &mut dyn FnMut(NamedCode, Option<u64>),
    ) -> Option<()> {
        let mut fields = self.fields(body);
        let (_pid, _tid, _vma) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let (start, size, index) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let is_wanted = wanted.any_in(start..start.checked_add(size)?);
        let has_moved = self.moved.contains(&index);
        let debug_info = std::mem::take(&mut self.debug_info);
        if is_wanted || has_moved {
            let name = name_of(fields.text()?);
            if has_moved {
                self.moved_names.insert(index, name.clone());
            }
            if is_wanted {
                let (files, lines) = self.lines(&debug_info, start, size).unwrap_or_default();
                let code = NamedCode {
                    start,
                    size,
                    source: JitSource::JitDump,
                    name,
                    files,
                    lines,
                };
                found(code, time);
            }
        }
        // Its memory is used again for the next.
        self.debug_info = debug_info;
        self.debug_info.clear();
        Some(())
    }

    fn code_move(
        &mut self,
        body: &[u8],
        time: Option<u64>,
        wanted: &Wanted,
        found: &mut dyn FnMut(NamedCode, Option<u64>),
    ) -> Option<()> {
        let mut fields = self.fields(body);
        let (_pid, _tid, _vma) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let (_from, start) = (fields.u64()?, fields.u64()?);
        let (size, index) = (fields.u64()?, fields.u64()?);
        if !wanted.any_in(start..start.checked_add(size)?) {
            return Some(());
        }
        if let Some(name) = self.moved_names.get(&index) {
            let code = NamedCode {
                start,
                size,
                source: JitSource::JitDump,
                name: name.clone(),
                files: Vec::new(),
                lines: Vec::new(),
            };
            found(code, time);
        } else if self.moved.len() < MOVED_MAX {
            self.needs_another_pass |= self.moved.insert(index);
        }
        Some(())
    }

    /// The files and lines of the code at `start`, if `debug_info` is of that code.
    fn lines(
        &mut self,
        debug_info: &[u8],
        start: u64,
        size: u64,
    ) -> Option<(Vec<String>, Vec<JitLine>)> {
        let mut fields = self.fields(debug_info);
        if fields.u64()? != start {
            return None;
        }
        let count = fields.u64()?;
        let mut files: Vec<String> = Vec::new();
        let mut entries = Vec::new();
        let mut file = None;
        for _ in 0..count.min(LINES_MAX as u64) {
            let entry = (|| Some((fields.u64()?, fields.u32()?, fields.u32()?, fields.text()?)))();
            let Some((address, line, _discriminator, name)) = entry else {
                break;
            };
            // V8 11.3 (Node 20) sometimes writes names from memory that it has freed: nothing after that has its place.
            // A name of this one byte is that of the entry before.
            if name != b"\xff" {
                let is_text = |name: &str| !name.contains(char::is_control);
                if !str::from_utf8(name).is_ok_and(is_text) {
                    return None;
                }
                let name = name_of(name);
                file = files.iter().position(|known| *known == name);
                if file.is_none() && files.len() < FILES_MAX {
                    file = Some(files.len());
                    files.push(name);
                }
            }
            let file = file.and_then(|file| u32::try_from(file).ok());
            if let (Some(offset), Some(file)) = (address.checked_sub(start), file) {
                entries.push(JitLine { offset, file, line });
            }
        }
        entries.sort_by_key(|entry| entry.offset);
        let first = entries.first().map(|entry| entry.offset);
        self.are_lines_shifted |= first == Some(ELF_HEADER_BYTES)
            || entries.last().is_some_and(|entry| {
                (size..size.saturating_add(ELF_HEADER_BYTES)).contains(&entry.offset)
            });
        if self.are_lines_shifted {
            entries.retain(|entry| entry.offset >= ELF_HEADER_BYTES);
            entries
                .iter_mut()
                .for_each(|entry| entry.offset -= ELF_HEADER_BYTES);
        }
        Some((files, entries))
    }

    fn fields<'b>(&self, bytes: &'b [u8]) -> Fields<'b> {
        Fields {
            bytes,
            is_big_endian: self.is_big_endian,
        }
    }
}

/// Numbers and texts, one after the other; `None` where the bytes end.
struct Fields<'b> {
    bytes: &'b [u8],
    is_big_endian: bool,
}

impl<'b> Fields<'b> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take()?;
        Some(match self.is_big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }

    fn u64(&mut self) -> Option<u64> {
        let bytes = self.take()?;
        Some(match self.is_big_endian {
            true => u64::from_be_bytes(bytes),
            false => u64::from_le_bytes(bytes),
        })
    }

    /// Up to a zero byte.
    fn text(&mut self) -> Option<&'b [u8]> {
        let length = self.bytes.iter().position(|&byte| byte == 0)?;
        let (text, rest) = self.bytes.split_at(length);
        self.bytes = rest.get(1..)?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(addresses: &[u64]) -> Wanted {
        let mut wanted = Wanted::default();
        addresses.iter().for_each(|&address| wanted.add(address));
        wanted.sort();
        wanted
    }

    fn header(flags: u64) -> Vec<u8> {
        let words = [MAGIC, 1, 40, 62, 0, 4711];
        let words = words.iter().flat_map(|word| word.to_le_bytes());
        let longs = [5u64, flags].into_iter().flat_map(u64::to_le_bytes);
        words.chain(longs).collect()
    }

    fn record(kind: u32, time: u64, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 16).unwrap();
        let mut record: Vec<u8> = [kind, length]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        record.extend(time.to_le_bytes());
        record.extend(body);
        record
    }

    fn longs(values: &[u64]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn load(time: u64, start: u64, size: u64, index: u64, name: &str) -> Vec<u8> {
        let mut body = longs(&[0, start, start, size, index]);
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(vec![0x90; usize::try_from(size).unwrap()]);
        record(CODE_LOAD, time, &body)
    }

    fn debug_info(start: u64, entries: &[(u64, u32, &str)]) -> Vec<u8> {
        let mut body = longs(&[start, entries.len() as u64]);
        for (address, line, file) in entries {
            body.extend(address.to_le_bytes());
            body.extend(line.to_le_bytes());
            body.extend([0; 4]);
            body.extend(if *file == "same" {
                b"\xff"
            } else {
                file.as_bytes()
            });
            body.push(0);
        }
        record(CODE_DEBUG_INFO, 0, &body)
    }

    fn parse(
        bytes: &[u8],
        addresses: &[u64],
    ) -> (u64, Vec<(NamedCode, Option<u64>)>, JitDumpParser) {
        let mut codes = Vec::new();
        let mut parser = JitDumpParser::default();
        let done = parser.parse(bytes, false, &wanted(addresses), &mut |_, code, time| {
            codes.push((code, time))
        });
        (done, codes, parser)
    }

    #[test]
    fn loads_come_with_their_times_and_lines() {
        let bytes = [
            header(0),
            debug_info(
                0x1000,
                &[
                    (0x1000, 7, "a.js"),
                    (0x1008, 9, "same"),
                    (0x100c, 1, "b.js"),
                ],
            ),
            load(50, 0x1000, 0x20, 1, "f"),
            load(60, 0x2000, 0x20, 2, "unwanted"),
            load(70, 0x1000, 0x10, 3, "g"),
        ]
        .concat();
        let (done, codes, _) = parse(&bytes, &[0x1008]);
        assert_eq!(done, bytes.len() as u64);
        let names: Vec<_> = codes
            .iter()
            .map(|(code, time)| (code.name.as_str(), *time))
            .collect();
        assert_eq!(names, [("f", Some(50)), ("g", Some(70))]);
        assert_eq!(codes[0].0.files, ["a.js", "b.js"]);
        let lines: Vec<_> = codes[0]
            .0
            .lines
            .iter()
            .map(|line| (line.offset, line.file, line.line))
            .collect();
        assert_eq!(lines, [(0, 0, 7), (8, 0, 9), (12, 1, 1)]);
        assert!(codes[1].0.lines.is_empty());
    }

    #[test]
    fn lines_that_count_from_an_elf_header_are_put_where_the_code_is() {
        let bytes = [
            header(0),
            debug_info(0x1000, &[(0x1044, 7, "a.js"), (0x105e, 9, "same")]),
            load(50, 0x1000, 0x20, 1, "f"),
        ]
        .concat();
        let (_, codes, _) = parse(&bytes, &[0x1008]);
        let lines: Vec<_> = codes[0]
            .0
            .lines
            .iter()
            .map(|line| (line.offset, line.line))
            .collect();
        assert_eq!(lines, [(4, 7), (0x1e, 9)]);
    }

    #[test]
    fn lines_of_a_file_whose_name_is_no_text_are_left_out() {
        let bytes = [
            header(0),
            debug_info(0x1000, &[(0x1000, 7, "a.js"), (0x1008, 9, "MD\x01")]),
            load(50, 0x1000, 0x20, 1, "f\x1b[2J"),
        ]
        .concat();
        let (_, codes, _) = parse(&bytes, &[0x1008]);
        assert_eq!(codes[0].0.name, "f\u{fffd}[2J");
        assert!(codes[0].0.lines.is_empty() && codes[0].0.files.is_empty());
    }

    #[test]
    fn moved_code_keeps_its_name() {
        let moved = record(CODE_MOVE, 80, &longs(&[0, 0, 0x1000, 0x3000, 0x20, 1]));
        let bytes = [header(0), load(50, 0x1000, 0x20, 1, "f"), moved].concat();
        let (_, codes, mut parser) = parse(&bytes, &[0x3000]);
        assert!(codes.is_empty() && parser.needs_another_pass());
        parser.restart();
        let mut names = Vec::new();
        parser.parse(&bytes, false, &wanted(&[0x3000]), &mut |_, code, time| {
            names.push((code.start, code.name, time));
        });
        assert_eq!(names, [(0x3000, "f".to_owned(), Some(80))]);
        assert!(!parser.needs_another_pass());
    }

    #[test]
    fn counts_of_the_cpu_are_no_times() {
        let bytes = [header(FLAG_ARCH_TIMESTAMP), load(50, 0x1000, 0x20, 1, "f")].concat();
        assert_eq!(parse(&bytes, &[0x1000]).1[0].1, None);
    }

    #[test]
    fn a_record_that_is_being_written_is_waited_for_and_a_long_one_is_not() {
        let bytes = [
            header(0),
            load(50, 0x1000, 0x20, 1, "f"),
            load(50, 0x2000, 0x20, 2, "g"),
        ]
        .concat();
        let second = (bytes.len() - load(50, 0x2000, 0x20, 2, "g").len()) as u64;
        let (done, codes, mut parser) = parse(&bytes[..bytes.len() - 1], &[0x1000, 0x2000]);
        assert_eq!((done, codes.len()), (second, 1));
        // All that a read gives: the code itself is not needed.
        let mut names = Vec::new();
        let rest = &bytes[usize::try_from(second).unwrap()..][..60];
        let done = parser.parse(rest, true, &wanted(&[0x2000]), &mut |_, code, _| {
            names.push(code.name)
        });
        assert_eq!(done, bytes.len() as u64 - second);
        assert_eq!(names, ["g"]);
    }

    #[test]
    fn what_is_no_jitdump_is_left_alone() {
        let (done, codes, _) = parse(&[b'x'; 200], &[0x1000]);
        assert_eq!((done, codes.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_result(
            kind in 0..4u32, body in prop::collection::vec(any::<u8>(), 0..200), cut in 0..300usize, is_full: bool,
        ) {
            let bytes = [header(0), record(kind, 1, &body), load(2, 0x1000, 0x20, 1, "f"), body].concat();
            let bytes = bytes.get(..cut).unwrap_or(&bytes);
            let mut parser = JitDumpParser::default();
            for _ in 0..2 {
                parser.parse(bytes, is_full, &wanted(&[0, 0x1000, 1 << 40]), &mut |_, _, _| {});
                parser.restart();
            }
        }

        #[test]
        fn any_numbers_in_a_record_end_in_a_result(kind in 0..3u32, numbers in prop::collection::vec(
            prop_oneof![any::<u64>(), 0x1000..0x1040u64, 0..9u64], 0..12,
        )) {
            let mut body = longs(&numbers);
            body.extend(b"name\0");
            let bytes = [header(0), record(kind, 1, &body), load(2, 0x1000, 0x20, 1, "f")].concat();
            let (done, codes, _) = parse(&bytes, &[0x1000]);
            prop_assert_eq!(done, bytes.len() as u64);
            prop_assert!(codes.iter().any(|(code, _)| code.name == "f"));
        }
    }
}
