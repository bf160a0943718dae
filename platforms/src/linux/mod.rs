//! Linux: how to stop a thread, read it, and let it go.
//!
//! - [`stop`] makes one thread stand still and gives a [`StoppedThread`], which lets it go again on every way out.
//! - [`ProcessMemory`] reads the memory of a process, stopped or not.
//! - [`proc`] reads what the kernel tells without stopping anything. Each file has a pure parser beside its reader.
//! - [`permission`] says which layer refused, [`check_target`] whether a process can be looked at at all,
//!   [`remedy`] what would help, and [`surroundings`] what is possible here.
//! - [`privileges`] puts down rights that are not needed.
//! - [`abilities`] says what works on this kernel and under its filters, and what stands in for what does not.
//! - [`spawn`] starts a command, [`interrupts`] hears Ctrl-C, [`clock`] tells and waits for time.
//!
//! ptrace ties a stopped thread to the one thread of ours that stopped it. The types that stand for one cannot be
//! sent to another thread.

pub mod abilities;
pub mod clock;
pub mod interrupts;
pub mod permission;
pub mod privileges;
pub mod proc;
pub mod remedy;
pub mod rooted_file;
pub mod shortened_file;
pub mod spawn;
pub mod surroundings;
pub mod target_file;

mod by_signal;
mod check;
mod deadline;
mod job_control;
mod late_stop;
mod not_restarted;
mod process_memory;
mod ptrace;
mod reentry;
mod stop;
mod stop_kind;
mod stop_watch;
mod stopped_thread;
mod strays;

#[cfg(target_arch = "x86_64")]
#[path = "registers_x86_64.rs"]
mod registers;
#[cfg(target_arch = "aarch64")]
#[path = "registers_aarch64.rs"]
mod registers;

#[cfg(any(target_arch = "aarch64", test))]
mod signal_frame_aarch64;

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod testing;

pub use check::{TargetError, ThirtyTwoBit, check_target};
pub use clock::{peak_rss_self, process_cpu_time, process_cpu_time_self, thread_cpu_time_self};
pub use job_control::JobControl;
pub use late_stop::LateStop;
pub use nix::errno::Errno;
pub use process_memory::{ProcessMemory, REGIONS_MAX, Through};
pub use stop::{StopFailure, give_way, prepare_sampling_thread, stop};
pub use stop_kind::StopKind;
pub use stop_watch::StopWatch;
pub use stopped_thread::{RegistersError, StoppedRegisters, StoppedThread};
pub use strays::{are_there as are_strays, release as release_strays};
