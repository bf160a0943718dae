//! A recording, added up in memory.

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use sampler_unwind::interpreter::Function;

use super::attribution::ThreadTally;
use super::jit::{JitCode, JitTable};
use super::resolved::StackWeights;
use super::sample::Observation;
use super::sink::{ModuleInfo, ProcessInfo, SampleSink, ThreadInfo, UnknownId, WaitInfo};
use super::stacks::{
    End, FrameKey, FunctionId, JitId, ModuleId, ProcessId, StackId, StackNode, StackTable,
    ThreadId, WaitId,
};
use super::summary::Summary;
use super::timeline::Timeline;

/// How many observations wait at most for names of code that was compiled at run time: they are told until the next
/// flush, a second later.
const WAITING_MAX: usize = 1 << 20;

/// Adds observations up by thread and stack. Its memory grows with the number of distinct stacks, not with time; one
/// table holds the stacks of all epochs of a recording.
#[derive(Debug, Default)]
pub struct ProfileBuilder {
    profile: Profile,
    /// The stacks with a frame of code that no file backs.
    anonymous: FxHashSet<StackId>,
    /// What was observed since one of them was, in order.
    waiting: Vec<Observation>,
    /// What those stacks become when their frames have names, and for which times.
    named: FxHashMap<(ProcessId, StackId), NamedStack>,
    /// The last process of each number.
    process_ids: FxHashMap<i32, usize>,
    thread_ids: FxHashMap<(ProcessId, i32), ThreadId>,
    tallies: Vec<ThreadTally>,
    /// Only what was observed in this time is charged to stacks, in nanoseconds since the recording began.
    window: Option<Range<u64>>,
    /// With a window, what was observed whenever it was.
    whole: Vec<ThreadTally>,
    /// Whether single observations are kept.
    keeps_observations: bool,
    /// When it was, if that was asked for.
    timeline: Option<Timeline>,
}

#[derive(Clone, Debug)]
struct NamedStack {
    stack: StackId,
    valid_ns: Range<u64>,
    /// How many codes were known then.
    codes: usize,
}

/// What was recorded, by thread and stack, without names for addresses.
#[derive(Debug, Default)]
pub struct Profile {
    /// By [`ProcessId`].
    pub processes: Vec<ProcessInfo>,
    /// By [`ThreadId`], each with the name it had last.
    pub threads: Vec<ThreadInfo>,
    /// By [`ModuleId`].
    pub modules: Vec<ModuleInfo>,
    /// By [`FunctionId`].
    pub functions: Vec<Function>,
    /// By [`WaitId`].
    pub waits: Vec<WaitInfo>,
    /// Where modules lay, in the order it was found out.
    pub mappings: Vec<MappedModule>,
    /// Code that was compiled at run time.
    pub jit: JitTable,
    /// What the stack ids of `stacks` stand for.
    pub table: StackTable,
    /// One entry for each stack of each thread, by thread.
    pub stacks: Vec<ThreadStack>,
    /// When it was, if that was asked for.
    pub timeline: Option<Arc<Timeline>>,
    /// What the recording held and had cost when it was last flushed.
    pub summary: Summary,
    /// All observations, in order; empty unless they were asked for.
    pub observations: Vec<Observation>,
    /// What all stacks weigh, where `stacks` are those of a part of the time.
    pub whole: Option<StackWeights>,
}

/// Where a module lay in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedModule {
    /// The process.
    pub process: ProcessId,
    /// The module.
    pub module: ModuleId,
    /// Its first address in the process.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// What was added to the addresses the file states, modulo 2^64.
    pub bias: u64,
}

/// One stack of one thread, and all that is charged to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadStack {
    /// The thread.
    pub thread: ThreadId,
    /// The stack.
    pub stack: StackId,
    /// What it stands for.
    pub weights: StackWeights,
}

