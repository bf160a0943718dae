//! The records of a chunk. Postcard: an enum's variant by position, numbers as LEB128 varints (signed ones zigzag), a
//! text or byte string behind its length.

use sampler_unwind::FrameOrigin;
use sampler_unwind::interpreter::{Function, FunctionKind, Language, LinePrecision};
use serde::{Deserialize, Serialize};

use super::super::RecordingInfo;
use super::observations::COLUMNS;
use crate::profile::{End, FrameKey, FunctionId, JitLine, JitSource, ModuleId, WaitId};

/// The content of the start chunk.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Start<'a> {
    sampler_version: &'a str,
    start_unix_ns: u64,
    rate_hz: f64,
    kernel_release: &'a str,
    arch: &'a str,
    #[serde(borrow)]
    command: Vec<&'a str>,
    pids: Vec<i32>,
}

/// The content of a records chunk is any number of these.
///
/// Processes, threads, modules, frames, nodes and stacks have no numbers of their own: each is one more than the one
/// before it, from 0. A record names only what came before it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "records are handled one at a time and never stored"
)]
pub(in super::super) enum Record<'a> {
    Process {
        pid: i32,
        command_line: &'a str,
        executable: &'a str,
    },
    Thread {
        process: u32,
        tid: i32,
        name: &'a str,
    },
    Module {
        path: &'a str,
        #[serde(borrow)]
        build_id: Option<&'a [u8]>,
        #[serde(borrow)]
        image: Option<&'a [u8]>,
    },
    Mapping {
        process: u32,
        module: u32,
        start: u64,
        end: u64,
        bias: u64,
    },
    Frame(Frame),
    /// A frame below its caller.
    Node {
        /// How many nodes before this one its caller is; 0 for an outermost frame.
        caller_back: u32,
        frame: u32,
    },
    Stack {
        /// Its innermost node.
        node: u32,
        /// See [`end_number`].
        end: u8,
    },
    /// See `observations.rs`.
    Observations {
        count: u32,
        #[serde(borrow)]
        columns: [Column<'a>; COLUMNS],
    },
    /// All that was observed until now is above. See `summary.rs`.
    Flush {
        summary: &'a [u8],
    },
    /// Frames, nodes and stacks above are no longer named; those below are numbered from 0 again.
    Epoch,
    /// Where the process comes from whose record is the next.
    Birth {
        parent: i32,
        started_ticks: u64,
    },
    /// A function of interpreted code.
    Function {
        /// The position in [`LANGUAGES`].
        language: u8,
        name: &'a str,
        file: &'a str,
        first_line: u32,
    },
    /// Code that a process compiled while it ran.
    Jit {
        process: u32,
        start: u64,
        size: u64,
        /// Since the start of the recording.
        from_ns: u64,
        /// The position in [`JIT_SOURCES`].
        source: u8,
        name: &'a str,
        #[serde(borrow)]
        files: Vec<&'a str>,
        lines: Vec<Line>,
    },
    /// What a sleeper waits for. From version 2 on.
    Wait {
        syscall: u32,
        what: &'a str,
    },
}

/// Where a line of code that was compiled at run time begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Line {
    /// Bytes after the start of the line before, or of the code.
    after: u64,
    /// The position of its file.
    file: u32,
    line: u32,
}

/// A column of numbers. See `packed.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Column<'a> {
    pub(super) is_in_thousands: bool,
    pub(super) lengths: &'a [u8],
    pub(super) bytes: &'a [u8],
}

/// A frame of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) enum Frame {
    Code {
        module: Option<u32>,
        address: u64,
        is_return_address: bool,
        /// The position in [`ORIGINS`].
        origin: u8,
    },
    Syscall(u32),
    Blocked(u32),
    BlockedInFault,
    Stopped,
    Ended,
    NoStack,
    UnseenCpu,
    ChildrenEnded,
    Interpreted {
        function: u32,
        line: u32,
        /// The position in [`PRECISIONS`].
        precision: u8,
        /// The position in [`KINDS`].
        kind: u8,
    },
    HoldsLock,
    NotStopped,
    Asleep,
    /// Asleep, and it is known for what. From version 2 on.
    BlockedOn {
        wait: u32,
    },
}

