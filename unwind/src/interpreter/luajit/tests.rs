//! A virtual machine laid out by hand, walked as it is and damaged in every way.

use proptest::prelude::*;

use super::walk::LuaJitProcess;
use crate::address::Avma;
use crate::arch::Arch;
use crate::interpreter::{
    FunctionKind, Interpreter, LinePrecision, Lost, NativeFrame, Segments, ThreadContext,
    VolatileBuffer, VolatileCopy, Walked,
};
use crate::memory::{MemoryReader, ReadError};
use crate::registers::Registers;
use crate::stack::{Frame, FrameOrigin, Stack, StackEnd};

/// Where things lie. All but the native stack is one region, with 64-bit references as of 2021 to 2024.
const HEAP: u64 = 0x1_0000;
const MAIN: u64 = HEAP;
const GLOBAL: u64 = HEAP + 0x60;
const LUA_STACK: u64 = HEAP + 0x1000;
const OUTER: u64 = HEAP + 0x2000;
const INNER: u64 = HEAP + 0x2100;
const OUTER_PROTO: u64 = HEAP + 0x3000;
const INNER_PROTO: u64 = HEAP + 0x3200;
const CHUNK: u64 = HEAP + 0x3400;
const NAME: u64 = HEAP + 0x3480;
const TRACES: u64 = HEAP + 0x3500;
const TRACE: u64 = HEAP + 0x3600;
const SNAPSHOTS: u64 = HEAP + 0x3700;
const MAP: u64 = HEAP + 0x3780;
const CONSTANTS: u64 = HEAP + 0x3800;
const HEAP_BYTES: usize = 0x4000;
const NATIVE: u64 = 0x7fff_0000;
const NATIVE_BYTES: usize = 0x1000;
/// The stack pointer of the interpreter.
const CFRAME: u64 = NATIVE + 0x200;
const INTERPRETER: std::ops::Range<Avma> = Avma(0x50_0000)..Avma(0x50_4000);
const IMAGE: std::ops::Range<Avma> = Avma(0x4f_0000)..Avma(0x50_8000);
const MACHINE_CODE: u64 = 0x60_0000;

const OUTER_BASE: u64 = LUA_STACK + 32;
/// The call is in slot 1, and a frame has two.
const INNER_BASE: u64 = OUTER_BASE + 8 * (1 + 2);

#[derive(Clone)]
struct Memory {
    heap: Vec<u8>,
    native: Vec<u8>,
}

impl MemoryReader for Memory {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let unmapped = ReadError::Unmapped(at);
        for (start, bytes) in [(HEAP, &self.heap), (NATIVE, &self.native)] {
            let skip =
                at.0.checked_sub(start)
                    .and_then(|skip| usize::try_from(skip).ok());
            if let Some(there) = skip
                .and_then(|skip| bytes.get(skip..))
                .filter(|there| !there.is_empty())
            {
                let length = there.len().min(into.len());
                into[..length].copy_from_slice(&there[..length]);
                return Ok(length);
            }
        }
        Err(unmapped)
    }
}

