//! `sampler export`, `diff` and `merge`: what was typed, and what it means.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::args::{SymbolArgs, WeightArg};
use super::options::{Input, Output, UsageError};
use super::symbol_options::SymbolOptions;
use super::values::parse_percent;
use super::view_args::{ByArg, LayoutArgs, SelectionArgs, SelectionOptions};
use crate::profile::Weight;
use crate::report::{By, Layout};

/// `sampler export`.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub struct ExportArgs {
    /// The recording, or - for standard input [default: sampler.data]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// What to write [default: by the name of --output]
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<ExportFormat>,

    /// The file to write, or - for standard output [default: standard output]
    ///
    /// Its name tells the format: .pb.gz and .pprof, .speedscope.json, .firefox.json, .trace.json, .perf, .folded,
    /// .callgrind (or callgrind.out.*), .jsonl. What ends in .gz is compressed.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Which time to write; pprof and jsonl have all of them, and pprof shows this one first [default: cpu]
    #[arg(short, long, value_name = "WEIGHT")]
    pub weight: Option<WeightArg>,

    /// Put each thread under the root by its name and number, where the format has no threads (folded)
    #[arg(short, long)]
    pub threads: bool,

    /// How stacks are laid out.
    #[command(flatten)]
    pub layout: LayoutArgs,

    /// What is shown.
    #[command(flatten)]
    pub selection: SelectionArgs,

    /// Where to look for functions' names.
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  sampler export -o profile.pb.gz && go tool pprof -http : profile.pb.gz
  sampler export -o profile.speedscope.json      for www.speedscope.app
  sampler export -o profile.firefox.json.gz      for profiler.firefox.com
  sampler export -o profile.trace.json           for ui.perfetto.dev
  sampler export -f perf-script --time 10s..20s  as perf script writes it";

/// A format of another tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// For go tool pprof and many services: a protocol buffer, compressed
    Pprof,
    /// For www.speedscope.app
    Speedscope,
    /// For profiler.firefox.com
    Firefox,
    /// For Perfetto and Chrome's tracing
    #[value(alias = "perfetto", alias = "trace")]
    Chrome,
    /// What perf script writes, a sample after the other
    #[value(alias = "perf")]
    PerfScript,
    /// A line per stack, outermost function first, for flame graph tools
    #[value(alias = "collapsed")]
    Folded,
    /// For KCachegrind and callgrind_annotate
    Callgrind,
    /// A line of JSON per stack, for programs (docs/json.md)
    #[value(alias = "json-lines", alias = "ndjson")]
    Jsonl,
}

impl ExportFormat {
    /// Whether it has single samples.
    pub fn is_in_time(self) -> bool {
        matches!(
            self,
            Self::Speedscope | Self::Firefox | Self::Chrome | Self::PerfScript
        )
    }

    /// The format that the name of a file tells.
    fn of(path: &Path) -> Option<Self> {
        const ENDS: &[(&str, ExportFormat)] = &[
            (".pb", ExportFormat::Pprof),
            (".pprof", ExportFormat::Pprof),
            (".speedscope.json", ExportFormat::Speedscope),
            (".speedscope", ExportFormat::Speedscope),
            (".firefox.json", ExportFormat::Firefox),
            (".profile.json", ExportFormat::Firefox),
            (".trace.json", ExportFormat::Chrome),
            (".chrome.json", ExportFormat::Chrome),
            (".perf", ExportFormat::PerfScript),
            (".perf.txt", ExportFormat::PerfScript),
            (".folded", ExportFormat::Folded),
            (".collapsed", ExportFormat::Folded),
            (".callgrind", ExportFormat::Callgrind),
            (".jsonl", ExportFormat::Jsonl),
            (".ndjson", ExportFormat::Jsonl),
        ];
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        if name.starts_with("callgrind.out") {
            return Some(Self::Callgrind);
        }
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let known = ENDS.iter().find(|(end, _)| name.ends_with(end));
        known.map(|&(_, format)| format)
    }
}

/// What to write of a recording for another tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportOptions {
    /// The recording.
    pub input: Input,
    /// The format.
    pub format: ExportFormat,
    /// Where to.
    pub output: Output,
    /// Whether it is to be compressed besides what the format does itself.
    pub compress: bool,
    /// Which time is written.
    pub weight: Weight,
    /// Whether threads are told apart where the format has none.
    pub threads: bool,
    /// What frames are told apart by.
    pub by: By,
    /// How stacks are laid out.
    pub layout: Layout,
    /// What is shown.
    pub selection: SelectionOptions,
    /// Where names come from.
    pub symbols: SymbolOptions,
    /// Whether notes on what is missing are left out.
    pub quiet: bool,
}

impl ExportOptions {
    /// What `args` mean.
    ///
    /// # Errors
    /// When nothing tells the format.
    pub(super) fn new(args: ExportArgs, quiet: bool) -> Result<Self, UsageError> {
        let path = args
            .output
            .as_deref()
            .filter(|path| *path != Path::new("-"));
        let format = match (args.format, path) {
            (Some(format), _) => format,
            (None, Some(path)) => {
                ExportFormat::of(path).ok_or_else(|| UsageError::UnknownExport(path.into()))?
            }
            (None, None) => return Err(UsageError::NoExport),
        };
        let ends_in_gz = path.is_some_and(|path| path.extension().is_some_and(|end| end == "gz"));
        let selection = SelectionOptions::from(args.selection);
        Ok(Self {
            input: args.file.into(),
            format,
            // pprof's is compressed by itself.
            compress: ends_in_gz && format != ExportFormat::Pprof,
            weight: weight_of(args.weight, &selection),
            output: args.output.map_or(Output::Stdout, Output::from),
            threads: args.threads,
            by: by_of(args.layout.by),
            layout: selection.layout(&args.layout),
            selection,
            symbols: args.symbols.into(),
            quiet,
        })
    }
}

