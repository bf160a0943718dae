//! Options that every command has, and the commands that are about `sampler` itself.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::args::SymbolArgs;
use super::color::ColorArg;
use super::values::parse_pid;

/// What every command takes, before or after its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct CommonArgs {
    /// When to use colors
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        global = true,
        hide_short_help = true
    )]
    pub color: ColorArg,

    /// Say nothing but errors: neither progress nor a summary
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Say on standard error what is done and found; twice for every file that is looked at
    #[arg(short, long, global = true, action = clap::ArgAction::Count, hide_short_help = true)]
    pub verbose: u8,

    /// Do not read the file with defaults, $XDG_CONFIG_HOME/sampler/config.toml (~/.config)
    #[arg(long, global = true, hide_short_help = true)]
    pub no_config: bool,
}

/// `sampler doctor`.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub struct DoctorArgs {
    /// The process that is to be recorded; without one it is asked whether commands can be
    #[arg(short, long, value_name = "PID", value_parser = parse_pid, allow_hyphen_values = true)]
    pub pid: Option<i32>,

    /// Write JSON, for other tools (docs/doctor.md)
    #[arg(short, long)]
    pub json: bool,

    /// Where to look for functions' names.
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

const DOCTOR_EXAMPLES: &str = "\
Examples:
  sampler doctor                 whether commands can be recorded here
  sampler doctor -p 4711         whether process 4711 can be, and what a recording would find

Exit status:
  0 recording would work, 3 it would not, 2 wrong command line, 4 no such process";

/// `sampler completions`.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: ShellArg,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(sampler completions bash)                                        now, or in ~/.bashrc
  sampler completions zsh > \"${fpath[1]}/_sampler\"
  sampler completions fish > ~/.config/fish/completions/sampler.fish";

/// The shells there are completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShellArg {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// `sampler man`.
#[derive(Debug, Args)]
#[command(after_help = MAN_EXAMPLES)]
pub struct ManArgs {
    /// Write the pages of all commands into this directory; without one the first goes to standard output
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

const MAN_EXAMPLES: &str = "\
Examples:
  sampler man | man -l -                         read it
  sampler man /usr/local/share/man/man1          install all pages";
