//! What shows which module lies somewhere: its build ID, where its file says that memory has it.
//!
//! A program can unload a library and load another one in its place while we think: the mappings are read after the
//! thread runs again, and by then it may be the next one's turn. So where modules have taken each other's place
//! before, the bytes that tell them apart are copied together with the stack.

use sampler_platforms::linux::{ProcessMemory, REGIONS_MAX};
use sampler_unwind::{Avma, ElfImage, LoadBias, MemoryReader, ReadError};

use std::ops::Range;

/// The longest build ID that is compared with the one in memory, in bytes.
const MARK_BYTES_MAX: usize = 64;

/// How many places with marks are copied with a stack: with its two regions as many as one call reads.
const COPIED_MAX: usize = REGIONS_MAX - 2;

/// Bytes of the target's memory that are others when another image lies there: the build ID.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// Where they lie.
    pub at: Avma,
    bytes: Vec<u8>,
    /// How often in a row it was not there although nothing else was said to be.
    pub missed: u8,
}

impl Mark {
    /// That of `image`, if it has one.
    pub(super) fn of(image: &ElfImage, bias: LoadBias) -> Option<Self> {
        let bytes = &image.build_id()?.0;
        let at = bias.avma(image.build_id_svma()?);
        Self::new(at, bytes)
    }

    fn new(at: Avma, bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty() && bytes.len() <= MARK_BYTES_MAX).then(|| Self {
            at,
            bytes: bytes.to_vec(),
            missed: 0,
        })
    }

    /// Whether memory has it.
    ///
    /// # Errors
    /// When memory cannot be read there.
    pub(super) fn is_there(&self, memory: &impl MemoryReader) -> Result<bool, ReadError> {
        let mut room = [0; MARK_BYTES_MAX];
        let found = &mut room[..self.bytes.len().min(MARK_BYTES_MAX)];
        memory.read_exact(self.at, found)?;
        Ok(*found == *self.bytes)
    }
}

/// Which marks are copied together with a stack.
#[derive(Clone, Debug, Default)]
pub(super) struct MarkPlan(Vec<(Avma, usize)>);

impl MarkPlan {
    /// The first few of `marks`, as many as can be copied.
    pub(super) fn of<'m>(marks: impl Iterator<Item = &'m Mark>) -> Self {
        let mut places: Vec<(Avma, usize)> = Vec::new();
        for mark in marks {
            let wanted = mark.bytes.len();
            let is_full = places.len() == COPIED_MAX;
            match places.iter_mut().find(|(at, _)| *at == mark.at) {
                Some((_, bytes)) => *bytes = wanted.max(*bytes),
                None if is_full => {}
                None => places.push((mark.at, wanted)),
            }
        }
        Self(places)
    }
}

/// The bytes of one place.
#[derive(Clone, Copy, Debug, Default)]
struct Copied {
    at: Avma,
    /// How many were asked for, and how many could be read.
    planned: usize,
    bytes: usize,
}

/// The marks that were copied with the last stack.
#[derive(Debug)]
pub(super) struct CopiedMarks {
    places: [Copied; COPIED_MAX],
    rooms: [[u8; MARK_BYTES_MAX]; COPIED_MAX],
    /// The next read is to bring them.
    is_due: bool,
}

impl Default for CopiedMarks {
    /// Room for all.
    fn default() -> Self {
        Self {
            places: [Copied::default(); COPIED_MAX],
            rooms: [[0; MARK_BYTES_MAX]; COPIED_MAX],
            is_due: false,
        }
    }
}

impl CopiedMarks {
    /// The next [`CopiedMarks::read`] brings those of `plan`.
    pub(super) fn begin(&mut self, plan: &MarkPlan) {
        self.places = [Copied::default(); COPIED_MAX];
        self.is_due = !plan.0.is_empty();
        for (place, (at, planned)) in self.places.iter_mut().zip(&plan.0) {
            (place.at, place.planned) = (*at, (*planned).min(MARK_BYTES_MAX));
        }
    }

