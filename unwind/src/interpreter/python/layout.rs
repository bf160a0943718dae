//! Where CPython keeps what a walk reads, by version.
//!
//! 3.13 and later describe themselves (`debug_offsets.rs`); older ones are tables here, compiled out of the headers of
//! 3.8.18, 3.9.18, 3.10.13, 3.11.2, 3.11.7 and 3.12.1 for a 64-bit build (`tests/python.rs` compiles them again). Within
//! a minor version the layouts do not change: CPython keeps its binary interface there.

use std::fmt;

use super::objects::{Attributes, Keys, ObjectLayout};

/// A release of CPython 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PythonVersion {
    /// The second number: 11 of 3.11.2.
    pub minor: u8,
    /// The third number, where the binary tells.
    pub micro: Option<u8>,
}

impl PythonVersion {
    /// Of `PY_VERSION_HEX` (`patchlevel.h`): major, minor, micro, and level with serial, a byte each.
    pub(super) fn from_hex(hex: u32) -> Option<Self> {
        let [major, minor, micro, _] = hex.to_be_bytes();
        (major == 3).then_some(Self {
            minor,
            micro: Some(micro),
        })
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPython 3.{}", self.minor)?;
        self.micro.map_or(Ok(()), |micro| write!(f, ".{micro}"))
    }
}

/// Offsets in bytes, and what else differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `_PyRuntimeState.interpreters.head`.
    pub interpreters_head: u32,
    /// `PyInterpreterState.next`.
    pub interpreter_next: u32,
    /// `PyInterpreterState.threads.head`, before 3.11 `tstate_head`.
    pub threads_head: u32,
    /// Where the interpreter's lock is.
    pub gil: Gil,
    /// `PyThreadState`.
    pub thread: ThreadLayout,
    /// The activations of functions.
    pub frame: FrameLayout,
    /// `PyCodeObject`.
    pub code: CodeLayout,
    /// The encoding of a code object's lines.
    pub lines: LineTable,
    /// `sizeof(PyASCIIObject)`: where the characters of an ASCII string begin.
    pub ascii_header: u32,
    /// `sizeof(PyCompactUnicodeObject)`: where those of any other string begin.
    pub text_header: u32,
    /// Dictionaries and attributes.
    pub objects: ObjectLayout,
}

/// Where the lock that a thread holds while it runs Python code is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gil {
    /// In `_PyRuntimeState`, at this offset: one for all interpreters.
    OfRuntime(u32),
    /// `PyInterpreterState` has a pointer to it at this offset: each interpreter may have its own (3.12).
    OfInterpreter(u32),
}

/// `struct _gil_runtime_state`: `last_holder` and `locked`. The same from 3.8 to 3.15 (`pycore_gil.h`).
pub(super) const GIL_LAST_HOLDER: u32 = 8;
/// As [`GIL_LAST_HOLDER`].
pub(super) const GIL_LOCKED: u32 = 16;

/// `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadLayout {
    /// `next`.
    pub next: u32,
    /// `thread_id`: what `pthread_self` gives, on Linux the thread pointer.
    pub thread_id: u32,
    /// `native_thread_id`: what `gettid` gives, in the process's own pid namespace (3.11).
    pub native_thread_id: Option<u32>,
    /// What leads to its innermost frame.
    pub current: Current,
    /// `datastack_chunk`: the innermost of the chunks in which frames lie (3.11).
    pub chunk: Option<u32>,
}

/// What leads from a `PyThreadState` to the innermost frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Current {
    /// A pointer to it at this offset.
    Frame(u32),
    /// A pointer to a `_PyCFrame` on the C stack, one for each activation of the evaluation loop (3.11, 3.12).
    CFrame {
        /// `PyThreadState.cframe`.
        pointer: u32,
        /// `_PyCFrame.current_frame`.
        frame: u32,
        /// `_PyCFrame.previous`: that of the activation outside.
        previous: u32,
        /// `PyThreadState.root_cframe`: that of no activation.
        root: u32,
    },
}

/// One activation of a function: `PyFrameObject` before 3.11, `_PyInterpreterFrame` from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameLayout {
    /// `f_back`, `previous`.
    pub previous: u32,
    /// `f_code`, from 3.13 on `f_executable`.
    pub code: u32,
    /// How far it has come.
    pub instruction: Instruction,
    /// Where one activation of the evaluation loop ends.
    pub boundary: Boundary,
}

/// How a frame says how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// `f_lasti`, a 32-bit number, in units of so many bytes.
    Index {
        /// Offset in the frame.
        at: u32,
        /// 1 before 3.10, then 2.
        unit: u32,
    },
    /// A pointer into the code object's own bytes: `prev_instr`, from 3.13 on `instr_ptr`.
    Pointer(u32),
}

/// Where the frames of one activation of `_PyEval_EvalFrameDefault` end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary {
    /// Each frame has its own (before 3.11).
    EachFrame,
    /// `is_entry` is set in the outermost of them (3.11).
    IsEntry(u32),
    /// A frame that stands for no function lies behind them: one whose `owner` is at least this. It lies on the C stack,
    /// inside the frame of the activation (3.12).
    Shim {
        /// `owner`.
        owner: u32,
        /// `FRAME_OWNED_BY_CSTACK`, from 3.14 on `FRAME_OWNED_BY_INTERPRETER`.
        from: u8,
    },
}

/// `PyCodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeLayout {
    /// `co_name`, from 3.11 on `co_qualname`.
    pub name: u32,
    /// `co_filename`.
    pub file: u32,
    /// `co_firstlineno`.
    pub first_line: u32,
    /// `co_lnotab`, from 3.10 on `co_linetable`.
    pub lines: u32,
    /// `co_code_adaptive`, from 3.11 on: the first instruction.
    pub instructions: u32,
}

