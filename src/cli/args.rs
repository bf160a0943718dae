//! What was typed, as clap reads it. What it means together is decided in [`super::options`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sampler_unwind::interpreter::Languages;

use super::common_args::{CommonArgs, CompletionsArgs, DoctorArgs, ManArgs};
use super::export_args::{DiffArgs, ExportArgs, MergeArgs};
use super::values::{
    parse_count, parse_duration, parse_languages, parse_max_overhead, parse_pattern, parse_pause,
    parse_percent, parse_pid, parse_pids, parse_rate, parse_rotation, parse_stack_size,
};
use super::view_args::{LayoutArgs, SelectionArgs};
use crate::record::{Pattern, Share};
use crate::serve::ServeAddress;

/// Shows where a running program spends its time
///
/// sampler looks at a program some hundred times a second and adds up where it was. It needs no root, no kernel
/// module, no eBPF and no perf events, changes nothing in the program and does not restart it. A thread that runs
/// stands still for some tens of microseconds per look; a thread that sleeps is not stopped at all.
#[derive(Debug, Parser)]
#[command(name = "sampler", bin_name = "sampler", version, max_term_width = 100, after_help = ROOT_EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: CommandArgs,

    /// What all commands have.
    #[command(flatten)]
    pub common: CommonArgs,
}

const ROOT_EXAMPLES: &str = "\
Examples:
  sampler record -p 4711 -d 10    look at process 4711 for ten seconds
  sampler report                  and see which functions took the time
  sampler dump -p 4711            what every thread is doing right now
  sampler doctor -p 4711          why it cannot be looked at, and what would help
  sampler demo                    try it on a small workload that comes with it";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum CommandArgs {
    /// Record where a program spends its time
    ///
    /// Give running processes by number (-p), by name (-P) or by control group (--cgroup), or a command to start. A
    /// recording ends when its duration is over, when the program ends, or at Ctrl-C; `sampler report` then shows it. A
    /// command that still runs when the duration is over runs on, and sampler waits for it.
    ///
    /// Time on a CPU, asleep, and waiting for a CPU are all recorded at once; the report chooses which to show.
    Record(RecordArgs),
    /// Show a recording as a table, tree, flame graph or JSON
    ///
    /// Without options: a table of functions on the terminal, the one that took the most CPU time first. `self` is the
    /// time in the function itself, `total` the time in it and in all it called.
    Report(ReportArgs),
    /// Write a recording in the format of another tool: pprof, speedscope, Firefox Profiler, Perfetto, perf script
    Export(ExportArgs),
    /// Compare two recordings: what takes a larger share of the time, and what a smaller one
    ///
    /// Shares are those of each recording's own whole, so that recordings of different length can be compared. Changes
    /// are marked by how seldom they would be seen where nothing has changed, going by the number of samples: * once in
    /// 20 times, ** in 100, *** in 1000.
    Diff(DiffArgs),
    /// Make one recording of several
    ///
    /// Each keeps its place in time; processes and threads that are in several are one.
    Merge(MergeArgs),
    /// Watch where running programs spend their time
    ///
    /// A table that is drawn anew every second: functions, threads or lines, of the last second and since the start. `?`
    /// shows the keys. It costs the program no more than a recording does.
    Top(TopArgs),
    /// Show the stacks of all threads as they are now
    ///
    /// Each thread with its state and what it waits for; threads with the same stack are shown once, with their number.
    /// Running threads stand still one at a time, for some tens of microseconds each; sleeping threads are not stopped.
    #[command(visible_alias = "stack")]
    Dump(DumpArgs),
    /// Show what there are names for, from where, and how to get the rest; pack them for another machine
    ///
    /// Lists the files in which samples were taken: what their functions are named by, for which share of the samples
    /// names are missing, and the command that would get them.
    Symbols(SymbolsArgs),
    /// Profile a small built-in workload whose truth is known
    ///
    /// Three functions share a CPU 60 to 30 to 10, one thread sleeps on a lock and one reads a pipe. Prints what was
    /// measured beside the truth, and writes a flame graph.
    Demo(DemoArgs),
    /// Say what works here and what does not, why, and what to do about it
    ///
    /// Tries on a process of its own what recording takes. With -p it says besides whether that process can be
    /// recorded, which of its modules have names and unwind tables, and which interpreters it has. It is not stopped
    /// for that.
    Doctor(DoctorArgs),
    /// Print a script that completes the command line of sampler in a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write the pages of all commands
    Man(ManArgs),
    /// Is that workload
    #[command(name = super::demo::WORKLOAD, hide = true)]
    DemoWorkload(DemoWorkloadArgs),
    /// Is a process to try things on
    #[command(name = crate::doctor::CHILD, hide = true)]
    DoctorChild,
}

