//! The command line: what was typed ([`args`], [`invocation`]), what it means ([`options`]), how a run ends ([`exit`]),
//! what is shown meanwhile ([`pager`], [`progress`]), and a file for each command. Only this part of the library
//! prints.

pub mod advice;
pub mod args;
pub mod color;
pub mod common_args;
pub mod config;
pub mod demo;
pub mod diff;
pub mod doctor;
pub mod dump;
pub mod exit;
pub mod export;
pub mod export_args;
pub mod failure;
pub mod invocation;
pub mod merge;
pub mod options;
pub mod output_file;
pub mod output_name;
pub mod pager;
pub mod progress;
pub mod reading;
pub mod record;
pub mod recording_files;
pub mod report;
mod serve;
pub mod shells;
pub mod stages;
pub mod symbol_options;
pub mod symbols;
pub mod top;
pub mod values;
pub mod verbose;
pub mod view_args;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum as _;

use color::{ColorArg, Painter};
use exit::Exit;
use invocation::ParseError;
use options::{Options, Target};

/// Does what the command line `arguments` (the program's name first) say.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let invocation = match invocation::parse_with_config(&arguments, |name| env::var_os(name)) {
        Ok(invocation) => invocation,
        Err(ParseError::Usage(error)) => return tell_usage(&error, typed_color(&arguments)),
        Err(ParseError::Config(error)) => {
            let painter = typed_color(&arguments).painter(&io::stderr());
            tell(&error.into(), painter);
            return Exit::Usage;
        }
    };
    verbose::start(invocation.common.verbose);
    let color = invocation.common.color;
    let starts_command = matches!(
        &invocation.options,
        Options::Record(record) if matches!(record.target, Target::Command(_))
    );
    match run_command(invocation.options, color) {
        Ok(exit) => exit,
        Err(error) => {
            tell(&error, color.painter(&io::stderr()));
            failure::exit_of(&error, starts_command)
        }
    }
}

fn run_command(options: Options, color: ColorArg) -> anyhow::Result<Exit> {
    let ok = |()| Exit::Ok;
    match options {
        Options::Record(options) => record::run(&options, &mut io::stderr()),
        Options::Report(options) => report::run(&options).map(ok),
        Options::Export(options) => export::run(&options).map(ok),
        Options::Diff(options) => diff::run(&options),
        Options::Merge(options) => merge::run(&options).map(ok),
        Options::Top(options) => top::run(&options, &mut io::stderr()).map(ok),
        Options::Dump(options) => to_stdout(|out| dump::run(&options, out).map(ok)),
        Options::Symbols(options) => to_stdout(|out| symbols::run(&options, out).map(ok)),
        Options::Pack(options) => to_stdout(|out| symbols::pack(&options, out).map(ok)),
        Options::Doctor(options) => {
            to_stdout(|out| doctor::run(&options, color.painter(&io::stdout()), out))
        }
        Options::Completions(shell) => to_stdout(|out| shells::completions(shell, out).map(ok)),
        Options::Man(directory) => to_stdout(|out| shells::man(directory.as_deref(), out).map(ok)),
        Options::Demo(options) => to_stdout(|out| demo::run(&options, out).map(ok)),
        Options::DemoWorkload(options) => demo::run_workload(&options).map(ok),
        Options::DoctorChild => {
            crate::doctor::be_child();
            Ok(Exit::Ok)
        }
    }
}

/// The color asked for on a command line that cannot be read as a whole: the last `--color` before a `--`.
fn typed_color(arguments: &[OsString]) -> ColorArg {
    let words = arguments.iter().map(|word| word.to_string_lossy());
    let words: Vec<_> = words.take_while(|word| word != "--").collect();
    let joined = words
        .iter()
        .filter_map(|word| word.strip_prefix("--color="));
    let apart = words
        .windows(2)
        .filter(|pair| pair[0] == "--color")
        .map(|pair| &*pair[1]);
    let typed = joined.chain(apart).last();
    typed
        .and_then(|word| ColorArg::from_str(word, false).ok())
        .unwrap_or_default()
}

fn to_stdout(
    run: impl FnOnce(&mut io::BufWriter<io::StdoutLock<'_>>) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = run(&mut out).and_then(|exit| {
        out.flush().context("cannot write to standard output")?;
        Ok(exit)
    });
    match written {
        // Whoever read this has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Ok),
        written => written,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error
        .downcast_ref::<io::Error>()
        .or_else(|| error.root_cause().downcast_ref::<io::Error>());
    cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Says what clap has to say: help and version on standard output, a mistake on standard error.
fn tell_usage(error: &clap::Error, color: ColorArg) -> Exit {
    let text = error.render();
    let painted = |painter: Painter| match painter.paints() {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    let written = match error.use_stderr() {
        true => io::stderr().write_all(painted(color.painter(&io::stderr())).as_bytes()),
        false => io::stdout().write_all(painted(color.painter(&io::stdout())).as_bytes()),
    };
    match written {
        Ok(()) if error.exit_code() == 0 => Exit::Ok,
        Ok(()) => Exit::Usage,
        Err(_) => Exit::Error, // nobody is left to tell
    }
}

fn tell(error: &anyhow::Error, painter: Painter) {
    let mut messages = io::stderr().lock();
    let mut written = writeln!(messages, "{} {error:#}", painter.bad("sampler:"));
    if let Some(hint) = failure::hint_of(error) {
        written =
            written.and_then(|()| writeln!(messages, "  {} {hint}", painter.warning("hint:")));
    }
    for line in failure::further_hints(error) {
        written = written.and_then(|()| writeln!(messages, "        {line}"));
    }
    drop(written); // if standard error is closed, the exit code is all that can be said
}
