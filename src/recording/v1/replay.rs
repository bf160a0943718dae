//! The reader of versions 1 and 2: plays records into a sink.

use postcard::take_from_bytes;

use super::super::RecordingInfo;
use super::super::limits::{
    Counts, LimitExceeded, STACK_FRAMES_MAX, START_BYTES_MAX, TABLE_ENTRIES_MAX, at_most,
};
use super::observations::{ColumnsReader, History};
use super::records::{
    self, Record, Start, end_from_number, jit_source_from_number, lines_from_recorded,
};
use super::summary::SummaryCodec;
use crate::profile::{
    Birth, End, FrameKey, FunctionId, JitCode, ModuleId, ModuleInfo, Observation, ProcessId,
    ProcessInfo, SampleSink, StackId, Summary, ThreadId, ThreadInfo, WaitId, WaitInfo,
};
use sampler_unwind::BuildId;
use sampler_unwind::interpreter::Function;

/// Why a record was not played.
#[derive(Debug)]
pub(in super::super) enum ReplayError<E> {
    /// It makes no sense.
    Record(&'static str),
    /// The sink could not take it.
    Sink(E),
}

impl<E> From<&'static str> for ReplayError<E> {
    fn from(what: &'static str) -> Self {
        Self::Record(what)
    }
}

impl<E> From<LimitExceeded> for ReplayError<E> {
    fn from(exceeded: LimitExceeded) -> Self {
        Self::Record(exceeded.what)
    }
}

/// Plays records into a sink, which gives everything ids of its own.
#[derive(Debug)]
pub(in super::super) struct Replay<'s, S> {
    sink: &'s mut S,
    version: u32,
    counts: Counts,
    /// The sink's ids, by ours.
    processes: Vec<ProcessId>,
    /// Of the process whose record is the next.
    birth: Option<Birth>,
    threads: Vec<ThreadId>,
    modules: Vec<ModuleId>,
    functions: Vec<FunctionId>,
    waits: Vec<WaitId>,
    /// With the sink's ids of modules and functions.
    frames: Vec<FrameKey>,
    nodes: Vec<Node>,
    stacks: Vec<Stack>,
    history: History,
    summary_codec: SummaryCodec,
    summary: Option<Summary>,
    /// Kept for its memory.
    outermost_first: Vec<FrameKey>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    caller: Option<u32>,
    frame: u32,
    /// How many frames there are from the outermost to this one.
    depth: u32,
}

#[derive(Clone, Copy, Debug)]
struct Stack {
    node: u32,
    end: End,
    /// What the sink calls it, once it was observed.
    id: Option<StackId>,
}

/// Reads the start record.
pub(in super::super) fn start_info(content: &[u8]) -> Result<RecordingInfo, &'static str> {
    at_most(content.len(), START_BYTES_MAX, "bytes of the start record")
        .map_err(|exceeded| exceeded.what)?;
    match take_from_bytes::<Start<'_>>(content) {
        Ok((start, [])) => Ok(start.into()),
        _ => Err("the start record"),
    }
}

impl<'s, S: SampleSink> Replay<'s, S> {
    /// For a recording of `version` 1 or 2.
    pub(in super::super) fn new(version: u32, sink: &'s mut S) -> Self {
        Self {
            sink,
            version,
            counts: Counts::default(),
            processes: Vec::new(),
            birth: None,
            threads: Vec::new(),
            modules: Vec::new(),
            functions: Vec::new(),
            waits: Vec::new(),
            frames: Vec::new(),
            nodes: Vec::new(),
            stacks: Vec::new(),
            history: History::default(),
            summary_codec: SummaryCodec::default(),
            summary: None,
            outermost_first: Vec::new(),
        }
    }

    /// The summary flushed last.
    pub(in super::super) fn into_summary(self) -> Option<Summary> {
        self.summary
    }

