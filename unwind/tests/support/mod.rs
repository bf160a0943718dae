//! Frozen targets: programs that write down their own registers, memory and mappings, for a walk to be replayed on.
#![allow(
    dead_code,
    clippy::disallowed_types,
    reason = "each test uses its part of this; building programs and reading what they wrote is I/O, which only the \
              crate itself must not do"
)]

pub(crate) mod capture;
pub(crate) mod maps;
pub(crate) mod programs;
pub(crate) mod score;
pub(crate) mod steps;
pub(crate) mod symbols;
