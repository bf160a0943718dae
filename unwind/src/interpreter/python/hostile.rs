//! Memory that holds anything: a walk through it ends, within its bounds, and does not panic.

use super::layout::PythonVersion;
use super::*;
use crate::arch::Arch;
use crate::interpreter::VolatileBuffer;
use crate::memory::SliceMemory;
use crate::stack::{Frame, FrameOrigin, StackEnd};

/// Where the memory begins, and how many words it has.
pub(crate) const START: u64 = 0x10000;
pub(crate) const WORDS: u64 = 512;

/// Walks memory of [`WORDS`] `words` as CPython 3.`minor`, from a native stack whose frames are at the words `native`.
///
/// # Panics
/// When a bound is not kept.
pub(crate) fn walk_any(words: &[u64], minor: u8, native: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory = SliceMemory::new(Avma(START), &bytes);
    let version = PythonVersion { minor, micro: None };
    let layout = *Layout::of(version).expect("a version that is known");
    let eval = vec![Avma(START)..Avma(START + WORDS * 4)];
    let mut process = CPythonProcess::new(
        &Arch::X86_64,
        layout,
        Avma(START),
        eval,
        Codes::default(),
        &memory,
    );
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
        process.capture(
            &thread,
            &mut VolatileCopy::new(&mut buffer, &memory, &memory),
        );
        let mut out = Segments::default();
        let walked = process.walk(&thread, &stack(native), &memory, &mut out);
        assert!(process.captured.frames.len() <= 8 * 4096);
        let is_whole = walked == Walked::Whole;
        assert!(!is_whole || !out.frames.is_empty());
    }
    let names = process.thread_names(&tids, &memory);
    assert!(names.len() <= tids.len());
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
