//! What lies where in a process: its mappings and modules, as they were when they were last read.
//!
//! They change under our hands. That is noticed by stacks that lead nowhere, by code where none was known, and by a
//! module that is not the one that was there; and once a second all the same.

use std::path::Path;
use std::time::Instant;

use sampler_platforms::linux::proc::maps::{self, Mapping};
use sampler_platforms::linux::{ProcessMemory, clock};
use sampler_unwind::{Avma, Frame, Modules, ReadError, Stack};

use super::images::{Images, LoadedModule, Mark, Places};
use super::stack_plan::StackMappings;
use crate::profile::{FrameKey, ModuleId, ProcessId, SampleSink};

/// How long after the mappings were read they are read again at the earliest, because a stack led nowhere: at first,
/// and when that has not helped time and again. In nanoseconds.
const REFRESH_PAUSE_NS_MIN: u64 = 5_000_000;
const REFRESH_PAUSE_NS_MAX: u64 = 2_000_000_000;

/// The mappings of a process that has thousands of them are read at a flush so often that it takes no more than one part
/// in this many of a CPU. Code that is not in those that are known is noticed all the same.
const MAPPINGS_PARTS: u64 = 1000;

/// What a stack tells about the mappings that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Staleness {
    /// Nothing speaks against them.
    None,
    /// The stack did not lead to its root, which can have other reasons.
    Perhaps,
    /// There is code where none was.
    Surely,
    /// Another image lies where one was: what the stack says is wrong.
    Replaced,
}

/// The mappings and modules of a process.
#[derive(Debug)]
pub(super) struct AddressSpace {
    mappings: Vec<Mapping>,
    modules: Modules,
    module_ids: Vec<ModuleId>,
    /// What shows whether each module is still there, of those that can be unloaded.
    marks: Vec<Option<Mark>>,
    /// Modules that can be unloaded cannot be told for the last stack: another was in the place of one, and is gone
    /// again.
    is_doubtful: bool,
    stacks: StackMappings,
    /// An address on the main thread's stack.
    main_stack: Option<Avma>,
    /// Whether the mappings may have changed.
    staleness: Staleness,
    refreshed_ns: u64,
    refresh_due_ns: u64,
    refresh_pause_ns: u64,
    /// When they are read at a flush again, and how long it took last.
    mappings_due_ns: u64,
    mappings_took_ns: u64,
    /// Where which module was said to lie.
    placed: Places,
}

impl Default for AddressSpace {
    /// Nothing is known yet.
    fn default() -> Self {
        Self {
            mappings: Vec::new(),
            modules: Modules::default(),
            module_ids: Vec::new(),
            marks: Vec::new(),
            is_doubtful: false,
            stacks: StackMappings::default(),
            main_stack: None,
            staleness: Staleness::Surely,
            refreshed_ns: 0,
            refresh_due_ns: 0,
            refresh_pause_ns: REFRESH_PAUSE_NS_MIN,
            mappings_due_ns: 0,
            mappings_took_ns: 0,
            placed: Places::default(),
        }
    }
}

impl AddressSpace {
    /// Its modules.
    pub(super) fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Its mappings.
    pub(super) fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// Where stacks can be.
    pub(super) fn stacks(&self) -> &StackMappings {
        &self.stacks
    }

    /// An address on the main thread's stack.
    pub(super) fn main_stack(&self) -> Option<Avma> {
        self.main_stack
    }

    /// Reads the mappings again, and takes in files that are new. Says whether anything had changed.
    ///
    /// # Errors
    /// When `sink` could not keep them.
    pub(super) fn refresh<S: SampleSink>(
        &mut self,
        process: ProcessId,
        memory: &ProcessMemory,
        images: &mut Images,
        sink: &mut S,
    ) -> Result<bool, S::Error> {
        self.staleness = Staleness::None;
        let living = memory.pid();
        let began = Instant::now();
        self.refreshed_ns = clock::monotonic_ns();
        let Ok(mappings) = maps::read(living) else {
            return Ok(false); // it has ended, or is between two programs in execve
        };
        self.mappings_took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if mappings == self.mappings || mappings.is_empty() {
            return Ok(false);
        }
        let loaded = images.load(living, &mappings, memory, sink)?;
        self.placed
            .make_room(loaded.iter().map(LoadedModule::place));
        for new in &loaded {
            if !self.placed.insert(new.place()) {
                continue;
            }
            let (start, end) = (new.module.avma.start.0, new.module.avma.end.0);
            sink.mapping(process, new.id, start, end, new.module.bias.0)?;
        }
        let executable = mappings
            .iter()
            .filter(|mapping| mapping.executable)
            .map(|mapping| mapping.range.clone());
        let mut loaded = loaded;
        loaded.sort_by_key(|new| new.module.avma.start);
        self.module_ids = loaded.iter().map(|new| new.id).collect();
        let can_be_read = |mark: &Mark| {
            let mut readable = mappings.iter().filter(|mapping| mapping.readable);
            readable.any(|mapping| mapping.range.contains(&mark.at))
        };
        let marks = loaded.iter_mut().map(|new| new.mark.take());
        self.marks = marks.map(|mark| mark.filter(can_be_read)).collect();
        self.modules = Modules::new(
            loaded.into_iter().map(|new| new.module).collect(),
            executable.collect(),
        );
        let stacks = mappings
            .iter()
            .filter(|mapping| mapping.readable && mapping.writable);
        self.stacks = StackMappings::new(stacks.map(|mapping| mapping.range.clone()).collect());
        let main = mappings
            .iter()
            .find(|mapping| mapping.name.as_deref() == Some(Path::new("[stack]")));
        self.main_stack = main.map(|mapping| mapping.range.start);
        self.mappings = mappings;
        Ok(true)
    }

