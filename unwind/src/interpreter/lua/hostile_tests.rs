//! Whatever memory holds: a walk ends, within its bounds, and does not panic.

use proptest::prelude::*;

use super::layout::LuaVersion;
use super::*;
use crate::arch::Arch;
use crate::interpreter::VolatileBuffer;
use crate::memory::SliceMemory;
use crate::stack::{Frame, FrameOrigin, StackEnd};

const START: u64 = 0x10000;
const WORDS: u64 = 512;
const WORD_COUNT: usize = 512;

/// Words most of which are pointers into themselves, tags, or lengths.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..WORDS).prop_map(|index| START + index * 8),
        4 => prop_oneof![Just(8u64), Just(0x46), Just(9), Just(10), Just(4)],
        2 => 0u64..64,
        1 => any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn any_memory_is_walked_to_an_end(
        words in prop::collection::vec(word(), WORD_COUNT),
        minor in 1u8..=5,
        states in prop::collection::vec(0..WORDS - 32, 1..4),
        native in prop::collection::vec(0..WORDS, 1..8),
    ) {
        let layout = Layout::of(LuaVersion { minor, release: 4 }).unwrap();
        let mut words = words;
        // Some of it looks like states of one and the same.
        for state in &states {
            let mut set = |offset: u64, value| {
                words[usize::try_from(state + offset / 8).unwrap()] = value;
            };
            set(8, 8);
            set(u64::from(layout.global), START + states[0] * 8);
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let memory = SliceMemory::new(Avma(START), &bytes);
        let mut process = PucLuaProcess::new(layout, Avma(START)..Avma(START + WORDS * 4));
        let mut sps: Vec<u64> = native.iter().map(|index| START + index * 8).collect();
        sps.sort_unstable();
        let frame = |sp: &u64| Frame {
            address: Avma(*sp),
            sp: Avma(*sp),
            origin: FrameOrigin::CallFrameInfo,
        };
        let stack = Stack {
            frames: sps.iter().map(frame).collect(),
            end: StackEnd::Root,
        };
        let mut buffer = VolatileBuffer::default();
        for _ in 0..3 {
            let thread = ThreadContext {
                tid: 1,
                namespace_tid: 1,
                registers: Registers::at(&Arch::X86_64, Avma(START), Avma(START)),
                thread_pointer: None,
                stack: Avma(START)..Avma(START + WORDS * 8),
                is_running: true,
            };
            buffer.clear();
            process.capture(&thread, &mut VolatileCopy::new(&mut buffer, &memory, &memory));
            process.begin(&thread, &memory);
            for (index, sp) in sps.iter().enumerate() {
                let mut registers = Registers::at(&Arch::X86_64, Avma(*sp), Avma(*sp));
                registers.set(3, START + states[0] * 8);
                let frame = NativeFrame { index, registers: &registers, is_return_address: true, is_in_image: true };
                process.visit(frame, &thread, &memory);
            }
            let mut out = Segments::default();
            let _walked = process.walk(&thread, &stack, &memory, &mut out);
            prop_assert!(process.captured.calls.len() <= 8192);
            prop_assert!(out.frames.len() <= 8192 * sps.len());
        }
    }
}
