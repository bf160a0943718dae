//! `sampler report`: a recording, shown.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::Context;
use terminal_size::Width;

use super::options::{Format, Input, Output, ReportOptions};
use super::output_file;
use super::pager::{Pager, PagerCommand};
use crate::export::table::TableOptions;
use crate::export::tree::TreeOptions;
use crate::export::{View, flamegraph, folded, html, json, table, tree};
use crate::profile::{Profile, ProfileBuilder, ResolvedProfile};
use crate::recording::{self, ReadOutcome};
use crate::report::{By, FrameFilter, filter, resolve_by};

/// Shows a recording.
///
/// # Errors
/// When it cannot be read at all, or the report not be written. A recording that is damaged or was cut is shown as
/// far as it can be read, and the report says so.
pub fn run(options: &ReportOptions) -> anyhow::Result<()> {
    let builder = match options.format {
        Format::Html => ProfileBuilder::with_timeline(),
        _ => ProfileBuilder::new(),
    };
    let recording = read_into(&options.input, builder)?;
    let by = match options.by_line {
        true => By::Line,
        false => By::Function,
    };
    let mut symbolizer = options.symbols.symbolizer()?;
    let mut profile = resolve_by(&recording.profile, &mut symbolizer, by);
    let shown = FrameFilter {
        languages: options.languages,
        native: !options.no_native,
        only_lock_holders: options.only_lock_holders,
    };
    filter(&mut profile, shown);
    profile.notes.splice(0..0, recording.remarks);
    if !options.format.is_for_reading() && !options.quiet {
        // Tables and trees hold them; in what programs read they would be in the way.
        let mut messages = io::stderr().lock();
        for note in &profile.notes {
            writeln!(messages, "sampler: {note}")?;
        }
    }
    match &options.output {
        Output::File(path) => write_file(path, options, &profile),
        Output::Stdout => write_stdout(options, &profile),
    }
}

/// What a recording holds.
#[derive(Debug)]
pub struct ReadProfile {
    /// Without names.
    pub profile: Profile,
    /// What must be known of it if it is not whole.
    pub remarks: Vec<String>,
}

/// Reads a recording.
///
/// # Errors
/// When nothing of it can be read.
pub fn read_profile(input: &Input) -> anyhow::Result<ReadProfile> {
    read_into(input, ProfileBuilder::new())
}

fn read_into(input: &Input, mut builder: ProfileBuilder) -> anyhow::Result<ReadProfile> {
    let (name, input) = open(input)?;
    let outcome = recording::read(input, &mut builder)
        .with_context(|| format!("cannot read the recording {name}"))?;
    Ok(ReadProfile {
        profile: builder.finish(),
        remarks: remarks(&name, &outcome),
    })
}

fn open(input: &Input) -> anyhow::Result<(String, Box<dyn Read>)> {
    match input {
        Input::Stdin => Ok((
            "from standard input".to_owned(),
            Box::new(io::stdin().lock()),
        )),
        Input::File(path) => {
            let file = File::open(path)
                .with_context(|| format!("cannot open the recording {}", path.display()))?;
            Ok((path.display().to_string(), Box::new(BufReader::new(file))))
        }
    }
}

/// What the reader must know of a recording that is not whole.
fn remarks(name: &str, outcome: &ReadOutcome) -> Vec<String> {
    let damage = outcome
        .damage
        .as_ref()
        .map(|damage| format!("{name} is damaged: {damage}; shown is what comes before"));
    let cut = (!outcome.complete && outcome.damage.is_none())
        .then(|| format!("{name} ends without an end mark: sampler was killed or still writes; shown is what is there"));
    damage.into_iter().chain(cut).collect()
}

fn write_file(
    path: &Path,
    options: &ReportOptions,
    profile: &ResolvedProfile,
) -> anyhow::Result<()> {
    let file =
        output_file::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    write(options, None, profile, &mut out)
        .and_then(|()| out.flush())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn write_stdout(options: &ReportOptions, profile: &ResolvedProfile) -> anyhow::Result<()> {
    let to_terminal = io::stdout().is_terminal();
    let command = PagerCommand::choose(|name| std::env::var_os(name));
    let command =
        command.filter(|_| options.pager && to_terminal && options.format.is_for_reading());
    // Without its pager the report is still worth reading.
    let mut out = command
        .and_then(|command| Pager::start(&command).ok())
        .unwrap_or_else(Pager::none);
    let width = terminal_size::terminal_size()
        .filter(|_| to_terminal)
        .map(|(Width(columns), _)| usize::from(columns));
    write(options, width, profile, &mut out)
        .and_then(|()| out.finish())
        .context("cannot write to standard output")
}

fn write(
    options: &ReportOptions,
    width: Option<usize>,
    profile: &ResolvedProfile,
    out: &mut impl Write,
) -> io::Result<()> {
    let view = View {
        weight: options.weight,
        threads: options.threads,
    };
    match options.format {
        Format::Table { limit } => table::write(profile, view, TableOptions { limit, width }, out),
        Format::Tree {
            limit,
            threshold_percent,
        } => tree::write(
            profile,
            view,
            TreeOptions {
                limit,
                threshold_percent,
                width,
            },
            out,
        ),
        Format::Folded => folded::write(profile, view, out),
        Format::Flamegraph => flamegraph::write(profile, view, out),
        Format::Html => html::write(profile, options.weight, out),
        Format::Json => json::write(profile, out),
    }
}
