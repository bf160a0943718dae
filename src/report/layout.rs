//! What stacks are told apart by, and which way round they are shown.

use rustc_hash::FxHashMap;

use super::frame_names::syscall_of;
use crate::export::{process_label, thread_label};
use crate::profile::{
    End, FrameKind, ResolvedFrame, ResolvedProfile, ResolvedThread, WeightedStack,
};

/// What stacks are told apart by, where that is not their functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// The files their code is in.
    Module,
    /// Their threads.
    Thread,
    /// Their processes.
    Process,
    /// The system calls they are in.
    Syscall,
    /// What they wait for: files, sockets, pipes, locks.
    File,
    /// Their outermost functions.
    Root,
}

/// How stacks are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// What they are told apart by.
    pub grouping: Option<Grouping>,
    /// Whether the innermost frame comes first.
    pub inverted: bool,
}

/// What they are laid out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A row for each of what is told apart.
    Rows,
    /// Stacks: below what they are told apart by, unless that is in their own frames.
    Stacks,
}

/// Lays the stacks of `profile` out.
pub fn lay_out(profile: &mut ResolvedProfile, layout: Layout, shape: Shape) {
    if layout.inverted && shape == Shape::Stacks {
        for stack in &mut profile.stacks {
            stack.frames.reverse();
            // A stack that was cut has a frame that says so, now at its inner end.
            stack.end = End::Complete;
        }
    }
    match layout.grouping {
        None => {}
        Some(Grouping::Module) => by_module(profile),
        Some(grouping) => by_stack(profile, grouping, layout, shape),
    }
}

fn labelled(label: String, kind: FrameKind) -> ResolvedFrame {
    ResolvedFrame {
        function: label,
        module: None,
        file: None,
        line: None,
        line_precision: None,
        inlined: false,
        kind,
        language: None,
    }
}

/// Each module once for all its functions that call each other in a row.
fn by_module(profile: &mut ResolvedProfile) {
    let mut modules: FxHashMap<String, u32> = FxHashMap::default();
    let mut frames = Vec::new();
    let positions: Vec<u32> = profile
        .frames
        .iter()
        .map(|frame| {
            let (label, kind) = match &frame.module {
                Some(module) => (module, FrameKind::Native),
                None => (&frame.function, frame.kind),
            };
            *modules.entry(label.clone()).or_insert_with(|| {
                frames.push(labelled(label.clone(), kind));
                // No more than there were frames, whose positions have 32 bits.
                u32::try_from(frames.len() - 1).unwrap_or(u32::MAX)
            })
        })
        .collect();
    for stack in &mut profile.stacks {
        for frame in &mut stack.frames {
            *frame = positions.get(*frame as usize).copied().unwrap_or(*frame);
        }
        stack.frames.dedup();
    }
    profile.frames = frames;
}

/// Each stack as one frame that says what it is told apart by, or below it.
fn by_stack(profile: &mut ResolvedProfile, grouping: Grouping, layout: Layout, shape: Shape) {
    let first = profile.threads.first().map(|thread| thread.process_index);
    let mut processes = profile.threads.iter().map(|thread| thread.process_index);
    let has_several_processes = processes.any(|process| Some(process) != first);
    let mut groups: FxHashMap<ResolvedFrame, u32> = FxHashMap::default();
    let mut of_threads: FxHashMap<u32, u32> = FxHashMap::default();
    let (frames, threads) = (&mut profile.frames, &profile.threads);
    let mut position = |group: ResolvedFrame, frames: &mut Vec<ResolvedFrame>| {
        *groups.entry(group).or_insert_with_key(|group| {
            frames.push(group.clone());
            u32::try_from(frames.len() - 1).unwrap_or(u32::MAX)
        })
    };
    for stack in &mut profile.stacks {
        let group = match grouping {
            Grouping::Thread | Grouping::Process => match of_threads.get(&stack.thread) {
                Some(&known) => known,
                None => {
                    let thread = threads.get(stack.thread as usize);
                    let label = thread.map_or_else(String::new, |thread| match grouping {
                        Grouping::Process => process_label(thread),
                        _ => full_label(thread, has_several_processes),
                    });
                    let group = position(labelled(label, FrameKind::Note), frames);
                    of_threads.insert(stack.thread, group);
                    group
                }
            },
            // Which end of a stack is which has changed if it was turned round.
            _ => {
                let (outermost, innermost) = match layout.inverted && shape == Shape::Stacks {
                    true => (stack.frames.last(), stack.frames.first()),
                    false => (stack.frames.first(), stack.frames.last()),
                };
                let end = if grouping == Grouping::Root {
                    outermost
                } else {
                    innermost
                };
                let end = end.and_then(|&frame| frames.get(frame as usize));
                position(group_of(end, grouping), frames)
            }
        };
        match shape {
            Shape::Rows => {
                stack.frames = vec![group];
                stack.end = End::Complete;
            }
            Shape::Stacks => stack.frames.insert(0, group),
        }
    }
    if shape == Shape::Rows {
        merge_equal(&mut profile.stacks);
        profile.moments.clear();
    }
}

