//! What a profile can be made into: one file per output, each a function `write` to any [`std::io::Write`].
//!
//! Nothing here reads a clock, the environment or a file; how wide a terminal is comes in as a value. Names come from
//! foreign files and processes, so none is written without being made harmless for where it goes.

pub mod flamegraph;
pub mod folded;
pub mod html;
pub mod json;
pub mod summary_words;
pub mod table;
pub mod tree;
pub mod units;

mod heading;
pub(crate) mod names;
mod roots;

#[cfg(test)]
mod example;

use crate::profile::Weight;

/// Which part of a profile is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// What is added up.
    pub weight: Weight,
    /// Whether each thread stands under the root by itself, rather than merged with the others.
    pub threads: bool,
}
