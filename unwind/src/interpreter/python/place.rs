//! Which native frame each activation of the evaluation loop is.

use std::ops::Range;

use super::capture::Activation;
use crate::address::Avma;
use crate::stack::Stack;

/// Where activations were placed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// For each activation the native frames that it takes the place of.
    pub places: Vec<Range<usize>>,
    /// Whether there are native frames of the loop without an activation, or activations without a native frame, that
    /// cannot be explained.
    pub is_unmatched: bool,
}

impl Places {
    /// Places `activations` in `native`, whose frames in the evaluation loop are `markers`. Both are innermost first.
    ///
    /// From 3.11 on activations keep something on the C stack, which tells in which native frame. Otherwise they are
    /// counted, from the outermost on: an activation that has only just begun, or is about to end, has a native frame and
    /// no frame of its own, and is the innermost.
    pub(super) fn find(&mut self, activations: &[Activation], native: &Stack, markers: &[usize]) {
        self.places.clear();
        self.is_unmatched = false;
        let is_anchored = activations
            .iter()
            .any(|activation| activation.native.is_some());
        match is_anchored {
            true => self.by_address(activations, native, markers),
            false => self.by_count(activations, native, markers),
        }
    }

    fn by_address(&mut self, activations: &[Activation], native: &Stack, markers: &[usize]) {
        let mut next = 0;
        for activation in activations {
            let frame = activation.native.and_then(|at| frame_of(native, at));
            match frame {
                Some(frame) => {
                    self.places.push(frame..frame + 1);
                    next = next.max(frame + 1);
                }
                // Not on this stack: in the part that was not found.
                None => {
                    let end = native.frames.len();
                    self.is_unmatched |= native.end.is_complete();
                    self.places.push(end..end);
                }
            }
        }
        // The innermost of the loop may have none; one further outside has lost it.
        let without = markers
            .iter()
            .filter(|marker| !self.places.iter().any(|place| place.contains(marker)));
        self.is_unmatched |= without
            .clone()
            .any(|marker| *marker < next && Some(marker) != markers.first());
    }

    fn by_count(&mut self, activations: &[Activation], native: &Stack, markers: &[usize]) {
        let (count, frames) = (activations.len(), markers.len());
        // Of a stack that was cut, the outer frames are missing.
        let skipped = match native.end.is_complete() {
            true => frames.saturating_sub(count),
            false => 0,
        };
        let missing = match native.end.is_complete() {
            true => count.saturating_sub(frames),
            false => 0,
        };
        self.is_unmatched = skipped > 1 || missing > 0;
        for index in 0..count {
            let marker = index
                .checked_sub(missing)
                .map(|index| markers.get(index + skipped));
            self.places.push(match marker {
                Some(Some(&marker)) => marker..marker + 1,
                Some(None) => native.frames.len()..native.frames.len(),
                None => 0..0,
            });
        }
    }
}

/// The native frame in which `at` lies: between its stack pointer and that of its caller.
fn frame_of(native: &Stack, at: Avma) -> Option<usize> {
    let above = native.frames.partition_point(|frame| frame.sp <= at);
    // The outermost frame that was found goes on to where nobody knows.
    let is_inside = above < native.frames.len() || native.end.is_complete();
    above.checked_sub(1).filter(|_| is_inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ReadError;
    use crate::stack::{Frame, FrameOrigin, StackEnd};

    /// Frames of 16 bytes each, from 0x1000 on.
    fn stack(frames: u64, end: StackEnd) -> Stack {
        let frame = |index| Frame {
            address: Avma(1),
            sp: Avma(0x1000 + index * 16),
            origin: FrameOrigin::CallFrameInfo,
        };
        Stack {
            frames: (0..frames).map(frame).collect(),
            end,
        }
    }

    fn find(
        natives: &[Option<u64>],
        native: &Stack,
        markers: &[usize],
    ) -> (Vec<(usize, usize)>, bool) {
        let activation = |native: &Option<u64>| Activation {
            frames: 0..1,
            native: native.map(Avma),
        };
        let activations: Vec<_> = natives.iter().map(activation).collect();
        let mut places = Places::default();
        places.find(&activations, native, markers);
        let ends = places
            .places
            .into_iter()
            .map(|place| (place.start, place.end));
        (ends.collect(), places.is_unmatched)
    }

    const CUT: StackEnd = StackEnd::Unreadable(ReadError::Unmapped(Avma(0)));

    #[test]
    fn addresses_tell_the_native_frame() {
        let native = stack(6, StackEnd::Root);
        let found = find(&[Some(0x1018), Some(0x1048)], &native, &[1, 4]);
        assert_eq!(found, (vec![(1, 2), (4, 5)], false));
        // The innermost has just begun; one further outside should have one.
        assert_eq!(
            find(&[Some(0x1048)], &native, &[1, 4]),
            (vec![(4, 5)], false)
        );
        let found = find(&[Some(0x1008), Some(0x1048)], &native, &[0, 2, 4]);
        assert_eq!(found, (vec![(0, 1), (4, 5)], true));
        // In the part of the stack that was not found.
        let found = find(&[Some(0x1018), Some(0x2000)], &stack(3, CUT), &[1]);
        assert_eq!(found, (vec![(1, 2), (3, 3)], false));
    }

    #[test]
    fn without_addresses_they_are_counted_from_the_outermost_on() {
        let native = stack(6, StackEnd::Root);
        assert_eq!(
            find(&[None, None], &native, &[1, 4]),
            (vec![(1, 2), (4, 5)], false)
        );
        assert_eq!(find(&[None], &native, &[1, 4]), (vec![(4, 5)], false));
        assert_eq!(find(&[None], &native, &[1, 2, 4]), (vec![(4, 5)], true));
        assert_eq!(
            find(&[None, None], &native, &[4]),
            (vec![(0, 0), (4, 5)], true)
        );
        assert_eq!(
            find(&[None, None], &stack(3, CUT), &[1]),
            (vec![(1, 2), (3, 3)], false)
        );
    }
}