    /// Reads `regions` of a stack, and with the first of its pieces the marks, in the same call.
    ///
    /// # Errors
    /// As [`ProcessMemory::read_regions`].
    pub(super) fn read(
        &mut self,
        memory: &ProcessMemory,
        regions: [(Avma, &mut [u8]); 2],
    ) -> Result<[usize; 2], ReadError> {
        if !std::mem::take(&mut self.is_due) {
            return memory.read_regions(regions);
        }
        let [live, home] = regions;
        let mut places = self.places.iter().zip(&mut self.rooms);
        let mut next = || match places.next() {
            Some((place, room)) => (place.at, room.get_mut(..place.planned).unwrap_or_default()),
            None => (Avma(0), &mut [][..]),
        };
        let marks: [(Avma, &mut [u8]); COPIED_MAX] = std::array::from_fn(|_| next());
        let [a, b, c, d, e, f] = marks;
        let [live, home, copied @ ..] = memory.read_regions([live, home, a, b, c, d, e, f])?;
        for (place, bytes) in self.places.iter_mut().zip(copied) {
            place.bytes = bytes;
        }
        Ok([live, home])
    }

    /// Whether `mark` was there; `None` if its place was not copied.
    pub(super) fn has(&self, mark: &Mark) -> Option<bool> {
        let wanted = mark.bytes.len();
        let is_its = |(place, _): &(&Copied, _)| place.at == mark.at && place.planned >= wanted;
        let (place, room) = self.places.iter().zip(&self.rooms).find(is_its)?;
        Some(place.bytes >= wanted && room.get(..wanted) == Some(mark.bytes.as_slice()))
    }

    /// Whether anything in `range` was copied.
    pub(super) fn are_in(&self, range: &Range<Avma>) -> bool {
        let mut places = self.places.iter().filter(|place| place.planned > 0);
        places.any(|place| range.contains(&place.at))
    }
}

#[cfg(test)]
mod tests {
    use sampler_platforms::Pid;

    use super::*;

    fn address_of(bytes: &[u8]) -> Avma {
        Avma(bytes.as_ptr() as usize as u64)
    }

    fn copied(plan: &MarkPlan, stack: &mut [u8]) -> CopiedMarks {
        let memory = ProcessMemory::new(Pid(std::process::id().cast_signed()));
        let mut copied = CopiedMarks::default();
        copied.begin(plan);
        let from = *b"on the stack";
        let lengths = copied.read(&memory, [(address_of(&from), stack), (Avma(0), &mut [])]);
        assert_eq!(lengths, Ok([from.len(), 0]));
        assert_eq!(stack, from);
        copied
    }

    #[test]
    fn marks_come_with_the_stack() {
        let ids = [*b"first build ID", *b"other build ID"];
        let at = ids.each_ref().map(|id| address_of(id));
        let present = [0, 1].map(|index| Mark::new(at[index], &ids[index]).unwrap());
        let absent = Mark::new(at[0], &ids[1]).unwrap();
        let unmapped = Mark::new(Avma(16), &ids[0]).unwrap();
        let longer = Mark::new(at[1], b"other build ID, and more").unwrap();
        let plan = MarkPlan::of([&unmapped, &present[0], &absent, &present[1]].into_iter());
        let copied = copied(&plan, &mut [0; 12]);
        assert_eq!(
            present.each_ref().map(|mark| copied.has(mark)),
            [Some(true); 2]
        );
        assert_eq!(copied.has(&absent), Some(false));
        assert_eq!(copied.has(&unmapped), Some(false));
        assert_eq!(copied.has(&longer), None);
        assert!(copied.are_in(&(at[0]..Avma(at[0].0 + 1))));
        assert!(!copied.are_in(&(Avma(0)..Avma(16))));
    }

    #[test]
    fn no_more_are_copied_than_one_call_reads() {
        let bytes = [7; 20];
        let start = address_of(&bytes).0;
        let marks: Vec<Mark> = (0..20)
            .map(|at| Mark::new(Avma(start + at), &[7]).unwrap())
            .collect();
        let copied = copied(&MarkPlan::of(marks.iter()), &mut [0; 12]);
        let there = marks.iter().filter(|mark| copied.has(mark) == Some(true));
        assert_eq!(there.count(), COPIED_MAX);
        let unplanned = CopiedMarks::default();
        assert!(marks.iter().all(|mark| unplanned.has(mark).is_none()));
        assert!(!unplanned.are_in(&(Avma(0)..Avma(u64::MAX))));
    }
}
