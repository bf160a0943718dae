//! CPython, 3.8 to 3.14.
//!
//! All state hangs on `_PyRuntime`: interpreters, their threads (`threads.rs`), and each thread's frames, a linked list
//! from the innermost one (`capture.rs`). A frame has a code object, with a name, a file and a table of lines (`code.rs`,
//! `lines.rs`), and how far it has come in it. The list is volatile and is walked while the thread stands still; code
//! objects are read afterwards.
//!
//! The C function that executes frames, `_PyEval_EvalFrameDefault`, executes one frame each before 3.11; since then a
//! Python function called by another stays in the same activation of it. `place.rs` finds the native frame of each.
//!
//! Not shown: names that Python gives to threads, and tasks of asyncio. Both are found through dictionaries of modules,
//! some hundred reads away.

mod capture;
mod code;
mod debug_offsets;
mod detect;
#[cfg(test)]
mod header_tests;
mod hints;
#[cfg(any(test, fuzzing))]
pub(super) mod hostile;
#[cfg(test)]
mod hostile_tests;
mod layout;
mod lines;
mod place;
mod text;
mod threads;

use std::ops::Range;
use std::sync::Arc;

use self::capture::Captured;
use self::code::Codes;
use self::detect::Found;
use self::layout::Layout;
use self::place::Places;
use self::threads::ThreadStates;
use super::{
    Interpreter, Language, Lost, NativeFrame, Runtime, RuntimeImage, Segments, ThreadContext,
    Unsupported, VolatileCopy, Walked,
};
use crate::address::Avma;
use crate::elf::ElfImage;
use crate::memory::MemoryReader;
use crate::modules::Module;
use crate::registers::Registers;
use crate::stack::Stack;

/// States of one thread that are looked at: one for each interpreter that it is in.
const STATES_OF_A_THREAD_MAX: usize = 8;

/// After how many samples of threads without a known state they are looked for again, if that found none the last time.
const SEARCHES_PAUSE_MAX: u32 = 64;

/// CPython.
#[derive(Debug)]
pub(super) struct CPython;

impl Runtime for CPython {
    fn language(&self) -> Language {
        Language::Python
    }

    fn detect(&self, image: &ElfImage) -> Option<Arc<dyn RuntimeImage>> {
        Some(Arc::new(CPythonImage(detect::detect(image)?)))
    }
}

/// A binary that holds CPython: the program itself, or libpython3.x.so.
#[derive(Debug)]
struct CPythonImage(Found);

impl RuntimeImage for CPythonImage {
    fn version(&self) -> String {
        match self.0.version {
            Some(version) => version.to_string(),
            None => "CPython".to_owned(),
        }
    }

    fn attach(
        &self,
        module: &Module,
        memory: &dyn MemoryReader,
    ) -> Result<Box<dyn Interpreter>, Unsupported> {
        let layout = self.0.layout.map_err(|reason| Unsupported {
            version: self.version(),
            reason: reason.to_string(),
        })?;
        let avma = |svma| module.bias.avma(svma);
        let eval = self.0.eval.iter();
        let eval = eval.map(|part| avma(part.start)..avma(part.end)).collect();
        let codes = Codes::new(self.0.code_type.map(avma));
        let runtime = avma(self.0.runtime);
        Ok(Box::new(CPythonProcess::new(
            layout, runtime, eval, codes, memory,
        )))
    }
}

/// CPython in one process.
#[derive(Debug)]
struct CPythonProcess {
    layout: Layout,
    runtime: Avma,
    /// The evaluation loop.
    eval: Vec<Range<Avma>>,
    threads: ThreadStates,
    codes: Codes,
    captured: Captured,
    /// The thread of which `captured` is.
    captured_of: Option<i32>,
    /// Native frames in the evaluation loop; kept for its memory.
    markers: Vec<usize>,
    places: Places,
    /// Threads without a known state that are still to be met before states are looked for again, and how many the next
    /// time.
    search_in: u32,
    search_pause: u32,
}

impl CPythonProcess {
    fn new(
        layout: Layout,
        runtime: Avma,
        eval: Vec<Range<Avma>>,
        codes: Codes,
        memory: &dyn MemoryReader,
    ) -> Self {
        Self {
            threads: threads::list(&layout, runtime, memory),
            layout,
            runtime,
            eval,
            codes,
            captured: Captured::default(),
            captured_of: None,
            markers: Vec::new(),
            places: Places::default(),
            search_in: 0,
            search_pause: 1,
        }
    }