/// `sampler record`.
#[derive(Debug, Args)]
#[command(
    override_usage = "sampler record [OPTIONS] -p <PID>[,<PID>...]\n       sampler record [OPTIONS] -P <REGEX>\n       \
        sampler record [OPTIONS] --cgroup <PATH>\n       sampler record [OPTIONS] [--] <CMD> [ARG]...",
    group = clap::ArgGroup::new("target").args(["pids", "pgrep", "cgroup", "cmd"]),
    after_help = RECORD_EXAMPLES,
    after_long_help = RECORD_AFTER_LONG,
)]
pub struct RecordArgs {
    /// Record these running processes, with all their threads
    #[arg(short, long = "pid", value_name = "PID[,PID...]", value_parser = PidList::parse, allow_hyphen_values = true)]
    pub pids: Vec<PidList>,

    /// Record all processes whose name or command line matches, those that start later too
    ///
    /// The name is the one `ps` shows, of up to 15 characters; the command line has its arguments joined by spaces, as
    /// for `pgrep -f`. It is enough that REGEX is found somewhere in one of them; ^ and $ stand for the start and end
    /// of either. Never matches sampler itself or the processes that started it. The recording goes on, even while none
    /// matches, until the duration is over or Ctrl-C.
    #[arg(short = 'P', long, value_name = "REGEX", value_parser = parse_pattern, allow_hyphen_values = true)]
    pub pgrep: Option<Pattern>,

    /// Record all processes in this control group and those below it, those that enter later too
    ///
    /// PATH is a folder below /sys/fs/cgroup, or a path as in /proc/PID/cgroup, of version 1 or 2. The recording goes
    /// on, even while the group is empty, until the duration is over or Ctrl-C.
    #[arg(long, value_name = "PATH", short_alias = 'G')]
    pub cgroup: Option<PathBuf>,

    /// Record the processes' children and all further descendants too [default for a command]
    ///
    /// New ones are looked for at every tick. The recording ends with the processes that were asked for, or with the
    /// command, whether descendants run on or not. CPU time of those that ended before they were seen is shown as such.
    #[arg(short, long, overrides_with = "no_subprocesses")]
    pub subprocesses: bool,

    /// Record the command alone, without the processes that it starts [default for -p, -P and --cgroup]
    #[arg(long, overrides_with = "subprocesses", alias = "no-inherit")]
    pub no_subprocesses: bool,

