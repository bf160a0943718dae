//! Adds up what is recorded, and lets somebody look at it after every flush.

use sampler_unwind::interpreter::Function;

use super::builder::ProfileBuilder;
use super::jit::JitCode;
use super::sample::Observation;
use super::sink::{ModuleInfo, ProcessInfo, SampleSink, ThreadInfo, UnknownId, WaitInfo};
use super::stacks::{End, FrameKey, FunctionId, ModuleId, ProcessId, StackId, ThreadId, WaitId};
use super::summary::Summary;

/// A sink for a recording that is read while it is being made.
#[derive(Debug)]
pub struct Feed<W> {
    builder: ProfileBuilder,
    watcher: W,
}

/// Who looks at what was added up.
pub trait Watcher {
    /// All that was observed until now is in `builder`, with the names of code that was compiled at run time.
    fn flushed(&mut self, builder: &mut ProfileBuilder);
}

impl<W: Watcher> Feed<W> {
    /// Adds up in `builder`.
    pub fn new(builder: ProfileBuilder, watcher: W) -> Self {
        Self { builder, watcher }
    }

    /// What was added up, and who looked at it.
    pub fn into_parts(self) -> (ProfileBuilder, W) {
        (self.builder, self.watcher)
    }
}

impl<W: Watcher> SampleSink for Feed<W> {
    type Error = UnknownId;

    fn process(&mut self, process: &ProcessInfo) -> Result<ProcessId, UnknownId> {
        self.builder.process(process)
    }

    fn thread(&mut self, thread: &ThreadInfo) -> Result<ThreadId, UnknownId> {
        self.builder.thread(thread)
    }

    fn module(&mut self, module: &ModuleInfo) -> Result<ModuleId, UnknownId> {
        self.builder.module(module)
    }

    fn function(&mut self, function: &Function) -> Result<FunctionId, UnknownId> {
        self.builder.function(function)
    }

    fn mapping(
        &mut self,
        process: ProcessId,
        module: ModuleId,
        start: u64,
        end: u64,
        bias: u64,
    ) -> Result<(), UnknownId> {
        self.builder.mapping(process, module, start, end, bias)
    }

    fn jit_code(&mut self, code: &JitCode) -> Result<(), UnknownId> {
        self.builder.jit_code(code)
    }

    fn wait(&mut self, wait: &WaitInfo) -> Result<WaitId, UnknownId> {
        self.builder.wait(wait)
    }

    fn stack(&mut self, outermost_first: &[FrameKey], end: End) -> Result<StackId, UnknownId> {
        self.builder.stack(outermost_first, end)
    }

    fn observation(&mut self, observation: &Observation) -> Result<(), UnknownId> {
        self.builder.observation(observation)
    }

    fn flush(&mut self, summary: &Summary) -> Result<bool, UnknownId> {
        let are_void = self.builder.flush(summary)?;
        self.watcher.flushed(&mut self.builder);
        Ok(are_void)
    }
}
