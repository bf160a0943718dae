//! Tests of [`super::select`].

use sampler_unwind::interpreter::Languages;

use super::*;
use crate::profile::{Moment, ResolvedThread};

fn frame(function: &str, module: Option<&str>, kind: FrameKind) -> ResolvedFrame {
    ResolvedFrame {
        function: function.into(),
        module: module.map(str::to_owned),
        file: None,
        line: None,
        line_precision: None,
        inlined: false,
        kind,
        language: None,
    }
}

fn thread(process_index: u32, pid: i32, process: &str, tid: i32, name: &str) -> ResolvedThread {
    ResolvedThread {
        process_index,
        pid,
        parent: None,
        process: process.into(),
        command: name.into(),
        tid,
        name: name.into(),
    }
}

/// A thread that recurses and burns, a writer that burns, reads a file and waits for a lock, and another process.
pub(in super::super) fn profile() -> ResolvedProfile {
    let native = FrameKind::Native;
    let mut frames = vec![
        frame("main", Some("app"), native),                        // 0
        frame("walk", Some("app"), native),                        // 1
        frame("burn", Some("app"), native),                        // 2
        frame("start_thread", Some("libc.so.6"), native),          // 3
        frame("[read file /var/lib/x]", None, FrameKind::Blocked), // 4
        frame("[futex]", None, FrameKind::Blocked),                // 5
        frame("[syscall: write]", None, FrameKind::Kernel),        // 6
    ];
    frames[4].file = Some("/var/lib/x".into());
    let stack = |thread, frames: &[u32], cpu_ns, off_cpu_ns, samples| WeightedStack {
        recorded: crate::profile::StackId(0),
        frames: frames.to_vec(),
        thread,
        end: End::Complete,
        holds_lock: false,
        weights: StackWeights {
            cpu_ns,
            off_cpu_ns,
            wall_ns: cpu_ns + off_cpu_ns + 5,
            run_queue_ns: 5,
            samples,
        },
    };
    ResolvedProfile {
        frames,
        stacks: vec![
            stack(0, &[0, 1, 1, 2], 60, 0, 6),
            stack(1, &[3], 30, 0, 3),
            stack(1, &[3, 4], 0, 300, 30),
            stack(1, &[3, 5], 0, 40, 4),
            stack(2, &[0, 6], 10, 0, 1),
        ],
        threads: vec![
            thread(0, 7, "app -x", 7, "main"),
            thread(0, 7, "app -x", 8, "writer"),
            thread(1, 9, "gzip", 9, "gzip"),
        ],
        moments: [
            (0, ThreadState::Running),
            (2, ThreadState::Blocked),
            (4, ThreadState::Running),
        ]
        .map(|(stack, state)| Moment {
            stack,
            at_ns: 10,
            state,
            ticks: 1,
            weights: Weights::default(),
        })
        .into(),
        ..ResolvedProfile::default()
    }
}

fn everything() -> Selection {
    Selection {
        thread: None,
        pids: Vec::new(),
        function: None,
        module: None,
        states: None,
        focus: None,
        collapse_recursion: false,
        frames: FrameFilter {
            languages: Languages::ALL,
            native: true,
            only_lock_holders: false,
        },
    }
}

fn pattern(text: &str) -> Option<NamePattern> {
    Some(NamePattern::new(text).expect("a pattern"))
}

/// The stacks that are left, with their CPU and off-CPU time.
#[track_caller]
fn selected(selection: &Selection) -> Vec<(String, u64, u64)> {
    let mut profile = profile();
    select(&mut profile, selection).expect("something is left");
    assert!(
        profile
            .moments
            .iter()
            .all(|moment| (moment.stack as usize) < profile.stacks.len()),
        "moments keep their stacks"
    );
    let name = |frame: &u32| profile.frames[*frame as usize].function.clone();
    let stacks = profile.stacks.iter();
    stacks
        .map(|stack| {
            let names: Vec<_> = stack.frames.iter().map(name).collect();
            (
                names.join(";"),
                stack.weights.cpu_ns,
                stack.weights.off_cpu_ns,
            )
        })
        .collect()
}

#[test]
fn without_a_filter_nothing_changes_and_no_share_is_told() {
    let mut all = profile();
    select(&mut all, &everything()).expect("something is left");
    assert_eq!(all, profile());
}

