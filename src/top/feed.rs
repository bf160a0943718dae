//! Takes in what is recorded, and adds it up.

use std::sync::{Arc, Mutex, PoisonError};

use sampler_unwind::interpreter::Function;

use super::totals::Totals;
use crate::profile::{
    End, FrameKey, FunctionId, JitCode, ModuleId, ModuleInfo, Observation, ProcessId, ProcessInfo,
    ProfileBuilder, SampleSink, StackId, Summary, ThreadId, ThreadInfo, UnknownId, WaitId,
    WaitInfo,
};
use crate::report::{FrameFilter, filter, resolve};
use crate::symbols::Symbolize;

/// A sink that has the names looked up at every flush, and the sums ready for whoever shows them.
#[derive(Debug)]
pub struct Feed<S> {
    builder: ProfileBuilder,
    symbolizer: S,
    frames: FrameFilter,
    totals: Arc<Mutex<Totals>>,
}

impl<S: Symbolize> Feed<S> {
    /// Adds up in `totals`, of what `frames` lets through.
    pub fn new(symbolizer: S, frames: FrameFilter, totals: Arc<Mutex<Totals>>) -> Self {
        Self {
            builder: ProfileBuilder::new(),
            symbolizer,
            frames,
            totals,
        }
    }
}

impl<S: Symbolize> SampleSink for Feed<S> {
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
        let mut profile = resolve(self.builder.interval(), &mut self.symbolizer);
        filter(&mut profile, self.frames);
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(&profile);
        Ok(are_void)
    }
}
