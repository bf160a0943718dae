//! The copy of what changes as soon as a thread runs on.

use std::fmt;
use std::ops::Range;

use super::stretches::join;
use crate::address::Avma;
use crate::memory::{MemoryReader, ReadError, SliceMemory};

/// Bytes that are copied of one thread besides its native stack, at most: an interpreter's stack of more than ten thousand
/// frames. Most samples copy some hundredth of that.
const BYTES_MAX: usize = 2 << 20;

/// Regions that are copied for one sample, at most.
const REGIONS_MAX: usize = 160;

/// Calls into the kernel for one sample, at most, each of about a microsecond.
const READS_MAX: usize = 32;

/// How many regions one call copies.
const AT_ONCE: usize = 8;

/// How many regions are copied beforehand.
const EXPECTED_MAX: usize = 2 * AT_ONCE;

/// What is copied with a small region that is read alone, in bytes before and behind it: what was made together lies
/// together, and a kilobyte costs less than one call more.
const BEFORE_BYTES: u64 = 256;
const BEHIND_BYTES: u64 = 1024;
/// Up to which size a region is small, in bytes.
const SMALL_BYTES: usize = 1024;

/// What memory is mapped in, in bytes.
const PAGE_BYTES: u64 = 4096;

/// How much is copied of one region in one call, in bytes: some 12 µs. Before more is, it is asked whether there is time.
const PIECE_BYTES: usize = 128 << 10;

/// Where volatile words are put: allocated once, and touched, so that no page fault happens while a thread stands still.
#[derive(Debug)]
pub struct VolatileBuffer {
    bytes: Vec<u8>,
    used: usize,
    /// What was asked for and is there.
    regions: Vec<(Avma, Range<usize>)>,
    /// What was copied without being asked for.
    expected: Vec<(Avma, Range<usize>)>,
    /// What interpreters asked for: where, and how many bytes.
    wanted: Vec<(Avma, usize)>,
    reads: usize,
}

impl Default for VolatileBuffer {
    fn default() -> Self {
        Self {
            bytes: vec![1; BYTES_MAX],
            used: 0,
            regions: Vec::with_capacity(REGIONS_MAX),
            expected: Vec::with_capacity(EXPECTED_MAX + READS_MAX),
            wanted: Vec::with_capacity(REGIONS_MAX),
            reads: 0,
        }
    }
}

impl VolatileBuffer {
    /// Forgets what was copied.
    pub fn clear(&mut self) {
        self.used = 0;
        self.regions.clear();
        self.expected.clear();
        self.wanted.clear();
        self.reads = 0;
    }

    /// Whether there is room for one region more.
    fn has_room(&self) -> bool {
        self.regions.len() < REGIONS_MAX
    }

    /// Takes what was copied beforehand for the `bytes` bytes at `at`, if all of them were.
    fn take_expected(&mut self, at: Avma, bytes: usize) -> bool {
        let found = self.expected.iter().find_map(|(start, range)| {
            let skip = usize::try_from(at.0.checked_sub(start.0)?).ok()?;
            let from = range.start.checked_add(skip)?;
            let to = from.checked_add(bytes)?;
            (to <= range.end).then_some(from..to)
        });
        match found.filter(|_| self.has_room()) {
            Some(range) => {
                self.regions.push((at, range));
                true
            }
            None => false,
        }
    }

    /// What was copied from `at` on, up to the end of its region.
    pub fn slice_at(&self, at: Avma) -> Option<&[u8]> {
        // What was copied last is looked at next.
        self.regions.iter().rev().find_map(|(start, range)| {
            let skip = usize::try_from(at.0.checked_sub(start.0)?).ok()?;
            self.bytes
                .get(range.clone())?
                .get(skip..)
                .filter(|bytes| !bytes.is_empty())
        })
    }
}

impl MemoryReader for VolatileBuffer {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let bytes = self.slice_at(at).ok_or(ReadError::NotCopied(at))?;
        SliceMemory::new(at, bytes).read(at, into)
    }
}

/// What is likely to be asked for at the next sample of a thread, because it was at the last two.
///
/// Only where is remembered, and never what: all is read anew while the thread stands still, and what is not asked for
/// then is not used.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// In the order of their addresses, those that lie close to each other as one.
    regions: Vec<(Avma, usize)>,
    /// What was asked for at the last sample.
    last: Vec<(Avma, usize)>,
}

