//! What lies where in a process: its mappings and modules, as they were when they were last read.
//!
//! They change under our hands. That is noticed by stacks that lead nowhere, by code where none was known, and by a
//! module that is not the one that was there; and once a second all the same.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use rustc_hash::FxHashSet;
use sampler_platforms::linux::proc::maps::{self, Mapping};
use sampler_platforms::linux::{ProcessMemory, clock};
use sampler_unwind::{Avma, Frame, Module, Modules, ReadError, Stack};

use super::images::{Images, LoadedModule, Places};
use super::marks::{CopiedMarks, Mark, MarkPlan};
use super::stack_plan::StackMappings;
use crate::profile::{FrameKey, ModuleId, ProcessId, SampleSink};

/// How long after the mappings were read they are read again at the earliest, because a stack led nowhere: at first,
/// and when that has not helped time and again. In nanoseconds.
const REFRESH_PAUSE_NS_MIN: u64 = 5_000_000;
const REFRESH_PAUSE_NS_MAX: u64 = 2_000_000_000;

/// So many times they are read at once where there is code that is in none: a program that starts loads its libraries in
/// the first milliseconds.
const EARLY_MAX: u8 = 8;

/// The mappings of a process that has thousands of them are read at a flush so often that it takes no more than one part
/// in this many of a CPU. Code that is not in those that are known is noticed all the same.
const MAPPINGS_PARTS: u64 = 1000;

/// How many modules are remembered that were unloaded: they may come back.
const GONE_MAX: usize = 4;

