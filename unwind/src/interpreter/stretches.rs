//! Where single objects are expected, so that they can be copied with few reads while a thread stands still.
//!
//! Runtimes that keep each call in an object of its own on the heap use the same ones again and again: most of those of
//! the sample before are still there at the next.

use crate::address::Avma;

/// Stretches that are copied beforehand.
const STRETCHES_MAX: usize = 48;
/// Objects that lie no further apart than this are copied together: to copy a kilobyte costs less than one region more.
const GAP_MAX: u64 = 1024;
/// The longest stretch, in bytes.
const STRETCH_BYTES_MAX: u64 = 64 << 10;

/// Objects, or several that lie close to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stretches {
    regions: Vec<(Avma, usize)>,
    sorted: Vec<Avma>,
}

impl Stretches {
    /// Where they begin, and their bytes.
    pub(super) fn regions(&self) -> &[(Avma, usize)] {
        &self.regions
    }

    /// Expects what is of `bytes` bytes at each of `objects`, and nothing else.
    pub(super) fn learn(&mut self, objects: impl Iterator<Item = Avma>, bytes: usize) {
        self.regions.clear();
        self.sorted.clear();
        self.sorted.extend(objects);
        self.sorted.sort_unstable();
        for &at in &self.sorted {
            let next = (at, bytes);
            if self.regions.last_mut().is_some_and(|last| join(last, next)) {
                continue;
            }
            if self.regions.len() >= STRETCHES_MAX {
                break;
            }
            self.regions.push(next);
        }
    }
}

/// Makes `before` reach over `next`, which does not begin before it, if little lies between and the whole is not too
/// long. Says whether it did.
pub(super) fn join(before: &mut (Avma, usize), next: (Avma, usize)) -> bool {
    let (start, length) = before;
    let skip = next.0.0.saturating_sub(start.0);
    let is_close = skip <= *length as u64 + GAP_MAX && skip < STRETCH_BYTES_MAX;
    if is_close {
        let end = usize::try_from(skip).unwrap_or(0) + next.1;
        *length = end.max(*length);
    }
    is_close
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_close_is_one_stretch() {
        let mut stretches = Stretches::default();
        let at = [0x5000, 0x1000, 0x1060, 0x1400, 0x1000, 0x9000].map(Avma);
        stretches.learn(at.into_iter(), 0x50);
        let expected = [(0x1000, 0x450), (0x5000, 0x50), (0x9000, 0x50)];
        assert_eq!(
            stretches.regions(),
            expected.map(|(at, bytes)| (Avma(at), bytes))
        );
        stretches.learn((0..100).map(|at| Avma(at << 20)), 8);
        assert_eq!(stretches.regions().len(), STRETCHES_MAX);
        stretches.learn([u64::MAX, 0].map(Avma).into_iter(), 8);
        assert_eq!(stretches.regions().len(), 2);
    }
}