    /// Does so at a flush, unless reading them takes long: no more than one part in [`MAPPINGS_PARTS`] of the time.
    ///
    /// # Errors
    /// When `sink` could not keep them.
    pub(super) fn refresh_if_due<S: SampleSink>(
        &mut self,
        now_ns: u64,
        process: ProcessId,
        memory: &ProcessMemory,
        images: &mut Images,
        sink: &mut S,
    ) -> Result<bool, S::Error> {
        if now_ns < self.mappings_due_ns {
            return Ok(false);
        }
        let changed = self.refresh(process, memory, images, sink)?;
        let pause_ns = self.mappings_took_ns.saturating_mul(MAPPINGS_PARTS);
        self.mappings_due_ns = now_ns.saturating_add(pause_ns);
        Ok(changed)
    }

    /// Does so if a stack has shown that they may have changed, and says whether they had. Where they had not, the next
    /// time is put off further and further.
    ///
    /// # Errors
    /// When `sink` could not keep what is new.
    pub(super) fn refresh_if_stale<S: SampleSink>(
        &mut self,
        now_ns: u64,
        process: ProcessId,
        memory: &ProcessMemory,
        images: &mut Images,
        sink: &mut S,
    ) -> Result<bool, S::Error> {
        let due_ns = match self.staleness {
            Staleness::None => return Ok(false),
            Staleness::Perhaps => self.refresh_due_ns,
            Staleness::Surely => self.refreshed_ns + REFRESH_PAUSE_NS_MIN,
            Staleness::Replaced => now_ns,
        };
        if now_ns < due_ns {
            return Ok(false);
        }
        let was_replaced = self.staleness == Staleness::Replaced;
        let changed = self.refresh(process, memory, images, sink)?;
        if was_replaced && !changed {
            self.is_doubtful = true;
            self.forget_marks_never_there(memory);
        }
        self.refresh_pause_ns = if changed {
            REFRESH_PAUSE_NS_MIN
        } else {
            (self.refresh_pause_ns * 2).min(REFRESH_PAUSE_NS_MAX)
        };
        self.refresh_due_ns = now_ns + self.refresh_pause_ns;
        Ok(changed)
    }

    /// A mark that is never there is not asked for again. One that comes and goes with its
    /// module may be missed now and then.
    fn forget_marks_never_there(&mut self, memory: &ProcessMemory) {
        const MISSED_MAX: u8 = 64;
        for place in &mut self.marks {
            let is_missing = is_missing(place.as_ref(), memory);
            let Some(mark) = place else { continue };
            mark.missed = if is_missing { mark.missed + 1 } else { 0 };
            if mark.missed == MISSED_MAX {
                *place = None;
            }
        }
    }

    /// The mappings may be others.
    pub(super) fn doubt(&mut self) {
        self.staleness = self.staleness.max(Staleness::Perhaps);
    }

    /// Notes whether `stack` shows that the mappings may have changed.
    pub(super) fn check(&mut self, stack: &Stack, memory: &ProcessMemory) {
        let mut found = Staleness::None;
        self.is_doubtful = false;
        let first = stack.frames.first();
        let is_off_stack = |frame: &Frame| self.stacks.find(frame.sp).is_none();
        if self.has_replaced(stack, memory) {
            found = Staleness::Replaced;
        } else if first.is_some_and(|frame| !self.modules.is_executable(frame.address)) {
            found = Staleness::Surely;
        } else if !stack.end.is_complete() || first.is_some_and(is_off_stack) {
            found = Staleness::Perhaps;
        }
        self.staleness = self.staleness.max(found);
    }

    /// Whether memory shows another image where one of the innermost frames of `stack` was said to be in one.
    fn has_replaced(&self, stack: &Stack, memory: &ProcessMemory) -> bool {
        const FRAMES_MAX: usize = 256;
        const MODULES_MAX: usize = 8;
        let mut room = [0; MODULES_MAX];
        let mut asked = 0;
        for frame in stack.frames.iter().take(FRAMES_MAX) {
            let Some(index) = self.modules.find_index(frame.lookup_address()) else {
                continue;
            };
            if asked == MODULES_MAX || room[..asked].contains(&index) {
                continue;
            }
            room[asked] = index;
            asked += 1;
            if is_missing(self.marks.get(index).and_then(Option::as_ref), memory) {
                return true;
            }
        }
        false
    }

    /// A frame as it is recorded.
    pub(super) fn key(&self, frame: &Frame) -> FrameKey {
        let index = self.modules.find_index(frame.lookup_address());
        let can_go = |index: &usize| self.marks.get(*index).is_some_and(Option::is_some);
        let index = index.filter(|index| !(self.is_doubtful && can_go(index)));
        let address = match index.and_then(|index| self.modules.iter().nth(index)) {
            Some(module) => module.svma(frame.address).0,
            None => frame.address.0,
        };
        FrameKey::Code {
            module: index.and_then(|index| self.module_ids.get(index)).copied(),
            address,
            is_return_address: frame.is_return_address(),
            origin: frame.origin,
        }
    }
}

/// Whether there is a mark, and memory does not have it. In a process that has ended nothing takes its place.
fn is_missing(mark: Option<&Mark>, memory: &ProcessMemory) -> bool {
    mark.is_some_and(|mark| match mark.is_there(memory) {
        Ok(is_there) => !is_there,
        Err(ReadError::Gone(_)) => false,
        Err(_) => true,
    })
}