impl ProfileBuilder {
    /// A builder that was given nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, taking only what was observed in `window`, in nanoseconds since the recording began. Of an observation
    /// that reaches out of it the part inside is taken.
    #[must_use]
    pub fn within(mut self, window: Range<u64>) -> Self {
        self.window = Some(window);
        self
    }

    /// The same, keeping single observations in [`Profile::observations`]: some 50 bytes each.
    #[must_use]
    pub fn with_observations(mut self) -> Self {
        self.keeps_observations = true;
        self
    }

    /// The same, keeping when everything was, in bounded memory.
    #[must_use]
    pub fn with_timeline(mut self) -> Self {
        self.timeline = Some(Timeline::default());
        self
    }

    /// Charges what was observed to the stacks, and gives the profile out.
    pub fn finish(mut self) -> Profile {
        self.charge_stacks();
        self.profile.timeline = self.timeline.take().map(Timeline::finished).map(Arc::new);
        if self.window.is_some() {
            let charged = self.whole.iter_mut().flat_map(ThreadTally::attribute);
            let sum = charged.fold(StackWeights::default(), |mut sum, charged| {
                sum += charged.weights;
                sum.cpu_ns = sum.cpu_ns.saturating_add(charged.unseen_cpu_ns);
                sum
            });
            self.profile.whole = Some(sum);
        }
        self.profile
    }

    /// Charges an observation, all of whose code has the names it will have.
    fn charge(&mut self, observation: &Observation) {
        let index = observation.thread.index();
        let mut observation = *observation;
        if let Some(window) = &self.window {
            if let Some(whole) = self.whole.get_mut(index) {
                whole.observe(&observation);
            }
            match observation.part_within(window) {
                Some(part) => observation = part,
                None => return,
            }
        }
        if let Some(tally) = self.tallies.get_mut(index) {
            tally.observe(&observation);
            if let Some(timeline) = &mut self.timeline {
                timeline.observe(&observation);
            }
        }
        if self.keeps_observations {
            self.profile.observations.push(observation);
        }
    }

    /// What was observed since this was called last, or since the beginning; all that stacks are made of is as it would
    /// be in the end.
    pub fn interval(&mut self) -> &Profile {
        let tallies = self.charge_stacks();
        self.tallies
            .resize_with(tallies.len(), ThreadTally::default);
        &self.profile
    }

    /// What was observed since the beginning, as it would be if this were the end.
    pub fn so_far(&mut self) -> &Profile {
        self.tallies = self.charge_stacks();
        let timeline = self.timeline.clone();
        self.profile.timeline = timeline.map(Timeline::finished).map(Arc::new);
        &self.profile
    }

    /// Charges what was observed to the stacks, in the place of what was charged before; gives the tallies out.
    fn charge_stacks(&mut self) -> Vec<ThreadTally> {
        self.take_waiting();
        self.profile.stacks.clear();
        let mut tallies = std::mem::take(&mut self.tallies);
        for (thread, tally) in (0..).map(ThreadId).zip(&mut tallies) {
            self.add_stacks(thread, tally);
        }
        tallies
    }

    /// Takes what has waited, with names for the code that has some by now.
    fn take_waiting(&mut self) {
        self.profile.jit.sort();
        for mut observation in std::mem::take(&mut self.waiting) {
            if self.anonymous.contains(&observation.stack) {
                observation.stack = self.named_stack(&observation);
            }
            self.charge(&observation);
        }
    }

    fn named_stack(&mut self, observation: &Observation) -> StackId {
        let (stack, at_ns) = (observation.stack, observation.at_ns);
        let Some(thread) = self.profile.threads.get(observation.thread.index()) else {
            return stack;
        };
        let (process, codes) = (thread.process, self.profile.jit.codes().len());
        let known = self.named.get(&(process, stack));
        if let Some(known) =
            known.filter(|known| known.codes == codes && known.valid_ns.contains(&at_ns))
        {
            return known.stack;
        }
        let (named, valid_ns) = self.name_stack(process, stack, at_ns);
        let named = NamedStack {
            stack: named,
            valid_ns,
            codes,
        };
        let stack = named.stack;
        self.named.insert((process, observation.stack), named);
        stack
    }

