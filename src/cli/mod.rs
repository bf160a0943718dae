//! The command line: what was typed ([`args`]), what it means ([`options`]), how a run ends ([`exit`]), what is shown
//! meanwhile ([`pager`], [`progress`]), and a file for each command. Only this part of the library prints.

pub mod advice;
pub mod args;
pub mod demo;
pub mod dump;
pub mod exit;
pub mod failure;
pub mod options;
pub mod pager;
pub mod progress;
pub mod record;
pub mod report;
pub mod symbol_options;
pub mod symbols;
pub mod top;
pub mod values;

use std::ffi::OsString;
use std::io::{self, Write};

use anyhow::Context;

use exit::Exit;
use options::{Options, Target};

/// Does what the command line `arguments` (the program's name first) say.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let options = match options::parse(arguments) {
        Ok(options) => options,
        Err(error) => return tell_usage(&error),
    };
    let starts_command =
        matches!(&options, Options::Record(record) if matches!(record.target, Target::Command(_)));
    match run_command(options) {
        Ok(exit) => exit,
        Err(error) => {
            tell(&error);
            failure::exit_of(&error, starts_command)
        }
    }
}

fn run_command(options: Options) -> anyhow::Result<Exit> {
    match options {
        Options::Record(options) => record::run(&options, &mut io::stderr().lock()),
        Options::Report(options) => report::run(&options).map(|()| Exit::Ok),
        Options::Top(options) => top::run(&options).map(|()| Exit::Ok),
        Options::Dump(options) => to_stdout(|out| dump::run(&options, out)),
        Options::Symbols(options) => to_stdout(|out| symbols::run(&options, out)),
        Options::Pack(options) => to_stdout(|out| symbols::pack(&options, out)),
        Options::Demo(options) => to_stdout(|out| demo::run(&options, out)),
        Options::DemoWorkload(options) => demo::run_workload(&options).map(|()| Exit::Ok),
    }
}

fn to_stdout(
    run: impl FnOnce(&mut io::BufWriter<io::StdoutLock<'_>>) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written =
        run(&mut out).and_then(|()| out.flush().context("cannot write to standard output"));
    match written {
        // Whoever read this has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Ok),
        written => written.map(|()| Exit::Ok),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error
        .downcast_ref::<io::Error>()
        .or_else(|| error.root_cause().downcast_ref::<io::Error>());
    cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Says what clap has to say: help and version on standard output, a mistake on standard error.
fn tell_usage(error: &clap::Error) -> Exit {
    match error.print() {
        Ok(()) if error.exit_code() == 0 => Exit::Ok,
        Ok(()) => Exit::Usage,
        Err(_) => Exit::Error, // nobody is left to tell
    }
}

fn tell(error: &anyhow::Error) {
    let mut messages = io::stderr().lock();
    let mut written = writeln!(messages, "sampler: {error:#}");
    if let Some(hint) = failure::hint_of(error) {
        written = written.and_then(|()| writeln!(messages, "  hint: {hint}"));
    }
    drop(written); // if standard error is closed, the exit code is all that can be said
}
