//! The copy of a thread's stack that a walk reads after the thread runs again.

use std::ops::Range;
use std::slice::ChunksMut;

use sampler_unwind::interpreter::VolatileBuffer;
use sampler_unwind::{Avma, MemoryReader, Modules, ReadError, SliceMemory};

use super::stack_plan::CopyPlan;

/// How much is copied in one go, in bytes: almost all stacks, in some 12 µs.
pub(super) const PIECE_BYTES: usize = 128 << 10;

/// The same where each word takes a system call: in some 30 µs.
pub(super) const PIECE_BYTES_BY_WORDS: usize = 1 << 10;

/// One buffer, allocated once, that holds up to two copied regions.
#[derive(Debug)]
pub(super) struct StackCopy {
    buffer: Vec<u8>,
    regions: [(Avma, Range<usize>); 2],
}

impl StackCopy {
    /// A buffer for `bytes_max` bytes, touched so that no page fault happens while a thread stands still.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            buffer: vec![1; bytes_max],
            regions: [(Avma(0), 0..0), (Avma(0), 0..0)],
        }
    }

    /// Nothing is copied any more.
    pub(super) fn clear(&mut self) {
        self.regions = [(Avma(0), 0..0), (Avma(0), 0..0)];
    }

    /// Copies what `plan` asks for, as much as fits and is readable: in one call of `read`, unless there is more than
    /// `piece_bytes` of it. Before each further piece `may_go_on` is asked; what is not copied is as if it were not
    /// there.
    ///
    /// # Errors
    /// When nothing of the first region can be read.
    pub(super) fn fill(
        &mut self,
        plan: &CopyPlan,
        piece_bytes: usize,
        mut read: impl FnMut([(Avma, &mut [u8]); 2]) -> Result<[usize; 2], ReadError>,
        mut may_go_on: impl FnMut() -> bool,
    ) -> Result<(), ReadError> {
        let home = plan.home.unwrap_or_default();
        let home_bytes = home.bytes.min(self.buffer.len() / 2);
        let live_bytes = plan.live.bytes.min(self.buffer.len() - home_bytes);
        let (live_buffer, rest) = self.buffer.split_at_mut(live_bytes);
        self.regions = [(plan.live.start, 0..0), (home.start, 0..0)];
        let (first, further) = live_buffer.split_at_mut(live_bytes.min(piece_bytes));
        let first_bytes = first.len();
        let [mut live, home_copied] = read([
            (plan.live.start, first),
            (home.start, &mut rest[..home_bytes]),
        ])?;
        if live == 0 {
            return Err(ReadError::Unmapped(plan.live.start));
        }
        if live == first_bytes {
            let pieces = further.chunks_mut(piece_bytes);
            live += copy_further(plan.live.start, live, pieces, read, &mut may_go_on);
        }
        self.regions[0].1 = 0..live.min(live_bytes);
        self.regions[1].1 = live_bytes..live_bytes + home_copied.min(home_bytes);
        Ok(())
    }
}

/// Copies what follows on the first `copied` bytes from `start`, piece by piece. Says how many bytes that was; what
/// cannot be read ends it, as it would end a single read.
fn copy_further(
    start: Avma,
    mut copied: usize,
    pieces: ChunksMut<'_, u8>,
    mut read: impl FnMut([(Avma, &mut [u8]); 2]) -> Result<[usize; 2], ReadError>,
    may_go_on: &mut impl FnMut() -> bool,
) -> usize {
    let mut further = 0;
    for piece in pieces {
        let Some(at) = start.checked_add(copied as u64).filter(|_| may_go_on()) else {
            break;
        };
        let wanted = piece.len();
        let got = read([(at, piece), (Avma(0), &mut [])]).map_or(0, |[got, _]| got.min(wanted));
        further += got;
        copied += got;
        if got < wanted {
            break;
        }
    }
    further
}

impl StackCopy {
    /// Where the piece of stack lies that the thread was on.
    pub(super) fn live_range(&self) -> Range<Avma> {
        let (start, bytes) = &self.regions[0];
        *start..Avma(start.0.saturating_add(bytes.len() as u64))
    }
}

impl MemoryReader for StackCopy {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let mut bytes = |(start, range): &(Avma, Range<usize>)| {
            SliceMemory::new(*start, &self.buffer[range.clone()]).read(at, into)
        };
        let [live, home] = &self.regions;
        bytes(live).or_else(|_| bytes(home))
    }

    fn read_u64(&self, at: Avma) -> Result<u64, ReadError> {
        let word = |(start, range): &(Avma, Range<usize>)| {
            SliceMemory::new(*start, &self.buffer[range.clone()]).read_u64(at)
        };
        let [live, home] = &self.regions;
        word(live).or_else(|_| word(home))
    }
}

/// What a walk may read once the thread runs again: its stack from the copy alone, because the stack has changed
/// since; from the process only what does not change: code, and the slots for calls between modules, which the dynamic
/// loader fills.
#[derive(Debug)]
pub(super) struct WalkMemory<'a, M> {
    /// The stack as it was.
    pub copy: &'a StackCopy,
    /// The process as it is.
    pub live: &'a M,
    /// Where its code and its modules lie.
    pub modules: &'a Modules,
}

impl<M> WalkMemory<'_, M> {
    fn is_constant(&self, at: Avma) -> bool {
        self.modules.is_executable(at) || self.modules.find(at).is_some()
    }
}

impl<M: MemoryReader> MemoryReader for WalkMemory<'_, M> {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        match self.copy.read(at, into) {
            Err(_) if self.is_constant(at) => self.live.read(at, into),
            copied => copied,
        }
    }

    fn read_u64(&self, at: Avma) -> Result<u64, ReadError> {
        match self.copy.read_u64(at) {
            Err(_) if self.is_constant(at) => self.live.read_u64(at),
            copied => copied,
        }
    }
}

/// What the walk of an interpreter may read: what was copied for it, then the stack as it was, and all else as it is
/// now. Whether that is still what it was, the interpreter checks.
#[derive(Debug)]
pub(super) struct InterpreterMemory<'a, M> {
    /// What the interpreter has copied.
    pub volatile: &'a VolatileBuffer,
    /// The stack as it was.
    pub copy: &'a StackCopy,
    /// The process as it is.
    pub live: &'a M,
}

impl<M: MemoryReader> MemoryReader for InterpreterMemory<'_, M> {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        self.volatile
            .read(at, into)
            .or_else(|_| self.copy.read(at, into))
            .or_else(|_| self.live.read(at, into))
    }

    fn read_each(&self, regions: &mut [(Avma, &mut [u8])], copied: &mut [usize]) {
        self.live.read_each(regions, copied);
    }
}