    /// How often to look, per second
    ///
    /// The moments are jittered, so that they cannot run in step with what the program does. CPU time is taken from
    /// the kernel's accounts and only shared out by the samples: a low rate makes the picture coarser, not wrong.
    #[arg(
        short, long, value_name = "HZ", default_value = "99", value_parser = parse_rate, allow_hyphen_values = true,
        visible_short_alias = 'F', visible_alias = "freq"
    )]
    pub rate: f64,

    /// How long to record: 10, 2.5, 500ms, 2m, 1h [default: until Ctrl-C or the program ends]
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    pub duration: Option<Duration>,

    /// The file to write, or - for standard output [default: sampler.data]
    ///
    /// It grows as FILE.partial and gets its name when it is complete, so that a recording that fails does not take
    /// an older one with it. `sampler report` can read a .partial too, should sampler be killed. SIGUSR1 has sampler
    /// write to FILE what was recorded so far, and go on (with --format: the recording, with the extension .data).
    ///
    /// In FILE, %p stands for the process, %n for its name, %t for the time in UTC (2026-01-31T12:00:00Z), and %% for a
    /// percent sign.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Make a report of the recording at once, rather than keep it [default: by the extension of --output, else keep
    /// it]
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<FormatArg>,

    /// Begin another file each time so much has passed: 60s, 10m, 1h
    ///
    /// Each is a recording of its own, with the time in its name (%t, which is put before the extension where FILE has
    /// none). Between two, some milliseconds are not recorded.
    #[arg(
        long, value_name = "TIME", value_parser = parse_rotation, allow_hyphen_values = true, alias = "switch-output",
        hide_short_help = true
    )]
    pub rotate: Option<Duration>,

    /// Of the files that --rotate makes, keep the last N and remove the others
    #[arg(
        long, value_name = "N", requires = "rotate", value_parser = parse_count, allow_hyphen_values = true,
        alias = "switch-max-files", hide_short_help = true
    )]
    pub keep: Option<usize>,

    /// Show it in a browser, live: the page of `sampler report -o report.html` [default ADDR: 127.0.0.1:0]
    ///
    /// ADDR is PORT, IP:PORT or localhost:PORT, with port 0 for any that is free. What to open is printed, with a token
    /// without which nothing is shown. Only this machine can reach it, unless ADDR is an address that others can. The
    /// page is brought up to date each second or two, rarer where that would cost more than half of --max-overhead, and
    /// only while somebody looks.
    #[arg(
        long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:0",
        value_parser = ServeAddress::parse, hide_short_help = true
    )]
    pub serve: Option<ServeAddress>,

    /// How much of a thread's stack is copied at most per look: 64k, 1m
    ///
    /// Only what is in use is copied. Stacks deeper than this are cut at their outer end and marked as cut. More
    /// makes the pauses of deep threads longer.
    #[arg(long, value_name = "SIZE", default_value = "1m", value_parser = parse_stack_size, allow_hyphen_values = true)]
    pub stack_size: usize,

    /// What recording may cost at most, in percent, or off
    ///
    /// In any second, no thread of the program stands still for more than this share of it, and sampler itself uses
    /// no more than this share of the CPU time that the program uses, or of one CPU, whichever is more; the first
    /// second, in which sampler finds out what the program is made of, is left out of the latter. Where --rate would
    /// cost more, fewer samples are taken; CPU time is right all the same.
    #[arg(
        long, value_name = "PERCENT", default_value = "2", value_parser = MaxOverhead::parse,
        allow_hyphen_values = true
    )]
    pub max_overhead: MaxOverhead,

    /// How long a thread may stand still for one sample: 500us, 1ms
    ///
    /// What is not copied of its stack by then is left out, and the stack is marked as cut. Only stacks of many
    /// megabytes (--stack-size) or with pages swapped out take so long.
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_pause, allow_hyphen_values = true)]
    pub max_pause: Duration,

    /// Stop no thread, not even one that runs
    ///
    /// Sleeping threads are seen whole all the same. Of running ones only the frames of Python are seen, read while they
    /// run on; their machine code and their system calls are not. CPU time is right all the same.
    #[arg(long)]
    pub no_stop: bool,

    /// Whose frames to look for inside the native stack: none, auto (all that there are), or some of lua,python
    ///
    /// Frames of interpreted code take the place of the interpreter's own; what it calls and what calls it is shown
    /// around them.
    #[arg(long, value_name = "LANG[,LANG...]", default_value = "auto", value_parser = LanguageList::parse)]
    pub lang: LanguageList,

    /// What the report is to show.
    #[command(flatten)]
    pub report: RecordReportArgs,

    /// The command to start and record, with its arguments; options of sampler come before it
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    pub cmd: Vec<OsString>,
}

