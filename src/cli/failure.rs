//! Failures that have an exit code of their own, and what the user can do about them.

use std::io;
use std::path::PathBuf;

use sampler_platforms::linux::abilities::{self, Rung};
use sampler_platforms::linux::permission::{self, DeniedBy};
use sampler_platforms::linux::proc::task::{ThreadFiles, ThreadReadError};
use sampler_platforms::linux::proc::{names, status};
use sampler_platforms::linux::remedy::Place;
use sampler_platforms::linux::spawn::LaunchError;
use sampler_platforms::linux::{self, Errno, TargetError};
use sampler_platforms::{Pid, Tid};

use super::exit::Exit;
use crate::recording::foreign::Foreign;
use crate::recording::{OutputError, WriteError};
use crate::report::NothingSelected;

/// A failure with an exit code of its own. Everything else is an `anyhow::Error` and exits with 1, or 125 when a
/// command was to be started.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The process may not be looked at.
    #[error("cannot look at process {pid}: denied by {by}")]
    Denied {
        /// Which process.
        pid: Pid,
        /// Which layer refused.
        by: DeniedBy,
    },
    /// No hierarchy has this control group.
    #[error("there is no control group {}", .0.display())]
    NoSuchCgroup(PathBuf),
    /// Nothing was sampled.
    #[error("no samples: {}", missed.as_deref().unwrap_or("the recording was too short"))]
    NoSamples {
        /// What was missed and why, if anything was.
        missed: Option<String>,
    },
    /// A recording holds none.
    #[error("{name} holds no samples: {why}")]
    EmptyRecording {
        /// Which one.
        name: String,
        /// Why, in words.
        why: String,
    },
    /// What was asked for is not in it.
    #[error("nothing to show of {name} in this part (--time): it lasted {lasted}")]
    OutsideRecording {
        /// Which one.
        name: String,
        /// How long it lasted.
        lasted: String,
    },
    /// What was given is another tool's.
    #[error("{name} is {}, not a recording of sampler", foreign.what)]
    Foreign {
        /// Its name.
        name: String,
        /// What it is.
        foreign: Foreign,
    },
}

/// Whether process `pid` is there and may be looked at.
///
/// # Errors
/// [`TargetError`], or [`Failure::Denied`] with the layer that refuses.
pub fn check(pid: Pid) -> anyhow::Result<()> {
    linux::check_target(pid)?;
    let tid = Tid(pid.0);
    if let Ok(Some(tracer)) = status::read(pid).map(|status| status.tracer) {
        let name = names::of_a_process(Pid(tracer.0)).ok();
        let by = DeniedBy::Tracer { tracer, name };
        return Err(Failure::Denied { pid, by }.into());
    }
    if let Err(ThreadReadError::Gone) = ThreadFiles::new(pid, tid).syscall() {
        return Err(TargetError::NoSuchProcess { pid }.into());
    }
    match abilities::rung(pid, tid, true) {
        Rung::States => {
            let by = permission::why(pid, tid, Errno::EPERM);
            Err(Failure::Denied { pid, by }.into())
        }
        Rung::Stops | Rung::Reads => Ok(()),
    }
}

/// Whether process `pid` is there, for a recording that makes do with what everybody may know of it: if no more than
/// that may be known, `Some` says why.
///
/// # Errors
/// [`TargetError`], or [`Failure::Denied`] when another tracer has it, which may let it go.
pub fn check_states(pid: Pid) -> anyhow::Result<Option<Failure>> {
    let Err(error) = check(pid) else {
        return Ok(None);
    };
    match error.downcast::<Failure>()? {
        Failure::Denied {
            by: by @ DeniedBy::Tracer { .. },
            ..
        } => Err(Failure::Denied { pid, by }.into()),
        denied => Ok(Some(denied)),
    }
}

/// How a run that failed with `error` ends.
pub fn exit_of(error: &anyhow::Error, starts_command: bool) -> Exit {
    let general = if starts_command {
        Exit::SamplerFailed
    } else {
        Exit::Error
    };
    if let Some(launch) = error.downcast_ref::<LaunchError>() {
        return match launch {
            LaunchError::NotFound { .. } => Exit::CommandNotFound,
            LaunchError::NotExecutable { .. } | LaunchError::ThirtyTwoBit { .. } => {
                Exit::CannotExecute
            }
            LaunchError::Other { .. } => general,
        };
    }
    if let Some(target) = error.downcast_ref::<TargetError>() {
        return match target {
            TargetError::Unreadable { source, .. } if is_denial(source) => Exit::PermissionDenied,
            TargetError::Unreadable { .. }
            | TargetError::ThirtyTwoBit { .. }
            | TargetError::Ourselves { .. } => general,
            _ => Exit::NoSuchProcess,
        };
    }
    if error.downcast_ref::<NothingSelected>().is_some() {
        return Exit::NoSamples;
    }
    match error.downcast_ref::<Failure>() {
        Some(Failure::Denied { .. }) => Exit::PermissionDenied,
        Some(Failure::NoSuchCgroup(_)) => Exit::NoSuchProcess,
        Some(
            Failure::NoSamples { .. }
            | Failure::EmptyRecording { .. }
            | Failure::OutsideRecording { .. },
        ) => Exit::NoSamples,
        Some(Failure::Foreign { .. }) | None => general,
    }
}

fn is_denial(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What the user can do about `error`, if anything is known.
pub fn hint_of(error: &anyhow::Error) -> Option<&'static str> {
    if leaves_partial_file(error) {
        return Some("what was recorded before can be read: sampler report FILE.partial");
    }
    hint_for(error.downcast_ref()?)
}

/// The same for one of these.
pub fn hint_for(failure: &Failure) -> Option<&'static str> {
    match failure {
        Failure::Denied { by, .. } => by.hint(),
        Failure::NoSuchCgroup(_) => Some(
            "give a folder below /sys/fs/cgroup, or a path as in /proc/PID/cgroup of a process that runs",
        ),
        Failure::Foreign { foreign, .. } => foreign.hint,
        Failure::NoSamples { .. }
        | Failure::EmptyRecording { .. }
        | Failure::OutsideRecording { .. } => None,
    }
}

/// The lines of which any one would help, where we are, and what says more.
pub fn further_hints(error: &anyhow::Error) -> Vec<String> {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Denied { pid, by }) if by.hint().is_some() => {
            let mut lines = by.remedies(Place::here());
            lines.push(format!("sampler doctor -p {pid} says more"));
            lines
        }
        _ => Vec::new(),
    }
}

/// Whether a recording could not be written any further to the file it grows in.
fn leaves_partial_file(error: &anyhow::Error) -> bool {
    let Some(WriteError::Io(error)) = error.downcast_ref::<WriteError>() else {
        return false;
    };
    let output = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(output, Some(OutputError::Write { path, .. }) if path.extension() == Some("partial".as_ref()))
}
