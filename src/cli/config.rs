//! Defaults from a file: what is in it is as if clap had it as a default, so that the command line wins.
//!
//! A table for each command, in which options have the names that they have on the command line:
//!
//! ```toml
//! color = "never"
//!
//! [record]
//! rate = 199
//! max-overhead = "1"
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::ArgPredicate;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file with defaults is no longer than this, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Options that choose what is done, for which a default would be a trap.
const NO_DEFAULTS: &[&str] = &[
    "pid",
    "pgrep",
    "cgroup",
    "input",
    "serve",
    "help",
    "version",
    "no-config",
];

/// What commands cannot do without, to try a value on them.
const NEEDED: &[(&str, &[&str])] = &[("dump", &["--pid", "1"])];

/// Why defaults cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {message}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// The defaults of one file.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One option's default.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// The command; `None` for what all have.
    command: Option<String>,
    option: String,
    value: Value,
    line: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Flag(bool),
    Words(Vec<String>),
}

/// `$XDG_CONFIG_HOME/sampler/config.toml`, which must be absolute (XDG Base Directory Specification), else below
/// `~/.config`.
pub fn default_path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(variable(name)?);
        path.is_absolute().then_some(path)
    };
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    Some(folder?.join("sampler").join("config.toml"))
}

/// Reads the file at `path`; `None` where there is none.
///
/// # Errors
/// [`ConfigError`], when it cannot be read or is no TOML.
pub fn read(path: &Path) -> Result<Option<Config>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = match fs::metadata(path) {
        Ok(file) if !file.is_file() || file.len() > FILE_BYTES_MAX => {
            return Err(unreadable(io::Error::other(
                "it is no file of less than 1 MiB",
            )));
        }
        Ok(_) => fs::read_to_string(path).map_err(unreadable)?,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        // A home of somebody else (sudo -E): no defaults of ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    parse(path, &text).map(Some)
}

fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let wrong = |span: Range<usize>, message: String| ConfigError::Wrong {
        path: path.to_owned(),
        line: line_of(text, span.start),
        message,
    };
    let table = DeTable::parse(text)
        .map_err(|error| wrong(error.span().unwrap_or_default(), error.message().to_owned()))?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_of(text, key.span().start);
        let Some(options) = value.get_ref().as_table() else {
            let (option, value) =
                entry(key.get_ref(), value).map_err(|message| wrong(value.span(), message))?;
            entries.push(Entry {
                command: None,
                option,
                value,
                line,
            });
            continue;
        };
        for (option, value) in options {
            let line = line_of(text, option.span().start);
            let (option, value) =
                entry(option.get_ref(), value).map_err(|message| wrong(value.span(), message))?;
            entries.push(Entry {
                command: Some(key.get_ref().to_string()),
                option,
                value,
                line,
            });
        }
    }
    // Tables come in the order of their names; what is wrong is told in the order in which it is read.
    entries.sort_by_key(|entry| entry.line);
    Ok(Config {
        path: path.to_owned(),
        entries,
    })
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

fn entry(option: &str, value: &Spanned<DeValue<'_>>) -> Result<(String, Value), String> {
    let value = match value.get_ref() {
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Array(values) => {
            let words = values.iter().map(|value| word(option, value.get_ref()));
            Value::Words(words.collect::<Result<_, _>>()?)
        }
        value => Value::Words(vec![word(option, value)?]),
    };
    Ok((option.to_owned(), value))
}

fn word(option: &str, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        _ => Err(format!(
            "'{option}' is to be a text, a number, true or false, or a list of texts"
        )),
    }
}

impl Config {
    /// `cli` with these defaults, each tried on it first.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] for what it has no option for, or that the option does not take.
    pub fn apply(&self, mut cli: Command) -> Result<Command, ConfigError> {
        // Options that all commands have become theirs, and all get their full names.
        let mut built = cli.clone();
        built.build();
        let mut is_set = BTreeMap::new();
        for entry in &self.entries {
            let id = self.check(entry, &built)?;
            if let Some(before) = is_set.insert((&entry.command, id.clone()), entry.line) {
                return Err(self.wrong(
                    entry,
                    format!("'{}' was set on line {before}", entry.option),
                ));
            }
            let set = |arg: Arg| with_default(arg, &entry.value);
            cli = match &entry.command {
                None => cli.mut_arg(&id, set),
                Some(command) => cli.mut_subcommand(command, |command| command.mut_arg(&id, set)),
            };
        }
        Ok(cli)
    }

