//! A virtual machine laid out by hand, walked as it is and damaged in every way.

use proptest::prelude::*;

use super::capture::CFrame;
use super::layout::{GC64_AARCH64, GC64_AARCH64_OLDER};
use super::machine::*;
use crate::address::Avma;
use crate::interpreter::{
    FunctionKind, Interpreter, LinePrecision, Lost, Segments, VolatileBuffer, VolatileCopy, Walked,
};
use crate::memory::{MemoryReader, ReadError};
use crate::registers::Registers;

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
    for like in LIKE {
        let memory = Memory::new(like);
        let mut process = process(like);
        let (walked, _) = sample(&mut process, &interpreting(like), &memory);
        let reason = Lost::NotFound;
        assert_eq!(
            walked,
            Walked::Lost {
                reason,
                at: Some(0)
            }
        );
        let (walked, segments) = sample(&mut process, &interpreting(like), &memory);
        assert_eq!(walked, Walked::Whole);
        let (interpreted, exact) = (FunctionKind::Interpreted, LinePrecision::Exact);
        let expected = [
            ("inner".to_owned(), 33, interpreted, exact),
            (String::new(), 12, interpreted, exact),
        ];
        assert_eq!(frames(&segments), expected);
        assert_eq!(segments.segments[0].native, 0..1);
    }
}

#[test]
fn a_trace_has_the_functions_that_were_inlined_into_it() {
    for like in LIKE {
        let mut memory = Memory::new(like);
        let mut process = process(like);
        sample(&mut process, &interpreting(like), &memory);
        memory.put_u32(GLOBAL + 0xb8, 1);
        memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
        let (walked, segments) = sample(&mut process, &on_trace(like, 40), &memory);
        assert_eq!(walked, Walked::Whole);
        let block = LinePrecision::Block;
        let expected = [
            ("inner".to_owned(), 33, FunctionKind::Inlined, block),
            (String::new(), 12, FunctionKind::Compiled, block),
        ];
        assert_eq!(frames(&segments), expected);
    }
}

#[test]
fn what_a_trace_calls_in_the_interpreter_is_at_the_line_that_calls_it() {
    for like in [&GC64_AARCH64, &GC64_AARCH64_OLDER] {
        let mut memory = Memory::new(like);
        let mut process = process(like);
        sample(&mut process, &interpreting(like), &memory);
        memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
        let (interpreted, compiled) = (FunctionKind::Interpreted, FunctionKind::Compiled);
        // A trace is said to be executed, then the interpreter, from which the register is still that of a call before.
        for (state, expected) in [
            (1, [(33, FunctionKind::Inlined), (12, compiled)]),
            (u32::MAX, [(33, interpreted), (12, interpreted)]),
        ] {
            memory.put_u32(GLOBAL + 0xb8, state);
            let mut thread = interpreting(like);
            thread.registers.set(30, MACHINE_CODE + 40);
            let (walked, segments) = sample(&mut process, &thread, &memory);
            assert_eq!(walked, Walked::Whole);
            let frames = segments.frames.iter();
            let lines: Vec<_> = frames.map(|frame| (frame.line, frame.kind)).collect();
            assert_eq!(lines, expected, "{state}");
        }
    }
}

#[test]
fn an_exit_of_a_trace_is_where_its_snapshot_is() {
    for like in [&GC64_AARCH64, &GC64_AARCH64_OLDER] {
        let mut memory = Memory::new(like);
        let mut process = process(like);
        sample(&mut process, &interpreting(like), &memory);
        memory.put_u32(GLOBAL + 0xb8, 0);
        memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
        // Behind the code: what the exits have in common, then the first of them, and the second.
        let (function, block) = (LinePrecision::Function, LinePrecision::Block);
        let outer = |line, precision| (String::new(), line, FunctionKind::Compiled, precision);
        let inner = ("inner".to_owned(), 33, FunctionKind::Inlined, block);
        for (at, expected) in [
            (0x104, vec![outer(11, function)]),
            (0x110, vec![outer(11, block)]),
            (0x114, vec![inner, outer(12, block)]),
            // Behind them.
            (0x11c, vec![outer(10, function)]),
        ] {
            let (walked, segments) = sample(&mut process, &on_trace(like, at), &memory);
            assert_eq!(walked, Walked::Whole);
            assert_eq!(frames(&segments), expected, "{at:#x}");
        }
    }
}

#[test]
fn a_thread_that_is_never_met_outside_of_its_trace_is_found_there() {
    for like in LIKE {
        let mut memory = Memory::new(like);
        let mut process = process(like);
        memory.put_u32(GLOBAL + 0xb8, 1);
        memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
        let (walked, _) = sample(&mut process, &on_trace(like, 40), &memory);
        let reason = Lost::NotFound;
        assert_eq!(
            walked,
            Walked::Lost {
                reason,
                at: Some(0)
            }
        );
        // Once for the state, and once for the table of traces.
        sample(&mut process, &on_trace(like, 40), &memory);
        let (walked, segments) = sample(&mut process, &on_trace(like, 40), &memory);
        assert_eq!(walked, Walked::Whole);
        let lines: Vec<u32> = segments.frames.iter().map(|frame| frame.line).collect();
        assert_eq!(lines, [33, 12]);
    }
}

