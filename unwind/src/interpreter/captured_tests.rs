//! Walks of stacks that were captured once of living interpreters (`fixtures/captures`, whose README says how), as they
//! were and with words changed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::{
    FunctionKind, Interpreter, NativeFrame, RUNTIMES, Segments, ThreadContext, VolatileBuffer,
    VolatileCopy, Walked, lua, python,
};
use crate::address::{Avma, FileOffset};
use crate::arch::Arch;
use crate::elf::{ElfImage, ImageBytes};
use crate::memory::{MemoryReader, ReadError, SliceMemory};
use crate::modules::{Module, Modules};
use crate::native::{Unwinder, WalkGuide};
use crate::registers::Registers;
use crate::stack::{Frame, FrameOrigin, Stack, StackEnd};

/// What of memory is kept of each that was read: so much from a multiple of it on.
const PIECE_BYTES: usize = 64;

/// A thread in an interpreter, as text:
///
/// ```text
/// # a comment
/// interpreter python 3.14
/// part _PyRuntime 00ba07c0-00bedc88
/// thread 4711 00007ffd00001000-00007ffd00009000
/// frame return rip=0000000000401136 rsp=00007ffd00001010
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
            let read = piece.map(|(start, bytes)| {
                SliceMemory::new(Avma(*start), bytes).read(at, rest)
            });
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

    fn interpreter(&self) -> Box<dyn Interpreter> {
        let (minor, release) = self.version;
        match self.language.as_str() {
            "python" => python::frozen(minor, |name| self.part(name), self).unwrap(),
            _ => lua::frozen(minor, release, |name| self.part(name)).unwrap(),
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
        let mut interpreter = self.interpreter();
        let frames: Vec<_> = self
            .frames
            .iter()
            .map(|(is_return, of)| (*is_return, self.registers(of)))
            .collect();
        let thread = ThreadContext {
            tid: self.tid,
            namespace_tid: self.tid,
            registers: frames[0].1.clone(),
            thread_pointer: None,
            stack: Avma(self.stack.start)..Avma(self.stack.end),
            is_running: false,
        };
        let native = Stack {
            frames: frames.iter().map(|(is_return, of)| frame(*is_return, of)).collect(),
            end: match self.is_complete {
                true => StackEnd::Root,
                false => StackEnd::Unreadable(ReadError::Unmapped(Avma(0))),
            },
        };
        let mut walked = (Walked::NotHere, Segments::default());
        // The first time the state of the interpreter may only be found.
        for _ in 0..2 {
            walked.1.clear();
            walked.0 = walk_once(interpreter.as_mut(), &thread, &frames, &native, self, &mut walked.1);
        }
        let found = walked.1.frames.iter().filter(|frame| frame.kind != FunctionKind::Pseudo);
        let words = found.map(|frame| {
            let function = &frame.function;
            format!("{}|{}|{}|{}", function.name, file_name(&function.file), function.first_line, frame.line)
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
        self.memory.read(at, into.get_mut(..bytes).unwrap_or_default())
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

/// The memory of a living process, which remembers what was read of it.
struct Remembering {
    file: std::fs::File,
    pieces: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl MemoryReader for Remembering {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let read = self.file.read_at(into, at.0).map_err(|_| ReadError::Unmapped(at))?;
        let size = PIECE_BYTES as u64;
        let mut start = at.0 - at.0 % size;
        while start < at.0 + read as u64 {
            let mut piece = vec![0; PIECE_BYTES];
            if self.file.read_exact_at(&mut piece, start).is_ok() {
                self.pieces.borrow_mut().insert(start, piece);
            }
            start += size;
        }
        Ok(read)
    }
}

/// Remembers the frames of a native walk.
#[derive(Default)]
struct Frames(Vec<(bool, Registers)>);

impl WalkGuide for Frames {
    fn caller(&mut self, frame: NativeFrame<'_>) -> Option<Registers> {
        self.0.push((frame.is_return_address, frame.registers.clone()));
        None
    }
}

/// What is mapped in process `pid`, and the ranges of all of it.
fn modules(pid: i32) -> (Modules, Vec<Range<u64>>) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut by_path = BTreeMap::<&str, Vec<(Range<u64>, bool, u64)>>::new();
    let mut ranges = Vec::new();
    for line in text.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let range = hex_range(fields[0]);
        ranges.push(range.clone());
        if let Some(path) = fields.get(5).filter(|path| path.starts_with('/')) {
            let is_executable = fields[1].contains('x');
            by_path
                .entry(path)
                .or_default()
                .push((range, is_executable, hex(fields[2])));
        }
    }
    let mut executable = Vec::new();
    let modules = by_path.into_iter().filter_map(|(path, lines)| {
        let (range, _, offset) = lines.iter().find(|line| line.1)?;
        let bytes = ImageBytes::new(Arc::new(std::fs::read(path).ok()?));
        let image = Arc::new(ElfImage::parse(bytes).ok()?);
        let bias = image.bias_of_mapping(Avma(range.start), FileOffset(*offset), true)?;
        executable.push(Avma(range.start)..Avma(range.end));
        let start = lines.iter().map(|line| line.0.start).min()?;
        let end = lines.iter().map(|line| line.0.end).max()?;
        Some(Module {
            avma: Avma(start)..Avma(end),
            bias,
            image,
        })
    });
    let modules = modules.collect();
    (Modules::new(modules, executable), ranges)
}

/// Captures thread `CAPTURE_TID` of process `CAPTURE_PID`, which must be asleep, as `CAPTURE_NAME`.
#[test]
#[ignore = "makes a capture; fixtures/captures/README.md says how"]
fn capture_a_living_thread() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let number = |name: &str| variable(name).parse::<i32>().unwrap();
    let (pid, tid) = (number("CAPTURE_PID"), number("CAPTURE_TID"));
    let (modules, ranges) = modules(pid);
    let call = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).unwrap();
    let mut words = call.trim().rsplit(" 0x").map(hex);
    let (pc, sp) = (words.next().unwrap(), words.next().unwrap());
    let end = ranges.iter().find(|range| range.contains(&sp)).unwrap().end;
    let memory = Remembering {
        file: std::fs::File::open(format!("/proc/{pid}/mem")).unwrap(),
        pieces: RefCell::default(),
    };
    let mut frames = Frames::default();
    let mut native = Stack::empty();
    let start = Registers::at(&Arch::X86_64, Avma(pc), Avma(sp));
    Unwinder::new().walk_with_guide(&modules, &start, &memory, &mut frames, &mut native);
    memory.pieces.borrow_mut().clear();
    let mut frozen = Frozen {
        tid,
        stack: sp..end,
        is_complete: native.end == StackEnd::Root,
        frames: frames.0.iter().map(|(is_return, of)| (*is_return, known(of))).collect(),
        ..Frozen::default()
    };
    let found = modules.iter().find_map(|module| {
        let runtimes = RUNTIMES.iter().filter(|runtime| runtime.detect(&module.image).is_some());
        Some((module, runtimes.map(|runtime| runtime.language()).next()?))
    });
    let (module, language) = found.expect("an interpreter");
    frozen.language = language.name().to_owned();
    for name in ["_PyRuntime", "_PyEval_EvalFrameDefault", "PyCode_Type", "luaV_execute"] {
        if let Some(symbol) = module.image.symbol(name) {
            let start = module.bias.avma(symbol.svma).0;
            frozen.parts.insert(name.to_owned(), start..start + symbol.bytes);
        }
    }
    let version = variable("CAPTURE_VERSION");
    let (minor, release) = version.split_once('.').unwrap();
    frozen.version = (minor.parse().unwrap(), release.parse().unwrap());
    frozen.memory = BTreeMap::new();
    let mut text = frozen.header();
    let mut interpreter = match frozen.language.as_str() {
        "python" => python::frozen(frozen.version.0, |name| frozen.part(name), &memory).unwrap(),
        _ => lua::frozen(frozen.version.0, frozen.version.1, |name| frozen.part(name)).unwrap(),
    };
    let thread = ThreadContext {
        tid,
        namespace_tid: tid,
        registers: start,
        thread_pointer: None,
        stack: Avma(sp)..Avma(end),
        is_running: false,
    };
    for _ in 0..2 {
        walk_once(interpreter.as_mut(), &thread, &frames.0, &native, &memory, &mut Segments::default());
    }
    frozen.memory = memory.pieces.into_inner();
    for (start, bytes) in &frozen.memory {
        write!(text, "memory {start:016x} ").unwrap();
        for byte in bytes {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    let (walked, found) = frozen.walk();
    assert_eq!(walked, Walked::Whole);
    for frame in found {
        writeln!(text, "expect {frame}").unwrap();
    }
    let name = format!("interpreter-{}.capture", variable("CAPTURE_NAME"));
    std::fs::write(folder().join(name), text).unwrap();
}

impl Frozen {
    /// All but the memory and the frames expected.
    fn header(&self) -> String {
        let mut text = String::new();
        let (minor, release) = self.version;
        writeln!(text, "interpreter {} {minor}.{release}", self.language).unwrap();
        for (name, range) in &self.parts {
            writeln!(text, "part {name} {:x}-{:x}", range.start, range.end).unwrap();
        }
        let (tid, stack) = (self.tid, &self.stack);
        writeln!(text, "thread {tid} {:x}-{:x}", stack.start, stack.end).unwrap();
        for (is_return, registers) in &self.frames {
            text.push_str(if *is_return { "frame return" } else { "frame exact" });
            for (number, value) in registers {
                write!(text, " {number}={value:x}").unwrap();
            }
            text.push('\n');
        }
        text.push_str(if self.is_complete { "end root\n" } else { "end cut\n" });
        text
    }
}

/// The registers that are known, by their DWARF numbers.
fn known(registers: &Registers) -> Vec<(u16, u64)> {
    let numbers = 0..17;
    numbers
        .filter_map(|number| Some((number, registers.get(number)?)))
        .collect()
}
