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
