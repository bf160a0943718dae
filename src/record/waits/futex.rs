//! Who holds the lock behind a futex, where the lock says so.

use sampler_unwind::{Avma, MemoryReader};

use super::super::process::TargetProcess;
use super::calls::WAITERS;

/// What glibc puts into a mutex that is held and waited for (nptl/lowlevellock.h).
const LOCKED_WITH_WAITERS: u32 = 2;
/// The part of a futex that is the number of its owner: FUTEX_TID_MASK (include/uapi/linux/futex.h).
const TID_MASK: u32 = 0x3fff_ffff;

/// Where the lock is and who holds it, in words; `None` where that cannot be told.
///
/// Memory says what it says: only a number that is that of one of the process's threads is taken for an owner.
pub(super) fn held_by(process: &mut TargetProcess, address: u64, expected: u32) -> Option<String> {
    let owner = owner(process.memory(), address, expected)?;
    let holder = process.thread_called(owner)?;
    let name = holder.name.shown();
    Some(format!(
        "{address:#x} held by thread {} ({name})",
        holder.tid
    ))
}

/// The number of the thread that holds the lock at `address`, as the lock has it.
fn owner(memory: &impl MemoryReader, address: u64, expected: u32) -> Option<i32> {
    // Its owner's number, with a bit for waiters: mutexes with priority inheritance, robust ones, and those of musl that
    // know their owner.
    if expected & WAITERS != 0 {
        let word = memory.read_u32(Avma(address)).ok()?;
        return plausible(word & TID_MASK);
    }
    // `struct __pthread_mutex_s` of glibc: __lock, __count, __owner, __nusers (sysdeps/nptl/bits/struct_mutex.h).
    if expected == LOCKED_WITH_WAITERS {
        let mut mutex = [0; 16];
        memory.read_exact(Avma(address), &mut mutex).ok()?;
        let word = |at: usize| {
            let bytes = mutex.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let is_held = word(0)? == LOCKED_WITH_WAITERS && word(12)? > 0;
        return plausible(word(8)?).filter(|_| is_held);
    }
    None
}

fn plausible(number: u32) -> Option<i32> {
    i32::try_from(number).ok().filter(|&number| number > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sampler_unwind::SliceMemory;

    use super::*;

    fn owner_in(words: &[u32], expected: u32) -> Option<i32> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        owner(&SliceMemory::new(Avma(0x1000), &bytes), 0x1000, expected)
    }

    #[test]
    fn a_mutex_tells_its_owner() {
        assert_eq!(owner_in(&[2, 0, 812, 1], 2), Some(812));
        assert_eq!(owner_in(&[0x8000_032c], 0x8000_032c), Some(812));
    }

    #[test]
    fn what_is_no_mutex_has_none() {
        assert_eq!(owner_in(&[0, 0, 812, 1], 2), None, "it was let go");
        assert_eq!(owner_in(&[2, 0, 812, 0], 2), None, "nobody uses it");
        assert_eq!(owner_in(&[2, 0, 0, 1], 2), None);
        assert_eq!(owner_in(&[2, 0], 2), None, "no more can be read");
        assert_eq!(owner_in(&[7, 0, 812, 1], 7), None, "a condition variable");
    }

    proptest! {
        #[test]
        fn an_owner_is_a_number_of_a_thread(words: [u32; 4], expected: u32) {
            let owner = owner_in(&words, expected);
            prop_assert!(owner.is_none_or(|owner| owner > 0));
        }
    }
}
