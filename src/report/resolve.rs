//! Gives a profile its names.
//!
//! Every address is looked up once and every frame is made once, however many stacks share it: a stack is then a
//! list of numbers.

use rustc_hash::FxHashMap;

use super::By;
use super::frame_names::{end_frame, jit_frame};
use super::names::{Expansion, Names, module_of};
use super::unnamed::Unnamed;
use crate::profile::{
    End, FrameId, Moment, NodeId, ProcessId, ProcessInfo, Profile, ResolvedProfile, ResolvedThread,
    StackId, StackTable, StackWeights, ThreadId, ThreadInfo, ThreadStack, WeightedStack,
};
use crate::symbols::Symbolize;

/// Names all frames of `profile`.
///
/// Ids that point nowhere, as a damaged recording may hold, give unknown frames, and stacks of unknown threads are
/// left out and counted in the notes.
pub fn resolve(profile: &Profile, symbolizer: &mut dyn Symbolize) -> ResolvedProfile {
    resolve_by(profile, symbolizer, By::Function)
}

/// As [`resolve`], telling frames apart by what `by` says.
pub fn resolve_by(profile: &Profile, symbolizer: &mut dyn Symbolize, by: By) -> ResolvedProfile {
    let names = Names::of(profile, symbolizer, by);
    let mut stacks = StackResolver::new(profile, names);
    let commands = commands(profile);
    let mut resolved = ResolvedProfile {
        threads: profile
            .threads
            .iter()
            .map(|thread| resolve_thread(profile, &commands, thread))
            .collect(),
        timeline: profile.timeline.clone(),
        summary: profile.summary.clone(),
        ..ResolvedProfile::default()
    };
    let mut lost = 0u64;
    // By thread and stack, its position; only for single looks.
    let mut positions: FxHashMap<(ThreadId, StackId), u32> = FxHashMap::default();
    for &ThreadStack {
        thread,
        stack,
        weights,
    } in &profile.stacks
    {
        match stacks.resolve(thread, stack, weights) {
            Some(named) => {
                if !profile.observations.is_empty() {
                    // There are no more of them than ids.
                    let position = u32::try_from(resolved.stacks.len()).unwrap_or(u32::MAX);
                    positions.insert((thread, stack), position);
                }
                resolved.stacks.push(named);
            }
            None => lost = lost.saturating_add(weights.samples),
        }
    }
    resolved.moments = profile
        .observations
        .iter()
        .filter_map(|seen| {
            Some(Moment {
                stack: *positions.get(&(seen.thread, seen.stack))?,
                at_ns: seen.at_ns,
                state: seen.state,
                ticks: seen.ticks,
                weights: seen.weights,
            })
        })
        .collect();
    resolved.whole = profile.whole;
    resolved.notes = symbolizer.notes();
    resolved
        .notes
        .append(&mut stacks.unnamed.notes(&profile.modules));
    let unnamed = profile.summary.jit_left_out;
    if unnamed > 0 {
        let note = format!(
            "code compiled at run time: the names of {unnamed} functions had no room in the recording"
        );
        resolved.notes.push(note);
    }
    if lost > 0 {
        let note = format!("the recording is damaged: {lost} samples left out");
        resolved.notes.push(note);
    }
    resolved.frames = stacks.names.frames.frames;
    resolved
}

fn resolve_thread(
    profile: &Profile,
    commands: &FxHashMap<ProcessId, &str>,
    thread: &ThreadInfo,
) -> ResolvedThread {
    let process = profile.processes.get(thread.process.index());
    let command = commands.get(&thread.process).copied();
    let command = command.or_else(|| process.map(program_name));
    ResolvedThread {
        process_index: thread.process.0,
        parent: process
            .and_then(|process| process.birth)
            .map(|birth| birth.parent),
        command: command.unwrap_or_default().to_owned(),
        pid: process.map_or(thread.tid, |process| process.pid),
        process: process.map_or_else(String::new, |process| process.command_line.clone()),
        tid: thread.tid,
        name: thread.name.clone(),
    }
}

/// The names of the first thread of each process that has one.
fn commands(profile: &Profile) -> FxHashMap<ProcessId, &str> {
    let is_first = |thread: &&ThreadInfo| {
        let process = profile.processes.get(thread.process.index());
        process.is_some_and(|process| process.pid == thread.tid) && !thread.name.is_empty()
    };
    let first = profile.threads.iter().filter(is_first);
    first
        .map(|thread| (thread.process, thread.name.as_str()))
        .collect()
}

/// What a process's program is called, as far as that is known.
fn program_name(process: &ProcessInfo) -> &str {
    let path = match process.executable.as_str() {
        "" => process.command_line.split(' ').next().unwrap_or_default(),
        path => path,
    };
    path.rsplit('/').next().unwrap_or(path)
}