/// After how many stacks they are forgotten, if none has come or gone meanwhile.
const QUIET_MAX: u32 = 256;

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
    /// Those that were unloaded last, and can be told from others: the last one is the last.
    gone: Vec<LoadedModule>,
    /// The marks that tell who lies in the places of those.
    mark_plan: MarkPlan,
    /// How many stacks there were since one of those came or went.
    quiet: u32,
    /// The modules are not all that the mappings say: one was put back since they were read, or could not be told.
    is_provisional: bool,
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
    /// How often they were read without such a pause.
    early: u8,
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
            gone: Vec::new(),
            mark_plan: MarkPlan::default(),
            quiet: 0,
            is_provisional: false,
            is_doubtful: false,
            stacks: StackMappings::default(),
            main_stack: None,
            staleness: Staleness::Surely,
            refreshed_ns: 0,
            refresh_due_ns: 0,
            refresh_pause_ns: REFRESH_PAUSE_NS_MIN,
            early: 0,
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

    /// The marks that are copied with each stack.
    pub(super) fn mark_plan(&self) -> &MarkPlan {
        &self.mark_plan
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
        if (mappings == self.mappings && !self.is_provisional) || mappings.is_empty() {
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
        let can_be_read = |mark: &Mark| {
            // They are in order: there can be tens of thousands.
            let after = mappings.partition_point(|mapping| mapping.range.start <= mark.at);
            let below = mappings.get(..after).and_then(<[Mapping]>::last);
            below.is_some_and(|below| below.readable && below.range.contains(&mark.at))
        };
        let loaded = loaded.into_iter().map(|new| LoadedModule {
            mark: new.mark.filter(can_be_read),
            ..new
        });
        self.set_modules(loaded.collect(), executable.collect());
        self.is_provisional = images.was_unsure();
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

    /// `loaded` are the modules from now on, and code may lie at `executable`. Which of those of before are not among
    /// them is remembered.
    fn set_modules(&mut self, mut loaded: Vec<LoadedModule>, executable: Vec<Range<Avma>>) {
        loaded.sort_by_key(|new| new.module.avma.start);
        let now: FxHashSet<_> = loaded.iter().map(LoadedModule::place).collect();
        let before = self.take_modules().into_iter();
        let had = self.gone.len();
        self.gone.extend(
            before.filter(|module| module.mark.is_some() && !now.contains(&module.place())),
        );
        if self.gone.len() > had {
            self.quiet = 0;
        }
        self.gone.retain(|gone| !now.contains(&gone.place()));
        let excess = self.gone.len().saturating_sub(GONE_MAX);
        self.gone.drain(..excess);
        let in_their_place = loaded.iter().filter(|new| {
            let mut gone = self.gone.iter();
            gone.any(|gone| overlap(&gone.module.avma, &new.module.avma))
        });
        let contested = self.gone.iter().rev().chain(in_their_place);
        self.mark_plan = MarkPlan::of(contested.filter_map(|module| module.mark.as_ref()));
        self.module_ids = loaded.iter().map(|new| new.id).collect();
        self.marks = loaded.iter_mut().map(|new| new.mark.take()).collect();
        let modules = loaded.into_iter().map(|new| new.module).collect();
        self.modules = Modules::new(modules, executable);
    }

    /// Those that are known, and none after this.
    fn take_modules(&mut self) -> Vec<LoadedModule> {
        let modules = std::mem::take(&mut self.modules);
        let ids = std::mem::take(&mut self.module_ids);
        let marks = std::mem::take(&mut self.marks);
        let modules = modules.iter().cloned().zip(ids).zip(marks);
        modules
            .map(|((module, id), mark)| LoadedModule { module, id, mark })
            .collect()
    }

    /// Puts a module back that was unloaded, if `marks` show that it lay there when they were copied: since the mappings
    /// were read, it has come back. Says whether there was one.
    pub(super) fn switch(&mut self, marks: &CopiedMarks) -> bool {
        let has = |mark: &Option<Mark>| mark.as_ref().and_then(|mark| marks.has(mark));
        let is_there = |gone: &LoadedModule| has(&gone.mark) == Some(true);
        let Some(at) = self.gone.iter().rposition(is_there) else {
            self.forget_gone_if_quiet();
            return false;
        };
        let range = self.gone[at].module.avma.clone();
        let stays = |(module, mark): (&Module, &Option<Mark>)| {
            overlap(&module.avma, &range) && has(mark) != Some(false)
        };
        let is_taken = self.modules.iter().zip(&self.marks).any(stays);
        if is_taken {
            return false;
        }
        let back = self.gone.remove(at);
        let mappings = self.mappings.iter().filter(|mapping| mapping.executable);
        let elsewhere = mappings
            .map(|mapping| mapping.range.clone())
            .filter(|code| !overlap(code, &range));
        let image = &back.module.image;
        let own = image.segments().iter().filter(|segment| segment.executable);
        let own = own.map(|segment| {
            let [start, end] = [segment.svma.start, segment.svma.end];
            back.module.bias.avma(start)..back.module.bias.avma(end)
        });
        let executable = elsewhere.chain(own).collect();
        let (replaced, mut loaded): (Vec<_>, Vec<_>) = self
            .take_modules()
            .into_iter()
            .partition(|module| overlap(&module.module.avma, &range));
        self.gone.extend(replaced);
        loaded.push(back);
        self.set_modules(loaded, executable);
        self.quiet = 0;
        self.is_provisional = true;
        true
    }

    /// Where modules do not come and go any more, stacks are copied alone again.
    fn forget_gone_if_quiet(&mut self) {
        self.quiet = self.quiet.saturating_add(1);
        if self.quiet == QUIET_MAX {
            self.gone.clear();
            self.mark_plan = MarkPlan::default();
        }
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
        let is_early = self.staleness == Staleness::Surely && self.early < EARLY_MAX;
        let due_ns = match self.staleness {
            Staleness::None => return Ok(false),
            Staleness::Perhaps => self.refresh_due_ns,
            Staleness::Surely if is_early => now_ns,
            Staleness::Surely => self.refreshed_ns + REFRESH_PAUSE_NS_MIN,
            Staleness::Replaced => now_ns,
        };
        if now_ns < due_ns {
            return Ok(false);
        }
        let was_replaced = self.staleness == Staleness::Replaced;
        self.early += u8::from(is_early);
        let changed = self.refresh(process, memory, images, sink)?;
        if was_replaced && !changed {
            self.is_doubtful = true;
            self.forget_marks_never_there(memory);
        }
        // That nothing had changed yet puts off nothing while a program starts.
        self.refresh_pause_ns = if changed || is_early {
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
            let Some(mark) = place else { continue };
            mark.missed = if is_missing_now(mark, memory) {
                mark.missed + 1
            } else {
                0
            };
            if mark.missed == MISSED_MAX {
                *place = None;
            }
        }
    }

    /// The mappings may be others.
    pub(super) fn doubt(&mut self) {
        self.staleness = self.staleness.max(Staleness::Perhaps);
    }

    /// Notes whether `stack`, with which `marks` were copied, shows that the mappings may have changed.
    pub(super) fn check(&mut self, stack: &Stack, marks: &CopiedMarks, memory: &ProcessMemory) {
        let mut found = Staleness::None;
        self.is_doubtful = false;
        let first = stack.frames.first();
        let is_off_stack = |frame: &Frame| self.stacks.find(frame.sp).is_none();
        if self.has_replaced(stack, |_, mark| is_missing(mark, marks, memory)) {
            found = Staleness::Replaced;
        } else if first.is_some_and(|frame| !self.modules.is_executable(frame.address)) {
            found = Staleness::Surely;
        } else if !stack.end.is_complete() || first.is_some_and(is_off_stack) {
            found = Staleness::Perhaps;
        }
        self.staleness = self.staleness.max(found);
    }

    /// Notes whether the modules of `stack`, with which `marks` were copied, are known only since: others may have lain
    /// there.
    pub(super) fn check_new(&mut self, stack: &Stack, marks: &CopiedMarks, memory: &ProcessMemory) {
        self.is_doubtful |= self.has_replaced(stack, |module, mark| {
            let is_contested = marks.are_in(&module.avma);
            (is_contested && marks.has(mark).is_none()) || is_missing(mark, marks, memory)
        });
    }

    /// Whether another image lay where one of the innermost frames of `stack` was said to be in one, by its mark.
    fn has_replaced(&self, stack: &Stack, is_missing: impl Fn(&Module, &Mark) -> bool) -> bool {
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
            let module = self.modules.iter().nth(index);
            let mark = self.marks.get(index).and_then(Option::as_ref);
            if let (Some(module), Some(mark)) = (module, mark)
                && is_missing(module, mark)
            {
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

/// Whether `mark` was not there when `marks` were copied; where it is not among them, whether it is not there now.
fn is_missing(mark: &Mark, marks: &CopiedMarks, memory: &ProcessMemory) -> bool {
    let was_there = marks.has(mark);
    was_there.map_or_else(|| is_missing_now(mark, memory), |was_there| !was_there)
}

/// Whether memory does not have `mark`. In a process that has ended nothing takes its place.
fn is_missing_now(mark: &Mark, memory: &ProcessMemory) -> bool {
    match mark.is_there(memory) {
        Ok(is_there) => !is_there,
        Err(ReadError::Gone(_)) => false,
        Err(_) => true,
    }
}

fn overlap(one: &Range<Avma>, other: &Range<Avma>) -> bool {
    one.start < other.end && other.start < one.end
}
