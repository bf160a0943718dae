//! A virtual machine laid out by hand, as it is on one processor or another, and one sample of a thread in it.

use super::layout::{GC64, GC64_AARCH64, GC64_AARCH64_OLDER, LAYOUTS, Layout, Layouts};
use super::walk::LuaJitProcess;
use crate::address::Avma;
use crate::interpreter::{
    Interpreter, NativeFrame, Segments, ThreadContext, VolatileBuffer, VolatileCopy, Walked,
};
use crate::memory::{MemoryReader, ReadError};
use crate::registers::Registers;
use crate::stack::{Frame, FrameOrigin, Stack, StackEnd};

/// Where things lie. All but the native stack is one region, with 64-bit references as of 2021 to 2024.
pub(crate) const HEAP: u64 = 0x1_0000;
pub(crate) const MAIN: u64 = HEAP;
pub(crate) const GLOBAL: u64 = HEAP + 0x60;
pub(crate) const LUA_STACK: u64 = HEAP + 0x1000;
pub(crate) const OUTER: u64 = HEAP + 0x2000;
pub(crate) const INNER: u64 = HEAP + 0x2100;
pub(crate) const OUTER_PROTO: u64 = HEAP + 0x3000;
pub(crate) const INNER_PROTO: u64 = HEAP + 0x3200;
pub(crate) const CHUNK: u64 = HEAP + 0x3400;
pub(crate) const NAME: u64 = HEAP + 0x3480;
pub(crate) const TRACES: u64 = HEAP + 0x3500;
pub(crate) const TRACE: u64 = HEAP + 0x3600;
pub(crate) const SNAPSHOTS: u64 = HEAP + 0x3700;
pub(crate) const MAP: u64 = HEAP + 0x3780;
pub(crate) const CONSTANTS: u64 = HEAP + 0x3800;
pub(crate) const HEAP_BYTES: usize = 0x4000;
pub(crate) const NATIVE: u64 = 0x7fff_0000;
pub(crate) const NATIVE_BYTES: usize = 0x1000;
/// The stack pointer of the interpreter.
pub(crate) const CFRAME: u64 = NATIVE + 0x200;
pub(crate) const INTERPRETER: std::ops::Range<Avma> = Avma(0x50_0000)..Avma(0x50_4000);
pub(crate) const IMAGE: std::ops::Range<Avma> = Avma(0x4f_0000)..Avma(0x50_8000);
pub(crate) const MACHINE_CODE: u64 = 0x60_0000;
const MACHINE_CODE_BYTES: u32 = 0x100;
/// Behind it.
const EXITS: u64 = MACHINE_CODE + MACHINE_CODE_BYTES as u64;

pub(crate) const OUTER_BASE: u64 = LUA_STACK + 32;
/// The call is in slot 1, and a frame has two.
pub(crate) const INNER_BASE: u64 = OUTER_BASE + 8 * (1 + 2);

/// What it can be like: on x86_64, on aarch64, and on aarch64 with the frames it had before.
pub(super) static LIKE: [&Layout; 3] = [&GC64, &GC64_AARCH64, &GC64_AARCH64_OLDER];

/// A process with an interpreter of that kind.
pub(super) fn process(like: &'static Layout) -> LuaJitProcess {
    let of_it = |layouts: &&Layouts| layouts.contains(&like);
    let layouts = LAYOUTS.iter().find(of_it).copied().unwrap_or_default();
    LuaJitProcess::new(layouts, INTERPRETER, IMAGE)
}

/// The heap, the native stack, and what lies behind the machine code of the trace.
#[derive(Clone)]
pub(super) struct Memory {
    like: &'static Layout,
    heap: Vec<u8>,
    native: Vec<u8>,
    exits: Vec<u8>,
}

