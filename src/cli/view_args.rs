//! Filters and groupings as they are typed: the same for every command that shows a recording.

use std::ops::Range;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::{PidList, ViewArgs};
use super::values::{ValueError, parse_name_pattern, parse_states, parse_window};
use crate::report::{Focus, FrameFilter, Grouping, Layout, NamePattern, Selection, States};

/// What of a recording is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filters")]
pub struct SelectionArgs {
    /// Show only threads whose name matches; a number is that of a thread
    ///
    /// It is enough that REGEX is found somewhere in the name; ^ and $ stand for its start and end.
    #[arg(long, value_name = "REGEX", value_parser = parse_name_pattern, allow_hyphen_values = true)]
    pub thread: Option<NamePattern>,

    /// Show only these processes
    #[arg(short, long = "pid", value_name = "PID[,PID...]", value_parser = PidList::parse, allow_hyphen_values = true)]
    pub pids: Vec<PidList>,

    /// Show only this part of the recording: 10s..20s, ..500ms, 1m..
    ///
    /// Counted from its start. Of a thread that slept on over either end, the time inside is taken.
    #[arg(long, value_name = "FROM..TO", value_parser = Window::parse, allow_hyphen_values = true)]
    pub time: Option<Window>,

    /// Show only stacks in which a function matches
    #[arg(long, value_name = "REGEX", value_parser = parse_name_pattern, allow_hyphen_values = true)]
    pub function: Option<NamePattern>,

    /// Show only stacks with code of a module (program or library) that matches
    #[arg(long, value_name = "REGEX", value_parser = parse_name_pattern, allow_hyphen_values = true)]
    pub module: Option<NamePattern>,

    /// Show only what threads did in these states: some of running,sleeping,runnable
    ///
    /// Runnable is ready to run and waiting for a CPU. Of each stack's time the parts of the other states are left out.
    /// Without --weight, wall-clock time is shown where this is given.
    #[arg(long, value_name = "STATE[,STATE...]", value_parser = parse_states)]
    pub state: Option<States>,

    /// Show who calls this function: of each stack the part up to it, the function first
    ///
    /// FUNCTION is a whole name as reports show it, or, where there is none such, a REGEX that is found in names.
    #[arg(
        long, value_name = "FUNCTION", value_parser = parse_name_pattern, conflicts_with = "callees_of",
        allow_hyphen_values = true
    )]
    pub callers_of: Option<NamePattern>,

    /// Show what this function calls: of each stack the part from it on
    #[arg(long, value_name = "FUNCTION", value_parser = parse_name_pattern, allow_hyphen_values = true)]
    pub callees_of: Option<NamePattern>,

    /// Show a function that calls itself once
    ///
    /// Directly, that is: a circle of several functions stays as it is.
    #[arg(long)]
    pub collapse_recursion: bool,

    /// Show only what threads did while they held the lock that lets one of them execute Python at a time (the GIL)
    #[arg(long)]
    pub gil: bool,

    /// Which frames to show.
    #[command(flatten)]
    pub view: ViewArgs,
}

/// How stacks are laid out.
#[derive(Debug, Args)]
pub struct LayoutArgs {
    /// What to tell apart
    #[arg(long, value_name = "WHAT", default_value = "function")]
    pub by: ByArg,

    /// Turn stacks round: what threads were doing first, its callers below
    #[arg(long)]
    pub inverted: bool,
}

/// `--by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ByArg {
    /// Functions
    Function,
    /// Lines: frames of one function at different lines are shown apart
    Line,
    /// Modules: programs and libraries
    Module,
    /// Threads
    Thread,
    /// Processes
    Process,
    /// System calls that threads were in
    Syscall,
    /// What threads waited for: files, sockets, pipes, locks
    File,
    /// Outermost functions
    Root,
}

/// The value of `--time`, in nanoseconds: a type of its own, because it is parsed as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window(pub Range<u64>);

impl Window {
    fn parse(word: &str) -> Result<Self, ValueError> {
        let (from, to) = parse_window(word)?;
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self(from.map_or(0, ns)..to.map_or(u64::MAX, ns)))
    }
}

/// What of a recording is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionOptions {
    /// Of when, in nanoseconds since its start; `None` for all of it.
    pub window: Option<Range<u64>>,
    /// Which stacks, and what of them.
    pub selection: Selection,
}

impl From<SelectionArgs> for SelectionOptions {
    fn from(args: SelectionArgs) -> Self {
        Self {
            window: args.time.map(|window| window.0),
            selection: Selection {
                thread: args.thread,
                pids: args.pids.into_iter().flat_map(|list| list.0).collect(),
                function: args.function,
                module: args.module,
                states: args.state,
                focus: match (args.callers_of, args.callees_of) {
                    (Some(function), _) => Some(Focus::CallersOf(function)),
                    (None, function) => function.map(Focus::CalleesOf),
                },
                collapse_recursion: args.collapse_recursion,
                frames: FrameFilter {
                    languages: args.view.lang.0,
                    native: !args.view.no_native,
                    only_lock_holders: args.gil,
                },
            },
        }
    }
}

impl SelectionOptions {
    /// The layout that `args` ask for, of what is selected.
    pub fn layout(&self, args: &LayoutArgs) -> Layout {
        Layout {
            grouping: match args.by {
                ByArg::Function | ByArg::Line => None,
                ByArg::Module => Some(Grouping::Module),
                ByArg::Thread => Some(Grouping::Thread),
                ByArg::Process => Some(Grouping::Process),
                ByArg::Syscall => Some(Grouping::Syscall),
                ByArg::File => Some(Grouping::File),
                ByArg::Root => Some(Grouping::Root),
            },
            // Callers stand below the function that they are the callers of.
            inverted: args.inverted || matches!(self.selection.focus, Some(Focus::CallersOf(_))),
        }
    }
}
