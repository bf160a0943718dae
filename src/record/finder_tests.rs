//! The finder on a table of processes in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use proptest::prelude::*;
use sampler_platforms::linux::proc::cgroup::Members;

use super::super::selection::Pattern;
use super::*;

/// We, and who started us.
const OWN: Pid = Pid(50);
const SHELL: Pid = Pid(40);

/// Some seconds apart: everything is due again.
const LATER_NS: u64 = 10_000_000_000;

#[derive(Clone, Debug)]
struct Entry {
    kin: Kin,
    name: String,
    command_line: String,
    cgroup: PathBuf,
    is_thread: bool,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<i32, Entry>,
    last: Option<Pid>,
    clock: u64,
    /// How often anyone was asked who it is.
    asked: usize,
}

#[derive(Clone, Debug, Default)]
struct Shared(Rc<RefCell<Table>>);

impl Shared {
    /// With a first process, a shell and us.
    fn new() -> Self {
        let shared = Self::default();
        shared.start_in(Pid(1), Pid(0), Pid(1), "init");
        shared.start_in(SHELL, Pid(1), SHELL, "sh");
        shared.start_in(OWN, SHELL, SHELL, "sampler");
        shared
    }

    fn start_in(&self, pid: Pid, parent: Pid, session: Pid, name: &str) {
        let mut table = self.0.borrow_mut();
        table.clock += 1;
        table.last = Some(pid);
        let entry = Entry {
            kin: Kin {
                started_ticks: table.clock,
                parent,
                group: OWN,
                session,
            },
            name: name.into(),
            command_line: format!("/usr/bin/{name}"),
            cgroup: "/".into(),
            is_thread: false,
        };
        table.entries.insert(pid.0, entry);
    }

    /// A child, in our session.
    fn start(&self, pid: i32, parent: i32) {
        self.start_in(Pid(pid), Pid(parent), SHELL, "child");
    }

    fn change(&self, pid: i32, change: impl FnOnce(&mut Entry)) {
        let mut table = self.0.borrow_mut();
        change(table.entries.get_mut(&pid).expect("it is there"));
    }

    /// Its children go to the first process.
    fn end(&self, pid: i32) {
        let mut table = self.0.borrow_mut();
        table.entries.remove(&pid);
        for entry in table.entries.values_mut() {
            if entry.kin.parent == Pid(pid) {
                entry.kin.parent = Pid(1);
            }
        }
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut self.0.borrow_mut().asked)
    }
}

impl ProcessTable for Shared {
    fn list(&self) -> Vec<Pid> {
        let table = self.0.borrow();
        let processes = table.entries.iter().filter(|(_, entry)| !entry.is_thread);
        processes.map(|(&pid, _)| Pid(pid)).collect()
    }

    fn last_created(&self) -> Option<Pid> {
        self.0.borrow().last
    }

    fn kin(&self, pid: Pid) -> Option<Kin> {
        let mut table = self.0.borrow_mut();
        table.asked += 1;
        table.entries.get(&pid.0).map(|entry| entry.kin)
    }

    fn is_process(&self, pid: Pid) -> bool {
        let table = self.0.borrow();
        table
            .entries
            .get(&pid.0)
            .is_some_and(|entry| !entry.is_thread)
    }

    fn names(&self, pid: Pid) -> (String, String) {
        let table = self.0.borrow();
        let entry = table.entries.get(&pid.0);
        entry.map_or_else(Default::default, |entry| {
            (entry.name.clone(), entry.command_line.clone())
        })
    }

    fn is_in(&self, pid: Pid, path: &Path) -> bool {
        let table = self.0.borrow();
        let entry = table.entries.get(&pid.0);
        entry.is_some_and(|entry| entry.cgroup.starts_with(path))
    }

    fn members(&self, cgroup: &Cgroup) -> Option<Members> {
        let Cgroup::Folders(folders) = cgroup else {
            return None;
        };
        let pids = self.list().into_iter();
        Some(Members {
            pids: pids
                .filter(|&pid| folders.iter().any(|folder| self.is_in(pid, folder)))
                .collect(),
            folders: folders.len(),
        })
    }

    fn own(&self) -> Pid {
        OWN
    }
}

fn finder(table: &Shared, selection: Selection) -> Finder<Shared> {
    Finder::within(table.clone(), selection)
}

fn command() -> (Shared, Finder<Shared>) {
    let table = Shared::new();
    table.start(60, OWN.0);
    let selection = Selection::command(Pid(60)).with_subprocesses(true);
    let mut finder = finder(&table, selection);
    assert_eq!(pids(&finder.begin(0)), [60]);
    (table, finder)
}

fn matching(table: &Shared, pattern: &str) -> Finder<Shared> {
    let pattern = Pattern::new(pattern).expect("a regular expression");
    finder(table, Selection::matching(pattern))
}

fn pids(found: &[Found]) -> Vec<i32> {
    found.iter().map(|found| found.pid.0).collect()
}

