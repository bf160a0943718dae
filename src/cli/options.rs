//! What the command line means: validated, with every default filled in.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sampler_unwind::interpreter::Languages;

use super::args::{
    DemoArgs, DumpArgs, FormatArg, PackArgs, PidList, RecordArgs, ReportArgs, SymbolArgs,
    SymbolsArgs, SymbolsCommandArgs, TopArgs, WeightArg,
};
use super::common_args::{DoctorArgs, ShellArg};
use super::export_args::{DiffOptions, ExportOptions, MergeOptions, by_of, weight_of};
use super::output_name::{OutputName, UnknownWord};
use super::symbol_options::SymbolOptions;
use super::view_args::SelectionOptions;
use crate::profile::Weight;
use crate::record::{Pattern, Share};
use crate::report::{By, Layout};
use crate::serve::ServeAddress;

/// The recording that is written and read when none is named.
pub const RECORDING_DEFAULT: &str = "sampler.data";
/// Rows of a table when `--limit` is not given.
pub const TABLE_ROWS_DEFAULT: usize = 40;

/// What to do, and how.
#[derive(Clone, Debug, PartialEq)]
pub enum Options {
    /// `sampler record`.
    Record(RecordOptions),
    /// `sampler report`.
    Report(ReportOptions),
    /// `sampler export`.
    Export(ExportOptions),
    /// `sampler diff`.
    Diff(DiffOptions),
    /// `sampler merge`.
    Merge(MergeOptions),
    /// `sampler top`.
    Top(TopOptions),
    /// `sampler dump`.
    Dump(DumpOptions),
    /// `sampler symbols`.
    Symbols(SymbolsOptions),
    /// `sampler symbols pack`.
    Pack(PackOptions),
    /// `sampler doctor`.
    Doctor(DoctorOptions),
    /// `sampler completions`.
    Completions(ShellArg),
    /// `sampler man`, into a directory.
    Man(Option<PathBuf>),
    /// `sampler demo`.
    Demo(DemoOptions),
    /// What `sampler demo` profiles.
    DemoWorkload(DemoWorkloadOptions),
    /// What `sampler doctor` tries things on.
    DoctorChild,
}

impl Options {
    /// Whether defaults of the user's could make a difference.
    pub(super) fn have_defaults(&self) -> bool {
        !matches!(
            self,
            Self::Completions(_) | Self::Man(_) | Self::DemoWorkload(_) | Self::DoctorChild
        )
    }
}

/// What to record, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordOptions {
    /// What to record.
    pub target: Target,
    /// Whether the processes that they start are recorded too.
    pub subprocesses: bool,
    /// Ticks per second: above 0, at most [`super::values::RATE_HZ_MAX`].
    pub rate_hz: f64,
    /// How long; `None` until Ctrl-C or the target's end.
    pub duration: Option<Duration>,
    /// Where to; a file's name may have words in it that stand for what is recorded ([`OutputName`]).
    pub output: Output,
    /// The report to make of it at once. Its input and output are those of the recording.
    pub report: Option<Box<ReportOptions>>,
    /// After how long another file begins; `None` for one file.
    pub rotate: Option<Duration>,
    /// How many of these files are kept; `None` for all.
    pub keep: Option<usize>,
    /// How many bytes of a stack are copied at most.
    pub stack_bytes_max: usize,
    /// The overhead promised, as a share above 0 and at most 1; `None` for no promise.
    pub max_overhead: Share,
    /// How long a thread may stand still for one sample.
    pub pause_max: Duration,
    /// The languages whose frames are looked for, besides machine code.
    pub languages: Languages,
    /// Whether running threads may be stopped.
    pub may_stop: bool,
    /// Where it is shown live, and how.
    pub serve: Option<Served>,
    /// Whether to show neither progress nor a summary.
    pub quiet: bool,
}

/// What is shown live of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Where.
    pub address: ServeAddress,
    /// The weight that is shown first.
    pub weight: Weight,
    /// Where names come from.
    pub symbols: SymbolOptions,
}

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Running processes: at least one, each once.
    Pids(Vec<i32>),
    /// Whatever process matches, now or later.
    Pgrep(Pattern),
    /// Whatever process is in this control group, now or later.
    Cgroup(PathBuf),
    /// A command to start: its program, then its arguments; never empty.
    Command(Vec<OsString>),
}

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// Where a recording is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// What to show of a recording, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportOptions {
    /// The recording.
    pub input: Input,
    /// What to make of it.
    pub format: Format,
    /// Where to.
    pub output: Output,
    /// Which time is shown.
    pub weight: Weight,
    /// Whether threads are told apart.
    pub threads: bool,
    /// What frames are told apart by.
    pub by: By,
    /// How stacks are laid out.
    pub layout: Layout,
    /// What is shown.
    pub selection: SelectionOptions,
    /// Where names come from.
    pub symbols: SymbolOptions,
    /// Whether a table or tree that is shown on a terminal is paged.
    pub pager: bool,
    /// Whether notes on what is missing are left out where the report has no place for them.
    pub quiet: bool,
}

