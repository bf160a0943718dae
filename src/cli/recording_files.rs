//! The files that `sampler record` writes: which name each gets, whose it is, what is made of it when it is complete,
//! and how many are kept.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::SystemTime;

use anyhow::Context;
use sampler_platforms::linux::privileges;
use tempfile::TempDir;

use super::options::{Input, Output, RecordOptions, ReportOptions, Target};
use super::output_file;
use super::output_name::{OutputName, Recorded};
use super::report;
use crate::recording::{OutputError, RecordingFile, Visitor};

/// The files of one run, one at a time.
#[derive(Debug)]
pub struct RecordingFiles<'o> {
    output: &'o Output,
    report: Option<&'o ReportOptions>,
    keep: Option<usize>,
    recorded: Recorded,
    /// What was written and is there still, the oldest first.
    written: VecDeque<PathBuf>,
    /// Where a recording lies of which only the report is wanted, and that is to go to no file.
    scratch: Option<TempDir>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Growing {
    /// Its bytes go there.
    pub file: RecordingFile,
    /// What the user gets in the end; `None` for standard output.
    name: Option<PathBuf>,
}

/// What the user gets, once the bytes have gone to [`Growing::file`].
#[derive(Clone, Debug)]
pub struct Goal {
    name: Option<PathBuf>,
}

impl<'o> RecordingFiles<'o> {
    /// Those that `options` ask for, of the process `pid`, if it is one, called `process`.
    pub fn new(options: &'o RecordOptions, pid: Option<i32>, process: Option<String>) -> Self {
        Self {
            output: &options.output,
            report: options.report.as_deref(),
            keep: options.keep,
            recorded: Recorded {
                pid,
                name: process.unwrap_or_else(|| name_of(&options.target)),
                began: SystemTime::now(),
            },
            written: VecDeque::new(),
            scratch: None,
        }
    }

    /// Whether the name of the file depends on the number of the process.
    pub fn is_named_by_pid(options: &RecordOptions) -> bool {
        match &options.output {
            Output::File(path) => OutputName::new(path.clone()).is_ok_and(|name| name.has('p')),
            Output::Stdout => false,
        }
    }

    /// Begins the next file.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn begin(&mut self) -> anyhow::Result<Growing> {
        self.recorded.began = SystemTime::now();
        let name = match self.output {
            Output::Stdout => None,
            Output::File(path) => Some(OutputName::new(path.clone())?.of(&self.recorded)),
        };
        let lies_at = match (&name, self.report) {
            (None, None) => PathBuf::from("-"),
            (Some(name), None) => name.clone(),
            // It grows beside the report, where it is found again should anything go wrong.
            (Some(name), Some(_)) if !is_special(name) => name.clone(),
            (_, Some(_)) => self.scratch()?.join("sampler.data"),
        };
        let file = RecordingFile::create_for(&lies_at, output_file::owner())?;
        Ok(Growing { file, name })
    }

    fn scratch(&mut self) -> anyhow::Result<&Path> {
        let folder = match self.scratch.take() {
            Some(folder) => folder,
            None => TempDir::new().context("cannot create a temporary folder")?,
        };
        Ok(self.scratch.insert(folder).path())
    }

    /// `file` is complete and has samples in it: it gets its name, or the report is made of it. Says what the user gets,
    /// if that is a file, and removes the oldest of those before if there are too many.
    ///
    /// # Errors
    /// When it cannot be named, or the report not be made; what was recorded is left where it is then.
    pub fn finish(&mut self, file: RecordingFile, goal: Goal) -> anyhow::Result<Option<PathBuf>> {
        match self.report {
            None => file.finish()?,
            Some(options) => make_report(options, &file.leave()?, goal.name.as_deref())?,
        }
        if let Some(name) = &goal.name {
            self.written.retain(|written| written != name);
            self.written.push_back(name.clone());
        }
        while let Some(keep) = self.keep.filter(|keep| self.written.len() > *keep) {
            let Some(oldest) = self.written.pop_front() else {
                break;
            };
            tracing::info!(file = ?oldest, keep, "removing the oldest file");
            let removed = privileges::with_rights_to_write(|| fs::remove_file(&oldest));
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot remove {}", oldest.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(goal.name)
    }
}

