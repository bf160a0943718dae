//! The file between record and report.
//!
//! A recording is written as it goes: once a second what was observed since is appended as one chunk that can be
//! checked and read by itself, so that a recording killed at any moment is readable up to its last whole chunk, and a
//! damaged one up to the damage. It holds addresses, mappings and build IDs, no names: those are found when a report
//! is made, then or elsewhere.
//!
//! [`Writer`] is a [`SampleSink`](crate::profile::SampleSink), and [`read`] plays a recording into any other one.
//! [`RecordingFile`] is where the bytes go. The format is described byte by byte in docs/recording-format.md; each
//! version of it has a reader (`v1` reads 1 and 2, which has one more kind of record), and the current one also says how
//! records are written.

mod background;
mod chunk;
pub mod foreign;
mod limits;
mod merge;
mod output;
mod reader;
mod v1;
mod writer;

pub use background::{BackgroundWriter, Visitor};
pub use chunk::{Damage, DamageKind};
pub use limits::LimitExceeded;
pub use merge::{MergeError, merge};
pub use output::{OutputError, RecordingFile};
pub use reader::{ReadError, ReadOutcome, read, read_info};
pub use writer::{WriteError, Writer};

/// The first bytes of every recording. The first one is no text in any encoding, the last ones are damaged by transfers
/// that change line ends (as in PNG's signature).
const MAGIC: [u8; 8] = *b"\x8fSAMP\r\n\x1a";

/// The version that is written, and the newest that can be read.
const VERSION: u32 = 2;

/// Magic and version.
const HEADER_BYTES: usize = MAGIC.len() + size_of::<u32>();

/// What is known when a recording starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordingInfo {
    /// The version of the sampler that recorded.
    pub sampler_version: String,
    /// When the recording began, in nanoseconds since 1970-01-01 UTC.
    pub start_unix_ns: u64,
    /// Ticks per second asked for.
    pub rate_hz: f64,
    /// The kernel's release, as `uname -r` gives it.
    pub kernel_release: String,
    /// The machine's architecture, as `uname -m` gives it.
    pub arch: String,
    /// The command that was launched, by argument; empty when running processes were attached to.
    pub command: Vec<String>,
    /// The processes that were to be recorded, where they were given by number.
    pub pids: Vec<i32>,
}

#[cfg(test)]
mod tests;
