//! A sink that keeps what it is told, and what tells it.

use sampler_unwind::interpreter::Function;

use crate::profile::{
    End, FrameKey, FunctionId, JitCode, ModuleId, ModuleInfo, Observation, ProcessId, ProcessInfo,
    SampleSink, StackId, Summary, ThreadId, ThreadInfo, UnknownId, WaitId, WaitInfo,
};

/// What a sink was told, with nothing left that depends on ids of its own.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "tests have few of them")]
pub(super) enum Event {
    Process(ProcessInfo),
    Thread(ThreadInfo),
    Module(ModuleInfo),
    Function(Function),
    Wait(WaitInfo),
    Mapping(u32, u32, u64, u64, u64),
    Jit(JitCode),
    Observation(u32, Vec<FrameKey>, End, Observation),
    Flush(Summary),
}

/// Keeps what it is told. Its ids are others than those in the recording.
#[derive(Default)]
pub(super) struct Log {
    pub(super) events: Vec<Event>,
    processes: u32,
    threads: u32,
    modules: u32,
    functions: u32,
    waits: u32,
    stacks: Vec<(Vec<FrameKey>, End)>,
    /// The first valid stack id.
    stacks_from: u32,
    /// Whether each flush makes stack ids void.
    forgetful: bool,
}

const ID_FACTOR: u32 = 3;

fn own_id(id: u32) -> u32 {
    assert_eq!(id % ID_FACTOR, 1, "not an id of this sink");
    id / ID_FACTOR
}

fn hand_out(count: &mut u32) -> u32 {
    *count += 1;
    (*count - 1) * ID_FACTOR + 1
}

impl Log {
    /// Each flush makes stack ids void if `forgetful`.
    pub(super) fn new(forgetful: bool) -> Self {
        Self {
            forgetful,
            ..Self::default()
        }
    }
}

impl SampleSink for Log {
    type Error = UnknownId;

    fn process(&mut self, process: &ProcessInfo) -> Result<ProcessId, UnknownId> {
        self.events.push(Event::Process(process.clone()));
        Ok(ProcessId(hand_out(&mut self.processes)))
    }

    fn thread(&mut self, thread: &ThreadInfo) -> Result<ThreadId, UnknownId> {
        self.events.push(Event::Thread(ThreadInfo {
            process: ProcessId(own_id(thread.process.0)),
            ..thread.clone()
        }));
        Ok(ThreadId(hand_out(&mut self.threads)))
    }

    fn module(&mut self, module: &ModuleInfo) -> Result<ModuleId, UnknownId> {
        self.events.push(Event::Module(module.clone()));
        Ok(ModuleId(hand_out(&mut self.modules)))
    }

    fn function(&mut self, function: &Function) -> Result<FunctionId, UnknownId> {
        self.events.push(Event::Function(function.clone()));
        Ok(FunctionId(hand_out(&mut self.functions)))
    }

    fn wait(&mut self, wait: &WaitInfo) -> Result<WaitId, UnknownId> {
        self.events.push(Event::Wait(wait.clone()));
        Ok(WaitId(hand_out(&mut self.waits)))
    }

    fn mapping(
        &mut self,
        process: ProcessId,
        module: ModuleId,
        start: u64,
        end: u64,
        bias: u64,
    ) -> Result<(), UnknownId> {
        let (process, module) = (own_id(process.0), own_id(module.0));
        self.events
            .push(Event::Mapping(process, module, start, end, bias));
        Ok(())
    }

    fn jit_code(&mut self, code: &JitCode) -> Result<(), UnknownId> {
        self.events.push(Event::Jit(JitCode {
            process: ProcessId(own_id(code.process.0)),
            ..code.clone()
        }));
        Ok(())
    }

    fn stack(&mut self, outermost_first: &[FrameKey], end: End) -> Result<StackId, UnknownId> {
        let frames = match outermost_first {
            // As `StackTable` has it.
            [] => vec![FrameKey::NoStack],
            frames => frames.iter().map(|&frame| with_own_ids(frame)).collect(),
        };
        self.stacks.push((frames, end));
        let position = u32::try_from(self.stacks.len() - 1).unwrap_or(u32::MAX);
        Ok(StackId(self.stacks_from + position))
    }

    fn observation(&mut self, observation: &Observation) -> Result<(), UnknownId> {
        let unknown = UnknownId::Stack(observation.stack);
        let position = observation.stack.0.checked_sub(self.stacks_from);
        let (frames, end) = position
            .and_then(|position| self.stacks.get(position as usize))
            .ok_or(unknown)?
            .clone();
        self.events.push(Event::Observation(
            own_id(observation.thread.0),
            frames,
            end,
            Observation {
                thread: ThreadId(0),
                stack: StackId(0),
                ..*observation
            },
        ));
        Ok(())
    }

    fn flush(&mut self, summary: &Summary) -> Result<bool, UnknownId> {
        self.events.push(Event::Flush(summary.clone()));
        if self.forgetful {
            self.stacks_from += u32::try_from(self.stacks.len()).unwrap_or(u32::MAX);
            self.stacks.clear();
        }
        Ok(self.forgetful)
    }
}