impl Expected {
    /// Takes notice of what was asked for while `buffer` was filled.
    pub fn learn(&mut self, buffer: &VolatileBuffer) {
        let last = &self.last;
        let is_again = |at: Avma| last.iter().any(|(known, _)| *known == at);
        let wanted = buffer.wanted.iter().filter(|(at, _)| is_again(*at));
        self.regions.clear();
        self.regions
            .extend(wanted.filter_map(|&(at, bytes)| with_room(at, bytes)));
        self.regions.sort_unstable();
        self.regions.dedup_by(|next, before| join(before, *next));
        self.regions.truncate(EXPECTED_MAX);
        self.last.clear();
        self.last.extend_from_slice(&buffer.wanted);
    }
}

/// A stack may have grown by the next sample: so much more of it is expected, unless a page ends before that. Nothing
/// where it is large already, and one call more costs little beside that.
fn with_room(at: Avma, bytes: usize) -> Option<(Avma, usize)> {
    const LARGE_BYTES: usize = 16 << 10;
    const ROOM_BYTES: usize = 256;
    if bytes == 0 || bytes > LARGE_BYTES {
        return None;
    }
    let end = at.checked_add(bytes as u64)?.0;
    let to_page_end = usize::try_from(end.next_multiple_of(PAGE_BYTES) - end).ok()?;
    Some((at, bytes + ROOM_BYTES.min(to_page_end)))
}

/// What is copied for the `bytes` bytes at `at`.
fn around(at: Avma, bytes: usize) -> (Avma, usize) {
    let end = at.0.saturating_add(bytes as u64);
    if bytes == 0 || bytes > SMALL_BYTES {
        return (at, bytes);
    }
    let first_page = at.0 - at.0 % PAGE_BYTES;
    let last_page_end = end.checked_next_multiple_of(PAGE_BYTES).unwrap_or(end);
    let start = at.0.saturating_sub(BEFORE_BYTES).max(first_page);
    let end = end.saturating_add(BEHIND_BYTES).min(last_page_end);
    (Avma(start), usize::try_from(end - start).unwrap_or(bytes))
}

/// Copies volatile words of one thread into a [`VolatileBuffer`], within bounds. Allocates nothing.
pub struct VolatileCopy<'a> {
    buffer: &'a mut VolatileBuffer,
    stack: &'a dyn MemoryReader,
    live: &'a dyn MemoryReader,
    may_go_on: &'a dyn Fn() -> bool,
    reads_ahead: bool,
}

impl fmt::Debug for VolatileCopy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolatileCopy")
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}

impl<'a> VolatileCopy<'a> {
    /// Into `buffer`, from the process `live`, of which `stack` is the copy of the thread's native stack.
    pub fn new(
        buffer: &'a mut VolatileBuffer,
        stack: &'a dyn MemoryReader,
        live: &'a dyn MemoryReader,
    ) -> Self {
        Self {
            buffer,
            stack,
            live,
            may_go_on: &|| true,
            reads_ahead: false,
        }
    }

    /// As long as `may_go_on` says so, which is asked before each call into the kernel. What is not copied then is as if
    /// it could not be read.
    #[must_use]
    pub fn as_long_as(self, may_go_on: &'a dyn Fn() -> bool) -> Self {
        Self { may_go_on, ..self }
    }