#[test]
fn threads_and_processes_are_chosen_and_the_whole_is_remembered() {
    let mut writer = profile();
    let selection = Selection {
        thread: pattern("^wri"),
        ..everything()
    };
    select(&mut writer, &selection).expect("something is left");
    assert_eq!((writer.threads.len(), writer.stacks.len()), (1, 3));
    assert!(writer.stacks.iter().all(|stack| stack.thread == 0));
    assert_eq!(
        (
            writer.total().cpu_ns,
            writer.whole.map(|whole| whole.cpu_ns)
        ),
        (30, Some(100))
    );
    assert_eq!(writer.moments.len(), 1);
    let by_number = Selection {
        thread: pattern("9"),
        ..everything()
    };
    assert_eq!(
        selected(&by_number),
        [("main;[syscall: write]".into(), 10, 0)]
    );
    let by_process = Selection {
        pids: vec![9],
        ..everything()
    };
    assert_eq!(selected(&by_process), selected(&by_number));
}

#[test]
fn states_share_the_time_out() {
    let states = |running, sleeping, runnable| Selection {
        states: Some(States {
            running,
            sleeping,
            runnable,
        }),
        ..everything()
    };
    let sum = |selection: &Selection| {
        let mut profile = profile();
        select(&mut profile, selection).expect("something is left");
        let StackWeights {
            cpu_ns,
            wall_ns,
            off_cpu_ns,
            run_queue_ns,
            samples,
        } = profile.total();
        (
            cpu_ns,
            wall_ns,
            off_cpu_ns,
            run_queue_ns,
            samples,
            profile.moments.len(),
        )
    };
    assert_eq!(sum(&states(true, false, false)), (100, 100, 0, 0, 10, 2));
    assert_eq!(sum(&states(false, true, false)), (0, 340, 340, 0, 34, 1));
    assert_eq!(sum(&states(false, false, true)), (0, 25, 0, 25, 0, 0));
    assert_eq!(sum(&states(true, true, true)), (100, 465, 340, 25, 44, 3));
}

#[test]
fn functions_and_modules_choose_stacks() {
    let by = |function: Option<NamePattern>, module: Option<NamePattern>| {
        let selection = Selection {
            function,
            module,
            ..everything()
        };
        selected(&selection).len()
    };
    assert_eq!(by(pattern("^walk$"), None), 1);
    assert_eq!(by(None, pattern("^libc")), 3);
    assert_eq!(by(pattern("main"), pattern("app")), 2);
}

#[test]
fn callers_and_callees_of_a_function() {
    let with = |focus, collapse_recursion| {
        let selection = Selection {
            focus: Some(focus),
            collapse_recursion,
            ..everything()
        };
        selected(&selection)
    };
    let name = |text: &str| NamePattern::new(text).expect("a pattern");
    let callers = || Focus::CallersOf(name("walk"));
    let callees = || Focus::CalleesOf(name("walk"));
    assert_eq!(with(callers(), false), [("main;walk;walk".into(), 60, 0)]);
    assert_eq!(with(callers(), true), [("main;walk".into(), 60, 0)]);
    assert_eq!(with(callees(), false), [("walk;walk;burn".into(), 60, 0)]);
    // A whole name goes before what it is found in.
    let main = with(Focus::CalleesOf(name("main")), false);
    assert_eq!(main.len(), 2);
    assert_eq!(with(Focus::CalleesOf(name("^bu")), false)[0].0, "burn");
}

#[test]
fn what_leaves_nothing_is_named() {
    let refused = |selection: Selection| {
        let error = select(&mut profile(), &selection).expect_err("nothing is left");
        error.to_string()
    };
    let words = refused(Selection {
        thread: pattern("nobody"),
        ..everything()
    });
    assert_eq!(
        words,
        "--thread leaves none of 5 stacks; there are main, writer, gzip"
    );
    let words = refused(Selection {
        pids: vec![4],
        ..everything()
    });
    assert_eq!(words, "--pid leaves none of 5 stacks; there are 7, 9");
    let words = refused(Selection {
        function: pattern("^nothing$"),
        ..everything()
    });
    assert_eq!(words, "--function leaves none of 5 stacks");
}
