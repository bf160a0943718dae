//! What a walk through interpreted code returns.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What code is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    /// Lua, by LuaJIT or by PUC Lua.
    Lua,
    /// Python, by CPython.
    Python,
}

impl Language {
    /// All there are.
    pub const ALL: [Language; 2] = [Language::Lua, Language::Python];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Language::Lua => "lua",
            Language::Python => "python",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Some of the languages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Languages(u8);

impl Languages {
    /// None of them.
    pub const NONE: Languages = Languages(0);
    /// All of them.
    pub const ALL: Languages = Languages(u8::MAX);

    /// These and `language`.
    #[must_use]
    pub fn with(self, language: Language) -> Self {
        Self(self.0 | 1 << language as u8)
    }

    /// Whether `language` is one of them.
    pub fn contains(self, language: Language) -> bool {
        self.0 & 1 << language as u8 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A function of interpreted code: what is the same in all its frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Function {
    /// What it is written in.
    pub language: Language,
    /// What it is called; empty where nobody has given it a name. Where names belong to callers rather than to functions
    /// (Lua), the name under which it was first seen called.
    pub name: String,
    /// The file, or what stands for one (`content_by_lua(nginx.conf:9)`); empty where there is none.
    pub file: String,
    /// Its first line; 0 where there is none.
    pub first_line: u32,
}

/// What kind of code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FunctionKind {
    /// Interpreted.
    Interpreted,
    /// Compiled by the runtime.
    Compiled,
    /// The same, inlined into the frame outside it.
    Inlined,
    /// A function of the runtime or of an extension, called by its name in the language.
    Builtin,
    /// No function: what the runtime itself does there (`[gc]`, `[jit: record]`), or what is missing.
    Pseudo,
}

/// How well the line of a frame is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinePrecision {
    /// The line being executed.
    Exact,
    /// The first line of the straight run of code being executed.
    Block,
    /// The function alone; its first line, if any.
    Function,
}

/// One activation of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpretedFrame {
    /// Which function.
    pub function: Arc<Function>,
    /// The line in it; 0 where it is not known.
    pub line: u32,
    /// How well that is known.
    pub precision: LinePrecision,
    /// What kind of code it is.
    pub kind: FunctionKind,
}

/// A run of frames and the native frames it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The native frames, by position in the stack (innermost first), that are the interpreter's own and are replaced.
    /// An empty range puts the segment between two native frames.
    pub native: Range<usize>,
    /// Its frames: positions in [`Segments::frames`], innermost first.
    pub frames: Range<usize>,
}

/// All interpreted frames of one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// Innermost first within each segment.
    pub frames: Vec<InterpretedFrame>,
    /// From the innermost outwards as far as they are of one interpreter.
    pub segments: Vec<Segment>,
}

impl Segments {
    /// Forgets all; the memory is kept.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.segments.clear();
    }

    /// Makes a segment of all frames from position `from` on, in place of the native frames `native`.
    pub fn close(&mut self, from: usize, native: Range<usize>) {
        self.segments.push(Segment {
            native,
            frames: from..self.frames.len(),
        });
    }
}

/// Why interpreted frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lost {
    /// Where the interpreter's state lies was not known yet, or is found for the next sample only.
    NotFound,
    /// What was copied contradicts itself: the thread was just changing it, or it was not what it was taken for.
    Inconsistent,
    /// Memory that it leads to could not be read.
    Unreadable,
    /// A function or string was no longer what it had been when the sample was taken.
    Changed,
    /// More frames, or a larger stack, than is copied or walked.
    TooDeep,
    /// Native frames of the interpreter were found for which it has no frames.
    Unmatched,
    /// The version is not supported.
    Unsupported,
}

impl Lost {
    /// All reasons.
    pub const ALL: [Lost; 7] = [
        Lost::NotFound,
        Lost::Inconsistent,
        Lost::Unreadable,
        Lost::Changed,
        Lost::TooDeep,
        Lost::Unmatched,
        Lost::Unsupported,
    ];

    /// In words, as in `[lua: lost: not found yet]`.
    pub fn words(self) -> &'static str {
        match self {
            Lost::NotFound => "not found yet",
            Lost::Inconsistent => "inconsistent",
            Lost::Unreadable => "unreadable",
            Lost::Changed => "changed meanwhile",
            Lost::TooDeep => "too deep",
            Lost::Unmatched => "frames do not match",
            Lost::Unsupported => "version not supported",
        }
    }
}