/// What a report makes of a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// Functions.
    Table {
        /// Rows at most; `None` for all.
        limit: Option<usize>,
    },
    /// Who called whom.
    Tree {
        /// Lines at most; `None` for all.
        limit: Option<usize>,
        /// Calls below this share are left out, 0 to 100.
        threshold_percent: f64,
    },
    /// A line per stack.
    Folded,
    /// An SVG.
    Flamegraph,
    /// A page.
    Html,
    /// Everything.
    Json,
}

impl Format {
    /// Whether it is text for people, and may be paged and fitted to a terminal.
    pub fn is_for_reading(self) -> bool {
        matches!(self, Format::Table { .. } | Format::Tree { .. })
    }
}

/// Whom to watch, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct TopOptions {
    /// Whom: no command.
    pub target: Target,
    /// Whether the processes that they start are watched too.
    pub subprocesses: bool,
    /// Ticks per second: above 0, at most [`super::values::RATE_HZ_MAX`].
    pub rate_hz: f64,
    /// The overhead promised, as a share above 0 and at most 1; `None` for no promise.
    pub max_overhead: Share,
    /// The languages whose frames are looked for, besides machine code.
    pub languages: Languages,
    /// Whether machine code is left out where there is interpreted code.
    pub no_native: bool,
    /// Where it is shown live, if not only on a terminal.
    pub serve: Option<ServeAddress>,
    /// Where names come from.
    pub symbols: SymbolOptions,
}

/// Whose stacks to show, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpOptions {
    /// The process.
    pub pid: i32,
    /// Whether as JSON.
    pub json: bool,
    /// The languages whose frames are looked for, besides machine code.
    pub languages: Languages,
    /// Whether machine code is left out where there is interpreted code.
    pub no_native: bool,
    /// Where names come from.
    pub symbols: SymbolOptions,
}

/// Whose names to list, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolsOptions {
    /// The recording.
    pub input: Input,
    /// Whether as JSON.
    pub json: bool,
    /// Where names come from.
    pub symbols: SymbolOptions,
}

/// Whose names to pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// The recording.
    pub input: Input,
    /// The pack.
    pub output: PathBuf,
    /// Where names come from.
    pub symbols: SymbolOptions,
}

/// Whom to examine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorOptions {
    /// The process, besides this machine.
    pub pid: Option<i32>,
    /// Whether as JSON.
    pub json: bool,
    /// Where names come from.
    pub symbols: SymbolOptions,
}

/// How to run the demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// The flame graph to write.
    pub output: Output,
    /// How long.
    pub duration: Duration,
}

/// How the demonstration's workload runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoWorkloadOptions {
    /// How long.
    pub duration: Duration,
    /// The file that it tells the truth to.
    pub truth: PathBuf,
}

