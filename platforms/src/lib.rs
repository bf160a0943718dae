//! Everything that touches a live process: ptrace, /proc, its memory and the files it maps.
//!
//! Every `unsafe` of the project is here, in thin functions. This crate fills the types of `sampler-unwind` and
//! implements its traits; it never walks a stack. What to sample, when, and what to do with it is the recorder's
//! business.
//!
//! One look at a running thread, without its error handling:
//!
//! ```no_run
//! use std::time::Duration;
//! use sampler_platforms::linux::{ProcessMemory, prepare_sampling_thread, proc::maps, stop};
//! use sampler_platforms::{Pid, Tid};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (pid, tid) = (Pid(4711), Tid(4711));
//! let mappings = maps::read(pid)?;
//! let memory = ProcessMemory::new(pid);
//! let mut stack = [0; 16384];
//! prepare_sampling_thread()?;
//!
//! let stopped = stop(pid, tid, Duration::from_millis(5), Duration::from_micros(100))?;
//! let registers = stopped.registers()?;
//! stopped.repair_interrupted_syscall(&registers)?;
//! let sp = registers.registers.sp().ok_or("no stack pointer")?;
//! let [bytes] = memory.read_regions([(sp, &mut stack)])?;
//! stopped.detach()?; // The target runs again; there is time to think now.
//!
//! println!("{bytes} bytes of stack, {} mappings", mappings.len());
//! # Ok(())
//! # }
//! ```
//!
//! What this crate promises about the target:
//! - A stop ends on every way out, panic included; nothing stays attached between two looks.
//! - Signals that arrive during a stop are delivered, unchanged. A process that is stopped (Ctrl-Z) stays so.
//! - A system call that the stop interrupts is run again, those too that would return `EINTR`.
//! - Nothing is opened for a target but regular files that it has mapped, and files of /proc.
#[cfg(target_os = "linux")]
pub mod linux;
mod mapped_file;

pub use mapped_file::MappedFile;

use std::fmt;

/// A process, by the number it has in our pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub i32);

/// A thread, by the number it has in our pid namespace. The main thread's equals its process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub i32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