    /// The id of the argument that `entry` is about, if it takes the value.
    fn check(&self, entry: &Entry, cli: &Command) -> Result<String, ConfigError> {
        let (command, name) = match &entry.command {
            None => (cli, "sampler"),
            Some(name) => {
                let found = cli
                    .get_subcommands()
                    .find(|found| found.get_name() == name && !found.is_hide_set());
                let Some(found) = found else {
                    let known = cli.get_subcommands().filter(|known| !known.is_hide_set());
                    let known: Vec<&str> = known
                        .map(Command::get_name)
                        .filter(|name| *name != "help")
                        .collect();
                    return Err(self.wrong(
                        entry,
                        format!(
                            "there is no command '{name}'; there are {}",
                            known.join(", ")
                        ),
                    ));
                };
                (found, name.as_str())
            }
        };
        // What all commands have is set for all alone, where it is one and the same.
        let is_own = |arg: &&Arg| entry.command.is_none() || !arg.is_global_set();
        let takes = |arg: &&Arg| {
            arg.get_long()
                .is_some_and(|long| !NO_DEFAULTS.contains(&long))
        };
        let options = || command.get_arguments().filter(is_own).filter(takes);
        let Some(arg) = options().find(|arg| arg.get_long() == Some(entry.option.as_str())) else {
            let known: Vec<&str> = options()
                .filter(|arg| !arg.is_hide_set())
                .filter_map(Arg::get_long)
                .collect();
            return Err(self.wrong(
                entry,
                format!(
                    "'{name}' has no option '{}' with a default; there are {}",
                    entry.option,
                    known.join(", ")
                ),
            ));
        };
        self.try_value(entry, arg, cli)?;
        Ok(arg.get_id().to_string())
    }