/// Turns stacks of the table into stacks of resolved frames.
struct StackResolver<'a> {
    profile: &'a Profile,
    names: Names,
    unnamed: Unnamed,
    /// Code compiled at run time whose name was told only after it was seen.
    named_late: FxHashMap<(ProcessId, FrameId), Expansion>,
}

impl<'a> StackResolver<'a> {
    fn new(profile: &'a Profile, names: Names) -> Self {
        let mut unnamed = Unnamed::new(profile.modules.len());
        for (&key, expansion) in profile.table.frames().iter().zip(&names.expansions) {
            if let Some(module) = module_of(key) {
                unnamed.count_address(module, expansion.unnamed_module.is_none());
            }
        }
        Self {
            profile,
            names,
            unnamed,
            named_late: FxHashMap::default(),
        }
    }

    /// Looks for names of the anonymous code in a stack of `process`: what is known when the recording has ended.
    fn name_late(&mut self, process: ProcessId, innermost: NodeId) {
        let Profile { table, jit, .. } = self.profile;
        if jit.codes().is_empty() {
            return;
        }
        for frame in frames(table, innermost) {
            let key = table.frames().get(frame.index());
            let Some(lookup_address) = key.and_then(|key| key.anonymous_code()) else {
                continue;
            };
            let code = jit.find_whenever(process, lookup_address);
            let Some(code) = code.and_then(|code| jit.get(code)) else {
                continue;
            };
            let frames = &mut self.names.frames;
            self.named_late
                .entry((process, frame))
                .or_insert_with(|| Expansion {
                    frames: vec![frames.add(jit_frame(code, lookup_address))],
                    ..Expansion::default()
                });
        }
    }

    fn resolve(
        &mut self,
        thread: ThreadId,
        stack: StackId,
        weights: StackWeights,
    ) -> Option<WeightedStack> {
        let process = self.profile.threads.get(thread.index())?.process;
        let &(innermost, end) = self.profile.table.stacks().get(stack.index())?;
        self.name_late(process, innermost);
        self.unnamed.begin_stack(weights.samples);
        let mut resolved = Vec::new();
        let mut is_only_notes = true;
        let mut holds_lock = false;
        for frame in frames(&self.profile.table, innermost) {
            let late = self.named_late.get(&(process, frame));
            let Some(expansion) = late.or_else(|| self.names.expansions.get(frame.index())) else {
                continue;
            };
            resolved.extend_from_slice(&expansion.frames);
            is_only_notes &= expansion.is_note;
            holds_lock |= expansion.is_lock;
            if let Some(module) = expansion.unnamed_module {
                self.unnamed.count_in_stack(module);
            }
        }
        // A stack of which nothing was seen is not a part of one.
        if !is_only_notes {
            resolved.extend(self.end_frame(end));
        }
        resolved.reverse();
        Some(WeightedStack {
            recorded: stack,
            frames: resolved,
            thread: thread.0,
            end,
            holds_lock,
            weights,
        })
    }

    fn end_frame(&mut self, end: End) -> Option<u32> {
        end_frame(end).map(|frame| self.names.frames.add(frame))
    }
}