/// Languages of functions, by number.
const LANGUAGES: [Language; 2] = [Language::Lua, Language::Python];

/// How well a line is known, by number.
const PRECISIONS: [LinePrecision; 3] = [
    LinePrecision::Exact,
    LinePrecision::Block,
    LinePrecision::Function,
];

/// Kinds of interpreted code, by number.
const KINDS: [FunctionKind; 5] = [
    FunctionKind::Interpreted,
    FunctionKind::Compiled,
    FunctionKind::Inlined,
    FunctionKind::Builtin,
    FunctionKind::Pseudo,
];

/// How a frame was found, by number.
const ORIGINS: [FrameOrigin; 11] = [
    FrameOrigin::Registers,
    FrameOrigin::SignalFrame,
    FrameOrigin::CallFrameInfo,
    FrameOrigin::DebugFrame,
    FrameOrigin::KnownCode,
    FrameOrigin::Prologue,
    FrameOrigin::FramePointer,
    FrameOrigin::InferredRegister,
    FrameOrigin::Scan,
    FrameOrigin::Interpreter,
    FrameOrigin::GoTable,
];

/// Who names code that was compiled at run time, by number.
const JIT_SOURCES: [JitSource; 2] = [JitSource::PerfMap, JitSource::JitDump];

/// How a stack ended, by number.
const ENDS: [End; 3] = [End::Complete, End::Truncated, End::Partial];

impl<'a> From<&'a RecordingInfo> for Start<'a> {
    fn from(info: &'a RecordingInfo) -> Self {
        Self {
            sampler_version: &info.sampler_version,
            start_unix_ns: info.start_unix_ns,
            rate_hz: info.rate_hz,
            kernel_release: &info.kernel_release,
            arch: &info.arch,
            command: info.command.iter().map(String::as_str).collect(),
            pids: info.pids.clone(),
        }
    }
}

impl From<Start<'_>> for RecordingInfo {
    fn from(start: Start<'_>) -> Self {
        Self {
            sampler_version: start.sampler_version.to_owned(),
            start_unix_ns: start.start_unix_ns,
            rate_hz: start.rate_hz,
            kernel_release: start.kernel_release.to_owned(),
            arch: start.arch.to_owned(),
            command: start.command.into_iter().map(str::to_owned).collect(),
            pids: start.pids,
        }
    }
}

impl From<FrameKey> for Frame {
    fn from(key: FrameKey) -> Self {
        match key {
            FrameKey::Code {
                module,
                address,
                is_return_address,
                origin,
            } => Frame::Code {
                module: module.map(|module| module.0),
                address,
                is_return_address,
                origin: origin_number(origin),
            },
            FrameKey::Interpreted {
                function,
                line,
                precision,
                kind,
            } => Frame::Interpreted {
                function: function.0,
                line,
                precision: precision_number(precision),
                kind: kind_number(kind),
            },
            // A recording has the code's name apart from the frames in it.
            FrameKey::Jit {
                address,
                is_return_address,
                ..
            } => Frame::Code {
                module: None,
                address,
                is_return_address,
                origin: origin_number(FrameOrigin::Registers),
            },
            FrameKey::Syscall(number) => Frame::Syscall(number),
            FrameKey::Blocked(number) => Frame::Blocked(number),
            FrameKey::BlockedOn(wait) => Frame::BlockedOn { wait: wait.0 },
            FrameKey::BlockedInFault => Frame::BlockedInFault,
            FrameKey::Stopped => Frame::Stopped,
            FrameKey::Ended => Frame::Ended,
            FrameKey::NoStack => Frame::NoStack,
            FrameKey::HoldsLock => Frame::HoldsLock,
            FrameKey::NotStopped => Frame::NotStopped,
            FrameKey::Asleep => Frame::Asleep,
            FrameKey::UnseenCpu => Frame::UnseenCpu,
            FrameKey::ChildrenEnded => Frame::ChildrenEnded,
        }
    }
}