impl Growing {
    /// Takes it apart: the file is written by another thread.
    pub fn split(self) -> (RecordingFile, Goal) {
        (self.file, Goal { name: self.name })
    }
}

/// Whether something is at `path` that is no file and is written to as it is.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| !there.is_file())
}

/// Makes a report of the recording at `recording`, and removes it then.
fn make_report(
    options: &ReportOptions,
    recording: &Path,
    name: Option<&Path>,
) -> anyhow::Result<()> {
    let output = match name {
        Some(name) => Output::File(name.to_owned()),
        None => Output::Stdout,
    };
    let made = report::run(&ReportOptions {
        input: Input::File(recording.to_owned()),
        output,
        ..options.clone()
    });
    made.with_context(|| {
        format!(
            "the recording is in {}, and no report of it",
            recording.display()
        )
    })?;
    let removed = privileges::with_rights_to_write(|| fs::remove_file(recording));
    removed.with_context(|| format!("cannot remove {}", recording.display()))
}

/// What stands for the name of a process where many are recorded, or none is known yet.
fn name_of(target: &Target) -> String {
    match target {
        Target::Pids(_) => "process".to_owned(),
        Target::Pgrep(pattern) => pattern.as_str().to_owned(),
        Target::Cgroup(path) => path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned(),
        Target::Command(words) => {
            let program = Path::new(words.first().map_or("".as_ref(), |word| word.as_os_str()));
            program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        }
    }
}

/// Has what was recorded so far written to a file when SIGUSR1 asks for it, without ending the recording.
#[derive(Debug)]
pub struct Copies {
    visitor: Visitor<RecordingFile>,
    /// Where to; `None` where it cannot be.
    name: Option<PathBuf>,
    /// How often that was asked for and done.
    seen: u32,
    under_way: Vec<Receiver<Result<(), OutputError>>>,
}

impl Copies {
    /// Of the recording that `visitor` leads to, from which `goal` is made.
    pub fn new(visitor: Visitor<RecordingFile>, goal: &Goal, has_report: bool, seen: u32) -> Self {
        let name = goal.name.clone().filter(|name| !is_special(name));
        // What the file itself will hold is no recording.
        let name = name.map(|name| {
            if has_report {
                name.with_extension("data")
            } else {
                name
            }
        });
        Self {
            visitor,
            name,
            seen,
            under_way: Vec::new(),
        }
    }

    /// Begins one if the signal has come; what came of those before is told to `tell`, a line each.
    pub fn keep_up(&mut self, requested: u32, mut tell: impl FnMut(&str)) {
        if std::mem::replace(&mut self.seen, requested) != requested {
            match &self.name {
                None => tell("there is no file for what was recorded so far"),
                Some(name) => {
                    let (sender, receiver) = channel();
                    let path = name.clone();
                    let is_asked = self.visitor.visit(move |file| {
                        // Who asked may be gone.
                        let _unheard = sender.send(file.copy_so_far(&path));
                    });
                    self.under_way.extend(is_asked.then_some(receiver));
                }
            }
        }
        let name = self.name.as_deref().unwrap_or(Path::new(""));
        self.under_way.retain(|receiver| match receiver.try_recv() {
            Ok(Ok(())) => {
                tell(&format!(
                    "wrote {} with what was recorded so far",
                    name.display()
                ));
                false
            }
            Ok(Err(error)) => {
                tell(&format!("{:#}", anyhow::Error::from(error)));
                false
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => true,
            Err(std::sync::mpsc::TryRecvError::Disconnected) => false,
        });
    }
}