    /// Tries the value as if it had been typed.
    fn try_value(&self, entry: &Entry, arg: &Arg, cli: &Command) -> Result<(), ConfigError> {
        let takes_value = arg.get_action().takes_values();
        let words = match &entry.value {
            Value::Flag(_) if takes_value => {
                return Err(self.wrong(
                    entry,
                    format!("'{}' is to have a value, not true or false", entry.option),
                ));
            }
            Value::Words(words) if !takes_value && !is_count(arg, words) => {
                return Err(self.wrong(entry, format!("'{}' is true or false", entry.option)));
            }
            Value::Flag(_) => return Ok(()),
            Value::Words(_) if !takes_value => return Ok(()),
            Value::Words(words) => words,
        };
        let command = entry.command.as_deref().unwrap_or("report");
        let needed = NEEDED
            .iter()
            .find(|(name, _)| *name == command)
            .map_or(&[][..], |(_, needed)| needed);
        let typed = words
            .iter()
            .map(|word| format!("--{}={word}", entry.option));
        let line = ["sampler", command]
            .into_iter()
            .chain(needed.iter().copied())
            .map(str::to_owned);
        match cli.clone().try_get_matches_from(line.chain(typed)) {
            Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => {
                let rendered = error.to_string();
                let first = rendered.lines().next().unwrap_or_default();
                let first = first.strip_prefix("error: ").unwrap_or(first);
                Err(self.wrong(entry, first.to_owned()))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn wrong(&self, entry: &Entry, message: String) -> ConfigError {
        ConfigError::Wrong {
            path: self.path.clone(),
            line: entry.line,
            message,
        }
    }
}

/// Whether `arg` counts how often it is given, and `words` are such a number.
fn is_count(arg: &Arg, words: &[String]) -> bool {
    let number = |words: &[String]| words.first().is_some_and(|word| word.parse::<u8>().is_ok());
    matches!(arg.get_action(), ArgAction::Count) && words.len() == 1 && number(words)
}

/// `arg` with `value` where it is not given.
fn with_default(arg: Arg, value: &Value) -> Arg {
    match value {
        Value::Words(words) => arg.default_values(words.clone()),
        Value::Flag(flag) => {
            let opposite = opposite_of(arg.get_id().as_str());
            let arg = arg.default_value(flag.to_string());
            match opposite {
                // Who types the opposite means it.
                Some(opposite) => arg.default_value_if(
                    opposite,
                    ArgPredicate::Equals("true".into()),
                    Some("false"),
                ),
                None => arg,
            }
        }
    }
}

/// The flag that takes back the one with this id.
fn opposite_of(id: &str) -> Option<&'static str> {
    match id {
        "subprocesses" => Some("no_subprocesses"),
        "no_subprocesses" => Some("subprocesses"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::CommandFactory;

    fn config(text: &str) -> Result<Config, ConfigError> {
        parse(Path::new("config.toml"), text)
    }

    #[track_caller]
    fn expect_wrong(text: &str, expected: &str) {
        let error = config(text).and_then(|config| config.apply(Cli::command()));
        let message = error.expect_err("it is wrong").to_string();
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        expect_wrong(
            "[record]\nrat = 3",
            "config.toml:2: 'record' has no option 'rat' with a default; there are",
        );
        expect_wrong(
            "\n[recrod]\nrate = 3",
            "config.toml:3: there is no command 'recrod'; there are record",
        );
        expect_wrong(
            "[record]\n\nrate = 'fast'",
            "config.toml:3: invalid value 'fast' for '--rate <HZ>'",
        );
        expect_wrong(
            "[record]\nrate = true",
            "config.toml:2: 'rate' is to have a value",
        );
        expect_wrong(
            "[record]\nsubprocesses = 'yes'",
            "config.toml:2: 'subprocesses' is true or false",
        );
        expect_wrong(
            "[record]\npid = 3",
            "config.toml:2: 'record' has no option 'pid' with a default",
        );
        expect_wrong(
            "color = 'pink'",
            "config.toml:1: invalid value 'pink' for '--color <WHEN>'",
        );
        expect_wrong(
            "[record]\nrate = { hz = 3 }",
            "config.toml:2: 'rate' is to be a text",
        );
        expect_wrong("[record\n", "config.toml:1: ");
        expect_wrong("a = 1\nrecord = [\n", "config.toml:");
    }

    #[test]
    fn defaults_are_used_and_the_command_line_wins() {
        let text = "color = 'never'\n[record]\nrate = 199\nsubprocesses = true\n[report]\nweight = 'wall'\n\
                    debug-dir = ['/a', '/b']\n[dump]\nlang = 'lua'\n";
        let cli = config(text).unwrap().apply(Cli::command()).unwrap();
        let matches = |words: &str| cli.clone().get_matches_from(words.split(' '));
        let rate = |words: &str| {
            let matches = matches(words);
            let record = matches.subcommand_matches("record").unwrap().clone();
            (
                *record.get_one::<f64>("rate").unwrap(),
                record.get_flag("subprocesses"),
            )
        };
        assert_eq!(rate("sampler record -p 1"), (199.0, true));
        assert_eq!(
            rate("sampler record -p 1 -r 7 --no-subprocesses"),
            (7.0, false)
        );
        let report = matches("sampler report");
        let report = report.subcommand_matches("report").unwrap();
        let folders: Vec<_> = report.get_many::<PathBuf>("debug_dir").unwrap().collect();
        assert_eq!(folders, [Path::new("/a"), Path::new("/b")]);
    }

    #[test]
    fn the_file_is_where_xdg_says() {
        let path = |set: &[(&str, &str)]| {
            default_path(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            })
        };
        let expected = Some(PathBuf::from("/c/sampler/config.toml"));
        assert_eq!(path(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]), expected);
        let expected = Some(PathBuf::from("/h/.config/sampler/config.toml"));
        assert_eq!(path(&[("XDG_CONFIG_HOME", "c"), ("HOME", "/h")]), expected);
        assert_eq!(path(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
            if let Ok(config) = config(&text) {
                drop(config.apply(Cli::command()));
            }
        }
    }
}