impl Memory {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let (start, region) = match at >= NATIVE {
            true => (NATIVE, &mut self.native),
            false => (HEAP, &mut self.heap),
        };
        let at = usize::try_from(at - start).unwrap();
        region[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_u32(&mut self, at: u64, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_function(&mut self, at: u64, proto: u64) {
        self.put(at + 9, &[8, 0]);
        self.put_u64(at + 0x20, proto + 0x68);
    }

    /// A prototype of six instructions, one a line.
    fn put_proto(&mut self, at: u64, first_line: u32, call: u32) {
        const INSTRUCTIONS: u64 = 6;
        self.put(at + 9, &[7]);
        self.put_u32(at + 0xc, 6);
        let lines = at + 0x68 + INSTRUCTIONS * 4 + 8;
        self.put_u64(at + 0x20, lines);
        self.put_u32(at + 0x38, 0x100);
        self.put_u64(at + 0x40, CHUNK);
        self.put_u32(at + 0x48, first_line);
        self.put_u32(at + 0x4c, 10);
        self.put_u64(at + 0x50, lines);
        self.put_u64(at + 0x58, lines + 8);
        self.put_u64(at + 0x60, lines + 8);
        self.put(lines, &[1, 2, 3, 4, 5]);
        // GGET 1 0: the first constant lies before `k`.
        self.put_u64(lines - 8, NAME);
        self.put_u32(at + 0x68 + 4, 54 | 1 << 8);
        self.put_u32(at + 0x68 + 8, call);
    }

    fn put_string(&mut self, at: u64, text: &[u8]) {
        self.put(at + 9, &[4]);
        self.put(at + 0x18, text);
    }

    /// Two functions, the outer one of which calls the inner one; and a trace that begins in the outer one, into which
    /// the inner one is inlined.
    fn new() -> Self {
        let mut memory = Self {
            heap: vec![0; HEAP_BYTES],
            native: vec![0; NATIVE_BYTES],
        };
        memory.put(MAIN + 9, &[6]);
        memory.put_u64(MAIN + 0x10, GLOBAL);
        memory.put_u64(MAIN + 0x20, OUTER_BASE);
        memory.put_u64(MAIN + 0x28, OUTER_BASE + 16);
        memory.put_u64(MAIN + 0x30, LUA_STACK + 0x800);
        memory.put_u64(MAIN + 0x38, LUA_STACK);
        memory.put_u64(MAIN + 0x50, CFRAME);
        memory.put_u32(GLOBAL + 0xb8, u32::MAX);
        memory.put_u64(GLOBAL + 0xc0, MAIN);
        memory.put_u64(GLOBAL + 0x170, MAIN);
        memory.put_u64(GLOBAL + 0x458, TRACES);
        memory.put_u32(GLOBAL + 0x458 + 12, 8);
        // CALL 1: base of the callee two slots above.
        let call = 66 | 1 << 8;
        memory.put_proto(OUTER_PROTO, 10, call);
        memory.put_proto(INNER_PROTO, 30, 0);
        memory.put_function(OUTER, OUTER_PROTO);
        memory.put_function(INNER, INNER_PROTO);
        memory.put_string(CHUNK, b"@/srv/app.lua");
        memory.put_string(NAME, b"inner");
        memory.put_u64(OUTER_BASE - 16, OUTER);
        memory.put_u64(OUTER_BASE - 8, 16 | 1);
        memory.put_u64(INNER_BASE - 16, INNER);
        memory.put_u64(INNER_BASE - 8, OUTER_PROTO + 0x68 + 12);
        memory.put_u64(CFRAME + 16, MAIN);
        memory.put_u64(CFRAME + 24, OUTER_PROTO + 0x68 + 12);
        memory.put_u64(CFRAME + 72, 0x40_0000);
        memory.put_trace();
        memory
    }

    fn put_trace(&mut self) {
        self.put_u64(TRACES + 8, TRACE);
        self.put(TRACE + 9, &[9, 2, 0]);
        self.put_u64(TRACE + 0x20, CONSTANTS);
        self.put_u32(TRACE + 0x2c, 6);
        self.put_u64(TRACE + 0x30, SNAPSHOTS);
        self.put_u64(TRACE + 0x38, MAP);
        self.put_u64(TRACE + 0x48, OUTER_PROTO + 0x68 + 4);
        self.put_u32(TRACE + 0x54, 0x100);
        self.put_u64(TRACE + 0x58, MACHINE_CODE);
        self.put(TRACE + 0x68, &[1, 0]);
        // Without frames; then, from the 32nd byte on, with the inner function in slots 3 and 4.
        self.put(SNAPSHOTS, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        self.put_u64(MAP, (OUTER_PROTO + 0x68 + 4) << 8);
        self.put(SNAPSHOTS + 12, &[2, 0, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0]);
        self.put_u32(MAP + 8, 3 << 24 | 1);
        self.put_u32(MAP + 12, 4 << 24 | 0x1_0000 | 3);
        self.put_u64(MAP + 16, (INNER_PROTO + 0x68 + 12) << 8 | 3);
        self.put_u64(CONSTANTS + 2 * 8, INNER);
        self.put_u64(CONSTANTS + 4 * 8, OUTER_PROTO + 0x68 + 12);
    }
}

/// A thread in the interpreter, in the inner function.
fn interpreting() -> ThreadContext {
    let mut registers = Registers::at(
        &Arch::X86_64,
        Avma(INTERPRETER.start.0 + 0x100),
        Avma(CFRAME),
    );
    registers.set(1, INNER_BASE);
    // The position is that of the instruction after the one that is executed.
    registers.set(3, INNER_PROTO + 0x68 + 16);
    context(registers)
}

/// A thread on the trace, in its second part.
fn on_trace() -> ThreadContext {
    context(Registers::at(
        &Arch::X86_64,
        Avma(MACHINE_CODE + 40),
        Avma(CFRAME - 32),
    ))
}

fn context(registers: Registers) -> ThreadContext {
    ThreadContext {
        tid: 1,
        namespace_tid: 1,
        registers,
        thread_pointer: None,
        stack: Avma(NATIVE)..Avma(NATIVE + NATIVE_BYTES as u64),
        is_running: true,
    }
}

/// What one sample comes to.
fn sample(
    process: &mut LuaJitProcess,
    thread: &ThreadContext,
    memory: &Memory,
) -> (Walked, Segments) {
    let mut buffer = VolatileBuffer::default();
    let mut copy = VolatileCopy::new(&mut buffer, memory, memory);
    process.capture(thread, &mut copy);
    walk(process, thread, memory)
}

/// The same, of what was captured.
fn walk(
    process: &mut LuaJitProcess,
    thread: &ThreadContext,
    memory: &dyn MemoryReader,
) -> (Walked, Segments) {
    process.begin(thread, memory);
    let pc = thread.registers.pc().unwrap();
    let frame = NativeFrame {
        index: 0,
        registers: &thread.registers,
        is_return_address: false,
        is_in_image: INTERPRETER.contains(&pc),
    };
    let caller = process.visit(frame, thread, memory);
    let end = match caller {
        Some(_) => StackEnd::Root,
        None => StackEnd::NoUnwindInfo(pc),
    };
    let native = Stack {
        frames: vec![Frame {
            address: pc,
            sp: thread.registers.sp().unwrap(),
            origin: FrameOrigin::Registers,
        }],
        end,
    };
    let mut out = Segments::default();
    let walked = process.walk(thread, &native, memory, &mut out);
    (walked, out)
}

fn frames(segments: &Segments) -> Vec<(String, u32, FunctionKind, LinePrecision)> {
    let frames = segments.frames.iter();
    frames
        .map(|frame| {
            let function = &frame.function;
            assert_eq!(function.file, "/srv/app.lua");
            (
                function.name.clone(),
                frame.line,
                frame.kind,
                frame.precision,
            )
        })
        .collect()
}

#[test]
fn the_first_sample_finds_the_state_and_the_next_one_the_frames() {
    let memory = Memory::new();
    let mut process = LuaJitProcess::new(INTERPRETER, IMAGE);
    let (walked, _) = sample(&mut process, &interpreting(), &memory);
    let reason = Lost::NotFound;
    assert_eq!(
        walked,
        Walked::Lost {
            reason,
            at: Some(0)
        }
    );
    let (walked, segments) = sample(&mut process, &interpreting(), &memory);
    assert_eq!(walked, Walked::Whole);
    let (interpreted, exact) = (FunctionKind::Interpreted, LinePrecision::Exact);
    let expected = [
        ("inner".to_owned(), 33, interpreted, exact),
        (String::new(), 12, interpreted, exact),
    ];
    assert_eq!(frames(&segments), expected);
    assert_eq!(segments.segments[0].native, 0..1);
}

#[test]
fn a_trace_has_the_functions_that_were_inlined_into_it() {
    let mut memory = Memory::new();
    let mut process = LuaJitProcess::new(INTERPRETER, IMAGE);
    sample(&mut process, &interpreting(), &memory);
    memory.put_u32(GLOBAL + 0xb8, 1);
    memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
    let (walked, segments) = sample(&mut process, &on_trace(), &memory);
    assert_eq!(walked, Walked::Whole);
    let block = LinePrecision::Block;
    let expected = [
        ("inner".to_owned(), 33, FunctionKind::Inlined, block),
        (String::new(), 12, FunctionKind::Compiled, block),
    ];
    assert_eq!(frames(&segments), expected);
}

#[test]
fn a_trace_without_machine_addresses_tells_where_it_begins() {
    let mut memory = Memory::new();
    let mut process = LuaJitProcess::new(INTERPRETER, IMAGE);
    sample(&mut process, &interpreting(), &memory);
    memory.put_u32(GLOBAL + 0xb8, 1);
    memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
    // As before 2021-03: the slots where the offset is now, and the entries before them.
    memory.put(SNAPSHOTS, &[0, 0, 0, 0, 0, 0, 2, 2, 0, 1, 0, 0]);
    memory.put(SNAPSHOTS + 12, &[2, 0, 0, 0, 0, 0, 5, 5, 2, 0, 0, 0]);
    let (walked, segments) = sample(&mut process, &on_trace(), &memory);
    assert_eq!(walked, Walked::Whole);
    let (kind, precision) = (FunctionKind::Compiled, LinePrecision::Function);
    assert_eq!(frames(&segments), [(String::new(), 11, kind, precision)]);
}

#[test]
fn functions_that_are_gone_by_the_time_of_the_walk_are_what_they_were() {
    let before = Memory::new();
    let mut process = LuaJitProcess::new(INTERPRETER, IMAGE);
    sample(&mut process, &interpreting(), &before);
    let mut buffer = VolatileBuffer::default();
    let mut copy = VolatileCopy::new(&mut buffer, &before, &before);
    process.capture(&interpreting(), &mut copy);
    let mut now = before.clone();
    for function in [INNER, OUTER] {
        now.put(function, &[0xaa; 0x28]);
    }
    let (walked, segments) = walk(&mut process, &interpreting(), &Later { buffer, now });
    assert_eq!(walked, Walked::Whole);
    let lines: Vec<u32> = segments.frames.iter().map(|frame| frame.line).collect();
    assert_eq!(lines, [33, 12]);
}

#[test]
fn what_was_not_copied_in_time_is_missing() {
    let memory = Memory::new();
    let mut process = LuaJitProcess::new(INTERPRETER, IMAGE);
    sample(&mut process, &interpreting(), &memory);
    // The state and the thread, but not its stack.
    let left = std::cell::Cell::new(2u32);
    let may_go_on = || left.replace(left.get().saturating_sub(1)) > 0;
    let mut buffer = VolatileBuffer::default();
    let mut copy = VolatileCopy::new(&mut buffer, &memory, &memory).as_long_as(&may_go_on);
    process.capture(&interpreting(), &mut copy);
    let (walked, segments) = walk(&mut process, &interpreting(), &memory);
    let reason = Lost::TooDeep;
    assert_eq!(
        walked,
        Walked::Lost {
            reason,
            at: Some(0)
        }
    );
    assert!(segments.frames.is_empty());
}

/// What was copied, and the process as it is by now.
struct Later {
    buffer: VolatileBuffer,
    now: Memory,
}

impl MemoryReader for Later {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        self.buffer
            .read(at, into)
            .or_else(|_| self.now.read(at, into))
    }
}

/// Numbers that lead somewhere.
fn values() -> impl Strategy<Value = u64> {
    let addresses = prop::sample::select(vec![
        MAIN,
        GLOBAL,
        LUA_STACK,
        OUTER,
        INNER,
        OUTER_PROTO,
        INNER_PROTO,
        CHUNK,
        TRACES,
        TRACE,
        SNAPSHOTS,
        MAP,
        CONSTANTS,
        CFRAME,
        INNER_BASE,
        OUTER_BASE,
        MACHINE_CODE,
        0,
        1,
        2,
        3,
        u64::MAX,
        1 << 47,
    ]);
    prop_oneof![
        (addresses, 0..64u64).prop_map(|(address, distance)| address.wrapping_add(distance * 4)),
        any::<u64>(),
        0..0x1_0000u64,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_memory_holds_a_walk_ends(
        before in prop::collection::vec((0..HEAP_BYTES as u64 / 4, values()), 0..6),
        after in prop::collection::vec((0..HEAP_BYTES as u64 / 4, values()), 0..12),
        native in prop::collection::vec((0x40..0xc0u64, values()), 0..4),
        state in prop::sample::select(vec![u32::MAX, 1, 0, u32::MAX - 1, u32::MAX - 2, u32::MAX - 4, 7, 0x8000_0000]),
        registers in prop::collection::vec((0..16u16, values()), 0..3),
        is_on_trace: bool,
    ) {
        let mut memory = Memory::new();
        let damage = |memory: &mut Memory, words: &[(u64, u64)]| {
            for &(word, value) in words {
                let at = HEAP + word * 4;
                if at + 8 <= HEAP + HEAP_BYTES as u64 {
                    memory.put_u64(at, value);
                }
            }
        };
        damage(&mut memory, &before);
        let mut process = LuaJitProcess::new(INTERPRETER, IMAGE);
        sample(&mut process, &interpreting(), &memory);
        memory.put_u32(GLOBAL + 0xb8, state);
        memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
        damage(&mut memory, &after);
        for (word, value) in native {
            memory.put_u64(NATIVE + word * 8, value);
        }
        let mut thread = if is_on_trace { on_trace() } else { interpreting() };
        for (register, value) in registers.into_iter().filter(|(register, _)| *register != 7) {
            thread.registers.set(register, value);
        }
        for _ in 0..2 {
            let (_, segments) = sample(&mut process, &thread, &memory);
            prop_assert!(segments.frames.len() <= super::stack::FRAMES_MAX * super::capture::THREADS_MAX);
        }
    }
}
