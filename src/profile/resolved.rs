//! A profile with names: what every export reads.

use std::ops::AddAssign;
use std::sync::Arc;

use sampler_unwind::interpreter::{Language, LinePrecision};

use super::stacks::{End, StackId};
use super::summary::Summary;
use super::timeline::Timeline;

/// What kind of code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// Machine code.
    Native,
    /// The kernel, on behalf of the frame outside it: `[syscall: read]`.
    Kernel,
    /// Interpreted code.
    Interpreted,
    /// What a language's runtime has compiled of such.
    Compiled,
    /// A function of a language's runtime or of an extension, by its name in that language.
    Builtin,
    /// What a language's runtime itself does: `[gc]`; or what of its frames is missing: `[lua: lost: unreadable]`.
    Runtime,
    /// Waiting in the kernel: `[blocked: futex]`.
    Blocked,
    /// A remark of ours instead of a frame: `[no stack]`, `[cut]`.
    Note,
}

/// One frame by name. An inlined function is a frame of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResolvedFrame {
    /// The demangled function name, `libx.so!fn_1a2b0` or `[unknown in libx.so+0x1a2b]`.
    pub function: String,
    /// The file name of the module, without its directory.
    pub module: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// How well that is known, of interpreted code.
    pub line_precision: Option<LinePrecision>,
    /// Whether the function was inlined into the frame outside it.
    pub inlined: bool,
    /// What kind of code it is.
    pub kind: FrameKind,
    /// What it is written in, where a runtime for that language executes it.
    pub language: Option<Language>,
}

/// What a stack stands for in each of the ways of weighing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackWeights {
    /// Time on a CPU.
    pub cpu_ns: u64,
    /// Time that passed.
    pub wall_ns: u64,
    /// Time asleep.
    pub off_cpu_ns: u64,
    /// Time waiting for a CPU.
    pub run_queue_ns: u64,
    /// How often it was seen.
    pub samples: u64,
}

/// One way of weighing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Weight {
    /// Time on a CPU.
    #[default]
    Cpu,
    /// Time that passed.
    Wall,
    /// Time asleep.
    OffCpu,
    /// Time waiting for a CPU.
    RunQueue,
    /// How often it was seen.
    Samples,
}

impl StackWeights {
    /// The one asked for.
    pub fn get(&self, weight: Weight) -> u64 {
        match weight {
            Weight::Cpu => self.cpu_ns,
            Weight::Wall => self.wall_ns,
            Weight::OffCpu => self.off_cpu_ns,
            Weight::RunQueue => self.run_queue_ns,
            Weight::Samples => self.samples,
        }
    }
}

impl AddAssign for StackWeights {
    /// Sums saturate: 584 years, which only a forged recording holds.
    fn add_assign(&mut self, other: Self) {
        self.cpu_ns = self.cpu_ns.saturating_add(other.cpu_ns);
        self.wall_ns = self.wall_ns.saturating_add(other.wall_ns);
        self.off_cpu_ns = self.off_cpu_ns.saturating_add(other.off_cpu_ns);
        self.run_queue_ns = self.run_queue_ns.saturating_add(other.run_queue_ns);
        self.samples = self.samples.saturating_add(other.samples);
    }
}

/// A stack of one thread with what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedStack {
    /// Which stack of the recording it is: by this its times are found in [`ResolvedProfile::timeline`].
    pub recorded: StackId,
    /// Positions in [`ResolvedProfile::frames`], outermost first.
    pub frames: Vec<u32>,
    /// Position in [`ResolvedProfile::threads`].
    pub thread: u32,
    /// How it ended.
    pub end: End,
    /// Whether the thread held its interpreter's lock (CPython's GIL).
    pub holds_lock: bool,
    /// What it stands for.
    pub weights: StackWeights,
}

/// A thread by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedThread {
    /// Which process of the recording it is of: numbers of processes are given again.
    pub process_index: u32,
    /// Its process's number.
    pub pid: i32,
    /// The number of its process's parent, if that is known.
    pub parent: Option<i32>,
    /// Its process's command line.
    pub process: String,
    /// What its process is called: the name of its first thread, or that of its program.
    pub command: String,
    /// Its number.
    pub tid: i32,
    /// Its name.
    pub name: String,
}

/// A profile with names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResolvedProfile {
    /// All frames, each once.
    pub frames: Vec<ResolvedFrame>,
    /// All stacks; one entry per thread and distinct stack.
    pub stacks: Vec<WeightedStack>,
    /// All threads.
    pub threads: Vec<ResolvedThread>,
    /// When it was, if that was asked for.
    pub timeline: Option<Arc<Timeline>>,
    /// What the recording holds and what it cost.
    pub summary: Summary,
    /// What the reader must be told, each a line: modules without symbols, a recording that was cut.
    pub notes: Vec<String>,
}