/// What the report is to show that `record` makes at once, and what other profilers need to be told.
#[derive(Debug, Args)]
pub struct RecordReportArgs {
    /// Of a report made at once (--format): which time to show [default: cpu]; a recording that is kept holds all
    #[arg(short, long, value_name = "WEIGHT", hide_short_help = true)]
    pub weight: Option<WeightArg>,

    /// Of a report made at once (--format): tell the threads apart
    #[arg(short, long, hide_short_help = true)]
    pub threads: bool,

    /// Of a report made at once (--format): show only what threads did while they held Python's lock
    #[arg(long, hide_short_help = true)]
    pub gil: bool,

    /// As in py-spy: time asleep too, i.e. --weight wall
    #[arg(short, long, hide = true, conflicts_with = "weight")]
    pub idle: bool,

    /// As in py-spy: it is always so
    #[arg(short, long, hide = true)]
    pub native: bool,

    /// As in perf: it is always so
    #[arg(short = 'g', hide = true)]
    pub stacks: bool,

    /// As in perf: how is found out for each frame
    #[arg(long, hide = true, value_name = "MODE")]
    pub call_graph: Option<String>,
}

/// The value of one `-p`: a type of its own, because clap takes a plain `Vec` for "given several times".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidList(pub Vec<i32>);

impl PidList {
    pub(super) fn parse(words: &str) -> Result<Self, super::values::ValueError> {
        parse_pids(words).map(Self)
    }
}

/// Which frames to show of what was recorded.
#[derive(Debug, Args)]
pub struct ViewArgs {
    /// Whose frames to show besides machine code: none, auto (all), or some of lua,python
    #[arg(long, value_name = "LANG[,LANG...]", default_value = "auto", value_parser = LanguageList::parse)]
    pub lang: LanguageList,

    /// Leave machine code out of stacks with interpreted code in them
    #[arg(long)]
    pub no_native: bool,
}

/// The value of `--lang`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanguageList(pub Languages);

impl LanguageList {
    fn parse(words: &str) -> Result<Self, super::values::ValueError> {
        parse_languages(words).map(Self)
    }
}

/// The value of `--max-overhead`: a type of its own, because clap takes an [`Option`] for an argument that may be
/// missing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxOverhead(pub Share);

impl MaxOverhead {
    fn parse(word: &str) -> Result<Self, super::values::ValueError> {
        parse_max_overhead(word).map(Self)
    }
}

const RECORD_EXAMPLES: &str = "\
Examples:
  sampler record -p 4711 -d 10
  sampler record -P '^nginx' -d 10
  sampler record -r 499 -- ./server --port 80
  sampler record -- make";

const RECORD_AFTER_LONG: &str = "\
Examples:
  sampler record -p 4711 -d 10
  sampler record -P '^nginx' -d 10
  sampler record -r 499 -- ./server --port 80
  sampler record -- make

Exit status with -p, -P and --cgroup:
  0 recorded, 1 error, 2 wrong command line, 3 permission denied, 4 no such process or control group, 5 no samples
Exit status with a command:
  the command's own (128 + N when signal N killed it); 2 wrong command line, 125 sampler failed,
  126 the command cannot be executed, 127 the command was not found";

