//! aarch64: whether a signal handler has just returned to where a thread stands.
//!
//! The kernel puts a frame below the stack pointer of the thread that it interrupts, and takes it back from there
//! (`get_sigframe` and `setup_sigframe_layout` in arch/arm64/kernel/signal.c, from Linux 3.7 on):
//!
//! | from the lower end | what |
//! |---|---|
//! | 0 | siginfo, 128 bytes |
//! | 128 | `struct ucontext`, up to its `struct sigcontext`, 176 bytes |
//! | 304 | address of a fault |
//! | 312 | x0 to x30, the stack pointer, the PC: those to return to |
//! | 592 | records of other registers; as many bytes as they need, and 4096 at least |
//! | the end | a frame record, 16 bytes, right below the stack pointer, aligned down to 16 |
//!
//! It remains there until something else is called. A handler that has a stack of its own has its frame there.

use sampler_unwind::{Avma, MemoryReader, ReadError};

const RECORD_BYTES: u64 = 16;
/// x0 to x30, and after them the stack pointer and the PC.
const GENERAL_BYTES: usize = 31 * 8;
const PAIR_BYTES: usize = 16;
const STACK_POINTER_AT: u64 = 312 + GENERAL_BYTES as u64;
/// Of a frame whose records fit into 4096 bytes: nearly all.
const FRAME_BYTES_MIN: u64 = 592 + 4096;
/// With the largest SVE and SME registers a frame has some 80 KB. The kernel's own limit is twice this.
const FRAME_BYTES_MAX: u64 = 128 << 10;
/// What is read at once lies in one page, and so is mapped as a whole or not at all.
const PAGE_BYTES: usize = 4096;

/// How large a frame can be on this machine, as the kernel tells every process (AT_MINSIGSTKSZ, which counts the frame
/// record and some padding too).
#[cfg(target_arch = "aarch64")]
pub(super) fn bytes_max() -> u64 {
    /// Before Linux 4.19 it does not; the largest SVE registers make it 13 KB.
    const UNTOLD: u64 = 16 << 10;
    // SAFETY: reads the auxiliary vector of this process.
    match unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } {
        0 => UNTOLD,
        bytes => bytes,
    }
}

/// Whether a frame of at most `bytes_max` lies below the stack pointer that returns to just where the thread stands, with
/// the registers that it has: `x` are x0 to x30. `memory` is its process's.
///
/// Where one does that was left by an earlier handler, at the same place with the same registers, that looks the same.
/// What cannot be read may be one.
pub(super) fn returns_to(
    memory: &impl MemoryReader,
    bytes_max: u64,
    x: &[u64; 31],
    (sp, pc): (u64, u64),
) -> bool {
    let top = sp.wrapping_sub(RECORD_BYTES) & !(RECORD_BYTES - 1);
    let bytes_max = bytes_max.clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX);
    // Where the saved stack pointer may lie: at every sixteenth byte from `lowest` to before `end`.
    let at = |frame_bytes: u64| Some(top.checked_sub(frame_bytes)? + STACK_POINTER_AT);
    let Some(highest) = at(FRAME_BYTES_MIN) else {
        return false;
    };
    let lowest = at(bytes_max & !(RECORD_BYTES - 1)).unwrap_or(highest);
    let mut end = highest + PAIR_BYTES as u64;
    let mut page = [0; PAGE_BYTES];
    while end > lowest {
        let start = ((end - 1) & !(PAGE_BYTES as u64 - 1)).max(lowest);
        let length = usize::try_from(end - start).unwrap_or(0);
        let Some(bytes) = page.get_mut(..length) else {
            return true;
        };
        match memory.read_exact(Avma(start), bytes) {
            Ok(()) => {}
            // The frame would reach from below there to the stack pointer, without a gap.
            Err(ReadError::Unmapped(_)) => return false,
            Err(ReadError::NotCopied(_) | ReadError::Denied(_) | ReadError::Gone(_)) => {
                return true;
            }
        }
        let (pairs, _none) = bytes.as_chunks::<PAIR_BYTES>();
        for (pair, at) in pairs.iter().zip((start..end).step_by(PAIR_BYTES)) {
            let is_there = u128::from_le_bytes(*pair) == u128::from(pc) << 64 | u128::from(sp);
            if is_there && are_saved_before(memory, at, x) {
                return true;
            }
        }
        end = start;
    }
    false
}

