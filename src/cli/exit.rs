//! How the command ends: every exit code there is.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a run of `sampler` ended.
///
/// There are two families. With `-p`, `-P` and `--cgroup` the codes 0 to 6 say what happened. With a command the exit
/// status is the command's own, as if `sampler` were not there, and 125 to 127 say that there is no such status, as
/// `env` and `timeout` do. A command line that makes no sense is 2 in both: nothing was started yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All done: 0.
    Ok,
    /// Something failed that has no code of its own: 1.
    Error,
    /// The command line makes no sense: 2.
    Usage,
    /// The kernel denies access to the process: 3.
    PermissionDenied,
    /// There is no such process or control group, or it cannot be sampled because it has ended: 4.
    NoSuchProcess,
    /// The recording worked and holds no sample, or none that was asked for: 5.
    NoSamples,
    /// `sampler diff --fail-above`: something grew by more: 6.
    Grew,
    /// `sampler` itself failed before the command's status was known: 125.
    SamplerFailed,
    /// The command was found and cannot be executed: 126.
    CannotExecute,
    /// The command was not found: 127.
    CommandNotFound,
    /// The command ended by itself with this status: the same.
    CommandExited(u8),
    /// The command still runs, and the user does not want to wait for it: 130, as for any program ended by Ctrl-C.
    CommandLeftRunning,
    /// A signal killed the command: 128 and its number.
    CommandKilled {
        /// The number of the signal.
        signal: i32,
    },
}

impl Exit {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::PermissionDenied => 3,
            Exit::NoSuchProcess => 4,
            Exit::NoSamples => 5,
            Exit::Grew => 6,
            Exit::SamplerFailed => 125,
            Exit::CannotExecute => 126,
            Exit::CommandNotFound => 127,
            Exit::CommandExited(status) => status,
            Exit::CommandLeftRunning => 130,
            // Linux has signals 1 to 64.
            Exit::CommandKilled { signal } => {
                u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX)
            }
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::CommandExited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            (None, Some(signal)) => Exit::CommandKilled { signal },
            (None, None) => Exit::SamplerFailed, // wait(2) reports nothing else of a process that has ended
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_command_is_told_as_a_shell_tells_it() {
        assert_eq!(Exit::CommandKilled { signal: 9 }.code(), 137);
        assert_eq!(Exit::CommandKilled { signal: 64 }.code(), 192);
        assert_eq!(Exit::CommandKilled { signal: i32::MAX }.code(), 255);
        assert_eq!(Exit::CommandExited(3).code(), 3);
    }
}
