//! `sampler doctor`: what works here and what does not, each with its reason and what would help.
//!
//! The machine is asked by doing: a process of our own is stopped, read and let go. A target is asked without: whether
//! it may be looked at shows in a file of /proc for which the kernel asks the same question. Reasons and remedies are
//! those of [`sampler_platforms::linux::permission`], as all errors have them.

mod machine;
mod modules;
mod target;

use std::io::Read;

use sampler_platforms::Pid;
use sampler_platforms::linux::permission::DeniedBy;
use sampler_platforms::linux::remedy::Place;
use serde::Serialize;

pub use modules::{Module, Runtime};

use crate::record::Inspection;
use crate::symbols::FileSymbolizer;

/// The hidden command that is the process of our own.
pub const CHILD: &str = "doctor-child";

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be, or of no consequence.
    Ok,
    /// Recording works, and something is not as it could be.
    Note,
    /// Recording does not work because of this.
    Fails,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, in a word or two.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, as part of a sentence.
    pub found: String,
    /// What would help, as a sentence.
    pub hint: Option<String>,
    /// Lines of which any one would help.
    pub remedies: Vec<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, found)
    }

    fn note(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Note, found)
    }

    fn fails(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Fails, found)
    }

    fn new(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            hint: None,
            remedies: Vec::new(),
        }
    }

    fn with_hint(self, hint: &str) -> Self {
        Self {
            hint: Some(hint.to_owned()),
            ..self
        }
    }

    /// With what would help against `by`, where we are.
    fn against(self, by: &DeniedBy, place: Place) -> Self {
        Self {
            hint: by.hint().map(str::to_owned),
            remedies: by.remedies(place),
            ..self
        }
    }
}

/// Everything that was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checkup {
    /// Of this sampler.
    pub sampler_version: &'static str,
    /// Whether recording would work: the process that was asked about, else a command that we start.
    pub works: bool,
    /// This machine, this kernel, ourselves.
    pub machine: Vec<Check>,
    /// The process that was asked about.
    pub target: Option<Target>,
}

/// What was found out about a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Whether and how it can be recorded.
    pub checks: Vec<Check>,
    /// What a recording has of it all the same, where that does not work; as part of a sentence.
    pub left: Option<&'static str>,
    /// Its interpreters.
    pub runtimes: Vec<Runtime>,
    /// Its modules, by address; empty where its mappings cannot be read.
    pub modules: Vec<Module>,
}

/// Examines this machine, and `pid` if one is asked about; that there is such a process must be known.
pub fn examine(pid: Option<Pid>, symbolizer: &mut FileSymbolizer) -> Checkup {
    let place = Place::here();
    let machine = machine::checks(place);
    let target = pid.map(|pid| target::examine(pid, place, symbolizer));
    let checked = target.iter().flat_map(|target| &target.checks);
    let works = machine
        .iter()
        .chain(checked)
        .all(|check| check.verdict != Verdict::Fails);
    Checkup {
        sampler_version: env!("CARGO_PKG_VERSION"),
        works,
        machine,
        target,
    }
}

impl Checkup {
    /// All checks that say `verdict`, those of the machine first.
    pub fn checks_that_say(&self, verdict: Verdict) -> impl Iterator<Item = &Check> {
        let target = self.target.iter().flat_map(|target| &target.checks);
        let all = self.machine.iter().chain(target);
        all.filter(move |check| check.verdict == verdict)
    }
}

/// Is the process of our own: lives until its standard input ends, i.e. as long as whoever has started it wants.
pub fn be_child() {
    let mut input = std::io::stdin().lock();
    let mut byte = [0];
    // Whatever ends it, it is over.
    while matches!(input.read(&mut byte), Ok(1..)) {}
}

/// `1 thread`, `2 threads`.
fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// What `inspection` found, or nothing.
fn modules_of(inspection: Option<&Inspection>, symbolizer: &mut FileSymbolizer) -> Vec<Module> {
    let modules = inspection.map_or(&[][..], |inspection| &inspection.modules);
    modules
        .iter()
        .map(|module| Module::new(module, symbolizer))
        .collect()
}
