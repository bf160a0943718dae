//! Finds the processes that a [`Selection`] means: those that are there, and new ones at a bounded cost.
//!
//! The kernel tells nobody without rights that a process was started. What it does tell, in one small file, is the
//! number that it gave last to a process or thread (/proc/loadavg). Numbers are given in ascending order, so the
//! numbers between two looks are those of all tasks that are new, and only those are asked who they are: three
//! microseconds each, however many processes there are and whatever they do. So processes are looked for at every
//! tick, and one that lives at a tick is found at that tick.
//! `/proc/PID/task/TID/children` would have to be asked of every thread that ran, and many kernels lack it.
//!
//! From time to time all processes are listed besides, for what that does not show: a process that was renamed or has
//! entered a control group, numbers out of order (`clone3` with `set_tid`), a system that does not tell the last
//! number.
//!
//! Whose child a process is, is known when it is first seen, by its parent. Where that has ended meanwhile (it has
//! another parent then), its session tells, or its process group.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};
use sampler_platforms::Pid;
use sampler_platforms::linux::proc::cgroup::Cgroup;

use super::process::Baseline;
use super::process_table::{Kin, Proc, ProcessTable};
use super::selection::{Selection, Wanted};

/// More new numbers than this are not asked one by one: all processes are listed instead.
const NEW_MAX: i32 = 512;

/// How often a number that is new is asked whether it is wanted by its name, at a tick each: a program gets its name
/// some time after its process.
const LOOKS_AT_NEW: u8 = 8;

/// How often a number that is new and that nobody has is asked, at a tick each: the fork may not be done.
const LOOKS_AT_NOBODY: u8 = 2;

/// Processes are listed no more often than this, in nanoseconds.
const LIST_NS_MIN: u64 = 250_000_000;

/// How long until the next listing for each process listed, in nanoseconds: listing takes half a microsecond each.
const LIST_NS_PER_PROCESS: u64 = 50_000;

/// The same for each process that has to be asked who it is, which takes up to ten microseconds.
const ASK_NS_PER_PROCESS: u64 = 1_000_000;

/// The same for each folder of a control group, which takes some ten microseconds.
const ASK_NS_PER_FOLDER: u64 = 1_000_000;

/// How many of those that were listed are asked at a tick: about a millisecond's worth.
const ASKED_PER_TICK: usize = 100;

/// A process to take in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Which.
    pub pid: Pid,
    /// Its parent when it was found, and when it was started; `None` when it is gone already.
    pub kin: Option<Kin>,
    /// What it has used by now.
    pub baseline: Baseline,
    /// Whether it was asked for by number.
    pub is_root: bool,
}

/// Finds processes.
#[derive(Debug)]
pub(super) struct Finder<T = Proc> {
    table: T,
    selection: Selection,
    /// Those that are never wanted: we, and by name those that started us, whose command lines hold ours.
    never: FxHashSet<Pid>,
    /// Those asked for by number that have not ended.
    roots: FxHashSet<Pid>,
    /// All that were found, by when they were started; those that have ended too, for their session and their group.
    family: FxHashMap<Pid, u64>,
    /// Who the command is, to know its orphans by.
    command: Option<Kin>,
    /// Those that need not be asked again while they are there.
    settled: FxHashSet<Pid>,
    last_created: Option<Pid>,
    /// New numbers, and how often each is still to be asked.
    new: Vec<(Pid, u8)>,
    /// Those that were listed and are still to be asked.
    listed: VecDeque<Pid>,
    list_due_ns: u64,
    folders_due_ns: u64,
}

/// What was learned by asking who a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is not there, or not yet.
    NotThere,
    /// It is not wanted, as things stand.
    Unwanted,
    /// It was found before.
    Known,
    /// It is wanted.
    Wanted(Kin),
}

impl Finder<Proc> {
    /// For what `selection` means in /proc.
    pub(super) fn new(selection: Selection) -> Self {
        Self::within(Proc, selection)
    }
}

impl<T: ProcessTable> Finder<T> {
    fn within(table: T, selection: Selection) -> Self {
        let command = match selection.wanted {
            Wanted::Command(pid) => table.kin(pid),
            _ => None,
        };
        let mut never = FxHashSet::from_iter([table.own()]);
        if matches!(selection.wanted, Wanted::Matching(_)) {
            let mut next = table.kin(table.own());
            // Ends at the first process, or where a parent is not visible.
            while let Some(kin) = next.filter(|kin| never.insert(kin.parent)) {
                next = table.kin(kin.parent);
            }
        }
        Self {
            never,
            roots: selection.roots().iter().copied().collect(),
            family: FxHashMap::default(),
            command,
            settled: FxHashSet::default(),
            last_created: None,
            new: Vec::new(),
            listed: VecDeque::new(),
            list_due_ns: 0,
            folders_due_ns: 0,
            table,
            selection,
        }
    }

