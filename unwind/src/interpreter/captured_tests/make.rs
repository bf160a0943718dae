//! Makes captures of living interpreters.
#![expect(
    clippy::disallowed_types,
    reason = "a living process is started and read"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;

use sampler_tests_support::{Target, need};

use super::{Frozen, captures, folder, hex, hex_range, walk_once};
use crate::address::{Avma, FileOffset};
use crate::arch::Arch;
use crate::elf::{ElfImage, ImageBytes};
use crate::interpreter::{
    Language, NativeFrame, RUNTIMES, Segments, ThreadContext, Walked, lua, python,
};
use crate::memory::{MemoryReader, ReadError};
use crate::modules::{Module, Modules};
use crate::native::{Unwinder, WalkGuide};
use crate::registers::Registers;
use crate::stack::{Stack, StackEnd};

/// What of memory is kept of each that was read: so much from a multiple of it on.
const PIECE_BYTES: usize = 64;

/// The memory of a living process, which remembers what was read of it.
struct Remembering {
    file: std::fs::File,
    pieces: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl MemoryReader for Remembering {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let read = self
            .file
            .read_at(into, at.0)
            .map_err(|_| ReadError::Unmapped(at))?;
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
        self.0.push((frame.is_return_address, *frame.registers));
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

/// The interpreter that is mapped in a process, and where what has a name lies in it.
fn parts(modules: &Modules) -> (Language, BTreeMap<String, Range<u64>>) {
    const NAMES: [&str; 4] = [
        "_PyRuntime",
        "_PyEval_EvalFrameDefault",
        "PyCode_Type",
        "luaV_execute",
    ];
    let found = modules.iter().find_map(|module| {
        let mut runtimes = RUNTIMES.iter();
        let runtime = runtimes.find(|runtime| runtime.detect(&module.image).is_some())?;
        Some((module, runtime.language()))
    });
    let (module, language) = found.expect("an interpreter");
    let parts = NAMES.iter().filter_map(|name| {
        let symbol = module.image.symbol(name)?;
        let start = module.bias.avma(symbol.svma).0;
        Some(((*name).to_owned(), start..start + symbol.bytes))
    });
    (language, parts.collect())
}

/// The main thread of process `pid`, asleep in Lua or Python 3 of this version.
fn capture(pid: i32, version: (u8, u8)) -> Frozen {
    let (modules, ranges) = modules(pid);
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    let mut words = call.trim().rsplit(" 0x").map(hex);
    let (pc, sp) = (words.next().unwrap(), words.next().unwrap());
    let end = ranges.iter().find(|range| range.contains(&sp)).unwrap().end;
    let memory = Remembering {
        file: std::fs::File::open(format!("/proc/{pid}/mem")).unwrap(),
        pieces: RefCell::default(),
    };
    let mut frames = Frames::default();
    let mut native = Stack::empty();
    let registers = Registers::at(&Arch::X86_64, Avma(pc), Avma(sp));
    Unwinder::new().walk_with_guide(&modules, &registers, &memory, &mut frames, &mut native);
    memory.pieces.borrow_mut().clear();
    let (language, parts) = parts(&modules);
    let known = frames.0.iter();
    let known = known.map(|(is_return, of)| (*is_return, known_registers(of)));
    let mut frozen = Frozen {
        language: language.name().to_owned(),
        version,
        parts,
        tid: pid,
        stack: sp..end,
        frames: known.collect(),
        is_complete: native.end == StackEnd::Root,
        ..Frozen::default()
    };
    let mut interpreter = match language {
        Language::Python => python::frozen(version.0, |name| frozen.part(name), &memory).unwrap(),
        Language::Lua => lua::frozen(version, |name| frozen.part(name)).unwrap(),
    };
    let thread = ThreadContext {
        tid: pid,
        namespace_tid: pid,
        registers,
        thread_pointer: None,
        stack: Avma(sp)..Avma(end),
        is_running: false,
    };
    for _ in 0..2 {
        let out = &mut Segments::default();
        walk_once(
            interpreter.as_mut(),
            &thread,
            &frames.0,
            &native,
            &memory,
            out,
        );
    }
    frozen.memory = memory.pieces.into_inner();
    frozen
}

/// Makes the capture `CAPTURE_NAME` of the interpreter `CAPTURE_PROGRAM` of version `CAPTURE_VERSION`, or, where there are
/// no such variables, one of the distribution's Python, which is like the one that is there.
#[test]
fn a_capture_of_now_is_walked_like_the_one_that_is_there() {
    let variable = |name: &str| std::env::var(name).ok();
    let program = variable("CAPTURE_PROGRAM").map_or_else(|| need("python3"), Into::into);
    let is_lua = program.to_string_lossy().contains("lua");
    let mut command = Command::new(&program);
    command.current_dir(folder());
    match is_lua {
        true => command.arg("stops.lua"),
        false => command.args(["-B", "stops.py"]),
    };
    let mut target = Target::spawn(&mut command);
    target.until_ready();
    target.until_all_threads_sleep();
    let version = variable("CAPTURE_VERSION").unwrap_or_else(|| {
        let code = "import sys; print(*sys.version_info[1:3], sep='.')";
        let output = Command::new(&program).args(["-c", code]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    let (minor, release) = version.trim().split_once('.').unwrap();
    let version = (minor.parse().unwrap(), release.parse().unwrap());
    let mut frozen = capture(target.pid(), version);
    let (walked, found) = frozen.walk();
    assert_eq!(walked, Walked::Whole);
    frozen.expected = found;
    match variable("CAPTURE_NAME") {
        Some(name) => {
            let path = folder().join(format!("interpreter-{name}.capture"));
            std::fs::write(path, frozen.text()).unwrap();
        }
        None => {
            let mut captures = captures().into_iter().map(|(_, frozen)| frozen);
            let like = captures
                .find(|known| known.language == frozen.language && known.version.0 == version.0);
            assert_eq!(like.unwrap().expected, frozen.expected);
        }
    }
}

impl Frozen {
    /// As text.
    fn text(&self) -> String {
        let mut text = String::new();
        let (minor, release) = self.version;
        writeln!(text, "interpreter {} {minor}.{release}", self.language).unwrap();
        for (name, range) in &self.parts {
            writeln!(text, "part {name} {:x}-{:x}", range.start, range.end).unwrap();
        }
        let (tid, stack) = (self.tid, &self.stack);
        writeln!(text, "thread {tid} {:x}-{:x}", stack.start, stack.end).unwrap();
        for (is_return, registers) in &self.frames {
            text.push_str(if *is_return {
                "frame return"
            } else {
                "frame exact"
            });
            for (number, value) in registers {
                write!(text, " {number}={value:x}").unwrap();
            }
            text.push('\n');
        }
        text.push_str(if self.is_complete {
            "end root\n"
        } else {
            "end cut\n"
        });
        for (start, bytes) in &self.memory {
            write!(text, "memory {start:016x} ").unwrap();
            for byte in bytes {
                write!(text, "{byte:02x}").unwrap();
            }
            text.push('\n');
        }
        for frame in &self.expected {
            writeln!(text, "expect {frame}").unwrap();
        }
        text
    }
}

/// The registers that are known, by their DWARF numbers.
fn known_registers(registers: &Registers) -> Vec<(u16, u64)> {
    let numbers = 0..17;
    numbers
        .filter_map(|number| Some((number, registers.get(number)?)))
        .collect()
}
