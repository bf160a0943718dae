//! From a recording on the command line to a profile with names of which what was asked for is shown.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use anyhow::Context;

use super::failure::Failure;
use super::options::Input;
use super::stages::{ShownReader, ShownSymbolizer, Stages};
use super::symbol_options::SymbolOptions;
use super::view_args::SelectionOptions;
use crate::export::{summary_words, units};
use crate::profile::{Profile, ProfileBuilder, ResolvedProfile, Summary};
use crate::recording::{self, ReadError, ReadOutcome, RecordingInfo, foreign};
use crate::report::{By, resolve_by, select};

/// What a recording holds.
#[derive(Debug)]
pub struct ReadProfile {
    /// What it was called.
    pub name: String,
    /// Without names.
    pub profile: Profile,
    /// What was known when it was started.
    pub info: RecordingInfo,
    /// What must be known of it if it is not whole.
    pub remarks: Vec<String>,
}

/// What is to be shown of a recording.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The recording.
    pub input: &'a Input,
    /// What of it.
    pub selection: &'a SelectionOptions,
    /// Where names come from.
    pub symbols: &'a SymbolOptions,
    /// What frames are told apart by.
    pub by: By,
    /// Whether single looks are wanted.
    pub looks: bool,
    /// Whether it is wanted when everything was.
    pub timeline: bool,
}

/// A profile with names, of which what was asked for is there.
#[derive(Debug)]
pub struct Shown {
    /// The profile.
    pub profile: ResolvedProfile,
    /// What was known when it was started.
    pub info: RecordingInfo,
}

/// Reads a recording.
///
/// # Errors
/// When nothing of it can be read.
pub fn read_profile(input: &Input) -> anyhow::Result<ReadProfile> {
    read_into(ProfileBuilder::new(), input, &Stages::start())
}

/// Reads a recording, names what is in it, and leaves out what was not asked for.
///
/// # Errors
/// When nothing of it can be read, or nothing be shown: the recording holds no samples, or none that was asked for.
pub fn shown(wanted: &Wanted<'_>, stages: &Stages) -> anyhow::Result<Shown> {
    let mut builder = ProfileBuilder::new();
    if let Some(window) = &wanted.selection.window {
        builder = builder.within(window.clone());
    }
    if wanted.looks {
        builder = builder.with_observations();
    }
    if wanted.timeline {
        builder = builder.with_timeline();
    }
    let ReadProfile {
        name,
        profile,
        info,
        remarks,
    } = read_into(builder, wanted.input, stages)?;
    if profile.stacks.is_empty() {
        return Err(nothing_in(name, &profile, &remarks).into());
    }
    let mut symbolizer = ShownSymbolizer::new(wanted.symbols.symbolizer()?, stages);
    let mut profile = resolve_by(&profile, &mut symbolizer, wanted.by);
    select(&mut profile, &wanted.selection.selection)
        .with_context(|| format!("nothing to show of {name}"))?;
    profile.notes.splice(0..0, remarks);
    Ok(Shown { profile, info })
}

/// Why there is nothing in a recording.
fn nothing_in(name: String, profile: &Profile, remarks: &[String]) -> Failure {
    if profile
        .whole
        .is_some_and(|whole| whole != Default::default())
    {
        let lasted = units::time(profile.summary.wall_ns);
        return Failure::OutsideRecording { name, lasted };
    }
    let why = remarks.first().cloned();
    Failure::EmptyRecording {
        name,
        why: why.unwrap_or_else(|| no_samples_because(&profile.summary)),
    }
}

fn no_samples_because(summary: &Summary) -> String {
    let lasted = units::time(summary.wall_ns);
    let left_out = || summary_words::left_out(summary).map(|which| format!("left out {which}"));
    let missed = || summary_words::missed(summary).map(|missed| format!("missed were {missed}"));
    let is_of_nobody = summary.processes == 0;
    let nobody = || {
        is_of_nobody
            .then(|| format!("in the {lasted} that it lasted there was no process to record"))
    };
    let why = left_out().or_else(nobody).or_else(missed);
    why.unwrap_or_else(|| format!("it lasted {lasted}, and ended before the first sample was due"))
}

fn read_into(
    builder: ProfileBuilder,
    input: &Input,
    stages: &Stages,
) -> anyhow::Result<ReadProfile> {
    let (name, bytes, input) = open(input)?;
    let mut builder = builder;
    let mut input = BufReader::with_capacity(foreign::START_BYTES, input);
    // Looked at, not taken. What cannot be read will say so when it is.
    let start = input.fill_buf().unwrap_or_default().to_vec();
    let input = ShownReader::new(input, bytes, stages);
    let outcome = match recording::read(input, &mut builder) {
        Ok(outcome) => outcome,
        Err(error) => return Err(cannot_read(name, &start, error)),
    };
    stages.at(|| "adding up".to_owned());
    Ok(ReadProfile {
        remarks: remarks(&name, &outcome),
        name,
        profile: builder.finish(),
        info: outcome.info,
    })
}

fn cannot_read<E: std::error::Error + Send + Sync + 'static>(
    name: String,
    start: &[u8],
    error: ReadError<E>,
) -> anyhow::Error {
    if let (ReadError::NotARecording, Some(foreign)) = (&error, foreign::recognise(start)) {
        return Failure::Foreign { name, foreign }.into();
    }
    anyhow::Error::from(error).context(format!("cannot read the recording {name}"))
}

/// Its name, its length if that is known, and itself.
fn open(input: &Input) -> anyhow::Result<(String, Option<u64>, Box<dyn Read>)> {
    match input {
        Input::Stdin => Ok((
            "from standard input".to_owned(),
            None,
            Box::new(io::stdin().lock()),
        )),
        Input::File(path) => {
            let file = File::open(path)
                .with_context(|| format!("cannot open the recording {}", path.display()))?;
            let bytes = file.metadata().ok().map(|metadata| metadata.len());
            Ok((path.display().to_string(), bytes, Box::new(file)))
        }
    }
}

/// What the reader must know of a recording that is not whole.
fn remarks(name: &str, outcome: &ReadOutcome) -> Vec<String> {
    let damage = outcome
        .damage
        .as_ref()
        .map(|damage| format!("{name} is damaged: {damage}; shown is what comes before"));
    let cut = (!outcome.complete && outcome.damage.is_none())
        .then(|| format!("{name} ends without an end mark: sampler was killed or still writes; shown is what is there"));
    damage.into_iter().chain(cut).collect()
}