fn baselines(found: &[Found]) -> Vec<Baseline> {
    found.iter().map(|found| found.baseline).collect()
}

#[test]
fn children_are_found_at_the_next_tick_parents_first() {
    let (table, mut finder) = command();
    assert!(finder.find(1).is_empty());
    table.start(61, 60);
    table.start(62, SHELL.0);
    table.start(63, 61);
    let found = finder.find(2);
    assert_eq!(pids(&found), [61, 63]);
    assert_eq!(baselines(&found), [Baseline::Zero; 2]);
    assert!(finder.find(3).is_empty());
    assert!(finder.find(LATER_NS).is_empty());
}

#[test]
fn those_that_are_there_at_the_beginning_are_found_whatever_their_order() {
    let table = Shared::new();
    // Numbers have started again from below.
    table.start(90, SHELL.0);
    table.start(80, 90);
    table.start(85, 80);
    let selection = Selection::processes(&[Pid(90)]);
    assert_eq!(pids(&finder(&table, selection.clone()).begin(0)), [90]);
    let mut finder = finder(&table, selection.with_subprocesses(true));
    let found = finder.begin(0);
    assert_eq!(pids(&found), [90, 80, 85]);
    assert_eq!(baselines(&found), [Baseline::Now; 3]);
}

#[test]
fn children_that_a_command_has_at_the_beginning_are_found_at_the_first_tick() {
    let table = Shared::new();
    table.start(60, OWN.0);
    table.start(61, 60);
    let selection = Selection::command(Pid(60)).with_subprocesses(true);
    let mut finder = finder(&table, selection);
    assert_eq!(pids(&finder.begin(0)), [60]);
    let found = finder.find(1);
    assert_eq!(
        (pids(&found), baselines(&found)),
        (vec![61], vec![Baseline::Zero])
    );
}

#[test]
fn without_children_nobody_is_asked() {
    let table = Shared::new();
    table.start(60, SHELL.0);
    let mut finder = finder(&table, Selection::processes(&[Pid(60)]));
    finder.begin(0);
    table.asked();
    table.start(61, 60);
    assert!(finder.find(LATER_NS).is_empty());
    assert_eq!(table.asked(), 0);
}

#[test]
fn only_new_numbers_are_asked() {
    let (table, mut finder) = command();
    finder.find(LATER_NS);
    table.asked();
    for tick in 1..20 {
        finder.find(LATER_NS + tick);
    }
    assert_eq!(table.asked(), 0);
    table.start(70, SHELL.0);
    finder.find(LATER_NS + 20);
    // 61 to 69 were given to nobody, or to somebody who is not there yet; 70 is asked once, and its parent.
    assert_eq!(table.asked(), 11);
    for tick in 21..60 {
        finder.find(LATER_NS + tick);
    }
    assert_eq!(table.asked(), 9 * (usize::from(LOOKS_AT_NOBODY) - 1));
}

#[test]
fn a_fork_under_way_is_found_when_it_is_done() {
    let (table, mut finder) = command();
    table.0.borrow_mut().last = Some(Pid(61));
    assert!(finder.find(1).is_empty());
    table.start(61, 60);
    assert_eq!(pids(&finder.find(2)), [61]);
}

#[test]
fn orphans_are_known_by_their_session_or_group() {
    let (table, mut finder) = command();
    // Its parent is gone before anyone has looked.
    table.start(61, 60);
    table.start(62, 61);
    table.end(61);
    assert_eq!(pids(&finder.find(1)), [62]);
    // A daemon: leads a session, and its children are in it when it has gone.
    table.start_in(Pid(63), Pid(60), Pid(63), "daemon");
    assert_eq!(pids(&finder.find(2)), [63]);
    table.start_in(Pid(64), Pid(63), Pid(63), "worker");
    table.end(63);
    finder.ended(Pid(63));
    assert_eq!(pids(&finder.find(3)), [64]);
    // Beside us in a pipeline: of the same session as its parent.
    table.start(65, SHELL.0);
    // Somebody else's orphan, in another group.
    table.start(66, 1);
    table.change(66, |entry| entry.kin.group = Pid(30));
    assert!(finder.find(4).is_empty());
}

#[test]
fn threads_are_no_processes() {
    let (table, mut finder) = command();
    table.start(61, 60);
    table.change(61, |entry| entry.is_thread = true);
    assert!(finder.find(1).is_empty());
}

#[test]
fn numbers_may_start_again_from_below_and_be_given_twice() {
    let (table, mut finder) = command();
    table.start(300, 60);
    assert_eq!(pids(&finder.find(1)), [300]);
    table.end(300);
    finder.ended(Pid(300));
    table.start(55, 60);
    assert_eq!(pids(&finder.find(2)), [55]);
    // Another child of ours, and then a stranger with children of its own.
    table.start(300, 60);
    assert_eq!(pids(&finder.find(3)), [300]);
    table.end(300);
    finder.ended(Pid(300));
    table.start(70, SHELL.0);
    assert!(finder.find(4).is_empty());
    table.start(299, SHELL.0);
    table.start(300, SHELL.0);
    table.start(301, 300);
    assert!(finder.find(LATER_NS).is_empty());
}

