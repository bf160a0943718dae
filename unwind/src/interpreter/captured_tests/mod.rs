//! Walks of stacks that were captured once of living interpreters (`fixtures/captures`, whose README says how), as they
//! were and with words changed.

mod make;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{
    Interpreter, NativeFrame, Segments, ThreadContext, VolatileBuffer, VolatileCopy, Walked, lua,
    python,
};
use crate::address::Avma;
use crate::arch::Arch;
use crate::memory::{MemoryReader, ReadError, SliceMemory};
use crate::registers::Registers;
use crate::stack::{Frame, FrameOrigin, Stack, StackEnd};

/// A thread in an interpreter, as text:
///
/// ```text
/// # a comment
/// interpreter python 14.10
/// part _PyRuntime 00ba07c0-00bedc88
/// thread 4711 00007ffd00001000-00007ffd00009000
/// frame return 7=7ffd00001010 16=401136
/// end root
/// memory 00007ffd00000000 0123456789abcdef
/// expect handler|shapes.py|89|96
/// ```
#[derive(Clone, Debug, Default)]
struct Frozen {
    language: String,
    version: (u8, u8),
    parts: BTreeMap<String, Range<u64>>,
    tid: i32,
    stack: Range<u64>,
    /// Whether each is one that a call returns to.
    frames: Vec<(bool, Vec<(u16, u64)>)>,
    is_complete: bool,
    memory: BTreeMap<u64, Vec<u8>>,
    expected: Vec<String>,
}

impl MemoryReader for Frozen {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let mut done = 0;
        while done < into.len() {
            let at = Avma(at.0.wrapping_add(done as u64));
            let piece = self.memory.range(..=at.0).next_back();
            let rest = into.get_mut(done..).unwrap_or_default();
            let read =
                piece.map(|(start, bytes)| SliceMemory::new(Avma(*start), bytes).read(at, rest));
            match read {
                Some(Ok(read)) if read > 0 => done += read,
                _ if done > 0 => break,
                _ => return Err(ReadError::NotCopied(at)),
            }
        }
        Ok(done)
    }
}

impl Frozen {
    fn parse(text: &str) -> Self {
        let mut frozen = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
            let words: Vec<&str> = rest.split(' ').collect();
            match (key, words.as_slice()) {
                ("interpreter", [language, version]) => {
                    let (minor, release) = version.split_once('.').unwrap();
                    frozen.language = (*language).to_owned();
                    frozen.version = (minor.parse().unwrap(), release.parse().unwrap());
                }
                ("part", [name, range]) => {
                    frozen.parts.insert((*name).to_owned(), hex_range(range));
                }
                ("thread", [tid, range]) => {
                    (frozen.tid, frozen.stack) = (tid.parse().unwrap(), hex_range(range));
                }
                ("frame", [how, registers @ ..]) => {
                    let registers = registers.iter().map(|register| {
                        let (number, value) = register.split_once('=').unwrap();
                        (number.parse().unwrap(), hex(value))
                    });
                    frozen.frames.push((*how == "return", registers.collect()));
                }
                ("end", [end]) => frozen.is_complete = *end == "root",
                ("memory", [start, bytes]) => {
                    let pairs = bytes.as_bytes().as_chunks::<2>().0.iter();
                    let bytes = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
                    let bytes = bytes.map(|pair| u8::from_str_radix(pair, 16).unwrap());
                    frozen.memory.insert(hex(start), bytes.collect());
                }
                ("expect", _) => frozen.expected.push(rest.to_owned()),
                _ => assert!(line.is_empty(), "{line}"),
            }
        }
        frozen
    }

    fn part(&self, name: &str) -> Option<Range<Avma>> {
        let part = self.parts.get(name)?;
        Some(Avma(part.start)..Avma(part.end))
    }

    /// `None` where what it states of itself makes no sense.
    fn interpreter(&self) -> Option<Box<dyn Interpreter>> {
        match self.language.as_str() {
            "python" => python::frozen(self.version.0, |name| self.part(name), self),
            _ => lua::frozen(self.version, |name| self.part(name)),
        }
    }

    fn registers(&self, of: &[(u16, u64)]) -> Registers {
        let mut registers = Registers::unknown(&Arch::X86_64);
        for (number, value) in of {
            registers.set(*number, *value);
        }
        registers
    }

    /// What a walk finds: each frame in the words of `expect`.
    fn walk(&self) -> (Walked, Vec<String>) {
        let Some(mut interpreter) = self.interpreter() else {
            return (Walked::NotHere, Vec::new());
        };
        let frames: Vec<_> = self
            .frames
            .iter()
            .map(|(is_return, of)| (*is_return, self.registers(of)))
            .collect();
        let thread = ThreadContext {
            tid: self.tid,
            namespace_tid: self.tid,
            registers: frames[0].1,
            thread_pointer: None,
            stack: Avma(self.stack.start)..Avma(self.stack.end),
            is_running: false,
        };
        let native = Stack {
            frames: frames
                .iter()
                .map(|(is_return, of)| frame(*is_return, of))
                .collect(),
            end: match self.is_complete {
                true => StackEnd::Root,
                false => StackEnd::Unreadable(ReadError::Unmapped(Avma(0))),
            },
        };
        let mut walked = (Walked::NotHere, Segments::default());
        // The first time the state of the interpreter may only be found.
        for _ in 0..2 {
            walked.1.clear();
            walked.0 = walk_once(
                interpreter.as_mut(),
                &thread,
                &frames,
                &native,
                self,
                &mut walked.1,
            );
        }
        let words = walked.1.frames.iter().map(|frame| {
            let function = &frame.function;
            format!(
                "{}|{}|{}|{}",
                function.name,
                file_name(&function.file),
                function.first_line,
                frame.line
            )
        });
        (walked.0, words.collect())
    }
}

