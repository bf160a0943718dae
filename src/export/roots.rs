//! What stands under the root of a tree before the frames do: processes, threads, and where a stack was cut.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use super::View;
use super::names::fit;
use crate::profile::{
    End, FrameKind, ResolvedFrame, ResolvedProfile, ResolvedThread, WeightedStack,
};

/// A command line is named by so many characters.
const PROCESS_NAME_CHARS_MAX: usize = 60;
/// The mark of a stack that a limit of ours cut.
pub(super) const TRUNCATED: &str = "[truncated]";
/// The mark of a stack whose callers could not be found.
pub(super) const CALLERS_UNKNOWN: &str = "[callers unknown]";

/// `profile` with frames of our own put outside the stacks: the process when there are several, the thread when `view`
/// asks for it, and a mark on stacks that do not reach their root, so that they never look complete.
pub(super) fn with_roots(profile: &ResolvedProfile, view: View) -> Cow<'_, ResolvedProfile> {
    let mut rooted = Rooted::new(profile, view);
    let stacks: Vec<WeightedStack> = profile
        .stacks
        .iter()
        .filter(|stack| stack.weights.get(view.weight) > 0)
        .map(|stack| rooted.stack(stack))
        .collect();
    if rooted.positions.is_empty() {
        return Cow::Borrowed(profile);
    }
    Cow::Owned(ResolvedProfile {
        frames: rooted.frames,
        stacks,
        threads: profile.threads.clone(),
        summary: profile.summary.clone(),
        notes: profile.notes.clone(),
    })
}

/// A process by name and number.
pub(super) fn process_label(thread: &ResolvedThread) -> String {
    let process = fit(&thread.process, PROCESS_NAME_CHARS_MAX);
    format!("{process} ({})", thread.pid)
}

/// A thread by name and number.
pub(super) fn thread_label(thread: &ResolvedThread) -> String {
    format!("{} ({})", thread.name, thread.tid)
}

/// The mark of a stack of which something is missing at its root.
fn cut_label(end: End) -> Option<&'static str> {
    match end {
        End::Complete => None,
        End::Truncated => Some(TRUNCATED),
        End::Partial => Some(CALLERS_UNKNOWN),
    }
}

/// Whether a stack is a remark of ours as a whole, such as `[no stack]`: nothing of it is missing.
pub(super) fn is_note(profile: &ResolvedProfile, stack: &WeightedStack) -> bool {
    let outermost = stack.frames.first();
    outermost
        .and_then(|&frame| profile.frames.get(frame as usize))
        .is_some_and(|frame| frame.kind == FrameKind::Note)
}

#[derive(PartialEq, Eq, Hash)]
enum Root {
    Process(i32),
    Thread(u32),
    Cut(&'static str),
}

struct Rooted<'a> {
    profile: &'a ResolvedProfile,
    processes: bool,
    threads: bool,
    /// The frames of the profile, then ours.
    frames: Vec<ResolvedFrame>,
    /// Where ours are.
    positions: FxHashMap<Root, u32>,
}

impl<'a> Rooted<'a> {
    fn new(profile: &'a ResolvedProfile, view: View) -> Self {
        let mut pids = profile.threads.iter().map(|thread| thread.pid);
        let first = pids.next();
        Self {
            profile,
            processes: pids.any(|pid| Some(pid) != first),
            threads: view.threads,
            frames: profile.frames.clone(),
            positions: FxHashMap::default(),
        }
    }

    fn stack(&mut self, stack: &WeightedStack) -> WeightedStack {
        let mut frames = Vec::with_capacity(stack.frames.len() + 3);
        if let Some(thread) = self.profile.threads.get(stack.thread as usize) {
            if self.processes {
                frames.push(self.frame(Root::Process(thread.pid), || process_label(thread)));
            }
            if self.threads {
                frames.push(self.frame(Root::Thread(stack.thread), || thread_label(thread)));
            }
        }
        if let Some(label) = cut_label(stack.end)
            && !is_note(self.profile, stack)
        {
            frames.push(self.frame(Root::Cut(label), || label.into()));
        }
        frames.extend_from_slice(&stack.frames);
        WeightedStack { frames, ..*stack }
    }

    fn frame(&mut self, root: Root, label: impl FnOnce() -> String) -> u32 {
        *self.positions.entry(root).or_insert_with(|| {
            self.frames.push(ResolvedFrame {
                function: label(),
                module: None,
                file: None,
                line: None,
                inlined: false,
                kind: FrameKind::Note,
            });
            // Positions have 32 bits; a table with more frames would not fit in memory.
            u32::try_from(self.frames.len() - 1).unwrap_or(u32::MAX)
        })
    }
}
