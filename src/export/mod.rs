//! What a profile can be made into: one file per output, each a function `write` to any [`std::io::Write`].
//!
//! Nothing here reads a clock, the environment or a file; how wide a terminal is comes in as a value. Names come from
//! foreign files and processes, so none is written without being made harmless for where it goes.

pub mod callgrind;
pub mod chrome;
pub mod diff;
pub mod firefox;
pub mod flamegraph;
pub mod folded;
pub mod html;
pub mod json;
pub mod perf_script;
pub mod pprof;
pub mod speedscope;
pub mod summary_words;
pub mod table;
pub mod tree;
pub mod units;

mod heading;
mod moments;
pub(crate) mod names;
mod roots;

#[cfg(test)]
mod example;

pub use roots::{process_label, thread_label};

use crate::profile::Weight;

/// Which part of a profile is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// What is added up.
    pub weight: Weight,
    /// Whether each thread stands under the root by itself, rather than merged with the others.
    pub threads: bool,
}