impl Frame {
    /// The same for a sink, which has the modules, functions and waits under ids of its own. `None` for one of these, or for
    /// an origin, kind or precision, that there is not.
    pub(super) fn key(
        self,
        modules: &[ModuleId],
        functions: &[FunctionId],
        waits: &[WaitId],
    ) -> Option<FrameKey> {
        Some(match self {
            Frame::Code {
                module,
                address,
                is_return_address,
                origin,
            } => FrameKey::Code {
                module: match module {
                    Some(module) => Some(*modules.get(module as usize)?),
                    None => None,
                },
                address,
                is_return_address,
                origin: *ORIGINS.get(usize::from(origin))?,
            },
            Frame::Interpreted {
                function,
                line,
                precision,
                kind,
            } => FrameKey::Interpreted {
                function: *functions.get(function as usize)?,
                line,
                precision: *PRECISIONS.get(usize::from(precision))?,
                kind: *KINDS.get(usize::from(kind))?,
            },
            Frame::Syscall(number) => FrameKey::Syscall(number),
            Frame::Blocked(number) => FrameKey::Blocked(number),
            Frame::BlockedOn { wait } => FrameKey::BlockedOn(*waits.get(wait as usize)?),
            Frame::BlockedInFault => FrameKey::BlockedInFault,
            Frame::Stopped => FrameKey::Stopped,
            Frame::Ended => FrameKey::Ended,
            Frame::NoStack => FrameKey::NoStack,
            Frame::HoldsLock => FrameKey::HoldsLock,
            Frame::NotStopped => FrameKey::NotStopped,
            Frame::Asleep => FrameKey::Asleep,
            Frame::UnseenCpu => FrameKey::UnseenCpu,
            Frame::ChildrenEnded => FrameKey::ChildrenEnded,
        })
    }
}

/// The position in [`ORIGINS`].
fn origin_number(origin: FrameOrigin) -> u8 {
    match origin {
        FrameOrigin::Registers => 0,
        FrameOrigin::SignalFrame => 1,
        FrameOrigin::CallFrameInfo => 2,
        FrameOrigin::DebugFrame => 3,
        FrameOrigin::KnownCode => 4,
        FrameOrigin::Prologue => 5,
        FrameOrigin::FramePointer => 6,
        FrameOrigin::InferredRegister => 7,
        FrameOrigin::Scan => 8,
        FrameOrigin::Interpreter => 9,
        FrameOrigin::GoTable => 10,
    }
}

/// The record of a function.
pub(in super::super) fn function_record(function: &Function) -> Record<'_> {
    Record::Function {
        language: match function.language {
            Language::Lua => 0,
            Language::Python => 1,
        },
        name: &function.name,
        file: &function.file,
        first_line: function.first_line,
    }
}

/// The language of a number in a record.
pub(super) fn language(number: u8) -> Option<Language> {
    LANGUAGES.get(usize::from(number)).copied()
}

/// The position in [`PRECISIONS`].
fn precision_number(precision: LinePrecision) -> u8 {
    match precision {
        LinePrecision::Exact => 0,
        LinePrecision::Block => 1,
        LinePrecision::Function => 2,
    }
}

/// The position in [`KINDS`].
fn kind_number(kind: FunctionKind) -> u8 {
    match kind {
        FunctionKind::Interpreted => 0,
        FunctionKind::Compiled => 1,
        FunctionKind::Inlined => 2,
        FunctionKind::Builtin => 3,
        FunctionKind::Pseudo => 4,
    }
}

/// The position in [`JIT_SOURCES`].
pub(in super::super) fn jit_source_number(source: JitSource) -> u8 {
    match source {
        JitSource::PerfMap => 0,
        JitSource::JitDump => 1,
    }
}

/// Who names code; `None` for a number without meaning.
pub(super) fn jit_source_from_number(number: u8) -> Option<JitSource> {
    JIT_SOURCES.get(usize::from(number)).copied()
}

/// `lines` as they are recorded.
pub(in super::super) fn recorded_lines(lines: &[JitLine]) -> Vec<Line> {
    let mut last = 0;
    lines
        .iter()
        .map(|line| Line {
            after: line
                .offset
                .wrapping_sub(std::mem::replace(&mut last, line.offset)),
            file: line.file,
            line: line.line,
        })
        .collect()
}

