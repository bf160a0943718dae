//! The frames of one thread, as they are while it stands still.

use std::ops::Range;

use super::hints::Hints;
use super::layout::{Boundary, Current, GIL_LAST_HOLDER, GIL_LOCKED, Instruction, Layout};
use super::threads::ThreadState;
use crate::address::Avma;
use crate::interpreter::{Lost, VolatileCopy};

/// Frames of one thread. Python's own limit is 1000 unless a program raises it.
const FRAMES_MAX: usize = 16_384;
/// Activations of the evaluation loop on one thread: some hundred kilobytes of C stack.
const ACTIVATIONS_MAX: usize = 1024;
/// A frame that was not expected is copied with what lies before it in its page: its callers, most likely.
const PAGE_BYTES: u64 = 4096;
/// An instruction, `_Py_CODEUNIT` (from 3.6 on).
const INSTRUCTION_BYTES: u64 = 2;
/// Chunks of frames that are copied at once: the one in which a frame lies, and those of its callers.
const CHUNKS_AT_ONCE: usize = 8;

/// One activation of a Python function, as its frame shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawFrame {
    /// Where the frame is.
    pub address: Avma,
    /// Its code object.
    pub code: Avma,
    /// Which byte of the code's instructions it is at; `None` where it has not begun, or executes a copy of them.
    pub at: Option<u32>,
}

/// One activation of the evaluation loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Activation {
    /// The frames it executes: positions in [`Captured::frames`].
    pub frames: Range<usize>,
    /// An address in the native frame of the activation, if the version keeps something there.
    pub native: Option<Avma>,
}

/// What was captured of one thread. The memory is kept from sample to sample.
#[derive(Debug)]
pub(super) struct Captured {
    /// Innermost first.
    pub frames: Vec<RawFrame>,
    /// Innermost first within one interpreter; all frames belong to one.
    pub activations: Vec<Activation>,
    /// Why there are no more frames, if there should be.
    pub lost: Option<Lost>,
    /// Whether the thread holds the lock of its interpreter.
    pub holds_gil: Option<bool>,
    /// Whether the thread's state was found and is still that thread's.
    pub is_known: bool,
    /// Frames that were not where any was expected.
    pub surprises: usize,
}

impl Default for Captured {
    fn default() -> Self {
        Self {
            frames: Vec::with_capacity(FRAMES_MAX),
            activations: Vec::with_capacity(ACTIVATIONS_MAX),
            lost: None,
            holds_gil: None,
            is_known: false,
            surprises: 0,
        }
    }
}

/// How the frames of one activation ended.
enum Next {
    /// The next outer frame, of the same activation.
    Frame(Avma),
    /// The next outer one, of another.
    Activation(Avma),
}