fn with_own_ids(frame: FrameKey) -> FrameKey {
    match frame {
        FrameKey::Code {
            module,
            address,
            is_return_address,
            origin,
        } => FrameKey::Code {
            module: module.map(|module| ModuleId(own_id(module.0))),
            address,
            is_return_address,
            origin,
        },
        FrameKey::Interpreted {
            function,
            line,
            precision,
            kind,
        } => FrameKey::Interpreted {
            function: FunctionId(own_id(function.0)),
            line,
            precision,
            kind,
        },
        FrameKey::BlockedOn(wait) => FrameKey::BlockedOn(WaitId(own_id(wait.0))),
        other => other,
    }
}

/// Something to tell a sink. Numbers name what was told before, modulo how much that is.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "tests have few of them")]
pub(super) enum Call {
    Process(ProcessInfo),
    Thread(u32, i32, String),
    Module(ModuleInfo),
    Function(Function),
    Wait(WaitInfo),
    Mapping(u32, u32, u64, u64, u64),
    Jit(JitCode),
    Stack(Vec<FrameKey>, End),
    Observation(Observation),
    Flush(Summary),
}

/// Tells a sink a list of calls, with the ids it gives.
pub(super) struct Teller<'s, S> {
    pub(super) sink: &'s mut S,
    processes: Vec<ProcessId>,
    threads: Vec<ThreadId>,
    modules: Vec<ModuleId>,
    functions: Vec<FunctionId>,
    waits: Vec<WaitId>,
    /// To be told again when ids are void.
    stacks: Vec<(Vec<FrameKey>, End, StackId)>,
}

impl<'s, S: SampleSink> Teller<'s, S> {
    pub(super) fn new(sink: &'s mut S) -> Self {
        Self {
            sink,
            processes: Vec::new(),
            threads: Vec::new(),
            modules: Vec::new(),
            functions: Vec::new(),
            waits: Vec::new(),
            stacks: Vec::new(),
        }
    }

    pub(super) fn tell(&mut self, call: &Call) -> Result<(), S::Error> {
        match call {
            Call::Process(process) => self.processes.push(self.sink.process(process)?),
            Call::Thread(process, tid, name) => {
                if let Some(process) = pick(&self.processes, *process) {
                    self.threads.push(self.sink.thread(&ThreadInfo {
                        process,
                        tid: *tid,
                        name: name.clone(),
                    })?);
                }
            }
            Call::Module(module) => self.modules.push(self.sink.module(module)?),
            Call::Function(function) => self.functions.push(self.sink.function(function)?),
            Call::Wait(wait) => self.waits.push(self.sink.wait(wait)?),
            Call::Mapping(process, module, start, end, bias) => {
                let process = pick(&self.processes, *process);
                if let (Some(process), Some(module)) = (process, pick(&self.modules, *module)) {
                    self.sink.mapping(process, module, *start, *end, *bias)?;
                }
            }
            Call::Jit(code) => {
                if let Some(process) = pick(&self.processes, code.process.0) {
                    let code = JitCode {
                        process,
                        ..code.clone()
                    };
                    self.sink.jit_code(&code)?;
                }
            }
            Call::Stack(frames, end) => {
                let frames = self.with_ids(frames);
                let id = self.sink.stack(&frames, *end)?;
                self.stacks.push((frames, *end, id));
            }
            Call::Observation(observation) => {
                let thread = pick(&self.threads, observation.thread.0);
                let stack = pick(&self.stacks, observation.stack.0);
                if let (Some(thread), Some((_, _, stack))) = (thread, stack) {
                    self.sink.observation(&Observation {
                        thread,
                        stack,
                        ..*observation
                    })?;
                }
            }
            Call::Flush(summary) => {
                if self.sink.flush(summary)? {
                    for (frames, end, id) in &mut self.stacks {
                        *id = self.sink.stack(frames, *end)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn with_ids(&self, frames: &[FrameKey]) -> Vec<FrameKey> {
        frames
            .iter()
            .map(|&frame| match frame {
                FrameKey::Code {
                    module,
                    address,
                    is_return_address,
                    origin,
                } => FrameKey::Code {
                    module: module.and_then(|module| pick(&self.modules, module.0)),
                    address,
                    is_return_address,
                    origin,
                },
                FrameKey::Interpreted {
                    function,
                    line,
                    precision,
                    kind,
                } => match pick(&self.functions, function.0) {
                    Some(function) => FrameKey::Interpreted {
                        function,
                        line,
                        precision,
                        kind,
                    },
                    None => FrameKey::NoStack,
                },
                FrameKey::BlockedOn(wait) => match pick(&self.waits, wait.0) {
                    Some(wait) => FrameKey::BlockedOn(wait),
                    None => FrameKey::NoStack,
                },
                other => other,
            })
            .collect()
    }
}

fn pick<T: Clone>(table: &[T], number: u32) -> Option<T> {
    let position = (number as usize).checked_rem(table.len())?;
    table.get(position).cloned()
}
