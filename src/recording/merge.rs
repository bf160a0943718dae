//! One recording of several: each is played into the same writer, at its place in time.

use std::io::{self, Read, Write};

use sampler_unwind::interpreter::Function;

use super::RecordingInfo;
use super::reader::{ReadError, read, read_info};
use super::writer::{WriteError, Writer};
use crate::profile::{
    End, FrameKey, FunctionId, JitCode, ModuleId, ModuleInfo, Observation, ProcessId, ProcessInfo,
    SampleSink, StackId, Summary, ThreadId, ThreadInfo, WaitId, WaitInfo,
};

/// Why recordings could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// One of them could not be opened.
    #[error("cannot open it")]
    Open {
        /// Its position.
        input: usize,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// One of them could not be read, or what was read not be written.
    #[error("cannot read it")]
    Read {
        /// Its position.
        input: usize,
        /// Why.
        #[source]
        error: ReadError<WriteError>,
    },
    /// One is of another kind of machine than the first, so that system calls have other numbers.
    #[error("it was recorded on {arch}, others on {others}")]
    Arch {
        /// Its position.
        input: usize,
        /// Its architecture.
        arch: String,
        /// That of the first.
        others: String,
    },
    /// The new one could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl MergeError {
    /// Which recording it is about.
    pub fn input(&self) -> Option<usize> {
        match self {
            Self::Open { input, .. } | Self::Read { input, .. } | Self::Arch { input, .. } => {
                Some(*input)
            }
            Self::Write(_) => None,
        }
    }
}

/// Merges `count` recordings, each of which `open` opens (twice), into `output`. A recording that is damaged or cut is
/// taken as far as it can be read. Of processes and threads that are in several it holds one each.
///
/// # Errors
/// [`MergeError`]; `output` then holds no whole recording.
pub fn merge<R: Read, W: Write>(
    count: usize,
    open: impl Fn(usize) -> io::Result<R>,
    output: W,
) -> Result<W, MergeError> {
    let opened = |input| open(input).map_err(|error| MergeError::Open { input, error });
    let mut infos = Vec::with_capacity(count);
    for input in 0..count {
        let info = read_info(opened(input)?).map_err(|error| MergeError::Read { input, error })?;
        infos.push((input, info));
    }
    infos.sort_by_key(|(_, info)| info.start_unix_ns);
    let info = merged_info(&infos)?;
    let mut sink = Shifted {
        writer: Writer::create(output, &info)?,
        by_ns: 0,
        before: Summary::default(),
        latest: Summary::default(),
    };
    for (input, of_input) in &infos {
        let input = *input;
        sink.begin(of_input.start_unix_ns.saturating_sub(info.start_unix_ns));
        read(opened(input)?, &mut sink).map_err(|error| MergeError::Read { input, error })?;
    }
    let summary = sink.before.merged(&sink.latest);
    Ok(sink.writer.finish(&summary)?)
}

/// What is known of all of them.
fn merged_info(infos: &[(usize, RecordingInfo)]) -> Result<RecordingInfo, MergeError> {
    let Some((_, first)) = infos.first() else {
        return Ok(RecordingInfo::default());
    };
    let mut merged = first.clone();
    for (input, info) in infos {
        if info.arch != first.arch {
            return Err(MergeError::Arch {
                input: *input,
                arch: info.arch.clone(),
                others: first.arch.clone(),
            });
        }
        if info.command != first.command {
            merged.command.clear();
        }
        for pid in &info.pids {
            if !merged.pids.contains(pid) {
                merged.pids.push(*pid);
            }
        }
    }
    merged.sampler_version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(merged)
}

/// Writes what it is given some time later than it says.
struct Shifted<W> {
    writer: Writer<W>,
    by_ns: u64,
    /// What the recordings before this one held and cost.
    before: Summary,
    /// What this one does, so far.
    latest: Summary,
}

impl<W> Shifted<W> {
    fn begin(&mut self, by_ns: u64) {
        self.by_ns = by_ns;
        self.before = self.before.merged(&std::mem::take(&mut self.latest));
    }
}

impl<W: Write> SampleSink for Shifted<W> {
    type Error = WriteError;

    fn process(&mut self, process: &ProcessInfo) -> Result<ProcessId, WriteError> {
        self.writer.process(process)
    }

    fn thread(&mut self, thread: &ThreadInfo) -> Result<ThreadId, WriteError> {
        self.writer.thread(thread)
    }

    fn module(&mut self, module: &ModuleInfo) -> Result<ModuleId, WriteError> {
        self.writer.module(module)
    }

    fn function(&mut self, function: &Function) -> Result<FunctionId, WriteError> {
        self.writer.function(function)
    }

    fn wait(&mut self, wait: &WaitInfo) -> Result<WaitId, WriteError> {
        self.writer.wait(wait)
    }

    fn mapping(
        &mut self,
        process: ProcessId,
        module: ModuleId,
        start: u64,
        end: u64,
        bias: u64,
    ) -> Result<(), WriteError> {
        self.writer.mapping(process, module, start, end, bias)
    }

    fn jit_code(&mut self, code: &JitCode) -> Result<(), WriteError> {
        // What was there before its recording began was so before any.
        let from_ns = match code.from_ns {
            0 => 0,
            from_ns => from_ns.saturating_add(self.by_ns),
        };
        self.writer.jit_code(&JitCode {
            from_ns,
            ..code.clone()
        })
    }

    fn stack(&mut self, outermost_first: &[FrameKey], end: End) -> Result<StackId, WriteError> {
        self.writer.stack(outermost_first, end)
    }

    fn observation(&mut self, observation: &Observation) -> Result<(), WriteError> {
        self.writer.observation(&Observation {
            at_ns: observation.at_ns.saturating_add(self.by_ns),
            ..*observation
        })
    }

    fn flush(&mut self, summary: &Summary) -> Result<bool, WriteError> {
        self.latest.clone_from(summary);
        self.writer.flush(&self.before.merged(summary))
    }
}
