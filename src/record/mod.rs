//! Recording: looks at the threads of running processes and feeds what it sees into a [`SampleSink`].
//!
//! [`SampleSink`]: crate::profile::SampleSink

mod budget;
mod costs;
mod habits;
mod images;
mod look;
mod meter;
mod overhead;
mod process;
mod recorder;
mod schedule;
mod snapshot;
mod stack_copy;
mod stack_plan;
mod thread;

pub use budget::Share;
pub use costs::Costs;
pub use look::PAUSE_MAX_DEFAULT;
pub use process::Baseline;
pub use recorder::{Over, RecordSettings, Recorder};
pub use snapshot::{Snapshot, ThreadLook, ThreadSnapshot, snapshot};
pub use stack_plan::STACK_BYTES_MAX_DEFAULT;
