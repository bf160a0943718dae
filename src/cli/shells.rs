//! `sampler completions` and `sampler man`: made from the definition of the command line itself, so that they are true.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::{Generator, Shell};
use clap_mangen::Man;

use super::args::Cli;
use super::common_args::ShellArg;
use super::output_file;

/// The command's name.
const NAME: &str = "sampler";

/// Writes what completes the command line in `shell`.
///
/// # Errors
/// When it cannot be written.
pub fn completions(shell: ShellArg, out: &mut impl Write) -> anyhow::Result<()> {
    let shell = match shell {
        ShellArg::Bash => Shell::Bash,
        ShellArg::Zsh => Shell::Zsh,
        ShellArg::Fish => Shell::Fish,
    };
    let mut command = Cli::command().bin_name(NAME);
    command.build();
    shell.try_generate(&command, out)?;
    Ok(())
}

/// Writes the manual page, or all of them into `directory`: `sampler.1`, `sampler-record.1` and so on.
///
/// # Errors
/// When a page cannot be written.
pub fn man(directory: Option<&Path>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(directory) = directory else {
        return Ok(page(command).render(out)?);
    };
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for command in with_subcommands(command) {
        let path = directory.join(format!("{}.1", page_name(&command)));
        let cannot_write = || format!("cannot write {}", path.display());
        let file = output_file::create(&path).with_context(cannot_write)?;
        let mut file = BufWriter::new(file);
        page(command).render(&mut file).with_context(cannot_write)?;
        file.flush().with_context(cannot_write)?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}

fn page(command: Command) -> Man {
    let name = page_name(&command);
    Man::new(command).title(name)
}

/// `sampler-symbols-pack` for `sampler symbols pack`.
fn page_name(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    name.replace(' ', "-")
}

/// `command` and all below it that are shown.
fn with_subcommands(command: Command) -> Vec<Command> {
    let below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set());
    let below: Vec<Command> = below.cloned().flat_map(with_subcommands).collect();
    std::iter::once(command).chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let names: Vec<String> = with_subcommands(command).iter().map(page_name).collect();
        for name in [
            "sampler",
            "sampler-record",
            "sampler-doctor",
            "sampler-symbols-pack",
        ] {
            assert!(names.iter().any(|found| found == name), "{names:?}");
        }
        assert!(
            !names.iter().any(|name| name.contains("workload")),
            "{names:?}"
        );
    }

    #[test]
    fn completions_know_commands_and_options() {
        for shell in [ShellArg::Bash, ShellArg::Zsh, ShellArg::Fish] {
            let mut script = Vec::new();
            completions(shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            for word in ["record", "doctor", "max-overhead"] {
                assert!(script.contains(word), "{shell:?} knows no {word}");
            }
        }
    }
}
