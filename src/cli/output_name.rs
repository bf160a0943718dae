//! Names of output files with `%p`, `%n` and `%t` in them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The longest name of a process that is put into the name of a file, in characters.
const NAME_CHARS_MAX: usize = 64;

/// A path in which some words stand for what is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputName(PathBuf);

/// What the words stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// `%p`: the process, the first of several; `None` where it is not one.
    pub pid: Option<i32>,
    /// `%n`: its name, or what it was asked for by.
    pub name: String,
    /// `%t`: when the file was begun.
    pub began: SystemTime,
}

/// A name that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "in a name %p is the process, %n its name, %t the time (UTC) and %% a percent sign; '{0}' is none of them"
)]
pub struct UnknownWord(String);

impl OutputName {
    /// Reads it.
    ///
    /// # Errors
    /// For a `%` before something else than `p`, `n`, `t` or `%`.
    pub fn new(path: PathBuf) -> Result<Self, UnknownWord> {
        let bytes = path.as_os_str().as_bytes();
        let mut letters = bytes.iter();
        while let Some(letter) = letters.next() {
            if *letter != b'%' {
                continue;
            }
            match letters.next() {
                Some(b'p' | b'n' | b't' | b'%') => {}
                Some(other) => return Err(UnknownWord(format!("%{}", char::from(*other)))),
                None => return Err(UnknownWord("%".to_owned())),
            }
        }
        Ok(Self(path))
    }

    /// Whether it has the process's number in it, or a time.
    pub fn has(&self, word: char) -> bool {
        let mut letters = self.0.as_os_str().as_bytes().iter();
        while let Some(letter) = letters.next() {
            if *letter == b'%' && letters.next().is_some_and(|next| char::from(*next) == word) {
                return true;
            }
        }
        false
    }

    /// The same with the time before its extension, if it has none in it: `sampler-%t.data`.
    pub fn with_time(self) -> Self {
        if self.has('t') {
            return self;
        }
        let mut name = self.0.file_stem().unwrap_or_default().to_owned();
        name.push("-%t");
        if let Some(extension) = self.0.extension() {
            name.push(".");
            name.push(extension);
        }
        Self(self.0.with_file_name(name))
    }

    /// As it was given.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path for what is recorded.
    pub fn of(&self, recorded: &Recorded) -> PathBuf {
        let mut path = Vec::new();
        let mut letters = self.0.as_os_str().as_bytes().iter();
        while let Some(letter) = letters.next() {
            if *letter != b'%' {
                path.push(*letter);
                continue;
            }
            match letters.next() {
                Some(b'p') => {
                    let pid = recorded
                        .pid
                        .map_or_else(|| "many".to_owned(), |pid| pid.to_string());
                    path.extend(pid.bytes());
                }
                Some(b'n') => path.extend(file_name(&recorded.name).bytes()),
                Some(b't') => path.extend(time(recorded.began).bytes()),
                Some(other) => path.push(*other),
                None => {}
            }
        }
        PathBuf::from(OsString::from_vec(path))
    }
}

/// `2026-01-31T12:00:00Z` (RFC 3339).
fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A name that a target has given itself, as part of a file's name: it leads into no other folder and hides nothing.
fn file_name(name: &str) -> String {
    let letters = name.chars().take(NAME_CHARS_MAX);
    let kept: String = letters
        .map(|c| match c.is_alphanumeric() || "-_.+:@".contains(c) {
            true => c,
            false => '_',
        })
        .collect();
    match kept.trim_start_matches('.') {
        "" => "_".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn recorded(name: &str) -> Recorded {
        Recorded {
            pid: Some(4711),
            name: name.to_owned(),
            began: SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800),
        }
    }

    fn named(name: &str) -> PathBuf {
        OutputName::new(name.into()).unwrap().of(&recorded("nginx"))
    }

    #[test]
    fn words_stand_for_what_is_recorded() {
        let expected = Path::new("a/nginx-4711-2026-01-31T12:00:00Z.data");
        assert_eq!(named("a/%n-%p-%t.data"), expected);
        assert_eq!(named("100%%.data"), Path::new("100%.data"));
        assert_eq!(named("plain"), Path::new("plain"));
    }

    #[test]
    fn other_words_are_refused() {
        for wrong in ["%x", "a%", "%%%"] {
            assert!(OutputName::new(wrong.into()).is_err(), "{wrong}");
        }
        let error = OutputName::new("%d.data".into()).unwrap_err().to_string();
        assert!(
            error.contains("'%d'") && error.contains("%p is the process"),
            "{error}"
        );
    }

    #[test]
    fn a_name_that_repeats_gets_the_time() {
        let with_time = |name: &str| OutputName::new(name.into()).unwrap().with_time();
        assert_eq!(
            with_time("a/sampler.data").as_path(),
            Path::new("a/sampler-%t.data")
        );
        assert_eq!(with_time("x").as_path(), Path::new("x-%t"));
        assert_eq!(with_time("%t/x").as_path(), Path::new("%t/x"));
        assert_eq!(with_time("%%t").as_path(), Path::new("%%t-%t"));
    }

    proptest! {
        #[test]
        fn a_process_cannot_name_another_folder(name in ".{0,100}") {
            let path = OutputName::new("folder/%n".into()).unwrap().of(&recorded(&name));
            prop_assert_eq!(path.parent(), Some(Path::new("folder")));
            let last = path.file_name().unwrap().to_string_lossy().into_owned();
            prop_assert!(last != ".." && !last.starts_with('.'));
        }
    }
}