    /// Those that are there when the recording begins: first those asked for by number, each parent before its
    /// children.
    pub(super) fn begin(&mut self, now_ns: u64) -> Vec<Found> {
        let baseline = match self.selection.wanted {
            Wanted::Command(_) => Baseline::Zero,
            _ => Baseline::Now,
        };
        // Before the listing: what is started meanwhile is found twice rather than never.
        self.last_created = self.table.last_created();
        let mut found = Vec::new();
        for &pid in self.selection.roots() {
            let kin = self.table.kin(pid);
            self.family
                .insert(pid, kin.map_or(0, |kin| kin.started_ticks));
            self.settled.insert(pid);
            found.push(Found {
                pid,
                kin,
                baseline,
                is_root: true,
            });
        }
        if let (Wanted::Command(pid), Some(_)) = (&self.selection.wanted, self.last_created) {
            // Its children have numbers given after its own: they are asked at the first tick.
            self.last_created = Some(*pid);
            self.list_due_ns = now_ns.saturating_add(LIST_NS_MIN);
        } else if self.finds_more() {
            self.find_in_folders(now_ns, baseline, &mut found);
            self.list(now_ns);
            self.ask_listed(usize::MAX, baseline, &mut found);
        }
        found
    }

    /// Those that are wanted and were not before.
    pub(super) fn find(&mut self, now_ns: u64) -> Vec<Found> {
        let mut found = Vec::new();
        if self.finds_more() {
            self.take_new_numbers();
            self.ask_new(&mut found);
            self.find_in_folders(now_ns, Baseline::Now, &mut found);
            if self.listed.is_empty() && now_ns >= self.list_due_ns {
                self.list(now_ns);
            }
            // Whoever is a child and was not there at the beginning was started since.
            let baseline = match self.selection.is_open() {
                true => Baseline::Now,
                false => Baseline::Zero,
            };
            self.ask_listed(ASKED_PER_TICK, baseline, &mut found);
        }
        found
    }

    /// A process that was found has ended; its number may be given to another.
    pub(super) fn ended(&mut self, pid: Pid) {
        self.settled.remove(&pid);
        self.roots.remove(&pid);
    }

    /// Whether there is nothing left to wait for: those asked for by number have all ended.
    pub(super) fn is_over(&self) -> bool {
        self.roots.is_empty() && !self.selection.is_open()
    }

    /// Whether children are recorded.
    pub(super) fn finds_children(&self) -> bool {
        self.selection.subprocesses
    }

    fn finds_more(&self) -> bool {
        self.selection.subprocesses || self.selection.is_open()
    }

    /// Takes in the numbers given since the last time.
    fn take_new_numbers(&mut self) {
        let Some(last) = self.table.last_created() else {
            return;
        };
        let Some(before) = self.last_created.replace(last) else {
            return;
        };
        match last.0.checked_sub(before.0) {
            Some(0) => {}
            Some(count) if (1..=NEW_MAX).contains(&count) => {
                let new = (before.0 + 1..=last.0).map(|number| (Pid(number), LOOKS_AT_NEW));
                self.new.extend(new);
            }
            // Very many, or they have started again from below.
            _ => {
                self.listed.clear();
                self.list_due_ns = 0;
            }
        }
    }

    /// Asks the new ones, in the order in which they were started.
    fn ask_new(&mut self, found: &mut Vec<Found>) {
        let is_open = self.selection.is_open();
        let mut new = std::mem::take(&mut self.new);
        new.retain_mut(|(pid, looks)| {
            *looks -= 1;
            match self.ask(*pid, false) {
                Answer::Wanted(kin) => {
                    found.push(Found {
                        pid: *pid,
                        kin: Some(kin),
                        baseline: Baseline::Zero,
                        is_root: false,
                    });
                    false
                }
                Answer::Known => false,
                // What is no child of ours now will not be one.
                Answer::Unwanted => is_open && *looks > 0,
                Answer::NotThere => *looks > LOOKS_AT_NEW - LOOKS_AT_NOBODY,
            }
        });
        self.new = new;
    }

    /// Takes in who is in a control group, where that can be read.
    fn find_in_folders(&mut self, now_ns: u64, baseline: Baseline, found: &mut Vec<Found>) {
        let Wanted::Cgroup(cgroup) = &self.selection.wanted else {
            return;
        };
        if now_ns < self.folders_due_ns {
            return;
        }
        let Some(members) = self.table.members(cgroup) else {
            return;
        };
        let folders = u64::try_from(members.folders).unwrap_or(u64::MAX);
        self.folders_due_ns = now_ns.saturating_add(folders.saturating_mul(ASK_NS_PER_FOLDER));
        let is_new = |pid: Pid, new: &[(Pid, u8)]| new.iter().any(|&(number, _)| number == pid);
        for pid in members.pids {
            if self.settled.contains(&pid) {
                continue;
            }
            let baseline = match is_new(pid, &self.new) {
                true => Baseline::Zero,
                false => baseline,
            };
            if let Answer::Wanted(kin) = self.ask(pid, true) {
                found.push(Found {
                    pid,
                    kin: Some(kin),
                    baseline,
                    is_root: false,
                });
            }
        }
    }

