//! Threads that were really in LuaJIT, walked again: as they were, and with their memory damaged.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use proptest::prelude::*;

use super::layout::{LAYOUTS, Layouts};
use super::walk::LuaJitProcess;
use crate::address::Avma;
use crate::arch::Arch;
use crate::interpreter::{
    Interpreter, NativeFrame, Segments, ThreadContext, VolatileBuffer, VolatileCopy, Walked,
};
use crate::memory::{MemoryReader, ReadError};
use crate::registers::Registers;
use crate::stack::{Frame, FrameOrigin, Stack, StackEnd};

/// A thread as it was (`fixtures/captures/README.md`).
#[derive(Clone)]
struct Frozen {
    interpreter: Range<Avma>,
    image: Range<Avma>,
    thread: ThreadContext,
    frames: Vec<Native>,
    memory: Pieces,
    /// The frames that were found in the process.
    found: Vec<String>,
    layouts: Layouts,
}

#[derive(Clone)]
struct Native {
    index: usize,
    is_return_address: bool,
    is_in_image: bool,
    registers: Registers,
}

/// Memory that was read, by where it begins.
#[derive(Clone, Default)]
struct Pieces(BTreeMap<u64, Vec<u8>>);

impl MemoryReader for Pieces {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let not_copied = ReadError::NotCopied(at);
        let (start, bytes) = self.0.range(..=at.0).next_back().ok_or(not_copied)?;
        let skip = usize::try_from(at.0 - start).map_err(|_| not_copied)?;
        let there = bytes.get(skip..).filter(|there| !there.is_empty());
        let there = there.ok_or(not_copied)?;
        let length = there.len().min(into.len());
        into[..length].copy_from_slice(&there[..length]);
        Ok(length)
    }
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap()
}

fn range(text: &str) -> Range<Avma> {
    let (start, end) = text.split_once(' ').unwrap();
    Avma(hex(start))..Avma(hex(end))
}

fn registers(arch: &'static Arch, words: &str) -> Registers {
    let mut registers = Registers::unknown(arch);
    for word in words.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap();
        let mut names = arch.register_names.iter();
        let number = names.position(|known| *known == name).unwrap();
        registers.set(u16::try_from(number).unwrap(), hex(value));
    }
    registers
}

impl Frozen {
    fn load(name: &str) -> Self {
        let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/captures");
        let path = captures.join(name).with_extension("capture");
        let text = std::fs::read_to_string(path).unwrap();
        let lines = |word: &str| {
            let prefix = format!("{word} ");
            let lines = text
                .lines()
                .filter_map(move |line| line.strip_prefix(&prefix));
            lines.collect::<Vec<_>>()
        };
        let (arch, layouts) = match name.ends_with("aarch64") {
            true => (&Arch::AARCH64, LAYOUTS[1]),
            false => (&Arch::X86_64, LAYOUTS[0]),
        };
        let thread = ThreadContext {
            tid: 1,
            namespace_tid: 1,
            registers: registers(arch, lines("registers")[0]),
            thread_pointer: None,
            stack: range(lines("stack")[0]),
            is_running: true,
        };
        let memory = lines("memory").into_iter().map(|line| {
            let (start, digits) = line.split_once(' ').unwrap();
            let bytes = digits.as_bytes().chunks(2);
            let bytes = bytes.map(|pair| hex(std::str::from_utf8(pair).unwrap()).to_le_bytes()[0]);
            (hex(start), bytes.collect())
        });
        let frames = lines("frame").into_iter().map(|line| {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap();
            Native {
                index: word().parse().unwrap(),
                is_return_address: word() == "true",
                is_in_image: word() == "true",
                registers: registers(arch, word()),
            }
        });
        Self {
            layouts,
            interpreter: range(lines("interpreter")[0]),
            image: range(lines("image")[0]),
            thread,
            frames: frames.collect(),
            memory: Pieces(memory.collect()),
            found: lines("found").into_iter().map(str::to_owned).collect(),
        }
    }

    /// Samples it once to find its state, and once more.
    fn walk(&self) -> (Walked, Segments) {
        let mut process =
            LuaJitProcess::new(self.layouts, self.interpreter.clone(), self.image.clone());
        self.sample(&mut process);
        self.sample(&mut process)
    }

    fn sample(&self, process: &mut LuaJitProcess) -> (Walked, Segments) {
        let (memory, thread) = (&self.memory, &self.thread);
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, memory, memory);
        process.capture(thread, &mut copy);
        process.begin(thread, memory);
        let mut native = Stack {
            frames: Vec::new(),
            end: StackEnd::Root,
        };
        for frame in &self.frames {
            let met = NativeFrame {
                index: frame.index,
                registers: &frame.registers,
                is_return_address: frame.is_return_address,
                is_in_image: frame.is_in_image,
            };
            process.visit(met, thread, memory);
            native.frames.push(Frame {
                address: frame.registers.pc().unwrap(),
                sp: frame.registers.sp().unwrap(),
                origin: FrameOrigin::CallFrameInfo,
            });
        }
        let mut out = Segments::default();
        let walked = process.walk(thread, &native, memory, &mut out);
        (walked, out)
    }
}

const CAPTURES: [&str; 2] = ["luajit-interpreted", "luajit-compiled"];

#[test]
fn what_was_walked_in_the_process_is_walked_in_its_capture() {
    for name in CAPTURES {
        let frozen = Frozen::load(name);
        let (walked, segments) = frozen.walk();
        assert_eq!(walked, Walked::Whole, "{name}");
        let found = segments.frames.iter().map(|frame| {
            let function = &frame.function;
            let file = function.file.rsplit('/').next().unwrap_or_default();
            let (kind, line, first) = (frame.kind, frame.line, function.first_line);
            format!("{kind:?} {line} {file}:{first} {:?}", function.name)
        });
        assert_eq!(found.collect::<Vec<_>>(), frozen.found, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_has_changed_in_a_capture_its_walk_ends(
        which in 0..CAPTURES.len(),
        damage in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index, u8)>(), 1..24),
    ) {
        let mut frozen = Frozen::load(CAPTURES[which]);
        let mut pieces: Vec<&mut Vec<u8>> = frozen.memory.0.values_mut().collect();
        for (piece, byte, value) in damage {
            let count = pieces.len();
            let piece = &mut pieces[piece.index(count)];
            let byte = byte.index(piece.len());
            piece[byte] = value;
        }
        let (_, segments) = frozen.walk();
        prop_assert!(segments.frames.len() <= super::stack::FRAMES_MAX * super::capture::THREADS_MAX);
    }
}
