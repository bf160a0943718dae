//! Perf maps: a line `START SIZE NAME` for each function, numbers in hexadecimal.
//!
//! tools/perf/Documentation/jit-interface.txt of the kernel. Written by V8 (`--perf-basic-prof`), the JVM (by an agent or
//! `jcmd PID Compiler.perfmap`), .NET (`DOTNET_PerfMapEnabled`), Erlang (`+JPperf`), PHP, Julia, LuaJIT, CPython and others.

use super::wanted::Wanted;
use super::{NamedCode, name_of};
use crate::profile::JitSource;

/// Where in a perf map we are.
#[derive(Debug, Default)]
pub(super) struct PerfMapParser {
    /// In the middle of a line that is longer than can be read at once: it is passed over.
    in_long_line: bool,
}

impl PerfMapParser {
    /// Parses what lies at `position` of the file, as much as a read gives. Says how many bytes are done with; none when
    /// the last line is not whole yet, unless `is_last`.
    pub(super) fn parse(
        &mut self,
        bytes: &[u8],
        is_full: bool,
        is_last: bool,
        wanted: &Wanted,
        found: &mut impl FnMut(u64, NamedCode),
    ) -> u64 {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let (line, length) = match rest.iter().position(|&byte| byte == b'\n') {
                Some(end) => (&rest[..end], end + 1),
                None if done == 0 && is_full => {
                    self.in_long_line = true;
                    return bytes.len() as u64;
                }
                None if is_last => (rest, rest.len()),
                None => break,
            };
            let offset = done as u64;
            done += length;
            if std::mem::take(&mut self.in_long_line) {
                continue;
            }
            if let Some(code) = parse_line(line, wanted) {
                found(offset, code);
            }
        }
        done as u64
    }
}

/// `None` for a line that is no code, or none that is wanted.
fn parse_line(line: &[u8], wanted: &Wanted) -> Option<NamedCode> {
    let (start, rest) = hexadecimal(line)?;
    let (size, rest) = hexadecimal(rest)?;
    if !wanted.any_in(start..start.checked_add(size)?) {
        return None;
    }
    let name = rest.trim_ascii();
    (!name.is_empty()).then(|| NamedCode {
        start,
        size,
        source: JitSource::PerfMap,
        name: name_of(name),
        files: Vec::new(),
        lines: Vec::new(),
    })
}

/// The number that `text` begins with, and what follows the space after it. Some writers put `0x` before it.
fn hexadecimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix(b"0x").unwrap_or(text);
    let length = text.iter().position(|byte| !byte.is_ascii_hexdigit())?;
    let (digits, rest) = text.split_at(length);
    if digits.is_empty() || digits.len() > 16 || !rest.starts_with(b" ") {
        return None;
    }
    let value = digits.iter().fold(0, |value, &digit| {
        let digit = char::from(digit).to_digit(16).unwrap_or(0);
        value << 4 | u64::from(digit)
    });
    Some((value, rest))
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

    fn names(text: &[u8], is_last: bool, addresses: &[u64]) -> (u64, Vec<(u64, u64, String)>) {
        let mut names = Vec::new();
        let mut parser = PerfMapParser::default();
        let done = parser.parse(text, false, is_last, &wanted(addresses), &mut |_, code| {
            names.push((code.start, code.size, code.name));
        });
        (done, names)
    }

    #[test]
    fn lines_that_hold_a_wanted_address_are_found() {
        let text =
            b"1000 20 LazyCompile:~f /a b.js:1\n0x2000 0x10 g\n3000 10 h\nnonsense\n4000 zz i\n";
        let (done, names) = names(text, false, &[0x101f, 0x2000, 0x3010, 0x4000]);
        assert_eq!(done, text.len() as u64);
        assert_eq!(
            names,
            [
                (0x1000, 0x20, "LazyCompile:~f /a b.js:1".to_owned()),
                (0x2000, 0x10, "g".to_owned())
            ]
        );
    }

    #[test]
    fn a_line_that_is_being_written_is_waited_for() {
        let text = b"1000 20 f\n2000 20 half";
        assert_eq!(names(text, false, &[0x2000]), (10, Vec::new()));
        let (done, names) = names(text, true, &[0x2000]);
        assert_eq!(done, text.len() as u64);
        assert_eq!(names, [(0x2000, 0x20, "half".to_owned())]);
    }

    #[test]
    fn a_line_longer_than_a_read_is_passed_over() {
        let mut parser = PerfMapParser::default();
        let wanted = wanted(&[0x1000, 0x2000]);
        let mut names = Vec::new();
        let mut found = |_, code: NamedCode| names.push(code.name);
        assert_eq!(
            parser.parse(b"1000 20 ffffff", true, false, &wanted, &mut found),
            14
        );
        assert_eq!(
            parser.parse(
                b"2000 20 no\n2000 20 g\n",
                false,
                false,
                &wanted,
                &mut found
            ),
            21
        );
        assert_eq!(names, ["g"]);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..200), is_full: bool, is_last: bool) {
            let mut parser = PerfMapParser::default();
            let done = parser.parse(&bytes, is_full, is_last, &wanted(&[0, 1, 0x10]), &mut |offset, _| {
                assert!(offset < bytes.len() as u64);
            });
            prop_assert!(done <= bytes.len() as u64);
        }

        #[test]
        fn what_was_written_is_read(
            start in any::<u64>(), size in 1..u64::from(u32::MAX), name in "[!-~]([ -~]{0,40}[!-~])?",
        ) {
            prop_assume!(start.checked_add(size).is_some());
            let text = format!("{start:x} {size:x} {name}\n");
            let (_, names) = names(text.as_bytes(), false, &[start + size - 1]);
            prop_assert_eq!(names, [(start, size, name)]);
        }
    }
}