    /// `stack` with names for its anonymous code, as it was in `process` at a time, and for which times that holds.
    fn name_stack(
        &mut self,
        process: ProcessId,
        stack: StackId,
        at_ns: u64,
    ) -> (StackId, Range<u64>) {
        let Profile { table, jit, .. } = &mut self.profile;
        let (innermost, end) = table.stacks()[stack.index()];
        let mut valid_ns = 0..u64::MAX;
        let mut frames = Vec::new();
        let mut next = Some(innermost);
        while let Some(node) = next {
            let StackNode { caller, frame } = table.nodes()[node.index()];
            let key = table.frames()[frame.index()];
            frames.push(match key.anonymous_code() {
                None => key,
                Some(lookup_address) => {
                    let found = jit.find(process, lookup_address, at_ns);
                    valid_ns.start = found.valid_ns.start.max(valid_ns.start);
                    valid_ns.end = found.valid_ns.end.min(valid_ns.end);
                    found.code.map_or(key, |code| named_key(key, code))
                }
            });
            next = caller;
        }
        let outermost_first = frames.into_iter().rev();
        (table.intern(outermost_first, end), valid_ns)
    }

    fn add_stacks(&mut self, thread: ThreadId, tally: &mut ThreadTally) {
        let charged = tally.attribute();
        let first = self.profile.stacks.len();
        self.profile
            .stacks
            .extend(charged.iter().map(|charged| ThreadStack {
                thread,
                stack: charged.stack,
                weights: charged.weights,
            }));
        for charged in charged.iter().filter(|charged| charged.unseen_cpu_ns > 0) {
            let stack = with_unseen_cpu(&mut self.profile.table, charged.stack);
            let position = tally.position_of(stack).map(|position| first + position);
            match position.and_then(|position| self.profile.stacks.get_mut(position)) {
                Some(present) => {
                    let cpu_ns = &mut present.weights.cpu_ns;
                    *cpu_ns = cpu_ns.saturating_add(charged.unseen_cpu_ns);
                }
                None => self.profile.stacks.push(ThreadStack {
                    thread,
                    stack,
                    weights: StackWeights {
                        cpu_ns: charged.unseen_cpu_ns,
                        ..StackWeights::default()
                    },
                }),
            }
        }
    }
}

/// The frame `key` of machine code, as one of `code`.
fn named_key(key: FrameKey, code: JitId) -> FrameKey {
    match key {
        FrameKey::Code {
            address,
            is_return_address,
            ..
        } => FrameKey::Jit {
            code,
            address,
            is_return_address,
        },
        other => other,
    }
}

/// `stack` with [`FrameKey::UnseenCpu`] as its innermost frame.
fn with_unseen_cpu(table: &mut StackTable, stack: StackId) -> StackId {
    let (innermost, end) = table.stacks()[stack.index()];
    let frame = table.frame(FrameKey::UnseenCpu);
    let node = table.node(StackNode {
        caller: Some(innermost),
        frame,
    });
    table.stack(node, end)
}

impl SampleSink for ProfileBuilder {
    type Error = UnknownId;

    fn process(&mut self, process: &ProcessInfo) -> Result<ProcessId, UnknownId> {
        let processes = &self.profile.processes;
        let known = self.process_ids.get(&process.pid).copied().filter(|&id| {
            let known = processes.get(id).and_then(|known| known.birth);
            match (known, process.birth) {
                (Some(known), Some(birth)) => known.started_ticks == birth.started_ticks,
                (None, _) | (_, None) => true,
            }
        });
        let id = known.unwrap_or(processes.len());
        self.process_ids.insert(process.pid, id);
        match self.profile.processes.get_mut(id) {
            Some(known) => known.clone_from(process),
            None => self.profile.processes.push(process.clone()),
        }
        Ok(ProcessId(last_id(id + 1)))
    }

