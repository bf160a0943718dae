//! Writes a recording as it goes.

use std::io::{self, Write};

use sampler_unwind::interpreter::Function;

use super::chunk::{ChunkKind, encode};
use super::limits::{
    CHUNK_BYTES_MAX, Counts, FUNCTIONS_MAX, LimitExceeded, STACK_FRAMES_MAX, START_BYTES_MAX,
    TABLE_ENTRIES_MAX, THREADS_MAX, at_most,
};
use super::v1::{
    Columns, Frame, History, Record, Start, SummaryCodec, end_number, function_record,
    jit_source_number, recorded_lines,
};
use super::{MAGIC, RecordingInfo, VERSION};
use crate::profile::{
    End, FrameKey, FunctionId, JitCode, ModuleId, ModuleInfo, Observation, ProcessId, ProcessInfo,
    SampleSink, StackId, StackNode, StackTable, Summary, ThreadId, ThreadInfo, UnknownId, WaitId,
    WaitInfo,
};

/// A chunk is written when this many bytes wait, even if no flush is due.
pub(super) const CHUNK_BYTES_GOAL: usize = 256 << 10;

/// How many nodes the stack table may hold at a flush before it is cleared.
///
/// Most programs have fewer for hours. One that shows ever new stacks has its memory bounded by this; the stacks that it
/// shows again are written again, some ten bytes for a node.
const TABLE_NODES_GOAL: usize = 24 << 10;

/// How many there is room for from the start, in some 4 MB: so many may come until the next flush. Seven eighths of a
/// power of two are what a hash table of that size takes.
const TABLE_NODES_ROOM: usize = 28 << 10;

/// The number of the thread that stands for all those that are too many: no thread's, nor 0, which the recorder gives
/// to what ended unseen.
const OTHER_THREADS_TID: i32 = -1;

/// How long the record of a node and of its share of frames and stacks is, roughly.
const NODE_BYTES: usize = 12;