    /// The thread's native stack as it was copied: reading it costs nothing.
    pub fn stack(&self) -> &'a dyn MemoryReader {
        self.stack
    }

    /// Copies what the last samples of this thread asked for, all at once: most of it is where it was, and what leads
    /// there need not be read first. From then on what lies around a small region is copied with it. To be called before
    /// anything else, where a call costs more than a kilobyte.
    pub fn expect(&mut self, expected: &Expected) {
        self.reads_ahead = true;
        self.read(&expected.regions);
        let buffer = &mut *self.buffer;
        buffer.expected.append(&mut buffer.regions);
    }

    /// Copies `bytes` bytes from `at` on with at most one call into the kernel, and gives what is there: fewer where the
    /// mapping ends or the bounds are reached, none where nothing can be read.
    pub fn copy(&mut self, at: Avma, bytes: usize) -> &[u8] {
        self.copy_all(&[(at, bytes)]);
        let copied = self.buffer.slice_at(at).unwrap_or_default();
        copied.get(..bytes).unwrap_or(copied)
    }

    /// Copies several regions, with as few calls as the reader can. What was copied is then in [`VolatileCopy::word`]
    /// and, after the stop, in the memory given to `walk`.
    pub fn copy_all(&mut self, wanted: &[(Avma, usize)]) {
        let mut missing = [(Avma(0), 0); AT_ONCE];
        let mut count = 0;
        for &(at, bytes) in wanted {
            if self.buffer.wanted.len() < REGIONS_MAX {
                self.buffer.wanted.push((at, bytes));
            }
            if bytes > 0 && self.buffer.take_expected(at, bytes) {
                continue;
            }
            if let Some(free) = missing.get_mut(count) {
                *free = (at, bytes);
                count += 1;
            }
            if count == AT_ONCE {
                self.read(&missing);
                count = 0;
            }
        }
        match missing.get(..count).unwrap_or_default() {
            [(at, bytes)] if self.reads_ahead => self.read_around(*at, *bytes),
            several => self.read(several),
        }
    }

    /// Copies a region, and what lies around it in the same pages if it is small.
    fn read_around(&mut self, at: Avma, bytes: usize) {
        let around = around(at, bytes);
        let before = self.buffer.regions.len();
        self.read(&[around]);
        let buffer = &mut *self.buffer;
        if around == (at, bytes) || buffer.regions.len() == before {
            return;
        }
        let Some((start, range)) = buffer.regions.pop() else {
            return;
        };
        if buffer.expected.len() < buffer.expected.capacity() {
            buffer.expected.push((start, range.clone()));
        }
        let skip = usize::try_from(at.0 - start.0).unwrap_or(usize::MAX);
        let from = range.start.saturating_add(skip).min(range.end);
        let to = from.saturating_add(bytes).min(range.end);
        buffer.regions.push((at, from..to));
    }

    fn read(&mut self, wanted: &[(Avma, usize)]) {
        for wanted in wanted.chunks(AT_ONCE) {
            let room = REGIONS_MAX - self.buffer.regions.len();
            if room < wanted.len() || !self.may_read() {
                break;
            }
            self.buffer.reads += 1;
            let first = self.buffer.regions.len();
            let mut regions: [(Avma, &mut [u8]); AT_ONCE] =
                std::array::from_fn(|_| (Avma(0), &mut [][..]));
            let mut rest = self
                .buffer
                .bytes
                .get_mut(self.buffer.used..)
                .unwrap_or_default();
            for (&(at, bytes), region) in wanted.iter().zip(&mut regions) {
                let (into, further) = rest.split_at_mut(bytes.min(rest.len()));
                rest = further;
                let start = self.buffer.used;
                self.buffer.used += into.len();
                self.buffer.regions.push((at, start..start + into.len()));
                let (piece, _) = into.split_at_mut(into.len().min(PIECE_BYTES));
                *region = (at, piece);
            }
            let mut copied = [0; AT_ONCE];
            self.live
                .read_each(&mut regions[..wanted.len()], &mut copied);
            let pieces = regions.map(|(_, piece)| piece.len());
            for ((position, copied), piece) in (first..).zip(copied).zip(pieces).take(wanted.len())
            {
                let copied = match copied < piece {
                    // It ends to be mapped there.
                    true => copied,
                    false => piece + self.copy_further(position, piece),
                };
                if let Some((_, range)) = self.buffer.regions.get_mut(position) {
                    range.end = range.start + copied;
                }
            }
        }
    }

    /// Copies what follows on the first `copied` bytes of a large region, piece by piece, and says how much that was.
    fn copy_further(&mut self, region: usize, copied: usize) -> usize {
        let Some((at, range)) = self.buffer.regions.get(region).cloned() else {
            return 0;
        };
        let mut further = 0;
        while range.start + copied + further < range.end && self.may_read() {
            self.buffer.reads += 1;
            let from = range.start + copied + further;
            let piece = self
                .buffer
                .bytes
                .get_mut(from..range.end.min(from + PIECE_BYTES))
                .unwrap_or_default();
            let wanted = piece.len();
            let at = at.checked_add((copied + further) as u64);
            let got = at.and_then(|at| self.live.read(at, piece).ok());
            further += got.unwrap_or(0).min(wanted);
            if got.unwrap_or(0) < wanted {
                break;
            }
        }
        further
    }

    fn may_read(&self) -> bool {
        self.buffer.reads < READS_MAX && (self.may_go_on)()
    }

    /// Whether the bounds are reached, and nothing more will be copied.
    pub fn is_full(&self) -> bool {
        !self.may_read()
            || self.buffer.regions.len() >= REGIONS_MAX
            || self.buffer.used >= self.buffer.bytes.len()
    }

    /// What was copied from `at` on, up to the end of its region.
    pub fn slice_at(&self, at: Avma) -> &[u8] {
        self.buffer.slice_at(at).unwrap_or_default()
    }

    /// A word of what was copied, or of the thread's stack; no call into the kernel.
    pub fn word(&self, at: Avma) -> Option<u64> {
        self.buffer
            .read_u64(at)
            .or_else(|_| self.stack.read_u64(at))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_is_found_again_and_no_more() {
        let live: Vec<u8> = (0..=255).collect();
        let live = SliceMemory::new(Avma(0x1000), &live);
        let stack = SliceMemory::new(Avma(0x9000), &[7; 16]);
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, &stack, &live);
        assert_eq!(copy.copy(Avma(0x1010), 4), [16, 17, 18, 19]);
        assert!(copy.copy(Avma(0x5000), 4).is_empty());
        copy.copy_all(&[(Avma(0x1020), 8), (Avma(0x10fc), 64), (Avma(0), 8)]);
        assert_eq!(copy.word(Avma(0x1020)), Some(0x2726_2524_2322_2120));
        assert_eq!(copy.word(Avma(0x9008)), Some(0x0707_0707_0707_0707));
        assert_eq!(copy.word(Avma(0x1030)), None);
        assert_eq!(buffer.slice_at(Avma(0x10fd)), Some(&[253, 254, 255][..]));
        buffer.clear();
        assert_eq!(buffer.slice_at(Avma(0x1010)), None);
    }

    /// What is asked for in a sample, and by how many calls it was read.
    fn sample(
        live: &dyn MemoryReader,
        expected: &mut Expected,
        wanted: &[(u64, usize)],
    ) -> (VolatileBuffer, usize) {
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, live, live);
        copy.expect(expected);
        for &(at, bytes) in wanted {
            assert_eq!(copy.copy(Avma(at), bytes).len(), bytes);
        }
        expected.learn(&buffer);
        let reads = buffer.reads;
        (buffer, reads)
    }

    #[test]
    fn what_was_asked_for_twice_is_copied_at_once() {
        let live: Vec<u8> = (0..=255).cycle().take(0x10000).collect();
        let live = SliceMemory::new(Avma(0), &live);
        let mut expected = Expected::default();
        let chain = [(0x1000, 64), (0x5000, 104), (0x5100, 40), (0x9000, 800)];
        // One call less than there are: two lie together.
        assert_eq!(sample(&live, &mut expected, &chain).1, 3);
        assert_eq!(sample(&live, &mut expected, &chain).1, 3);
        // A stack that has grown a little is the same; an object elsewhere is one call more, and one that is not asked
        // for any more is not copied for long.
        let grown = [(0x1000, 64), (0x5000, 104), (0x5100, 40), (0x9000, 900)];
        assert_eq!(sample(&live, &mut expected, &grown).1, 1);
        let moved = [(0x1000, 64), (0x7008, 104), (0x5100, 40)];
        let (buffer, reads) = sample(&live, &mut expected, &moved);
        assert_eq!(reads, 2);
        assert_eq!(buffer.slice_at(Avma(0x7009)).map(|bytes| bytes[0]), Some(9));
        assert_eq!(expected.regions, [(Avma(0x1000), 320), (Avma(0x5100), 296)]);
        // What nobody has asked for is not there, though it was copied.
        assert_eq!(buffer.slice_at(Avma(0x9000)), None);
        assert_eq!(buffer.slice_at(Avma(0x5100 + 40)), None);
    }

    #[test]
    fn what_lies_around_is_of_the_same_pages() {
        assert_eq!(around(Avma(0x1234), 16), (Avma(0x1134), 0x510));
        assert_eq!(around(Avma(0x1010), 16), (Avma(0x1000), 0x420));
        assert_eq!(around(Avma(0x1ff8), 16), (Avma(0x1ef8), 0x510));
        assert_eq!(around(Avma(0x1ff8), 8), (Avma(0x1ef8), 0x108));
        assert_eq!(around(Avma(0x1234), 4096), (Avma(0x1234), 4096));
        assert_eq!(around(Avma(u64::MAX - 3), 64), (Avma(u64::MAX - 259), 259));
        // At the end of what is mapped; and where nothing is.
        let live = [7; 0x1000];
        let live = SliceMemory::new(Avma(0x1000), &live);
        let stack = SliceMemory::new(Avma(0x9000), &[]);
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, &stack, &live);
        copy.expect(&Expected::default());
        assert_eq!(copy.copy(Avma(0x1ff8), 16), [7; 8]);
        assert_eq!(copy.word(Avma(0x1ff0)), None);
        assert_eq!(copy.copy(Avma(0x1ff0), 8), [7; 8]);
        assert!(copy.copy(Avma(0x2000), 8).is_empty());
        assert_eq!(buffer.reads, 2);
    }

    #[test]
    fn only_so_much_is_expected() {
        let live = vec![0; 1 << 20];
        let live = SliceMemory::new(Avma(0), &live);
        let mut expected = Expected::default();
        let far: Vec<(u64, usize)> = (0..READS_MAX as u64).map(|at| (at << 14, 8)).collect();
        sample(&live, &mut expected, &far);
        sample(&live, &mut expected, &far[..8]);
        sample(&live, &mut expected, &[(0, BYTES_MAX / 4)]);
        assert_eq!(expected.regions, []);
        sample(&live, &mut expected, &far);
        sample(&live, &mut expected, &far[..READS_MAX - 2]);
        assert_eq!(expected.regions.len(), EXPECTED_MAX);
        // At the end of the address space, and of a page.
        assert_eq!(with_room(Avma(u64::MAX - 8), 16), None);
        assert_eq!(with_room(Avma(0x1ff0), 16), Some((Avma(0x1ff0), 16)));
        assert_eq!(with_room(Avma(0x1fe0), 16), Some((Avma(0x1fe0), 32)));
    }

    #[test]
    fn there_is_an_end_to_what_is_copied() {
        let live = vec![0; BYTES_MAX * 2];
        let live = SliceMemory::new(Avma(0), &live);
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, &live, &live);
        assert_eq!(copy.copy(Avma(0), usize::MAX).len(), BYTES_MAX);
        for _ in 0..2 * READS_MAX {
            copy.copy(Avma(8), 8);
        }
        assert_eq!((buffer.reads, buffer.used), (READS_MAX, BYTES_MAX));
    }

    #[test]
    fn nothing_more_is_copied_when_there_is_no_more_time() {
        let live: Vec<u8> = (0..=255).cycle().take(BYTES_MAX).collect();
        let live = SliceMemory::new(Avma(0), &live);
        let left = std::cell::Cell::new(3u32);
        let may_go_on = || left.replace(left.get().saturating_sub(1)) > 0;
        let mut buffer = VolatileBuffer::default();
        let mut copy = VolatileCopy::new(&mut buffer, &live, &live).as_long_as(&may_go_on);
        assert_eq!(copy.copy(Avma(1), 8).len(), 8);
        // A first piece and one more.
        copy.copy_all(&[(Avma(0), BYTES_MAX / 2), (Avma(0x100), 16)]);
        assert_eq!(copy.slice_at(Avma(0)).len(), 2 * PIECE_BYTES);
        // What was copied last is found first.
        assert_eq!(copy.slice_at(Avma(0x100)).len(), 16);
        assert!(copy.copy(Avma(BYTES_MAX as u64 - 64), 8).is_empty());
        assert!(copy.is_full());
        let bytes = buffer.slice_at(Avma(PIECE_BYTES as u64 + 5));
        assert_eq!(bytes.and_then(|bytes| bytes.first()), Some(&5));
    }
}