    fn find_markers(&mut self, native: &Stack) {
        self.markers.clear();
        let eval = &self.eval;
        let is_marker = |at: Avma| eval.iter().any(|part| part.contains(&at));
        let frames = native.frames.iter().enumerate();
        let found = frames.filter(|(_, frame)| is_marker(frame.lookup_address()));
        self.markers.extend(found.map(|(index, _)| index));
    }

    /// Looks for the state of `thread`, which executes Python code and has none that is known.
    fn search(&mut self, thread: &ThreadContext, memory: &dyn MemoryReader) {
        if self.search_in > 0 {
            self.search_in -= 1;
            return;
        }
        self.threads = threads::list(&self.layout, self.runtime, memory);
        if self.threads.contains_key(&thread.namespace_tid) {
            self.search_pause = 1;
        } else {
            self.search_pause = (self.search_pause * 2).min(SEARCHES_PAUSE_MAX);
            self.search_in = self.search_pause;
        }
    }

    /// What helps to copy the frames of this thread the next time.
    fn learn(&mut self, thread: &ThreadContext, memory: &dyn MemoryReader) {
        if self.captured.surprises == 0 {
            return;
        }
        let states = self.threads.get_mut(&thread.namespace_tid);
        for state in states.into_iter().flatten() {
            let frames = self.captured.frames.iter().map(|frame| frame.address);
            state
                .hints
                .learn(&self.layout, state.address, frames, memory);
        }
    }

    /// Lays what was captured over `native`.
    fn put(
        &mut self,
        native: &Stack,
        memory: &dyn MemoryReader,
        out: &mut Segments,
    ) -> Option<Lost> {
        let captured = &mut self.captured;
        // Of several interpreters on one thread the activations lie between one another, where that is known.
        captured
            .activations
            .sort_by_key(|activation| activation.native.unwrap_or(Avma(u64::MAX)));
        self.places
            .find(&captured.activations, native, &self.markers);
        let mut lost = captured.lost;
        if self.places.is_unmatched {
            lost = lost.or(Some(Lost::Unmatched));
        }
        for (activation, place) in captured.activations.iter().zip(&self.places.places) {
            let from = out.frames.len();
            let raw = captured
                .frames
                .get(activation.frames.clone())
                .unwrap_or_default();
            let resolved = self
                .codes
                .resolve(&self.layout, raw, memory, &mut out.frames);
            lost = lost.or(resolved.err());
            if out.frames.len() > from {
                out.close(from, place.clone());
            }
        }
        lost
    }
}

impl Interpreter for CPythonProcess {
    fn capture(&mut self, thread: &ThreadContext, copy: &mut VolatileCopy<'_>) {
        self.captured.clear();
        self.captured_of = Some(thread.namespace_tid);
        let states = self.threads.get(&thread.namespace_tid);
        for state in states.into_iter().flatten().take(STATES_OF_A_THREAD_MAX) {
            self.captured.add(&self.layout, state, copy);
        }
    }

    fn visit(
        &mut self,
        _frame: NativeFrame<'_>,
        _thread: &ThreadContext,
        _memory: &dyn MemoryReader,
    ) -> Option<Registers> {
        None
    }

    fn holds_lock(&self) -> Option<bool> {
        self.captured.holds_gil
    }

    fn walk(
        &mut self,
        thread: &ThreadContext,
        native: &Stack,
        memory: &dyn MemoryReader,
        out: &mut Segments,
    ) -> Walked {
        self.find_markers(native);
        let innermost = self.markers.first().copied();
        if self.captured_of != Some(thread.namespace_tid) || !self.captured.is_known {
            // Of a thread that was not stopped no native frame is known.
            let is_anywhere = native.frames.is_empty();
            if innermost.is_none() && !is_anywhere {
                return Walked::NotHere;
            }
            self.search(thread, memory);
            if is_anywhere && !self.threads.contains_key(&thread.namespace_tid) {
                return Walked::NotHere;
            }
            return Walked::Lost {
                reason: Lost::NotFound,
                at: innermost,
            };
        }
        self.learn(thread, memory);
        let lost = self.put(native, memory, out);
        match lost {
            Some(reason) => Walked::Lost {
                reason,
                at: self
                    .places
                    .places
                    .last()
                    .map_or(innermost, |place| Some(place.end)),
            },
            None if self.captured.frames.is_empty() => Walked::NotHere,
            None => Walked::Whole,
        }
    }
}
