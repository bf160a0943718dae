//! The copy of what changes as soon as a thread runs on.

use std::fmt;
use std::ops::Range;

use crate::address::Avma;
use crate::memory::{MemoryReader, ReadError, SliceMemory};

/// Bytes that are copied of one thread besides its native stack, at most: an interpreter's stack of more than ten thousand
/// frames. Most samples copy some hundredth of that.
const BYTES_MAX: usize = 2 << 20;

/// Regions that are copied for one sample, at most.
const REGIONS_MAX: usize = 96;

/// Calls into the kernel for one sample, at most, each of about a microsecond.
const READS_MAX: usize = 32;

/// Where volatile words are put: allocated once, and touched, so that no page fault happens while a thread stands still.
#[derive(Debug)]
pub struct VolatileBuffer {
    bytes: Vec<u8>,
    used: usize,
    regions: Vec<(Avma, Range<usize>)>,
    reads: usize,
}

impl Default for VolatileBuffer {
    fn default() -> Self {
        Self {
            bytes: vec![1; BYTES_MAX],
            used: 0,
            regions: Vec::with_capacity(REGIONS_MAX),
            reads: 0,
        }
    }
}

impl VolatileBuffer {
    /// Forgets what was copied.
    pub fn clear(&mut self) {
        self.used = 0;
        self.regions.clear();
        self.reads = 0;
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

/// Copies volatile words of one thread into a [`VolatileBuffer`], within bounds. Allocates nothing.
pub struct VolatileCopy<'a> {
    buffer: &'a mut VolatileBuffer,
    stack: &'a dyn MemoryReader,
    live: &'a dyn MemoryReader,
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
        }
    }

    /// The thread's native stack as it was copied: reading it costs nothing.
    pub fn stack(&self) -> &'a dyn MemoryReader {
        self.stack
    }

    /// Copies `bytes` bytes from `at` on with one call into the kernel, and gives what is there: fewer where the mapping
    /// ends or the bounds are reached, none where nothing can be read.
    pub fn copy(&mut self, at: Avma, bytes: usize) -> &[u8] {
        let before = self.buffer.regions.len();
        self.copy_all(&[(at, bytes)]);
        let range = self
            .buffer
            .regions
            .get(before)
            .map(|(_, range)| range.clone());
        range
            .and_then(|range| self.buffer.bytes.get(range))
            .unwrap_or_default()
    }

    /// Copies several regions, with as few calls as the reader can. What was copied is then in [`VolatileCopy::word`]
    /// and, after the stop, in the memory given to `walk`.
    pub fn copy_all(&mut self, wanted: &[(Avma, usize)]) {
        /// As many as one call takes.
        const AT_ONCE: usize = 8;
        for wanted in wanted.chunks(AT_ONCE) {
            let room = REGIONS_MAX - self.buffer.regions.len();
            if self.buffer.reads >= READS_MAX || room < wanted.len() {
                break;
            }
            self.buffer.reads += 1;
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
                *region = (at, into);
            }
            let mut copied = [0; AT_ONCE];
            self.live
                .read_each(&mut regions[..wanted.len()], &mut copied);
            let lengths = regions.map(|(_, into)| into.len());
            for ((&(at, _), length), copied) in wanted.iter().zip(lengths).zip(copied) {
                let start = self.buffer.used;
                self.buffer
                    .regions
                    .push((at, start..start + copied.min(length)));
                self.buffer.used += length;
            }
        }
    }

    /// Whether the bounds are reached, and nothing more will be copied.
    pub fn is_full(&self) -> bool {
        self.buffer.reads >= READS_MAX
            || self.buffer.regions.len() >= REGIONS_MAX
            || self.buffer.used >= self.buffer.bytes.len()
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
}
