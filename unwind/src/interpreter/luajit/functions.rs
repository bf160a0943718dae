//! The functions of the frames on a Lua thread's stack, copied in the same stop as the stack: those of short coroutines
//! and callbacks are garbage soon after.
//!
//! To follow the frames takes bytecode, which is not copied. But where a frame lies shows: a slot with a function is
//! followed by a link, and no Lua value looks like one.

use super::layout::{Layout, POINTER_MASK, u64_in};
use crate::address::Avma;
use crate::interpreter::VolatileCopy;

/// Functions that are copied of one thread, at most: those of the innermost frames. Each costs a tenth of a microsecond.
const FUNCTIONS_MAX: usize = 64;

/// Slots of one Lua thread that are looked at: some hundreds of frames, in a few microseconds.
const SLOTS_MAX: usize = 4096;

/// A slot that holds a function, less its address (`LJ_TFUNC`, with 64-bit references).
const FUNCTION_TAG: u64 = 0x1_fff7;

/// With 32-bit references: the upper half of a slot that holds a value other than a number is this or higher.
const TAGS_GC32: u64 = 0xffff_0000;

/// Functions to be copied, each once.
#[derive(Debug)]
pub(super) struct Wanted {
    at: [u64; FUNCTIONS_MAX],
    count: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            at: [0; FUNCTIONS_MAX],
            count: 0,
        }
    }
}

impl Wanted {
    fn add(&mut self, layout: &Layout, function: u64) {
        let known = self.at.get(..self.count).unwrap_or_default();
        let can_be = function != 0 && function.is_multiple_of(layout.reference_bytes());
        if !can_be || known.contains(&function) {
            return;
        }
        if let Some(free) = self.at.get_mut(self.count) {
            *free = function;
            self.count += 1;
        }
    }

    /// The functions of the frames on the stack that begins at `stack`: those whose slots begin at `bases`, whatever their
    /// links say, as they may not have been written yet; and those further down. Where the innermost one may lie higher
    /// still, as a builtin that has called C code, `is_above`: then those there, too, some of which are of calls that are
    /// over.
    pub(super) fn add_of_stack(
        &mut self,
        layout: &Layout,
        copy: &VolatileCopy<'_>,
        stack: u64,
        bases: &[u64],
        is_above: bool,
    ) {
        for &base in bases {
            let slot = base.wrapping_sub(if layout.gc64 { 16 } else { 8 });
            if let Some(function) = copy.word(Avma(slot)) {
                self.add(layout, layout.function_in(function));
            }
        }
        let Some(highest) = bases.iter().max() else {
            return;
        };
        let copied = copy.slice_at(Avma(stack));
        let used = usize::try_from(highest.wrapping_sub(stack)).unwrap_or(usize::MAX);
        let (below, above) = copied.split_at(used.min(copied.len()));
        self.add_of_slots(layout, below);
        if is_above {
            self.add_of_slots(layout, above);
        }
    }

    /// From the highest one downwards.
    fn add_of_slots(&mut self, layout: &Layout, slots: &[u8]) {
        let mut above = 0;
        for slot in slots.rchunks_exact(8).take(SLOTS_MAX) {
            if self.count == FUNCTIONS_MAX {
                break;
            }
            let slot = u64_in(slot, 0).unwrap_or_default();
            if layout.is_frame(slot, above) {
                self.add(layout, layout.function_in(slot));
            }
            above = slot;
        }
    }

    /// Copies them.
    pub(super) fn copy(&self, layout: &Layout, copy: &mut VolatileCopy<'_>) {
        let bytes = usize::try_from(layout.function_pc + layout.reference_bytes()).unwrap_or(0);
        let mut regions = [(Avma(0), bytes); FUNCTIONS_MAX];
        for (region, at) in regions.iter_mut().zip(self.at) {
            region.0 = Avma(at);
        }
        copy.copy_all(regions.get(..self.count).unwrap_or_default());
    }
}

impl Layout {
    /// The function that a slot names.
    pub(super) fn function_in(&self, slot: u64) -> u64 {
        match self.gc64 {
            true => slot & POINTER_MASK,
            false => slot & u64::from(u32::MAX),
        }
    }

    /// Whether `slot`, with `above` in the next one, is the beginning of a frame rather than a value.
    fn is_frame(&self, slot: u64, above: u64) -> bool {
        match self.gc64 {
            true => slot >> 47 == FUNCTION_TAG && above != 0 && above >> 47 == 0,
            false => (1..TAGS_GC32).contains(&(slot >> 32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{GC32, GC64};
    use super::*;
    use crate::interpreter::VolatileBuffer;
    use crate::memory::SliceMemory;

    const STACK: u64 = 0x1000;

    /// The functions that are found in `slots`, with the innermost one's slots at position `base`.
    fn found(layout: &Layout, slots: &[u64], base: u64) -> Vec<u64> {
        let bytes: Vec<u8> = slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
        let live = SliceMemory::new(Avma(STACK), &bytes);
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, &live, &live);
        copy.copy(Avma(STACK), bytes.len());
        let mut wanted = Wanted::default();
        wanted.add_of_stack(layout, &copy, STACK, &[STACK + base * 8], false);
        wanted.at[..wanted.count].to_vec()
    }

    fn function(at: u64) -> u64 {
        FUNCTION_TAG << 47 | at
    }

    #[test]
    fn frames_are_told_from_values() {
        let number = 1.5f64.to_bits();
        let slots = [
            0,
            function(0x2000),
            0x11,
            number,
            function(0x3000),
            number,
            function(0x2000),
            0x8048,
            function(0x4000),
            // Its link is still to be written.
            number,
            function(0x5000),
            0x8048,
        ];
        assert_eq!(found(&GC64, &slots, 10), [0x4000, 0x2000]);
        let slots = [0x11 << 32 | 0x2000, number, 0x8048 << 32 | 0x3000, u64::MAX];
        assert_eq!(found(&GC32, &slots, 3), [0x3000, 0x2000]);
    }

    #[test]
    fn of_many_those_of_the_innermost_are_copied() {
        let slots: Vec<u64> = (1..=100)
            .flat_map(|number| [function(number << 12), 0x11])
            .collect();
        let found = found(&GC64, &slots, 200);
        assert_eq!(found.len(), FUNCTIONS_MAX);
        assert_eq!((found[0], found[63]), (100 << 12, 37 << 12));
    }
}