/// Why a recording cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It could not be written.
    #[error("cannot write the recording")]
    Io(#[from] io::Error),
    /// It would hold more than a reader takes.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// The caller named what it never gave.
    #[error(transparent)]
    UnknownId(#[from] UnknownId),
    /// A record could not be encoded.
    #[error("cannot encode a record")]
    Encode(#[from] postcard::Error),
}

/// Writes what it is given to `output`, a whole chunk with a single call at each flush, and whenever 256 KiB wait.
///
/// Memory does not grow with time: there is room for many stacks from the start, and they are forgotten when there are
/// more; the rest is what waits to be written. After an error what was written before remains readable; nothing more should be written.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    bytes_written: u64,
    counts: Counts,
    table: StackTable,
    table_nodes_goal: usize,
    /// How many threads have a record of their own; one more stands for all others.
    own_threads_max: u32,
    /// The one that does.
    other_threads: Option<ThreadId>,
    /// The function that stands for all those that are too many.
    other_functions: Option<FunctionId>,
    /// How much of `table` has its records.
    recorded: Recorded,
    history: History,
    summary: SummaryCodec,
    /// Observations whose record is yet to be made.
    observations: Columns,
    /// Records that wait to be written.
    records: Vec<u8>,
}

#[derive(Debug, Default)]
struct Recorded {
    frames: usize,
    nodes: usize,
    stacks: usize,
}

impl<W: Write> Writer<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// When `output` cannot be written to.
    pub fn create(output: W, info: &RecordingInfo) -> Result<Self, WriteError> {
        let start = postcard::to_stdvec(&Start::from(info))?;
        at_most(start.len(), START_BYTES_MAX, "bytes of command and pids")?;
        let mut writer = Self {
            output,
            bytes_written: 0,
            counts: Counts::default(),
            table: StackTable::with_room(TABLE_NODES_ROOM),
            table_nodes_goal: TABLE_NODES_GOAL,
            own_threads_max: THREADS_MAX - 1,
            other_threads: None,
            other_functions: None,
            recorded: Recorded::default(),
            history: History::default(),
            summary: SummaryCodec::default(),
            observations: Columns::default(),
            records: Vec::new(),
        };
        // In one piece, so that there is no time at which the file is no recording.
        let mut bytes = [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat();
        bytes.extend(encode(ChunkKind::Start, &start));
        writer.write(&bytes)?;
        Ok(writer)
    }

    /// Flushes, ends the recording, and gives its output back.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn finish(mut self, summary: &Summary) -> Result<W, WriteError> {
        self.flush(summary)?;
        self.write(&encode(ChunkKind::End, &[]))?;
        Ok(self.output)
    }

    /// Gives the output back without ending the recording.
    pub fn into_output(self) -> W {
        self.output
    }

    /// How long the recording is so far.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Sets how many nodes the stack table may hold at a flush.
    #[cfg(test)]
    pub(super) fn set_table_nodes_goal(&mut self, nodes: usize) {
        self.table_nodes_goal = nodes;
    }

    /// Sets how many threads have a record of their own.
    #[cfg(test)]
    pub(super) fn set_own_threads_max(&mut self, threads: u32) {
        self.own_threads_max = threads;
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.output.write_all(bytes)?;
        self.output.flush()?;
        self.bytes_written += bytes.len() as u64;
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), WriteError> {
        if self.records.is_empty() {
            return Ok(());
        }
        at_most(self.records.len(), CHUNK_BYTES_MAX, "bytes of a record")?;
        let chunk = encode(ChunkKind::Records, &self.records);
        self.records.clear();
        self.write(&chunk)
    }

    /// Appends a record to those that wait.
    fn push(&mut self, record: &Record<'_>) -> Result<(), WriteError> {
        postcard::to_io(record, &mut self.records)?;
        self.write_chunk_if_large()
    }

    fn write_chunk_if_large(&mut self) -> Result<(), WriteError> {
        if self.records.len() >= CHUNK_BYTES_GOAL {
            self.write_chunk()?;
        }
        Ok(())
    }

    fn add_function(&mut self, function: &Function) -> Result<FunctionId, WriteError> {
        self.counts.add_text(function.name.as_bytes())?;
        self.counts.add_text(function.file.as_bytes())?;
        let id = FunctionId(self.counts.add_function()?);
        self.make_records()?;
        self.push(&function_record(function))?;
        Ok(id)
    }

    /// Makes records of all that was given so far: new frames, nodes and stacks, then the observations that name them.
    fn make_records(&mut self) -> Result<(), WriteError> {
        while let Some(&frame) = self.table.frames().get(self.recorded.frames) {
            self.recorded.frames += 1;
            self.push(&Record::Frame(Frame::from(frame)))?;
        }
        while let Some(&node) = self.table.nodes().get(self.recorded.nodes) {
            let record = node_record(node, self.recorded.nodes);
            self.recorded.nodes += 1;
            self.push(&record)?;
        }
        while let Some(&(node, end)) = self.table.stacks().get(self.recorded.stacks) {
            self.recorded.stacks += 1;
            self.push(&Record::Stack {
                node: node.0,
                end: end_number(end),
            })?;
        }
        if !self.observations.is_empty() {
            postcard::to_io(&self.observations.record(), &mut self.records)?;
            self.observations.clear();
            self.write_chunk_if_large()?;
        }
        Ok(())
    }

    fn make_records_if_many(&mut self) -> Result<(), WriteError> {
        let new_nodes = self.table.nodes().len() - self.recorded.nodes;
        let waiting = self.observations.bytes() + new_nodes * NODE_BYTES;
        if self.records.len() + waiting >= CHUNK_BYTES_GOAL {
            self.make_records()?;
            self.write_chunk()?;
        }
        Ok(())
    }

    fn add_thread(
        &mut self,
        process: ProcessId,
        tid: i32,
        name: &str,
    ) -> Result<ThreadId, WriteError> {
        self.counts.add_text(name.as_bytes())?;
        let id = ThreadId(self.counts.add_thread()?);
        self.make_records()?;
        self.push(&Record::Thread {
            process: process.0,
            tid,
            name,
        })?;
        Ok(id)
    }

    fn clear_table(&mut self) -> Result<(), WriteError> {
        postcard::to_io(&Record::Epoch, &mut self.records)?;
        self.table.clear();
        self.recorded = Recorded::default();
        self.history.forget_stacks();
        Ok(())
    }
}

fn node_record(node: StackNode, position: usize) -> Record<'static> {
    let back = node.caller.map_or(0, |caller| position - caller.index());
    Record::Node {
        // Positions are bounded by `TABLE_ENTRIES_MAX`.
        caller_back: u32::try_from(back).unwrap_or(u32::MAX),
        frame: node.frame.0,
    }
}

impl<W: Write> SampleSink for Writer<W> {
    type Error = WriteError;

    fn process(&mut self, process: &ProcessInfo) -> Result<ProcessId, WriteError> {
        self.counts.add_text(process.command_line.as_bytes())?;
        self.counts.add_text(process.executable.as_bytes())?;
        let id = ProcessId(self.counts.add_process()?);
        self.make_records()?;
        if let Some(birth) = process.birth {
            self.push(&Record::Birth {
                parent: birth.parent,
                started_ticks: birth.started_ticks,
            })?;
        }
        self.push(&Record::Process {
            pid: process.pid,
            command_line: &process.command_line,
            executable: &process.executable,
        })?;
        Ok(id)
    }

    fn thread(&mut self, thread: &ThreadInfo) -> Result<ThreadId, WriteError> {
        self.check_process(thread.process)?;
        // A program that starts a thread for each request comes to so many within a day; its recording goes on.
        if self.counts.threads < self.own_threads_max {
            return self.add_thread(thread.process, thread.tid, &thread.name);
        }
        if let Some(others) = self.other_threads {
            return Ok(others);
        }
        let others = self.add_thread(thread.process, OTHER_THREADS_TID, "(further threads)")?;
        self.other_threads = Some(others);
        Ok(others)
    }

