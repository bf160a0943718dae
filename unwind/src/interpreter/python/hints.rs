//! Where the frames of a thread are expected, so that they can be copied with few reads while it stands still.
//!
//! From 3.11 on, frames of functions lie next to each other in chunks; those of generators and coroutines, and all frames
//! before 3.11, are objects on the heap, each somewhere else. So the chunks are known from the sample before, and so
//! are the single frames: most of them are still there at the next sample.

use super::layout::{Current, Layout};
use crate::address::Avma;
use crate::interpreter::stretches::Stretches;
use crate::memory::MemoryReader;

/// Chunks of one thread that are known. They are of 16 KiB and more: some hundred frames each.
const CHUNKS_MAX: usize = 128;
/// The largest chunk that is believed, in bytes.
const CHUNK_BYTES_MAX: u64 = 1 << 24;
/// Frames of a thread that are looked at when it is met for the first time.
const GUESSED_FRAMES_MAX: usize = 128;

/// What is known of where a thread's frames are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// `_PyStackChunk`s, the innermost first: where they begin and end.
    chunks: Vec<(Avma, Avma)>,
    /// Single frames.
    pub singles: Stretches,
}

impl Hints {
    /// The chunk in which a frame at `at` lies, and behind it those of its callers.
    pub(super) fn chunks_from(&self, at: Avma) -> &[(Avma, Avma)] {
        let is_there = |(start, end): &(Avma, Avma)| (*start..*end).contains(&at);
        let first = self.chunks.iter().position(is_there);
        first
            .and_then(|first| self.chunks.get(first..))
            .unwrap_or_default()
    }

    /// Guesses from what a running thread shows, in memory that changes meanwhile.
    pub(super) fn guess(layout: &Layout, thread: Avma, memory: &dyn MemoryReader) -> Self {
        let word = |at: Avma, offset: u32| {
            let at = at.checked_add(u64::from(offset))?;
            memory.read_u64(at).ok().map(Avma)
        };
        let innermost = match layout.thread.current {
            Current::Frame(offset) => word(thread, offset),
            Current::CFrame { pointer, frame, .. } => {
                word(thread, pointer).and_then(|c_frame| word(c_frame, frame))
            }
        };
        let frames = std::iter::successors(innermost, |frame| word(*frame, layout.frame.previous));
        let frames = frames
            .take_while(|frame| *frame != Avma(0))
            .take(GUESSED_FRAMES_MAX);
        let mut hints = Self::default();
        hints.learn(layout, thread, frames, memory);
        hints
    }

    /// Learns from `frames`, which were found.
    pub(super) fn learn(
        &mut self,
        layout: &Layout,
        thread: Avma,
        frames: impl Iterator<Item = Avma>,
        memory: &dyn MemoryReader,
    ) {
        self.learn_chunks(layout, thread, memory);
        let chunks = std::mem::take(&mut self.chunks);
        let is_inside = |at: &Avma| {
            chunks
                .iter()
                .any(|(start, end)| (*start..*end).contains(at))
        };
        self.singles
            .learn(frames.filter(|at| !is_inside(at)), layout.frame_bytes());
        self.chunks = chunks;
    }

    /// `_PyStackChunk` (`pycore_pystate.h`, later `cpython/pystate.h`): the one before, and its own size.
    fn learn_chunks(&mut self, layout: &Layout, thread: Avma, memory: &dyn MemoryReader) {
        self.chunks.clear();
        let Some(offset) = layout.thread.chunk else {
            return;
        };
        let word = |at: Avma, offset: u32| {
            let at = at.checked_add(u64::from(offset))?;
            memory.read_u64(at).ok()
        };
        let mut chunk = word(thread, offset).map(Avma);
        while let Some(start) = chunk.filter(|at| *at != Avma(0)) {
            let Some(size) = word(start, 8).filter(|size| *size <= CHUNK_BYTES_MAX) else {
                return;
            };
            if self.chunks.len() >= CHUNKS_MAX {
                return;
            }
            self.chunks
                .push((start, Avma(start.0.saturating_add(size))));
            chunk = word(start, 0).map(Avma);
        }
    }
}
