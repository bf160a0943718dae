//! `sampler diff`: two recordings compared.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};

use anyhow::Context;
use terminal_size::Width;

use super::exit::Exit;
use super::export_args::{DiffFormatArg, DiffOptions};
use super::options::{Input, Output};
use super::reading::{Shown, Wanted, shown};
use super::stages::Stages;
use crate::export::{View, diff};
use crate::profile::{Comparison, ResolvedProfile, compare};
use crate::report::{Shape, lay_out};

/// So many of those that have grown too much are told.
const GROWN_TOLD_MAX: usize = 10;

/// Compares two recordings.
///
/// # Errors
/// When one of them cannot be read or holds no samples (that were asked for), or nothing can be written.
pub fn run(options: &DiffOptions) -> anyhow::Result<Exit> {
    let stages = Stages::start();
    let [before, after] = &options.inputs;
    let profiles = [
        profile(options, before, &stages)?,
        profile(options, after, &stages)?,
    ];
    // The rows of a table, and what has grown, are those of functions, however stacks are drawn.
    let mut rows = profiles.clone();
    rows.iter_mut()
        .for_each(|profile| lay_out(profile, options.layout, Shape::Rows));
    let comparison = compare(&rows[0], &rows[1], options.weight);
    drop(stages);
    match &options.output {
        Output::File(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
            write(options, &profiles, &comparison, None, file)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Output::Stdout => {
            let width = terminal_size::terminal_size()
                .filter(|_| io::stdout().is_terminal())
                .map(|(Width(columns), _)| usize::from(columns));
            match write(options, &profiles, &comparison, width, io::stdout().lock()) {
                // Whoever read this has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                written => written.context("cannot write to standard output")?,
            }
        }
    }
    Ok(verdict(options, &comparison)?)
}

fn profile(
    options: &DiffOptions,
    input: &Input,
    stages: &Stages,
) -> anyhow::Result<ResolvedProfile> {
    let wanted = Wanted {
        input,
        selection: &options.selection,
        symbols: &options.symbols,
        by: options.by,
        looks: false,
        timeline: false,
    };
    let Shown { profile, .. } = shown(&wanted, stages)?;
    Ok(profile)
}

fn write(
    options: &DiffOptions,
    profiles: &[ResolvedProfile; 2],
    comparison: &Comparison,
    width: Option<usize>,
    out: impl Write,
) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let weight = options.weight;
    if options.format == DiffFormatArg::Table {
        diff::write_table(comparison, weight, options.limit, width, &mut out)?;
        return out.flush();
    }
    let [mut before, mut after] = profiles.clone();
    lay_out(&mut before, options.layout, Shape::Stacks);
    lay_out(&mut after, options.layout, Shape::Stacks);
    let view = View {
        weight,
        threads: false,
    };
    match options.format {
        DiffFormatArg::Folded => diff::write_folded(&before, &after, view, &mut out)?,
        DiffFormatArg::Table | DiffFormatArg::Flamegraph => {
            diff::write_flamegraph(&before, &after, view, &mut out)?;
        }
    }
    out.flush()
}

/// Whether something has grown too much, which is told.
fn verdict(options: &DiffOptions, comparison: &Comparison) -> io::Result<Exit> {
    let Some(points) = options.fail_above else {
        return Ok(Exit::Ok);
    };
    let mut messages = io::stderr().lock();
    let mut exit = Exit::Ok;
    for row in comparison.grown_above(points).take(GROWN_TOLD_MAX) {
        exit = Exit::Grew;
        writeln!(
            messages,
            "sampler: {} has grown by more than {points} points: from {:.1} to {:.1} % by itself, from {:.1} to \
             {:.1} % with what it calls",
            row.function.escape_debug(),
            row.own.before * 100.0,
            row.own.after * 100.0,
            row.total.before * 100.0,
            row.total.after * 100.0,
        )?;
    }
    Ok(exit)
}
