//! Memory that holds anything: a walk through it ends, within its bounds, and does not panic.

use super::layout::LuaVersion;
use super::*;
use crate::arch::Arch;
use crate::interpreter::VolatileBuffer;
use crate::memory::SliceMemory;
use crate::stack::{Frame, FrameOrigin, StackEnd};

/// Where the memory begins, and how many words it has.
pub(crate) const START: u64 = 0x10000;
pub(crate) const WORDS: u64 = 512;

/// Walks memory of [`WORDS`] `words` as Lua 5.`minor`, whose states seem to be at the words `states`, from a native
/// stack whose frames are at the words `native`.
///
/// # Panics
/// When a bound is not kept.
pub(crate) fn walk_any(mut words: Vec<u64>, minor: u8, states: &[u64], native: &[u64]) {
    let layout = Layout::of(LuaVersion { minor, release: 4 }).expect("a version that is known");
    let first = states.first().copied().unwrap_or_default();
    // Some of it looks like states of one and the same.
    for state in states {
        let mut set = |offset: u64, value| {
            let word = usize::try_from(state + offset / 8).ok();
            if let Some(word) = word.and_then(|word| words.get_mut(word)) {
                *word = value;
            }
        };
        set(8, 8);
        set(u64::from(layout.global), START + first * 8);
    }
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory = SliceMemory::new(Avma(START), &bytes);
    let mut process =
        PucLuaProcess::new(&Arch::X86_64, layout, Avma(START)..Avma(START + WORDS * 4));
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
        process.capture(
            &thread,
            &mut VolatileCopy::new(&mut buffer, &memory, &memory),
        );
        process.begin(&thread, &memory);
        for (index, sp) in sps.iter().enumerate() {
            let mut registers = Registers::at(&Arch::X86_64, Avma(*sp), Avma(*sp));
            registers.set(3, START + first * 8);
            let frame = NativeFrame {
                index,
                registers: &registers,
                is_return_address: true,
                is_in_image: true,
            };
            process.visit(frame, &thread, &memory);
        }
        let mut out = Segments::default();
        let _walked = process.walk(&thread, &stack, &memory, &mut out);
        assert!(process.captured.calls.len() <= 8192);
        assert!(out.frames.len() <= 8192 * sps.len());
    }
}
