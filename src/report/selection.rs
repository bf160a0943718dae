//! Which stacks of a profile are shown, and which part of them: the same for every report, export and comparison.

use rustc_hash::FxHashSet;

use super::view::{FrameFilter, filter};
use crate::profile::{
    End, FrameKind, ResolvedFrame, ResolvedProfile, StackWeights, ThreadState, WeightedStack,
    Weights,
};

/// So many names are listed for somebody whose pattern matches none.
const NAMES_LISTED_MAX: usize = 8;

/// A regular expression for names.
#[derive(Clone, Debug)]
pub struct NamePattern(regex_lite::Regex);

impl NamePattern {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no regular expression.
    pub fn new(text: &str) -> Result<Self, regex_lite::Error> {
        regex_lite::Regex::new(text).map(Self)
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is found somewhere in `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for NamePattern {}

/// What a thread may do: the three that its time is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States {
    /// On a CPU.
    pub running: bool,
    /// Asleep.
    pub sleeping: bool,
    /// Ready to run, and waiting for a CPU.
    pub runnable: bool,
}

/// One function, and what of each stack through it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Focus {
    /// Who called it: the stack up to its innermost call.
    CallersOf(NamePattern),
    /// What it called: the stack from its outermost call on.
    CalleesOf(NamePattern),
}

/// What of a profile is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Threads by name; a number is also that of a thread.
    pub thread: Option<NamePattern>,
    /// Processes; empty for all.
    pub pids: Vec<i32>,
    /// Stacks with a function of this name.
    pub function: Option<NamePattern>,
    /// Stacks with code of this module.
    pub module: Option<NamePattern>,
    /// What of their time; `None` for all.
    pub states: Option<States>,
    /// The part of stacks before or behind a function.
    pub focus: Option<Focus>,
    /// Whether a function that calls itself is shown once.
    pub collapse_recursion: bool,
    /// Which frames.
    pub frames: FrameFilter,
}

/// A part of a selection left nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} leaves none of {stacks} stacks{}", known(.names))]
pub struct NothingSelected {
    /// The option that did.
    pub option: &'static str,
    /// How many stacks there were before.
    pub stacks: usize,
    /// What could have been asked for; empty where that is too much to say.
    pub names: Vec<String>,
}

fn known(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMES_LISTED_MAX);
    let listed = names.get(..NAMES_LISTED_MAX).unwrap_or(names).join(", ");
    match (listed.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!("; there are {listed}"),
        (false, more) => format!("; there are {listed} and {more} more"),
    }
}

/// Leaves out of `profile` what `selection` does not ask for, and notes in [`ResolvedProfile::whole`] what there was.
///
/// # Errors
/// When nothing is left of what there was.
pub fn select(profile: &mut ResolvedProfile, selection: &Selection) -> Result<(), NothingSelected> {
    if selection.leaves_stacks_out() && profile.whole.is_none() {
        profile.whole = Some(profile.total());
    }
    if selection.thread.is_some() || !selection.pids.is_empty() {
        select_threads(profile, selection)?;
    }
    if let Some(states) = selection.states {
        step(profile, "--state", |profile| select_states(profile, states))?;
    }
    if let Some(pattern) = &selection.function {
        retain_with(profile, "--function", |frame| {
            pattern.matches(&frame.function)
        })?;
    }
    if let Some(pattern) = &selection.module {
        retain_with(profile, "--module", |frame| {
            frame
                .module
                .as_deref()
                .is_some_and(|module| pattern.matches(module))
        })?;
    }
    step(profile, "--gil", |profile| {
        filter(profile, selection.frames);
    })?;
    match &selection.focus {
        Some(Focus::CallersOf(pattern)) => focus(profile, "--callers-of", pattern, true)?,
        Some(Focus::CalleesOf(pattern)) => focus(profile, "--callees-of", pattern, false)?,
        None => {}
    }
    if selection.collapse_recursion {
        collapse_recursion(profile);
    }
    Ok(())
}

impl Selection {
    fn leaves_stacks_out(&self) -> bool {
        self.thread.is_some()
            || !self.pids.is_empty()
            || self.function.is_some()
            || self.module.is_some()
            || self.states.is_some()
            || self.focus.is_some()
            || self.frames.only_lock_holders
    }
}

/// Does one step of a selection, which must leave something.
fn step(
    profile: &mut ResolvedProfile,
    option: &'static str,
    select: impl FnOnce(&mut ResolvedProfile),
) -> Result<(), NothingSelected> {
    let stacks = profile.stacks.len();
    select(profile);
    if stacks > 0 && profile.stacks.is_empty() {
        return Err(NothingSelected {
            option,
            stacks,
            names: Vec::new(),
        });
    }
    Ok(())
}

/// Keeps the stacks with a frame that pleases.
fn retain_with(
    profile: &mut ResolvedProfile,
    option: &'static str,
    pleases: impl Fn(&ResolvedFrame) -> bool,
) -> Result<(), NothingSelected> {
    // Each frame is asked once, however many stacks it is in.
    let pleasing: Vec<bool> = profile.frames.iter().map(pleases).collect();
    step(profile, option, |profile| {
        profile.retain_stacks(|stack| stack.frames.iter().any(|&frame| is_in(&pleasing, frame)));
    })
}

fn is_in(set: &[bool], frame: u32) -> bool {
    set.get(frame as usize).copied().unwrap_or(false)
}

fn select_threads(
    profile: &mut ResolvedProfile,
    selection: &Selection,
) -> Result<(), NothingSelected> {
    let (mut threads, mut positions) = (Vec::new(), Vec::new());
    let is_of_process = |pid| selection.pids.is_empty() || selection.pids.contains(&pid);
    for thread in &profile.threads {
        let is_named = selection.thread.as_ref().is_none_or(|pattern| {
            pattern.matches(&thread.name) || pattern.as_str() == thread.tid.to_string()
        });
        let is_kept = is_of_process(thread.pid) && is_named;
        // Threads have ids of 32 bits.
        positions.push(is_kept.then_some(u32::try_from(threads.len()).unwrap_or(u32::MAX)));
        if is_kept {
            threads.push(thread.clone());
        }
    }
    let stacks = profile.stacks.len();
    let position = |thread: u32| positions.get(thread as usize).copied().flatten();
    profile.retain_stacks(|stack| position(stack.thread).is_some());
    if stacks > 0 && profile.stacks.is_empty() {
        let is_by_process = !profile
            .threads
            .iter()
            .any(|thread| is_of_process(thread.pid));
        let names = profile.threads.iter().map(|thread| match is_by_process {
            true => thread.pid.to_string(),
            false => thread.name.clone(),
        });
        let mut known = FxHashSet::default();
        return Err(NothingSelected {
            option: if is_by_process { "--pid" } else { "--thread" },
            stacks,
            names: names.filter(|name| known.insert(name.clone())).collect(),
        });
    }
    for stack in &mut profile.stacks {
        stack.thread = position(stack.thread).unwrap_or(stack.thread);
    }
    profile.threads = threads;
    Ok(())
}

/// Keeps of all times the part that was spent in `states`. What was seen of a thread is how it slept if the innermost
/// frame says so; waits for a CPU are never seen, only accounted.
fn select_states(profile: &mut ResolvedProfile, states: States) {
    let is_asleep: Vec<bool> = profile
        .frames
        .iter()
        .map(|frame| frame.kind == FrameKind::Blocked)
        .collect();
    for stack in &mut profile.stacks {
        let is_asleep = stack
            .frames
            .last()
            .is_some_and(|&frame| is_in(&is_asleep, frame));
        stack.weights = states.of(stack.weights, is_asleep);
    }
    profile.moments.retain_mut(|moment| {
        moment.weights = states.of_moment(moment.weights);
        match moment.state {
            ThreadState::Running | ThreadState::Unseen => states.running,
            ThreadState::Blocked | ThreadState::Stopped => states.sleeping,
        }
    });
    profile.retain_stacks(|stack| stack.weights != StackWeights::default());
}

impl States {
    fn of(self, weights: StackWeights, is_asleep: bool) -> StackWeights {
        let when = |is_shown: bool, value: u64| if is_shown { value } else { 0 };
        let cpu_ns = when(self.running, weights.cpu_ns);
        let off_cpu_ns = when(self.sleeping, weights.off_cpu_ns);
        let run_queue_ns = when(self.runnable, weights.run_queue_ns);
        StackWeights {
            cpu_ns,
            off_cpu_ns,
            run_queue_ns,
            wall_ns: cpu_ns
                .saturating_add(off_cpu_ns)
                .saturating_add(run_queue_ns),
            samples: when(
                if is_asleep {
                    self.sleeping
                } else {
                    self.running
                },
                weights.samples,
            ),
        }
    }

    fn of_moment(self, weights: Weights) -> Weights {
        let when = |is_shown: bool, value: u64| if is_shown { value } else { 0 };
        let cpu_ns = when(self.running, weights.cpu_ns);
        let run_queue_ns = when(self.runnable, weights.run_queue_ns);
        Weights {
            cpu_ns,
            run_queue_ns,
            wall_ns: when(self.sleeping, weights.off_cpu_ns())
                .saturating_add(cpu_ns)
                .saturating_add(run_queue_ns),
        }
    }
}

/// Keeps of each stack through a function the part up to its innermost call, or from its outermost call on. A function
/// of exactly the name that was given goes before all that the pattern is found in.
fn focus(
    profile: &mut ResolvedProfile,
    option: &'static str,
    pattern: &NamePattern,
    callers: bool,
) -> Result<(), NothingSelected> {
    let mut frames = profile.frames.iter();
    let is_whole_name = frames.any(|frame| frame.function == pattern.as_str());
    let is_it: Vec<bool> = profile
        .frames
        .iter()
        .map(|frame| match is_whole_name {
            true => frame.function == pattern.as_str(),
            false => pattern.matches(&frame.function),
        })
        .collect();
    step(profile, option, |profile| {
        profile.retain_stacks(|stack| stack.frames.iter().any(|&frame| is_in(&is_it, frame)));
    })?;
    for stack in &mut profile.stacks {
        let mut frames = stack.frames.iter();
        if callers {
            let last = frames.rposition(|&frame| is_in(&is_it, frame));
            stack.frames.truncate(last.map_or(0, |last| last + 1));
        } else {
            let first = frames.position(|&frame| is_in(&is_it, frame));
            stack.frames.drain(..first.unwrap_or(0));
            // Its callers are not asked for, and so not missing.
            stack.end = End::Complete;
        }
    }
    Ok(())
}

/// Shows a function that calls itself, directly, once: as the innermost of its calls. As in other tools that do so, a
/// circle of several functions stays as it is: each of them was called by another one.
fn collapse_recursion(profile: &mut ResolvedProfile) {
    let frames = &profile.frames;
    let function = |position: u32| {
        let frame = frames.get(position as usize)?;
        Some((frame.function.as_str(), frame.module.as_deref()))
    };
    for WeightedStack { frames, .. } in &mut profile.stacks {
        frames.reverse();
        frames.dedup_by(|outer, inner| function(*outer) == function(*inner));
        frames.reverse();
    }
}

#[cfg(test)]
#[path = "selection_tests.rs"]
pub(super) mod tests;
