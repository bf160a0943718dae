//! From a command line, and the file with defaults, to what is to be done.

use std::ffi::OsString;

use clap::builder::PossibleValue;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, ValueEnum};

use super::args::{Cli, CommandArgs, FormatArg, RecordArgs, WeightArg};
use super::common_args::CommonArgs;
use super::config::{self, ConfigError};
use super::export_args::{DiffOptions, ExportOptions, MergeOptions};
use super::options::{
    DemoWorkloadOptions, Options, RecordOptions, ReportOptions, Served, UsageError, format_of,
};

/// A command line that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Invocation {
    /// What to do.
    pub options: Options,
    /// What all commands have.
    pub common: CommonArgs,
}

/// A command line or a file with defaults that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The command line, which may also ask for help or the version: [`clap::Error::exit_code`] is 2 or 0.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads a command line, the program's name first, with the defaults of the file that the environment `variable`s lead
/// to.
///
/// # Errors
/// See [`ParseError`].
pub fn parse_with_config(
    arguments: &[OsString],
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, ParseError> {
    let without = parse(arguments.iter().cloned())?;
    if without.common.no_config || !without.options.have_defaults() {
        return Ok(without);
    }
    let Some(path) = config::default_path(variable) else {
        return Ok(without);
    };
    match config::read(&path)? {
        Some(config) => {
            let command = config.apply(Cli::command())?;
            Ok(parse_as(command, arguments.iter().cloned())?)
        }
        None => Ok(without),
    }
}

/// Reads a command line, the program's name first.
///
/// # Errors
/// When it makes no sense, and when it asks for help or the version.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    parse_as(Cli::command(), arguments)
}

/// Reads it as a command line of `command`, which is the one of [`Cli`], perhaps with other defaults.
fn parse_as(
    command: Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, clap::Error> {
    let matches = command.clone().try_get_matches_from(arguments)?;
    let Cli {
        command: args,
        common,
    } = Cli::from_arg_matches(&matches)?;
    let options = match args {
        CommandArgs::Record(args) => {
            let report = report_of(&args, common.quiet, &command)?;
            let serve = served_of(&args, &command)?;
            let needs_report = report.is_none();
            let typed = typed_of_report(&matches, serve.is_some()).filter(|_| needs_report);
            let options = match typed {
                Some(option) => Err(UsageError::NoReport(option)),
                None => RecordOptions::new(args, report, serve, common.quiet),
            };
            options
                .map(Options::Record)
                .map_err(|error| usage_error("record", &error))
        }
        CommandArgs::Report(args) => ReportOptions::new(args, common.quiet)
            .map(Options::Report)
            .map_err(|error| usage_error("report", &error)),
        CommandArgs::Export(args) => ExportOptions::new(args, common.quiet)
            .map(Options::Export)
            .map_err(|error| usage_error("export", &error)),
        CommandArgs::Diff(args) => DiffOptions::try_from(args)
            .map(Options::Diff)
            .map_err(|error| usage_error("diff", &error)),
        CommandArgs::Merge(args) => MergeOptions::try_from(args)
            .map(Options::Merge)
            .map_err(|error| usage_error("merge", &error)),
        CommandArgs::Top(args) => Ok(Options::Top(args.into())),
        CommandArgs::Dump(args) => Ok(Options::Dump(args.into())),
        CommandArgs::Symbols(args) => Ok(args.into()),
        CommandArgs::Doctor(args) => Ok(Options::Doctor(args.into())),
        CommandArgs::Completions(args) => Ok(Options::Completions(args.shell)),
        CommandArgs::Man(args) => Ok(Options::Man(args.directory)),
        CommandArgs::Demo(args) => Ok(Options::Demo(args.into())),
        CommandArgs::DemoWorkload(args) => Ok(Options::DemoWorkload(DemoWorkloadOptions {
            duration: args.duration,
            truth: args.truth,
        })),
        CommandArgs::DoctorChild => Ok(Options::DoctorChild),
    };
    options.map(|options| Invocation { options, common })
}

/// The report that `record` is to make at once: that of a command line of its own, so that it has the same defaults.
fn report_of(
    args: &RecordArgs,
    quiet: bool,
    command: &Command,
) -> Result<Option<Box<ReportOptions>>, clap::Error> {
    let by_extension = || format_of(args.output.as_deref()?).ok();
    match args.format.or_else(by_extension) {
        Some(format) => report_as(args, format, quiet, command).map(Some),
        None => Ok(None),
    }
}

/// What the page of `record --serve` shows: what a report of the recording would.
fn served_of(args: &RecordArgs, command: &Command) -> Result<Option<Served>, clap::Error> {
    let Some(address) = args.serve.clone() else {
        return Ok(None);
    };
    let report = report_as(args, FormatArg::Html, false, command)?;
    Ok(Some(Served {
        address,
        weight: report.weight,
        symbols: report.symbols,
    }))
}

fn report_as(
    args: &RecordArgs,
    format: FormatArg,
    quiet: bool,
    command: &Command,
) -> Result<Box<ReportOptions>, clap::Error> {
    let value_name = |value: Option<PossibleValue>| {
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    };
    let mut words = vec!["sampler".to_owned(), "report".to_owned()];
    words.push(format!(
        "--format={}",
        value_name(format.to_possible_value())
    ));
    let weight = args
        .report
        .weight
        .or(args.report.idle.then_some(WeightArg::Wall));
    words.extend(
        weight.map(|weight| format!("--weight={}", value_name(weight.to_possible_value()))),
    );
    words.extend(args.report.threads.then(|| "--threads".to_owned()));
    words.extend(quiet.then(|| "--quiet".to_owned()));
    words.extend(args.report.gil.then(|| "--gil".to_owned()));
    match parse_as(command.clone(), words.into_iter().map(OsString::from))?.options {
        Options::Report(report) => Ok(Box::new(report)),
        _ => Err(clap::Error::new(ErrorKind::InvalidSubcommand)),
    }
}

/// What was typed for `record` that only says what a report shows. What the file with defaults says is for those
/// recordings that a report is made of.
fn typed_of_report(matches: &ArgMatches, is_served: bool) -> Option<&'static str> {
    const OPTIONS: [(&str, &str); 4] = [
        ("weight", "--weight"),
        ("threads", "--threads"),
        ("gil", "--gil"),
        ("idle", "--idle"),
    ];
    let record = matches.subcommand_matches("record")?;
    let is_typed = |id: &str| record.value_source(id) == Some(ValueSource::CommandLine);
    // The page that is served has a weight too.
    let has_effect = |id: &str| is_served && id == "weight";
    let mut typed = OPTIONS
        .iter()
        .filter(|(id, _)| is_typed(id) && !has_effect(id));
    typed.next().map(|&(_, option)| option)
}

/// `error` as clap says its own: with the usage of the subcommand below.
fn usage_error(subcommand: &str, error: &UsageError) -> clap::Error {
    let mut cli = Cli::command();
    // Gives the subcommands their full names.
    cli.build();
    match cli.find_subcommand_mut(subcommand) {
        Some(command) => command.error(ErrorKind::ValueValidation, error),
        None => cli.error(ErrorKind::ValueValidation, error),
    }
}