    /// Plays the records of one chunk, up to the first that makes no sense.
    pub(in super::super) fn chunk(
        &mut self,
        mut content: &[u8],
    ) -> Result<(), ReplayError<S::Error>> {
        while !content.is_empty() {
            let (record, rest) = take_from_bytes(content).map_err(|_| "it cannot be decoded")?;
            self.record(record)?;
            content = rest;
        }
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), ReplayError<S::Error>> {
        match record {
            Record::Process {
                pid,
                command_line,
                executable,
            } => self.process(pid, command_line, executable),
            Record::Thread { process, tid, name } => self.thread(process, tid, name),
            Record::Module {
                path,
                build_id,
                image,
            } => self.module(path, build_id, image),
            Record::Mapping {
                process,
                module,
                start,
                end,
                bias,
            } => {
                self.counts.add_mapping()?;
                let process = *named(&self.processes, process, "a process that is not there")?;
                let module = *named(&self.modules, module, "a module that is not there")?;
                self.sink
                    .mapping(process, module, start, end, bias)
                    .map_err(ReplayError::Sink)
            }
            Record::Frame(frame) => {
                let key = frame.key(&self.modules, &self.functions, &self.waits);
                let key = key.ok_or("a frame without meaning")?;
                push(&mut self.frames, key, "frames")
            }
            Record::Node { caller_back, frame } => self.node(caller_back, frame),
            Record::Stack { node, end } => self.stack(node, end),
            Record::Observations { count, columns } => {
                self.observations(ColumnsReader::new(count, columns))
            }
            Record::Flush { summary } => self.flush(summary),
            Record::Birth {
                parent,
                started_ticks,
            } => {
                self.birth = Some(Birth {
                    parent,
                    started_ticks,
                });
                Ok(())
            }
            Record::Function {
                language,
                name,
                file,
                first_line,
            } => self.function(language, name, file, first_line),
            Record::Jit {
                process,
                start,
                size,
                from_ns,
                source,
                name,
                files,
                lines,
            } => {
                self.counts.add_jit_code(name, &files, lines.len())?;
                let code = JitCode {
                    process: *named(&self.processes, process, "a process that is not there")?,
                    start,
                    size,
                    from_ns,
                    source: jit_source_from_number(source)
                        .ok_or("a source of names without meaning")?,
                    name: name.to_owned(),
                    files: files.into_iter().map(str::to_owned).collect(),
                    lines: lines_from_recorded(&lines).ok_or("a line out of range")?,
                };
                self.sink.jit_code(&code).map_err(ReplayError::Sink)
            }
            Record::Wait { .. } if self.version < 2 => Err("a record of a later version".into()),
            Record::Wait { syscall, what } => {
                self.counts.add_wait(what)?;
                let wait = WaitInfo {
                    syscall,
                    what: what.to_owned(),
                };
                let id = self.sink.wait(&wait).map_err(ReplayError::Sink)?;
                self.waits.push(id);
                Ok(())
            }
            Record::Epoch => {
                self.frames.clear();
                self.nodes.clear();
                self.stacks.clear();
                self.history.forget_stacks();
                Ok(())
            }
        }
    }

    fn process(
        &mut self,
        pid: i32,
        command_line: &str,
        executable: &str,
    ) -> Result<(), ReplayError<S::Error>> {
        self.counts.add_process()?;
        self.counts.add_text(command_line.as_bytes())?;
        self.counts.add_text(executable.as_bytes())?;
        let info = ProcessInfo {
            pid,
            birth: self.birth.take(),
            command_line: command_line.to_owned(),
            executable: executable.to_owned(),
        };
        let id = self.sink.process(&info).map_err(ReplayError::Sink)?;
        self.processes.push(id);
        Ok(())
    }

    fn thread(&mut self, process: u32, tid: i32, name: &str) -> Result<(), ReplayError<S::Error>> {
        self.counts.add_thread()?;
        self.counts.add_text(name.as_bytes())?;
        let info = ThreadInfo {
            process: *named(&self.processes, process, "a process that is not there")?,
            tid,
            name: name.to_owned(),
        };
        let id = self.sink.thread(&info).map_err(ReplayError::Sink)?;
        self.threads.push(id);
        Ok(())
    }

    fn module(
        &mut self,
        path: &str,
        build_id: Option<&[u8]>,
        image: Option<&[u8]>,
    ) -> Result<(), ReplayError<S::Error>> {
        self.counts.add_module()?;
        for text in [Some(path.as_bytes()), build_id, image]
            .into_iter()
            .flatten()
        {
            self.counts.add_text(text)?;
        }
        let info = ModuleInfo {
            path: path.to_owned(),
            build_id: build_id.map(|bytes| BuildId(bytes.to_vec())),
            image: image.map(<[u8]>::to_vec),
        };
        let id = self.sink.module(&info).map_err(ReplayError::Sink)?;
        self.modules.push(id);
        Ok(())
    }

