//! Whatever memory holds: a walk ends, within its bounds, and does not panic.

use proptest::prelude::*;

use super::layout::PythonVersion;
use super::*;
use crate::arch::Arch;
use crate::interpreter::VolatileBuffer;
use crate::memory::SliceMemory;
use crate::stack::{Frame, FrameOrigin, StackEnd};

const START: u64 = 0x10000;
const WORDS: u64 = 512;
const WORD_COUNT: usize = 512;

/// Words most of which are pointers into themselves, or what a number of a thread or a length may be.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..WORDS).prop_map(|index| START + index * 8),
        1 => (0..WORDS * 8).prop_map(|offset| START + offset),
        2 => 0u64..8,
        1 => any::<u64>(),
    ]
}

fn stack(frames: &[u64]) -> Stack {
    let frame = |&index: &u64| Frame {
        address: Avma(START + index * 8),
        sp: Avma(START + index * 8),
        origin: FrameOrigin::CallFrameInfo,
    };
    let mut frames: Vec<_> = frames.iter().map(frame).collect();
    frames.sort_by_key(|frame| frame.sp);
    Stack {
        frames,
        end: StackEnd::Root,
    }
}

proptest! {
    #[test]
    fn any_memory_is_walked_to_an_end(
        words in prop::collection::vec(word(), WORD_COUNT),
        minor in 8u8..=12,
        native in prop::collection::vec(0..WORDS, 0..8),
    ) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let memory = SliceMemory::new(Avma(START), &bytes);
        let layout = *Layout::of(PythonVersion { minor, micro: None }).unwrap();
        let eval = vec![Avma(START)..Avma(START + WORDS * 4)];
        let mut process = CPythonProcess::new(layout, Avma(START), eval, Codes::default(), &memory);
        let tids: Vec<i32> = process.threads.keys().copied().chain([1]).take(8).collect();
        let mut buffer = VolatileBuffer::default();
        for tid in tids.iter().chain(&tids) {
            let thread = ThreadContext {
                tid: *tid,
                namespace_tid: *tid,
                registers: Registers::unknown(&Arch::X86_64),
                thread_pointer: None,
                stack: Avma(START)..Avma(START + WORDS * 8),
                is_running: true,
            };
            buffer.clear();
            process.capture(&thread, &mut VolatileCopy::new(&mut buffer, &memory, &memory));
            let mut out = Segments::default();
            let native = stack(&native);
            let walked = process.walk(&thread, &native, &memory, &mut out);
            prop_assert!(process.captured.frames.len() <= 8 * 4096);
            let is_whole = walked == Walked::Whole;
            prop_assert!(!is_whole || !out.frames.is_empty());
        }
    }
}