/// Options that make no sense together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Nothing to record.
    #[error(
        "nothing to record: give running processes with -p PID, -P REGEX or --cgroup PATH, or a command to start"
    )]
    NoTarget,
    /// The format is to be told from an extension that tells nothing.
    #[error("cannot tell the format from '{}': use .svg, .html, .folded, .json or .txt, or say --format", .0.display())]
    UnknownExtension(PathBuf),
    /// The same of `sampler export`.
    #[error(
        "cannot tell the format from '{}': use .pb.gz, .pprof, .speedscope.json, .firefox.json, .trace.json, .perf, \
         .folded, .callgrind or .jsonl, or say --format", .0.display()
    )]
    UnknownExport(PathBuf),
    /// Nothing tells the format.
    #[error("say what to write: --format, or a file by --output whose name tells")]
    NoExport,
    /// `--inverted` for something without stacks.
    #[error("--inverted turns stacks round: say --format tree, folded or flamegraph")]
    InvertedRows,
    /// The output of `merge` is one of its inputs.
    #[error("{} is one of the recordings, and not to be overwritten", .0.display())]
    MergeOntoItself(PathBuf),
    /// What a report shows, where none is made.
    #[error(
        "{0} says what a report shows, and a recording holds everything: make one at once with --format or --output \
         x.svg, or give {0} to `sampler report`"
    )]
    NoReport(&'static str),
    /// `--limit` for something without rows.
    #[error("--limit is for a table or a tree")]
    LimitWithoutRows,
    /// Files one after the other on standard output.
    #[error("--rotate needs a file to write to")]
    RotateToStdout,
    /// What goes to standard output cannot be read again.
    #[error("--serve needs a file to record into")]
    ServeFromStdout,
    /// A name with words in it that nobody knows.
    #[error(transparent)]
    OutputName(#[from] UnknownWord),
}

impl RecordOptions {
    /// What `args` mean, with the report that is to be made at once, and what a live page is to show.
    ///
    /// # Errors
    /// When they make no sense together.
    pub(super) fn new(
        args: RecordArgs,
        report: Option<Box<ReportOptions>>,
        serve: Option<Served>,
        quiet: bool,
    ) -> Result<Self, UsageError> {
        let output = output_of(args.output, report.as_deref(), args.rotate.is_some())?;
        if serve.is_some() && report.is_none() && output == Output::Stdout {
            return Err(UsageError::ServeFromStdout);
        }
        let pids = distinct(args.pids);
        // clap has seen to it that there is no more than one of them.
        let target = match (args.pgrep, args.cgroup) {
            _ if !pids.is_empty() => Target::Pids(pids),
            (Some(pattern), _) => Target::Pgrep(pattern),
            (None, Some(path)) => Target::Cgroup(path),
            (None, None) if args.cmd.is_empty() => return Err(UsageError::NoTarget),
            (None, None) => Target::Command(args.cmd),
        };
        let by_default = matches!(target, Target::Command(_));
        Ok(Self {
            target,
            subprocesses: args.subprocesses || (by_default && !args.no_subprocesses),
            rate_hz: args.rate,
            duration: args.duration,
            output,
            report,
            rotate: args.rotate,
            keep: args.keep,
            stack_bytes_max: args.stack_size,
            max_overhead: args.max_overhead.0,
            pause_max: args.max_pause,
            languages: args.lang.0,
            may_stop: !args.no_stop,
            serve,
            quiet,
        })
    }
}

/// Where a recording, or the report made of it, is written.
fn output_of(
    path: Option<PathBuf>,
    report: Option<&ReportOptions>,
    rotates: bool,
) -> Result<Output, UsageError> {
    let by_default = || match report.map(|report| report.format) {
        None => RECORDING_DEFAULT.into(),
        Some(format) if format.is_for_reading() => "-".into(),
        Some(Format::Flamegraph) => "sampler.svg".into(),
        Some(Format::Html) => "sampler.html".into(),
        Some(Format::Json) => "sampler.json".into(),
        Some(_) => "sampler.folded".into(),
    };
    match Output::from(path.unwrap_or_else(by_default)) {
        Output::Stdout if rotates => Err(UsageError::RotateToStdout),
        Output::Stdout => Ok(Output::Stdout),
        Output::File(path) => {
            let name = OutputName::new(path)?;
            let name = if rotates { name.with_time() } else { name };
            Ok(Output::File(name.as_path().to_owned()))
        }
    }
}

impl ReportOptions {
    /// What `args` mean.
    ///
    /// # Errors
    /// When they make no sense together.
    pub(super) fn new(args: ReportArgs, quiet: bool) -> Result<Self, UsageError> {
        let format = match (args.format, &args.output) {
            (Some(format), _) => format,
            (None, Some(path)) if path != Path::new("-") => format_of(path)?,
            (None, _) => FormatArg::Table,
        };
        let limit = |default| match args.limit {
            None => default,
            Some(0) => None,
            Some(limit) => Some(limit),
        };
        let format = match format {
            FormatArg::Table => Format::Table {
                limit: limit(Some(TABLE_ROWS_DEFAULT)),
            },
            FormatArg::Tree => Format::Tree {
                limit: limit(None),
                threshold_percent: args.threshold,
            },
            _ if args.limit.is_some() => return Err(UsageError::LimitWithoutRows),
            FormatArg::Folded => Format::Folded,
            FormatArg::Flamegraph => Format::Flamegraph,
            FormatArg::Html => Format::Html,
            FormatArg::Json => Format::Json,
        };
        if args.layout.inverted && matches!(format, Format::Table { .. }) {
            return Err(UsageError::InvertedRows);
        }
        let selection = SelectionOptions::from(args.selection);
        Ok(Self {
            input: args.file.or(args.input).into(),
            format,
            output: args.output.map_or(Output::Stdout, Output::from),
            weight: weight_of(args.weight, &selection),
            threads: args.threads,
            by: by_of(args.layout.by),
            layout: selection.layout(&args.layout),
            selection,
            symbols: args.symbols.into(),
            pager: !args.no_pager,
            quiet,
        })
    }
}

/// The format that the extension of `path` stands for.
///
/// # Errors
/// When it stands for none.
pub(super) fn format_of(path: &Path) -> Result<FormatArg, UsageError> {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "svg" => Ok(FormatArg::Flamegraph),
        "html" | "htm" => Ok(FormatArg::Html),
        "folded" | "collapsed" => Ok(FormatArg::Folded),
        "json" => Ok(FormatArg::Json),
        "txt" => Ok(FormatArg::Table),
        _ => Err(UsageError::UnknownExtension(path.into())),
    }
}

