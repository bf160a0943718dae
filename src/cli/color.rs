//! Colors: where they are wanted, and which.

use std::env;
use std::io::IsTerminal;

use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Style};

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// On a terminal, unless $NO_COLOR is set
    #[default]
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

impl ColorArg {
    /// What to paint `stream` with.
    pub fn painter(self, stream: &impl IsTerminal) -> Painter {
        Painter::new(match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => stream.is_terminal() && environment_allows(|name| env::var_os(name)),
        })
    }
}

/// NO_COLOR, if it is not empty (no-color.org), and a terminal that cannot.
fn environment_allows(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && variable("TERM").is_none_or(|term| term != "dumb")
}

/// Paints words, or leaves them as they are.
#[derive(Clone, Copy, Debug)]
pub struct Painter {
    is_on: bool,
}

impl Painter {
    /// One that paints, or one that does not.
    pub fn new(is_on: bool) -> Self {
        Self { is_on }
    }

    /// Whether it paints.
    pub fn paints(self) -> bool {
        self.is_on
    }

    /// What is as it should be.
    pub fn good(self, words: &str) -> String {
        self.paint(words, AnsiColor::Green)
    }

    /// What to take note of.
    pub fn warning(self, words: &str) -> String {
        self.paint(words, AnsiColor::Yellow)
    }

    /// What went wrong.
    pub fn bad(self, words: &str) -> String {
        self.paint(words, AnsiColor::Red)
    }

    fn paint(self, words: &str, color: AnsiColor) -> String {
        let style = Style::new().fg_color(Some(color.into())).bold();
        match self.is_on {
            true => format!("{style}{words}{style:#}"),
            false => words.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_can_forbid_colors() {
        let allows = |set: &[(&str, &str)]| {
            environment_allows(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            })
        };
        assert!(allows(&[]) && allows(&[("NO_COLOR", "")]) && allows(&[("TERM", "xterm")]));
        assert!(!allows(&[("NO_COLOR", "1")]) && !allows(&[("TERM", "dumb")]));
    }

    #[test]
    fn words_stay_as_they_are_without_colors() {
        assert_eq!(Painter::new(false).bad("x"), "x");
        let painted = Painter::new(true).bad("x");
        assert!(
            painted.starts_with("\x1b[") && painted.ends_with("\x1b[0m"),
            "{painted:?}"
        );
    }
}
