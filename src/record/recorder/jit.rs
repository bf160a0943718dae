//! Names of code that was compiled at run time, between ticks and at the end.

use std::collections::VecDeque;

use sampler_platforms::linux::clock;

use super::super::jit::JitNames;
use super::super::process::TargetProcess;
use super::Recorder;
use crate::profile::{ProcessId, SampleSink};

/// How many processes that have ended wait at most for the rest of their names: each holds a file open.
const ENDED_MAX: usize = 64;

/// Processes that have ended, whose files were not read to their end yet.
pub(super) type EndedJit = VecDeque<(ProcessId, JitNames)>;

impl<S: SampleSink> Recorder<'_, S> {
    /// At a flush: reads a piece of what there is.
    pub(super) fn name_jit_code(&mut self) -> Result<(), S::Error> {
        self.jit_budget.begin_flush();
        for process in &mut self.processes {
            process.name_jit_code(self.began_ns, &mut self.jit_budget, self.sink)?;
        }
        self.name_ended()
    }

    /// At the end: reads all that there is.
    pub(super) fn name_all_jit_code(&mut self) -> Result<(), S::Error> {
        self.jit_budget.begin_end();
        for process in &mut self.processes {
            process.name_jit_code(self.began_ns, &mut self.jit_budget, self.sink)?;
        }
        self.name_ended()
    }

    /// A process has ended: its files are still open.
    pub(super) fn keep_jit_of_ended(&mut self, process: TargetProcess) -> Result<(), S::Error> {
        let (id, jit) = process.into_jit();
        if jit.is_done() {
            return Ok(());
        }
        self.ended_jit.push_back((id, jit));
        if self.ended_jit.len() > ENDED_MAX {
            self.jit_budget.begin_flush();
            self.name_ended()?;
            self.ended_jit.truncate(ENDED_MAX);
        }
        Ok(())
    }

    /// Reads on in the files of processes that have ended, the first first.
    fn name_ended(&mut self) -> Result<(), S::Error> {
        let now_ns = clock::monotonic_ns();
        for (process, jit) in &mut self.ended_jit {
            let codes = jit.read(*process, now_ns, self.began_ns, true, &mut self.jit_budget);
            codes.iter().try_for_each(|code| self.sink.jit_code(code))?;
        }
        self.ended_jit.retain(|(_, jit)| !jit.is_done());
        Ok(())
    }
}
