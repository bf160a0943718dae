//! `sampler report`: a recording, shown.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use terminal_size::Width;

use super::options::{Format, Output, ReportOptions};
use super::output_file;
use super::pager::{Pager, PagerCommand};
use super::reading::{Shown, Wanted, shown};
use super::stages::Stages;
use crate::export::table::TableOptions;
use crate::export::tree::TreeOptions;
use crate::export::{View, flamegraph, folded, html, json, table, tree};
use crate::profile::ResolvedProfile;
use crate::report::{Shape, lay_out};

/// Shows a recording.
///
/// # Errors
/// When it cannot be read at all, holds no samples (that were asked for), or the report cannot be written. A recording
/// that is damaged or was cut is shown as far as it can be read, and the report says so.
pub fn run(options: &ReportOptions) -> anyhow::Result<()> {
    let wanted = Wanted {
        input: &options.input,
        selection: &options.selection,
        symbols: &options.symbols,
        by: options.by,
        looks: false,
        timeline: options.format == Format::Html,
    };
    let Shown { mut profile, .. } = shown(&wanted, &Stages::start())?;
    let shape = match options.format {
        Format::Table { .. } => Shape::Rows,
        _ => Shape::Stacks,
    };
    lay_out(&mut profile, options.layout, shape);
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