/// `sampler report`.
#[derive(Debug, Args)]
#[command(after_help = REPORT_EXAMPLES)]
pub struct ReportArgs {
    /// The recording, or - for standard input [default: sampler.data]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The same as FILE, as `perf report` has it
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with = "file",
        hide_short_help = true
    )]
    pub input: Option<PathBuf>,

    /// What to make of it [default: by the extension of --output, else table]
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<FormatArg>,

    /// The file to write, or - for standard output; .svg, .html, .folded, .json and .txt choose the format
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Which time to show [default: cpu]
    #[arg(short, long, value_name = "WEIGHT")]
    pub weight: Option<WeightArg>,

    /// Tell the threads apart: each under the root by its name and number
    #[arg(short, long)]
    pub threads: bool,

    /// How stacks are laid out.
    #[command(flatten)]
    pub layout: LayoutArgs,

    /// What is shown.
    #[command(flatten)]
    pub selection: SelectionArgs,

    /// How many rows of a table or lines of a tree to show, 0 for all [default: 40 for a table, all for a tree]
    #[arg(short = 'n', long, value_name = "N", allow_hyphen_values = true)]
    pub limit: Option<usize>,

    /// Leave calls below this share out of a tree
    #[arg(
        long, value_name = "PERCENT", default_value = "0.5", value_parser = parse_percent, allow_hyphen_values = true,
        hide_short_help = true, alias = "percent-limit"
    )]
    pub threshold: f64,

    /// Where to look for functions' names.
    #[command(flatten)]
    pub symbols: SymbolArgs,

    /// Do not page a table or tree that is shown on a terminal
    ///
    /// The pager is $SAMPLER_PAGER, else $PAGER, else `less -FRX`; an empty one or `cat` is none.
    #[arg(long)]
    pub no_pager: bool,
}

const REPORT_EXAMPLES: &str = "\
Examples:
  sampler report                            which functions took the CPU time
  sampler report -o flame.svg               a flame graph for the browser
  sampler report -o report.html             everything, to click through in the browser
  sampler report --weight off-cpu -f tree   where threads slept, by caller
  sampler report --weight off-cpu --by file what threads waited for: disks, peers, locks
  sampler report --by line --no-native      which lines of a script took the CPU time
  sampler report -f folded | less           for other tools, a stack per line";

/// Where to look for functions' names.
#[derive(Debug, Args)]
pub struct SymbolArgs {
    /// Look for separate debug files in this directory too; may be given several times
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,

    /// Do not show functions that the compiler inlined as frames of their own; faster
    #[arg(long)]
    pub no_inline: bool,

    /// Take names from a pack that `sampler symbols pack` made where the program ran
    #[arg(long, value_name = "PACK")]
    pub symbols: Option<PathBuf>,

    /// Ask servers for debug files that are not here, by build ID [default URL: those in $DEBUGINFOD_URLS]
    ///
    /// They learn which programs were recorded, so they are only asked where this is given. What they send is kept in
    /// the cache of debuginfod-find(1).
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub debuginfod: Option<String>,

    /// Neither use nor keep names of earlier reports in the symbol cache ($XDG_CACHE_HOME/sampler)
    #[arg(long)]
    pub no_symbol_cache: bool,
}

/// `sampler symbols`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = SYMBOLS_EXAMPLES)]
pub struct SymbolsArgs {
    /// Something else than the list.
    #[command(subcommand)]
    pub command: Option<SymbolsCommandArgs>,

    /// The recording, or - for standard input [default: sampler.data]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Write JSON, for other tools
    #[arg(short, long)]
    pub json: bool,

    /// Where to look for functions' names.
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

/// What `sampler symbols` does besides its list.
#[derive(Debug, Subcommand)]
pub enum SymbolsCommandArgs {
    /// Pack all that the names of a recording come from into one file, for a report on another machine
    Pack(PackArgs),
}

/// `sampler symbols pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// The recording, or - for standard input [default: sampler.data]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The pack to write
    #[arg(short, long, value_name = "PACK")]
    pub output: PathBuf,

    /// Where to look for functions' names.
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

const SYMBOLS_EXAMPLES: &str = "\
Examples:
  sampler symbols                             what has names, and how to get those that are missing
  sampler symbols --debuginfod                the same, with what a server has
  sampler symbols pack -o app.pack            for elsewhere: sampler report --symbols app.pack";

/// `sampler top`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").args(["pids", "pgrep", "cgroup"]).required(true))]
pub struct TopArgs {
    /// Watch these running processes, with all their threads
    #[arg(short, long = "pid", value_name = "PID[,PID...]", value_parser = PidList::parse, allow_hyphen_values = true)]
    pub pids: Vec<PidList>,

