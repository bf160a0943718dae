//! What runtimes call threads, between ticks and at the end.

use sampler_platforms::linux::clock;

use super::super::process::TargetProcess;
use super::Recorder;
use crate::profile::SampleSink;

/// Names are asked for so seldom that it takes no more than one part in this many of a CPU.
const NAMES_PARTS: u64 = 200;

/// How long is spent on it between two ticks, and at the end of the recording, in nanoseconds.
const NAMES_NS_MAX: u64 = 1_000_000;
const LAST_NAMES_NS_MAX: u64 = 50_000_000;

impl<S: SampleSink> Recorder<'_, S> {
    /// Between ticks: asks for some of the names that are not known, or that may be others by now.
    pub(super) fn name_threads(&mut self, now_ns: u64) -> Result<(), S::Error> {
        let mut processes = self.processes.iter();
        if now_ns < self.names_pause_ns || !processes.any(TargetProcess::are_names_due) {
            return Ok(());
        }
        let began_ns = clock::monotonic_ns();
        self.ask_for_names(began_ns + NAMES_NS_MAX)?;
        let done_ns = clock::monotonic_ns();
        self.names_pause_ns = done_ns + (done_ns - began_ns).saturating_mul(NAMES_PARTS);
        Ok(())
    }

    /// At the end: asks for all that are not known.
    pub(super) fn name_all_threads(&mut self) -> Result<(), S::Error> {
        self.ask_for_names(clock::monotonic_ns() + LAST_NAMES_NS_MAX)
    }

    fn ask_for_names(&mut self, until_ns: u64) -> Result<(), S::Error> {
        for process in &mut self.processes {
            while process.are_names_due() {
                let now_ns = clock::monotonic_ns();
                if now_ns >= until_ns {
                    return Ok(());
                }
                process.ask_for_names(now_ns, self.sink)?;
            }
        }
        Ok(())
    }
}