#[test]
fn the_interpreter_is_found_outside_of_c_code_that_has_resumed_a_thread() {
    for like in LIKE {
        let mut memory = Memory::new(like);
        let mut process = process(like);
        sample(&mut process, &interpreting(like), &memory);
        // The thread that it has resumed has ended, and has no C frame any more.
        memory.put_u64(MAIN + like.thread.cframe, 0);
        let return_address = INTERPRETER.start.0 + 0x200;
        match like.processor.cframe.record {
            Some(record) => {
                memory.put_u64(CFRAME - 32, CFRAME + record);
                memory.put_u64(CFRAME - 24, 0x48 << 48 | return_address);
            }
            None => memory.put_u64(CFRAME - 8, return_address),
        }
        let in_c_code = Registers::at(like.processor.arch, Avma(0x70_0000), Avma(CFRAME - 64));
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, &memory, &memory);
        process.capture(&context(in_c_code), &mut copy);
        let found = CFrame {
            at: CFRAME,
            thread: MAIN,
        };
        assert_eq!(process.capture.cframes, [found]);
    }
}

#[test]
fn a_trace_without_machine_addresses_tells_where_it_begins() {
    for like in LIKE {
        let mut memory = Memory::new(like);
        let mut process = process(like);
        sample(&mut process, &interpreting(like), &memory);
        memory.put_u32(GLOBAL + 0xb8, 1);
        memory.put_u64(GLOBAL + 0x178, OUTER_BASE);
        // As before 2021-03: the slots where the offset is now, and the entries before them.
        memory.put(SNAPSHOTS, &[0, 0, 0, 0, 0, 0, 2, 2, 0, 1, 0, 0]);
        memory.put(SNAPSHOTS + 12, &[2, 0, 0, 0, 0, 0, 5, 5, 2, 0, 0, 0]);
        let (walked, segments) = sample(&mut process, &on_trace(like, 40), &memory);
        assert_eq!(walked, Walked::Whole);
        let (kind, precision) = (FunctionKind::Compiled, LinePrecision::Function);
        assert_eq!(frames(&segments), [(String::new(), 11, kind, precision)]);
    }
}

#[test]
fn functions_that_are_gone_by_the_time_of_the_walk_are_what_they_were() {
    for like in LIKE {
        let before = Memory::new(like);
        let mut process = process(like);
        sample(&mut process, &interpreting(like), &before);
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, &before, &before);
        process.capture(&interpreting(like), &mut copy);
        let mut now = before.clone();
        for function in [INNER, OUTER] {
            now.put(function, &[0xaa; 0x28]);
        }
        let (walked, segments) = walk(&mut process, &interpreting(like), &Later { buffer, now });
        assert_eq!(walked, Walked::Whole);
        let lines: Vec<u32> = segments.frames.iter().map(|frame| frame.line).collect();
        assert_eq!(lines, [33, 12]);
    }
}

#[test]
fn what_was_not_copied_in_time_is_missing() {
    for like in LIKE {
        let memory = Memory::new(like);
        let mut process = process(like);
        sample(&mut process, &interpreting(like), &memory);
        // The state and the thread, but not its stack.
        let left = std::cell::Cell::new(2u32);
        let may_go_on = || left.replace(left.get().saturating_sub(1)) > 0;
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, &memory, &memory).as_long_as(&may_go_on);
        process.capture(&interpreting(like), &mut copy);
        let (walked, segments) = walk(&mut process, &interpreting(like), &memory);
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
}

#[test]
fn a_thread_of_which_nothing_was_copied_in_time_has_lost_its_frames() {
    for like in LIKE {
        let memory = Memory::new(like);
        let mut process = process(like);
        sample(&mut process, &interpreting(like), &memory);
        for thread in [interpreting(like), on_trace(like, 40)] {
            let mut buffer = VolatileBuffer::default();
            let mut copy = VolatileCopy::new(&mut buffer, &memory, &memory).as_long_as(&|| false);
            process.capture(&thread, &mut copy);
            let (walked, _) = walk(&mut process, &thread, &memory);
            let (reason, at) = (Lost::TooDeep, Some(0));
            assert_eq!(walked, Walked::Lost { reason, at });
        }
    }
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
        registers in prop::collection::vec((0..32u16, values()), 0..3),
        is_on_trace: bool,
        like in 0..LIKE.len(),
    ) {
        walk_damaged(like, &before, &after, &native, state, &registers, is_on_trace);
    }
}