impl Captured {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.activations.clear();
        self.lost = None;
        self.holds_gil = None;
        self.is_known = false;
        self.surprises = 0;
    }

    /// Adds what thread state `state` shows: nothing if it is another thread's by now.
    pub(super) fn add(
        &mut self,
        layout: &Layout,
        state: &ThreadState,
        copy: &mut VolatileCopy<'_>,
    ) {
        let gil = state
            .gil
            .and_then(|gil| gil.checked_add(u64::from(GIL_LAST_HOLDER)));
        let gil_bytes = (GIL_LOCKED - GIL_LAST_HOLDER + 8) as usize;
        copy.copy_all(&[
            (state.address, layout.thread_bytes()),
            (gil.unwrap_or_default(), gil_bytes),
        ]);
        if word(copy, state.address, layout.thread.thread_id) != Some(state.thread_id) {
            return;
        }
        self.is_known = true;
        let holds_gil = state.gil.and_then(|gil| {
            let holder = word(copy, gil, GIL_LAST_HOLDER)?;
            let is_locked = word(copy, gil, GIL_LOCKED)?.to_le_bytes()[0] == 1;
            Some(is_locked && holder == state.address.0)
        });
        self.holds_gil = match (self.holds_gil, holds_gil) {
            (Some(before), Some(now)) => Some(before || now),
            (before, now) => before.or(now),
        };
        copy.copy_all(state.hints.singles.regions());
        if let Err(lost) = self.walk(layout, state, copy) {
            self.lost = self.lost.or(Some(lost));
        }
        if self.covered() < self.frames.len() {
            self.close(None);
        }
    }

    /// How many frames belong to an activation.
    fn covered(&self) -> usize {
        self.activations.last().map_or(0, |last| last.frames.end)
    }

    /// Activation after activation, outwards.
    fn walk(
        &mut self,
        layout: &Layout,
        state: &ThreadState,
        copy: &mut VolatileCopy<'_>,
    ) -> Result<(), Lost> {
        let before = (self.frames.len(), self.activations.len());
        let mut c_frame = CFrame::innermost(layout, state, copy)?;
        let mut next = c_frame.current;
        let mut is_innermost = true;
        let mut guard = CycleGuard::new();
        while next != Avma(0) {
            let outer = c_frame.outer(layout, copy);
            let end = self.activation(layout, state, next, c_frame.at, &mut guard, copy);
            next = match (end, outer.map(|outer| outer.current)) {
                (Ok(end), None) => end,
                (Ok(end), Some(outer)) if end == outer => end,
                // No more could be copied.
                (Err(Lost::TooDeep), _) => return Err(Lost::TooDeep),
                // What is innermost is being called: what its frame will say of its caller was not written yet.
                (_, Some(outer)) if is_innermost => {
                    if is_being_called(layout, next, copy) {
                        self.lost = self.lost.or(Some(Lost::Inconsistent));
                    }
                    self.frames.truncate(before.0);
                    self.activations.truncate(before.1);
                    outer
                }
                (Ok(_), Some(_)) => return Err(Lost::Inconsistent),
                (Err(lost), _) => return Err(lost),
            };
            c_frame = outer.unwrap_or(CFrame {
                at: None,
                current: next,
            });
            is_innermost = false;
        }
        Ok(())
    }

    /// The frames of one activation, from `next` on, which keeps something at `native`. Gives the first of the next one.
    fn activation(
        &mut self,
        layout: &Layout,
        state: &ThreadState,
        mut next: Avma,
        native: Option<Avma>,
        guard: &mut CycleGuard,
        copy: &mut VolatileCopy<'_>,
    ) -> Result<Avma, Lost> {
        while next != Avma(0) {
            if self.frames.len() >= FRAMES_MAX || self.activations.len() >= ACTIVATIONS_MAX {
                return Err(Lost::TooDeep);
            }
            if guard.was_here(next) {
                return Err(Lost::Inconsistent);
            }
            self.fetch(layout, &state.hints, next, copy)?;
            next = match self.frame(layout, next, copy).ok_or(Lost::Unreadable)? {
                Next::Frame(next) => next,
                Next::Activation(next) => {
                    if self.covered() < self.frames.len() {
                        self.close(native);
                    }
                    return Ok(next);
                }
            };
        }
        Ok(next)
    }

    /// Takes the frame at `at`, which was copied, and says what follows.
    fn frame(&mut self, layout: &Layout, at: Avma, copy: &VolatileCopy<'_>) -> Option<Next> {
        let previous = Avma(word(copy, at, layout.frame.previous)?);
        if let Boundary::Shim { owner, from } = layout.frame.boundary {
            let owner = word(copy, at, owner)?.to_le_bytes()[0];
            if owner >= from {
                // 3.15 has one more behind the outermost activation, which belongs to none.
                if previous != Avma(0) || self.covered() < self.frames.len() {
                    self.close(Some(at));
                }
                return Some(Next::Activation(previous));
            }
        }
        // From 3.14 on the lowest bits say whether the reference is counted.
        let code = Avma(word(copy, at, layout.frame.code)? & !7);
        self.frames.push(RawFrame {
            address: at,
            code,
            at: instruction(layout, at, code, copy)?,
        });
        match layout.frame.boundary {
            Boundary::EachFrame => Some(Next::Activation(previous)),
            Boundary::IsEntry(offset) => match word(copy, at, offset)?.to_le_bytes()[0] {
                0 => Some(Next::Frame(previous)),
                _ => Some(Next::Activation(previous)),
            },
            Boundary::Shim { .. } => Some(Next::Frame(previous)),
        }
    }

    /// All frames since the last activation are those of one.
    fn close(&mut self, native: Option<Avma>) {
        let frames = self.covered()..self.frames.len();
        self.activations.push(Activation { frames, native });
    }

    /// Copies the frame at `at`, unless it was, with those that are expected next to it.
    fn fetch(
        &mut self,
        layout: &Layout,
        hints: &Hints,
        at: Avma,
        copy: &mut VolatileCopy<'_>,
    ) -> Result<(), Lost> {
        let bytes = layout.frame_bytes();
        let last = at.checked_add(bytes as u64 - 8).ok_or(Lost::Inconsistent)?;
        if copy.word(at).is_some() && copy.word(last).is_some() {
            return Ok(());
        }
        let end = last.checked_add(8).ok_or(Lost::Inconsistent)?;
        let mut regions = [(Avma(0), 0); CHUNKS_AT_ONCE];
        let mut count = 0;
        for (region, (start, chunk_end)) in regions.iter_mut().zip(hints.chunks_from(at)) {
            // Of the first one only what is in use.
            let end = if count == 0 { end } else { *chunk_end };
            let bytes = usize::try_from(end.0 - start.0).map_err(|_| Lost::Inconsistent)?;
            *region = (*start, bytes);
            count += 1;
        }
        if count == 0 {
            self.surprises += 1;
            let page = Avma(at.0 & !(PAGE_BYTES - 1));
            let bytes = usize::try_from(end.0 - page.0).map_err(|_| Lost::Inconsistent)?;
            regions[0] = (page, bytes);
            count = 1;
        }
        copy.copy_all(regions.get(..count).unwrap_or_default());
        match (copy.word(at), copy.word(last)) {
            (Some(_), Some(_)) => Ok(()),
            _ if copy.is_full() => Err(Lost::TooDeep),
            _ => Err(Lost::Unreadable),
        }
    }
}