#[test]
fn where_the_last_number_is_not_told_the_listing_finds_them() {
    let (table, mut finder) = command();
    table.start(61, 60);
    table.0.borrow_mut().last = None;
    assert!(finder.find(1).is_empty());
    assert_eq!(pids(&finder.find(LATER_NS)), [61]);
}

#[test]
fn a_pattern_finds_who_is_there_and_who_comes() {
    let table = Shared::new();
    table.start(60, SHELL.0);
    table.change(60, |entry| entry.name = "server".into());
    let mut finder = matching(&table, "^server$|--serve");
    let found = finder.begin(0);
    assert_eq!(
        (pids(&found), baselines(&found)),
        (vec![60], vec![Baseline::Now])
    );
    // Gets its name some time after its process.
    table.start(61, SHELL.0);
    assert!(finder.find(1).is_empty());
    table.change(61, |entry| entry.command_line = "app --serve".into());
    let found = finder.find(2);
    assert_eq!(
        (pids(&found), baselines(&found)),
        (vec![61], vec![Baseline::Zero])
    );
    // Changes it when it is no longer new.
    table.start(62, SHELL.0);
    for tick in 3..30 {
        assert!(finder.find(tick).is_empty());
    }
    table.change(62, |entry| entry.name = "server".into());
    let found = finder.find(LATER_NS);
    assert_eq!(
        (pids(&found), baselines(&found)),
        (vec![62], vec![Baseline::Now])
    );
    // There is always somebody who may come.
    for pid in [60, 61, 62] {
        table.end(pid);
        finder.ended(Pid(pid));
    }
    assert!(!finder.is_over());
}

#[test]
fn a_pattern_never_means_us_or_those_that_started_us() {
    let table = Shared::new();
    table.start(60, SHELL.0);
    assert_eq!(pids(&matching(&table, ".").begin(0)), [60]);
}

#[test]
fn children_of_those_that_match_are_found_on_demand() {
    let table = Shared::new();
    table.start(60, SHELL.0);
    table.start(61, 60);
    let mut finder = matching(&table, "^server$");
    finder.selection.subprocesses = true;
    assert!(finder.begin(0).is_empty());
    table.change(60, |entry| entry.name = "server".into());
    let found = [finder.find(LATER_NS), finder.find(2 * LATER_NS)].concat();
    assert_eq!(pids(&found), [60, 61]);
}

#[test]
fn a_control_group_is_read_from_its_folders_or_asked_for() {
    for cgroup in [
        Cgroup::Path("/a".into()),
        Cgroup::Folders(vec!["/a".into(), "/b".into()]),
    ] {
        let table = Shared::new();
        for (pid, group) in [(60, "/a"), (61, "/a/below"), (62, "/ab")] {
            table.start(pid, SHELL.0);
            table.change(pid, |entry| entry.cgroup = group.into());
        }
        table.change(OWN.0, |entry| entry.cgroup = "/a".into());
        let mut finder = finder(&table, Selection::cgroup(cgroup));
        assert_eq!(pids(&finder.begin(0)), [60, 61]);
        table.start(63, 60);
        table.change(63, |entry| entry.cgroup = "/a".into());
        table.change(62, |entry| entry.cgroup = "/a".into());
        let mut found = pids(&finder.find(LATER_NS));
        found.sort_unstable();
        assert_eq!(found, [62, 63]);
        assert!(finder.find(2 * LATER_NS).is_empty());
        assert!(!finder.is_over());
    }
}

#[test]
fn it_is_over_when_those_asked_for_have_ended() {
    let (table, mut finder) = command();
    table.start(61, 60);
    finder.find(1);
    assert!(!finder.is_over());
    finder.ended(Pid(60));
    assert!(finder.is_over());
}

proptest! {
    /// Whatever is started and ends, in whatever order: all that descend from the command, and were there at a tick,
    /// are found at that tick, each once, and nobody else.
    #[test]
    fn all_descendants_are_found_and_no_others(
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8), 1..80)
    ) {
        let (table, mut finder) = command();
        let mut next = 61;
        // Those that live, and whether they descend from the command.
        let mut living = vec![(60, true), (SHELL.0, false)];
        let mut expected = Vec::new();
        for (now_ns, (who, what)) in (1..).zip(steps) {
            let (pid, is_ours) = living[who.index(living.len())];
            match what {
                0 if pid > 60 => {
                    table.end(pid);
                    finder.ended(Pid(pid));
                    living.retain(|&(own, _)| own != pid);
                }
                // Leaves some numbers to threads.
                1 => next += 3,
                _ => {
                    table.start(next, pid);
                    if is_ours {
                        expected.push(next);
                    }
                    living.push((next, is_ours));
                    next += 1;
                }
            }
            let found = pids(&finder.find(now_ns));
            prop_assert_eq!(&found, &expected);
            expected.clear();
        }
    }
}
