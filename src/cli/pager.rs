//! Long output goes through a pager, as git has it: only on a terminal, and only when it is long (`less -F`).

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The pager when the environment names none.
const PAGER_DEFAULT: &str = "less";
/// less' options when `LESS` is not set, as git has them: leave when all fits on one screen, show colors, do not
/// clear the screen.
const LESS_DEFAULT: &str = "FRX";

/// Which pager to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagerCommand {
    /// What to run.
    command: OsString,
    /// Whether `LESS` is to be set, because the environment does not.
    set_less: bool,
}

impl PagerCommand {
    /// The pager that `environment` asks for: `SAMPLER_PAGER`, else `PAGER`, else `less`. `None` when that is empty
    /// or `cat`.
    pub fn choose(environment: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let command = environment("SAMPLER_PAGER")
            .or_else(|| environment("PAGER"))
            .unwrap_or_else(|| PAGER_DEFAULT.into());
        let named = command.to_string_lossy();
        if named.trim().is_empty() || named.trim() == "cat" {
            return None;
        }
        Some(Self {
            set_less: environment("LESS").is_none(),
            command,
        })
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut process = self.process();
        if self.set_less {
            process.env("LESS", LESS_DEFAULT);
        }
        process.stdin(Stdio::piped()).spawn()
    }

    /// Words alone are run as they are, so that a program that is not there is noticed; anything more is for the
    /// shell.
    fn process(&self) -> Command {
        let words = self.command.to_str().filter(|command| {
            !command.contains(|letter| "|&;<>()$`\\\"'*?[#~=%{}\n".contains(letter))
        });
        let mut words = words.into_iter().flat_map(str::split_whitespace);
        if let Some(program) = words.next() {
            let mut process = Command::new(program);
            process.args(words);
            return process;
        }
        let mut process = Command::new("sh");
        process.arg("-c").arg(&self.command);
        process
    }
}

/// Standard output, with a pager behind it or not.
///
/// A pager that is left before all was written is no error: what comes after goes nowhere, and
/// [`Pager::is_closed`] tells that it is not worth writing. Finish with [`Pager::finish`], which waits for the pager.
#[derive(Debug)]
pub struct Pager {
    out: Out,
    closed: bool,
}

#[derive(Debug)]
enum Out {
    Pager { child: Child, stdin: ChildStdin },
    Stdout(io::Stdout),
}

impl Pager {
    /// Standard output as it is.
    pub fn none() -> Self {
        Self {
            out: Out::Stdout(io::stdout()),
            closed: false,
        }
    }

    /// Starts `command`. To be asked for only where standard output is a terminal.
    ///
    /// # Errors
    /// When it cannot be run; [`Pager::none`] is the way on then.
    pub fn start(command: &PagerCommand) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            out: Out::Pager { child, stdin },
            closed: false,
        })
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes what is left, and waits until the pager is left.
    ///
    /// # Errors
    /// When standard output cannot be written, other than because nobody reads it.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if let Out::Pager { mut child, stdin } = self.out {
            // The pager sees the end of its input.
            drop(stdin);
            child.wait()?;
        }
        Ok(())
    }

    /// `done`, or for a reader that has gone `instead`.
    fn unless_closed<T>(&mut self, done: io::Result<T>, instead: T) -> io::Result<T> {
        match done {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(instead)
            }
            done => done,
        }
    }
}

impl Write for Pager {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Ok(bytes.len());
        }
        let written = match &mut self.out {
            Out::Pager { stdin, .. } => stdin.write(bytes),
            Out::Stdout(stdout) => stdout.write(bytes),
        };
        self.unless_closed(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let flushed = match &mut self.out {
            Out::Pager { stdin, .. } => stdin.flush(),
            Out::Stdout(stdout) => stdout.flush(),
        };
        self.unless_closed(flushed, ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(environment: &[(&str, &str)]) -> Option<(String, bool)> {
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(value))
        };
        PagerCommand::choose(lookup).map(|pager| {
            let command = pager.command.to_string_lossy().into_owned();
            (command, pager.set_less)
        })
    }

    #[test]
    fn our_own_variable_goes_before_the_common_one() {
        assert_eq!(choose(&[]), Some(("less".into(), true)));
        assert_eq!(choose(&[("LESS", "M")]), Some(("less".into(), false)));
        assert_eq!(choose(&[("PAGER", "more")]), Some(("more".into(), true)));
        let both = [("PAGER", "more"), ("SAMPLER_PAGER", "most")];
        assert_eq!(choose(&both), Some(("most".into(), true)));
    }

    #[test]
    fn an_empty_one_or_cat_is_none() {
        for none in ["", " ", "cat", " cat "] {
            assert_eq!(choose(&[("SAMPLER_PAGER", none), ("PAGER", "less")]), None);
            assert_eq!(choose(&[("PAGER", none)]), None);
        }
    }

    fn pager(command: &str) -> PagerCommand {
        PagerCommand {
            command: command.into(),
            set_less: true,
        }
    }

    #[test]
    fn what_is_written_arrives() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let command = pager(&format!("tr a-z A-Z > '{}'", file.path().display()));
        let mut out = Pager::start(&command).expect("sh runs");
        out.write_all(b"paged\n").expect("written");
        out.finish().expect("finished");
        assert_eq!(std::fs::read(file.path()).expect("read"), b"PAGED\n");
    }

    #[test]
    fn a_pager_that_is_left_early_is_no_error() {
        let mut out = Pager::start(&pager("true")).expect("true runs");
        let line = [b'x'; 4096];
        // More than a pipe holds, so that a write must meet the closed end.
        for _ in 0..1024 {
            out.write_all(&line).expect("written or dropped");
        }
        assert!(out.is_closed());
        out.finish().expect("finished");
    }

    #[test]
    fn a_pager_that_is_not_there_is_noticed() {
        let error = Pager::start(&pager("no-such-pager -x")).expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
