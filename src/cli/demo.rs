//! `sampler demo`: a workload that knows where its time goes, and what sampling makes of it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufWriter, Write};
use std::time::Duration;

use anyhow::Context;
use sampler_platforms::Pid;
use sampler_platforms::linux::spawn::{self, ChildStdout};
use sampler_platforms::linux::{self, interrupts};
use sampler_unwind::interpreter::Languages;

use super::options::{DemoOptions, DemoWorkloadOptions, Output};
use super::output_file;
use super::record;
use crate::demo::{FUNCTIONS, Truth, workload};
use crate::export::table::TableOptions;
use crate::export::{View, flamegraph, summary_words, table};
use crate::profile::{FrameKind, ProfileBuilder, ResolvedProfile, Weight};
use crate::record::{
    Over, PAUSE_MAX_DEFAULT, RecordSettings, Recorder, STACK_BYTES_MAX_DEFAULT, Selection,
};
use crate::report::resolve;
use crate::symbols::{FileSymbolizer, SymbolPaths};

/// Ticks per second: more than by default, so that a few seconds are enough to compare with the truth.
const RATE_HZ: f64 = 997.0;

/// Functions shown in the table.
const TABLE_ROWS: usize = 8;

/// The hidden subcommand that is the workload.
pub const WORKLOAD: &str = "demo-workload";

/// Profiles the workload, prints what came out beside the truth, and writes a flame graph.
///
/// # Errors
/// When the workload cannot be started or sampled, or nothing can be written.
pub fn run(options: &DemoOptions, out: &mut impl Write) -> anyhow::Result<()> {
    interrupts::install().context("cannot listen for Ctrl-C")?;
    // Without it, waiting for a stop polls.
    let _without_timer = linux::prepare_sampling_thread();
    let truth_file = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let arguments = [
        OsString::from(WORKLOAD),
        OsString::from(format!("{}ms", options.duration.as_millis())),
        truth_file.path().into(),
    ];
    let launched = spawn::launch(program.as_os_str(), &arguments, ChildStdout::Inherited)?;
    let profile = profile(launched.pid())?;
    record::wait(launched)?;
    let truth = fs::read_to_string(truth_file.path())
        .ok()
        .and_then(|line| Truth::from_line(line.trim_end()));
    let truth = truth.context("the workload ended before it could tell the truth")?;

    let options_of_table = TableOptions {
        limit: Some(TABLE_ROWS),
        width: None,
    };
    table::write(&profile, View::default(), options_of_table, out)?;
    write_comparison(&profile, truth, out)?;
    write_sleepers(&profile, out)?;
    summary_words::write(&profile.summary, out)?;
    write_flamegraph(&profile, &options.output, out)
}

/// Is the workload: what [`run`] starts.
///
/// # Errors
/// When its threads cannot be started or the truth not be written.
pub fn run_workload(options: &DemoWorkloadOptions) -> anyhow::Result<()> {
    let truth = workload::run(options.duration)?;
    fs::write(&options.truth, truth.to_line())?;
    Ok(())
}

fn profile(pid: Pid) -> anyhow::Result<ResolvedProfile> {
    let mut sink = ProfileBuilder::new();
    let settings = RecordSettings {
        // It is the demonstration's own threads that stand still, and the truth is what it shows.
        max_overhead: None,
        pause_max: PAUSE_MAX_DEFAULT,
        rate_hz: RATE_HZ,
        stack_bytes_max: STACK_BYTES_MAX_DEFAULT,
        languages: Languages::NONE,
        may_stop: true,
    };
    let mut recorder = Recorder::new(settings, Selection::command(pid), &mut sink)?;
    recorder.run(|_, _| (interrupts::requested() > 0).then_some(Over::Interrupted))?;
    drop(recorder);
    // The functions that share the CPU are to be seen, not what was inlined into them.
    let mut symbolizer = FileSymbolizer::new(SymbolPaths::default()).with_inlined(false);
    Ok(resolve(&sink.finish(), &mut symbolizer))
}

fn write_comparison(
    profile: &ResolvedProfile,
    truth: Truth,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let shares = truth.shares_percent();
    writeln!(
        out,
        "\n{:<16} {:>10} {:>10}",
        "function", "truth", "sampled"
    )?;
    for (function, truth) in FUNCTIONS.into_iter().zip(shares) {
        writeln!(
            out,
            "{function:<16} {truth:>8.1} % {:>8.1} %",
            share_percent(profile, function)
        )?;
    }
    Ok(())
}

/// The share of CPU time of all stacks that lead through `function`.
#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds of some seconds, for a percentage"
)]
fn share_percent(profile: &ResolvedProfile, function: &str) -> f64 {
    let is_function = |&index: &u32| {
        profile
            .frames
            .get(index as usize)
            .is_some_and(|frame| frame.function.ends_with(function))
    };
    let all: u64 = profile
        .stacks
        .iter()
        .map(|stack| stack.weights.cpu_ns)
        .sum();
    let through = profile
        .stacks
        .iter()
        .filter(|stack| stack.frames.iter().any(is_function));
    let part: u64 = through.map(|stack| stack.weights.cpu_ns).sum();
    100.0 * part as f64 / all.max(1) as f64
}

fn write_sleepers(profile: &ResolvedProfile, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out)?;
    for (index, thread) in (0u32..)
        .zip(&profile.threads)
        .filter(|(_, thread)| thread.tid != thread.pid)
    {
        let stacks = profile.stacks.iter().filter(|stack| stack.thread == index);
        let Some(longest) = stacks.max_by_key(|stack| stack.weights.get(Weight::OffCpu)) else {
            continue;
        };
        let asleep = Duration::from_nanos(longest.weights.off_cpu_ns);
        let leaf = longest
            .frames
            .last()
            .and_then(|&index| profile.frames.get(index as usize));
        if let Some(leaf) = leaf.filter(|leaf| leaf.kind == FrameKind::Blocked) {
            writeln!(
                out,
                "thread {:<12} asleep for {:.2} s: {}",
                thread.name,
                asleep.as_secs_f64(),
                leaf.function
            )?;
        }
    }
    Ok(writeln!(out)?)
}

fn write_flamegraph(
    profile: &ResolvedProfile,
    output: &Output,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match output {
        Output::Stdout => flamegraph::write(profile, View::default(), out)?,
        Output::File(path) => {
            let file = output_file::create(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
            let mut file = BufWriter::new(file);
            flamegraph::write(profile, View::default(), &mut file)?;
            file.flush()
                .with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(out, "flame graph: {}", path.display())?;
        }
    }
    Ok(())
}