fn walk_once(
    interpreter: &mut dyn Interpreter,
    thread: &ThreadContext,
    frames: &[(bool, Registers)],
    native: &Stack,
    memory: &dyn MemoryReader,
    out: &mut Segments,
) -> Walked {
    let mut buffer = VolatileBuffer::default();
    let range = thread.stack.start.0..thread.stack.end.0;
    let stack = Stretch { range, memory };
    interpreter.capture(thread, &mut VolatileCopy::new(&mut buffer, &stack, memory));
    interpreter.begin(thread, memory);
    for (index, (is_return_address, registers)) in frames.iter().enumerate() {
        let frame = NativeFrame {
            index,
            registers,
            is_return_address: *is_return_address,
            is_in_image: true,
        };
        interpreter.visit(frame, thread, memory);
    }
    interpreter.walk(thread, native, memory, out)
}

/// A part of memory.
struct Stretch<'a> {
    range: Range<u64>,
    memory: &'a dyn MemoryReader,
}

impl MemoryReader for Stretch<'_> {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        if !self.range.contains(&at.0) {
            return Err(ReadError::NotCopied(at));
        }
        let bytes = usize::try_from(self.range.end - at.0).unwrap_or(usize::MAX);
        let bytes = bytes.min(into.len());
        self.memory
            .read(at, into.get_mut(..bytes).unwrap_or_default())
    }
}

fn frame(is_return: bool, registers: &Registers) -> Frame {
    Frame {
        address: registers.pc().unwrap_or_default(),
        sp: registers.sp().unwrap_or_default(),
        origin: match is_return {
            true => FrameOrigin::CallFrameInfo,
            false => FrameOrigin::Registers,
        },
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap()
}

fn hex_range(text: &str) -> Range<u64> {
    let (start, end) = text.split_once('-').unwrap();
    hex(start)..hex(end)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/captures")
}

/// The captures of interpreters, by name.
fn captures() -> Vec<(String, Frozen)> {
    let entries = std::fs::read_dir(folder()).unwrap().flatten();
    let texts = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let is_one = name.starts_with("interpreter-") && name.ends_with(".capture");
        is_one.then(|| (name, std::fs::read_to_string(entry.path()).unwrap()))
    });
    texts
        .map(|(name, text)| (name, Frozen::parse(&text)))
        .collect()
}

#[test]
fn captured_stacks_are_walked_as_they_were() {
    let captures = captures();
    let versions: BTreeSet<_> = captures
        .iter()
        .map(|(_, frozen)| (frozen.language.clone(), frozen.version.0))
        .collect();
    let of = |language: &str, minors: Range<u8>| {
        let language = language.to_owned();
        minors.map(move |minor| (language.clone(), minor))
    };
    let all: BTreeSet<_> = of("lua", 1..6).chain(of("python", 8..16)).collect();
    assert_eq!(versions, all);
    for (name, frozen) in captures {
        let (walked, found) = frozen.walk();
        assert_eq!(found, frozen.expected, "{name}");
        assert_eq!(walked, Walked::Whole, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn captured_stacks_with_other_words_are_walked_to_an_end(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..8usize, word()), 1..24),
    ) {
        let mut captures = captures();
        let (_, mut frozen) = captures.swap_remove(which.index(captures.len()));
        let places: Vec<u64> = frozen.memory.keys().copied().collect();
        for (place, word, value) in changes {
            let place = places[place.index(places.len())];
            let value = match value {
                Word::Any(value) => value,
                Word::Pointer(to) => places[to.index(places.len())],
            };
            let piece = frozen.memory.get_mut(&place).unwrap();
            if let Some(into) = piece.get_mut(word * 8..word * 8 + 8) {
                into.copy_from_slice(&value.to_le_bytes());
            }
        }
        let (_, found) = frozen.walk();
        prop_assert!(found.len() < 1 << 18);
    }
}

#[derive(Clone, Debug)]
enum Word {
    Any(u64),
    Pointer(prop::sample::Index),
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        any::<u64>().prop_map(Word::Any),
        (0..8u64).prop_map(Word::Any),
        any::<prop::sample::Index>().prop_map(Word::Pointer),
    ]
}