/// The lines that were recorded as `lines`; `None` where they lie beyond all memory.
pub(super) fn lines_from_recorded(lines: &[Line]) -> Option<Vec<JitLine>> {
    let mut offset = 0u64;
    lines
        .iter()
        .map(|line| {
            offset = offset.checked_add(line.after)?;
            Some(JitLine {
                offset,
                file: line.file,
                line: line.line,
            })
        })
        .collect()
}

/// The position in [`ENDS`].
pub(in super::super) fn end_number(end: End) -> u8 {
    match end {
        End::Complete => 0,
        End::Truncated => 1,
        End::Partial => 2,
    }
}

/// How a stack ended; `None` for a number without meaning.
pub(super) fn end_from_number(number: u8) -> Option<End> {
    ENDS.get(usize::from(number)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions_in_the_tables() {
        for (number, origin) in (0..).zip(ORIGINS) {
            assert_eq!(origin_number(origin), number);
        }
        for (number, end) in (0..).zip(ENDS) {
            assert_eq!(end_number(end), number);
            assert_eq!(end_from_number(number), Some(end));
        }
        for (number, source) in (0..).zip(JIT_SOURCES) {
            assert_eq!(jit_source_number(source), number);
        }
        assert_eq!(end_from_number(3), None);
    }

    /// The bytes of version 1, which recordings on other people's disks are made of.
    #[test]
    fn records_are_encoded_as_the_format_says() {
        let bytes = |record: &Record<'_>| postcard::to_stdvec(record).unwrap_or_default();
        let thread = Record::Thread {
            process: 1,
            tid: 300,
            name: "io",
        };
        assert_eq!(bytes(&thread), [1, 1, 0xd8, 0x04, 2, b'i', b'o']);
        let module = Record::Module {
            path: "a",
            build_id: Some(&[0xab, 0xcd]),
            image: None,
        };
        assert_eq!(bytes(&module), [2, 1, b'a', 1, 2, 0xab, 0xcd, 0]);
        let frame = Record::Frame(Frame::Code {
            module: Some(2),
            address: 0x1234,
            is_return_address: true,
            origin: 2,
        });
        assert_eq!(bytes(&frame), [4, 0, 1, 2, 0xb4, 0x24, 1, 2]);
        let node = Record::Node {
            caller_back: 1,
            frame: 200,
        };
        assert_eq!(bytes(&node), [5, 1, 0xc8, 0x01]);
        assert_eq!(bytes(&Record::Stack { node: 5, end: 2 }), [6, 5, 2]);
        let mut columns = [Column::default(); COLUMNS];
        columns[7] = Column {
            is_in_thousands: true,
            lengths: &[2],
            bytes: &[8, 9],
        };
        let observations = Record::Observations { count: 1, columns };
        let mut expected = vec![7, 1];
        expected.extend([0; 21]);
        expected.extend([1, 1, 2, 2, 8, 9]);
        assert_eq!(bytes(&observations), expected);
        assert_eq!(bytes(&Record::Flush { summary: &[1] }), [8, 1, 1]);
        assert_eq!(bytes(&Record::Epoch), [9]);
        assert_eq!(bytes(&Record::Frame(Frame::UnseenCpu)), [4, 7]);
        assert_eq!(bytes(&Record::Frame(Frame::ChildrenEnded)), [4, 8]);
        let birth = Record::Birth {
            parent: 1,
            started_ticks: 300,
        };
        assert_eq!(bytes(&birth), [10, 2, 0xac, 0x02]);
        let lines =
            [(4, 1, 7), (20, 0, 300)].map(|(offset, file, line)| JitLine { offset, file, line });
        let jit = Record::Jit {
            process: 1,
            start: 0x1234,
            size: 64,
            from_ns: 5,
            source: 1,
            name: "f",
            files: vec!["a", "b"],
            lines: recorded_lines(&lines),
        };
        assert_eq!(
            bytes(&jit),
            [
                12, 1, 0xb4, 0x24, 64, 5, 1, 1, b'f', 2, 1, b'a', 1, b'b', 2, 4, 1, 7, 16, 0, 0xac,
                0x02
            ]
        );
        assert_eq!(
            lines_from_recorded(&recorded_lines(&lines)),
            Some(lines.to_vec())
        );
    }
}