/// How a code object's lines are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineTable {
    /// Pairs of bytes and lines (`Objects/lnotab_notes.txt` of 3.9).
    Lnotab,
    /// The same, in ranges that may have no line (`Objects/lnotab_notes.txt` of 3.10, PEP 626).
    Ranges,
    /// The location table (`Objects/locations.md` of 3.11, PEP 657).
    Locations,
}

impl Layout {
    /// The layout of a version that has no `_Py_DebugOffsets`.
    pub(super) fn of(version: PythonVersion) -> Option<&'static Layout> {
        match version.minor {
            8 => Some(&V3_8),
            9 => Some(&V3_9),
            10 => Some(&V3_10),
            11 => Some(&V3_11),
            12 => Some(&V3_12),
            _ => None,
        }
    }

    /// How much of a `PyThreadState` must be copied.
    pub(super) fn thread_bytes(&self) -> usize {
        let thread = &self.thread;
        let current = match thread.current {
            Current::Frame(offset) => offset,
            Current::CFrame { root, .. } => root + 16,
        };
        let last = [
            thread.thread_id,
            thread.native_thread_id.unwrap_or(0),
            current,
        ];
        behind(&last)
    }

    /// How much of a frame must be copied.
    pub(super) fn frame_bytes(&self) -> usize {
        let frame = &self.frame;
        let (Instruction::Index { at, .. } | Instruction::Pointer(at)) = frame.instruction;
        let boundary = match frame.boundary {
            Boundary::EachFrame => 0,
            Boundary::IsEntry(offset) | Boundary::Shim { owner: offset, .. } => offset,
        };
        behind(&[frame.previous, frame.code, at, boundary])
    }

    /// How much of a code object must be read.
    pub(super) fn code_bytes(&self) -> usize {
        let code = &self.code;
        behind(&[code.name, code.file, code.first_line, code.lines])
    }
}

/// Behind the last of the words at `offsets`.
fn behind(offsets: &[u32]) -> usize {
    offsets.iter().max().map_or(0, |last| *last as usize + 8)
}

static V3_8: Layout = Layout {
    gil: Gil::OfRuntime(1152),
    objects: ObjectLayout {
        modules: 56,
        ..V3_10.objects
    },
    ..V3_9
};

static V3_9: Layout = Layout {
    frame: FrameLayout {
        instruction: Instruction::Index { at: 104, unit: 1 },
        ..V3_10.frame
    },
    lines: LineTable::Lnotab,
    objects: ObjectLayout {
        cached_keys: 864,
        ..V3_10.objects
    },
    ..V3_10
};

static V3_10: Layout = Layout {
    interpreters_head: 32,
    interpreter_next: 0,
    threads_head: 8,
    gil: Gil::OfRuntime(352),
    thread: ThreadLayout {
        next: 8,
        thread_id: 176,
        native_thread_id: None,
        current: Current::Frame(24),
        chunk: None,
    },
    frame: FrameLayout {
        previous: 24,
        code: 32,
        instruction: Instruction::Index { at: 96, unit: 2 },
        boundary: Boundary::EachFrame,
    },
    code: CodeLayout {
        name: 112,
        file: 104,
        first_line: 40,
        lines: 120,
        instructions: 0,
    },
    lines: LineTable::Ranges,
    ascii_header: 48,
    text_header: 72,
    objects: ObjectLayout {
        modules: 856,
        cached_keys: 872,
        keys: Keys::Sized,
        attributes: Attributes::Dict,
        values: 0,
        one_digit: 1,
    },
};

static V3_11: Layout = Layout {
    interpreters_head: 40,
    interpreter_next: 0,
    threads_head: 16,
    gil: Gil::OfRuntime(360),
    thread: ThreadLayout {
        next: 8,
        thread_id: 152,
        native_thread_id: Some(160),
        current: Current::CFrame {
            pointer: 56,
            frame: 8,
            previous: 16,
            root: 336,
        },
        chunk: Some(296),
    },
    frame: FrameLayout {
        previous: 48,
        code: 32,
        instruction: Instruction::Pointer(56),
        boundary: Boundary::IsEntry(68),
    },
    code: CodeLayout {
        name: 128,
        file: 112,
        first_line: 72,
        lines: 136,
        instructions: 184,
    },
    lines: LineTable::Locations,
    ascii_header: 48,
    text_header: 72,
    objects: ObjectLayout {
        modules: 888,
        keys: Keys::Kinds,
        attributes: Attributes::ValuesAndDict,
        ..V3_10.objects
    },
};

static V3_12: Layout = Layout {
    threads_head: 72,
    gil: Gil::OfInterpreter(384),
    thread: ThreadLayout {
        next: 8,
        thread_id: 136,
        native_thread_id: Some(144),
        current: Current::CFrame {
            pointer: 56,
            frame: 0,
            previous: 8,
            root: 272,
        },
        chunk: Some(232),
    },
    frame: FrameLayout {
        previous: 8,
        code: 0,
        instruction: Instruction::Pointer(56),
        boundary: Boundary::Shim { owner: 70, from: 3 },
    },
    code: CodeLayout {
        first_line: 68,
        instructions: 192,
        ..V3_11.code
    },
    ascii_header: 40,
    text_header: 56,
    objects: ObjectLayout {
        modules: 944,
        cached_keys: 880,
        attributes: Attributes::ValuesOrDict,
        one_digit: 8,
        ..V3_11.objects
    },
    ..V3_11
};