/// What names the innermost frame of an activation.
#[derive(Clone, Copy)]
struct CFrame {
    /// The `_PyCFrame`, on the C stack, in versions that have one.
    at: Option<Avma>,
    /// The frame.
    current: Avma,
}

impl CFrame {
    /// What `state` names.
    fn innermost(
        layout: &Layout,
        state: &ThreadState,
        copy: &mut VolatileCopy<'_>,
    ) -> Result<Self, Lost> {
        match layout.thread.current {
            Current::Frame(offset) => {
                let frame = word(copy, state.address, offset).ok_or(Lost::Unreadable)?;
                Ok(Self {
                    at: None,
                    current: Avma(frame),
                })
            }
            Current::CFrame {
                pointer,
                frame,
                previous,
                ..
            } => {
                let at = Avma(word(copy, state.address, pointer).ok_or(Lost::Unreadable)?);
                // It lies on the thread's stack, of which nothing is copied where the thread was not stopped.
                if word(copy, at, frame).is_none() {
                    copy.copy(at, frame.max(previous) as usize + size_of::<u64>());
                }
                let frame = word(copy, at, frame).ok_or(Lost::Unreadable)?;
                Ok(Self {
                    at: Some(at),
                    current: Avma(frame),
                })
            }
        }
    }

    /// That of the activation outside, if it was copied. The outermost is part of the thread state.
    fn outer(self, layout: &Layout, copy: &VolatileCopy<'_>) -> Option<Self> {
        match layout.thread.current {
            Current::CFrame {
                frame, previous, ..
            } => {
                let at = Avma(word(copy, self.at?, previous)?);
                let current = Avma(word(copy, at, frame)?);
                Some(Self {
                    at: Some(at),
                    current,
                })
            }
            Current::Frame(_) => None,
        }
    }
}

/// How far the frame at `at` has come in `code`.
fn instruction(
    layout: &Layout,
    at: Avma,
    code: Avma,
    copy: &VolatileCopy<'_>,
) -> Option<Option<u32>> {
    match layout.frame.instruction {
        Instruction::Index { at: offset, unit } => {
            let [low, ..] = *word(copy, at, offset)?.to_le_bytes().as_chunks::<4>().0 else {
                return None;
            };
            let index = i32::from_le_bytes(low);
            Some(
                u32::try_from(index)
                    .ok()
                    .and_then(|index| index.checked_mul(unit)),
            )
        }
        Instruction::Pointer(offset) => {
            let first = code.0.checked_add(u64::from(layout.code.instructions));
            let pointer = word(copy, at, offset)?;
            Some(first.and_then(|first| u32::try_from(pointer.checked_sub(first)?).ok()))
        }
    }
}

/// Whether the frame at `at` is of a function that is called right now from one of the same activation: compilers make it
/// the current frame before it says who called it, and nothing else names the frame of that (3.11.2 of Debian;
/// `DISPATCH_INLINED` of `Python/ceval.c`). One that begins an activation has its caller in the one outside.
fn is_being_called(layout: &Layout, at: Avma, copy: &VolatileCopy<'_>) -> bool {
    let frame = &layout.frame;
    let Instruction::Pointer(instruction) = frame.instruction else {
        return false;
    };
    let first = word(copy, at, frame.code)
        .and_then(|code| code.checked_add(u64::from(layout.code.instructions)));
    // A frame that has not begun names the instruction before the first.
    let next = word(copy, at, instruction).and_then(|last| last.checked_add(INSTRUCTION_BYTES));
    // 3.12 does not say which of the two it is.
    let is_entry = match frame.boundary {
        Boundary::IsEntry(offset) => word(copy, at, offset).map(|word| word.to_le_bytes()[0]),
        Boundary::EachFrame | Boundary::Shim { .. } => Some(0),
    };
    is_entry == Some(0) && first.is_some() && next == first
}

