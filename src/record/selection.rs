//! Who is recorded: what was asked for. [`super::finder`] finds the processes that this means.

use sampler_platforms::Pid;
use sampler_platforms::linux::proc::cgroup::Cgroup;

/// Whom to record.
#[derive(Clone, Debug)]
pub struct Selection {
    pub(super) wanted: Wanted,
    /// Whether whoever they start is recorded too.
    pub(super) subprocesses: bool,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Processes that run already.
    Processes(Vec<Pid>),
    /// A command that was started for the recording.
    Command(Pid),
    /// Whoever matches, now or later.
    Matching(Pattern),
    /// Whoever is in a control group, now or later.
    Cgroup(Cgroup),
}

impl Selection {
    /// These processes, which run already: what they used before is not part of the recording.
    pub fn processes(pids: &[Pid]) -> Self {
        Self::of(Wanted::Processes(pids.to_vec()))
    }

    /// A command that was just started: all it ever used is part of the recording.
    pub fn command(pid: Pid) -> Self {
        Self::of(Wanted::Command(pid))
    }

    /// All processes that match, those that start later too; never this one, or those that started it.
    pub fn matching(pattern: Pattern) -> Self {
        Self::of(Wanted::Matching(pattern))
    }

    /// All processes in a control group, those that enter it later too; never this one.
    pub fn cgroup(cgroup: Cgroup) -> Self {
        Self::of(Wanted::Cgroup(cgroup))
    }

    fn of(wanted: Wanted) -> Self {
        Self {
            wanted,
            subprocesses: false,
        }
    }

    /// The same; with all processes that they start, and further descendants, if `subprocesses`.
    #[must_use]
    pub fn with_subprocesses(self, subprocesses: bool) -> Self {
        Self {
            subprocesses,
            ..self
        }
    }

    /// The processes that were asked for by number.
    pub(super) fn roots(&self) -> &[Pid] {
        match &self.wanted {
            Wanted::Processes(pids) => pids,
            Wanted::Command(pid) => std::slice::from_ref(pid),
            Wanted::Matching(_) | Wanted::Cgroup(_) => &[],
        }
    }

    /// Whether processes can be wanted that none of those wanted before has started.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.wanted, Wanted::Matching(_) | Wanted::Cgroup(_))
    }
}

/// A regular expression for names and command lines of processes.
#[derive(Clone, Debug)]
pub struct Pattern(regex_lite::Regex);

impl Pattern {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no regular expression.
    pub fn new(text: &str) -> Result<Self, regex_lite::Error> {
        regex_lite::Regex::new(text).map(Self)
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is found in either.
    pub(super) fn matches(&self, name: &str, command_line: &str) -> bool {
        self.0.is_match(name) || self.0.is_match(command_line)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_a_command_line_matches() {
        let matches = |pattern: &str, name: &str, command_line: &str| {
            Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name, command_line))
        };
        assert!(matches("^cc1$", "cc1", "/usr/lib/gcc/cc1 -quiet"));
        assert!(matches("-quiet$", "cc1", "/usr/lib/gcc/cc1 -quiet"));
        assert!(matches("server --port (80|81)", "x", "./server --port 81"));
        assert!(!matches("^gcc", "cc1", "/usr/lib/gcc/cc1 -quiet"));
        assert!(!matches("cc1 -quiet", "cc1", "-quiet"));
        assert!(Pattern::new("(").is_err());
    }
}