fn full_label(thread: &ResolvedThread, has_several_processes: bool) -> String {
    match has_several_processes {
        true => format!("{} of {}", thread_label(thread), process_label(thread)),
        false => thread_label(thread),
    }
}

/// What a stack that ends so belongs to.
fn group_of(end: Option<&ResolvedFrame>, grouping: Grouping) -> ResolvedFrame {
    let Some(end) = end else {
        return labelled("[no frames]".to_owned(), FrameKind::Note);
    };
    match grouping {
        Grouping::Syscall => match syscall_of(end) {
            Some(call) => labelled(call.to_owned(), end.kind),
            None => labelled("[no system call]".to_owned(), FrameKind::Note),
        },
        Grouping::File => match (end.kind, &end.file) {
            (FrameKind::Blocked, Some(file)) => labelled(file.clone(), end.kind),
            (FrameKind::Blocked | FrameKind::Kernel | FrameKind::Note, _) => {
                labelled(end.function.clone(), end.kind)
            }
            _ => labelled("[on a CPU]".to_owned(), FrameKind::Note),
        },
        _ => end.clone(),
    }
}

/// One stack for all of a thread that are the same now.
fn merge_equal(stacks: &mut Vec<WeightedStack>) {
    let mut positions: FxHashMap<(u32, bool, Vec<u32>), usize> = FxHashMap::default();
    let mut merged: Vec<WeightedStack> = Vec::new();
    for stack in stacks.drain(..) {
        let key = (stack.thread, stack.holds_lock, stack.frames.clone());
        match positions.get(&key).and_then(|&at| merged.get_mut(at)) {
            Some(known) => known.weights += stack.weights,
            None => {
                positions.insert(key, merged.len());
                merged.push(stack);
            }
        }
    }
    *stacks = merged;
}

#[cfg(test)]
mod tests {
    use super::super::selection::tests::profile;
    use super::*;
    use crate::profile::{Weight, functions};

    fn rows(grouping: Grouping, weight: Weight) -> Vec<(String, u64)> {
        let mut profile = profile();
        let layout = Layout {
            grouping: Some(grouping),
            inverted: false,
        };
        lay_out(&mut profile, layout, Shape::Rows);
        let functions = functions(&profile, weight);
        let rows = functions.rows.iter();
        rows.map(|row| (row.frame.function.clone(), row.self_weight))
            .collect()
    }

    #[track_caller]
    fn check(grouping: Grouping, weight: Weight, expected: &[(&str, u64)]) {
        let rows = rows(grouping, weight);
        let rows: Vec<(&str, u64)> = rows.iter().map(|(name, value)| (&**name, *value)).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn rows_are_what_is_told_apart() {
        let cpu = Weight::Cpu;
        check(
            Grouping::Module,
            cpu,
            &[("app", 60), ("libc.so.6", 30), ("[syscall: write]", 10)],
        );
        check(
            Grouping::Process,
            cpu,
            &[("app -x (7)", 90), ("gzip (9)", 10)],
        );
        check(
            Grouping::Thread,
            cpu,
            &[
                ("main (7) of app -x (7)", 60),
                ("writer (8) of app -x (7)", 30),
                ("gzip (9) of gzip (9)", 10),
            ],
        );
        check(Grouping::Root, cpu, &[("main", 70), ("start_thread", 30)]);
        check(
            Grouping::Syscall,
            cpu,
            &[("[no system call]", 90), ("write", 10)],
        );
        let asleep = Weight::OffCpu;
        check(Grouping::Syscall, asleep, &[("read", 300), ("futex", 40)]);
        check(
            Grouping::File,
            asleep,
            &[("/var/lib/x", 300), ("[futex]", 40)],
        );
    }

    fn stacks(layout: Layout) -> Vec<String> {
        let mut profile = profile();
        lay_out(&mut profile, layout, Shape::Stacks);
        let name = |frame: &u32| profile.frames[*frame as usize].function.clone();
        let stacks = profile.stacks.iter();
        stacks
            .map(|stack| stack.frames.iter().map(name).collect::<Vec<_>>().join(";"))
            .collect()
    }

    #[test]
    fn stacks_stand_below_what_they_are_told_apart_by_and_may_be_turned_round() {
        let inverted = Layout {
            grouping: None,
            inverted: true,
        };
        assert_eq!(stacks(inverted)[0], "burn;walk;walk;main");
        let by_file = Layout {
            grouping: Some(Grouping::File),
            inverted: true,
        };
        assert_eq!(
            stacks(by_file)[2],
            "/var/lib/x;[read file /var/lib/x];start_thread"
        );
    }
}