/// The time that is shown: CPU time unless another was asked for, by `--state` too.
pub(super) fn weight_of(weight: Option<WeightArg>, selection: &SelectionOptions) -> Weight {
    match (weight, selection.selection.states) {
        (Some(weight), _) => weight.into(),
        (None, Some(_)) => Weight::Wall,
        (None, None) => Weight::Cpu,
    }
}

/// What frames are told apart by.
pub(super) fn by_of(by: ByArg) -> By {
    match by {
        ByArg::Line => By::Line,
        _ => By::Function,
    }
}

/// `sampler diff`.
#[derive(Debug, Args)]
#[command(after_help = DIFF_EXAMPLES)]
pub struct DiffArgs {
    /// The recording to compare with
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,

    /// The recording to compare, or - for standard input
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,

    /// What to make of it [default: flamegraph if --output ends in .svg, else table]
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<DiffFormatArg>,

    /// The file to write, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Which time to compare [default: cpu]
    #[arg(short, long, value_name = "WEIGHT")]
    pub weight: Option<WeightArg>,

    /// How many rows to show, 0 for all
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "40",
        allow_hyphen_values = true
    )]
    pub limit: usize,

    /// End with status 6 if the share of anything has grown by more than so many points, and not by chance
    ///
    /// A share is that of the whole, of a function by itself or with what it calls. By chance: seen once in a hundred
    /// times where nothing has changed (** in the table).
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, allow_hyphen_values = true)]
    pub fail_above: Option<f64>,

    /// How stacks are laid out.
    #[command(flatten)]
    pub layout: LayoutArgs,

    /// What is compared.
    #[command(flatten)]
    pub selection: SelectionArgs,

    /// Where to look for functions' names.
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

const DIFF_EXAMPLES: &str = "\
Examples:
  sampler diff before.data after.data              what takes a larger share of the CPU time, and what a smaller one
  sampler diff before.data after.data -o diff.svg  a flame graph: red has grown, blue has shrunk
  sampler diff main.data branch.data --fail-above 5%

Exit status: 0 compared, 1 error, 2 wrong command line, 5 no samples, 6 something grew by more than --fail-above";

/// `--format` of `diff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffFormatArg {
    /// What has grown and what has shrunk
    Table,
    /// An SVG: red has grown, blue has shrunk
    Flamegraph,
    /// A line per stack with both values, for flame graph tools
    Folded,
}

/// What to compare, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct DiffOptions {
    /// The recordings.
    pub inputs: [Input; 2],
    /// What to make of it.
    pub format: DiffFormatArg,
    /// Where to.
    pub output: Output,
    /// Which time is compared.
    pub weight: Weight,
    /// Rows at most; `None` for all.
    pub limit: Option<usize>,
    /// By how much a share may grow, in percent.
    pub fail_above: Option<f64>,
    /// What frames are told apart by.
    pub by: By,
    /// How stacks are laid out.
    pub layout: Layout,
    /// What is compared.
    pub selection: SelectionOptions,
    /// Where names come from.
    pub symbols: SymbolOptions,
}

impl TryFrom<DiffArgs> for DiffOptions {
    type Error = UsageError;

    fn try_from(args: DiffArgs) -> Result<Self, UsageError> {
        let selection = SelectionOptions::from(args.selection);
        let is_svg = |path: &PathBuf| path.extension().is_some_and(|end| end == "svg");
        let format = match args.format {
            Some(format) => format,
            None if args.output.as_ref().is_some_and(is_svg) => DiffFormatArg::Flamegraph,
            None => DiffFormatArg::Table,
        };
        if format == DiffFormatArg::Table && args.layout.inverted {
            return Err(UsageError::InvertedRows);
        }
        Ok(Self {
            inputs: [args.before.into(), args.after.into()],
            format,
            output: args.output.map_or(Output::Stdout, Output::from),
            weight: weight_of(args.weight, &selection),
            limit: Some(args.limit).filter(|&limit| limit > 0),
            fail_above: args.fail_above,
            by: by_of(args.layout.by),
            layout: selection.layout(&args.layout),
            selection,
            symbols: args.symbols.into(),
        })
    }
}

/// `sampler merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The recordings
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// The recording to write, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// What to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeOptions {
    /// The recordings.
    pub inputs: Vec<PathBuf>,
    /// Where to.
    pub output: Output,
}

impl TryFrom<MergeArgs> for MergeOptions {
    type Error = UsageError;

    fn try_from(args: MergeArgs) -> Result<Self, UsageError> {
        if args.files.contains(&args.output) {
            return Err(UsageError::MergeOntoItself(args.output));
        }
        Ok(Self {
            inputs: args.files,
            output: args.output.into(),
        })
    }
}