    /// Lists all processes, to be asked.
    fn list(&mut self, now_ns: u64) {
        let mut pids = self.table.list();
        pids.sort_unstable_by_key(|pid| pid.0);
        let there: FxHashSet<Pid> = pids.iter().copied().collect();
        self.settled.retain(|pid| there.contains(pid));
        let of = |count: usize, ns_each: u64| {
            u64::try_from(count)
                .unwrap_or(u64::MAX)
                .saturating_mul(ns_each)
        };
        let listing_ns = of(pids.len(), LIST_NS_PER_PROCESS);
        let settled = &self.settled;
        self.listed
            .extend(pids.into_iter().filter(|pid| !settled.contains(pid)));
        let asking_ns = of(self.listed.len(), ASK_NS_PER_PROCESS);
        self.list_due_ns = now_ns.saturating_add(LIST_NS_MIN.max(listing_ns).max(asking_ns));
    }

    /// Asks at most `count` of those that were listed.
    fn ask_listed(&mut self, count: usize, baseline: Baseline, found: &mut Vec<Found>) {
        let found_before = found.len();
        for _ in 0..count {
            let Some(pid) = self.listed.pop_front() else {
                break;
            };
            match self.ask(pid, false) {
                Answer::Wanted(kin) => found.push(Found {
                    pid,
                    kin: Some(kin),
                    baseline,
                    is_root: false,
                }),
                // Of what it is to match nothing is known for good.
                Answer::Unwanted if !self.selection.is_open() => {
                    self.settled.insert(pid);
                }
                Answer::Unwanted | Answer::NotThere | Answer::Known => {}
            }
        }
        // Its children may have been asked before it: numbers start again from below.
        if found.len() > found_before && self.selection.subprocesses {
            self.ask_once_more(count, baseline, found);
        }
    }

    /// Asks all those again that are not of the family.
    fn ask_once_more(&mut self, count: usize, baseline: Baseline, found: &mut Vec<Found>) {
        let family = &self.family;
        self.settled.retain(|pid| family.contains_key(pid));
        if count == usize::MAX {
            let mut pids = self.table.list();
            pids.sort_unstable_by_key(|pid| pid.0);
            self.listed.extend(pids);
            self.ask_listed(count, baseline, found);
        } else {
            self.list_due_ns = 0;
        }
    }

    /// Asks who a process is. `is_member`: of the control group that is wanted.
    fn ask(&mut self, pid: Pid, is_member: bool) -> Answer {
        if self.never.contains(&pid) {
            return Answer::Unwanted;
        }
        let Some(kin) = self.table.kin(pid) else {
            return Answer::NotThere;
        };
        match self.family.get(&pid) {
            Some(started) if *started == kin.started_ticks => return Answer::Known,
            // It was another's number.
            Some(_) => {
                self.family.remove(&pid);
            }
            None => {}
        }
        let is_child = || self.selection.subprocesses && self.is_descendant(pid, kin);
        let is_wanted = is_member || is_child() || self.matches(pid);
        if !is_wanted || !self.table.is_process(pid) {
            return Answer::Unwanted;
        }
        self.family.insert(pid, kin.started_ticks);
        self.settled.insert(pid);
        Answer::Wanted(kin)
    }

    fn matches(&self, pid: Pid) -> bool {
        match &self.selection.wanted {
            Wanted::Matching(pattern) => {
                let (name, command_line) = self.table.names(pid);
                pattern.matches(&name, &command_line)
            }
            Wanted::Cgroup(Cgroup::Path(path)) => self.table.is_in(pid, path),
            Wanted::Cgroup(Cgroup::Folders(_)) | Wanted::Processes(_) | Wanted::Command(_) => false,
        }
    }

    fn is_descendant(&self, pid: Pid, kin: Kin) -> bool {
        self.family.contains_key(&kin.parent)
            // All of a session descend from the process that leads it.
            || self.family.contains_key(&kin.session)
            || self.is_orphan_of_the_command(pid, kin)
    }

    /// Whether its parent, of the command's process group, has ended.
    ///
    /// The group is not the command's own: a shell may have put others into it beside `sampler`. But those have their
    /// parent in the same session; whoever is in another session than its parent, and does not lead one of its own, was
    /// handed on to the parent that it has now.
    fn is_orphan_of_the_command(&self, pid: Pid, kin: Kin) -> bool {
        let Some(command) = self.command else {
            return false;
        };
        (kin.group, kin.session) == (command.group, command.session)
            && pid != kin.session
            && kin.started_ticks >= command.started_ticks
            && self
                .table
                .kin(kin.parent)
                .is_some_and(|parent| parent.session != kin.session)
    }
}

#[cfg(test)]
#[path = "finder_tests.rs"]
mod tests;
