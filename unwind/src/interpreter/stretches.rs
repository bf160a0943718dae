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
            let is_full = self.regions.len() >= STRETCHES_MAX;
            let last = self.regions.last_mut();
            let last = last.map(|(start, length)| (at.0.saturating_sub(start.0), length));
            match last {
                Some((before, length))
                    if before <= *length as u64 + GAP_MAX && before < STRETCH_BYTES_MAX =>
                {
                    let end = usize::try_from(before).unwrap_or(0) + bytes;
                    *length = end.max(*length);
                }
                _ if is_full => break,
                _ => self.regions.push((at, bytes)),
            }
        }
    }
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