    fn thread(&mut self, thread: &ThreadInfo) -> Result<ThreadId, UnknownId> {
        check(
            thread.process.index(),
            self.profile.processes.len(),
            UnknownId::Process(thread.process),
        )?;
        if let Some(&id) = self.thread_ids.get(&(thread.process, thread.tid)) {
            self.profile.threads[id.index()] = thread.clone();
            return Ok(id);
        }
        self.profile.threads.push(thread.clone());
        self.tallies.push(ThreadTally::default());
        if self.window.is_some() {
            self.whole.push(ThreadTally::default());
        }
        let id = ThreadId(last_id(self.profile.threads.len()));
        self.thread_ids.insert((thread.process, thread.tid), id);
        Ok(id)
    }

    fn module(&mut self, module: &ModuleInfo) -> Result<ModuleId, UnknownId> {
        self.profile.modules.push(module.clone());
        Ok(ModuleId(last_id(self.profile.modules.len())))
    }

    fn function(&mut self, function: &Function) -> Result<FunctionId, UnknownId> {
        self.profile.functions.push(function.clone());
        Ok(FunctionId(last_id(self.profile.functions.len())))
    }

    fn wait(&mut self, wait: &WaitInfo) -> Result<WaitId, UnknownId> {
        self.profile.waits.push(wait.clone());
        Ok(WaitId(last_id(self.profile.waits.len())))
    }

    fn mapping(
        &mut self,
        process: ProcessId,
        module: ModuleId,
        start: u64,
        end: u64,
        bias: u64,
    ) -> Result<(), UnknownId> {
        check(
            process.index(),
            self.profile.processes.len(),
            UnknownId::Process(process),
        )?;
        check(
            module.index(),
            self.profile.modules.len(),
            UnknownId::Module(module),
        )?;
        self.profile.mappings.push(MappedModule {
            process,
            module,
            start,
            end,
            bias,
        });
        Ok(())
    }

    fn jit_code(&mut self, code: &JitCode) -> Result<(), UnknownId> {
        check(
            code.process.index(),
            self.profile.processes.len(),
            UnknownId::Process(code.process),
        )?;
        self.profile.jit.add(code.clone());
        Ok(())
    }

    fn stack(&mut self, outermost_first: &[FrameKey], end: End) -> Result<StackId, UnknownId> {
        let stack = self.profile.table.intern_slice(outermost_first, end);
        let is_anonymous = |key: &FrameKey| key.anonymous_code().is_some();
        if outermost_first.iter().any(is_anonymous) {
            self.anonymous.insert(stack);
        }
        Ok(stack)
    }

    fn observation(&mut self, observation: &Observation) -> Result<(), UnknownId> {
        let stack = observation.stack;
        let stacks = self.profile.table.stacks().len();
        check(stack.index(), stacks, UnknownId::Stack(stack))?;
        let thread = observation.thread;
        check(
            thread.index(),
            self.tallies.len(),
            UnknownId::Thread(thread),
        )?;
        if self.waiting.is_empty() && !self.anonymous.contains(&stack) {
            self.charge(observation);
            return Ok(());
        }
        self.waiting.push(*observation);
        if self.waiting.len() >= WAITING_MAX {
            self.take_waiting();
        }
        Ok(())
    }

    fn flush(&mut self, summary: &Summary) -> Result<bool, UnknownId> {
        self.take_waiting();
        self.profile.summary.clone_from(summary);
        Ok(false)
    }
}

fn check(index: usize, len: usize, unknown: UnknownId) -> Result<(), UnknownId> {
    if index < len { Ok(()) } else { Err(unknown) }
}

/// The id of the last of `len` entries.
fn last_id(len: usize) -> u32 {
    u32::try_from(len.saturating_sub(1)).expect("as many entries as ids would not fit in memory")
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