    fn module(&mut self, module: &ModuleInfo) -> Result<ModuleId, WriteError> {
        let build_id = module.build_id.as_ref().map(|build_id| &*build_id.0);
        let image = module.image.as_deref();
        let texts = [Some(module.path.as_bytes()), build_id, image];
        for text in texts.into_iter().flatten() {
            self.counts.add_text(text)?;
        }
        let id = ModuleId(self.counts.add_module()?);
        self.make_records()?;
        self.push(&Record::Module {
            path: &module.path,
            build_id,
            image,
        })?;
        Ok(id)
    }

    fn function(&mut self, function: &Function) -> Result<FunctionId, WriteError> {
        // A program that compiles code for each request comes to so many; its recording goes on.
        if self.counts.functions < FUNCTIONS_MAX - 1 {
            return self.add_function(function);
        }
        if let Some(others) = self.other_functions {
            return Ok(others);
        }
        let others = self.add_function(&Function {
            language: function.language,
            name: "(further functions)".to_owned(),
            file: String::new(),
            first_line: 0,
        })?;
        self.other_functions = Some(others);
        Ok(others)
    }

    fn wait(&mut self, wait: &WaitInfo) -> Result<WaitId, WriteError> {
        let id = WaitId(self.counts.add_wait(&wait.what)?);
        self.make_records()?;
        self.push(&Record::Wait {
            syscall: wait.syscall,
            what: &wait.what,
        })?;
        Ok(id)
    }

    fn mapping(
        &mut self,
        process: ProcessId,
        module: ModuleId,
        start: u64,
        end: u64,
        bias: u64,
    ) -> Result<(), WriteError> {
        self.check_process(process)?;
        self.check_module(module)?;
        self.counts.add_mapping()?;
        self.make_records()?;
        self.push(&Record::Mapping {
            process: process.0,
            module: module.0,
            start,
            end,
            bias,
        })
    }

    fn jit_code(&mut self, code: &JitCode) -> Result<(), WriteError> {
        self.check_process(code.process)?;
        self.counts
            .add_jit_code(&code.name, &code.files, code.lines.len())?;
        self.make_records()?;
        self.push(&Record::Jit {
            process: code.process.0,
            start: code.start,
            size: code.size,
            from_ns: code.from_ns,
            source: jit_source_number(code.source),
            name: &code.name,
            files: code.files.iter().map(String::as_str).collect(),
            lines: recorded_lines(&code.lines),
        })
    }

    fn stack(&mut self, outermost_first: &[FrameKey], end: End) -> Result<StackId, WriteError> {
        at_most(
            outermost_first.len(),
            STACK_FRAMES_MAX as usize,
            "frames of a stack",
        )?;
        for frame in outermost_first {
            match *frame {
                FrameKey::Code {
                    module: Some(module),
                    ..
                } => self.check_module(module)?,
                FrameKey::Interpreted { function, .. } => self.check_function(function)?,
                FrameKey::BlockedOn(wait) => self.check_wait(wait)?,
                _ => {}
            }
        }
        let stack = self.table.intern_slice(outermost_first, end);
        at_most(self.table.frames().len(), TABLE_ENTRIES_MAX, "frames")?;
        at_most(self.table.nodes().len(), TABLE_ENTRIES_MAX, "nodes")?;
        at_most(self.table.stacks().len(), TABLE_ENTRIES_MAX, "stacks")?;
        self.make_records_if_many()?;
        Ok(stack)
    }

    fn observation(&mut self, observation: &Observation) -> Result<(), WriteError> {
        if observation.thread.0 >= self.counts.threads {
            return Err(UnknownId::Thread(observation.thread).into());
        }
        if observation.stack.index() >= self.table.stacks().len() {
            return Err(UnknownId::Stack(observation.stack).into());
        }
        self.observations.push(&mut self.history, observation);
        self.make_records_if_many()
    }

    fn flush(&mut self, summary: &Summary) -> Result<bool, WriteError> {
        self.make_records()?;
        let summary = self.summary.encode(summary)?;
        postcard::to_io(&Record::Flush { summary: &summary }, &mut self.records)?;
        let full = self.table.nodes().len() > self.table_nodes_goal;
        if full {
            self.clear_table()?;
        }
        self.write_chunk()?;
        Ok(full)
    }
}

impl<W> Writer<W> {
    fn check_process(&self, process: ProcessId) -> Result<(), UnknownId> {
        if process.0 < self.counts.processes {
            Ok(())
        } else {
            Err(UnknownId::Process(process))
        }
    }

    fn check_wait(&self, wait: WaitId) -> Result<(), UnknownId> {
        if wait.0 < self.counts.waits {
            Ok(())
        } else {
            Err(UnknownId::Wait(wait))
        }
    }

    fn check_function(&self, function: FunctionId) -> Result<(), UnknownId> {
        if function.0 < self.counts.functions {
            Ok(())
        } else {
            Err(UnknownId::Function(function))
        }
    }

    fn check_module(&self, module: ModuleId) -> Result<(), UnknownId> {
        if module.0 < self.counts.modules {
            Ok(())
        } else {
            Err(UnknownId::Module(module))
        }
    }
}