fn word(copy: &VolatileCopy<'_>, at: Avma, offset: u32) -> Option<u64> {
    copy.word(at.checked_add(u64::from(offset))?)
}

/// Notices when a list comes back to where it has been (Brent's algorithm).
struct CycleGuard {
    place: Avma,
    steps: usize,
    renew_at: usize,
}

impl CycleGuard {
    fn new() -> Self {
        Self {
            place: Avma(0),
            steps: 0,
            renew_at: 1,
        }
    }

    fn was_here(&mut self, at: Avma) -> bool {
        if self.place == at {
            return true;
        }
        self.steps += 1;
        if self.steps == self.renew_at {
            self.place = at;
            self.renew_at = self.steps * 2;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::PythonVersion;
    use super::*;
    use crate::interpreter::VolatileBuffer;
    use crate::memory::SliceMemory;

    const START: u64 = 0x10000;
    const THREAD: u64 = START;
    /// Two activations: their `_PyCFrame`s, and that of none.
    const C_FRAMES: [u64; 3] = [START + 0x200, START + 0x240, START + 0x280];
    /// Frames: of the outer activation, of the inner one, and of a function that is called from there.
    const OUTER: u64 = START + 0x300;
    const CALLER: u64 = START + 0x380;
    const CALLED: u64 = START + 0x400;
    const CODE: u64 = START + 0x800;

    /// A thread of CPython 3.11 in the middle of a call.
    struct Memory([u8; 0x1000]);

    impl Memory {
        fn new() -> Self {
            let mut memory = Self([0; 0x1000]);
            memory.put(THREAD + 152, 1);
            memory.put(THREAD + 56, C_FRAMES[0]);
            for [at, previous] in C_FRAMES.array_windows() {
                memory.put(at + 16, *previous);
            }
            memory.put(C_FRAMES[1] + 8, OUTER);
            memory.frame(OUTER, 0, Some(4), true);
            memory.frame(CALLER, OUTER, Some(4), true);
            memory
        }

        fn put(&mut self, at: u64, word: u64) {
            let at = usize::try_from(at - START).unwrap();
            self.0[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }

        fn frame(&mut self, at: u64, previous: u64, instruction: Option<u64>, is_entry: bool) {
            self.put(at + 32, CODE);
            self.put(at + 48, previous);
            self.put(
                at + 56,
                instruction.map_or(CODE + 182, |at| CODE + 184 + at),
            );
            self.put(at + 68, u64::from(is_entry));
        }

        /// With `current` as the frame of the inner activation.
        fn capture(&mut self, current: u64) -> (Vec<u64>, Option<Lost>) {
            self.put(C_FRAMES[0] + 8, current);
            let memory = SliceMemory::new(Avma(START), &self.0);
            let version = PythonVersion {
                minor: 11,
                micro: None,
            };
            let state = ThreadState {
                address: Avma(THREAD),
                thread_id: 1,
                gil: None,
                hints: Hints::default(),
            };
            let mut buffer = VolatileBuffer::default();
            let mut captured = Captured::default();
            captured.add(
                Layout::of(version).unwrap(),
                &state,
                &mut VolatileCopy::new(&mut buffer, &memory, &memory),
            );
            let frames = captured.frames.iter().map(|frame| frame.address.0);
            (frames.collect(), captured.lost)
        }
    }

    #[test]
    fn what_a_call_has_not_written_yet_is_not_believed() {
        let mut memory = Memory::new();
        assert_eq!(memory.capture(CALLER), (vec![CALLER, OUTER], None));
        memory.frame(CALLED, CALLER, None, false);
        let whole = (vec![CALLED, CALLER, OUTER], None);
        assert_eq!(memory.capture(CALLED), whole);
        // The caller of an inner function is known to nobody, and is missed.
        for garbage in [0, START + 0xf00, u64::MAX] {
            memory.frame(CALLED, garbage, None, false);
            let outer = (vec![OUTER], Some(Lost::Inconsistent));
            assert_eq!(memory.capture(CALLED), outer);
        }
        // That of a function with an activation of its own is the outer one.
        memory.frame(CALLED, 0, None, true);
        assert_eq!(memory.capture(CALLED), (vec![OUTER], None));
        // What was there before is no frame.
        assert_eq!(memory.capture(START + 0xf00), (vec![OUTER], None));
    }
}