/// Whether `x` lie in memory right before `at`.
fn are_saved_before(memory: &impl MemoryReader, at: u64, x: &[u64; 31]) -> bool {
    let start = at.saturating_sub(GENERAL_BYTES as u64);
    let mut saved = [0; GENERAL_BYTES];
    let read = memory.read_exact(Avma(start), &mut saved);
    let (saved, _none) = saved.as_chunks();
    read.is_err() || x.map(u64::to_le_bytes).iter().eq(saved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sampler_unwind::SliceMemory;

    const SP: u64 = 0x7fff_f000_1230;
    const PC: u64 = 0xaaaa_0000_1238;
    const START: u64 = SP - (FRAME_BYTES_MAX + PAGE_BYTES as u64);

    fn x() -> [u64; 31] {
        std::array::from_fn(|register| 1000 + register as u64)
    }

    /// The stack below `SP`, with a frame of so many bytes.
    fn stack(frame_bytes: u64) -> Vec<u8> {
        let mut stack = vec![0; usize::try_from(SP - START).unwrap()];
        let at = (SP - 16) & !15;
        let at = usize::try_from(at - frame_bytes + 312 - START).unwrap();
        let words = x().into_iter().chain([SP, PC]).flat_map(u64::to_le_bytes);
        let words: Vec<u8> = words.collect();
        stack[at..at + words.len()].copy_from_slice(&words);
        stack
    }

    /// Nothing is mapped below its start.
    struct Stack<'a>(Avma, SliceMemory<'a>);

    impl MemoryReader for Stack<'_> {
        fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
            if at < self.0 {
                return Err(ReadError::Unmapped(at));
            }
            self.1.read(at, into)
        }
    }

    #[test]
    fn a_frame_of_any_size_is_found() {
        for frame_bytes in [4688, 4704, 4720, 8192, 81920, FRAME_BYTES_MAX] {
            let stack = stack(frame_bytes);
            let memory = SliceMemory::new(Avma(START), &stack);
            let found = |bytes_max| returns_to(&memory, bytes_max, &x(), (SP, PC));
            assert!(found(FRAME_BYTES_MAX), "{frame_bytes}");
            assert!(found(u64::MAX), "{frame_bytes}");
            assert!(found(frame_bytes), "{frame_bytes}");
            assert_eq!(found(0), frame_bytes == FRAME_BYTES_MIN, "{frame_bytes}");
        }
    }

    #[test]
    fn one_that_returns_elsewhere_is_none() {
        let stack = stack(4720);
        let memory = SliceMemory::new(Avma(START), &stack);
        let found = |x, to| returns_to(&memory, 81920, &x, to);
        assert!(found(x(), (SP, PC)));
        assert!(!found(x(), (SP, PC + 4)));
        assert!(!found(x(), (SP + 16, PC)));
        let mut another = x();
        another[30] += 1;
        assert!(!found(another, (SP, PC)));
    }

    #[test]
    fn what_cannot_be_read_may_be_one_and_what_is_not_mapped_is_none() {
        let stack = stack(81920);
        let all = SliceMemory::new(Avma(START), &stack);
        let some = SliceMemory::new(Avma(SP - 6000), &stack[stack.len() - 6000..]);
        let nothing_below = Stack(Avma(SP - 6000), all);
        let found = |memory: &dyn MemoryReader| returns_to(&memory, 81920, &x(), (SP, PC));
        assert!(found(&all));
        assert!(found(&some));
        assert!(!found(&nothing_below));
    }

    proptest! {
        #[test]
        fn any_stack_pointer_ends(sp: u64, pc: u64, bytes_max: u64) {
            let _ = returns_to(&SliceMemory::new(Avma(sp), &[]), bytes_max, &x(), (sp, pc));
        }
    }
}
