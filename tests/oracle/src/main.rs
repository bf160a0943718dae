//! Compares stacks with the truth, at every instruction that a program executes.
//!
//! The program runs one instruction at a time (ptrace). From the calls it executes comes a shadow stack: what really
//! called what. At each instruction the unwinder walks from the registers and memory of that moment, and its stack,
//! whole, must be the shadow. At each system call it walks once more, from what /proc shows of a sleeping thread: the
//! stack pointer and PC alone.
#![forbid(unsafe_code)]

mod images;
mod instructions;
mod names;
mod report;
mod session;
mod shadow;
mod tally;
mod target;
mod verdict;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use sampler_platforms::linux::interrupts;

use report::Summary;
use session::Plan;
use target::BECOME_TARGET;

/// Compares the unwinder's stacks with the calls that a program really makes, at every instruction.
///
/// The program's standard output is thrown away, and its addresses are not randomized. Only its first thread is
/// followed; children run on their own. Ctrl-C, or SIGTERM, ends it with what was found so far.
#[derive(Debug, Parser)]
struct Arguments {
    /// Do not look at the dynamic loader: begin at the program's own entry point
    #[arg(long)]
    from_entry: bool,
    /// Instructions that are executed before the first comparison
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
    /// Instructions after those, then the program is killed [default: to its end]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Compare at every N-th instruction
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// How many of the worst addresses are shown
    #[arg(long, value_name = "N", default_value_t = 10)]
    worst: usize,
    /// The figures as JSON
    #[arg(long)]
    json: bool,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn main() -> anyhow::Result<()> {
    let mut raw = env::args_os().skip(1);
    if raw.next().is_some_and(|first| first == BECOME_TARGET) {
        return Err(target::become_target(&raw.collect::<Vec<_>>()));
    }
    let arguments = Arguments::parse();
    let plan = Plan {
        from_entry: arguments.from_entry,
        skip: arguments.skip,
        steps: arguments.steps,
        every: arguments.every,
    };
    stay_on_this_cpu()?;
    interrupts::install()?;
    let outcome = session::run(&arguments.command, plan)?;
    let summary = Summary::new(&outcome);
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &summary)?;
        writeln!(out)?;
    } else {
        report::write(&mut out, &summary, &outcome, arguments.worst)?;
    }
    Ok(())
}

/// Keeps this program and the target, which inherits it, on one CPU: they take turns, and waking each other across
/// CPUs costs more than the step itself.
fn stay_on_this_cpu() -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}
