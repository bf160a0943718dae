//! What a process is called.

use sampler_platforms::Pid;
use sampler_platforms::linux::proc::names;

use super::process_table::Kin;
use crate::profile::{Birth, ProcessInfo};

/// How much of a command line is recorded, in bytes: a build has some thousand of them, of some thousand bytes each.
const COMMAND_LINE_BYTES_MAX: usize = 1024;

/// The command line of a process, its arguments joined by spaces; its name when it has none.
pub(super) fn command_line_of(pid: Pid) -> String {
    let arguments = names::command_line(pid).unwrap_or_default();
    let words: Vec<_> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .collect();
    match words.is_empty() {
        true => names::of_a_process(pid).unwrap_or_default(),
        false => words.join(" "),
    }
}

/// What process `pid` is, as its thread `living` shows it.
pub(super) fn describe(pid: Pid, living: Pid, kin: Option<Kin>) -> ProcessInfo {
    let mut command_line = command_line_of(living);
    if command_line.len() > COMMAND_LINE_BYTES_MAX {
        let cut = (0..COMMAND_LINE_BYTES_MAX).rfind(|&at| command_line.is_char_boundary(at));
        command_line.truncate(cut.unwrap_or(0));
        command_line.push('…');
    }
    let executable = names::executable(living)
        .map(|(path, _)| path.to_string_lossy().into_owned())
        .unwrap_or_default();
    ProcessInfo {
        pid: pid.0,
        birth: kin.map(|kin| Birth {
            parent: kin.parent.0,
            started_ticks: kin.started_ticks,
        }),
        command_line,
        executable,
    }
}
