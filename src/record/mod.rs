//! Recording: looks at the threads of running processes and feeds what it sees into a [`SampleSink`].
//!
//! [`SampleSink`]: crate::profile::SampleSink

mod address_space;
mod budget;
mod children;
mod costs;
mod cpu_account;
mod description;
mod finder;
mod functions;
mod habits;
mod images;
mod inspection;
#[cfg(not(fuzzing))]
mod jit;
#[cfg(fuzzing)]
pub mod jit;
mod look;
mod marks;
mod meter;
mod overhead;
mod process;
mod process_table;
mod recorder;
mod schedule;
mod selection;
mod settle;
mod snapshot;
mod stack_copy;
mod stack_plan;
mod thread;
mod waits;

pub use budget::Share;
pub use costs::Costs;
pub use inspection::{InspectedModule, InspectedRuntime, Inspection, inspect};
pub use jit::SeenJitFiles;
pub use look::PAUSE_MAX_DEFAULT;
pub use recorder::{Over, RecordSettings, Recorder};
pub use selection::{Pattern, Selection};
pub use snapshot::{Snapshot, ThreadLook, ThreadSnapshot, snapshot};
pub use stack_plan::STACK_BYTES_MAX_DEFAULT;
