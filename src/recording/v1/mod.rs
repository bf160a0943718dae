//! Version 1 of the format: how records are written, and their reader.
//!
//! The types here are the format. They are apart from those of `profile`, so that a change there cannot change what
//! older recordings mean.

mod observations;
mod packed;
mod records;
mod replay;
mod summary;

pub(super) use observations::{Columns, History};
pub(super) use records::{
    Frame, Record, Start, end_number, function_record, jit_source_number, recorded_lines,
};
pub(super) use replay::{Replay, ReplayError, start_info};
pub(super) use summary::SummaryCodec;
