//! What stands under the root of a tree before the frames do: processes, threads, and where a stack was cut.

use std::borrow::Cow;

use rustc_hash::{FxHashMap, FxHashSet};

use super::View;
use super::names::fit;
use crate::profile::{FrameKind, ResolvedFrame, ResolvedProfile, ResolvedThread, WeightedStack};

/// A command line is named by so many characters.
const PROCESS_NAME_CHARS_MAX: usize = 60;

/// `profile` with frames of our own put outside the stacks: the process when there are several, or all those of one
/// name together unless `view` asks for threads; and the thread if it does.
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
        timeline: None,
        summary: profile.summary.clone(),
        notes: profile.notes.clone(),
        moments: Vec::new(),
        whole: profile.whole,
    })
}

/// A process by name and number.
pub fn process_label(thread: &ResolvedThread) -> String {
    let process = fit(&thread.process, PROCESS_NAME_CHARS_MAX);
    format!("{process} ({})", thread.pid)
}

/// A thread by name and number.
pub fn thread_label(thread: &ResolvedThread) -> String {
    format!("{} ({})", thread.name, thread.tid)
}

#[derive(PartialEq, Eq, Hash)]
enum Root {
    Process(u32),
    /// All processes of one name, by one of them.
    Command(u32),
    Thread(u32),
}

/// Processes of one name.
#[derive(Clone, Copy)]
struct Namesakes {
    first: u32,
    count: usize,
}

struct Rooted<'a> {
    profile: &'a ResolvedProfile,
    /// Processes of the same name, the first of them and how many there are; empty when they are not told apart.
    namesakes: FxHashMap<&'a str, Namesakes>,
    threads: bool,
    /// The frames of the profile, then ours.
    frames: Vec<ResolvedFrame>,
    /// Where ours are.
    positions: FxHashMap<Root, u32>,
}

impl<'a> Rooted<'a> {
    fn new(profile: &'a ResolvedProfile, view: View) -> Self {
        let mut known = FxHashSet::default();
        let mut namesakes: FxHashMap<&str, Namesakes> = FxHashMap::default();
        for thread in &profile.threads {
            if known.insert(thread.process_index) {
                let first = thread.process_index;
                let of_name = namesakes.entry(&thread.command);
                of_name.or_insert(Namesakes { first, count: 0 }).count += 1;
            }
        }
        if known.len() <= 1 {
            namesakes.clear();
        }
        Self {
            profile,
            namesakes,
            threads: view.threads,
            frames: profile.frames.clone(),
            positions: FxHashMap::default(),
        }
    }

    fn stack(&mut self, stack: &WeightedStack) -> WeightedStack {
        let mut frames = Vec::with_capacity(stack.frames.len() + 2);
        if let Some(thread) = self.profile.threads.get(stack.thread as usize) {
            match self.namesakes.get(thread.command.as_str()) {
                Some(&Namesakes { first, count }) if count > 1 && !self.threads => {
                    let label = || format!("{} ({count} processes)", thread.command);
                    frames.push(self.frame(Root::Command(first), label));
                }
                Some(_) => {
                    let root = Root::Process(thread.process_index);
                    frames.push(self.frame(root, || process_label(thread)));
                }
                None => {}
            }
            if self.threads {
                frames.push(self.frame(Root::Thread(stack.thread), || thread_label(thread)));
            }
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
                line_precision: None,
                inlined: false,
                kind: FrameKind::Note,
                language: None,
            });
            // Positions have 32 bits; a table with more frames would not fit in memory.
            u32::try_from(self.frames.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::profile::Weight;

    fn roots(profile: &ResolvedProfile, threads: bool) -> Vec<String> {
        let view = View {
            weight: Weight::Samples,
            threads,
        };
        let rooted = with_roots(profile, view);
        let outermost = |stack: &WeightedStack| {
            let frame = stack.frames.first().map(|&frame| frame as usize);
            frame.map(|frame| rooted.frames[frame].function.clone())
        };
        let mut roots: Vec<String> = rooted.stacks.iter().filter_map(outermost).collect();
        roots.sort();
        roots.dedup();
        roots
    }

    #[test]
    fn processes_of_one_program_are_one_unless_threads_are_told_apart() {
        let profile = example::two_of_one_program();
        let together = roots(&profile, false);
        assert_eq!(together.len(), 2, "{together:?}");
        assert_eq!(together[0], "./server --port 80 (4711)");
        assert_eq!(together[1], "worker (2 processes)");
        let apart = roots(&profile, true);
        assert_eq!(apart.len(), 3, "{apart:?}");
        assert_eq!(apart[2], "worker of little (816)");
    }
}
