//! A profile with names: what every export reads.

use std::ops::AddAssign;
use std::sync::Arc;

use sampler_unwind::interpreter::{Language, LinePrecision};

use super::sample::{ThreadState, Weights};
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
    /// Waiting in the kernel: `[futex]`.
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
    /// The source file. Of a frame that waits ([`FrameKind::Blocked`]): for which file, socket, pipe or lock, if known.
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

/// One look at a thread, or several in a row that found the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Position in [`ResolvedProfile::stacks`], which says whose it is.
    pub stack: u32,
    /// When the thread was (last) looked at, in nanoseconds since the recording began. The time that the moment stands
    /// for ended then.
    pub at_ns: u64,
    /// What it was doing.
    pub state: ThreadState,
    /// How many looks it was.
    pub ticks: u32,
    /// What the kernel accounted since the moment before: the parts of a stack's weights by which it was seen, before
    /// they were charged to where they belong.
    pub weights: Weights,
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
    /// The single looks, in order; empty unless they were asked for.
    pub moments: Vec<Moment>,
    /// What all stacks weighed before some were left out; `None` when none were.
    pub whole: Option<StackWeights>,
}

impl ResolvedProfile {
    /// What all stacks weigh.
    pub fn total(&self) -> StackWeights {
        let weights = self.stacks.iter().map(|stack| stack.weights);
        weights.fold(StackWeights::default(), |mut sum, weights| {
            sum += weights;
            sum
        })
    }

    /// Keeps the stacks that please, and their moments.
    pub fn retain_stacks(&mut self, mut pleases: impl FnMut(&WeightedStack) -> bool) {
        let mut kept = 0u32;
        let mut positions = Vec::with_capacity(self.stacks.len());
        self.stacks.retain(|stack| {
            let is_kept = pleases(stack);
            positions.push(is_kept.then_some(kept));
            kept += u32::from(is_kept);
            is_kept
        });
        self.moments.retain_mut(|moment| {
            let position = positions.get(moment.stack as usize).copied().flatten();
            moment.stack = position.unwrap_or(moment.stack);
            position.is_some()
        });
    }
}