/// The frames from `innermost` outwards.
pub(super) fn frames(table: &StackTable, innermost: NodeId) -> impl Iterator<Item = FrameId> {
    let node = |id: NodeId| table.nodes().get(id.index()).map(|node| (id, node));
    // Ends because a caller has a lower number; one that has not is where a damaged table is left.
    std::iter::successors(node(innermost), move |(id, current)| {
        current.caller.filter(|caller| caller < id).and_then(node)
    })
    .map(|(_, current)| current.frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Birth, FrameKey, FrameKind, ModuleId, ModuleInfo};
    use crate::symbols::{NameFile, NameSource, NameTable, Symbol};
    use sampler_unwind::FrameOrigin;

    /// Knows `inner`, inlined into `outer`, at 0x10 to 0x1f of every module but `libstripped.so`, of which it knows where
    /// the function at 0x30 to 0x3f starts.
    #[derive(Default)]
    struct Fake {
        asked: Vec<(String, Vec<u64>)>,
    }

    impl Symbolize for Fake {
        fn symbolize(&mut self, module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>> {
            self.asked.push((module.path.clone(), addresses.to_vec()));
            let symbol = |function: &str, inlined| Symbol {
                function: function.to_owned(),
                file: Some("a.c".to_owned()),
                line: Some(7),
                inlined,
                source: NameSource {
                    table: NameTable::Symtab,
                    file: NameFile::Module,
                },
            };
            addresses
                .iter()
                .map(|address| {
                    if (0x10..0x20).contains(address) && !module.path.contains("stripped") {
                        vec![symbol("inner", true), symbol("outer", false)]
                    } else if (0x30..0x40).contains(address) {
                        let mut symbol = symbol("libstripped.so!fn_30", false);
                        symbol.source.table = NameTable::Fde;
                        (symbol.file, symbol.line) = (None, None);
                        vec![symbol]
                    } else {
                        Vec::new()
                    }
                })
                .collect()
        }

        fn notes(&self) -> Vec<String> {
            vec!["from the symbolizer".to_owned()]
        }
    }

    fn code(module: u32, address: u64, is_return_address: bool) -> FrameKey {
        FrameKey::Code {
            module: Some(ModuleId(module)),
            address,
            is_return_address,
            origin: FrameOrigin::CallFrameInfo,
        }
    }

    fn weights(samples: u64) -> StackWeights {
        StackWeights {
            samples,
            ..StackWeights::default()
        }
    }

    fn module(path: &str) -> ModuleInfo {
        ModuleInfo {
            path: path.to_owned(),
            build_id: None,
            image: None,
        }
    }

    /// Resolves one thread with `stacks`, outermost frame first, each with its samples.
    fn resolve_stacks(stacks: &[(&[FrameKey], End, u64)]) -> (ResolvedProfile, Fake) {
        let mut table = StackTable::default();
        let entries: Vec<_> = stacks
            .iter()
            .map(|(frames, end, samples)| {
                let stack = table.intern(frames.iter().copied(), *end);
                ThreadStack {
                    thread: ThreadId(0),
                    stack,
                    weights: weights(*samples),
                }
            })
            .collect();
        let mut symbolizer = Fake::default();
        let resolved = resolve(
            &Profile {
                processes: vec![ProcessInfo {
                    birth: None,
                    pid: 7,
                    command_line: "app -x".to_owned(),
                    executable: "/bin/app".to_owned(),
                }],
                threads: vec![ThreadInfo {
                    process: ProcessId(0),
                    tid: 8,
                    name: "worker".to_owned(),
                }],
                modules: vec![module("/bin/app"), module("/lib/libstripped.so")],
                table,
                stacks: entries,
                ..Profile::default()
            },
            &mut symbolizer,
        );
        (resolved, symbolizer)
    }

    #[test]
    fn a_process_is_called_as_its_first_thread_or_its_program() {
        let process = |pid, executable: &str, command_line: &str| ProcessInfo {
            pid,
            birth: Some(Birth {
                parent: pid - 1,
                started_ticks: 0,
            }),
            command_line: command_line.to_owned(),
            executable: executable.to_owned(),
        };
        let thread = |process, tid, name: &str| ThreadInfo {
            process: ProcessId(process),
            tid,
            name: name.to_owned(),
        };
        let profile = Profile {
            processes: vec![
                process(7, "/usr/bin/dash", "sh -c x"),
                process(9, "/usr/bin/dash", "sh -c x"),
                process(11, "", "/opt/app -x"),
            ],
            threads: vec![
                thread(0, 8, "other"),
                thread(0, 7, "sh"),
                thread(1, 10, "other"),
                thread(2, 12, "other"),
            ],
            ..Profile::default()
        };
        let resolved = resolve(&profile, &mut Fake::default());
        let of = |thread: &ResolvedThread| (thread.command.clone(), thread.parent);
        let commands: Vec<_> = resolved.threads.iter().map(of).collect();
        let expected = [("sh", 6), ("sh", 6), ("dash", 8), ("app", 10)];
        assert_eq!(
            commands,
            expected.map(|(name, parent)| (name.to_owned(), Some(parent)))
        );
    }

    fn names(resolved: &ResolvedProfile, stack: usize) -> Vec<&str> {
        resolved.stacks[stack]
            .frames
            .iter()
            .map(|&frame| resolved.frames[frame as usize].function.as_str())
            .collect()
    }

    #[test]
    fn inlined_functions_become_frames_and_equal_frames_are_one() {
        let (resolved, symbolizer) = resolve_stacks(&[
            (
                &[code(0, 0x20, true), code(0, 0x11, false)],
                End::Complete,
                1,
            ),
            (
                &[code(0, 0x20, true), FrameKey::Syscall(0)],
                End::Complete,
                1,
            ),
        ]);
        assert_eq!(names(&resolved, 0), ["outer", "inner", "outer", "inner"]);
        assert_eq!(names(&resolved, 1), ["outer", "inner", "[syscall: read]"]);
        assert_eq!(resolved.frames.len(), 3);
        let outermost = &resolved.frames[resolved.stacks[0].frames[0] as usize];
        assert_eq!(outermost.module.as_deref(), Some("app"));
        assert_eq!((outermost.line, outermost.inlined), (Some(7), false));
        assert_eq!(
            symbolizer.asked,
            [("/bin/app".to_owned(), vec![0x11, 0x1f])]
        );
        assert_eq!(resolved.threads[0].process, "app -x");
        assert_eq!((resolved.threads[0].pid, resolved.threads[0].tid), (7, 8));
    }

    #[test]
    fn unknown_code_says_where_it_is() {
        let outside = FrameKey::Code {
            module: None,
            address: 0x7f00,
            is_return_address: true,
            origin: FrameOrigin::Scan,
        };
        let nowhere = code(99, 5, false);
        let (resolved, _) =
            resolve_stacks(&[(&[outside, nowhere, code(1, 0x1a2b, true)], End::Complete, 1)]);
        assert_eq!(
            names(&resolved, 0),
            [
                "[unknown 0x7f00]",
                "[unknown 0x5]",
                "[unknown in libstripped.so+0x1a2b]"
            ]
        );
    }

    #[test]
    fn a_cut_stack_never_looks_complete() {
        let (resolved, _) = resolve_stacks(&[
            (&[code(0, 0x11, false)], End::Truncated, 1),
            (&[FrameKey::Blocked(202)], End::Partial, 1),
            (&[], End::Partial, 1),
            (&[FrameKey::Ended], End::Partial, 1),
        ]);
        assert_eq!(names(&resolved, 0), ["[cut]", "outer", "inner"]);
        assert_eq!(names(&resolved, 1), ["[incomplete]", "[futex]"]);
        // Nothing was seen of these, so nothing is missing in them.
        assert_eq!(names(&resolved, 2), ["[no stack]"]);
        assert_eq!(names(&resolved, 3), ["[thread ended unseen]"]);
        let kinds: Vec<FrameKind> = [0, 1]
            .iter()
            .flat_map(|&stack: &usize| resolved.stacks[stack].frames.clone())
            .map(|frame| resolved.frames[frame as usize].kind)
            .collect();
        assert_eq!(
            kinds,
            [
                FrameKind::Note,
                FrameKind::Native,
                FrameKind::Native,
                FrameKind::Note,
                FrameKind::Blocked
            ]
        );
    }

    #[test]
    fn modules_without_names_are_told_by_their_share() {
        let (resolved, _) = resolve_stacks(&[
            (&[code(1, 1, false), code(1, 2, false)], End::Complete, 123),
            (&[code(0, 0x11, false)], End::Complete, 827),
            (&[code(0, 0x99, false)], End::Complete, 50),
            (&[code(0, 0x9a, false)], End::Complete, 0),
        ]);
        assert_eq!(
            resolved.notes,
            [
                "from the symbolizer",
                "libstripped.so: no symbols (12.3 % of samples)",
                "app: no symbol at 2 of 3 addresses (5.0 % of samples)",
            ]
        );
    }

    #[test]
    fn a_name_made_from_an_address_is_one_frame_and_no_symbol() {
        let (resolved, _) = resolve_stacks(&[(
            &[code(1, 0x31, true), code(1, 0x38, false)],
            End::Complete,
            1,
        )]);
        let name = "libstripped.so!fn_30";
        assert_eq!(names(&resolved, 0), [name, name]);
        assert_eq!(resolved.frames.len(), 1);
        let note = "libstripped.so: no symbols (100.0 % of samples)";
        assert_eq!(resolved.notes.last().map(String::as_str), Some(note));
    }

    #[test]
    fn names_that_had_no_room_are_told() {
        let mut profile = Profile::default();
        profile.summary.jit_left_out = 7;
        let resolved = resolve(&profile, &mut Fake::default());
        let note = resolved.notes.last().map_or("", String::as_str);
        assert!(note.contains("names of 7 functions"), "{note}");
    }

    #[test]
    fn ids_that_point_nowhere_are_left_out_and_told() {
        let lost = ThreadStack {
            thread: ThreadId(1),
            stack: StackId(1),
            weights: weights(3),
        };
        let resolved = resolve(
            &Profile {
                stacks: vec![lost],
                ..Profile::default()
            },
            &mut Fake::default(),
        );
        assert!(resolved.stacks.is_empty());
        assert_eq!(
            resolved.notes.last().map(String::as_str),
            Some("the recording is damaged: 3 samples left out")
        );
    }

    #[test]
    fn deep_stacks_share_their_frames() {
        let deep: Vec<FrameKey> = (0..10_000).map(|_| code(0, 0x12, true)).collect();
        let (resolved, _) = resolve_stacks(&[(&deep, End::Complete, 1)]);
        assert_eq!(resolved.stacks[0].frames.len(), 20_000);
        assert_eq!(resolved.frames.len(), 2);
    }
}
