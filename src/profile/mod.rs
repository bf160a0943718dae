//! Samples made comparable: interned stacks, weights, and what a recording cost.
//!
//! Nothing here reads a clock, the environment or a file. The recorder feeds a [`SampleSink`]; whatever stands
//! behind it (a recording, a live view) gets the same calls in the same order.

mod attribution;
mod builder;
mod call_tree;
mod compare;
mod feed;
mod jit;
mod resolved;
mod sample;
mod sink;
mod stacks;
mod summary;
mod timeline;

pub use builder::{MappedModule, Profile, ProfileBuilder, ThreadStack};
pub use call_tree::{
    CallTree, CallTreeOptions, FunctionRow, Functions, TreeNode, TreeNodeId, TreeNodeKind,
    functions,
};
pub use compare::{Change, Comparison, Shares, Significance, Whole, compare};
pub use feed::{Feed, Watcher};
pub use jit::{JitCode, JitLine, JitSource, JitTable};
pub use resolved::{
    FrameKind, Moment, ResolvedFrame, ResolvedProfile, ResolvedThread, StackWeights, Weight,
    WeightedStack,
};
pub use sample::{Observation, ThreadState, Weights};
pub use sink::{Birth, ModuleInfo, ProcessInfo, SampleSink, ThreadInfo, UnknownId, WaitInfo};
pub use stacks::{
    End, FrameId, FrameKey, FunctionId, JitId, ModuleId, NodeId, ProcessId, StackId, StackNode,
    StackTable, ThreadId, WaitId,
};
pub use summary::{Fallback, FramesLost, LeftOut, Missed, Overhead, PauseNs, Summary};
pub use timeline::{TimeSlice, Timeline};
