//! A virtual machine laid out by hand, walked as it is and damaged in every way.

use proptest::prelude::*;

use super::machine::*;
use super::walk::LuaJitProcess;
use crate::address::Avma;
use crate::interpreter::{
    FunctionKind, Interpreter, LinePrecision, Lost, Segments, VolatileBuffer, VolatileCopy, Walked,
};
use crate::memory::{MemoryReader, ReadError};

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
        walk_damaged(&before, &after, &native, state, &registers, is_on_trace);
    }
}