impl MemoryReader for Memory {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let unmapped = ReadError::Unmapped(at);
        let regions = [
            (HEAP, &self.heap),
            (NATIVE, &self.native),
            (EXITS, &self.exits),
        ];
        for (start, bytes) in regions {
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
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        let (start, region) = match at >= NATIVE {
            true => (NATIVE, &mut self.native),
            false => (HEAP, &mut self.heap),
        };
        let at = usize::try_from(at - start).unwrap();
        region[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn put_u64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn put_u32(&mut self, at: u64, value: u32) {
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

    pub(super) fn put_string(&mut self, at: u64, text: &[u8]) {
        self.put(at + 9, &[4]);
        self.put(at + 0x18, text);
    }

    /// Two functions, the outer one of which calls the inner one; and a trace that begins in the outer one, into which
    /// the inner one is inlined.
    pub(super) fn new(like: &'static Layout) -> Self {
        let mut memory = Self {
            like,
            heap: vec![0; HEAP_BYTES],
            native: vec![0; NATIVE_BYTES],
            exits: Vec::new(),
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
        let frame = &like.processor.cframe;
        memory.put_u64(CFRAME + frame.thread, MAIN);
        memory.put_u64(CFRAME + frame.pc, OUTER_PROTO + 0x68 + 12);
        memory.put_u64(CFRAME + frame.return_address, 0x40_0000);
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
        self.put_u32(TRACE + 0x54, MACHINE_CODE_BYTES);
        self.put_u64(TRACE + 0x58, MACHINE_CODE);
        self.put(TRACE + 0x68, &[1, 0]);
        // Without frames; then, from the 32nd byte on, with the inner function in slots 3 and 4.
        self.put(SNAPSHOTS, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        self.put_u64(MAP, (OUTER_PROTO + 0x68 + 4) << 8);
        let from = u8::try_from(32 / self.like.processor.code_unit).unwrap();
        self.put(SNAPSHOTS + 12, &[2, 0, 0, 0, 0, 0, from, 0, 0, 0, 2, 0]);
        self.put_u32(MAP + 8, 3 << 24 | 1);
        self.put_u32(MAP + 12, 4 << 24 | 0x1_0000 | 3);
        self.put_u64(MAP + 16, (INNER_PROTO + 0x68 + 12) << 8 | 3);
        self.put_u64(CONSTANTS + 2 * 8, INNER);
        self.put_u64(CONSTANTS + 4 * 8, OUTER_PROTO + 0x68 + 12);
        if self.like.processor.exits_follow {
            // nop; str x30, [sp]; bl; movz w0, #1; and an exit for each snapshot.
            let words = [
                0xd503_201f_u32,
                0xf900_03fe,
                0x9400_1000,
                0x5280_0020,
                0x97ff_fffd,
                0x97ff_fffc,
            ];
            self.exits = words.into_iter().flat_map(u32::to_le_bytes).collect();
        }
    }
}

/// A thread in the interpreter, in the inner function.
pub(super) fn interpreting(like: &Layout) -> ThreadContext {
    let processor = like.processor;
    let pc = Avma(INTERPRETER.start.0 + 0x100);
    let mut registers = Registers::at(processor.arch, pc, Avma(CFRAME));
    registers.set(processor.base, INNER_BASE);
    // The position is that of the instruction after the one that is executed.
    registers.set(processor.position, INNER_PROTO + 0x68 + 16);
    let (register, from) = processor.cfa;
    let cfa = CFRAME + processor.cframe.bytes;
    registers.set(register, cfa.wrapping_add_signed(-from));
    context(registers)
}

/// A thread on the trace, at `at` from where it begins; its second part begins at 32.
pub(super) fn on_trace(like: &Layout, at: u64) -> ThreadContext {
    let pc = Avma(MACHINE_CODE + at);
    context(Registers::at(like.processor.arch, pc, Avma(CFRAME - 32)))
}

pub(super) fn context(registers: Registers) -> ThreadContext {
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
pub(super) fn sample(
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
pub(super) fn walk(
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

/// Words that are written over those of a machine.
pub(crate) type Damage = [(u64, u64)];

/// Samples a machine, the one at that position in [`LIKE`], that is damaged before it is first seen (`before`), and after that (`after`, of the heap; `native`,
/// of the native stack), in the state `state`, from `registers`.
///
/// # Panics
/// When a bound is not kept.
pub(crate) fn walk_damaged(
    like: usize,
    before: &Damage,
    after: &Damage,
    native: &Damage,
    state: u32,
    registers: &[(u16, u64)],
    is_on_trace: bool,
) {
    let like = LIKE[like % LIKE.len()];
    let mut memory = Memory::new(like);
    let damage = |memory: &mut Memory, words: &Damage| {
        for &(word, value) in words {
            let at = HEAP + word * 4;
            if at + 8 <= HEAP + HEAP_BYTES as u64 {
                memory.put_u64(at, value);
            }
        }
    };
    damage(&mut memory, before);
    let mut process = process(like);
    sample(&mut process, &interpreting(like), &memory);
    memory.put_u32(GLOBAL + 0xb8, state);
    memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
    damage(&mut memory, after);
    for &(word, value) in native {
        memory.put_u64(NATIVE + word * 8, value);
    }
    let mut thread = match is_on_trace {
        true => on_trace(like, 40),
        false => interpreting(like),
    };
    let sp = like.processor.arch.stack_pointer;
    for &(register, value) in registers.iter().filter(|(register, _)| *register != sp) {
        thread.registers.set(register, value);
    }
    for _ in 0..2 {
        let (_, segments) = sample(&mut process, &thread, &memory);
        let frames_max = super::stack::FRAMES_MAX * super::capture::THREADS_MAX;
        assert!(segments.frames.len() <= frames_max);
    }
}
