//! CPython, 3.8 to 3.15.
//!
//! All state hangs on `_PyRuntime`: interpreters, their threads (`threads.rs`), and each thread's frames, a linked list
//! from the innermost one (`capture.rs`). A frame has a code object, with a name, a file and a table of lines (`code.rs`,
//! `lines.rs`), and how far it has come in it. The list is volatile and is walked while the thread stands still; code
//! objects are read afterwards.
//!
//! The C function that executes frames, `_PyEval_EvalFrameDefault`, executes one frame each before 3.11; since then a
//! Python function called by another stays in the same activation of it. `place.rs` finds the native frame of each.
//!
//! Names that Python gives to threads are some hundred reads away, in dictionaries of modules (`names.rs`, `objects.rs`):
//! they are asked for now and then, not for each sample. Not shown are tasks of asyncio.

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
mod names;
#[cfg(test)]
mod names_tests;
mod objects;
mod place;
mod text;
mod threads;

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use self::capture::Captured;
use self::code::Codes;
use self::detect::Found;
use self::layout::Layout;
use self::names::Names;
use self::place::Places;
use self::threads::{ThreadState, ThreadStates};
use super::{
    Interpreter, Language, Lost, NativeFrame, Runtime, RuntimeImage, Segments, ThreadContext,
    Unsupported, VolatileCopy, Walked,
};
use crate::address::Avma;
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::memory::MemoryReader;
use crate::modules::Module;
use crate::registers::Registers;
use crate::stack::Stack;

/// States of one thread that are looked at: one for each interpreter that it is in.
const STATES_OF_A_THREAD_MAX: usize = 8;

/// Samples in which a thread was not in Python, after which it is taken for one that never will be: its state is then no
/// longer looked for while it stands still.
const STRANGER_SAMPLES: u8 = 4;
/// Threads that are remembered to be none of Python's.
const STRANGERS_MAX: usize = 1 << 12;

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
        let arch = Arch::of_machine(module.image.machine()).ok_or_else(|| Unsupported {
            version: self.version(),
            reason: "not on this processor".to_owned(),
        })?;
        let avma = |svma| module.bias.avma(svma);
        let eval = self.0.eval.iter();
        let eval = eval.map(|part| avma(part.start)..avma(part.end)).collect();
        let codes = Codes::new(self.0.code_type.map(avma));
        let runtime = avma(self.0.runtime);
        Ok(Box::new(CPythonProcess::new(
            arch, layout, runtime, eval, codes, memory,
        )))
    }
}

/// CPython in one process.
#[derive(Debug)]
struct CPythonProcess {
    arch: &'static Arch,
    layout: Layout,
    runtime: Avma,
    /// The evaluation loop.
    eval: Vec<Range<Avma>>,
    threads: ThreadStates,
    codes: Codes,
    captured: Captured,
    /// The thread of which `captured` is.
    captured_of: Option<i32>,
    /// Its state, if that was met for the first time.
    new: Option<ThreadState>,
    /// In how many samples each thread without a known state was not in Python.
    strangers: FxHashMap<i32, u8>,
    /// Native frames in the evaluation loop; kept for its memory.
    markers: Vec<usize>,
    places: Places,
    names: Names,
    /// Threads without a known state that are still to be met before states are looked for again, and how many the next
    /// time.
    search_in: u32,
    search_pause: u32,
}

impl CPythonProcess {
    fn new(
        arch: &'static Arch,
        layout: Layout,
        runtime: Avma,
        eval: Vec<Range<Avma>>,
        codes: Codes,
        memory: &dyn MemoryReader,
    ) -> Self {
        Self {
            threads: threads::list(arch, &layout, runtime, memory),
            arch,
            layout,
            runtime,
            eval,
            codes,
            captured: Captured::default(),
            captured_of: None,
            new: None,
            strangers: FxHashMap::default(),
            markers: Vec::new(),
            places: Places::default(),
            names: Names::default(),
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
        self.threads = threads::list(self.arch, &self.layout, self.runtime, memory);
        if self.threads.contains_key(&thread.namespace_tid) {
            self.search_pause = 1;
        } else {
            self.search_pause = (self.search_pause * 2).min(SEARCHES_PAUSE_MAX);
            self.search_in = self.search_pause;
        }
    }

    /// Remembers the state that was met for the first time when `thread` was captured.
    fn take_in(&mut self, thread: &ThreadContext, memory: &dyn MemoryReader) {
        let Some(state) = self.new.take() else {
            return;
        };
        if self.threads.len() >= threads::THREADS_MAX {
            self.threads = threads::list(self.arch, &self.layout, self.runtime, memory);
        }
        self.threads.insert(thread.namespace_tid, vec![state]);
        self.strangers.remove(&thread.namespace_tid);
        self.captured.surprises += 1; // nothing is known of where its frames are
    }

    /// `thread` was not in Python.
    fn is_elsewhere(&mut self, thread: &ThreadContext) -> Walked {
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.clear();
        }
        let samples = self.strangers.entry(thread.namespace_tid).or_default();
        *samples = samples.saturating_add(1);
        Walked::NotHere
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

/// One that was captured: `part` says where what has a name lay in it.
#[cfg(test)]
pub(super) fn frozen(
    minor: u8,
    part: impl Fn(&str) -> Option<Range<Avma>>,
    memory: &dyn MemoryReader,
) -> Option<Box<dyn Interpreter>> {
    let runtime = part("_PyRuntime")?.start;
    let mut stated = [0; debug_offsets::BYTES_MAX];
    let layout = match memory.read_exact(runtime, &mut stated) {
        Ok(()) => debug_offsets::parse(&stated).and_then(|stated| stated.layout.ok()),
        Err(_) => None,
    };
    let version = layout::PythonVersion { minor, micro: None };
    let layout = layout.or_else(|| Layout::of(version).copied())?;
    let eval = part("_PyEval_EvalFrameDefault").into_iter().collect();
    let codes = Codes::new(part("PyCode_Type").map(|part| part.start));
    Some(Box::new(CPythonProcess::new(
        &Arch::X86_64,
        layout,
        runtime,
        eval,
        codes,
        memory,
    )))
}

impl Interpreter for CPythonProcess {
    fn capture(&mut self, thread: &ThreadContext, copy: &mut VolatileCopy<'_>) {
        self.captured.clear();
        self.captured_of = Some(thread.namespace_tid);
        let states = self.threads.get(&thread.namespace_tid);
        for state in states.into_iter().flatten().take(STATES_OF_A_THREAD_MAX) {
            self.captured.add(&self.layout, state, copy);
        }
        let is_stranger = self
            .strangers
            .get(&thread.namespace_tid)
            .is_some_and(|samples| *samples >= STRANGER_SAMPLES);
        self.new = None;
        if !self.captured.is_known && !is_stranger {
            self.new = threads::newest(&self.layout, self.runtime, thread, copy);
        }
        if let Some(state) = &self.new {
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

    fn thread_names(&mut self, threads: &[i32], memory: &dyn MemoryReader) -> Vec<(i32, String)> {
        self.names
            .read(&self.layout, self.runtime, &self.threads, threads, memory)
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
                return self.is_elsewhere(thread);
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
        self.take_in(thread, memory);
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
