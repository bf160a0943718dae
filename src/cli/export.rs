//! `sampler export`: a recording in the format of another tool.

use std::io::{self, BufWriter, IsTerminal, Write};

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::export_args::{ExportFormat, ExportOptions};
use super::options::Output;
use super::output_file;
use super::reading::{Shown, Wanted, shown};
use super::stages::Stages;
use crate::export::{
    View, callgrind, chrome, firefox, folded, json, perf_script, pprof, speedscope,
};
use crate::report::{Shape, lay_out};

/// Writes a recording for another tool.
///
/// # Errors
/// When it cannot be read, holds no samples (that were asked for), or nothing can be written.
pub fn run(options: &ExportOptions) -> anyhow::Result<()> {
    let is_binary = options.format == ExportFormat::Pprof;
    if is_binary && options.output == Output::Stdout && io::stdout().is_terminal() {
        bail!("pprof's format is no text: give a file with --output");
    }
    let stages = Stages::start();
    let wanted = Wanted {
        input: &options.input,
        selection: &options.selection,
        symbols: &options.symbols,
        by: options.by,
        looks: options.format.is_in_time(),
        timeline: false,
    };
    let mut shown = shown(&wanted, &stages)?;
    lay_out(&mut shown.profile, options.layout, Shape::Stacks);
    stages.at(|| "writing".to_owned());
    match &options.output {
        Output::File(path) => {
            let file = output_file::create(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
            write_all(options, &shown, file)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Output::Stdout => match write_all(options, &shown, io::stdout().lock()) {
            // Whoever read this has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.context("cannot write to standard output")?,
        },
    }
    drop(stages);
    if options.quiet {
        return Ok(());
    }
    let mut messages = io::stderr().lock();
    for note in &shown.profile.notes {
        writeln!(messages, "sampler: {note}")?;
    }
    Ok(())
}

fn write_all(options: &ExportOptions, shown: &Shown, out: impl Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    if options.compress {
        let mut compressed = GzEncoder::new(out, Compression::default());
        write(options, shown, &mut compressed)?;
        out = compressed.finish()?;
    } else {
        write(options, shown, &mut out)?;
    }
    out.flush()
}

fn write(options: &ExportOptions, shown: &Shown, out: &mut impl Write) -> io::Result<()> {
    let (profile, weight) = (&shown.profile, options.weight);
    let start_unix_ns = shown.info.start_unix_ns;
    match options.format {
        ExportFormat::Pprof => pprof::write(profile, weight, start_unix_ns, out),
        ExportFormat::Speedscope => speedscope::write(profile, weight, out),
        ExportFormat::Firefox => firefox::write(profile, weight, start_unix_ns, out),
        ExportFormat::Chrome => chrome::write(profile, weight, out),
        ExportFormat::PerfScript => perf_script::write(profile, weight, out),
        ExportFormat::Folded => {
            let threads = options.threads;
            folded::write(profile, View { weight, threads }, out)
        }
        ExportFormat::Callgrind => callgrind::write(profile, weight, out),
        ExportFormat::Jsonl => json::write_lines(profile, out),
    }
}