    /// Watch all processes whose name or command line matches, as for `sampler record`
    #[arg(short = 'P', long, value_name = "REGEX", value_parser = parse_pattern, allow_hyphen_values = true)]
    pub pgrep: Option<Pattern>,

    /// Watch all processes in this control group and those below it, as for `sampler record`
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,

    /// Watch the processes' children and all further descendants too
    #[arg(short, long)]
    pub subprocesses: bool,

    /// How often to look, per second
    #[arg(
        short, long, value_name = "HZ", default_value = "99", value_parser = parse_rate, allow_hyphen_values = true,
        visible_short_alias = 'F', visible_alias = "freq"
    )]
    pub rate: f64,

    /// What watching may cost at most, in percent, or off: as for `sampler record`
    #[arg(
        long, value_name = "PERCENT", default_value = "2", value_parser = MaxOverhead::parse,
        allow_hyphen_values = true
    )]
    pub max_overhead: MaxOverhead,

    /// Show it in a browser, live: the page of `sampler report -o report.html` [default ADDR: 127.0.0.1:0]
    ///
    /// ADDR is PORT, IP:PORT or localhost:PORT, with port 0 for any that is free. What to open is printed, with a token
    /// without which nothing is shown. Only this machine can reach it, unless ADDR is an address that others can. The
    /// page is brought up to date each second or two, rarer where that would cost more than half of --max-overhead, and
    /// only while somebody looks. No terminal is needed then.
    #[arg(
        long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:0",
        value_parser = ServeAddress::parse
    )]
    pub serve: Option<ServeAddress>,

    /// Which frames to show.
    #[command(flatten)]
    pub view: ViewArgs,

    /// Where to look for functions' names.
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

/// `sampler dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The process
    #[arg(short, long, value_name = "PID", value_parser = parse_pid, allow_hyphen_values = true)]
    pub pid: i32,

    /// Write JSON, for other tools
    #[arg(short, long)]
    pub json: bool,

    /// As in py-spy: it is always so
    #[arg(short, long, hide = true)]
    pub native: bool,

    /// Which frames to show.
    #[command(flatten)]
    pub view: ViewArgs,

    /// Where to look for functions' names.
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

/// `sampler demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The flame graph to write
    #[arg(short, long, value_name = "FILE", default_value = "demo.svg")]
    pub output: PathBuf,

    /// How long to run: 10, 2.5, 500ms
    #[arg(
        short, long, value_name = "TIME", default_value = "3s", value_parser = parse_duration,
        allow_hyphen_values = true
    )]
    pub duration: Duration,
}

/// Is the workload that `demo` profiles.
#[derive(Debug, Args)]
pub struct DemoWorkloadArgs {
    /// How long to work
    #[arg(value_parser = parse_duration)]
    pub duration: Duration,

    /// The file to write the truth to
    pub truth: PathBuf,
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Functions by their own time, with percentages
    Table,
    /// Who called whom, with percentages
    Tree,
    /// A line per stack, outermost function first, for flame graph tools
    Folded,
    /// An SVG to click through in a browser
    Flamegraph,
    /// A page for the browser with all weights, threads and times, in one file (docs/html.md)
    Html,
    /// Everything, for programs (docs/json.md)
    Json,
}

/// `--weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightArg {
    /// Time on a CPU
    Cpu,
    /// All time that passed
    Wall,
    /// Time asleep: waiting for a lock, a disk, a peer
    OffCpu,
    /// Time ready to run, waiting for a CPU
    #[value(name = "runqueue", alias = "run-queue")]
    RunQueue,
    /// How often it was seen, whatever time it stands for
    Samples,
}