impl From<TopArgs> for TopOptions {
    fn from(args: TopArgs) -> Self {
        Self {
            // clap has seen to it that there is exactly one of them.
            target: match (args.pgrep, args.cgroup) {
                (Some(pattern), _) => Target::Pgrep(pattern),
                (None, Some(path)) => Target::Cgroup(path),
                (None, None) => Target::Pids(distinct(args.pids)),
            },
            subprocesses: args.subprocesses,
            rate_hz: args.rate,
            max_overhead: args.max_overhead.0,
            languages: args.view.lang.0,
            no_native: args.view.no_native,
            serve: args.serve,
            symbols: args.symbols.into(),
        }
    }
}

/// Each process once, in the order in which they were given.
fn distinct(lists: Vec<PidList>) -> Vec<i32> {
    let mut pids = Vec::new();
    for pid in lists.into_iter().flat_map(|list| list.0) {
        if !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    pids
}

impl From<DumpArgs> for DumpOptions {
    fn from(args: DumpArgs) -> Self {
        Self {
            pid: args.pid,
            json: args.json,
            languages: args.view.lang.0,
            no_native: args.view.no_native,
            symbols: args.symbols.into(),
        }
    }
}

impl From<SymbolsArgs> for Options {
    fn from(args: SymbolsArgs) -> Self {
        match args.command {
            Some(SymbolsCommandArgs::Pack(args)) => Options::Pack(args.into()),
            None => Options::Symbols(SymbolsOptions {
                input: args.file.into(),
                json: args.json,
                symbols: args.symbols.into(),
            }),
        }
    }
}

impl From<PackArgs> for PackOptions {
    fn from(args: PackArgs) -> Self {
        Self {
            input: args.file.into(),
            output: args.output,
            symbols: args.symbols.into(),
        }
    }
}

impl From<DoctorArgs> for DoctorOptions {
    fn from(args: DoctorArgs) -> Self {
        Self {
            pid: args.pid,
            json: args.json,
            symbols: args.symbols.into(),
        }
    }
}

impl From<DemoArgs> for DemoOptions {
    fn from(args: DemoArgs) -> Self {
        Self {
            output: args.output.into(),
            duration: args.duration,
        }
    }
}

impl From<SymbolArgs> for SymbolOptions {
    fn from(args: SymbolArgs) -> Self {
        let urls = |urls: String| urls.split_whitespace().map(str::to_owned).collect();
        Self {
            debug_dirs: args.debug_dir,
            inline: !args.no_inline,
            pack: args.symbols,
            debuginfod: args.debuginfod.map(urls),
            cache: !args.no_symbol_cache,
        }
    }
}

impl From<PathBuf> for Output {
    fn from(path: PathBuf) -> Self {
        if path == Path::new("-") {
            Output::Stdout
        } else {
            Output::File(path)
        }
    }
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Self {
        if path == Path::new("-") {
            Input::Stdin
        } else {
            Input::File(path)
        }
    }
}

impl From<Option<PathBuf>> for Input {
    /// The usual recording, where none is named.
    fn from(path: Option<PathBuf>) -> Self {
        path.map_or_else(|| Input::File(RECORDING_DEFAULT.into()), Input::from)
    }
}

impl From<WeightArg> for Weight {
    fn from(weight: WeightArg) -> Self {
        match weight {
            WeightArg::Cpu => Weight::Cpu,
            WeightArg::Wall => Weight::Wall,
            WeightArg::OffCpu => Weight::OffCpu,
            WeightArg::RunQueue => Weight::RunQueue,
            WeightArg::Samples => Weight::Samples,
        }
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