    fn function(
        &mut self,
        language: u8,
        name: &str,
        file: &str,
        first_line: u32,
    ) -> Result<(), ReplayError<S::Error>> {
        self.counts.add_function()?;
        self.counts.add_text(name.as_bytes())?;
        self.counts.add_text(file.as_bytes())?;
        let function = Function {
            language: records::language(language).ok_or("a language that is not known")?,
            name: name.to_owned(),
            file: file.to_owned(),
            first_line,
        };
        let id = self.sink.function(&function).map_err(ReplayError::Sink)?;
        self.functions.push(id);
        Ok(())
    }

    fn node(&mut self, caller_back: u32, frame: u32) -> Result<(), ReplayError<S::Error>> {
        named(&self.frames, frame, "a frame that is not there")?;
        let caller = match usize::try_from(caller_back) {
            Ok(0) => None,
            // A caller is always before its node, so there are no loops.
            Ok(back) => self.nodes.len().checked_sub(back),
            Err(_) => None,
        };
        let (caller, depth) = match (caller, caller_back) {
            (None, 0) => (None, 1),
            (None, _) => return Err("a caller that is not there".into()),
            (Some(caller), _) => {
                let depth = self.nodes[caller].depth + 1;
                // Below 2^24 by the bound on the table.
                (Some(u32::try_from(caller).unwrap_or(u32::MAX)), depth)
            }
        };
        if depth > STACK_FRAMES_MAX {
            return Err("frames of a stack".into());
        }
        let node = Node {
            caller,
            frame,
            depth,
        };
        push(&mut self.nodes, node, "nodes")
    }

    fn stack(&mut self, node: u32, end: u8) -> Result<(), ReplayError<S::Error>> {
        named(&self.nodes, node, "a node that is not there")?;
        let end = end_from_number(end).ok_or("a stack that ended in no known way")?;
        let stack = Stack {
            node,
            end,
            id: None,
        };
        push(&mut self.stacks, stack, "stacks")
    }

    fn observations(
        &mut self,
        mut columns: ColumnsReader<'_>,
    ) -> Result<(), ReplayError<S::Error>> {
        while let Some(observation) = columns.next(&mut self.history)? {
            let thread = observation.thread.0;
            let observation = Observation {
                thread: *named(&self.threads, thread, "a thread that is not there")?,
                stack: self.sink_stack(observation.stack.0)?,
                ..observation
            };
            self.sink
                .observation(&observation)
                .map_err(ReplayError::Sink)?;
        }
        Ok(())
    }

    /// The sink's id of a stack, which is handed to it when it is first observed.
    fn sink_stack(&mut self, position: u32) -> Result<StackId, ReplayError<S::Error>> {
        let Stack { node, end, id } = *named(&self.stacks, position, "a stack that is not there")?;
        if let Some(id) = id {
            return Ok(id);
        }
        self.outermost_first.clear();
        let mut next = Some(node);
        // Ends after at most `STACK_FRAMES_MAX` nodes, as their depth says.
        while let Some(position) = next {
            let node = *named(&self.nodes, position, "a node that is not there")?;
            let frame = *named(&self.frames, node.frame, "a frame that is not there")?;
            self.outermost_first.push(frame);
            next = node.caller;
        }
        self.outermost_first.reverse();
        let id = self
            .sink
            .stack(&self.outermost_first, end)
            .map_err(ReplayError::Sink)?;
        if let Some(stack) = self.stacks.get_mut(position as usize) {
            stack.id = Some(id);
        }
        Ok(id)
    }

    fn flush(&mut self, summary: &[u8]) -> Result<(), ReplayError<S::Error>> {
        let summary = self
            .summary_codec
            .decode(summary)
            .map_err(|_| "a summary that cannot be decoded")?;
        let stacks_void = self.sink.flush(&summary).map_err(ReplayError::Sink)?;
        if stacks_void {
            self.stacks.iter_mut().for_each(|stack| stack.id = None);
        }
        self.summary = Some(summary);
        Ok(())
    }
}

fn named<'t, T>(table: &'t [T], id: u32, missing: &'static str) -> Result<&'t T, &'static str> {
    table.get(id as usize).ok_or(missing)
}

fn push<T, E>(table: &mut Vec<T>, entry: T, what: &'static str) -> Result<(), ReplayError<E>> {
    at_most(table.len() + 1, TABLE_ENTRIES_MAX, what)?;
    table.push(entry);
    Ok(())
}
