//! A recording, added up in memory.

use rustc_hash::FxHashMap;
use sampler_unwind::interpreter::Function;

use super::attribution::ThreadTally;
use super::resolved::StackWeights;
use super::sample::Observation;
use super::sink::{ModuleInfo, ProcessInfo, SampleSink, ThreadInfo, UnknownId};
use super::stacks::{
    End, FrameKey, FunctionId, ModuleId, ProcessId, StackId, StackNode, StackTable, ThreadId,
};
use super::summary::Summary;

/// Adds observations up by thread and stack. Its memory grows with the number of distinct stacks, not with time; one
/// table holds the stacks of all epochs of a recording.
#[derive(Debug, Default)]
pub struct ProfileBuilder {
    profile: Profile,
    /// The last process of each number.
    process_ids: FxHashMap<i32, usize>,
    thread_ids: FxHashMap<(ProcessId, i32), ThreadId>,
    tallies: Vec<ThreadTally>,
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
    /// Where modules lay, in the order it was found out.
    pub mappings: Vec<MappedModule>,
    /// What the stack ids of `stacks` stand for.
    pub table: StackTable,
    /// One entry for each stack of each thread, by thread.
    pub stacks: Vec<ThreadStack>,
    /// What the recording held and had cost when it was last flushed.
    pub summary: Summary,
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

    /// Charges what was observed to the stacks, and gives the profile out.
    pub fn finish(mut self) -> Profile {
        let mut tallies = std::mem::take(&mut self.tallies);
        for (thread, tally) in (0..).map(ThreadId).zip(&mut tallies) {
            self.add_stacks(thread, tally);
        }
        self.profile
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

    fn stack(&mut self, outermost_first: &[FrameKey], end: End) -> Result<StackId, UnknownId> {
        Ok(self.profile.table.intern_slice(outermost_first, end))
    }

    fn observation(&mut self, observation: &Observation) -> Result<(), UnknownId> {
        let stack = observation.stack;
        let stacks = self.profile.table.stacks().len();
        check(stack.index(), stacks, UnknownId::Stack(stack))?;
        let thread = observation.thread;
        self.tallies
            .get_mut(thread.index())
            .ok_or(UnknownId::Thread(thread))?
            .observe(observation);
        Ok(())
    }

    fn flush(&mut self, summary: &Summary) -> Result<bool, UnknownId> {
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
mod tests {
    use super::super::sample::{ThreadState, Weights};
    use super::super::sink::Birth;
    use super::*;

    fn process() -> ProcessInfo {
        ProcessInfo {
            pid: 7,
            birth: None,
            command_line: "worker --fast".into(),
            executable: "/usr/bin/worker".into(),
        }
    }

    fn thread(process: ProcessId, tid: i32, name: &str) -> ThreadInfo {
        ThreadInfo {
            process,
            tid,
            name: name.into(),
        }
    }

    fn seen(thread: ThreadId, state: ThreadState, stack: StackId, cpu_ns: u64) -> Observation {
        Observation {
            thread,
            at_ns: 0,
            state,
            stack,
            ticks: 1,
            weights: Weights {
                cpu_ns,
                wall_ns: 10,
                run_queue_ns: 0,
            },
        }
    }

    #[test]
    fn observations_of_one_stack_are_added_up_per_thread() -> Result<(), UnknownId> {
        let mut builder = ProfileBuilder::new();
        let process = builder.process(&process())?;
        let threads = [
            builder.thread(&thread(process, 7, "main"))?,
            builder.thread(&thread(process, 8, "io"))?,
        ];
        let stack = builder.stack(&[FrameKey::Syscall(1)], End::Complete)?;
        for thread in [threads[0], threads[1], threads[0]] {
            builder.observation(&seen(thread, ThreadState::Running, stack, 4))?;
        }
        let profile = builder.finish();
        let cpu: Vec<_> = profile
            .stacks
            .iter()
            .map(|stack| (stack.thread, stack.weights.cpu_ns, stack.weights.samples))
            .collect();
        assert_eq!(cpu, [(threads[0], 8, 2), (threads[1], 4, 1)]);
        Ok(())
    }

    #[test]
    fn a_number_given_again_is_another_process() -> Result<(), UnknownId> {
        let mut builder = ProfileBuilder::new();
        let born = |started_ticks, command_line: &str| ProcessInfo {
            birth: Some(Birth {
                parent: 1,
                started_ticks,
            }),
            command_line: command_line.into(),
            ..process()
        };
        let first = builder.process(&born(100, "make"))?;
        let then = builder.process(&born(100, "cc1"))?;
        let other = builder.process(&born(200, "ld"))?;
        assert_eq!(first, then);
        assert_ne!(first, other);
        assert_eq!(builder.process(&born(200, "ld"))?, other);
        let threads = [
            builder.thread(&thread(first, 7, "cc1"))?,
            builder.thread(&thread(other, 7, "ld"))?,
        ];
        assert_ne!(threads[0], threads[1]);
        let lines = builder.finish().processes;
        assert_eq!(lines, [born(100, "cc1"), born(200, "ld")]);
        Ok(())
    }

    #[test]
    fn a_renamed_thread_stays_one_thread() -> Result<(), UnknownId> {
        let mut builder = ProfileBuilder::new();
        let process = builder.process(&process())?;
        let before = builder.thread(&thread(process, 7, "main"))?;
        let after = builder.thread(&thread(process, 7, "serving"))?;
        assert_eq!(before, after);
        assert_eq!(builder.finish().threads, [thread(process, 7, "serving")]);
        Ok(())
    }

    #[test]
    fn cpu_nobody_saw_gets_a_frame_that_says_so() -> Result<(), UnknownId> {
        let mut builder = ProfileBuilder::new();
        let process = builder.process(&process())?;
        let thread = builder.thread(&thread(process, 7, "main"))?;
        let asleep = builder.stack(&[FrameKey::Blocked(202)], End::Complete)?;
        builder.observation(&seen(thread, ThreadState::Blocked, asleep, 4))?;
        let profile = builder.finish();
        let [at_rest, unseen] = profile.stacks.as_slice() else {
            panic!("expected two stacks: {:?}", profile.stacks);
        };
        assert_eq!((at_rest.weights.cpu_ns, at_rest.weights.wall_ns), (0, 10));
        assert_eq!((unseen.weights.cpu_ns, unseen.weights.wall_ns), (4, 0));
        let (node, end) = profile.table.stacks()[unseen.stack.index()];
        let leaf = profile.table.nodes()[node.index()];
        assert_eq!(end, End::Complete);
        assert_eq!(
            profile.table.frames()[leaf.frame.index()],
            FrameKey::UnseenCpu
        );
        assert_eq!(leaf.caller, Some(profile.table.stacks()[asleep.index()].0));
        Ok(())
    }

    #[test]
    fn ids_that_were_not_handed_out_are_refused() -> Result<(), UnknownId> {
        let mut builder = ProfileBuilder::new();
        let none = ThreadId(0);
        assert_eq!(
            builder.thread(&thread(ProcessId(3), 7, "main")),
            Err(UnknownId::Process(ProcessId(3)))
        );
        assert_eq!(
            builder.observation(&seen(none, ThreadState::Running, StackId(0), 1)),
            Err(UnknownId::Stack(StackId(0)))
        );
        let stack = builder.stack(&[], End::Partial)?;
        assert_eq!(
            builder.observation(&seen(none, ThreadState::Running, stack, 1)),
            Err(UnknownId::Thread(none))
        );
        Ok(())
    }
}
