//! A profile made by hand: what the exports are tested with.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::profile::{
    End, FrameKind, Missed, Moment, Overhead, PauseNs, ResolvedFrame, ResolvedProfile,
    ResolvedThread, StackId, StackWeights, Summary, ThreadState, WeightedStack, Weights,
};

/// What an export writes, as text.
#[track_caller]
pub(super) fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("memory can be written");
    String::from_utf8(out).expect("text")
}

fn native(function: &str, module: &str) -> ResolvedFrame {
    ResolvedFrame {
        function: function.into(),
        module: Some(module.into()),
        file: Some(format!("/src/{module}.c")),
        line: Some(7),
        line_precision: None,
        inlined: false,
        kind: FrameKind::Native,
        language: None,
    }
}

fn other(function: &str, kind: FrameKind) -> ResolvedFrame {
    ResolvedFrame {
        function: function.into(),
        module: None,
        file: None,
        line: None,
        line_precision: None,
        inlined: false,
        kind,
        language: None,
    }
}

const LONG: &str = "std::_Rb_tree<std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >, \
    std::pair<std::__cxx11::basic_string<char> const, int> >::_M_insert_unique(std::pair<int, int>&&)";

fn frames() -> Vec<ResolvedFrame> {
    vec![
        native("_start", "server"),      // 0
        native("main", "server"),        // 1
        native("main::serve", "server"), // 2
        native(LONG, "libstore.so.2"),   // 3
        ResolvedFrame {
            inlined: true,
            ..native("fill<[u8; 8]>", "libstore.so.2")
        }, // 4
        native("start_thread", "libc.so.6"), // 5
        native("worker 3", "server"),    // 6
        native("pthread_cond_wait", "libc.so.6"), // 7
        other("[futex]", FrameKind::Blocked), // 8
        other("[syscall: write]", FrameKind::Kernel), // 9
        other("[no stack]", FrameKind::Note), // 10
        other("[unknown in libx.so+0x1a2b]", FrameKind::Native), // 11
        native("evil\x1b[31m<&>\n\"name\"", "a]]>b"), // 12
        other("[cut]", FrameKind::Note), // 13
        other("[incomplete]", FrameKind::Note), // 14
    ]
}

fn thread(pid: i32, process: &str, tid: i32, name: &str) -> ResolvedThread {
    ResolvedThread {
        process_index: pid.unsigned_abs(),
        pid,
        parent: Some(1),
        process: process.into(),
        command: process.split(' ').next().unwrap_or_default().into(),
        tid,
        name: name.into(),
    }
}

const MS: u64 = 1_000_000;

/// A thread's stack with milliseconds on a CPU, milliseconds asleep, and samples.
fn stack(
    thread: u32,
    frames: &[u32],
    end: End,
    cpu: u64,
    asleep: u64,
    samples: u64,
) -> WeightedStack {
    WeightedStack {
        recorded: StackId(0),
        frames: frames.to_vec(),
        thread,
        end,
        holds_lock: false,
        weights: StackWeights {
            cpu_ns: cpu * MS,
            wall_ns: (cpu + asleep) * MS,
            off_cpu_ns: asleep * MS,
            run_queue_ns: 0,
            samples,
        },
    }
}

/// A server with two threads: hot code with a long name, an inlined function, a sleeper, stacks cut in both ways, one
/// that is missing, and names that try to do harm.
pub(super) fn profile() -> ResolvedProfile {
    use End::{Complete, Partial, Truncated};
    ResolvedProfile {
        frames: frames(),
        stacks: vec![
            stack(0, &[0, 1, 2, 3], Complete, 1_234, 0, 123),
            stack(0, &[0, 1, 2, 3, 4], Complete, 610, 0, 61),
            stack(0, &[0, 1], Complete, 90, 0, 9),
            stack(0, &[0, 1, 2, 9], Complete, 55, 0, 6),
            stack(1, &[5, 6, 7, 8], Complete, 0, 2_900, 290),
            stack(1, &[5, 6], Complete, 40, 0, 4),
            stack(1, &[13, 2, 3], Truncated, 30, 0, 3),
            stack(1, &[14, 11, 8], Partial, 0, 60, 6),
            stack(1, &[14, 12], Partial, 20, 0, 2),
            stack(1, &[10], Partial, 1, 9, 1),
        ],
        threads: vec![
            thread(4711, "./server --port 80", 4711, "server"),
            thread(4711, "./server --port 80", 4712, "worker; 1"),
        ],
        timeline: None,
        summary: summary(),
        notes: vec!["no symbols for libx.so: it is stripped".into()],
        ..ResolvedProfile::default()
    }
}

pub(super) fn summary() -> Summary {
    Summary {
        samples: 505,
        stops: 209,
        unstopped_reads: 20,
        reused: 277,
        torn: 2,
        partial: 9,
        truncated: 3,
        interpreted: 0,
        interpreted_lost: BTreeMap::new(),
        missed: [(Missed::Late, 4), (Missed::ThreadEnded, 1)].into(),
        processes: 1,
        left_out: BTreeMap::new(),
        jit_left_out: 0,
        cpu_ns: 2_080 * MS,
        wall_ns: 3_000 * MS,
        target_stopped_ns: 209 * 45_000,
        pause_ns: PauseNs {
            p50: 44_100,
            p99: 97_000,
            max: 1_200_000,
        },
        sampler_cpu_ns: 29 * MS,
        sampler_peak_rss_bytes: 12_900_000,
        rate_hz_requested: 99.0,
        rate_hz_achieved: 97.6,
        complete_ratio: 0.976,
        repaired_syscalls: 1,
        overhead: Overhead {
            promised: Some(0.02),
            pause_max_ns: MS,
            thread_stopped: 0.004_4,
            sampler_cpu: 0.012,
        },
        fallbacks: BTreeSet::new(),
    }
}

/// A look at a stack: 0 running, 1 asleep, 2 stopped, else unseen.
pub(super) fn moment(stack: u32, at_ns: u64, state: u8, ticks: u32) -> Moment {
    Moment {
        stack,
        at_ns,
        state: match state {
            0 => ThreadState::Running,
            1 => ThreadState::Blocked,
            2 => ThreadState::Stopped,
            _ => ThreadState::Unseen,
        },
        ticks,
        weights: Weights {
            cpu_ns: if state == 0 { 5 } else { 0 },
            wall_ns: 10,
            run_queue_ns: 0,
        },
    }
}

/// The same, with looks: the first thread runs, the second sleeps on its lock and then runs.
pub(super) fn in_time() -> ResolvedProfile {
    let look = |stack, at_ns, state, ticks, cpu_ns, wall_ns| Moment {
        weights: Weights {
            cpu_ns,
            wall_ns,
            run_queue_ns: 0,
        },
        ..moment(stack, at_ns, state, ticks)
    };
    let mut profile = profile();
    profile.moments = vec![
        look(0, 10, 0, 1, 10, 10),
        look(4, 90, 1, 9, 0, 90),
        look(1, 20, 0, 1, 10, 10),
        look(5, 100, 0, 1, 5, 10),
        look(1, 30, 0, 1, 5, 10),
        look(9, 101, 3, 0, 1, 0),
    ];
    profile
}

/// The same with its second thread in a process of its own.
pub(super) fn two_processes() -> ResolvedProfile {
    let mut profile = profile();
    profile.threads[1].pid = 815;
    profile.threads[1].process_index = 815;
    profile.threads[1].command = "worker".into();
    profile.threads[1].process =
        "worker of \x1b[31m a very long command line that nobody wants to read to its end".into();
    profile
}

/// The same with a third process, of the same program as the second.
pub(super) fn two_of_one_program() -> ResolvedProfile {
    let mut profile = two_processes();
    let third = ResolvedThread {
        process_index: 816,
        pid: 816,
        process: "worker of little".into(),
        ..profile.threads[1].clone()
    };
    profile.threads.push(third);
    profile
        .stacks
        .push(stack(2, &[5, 6], End::Complete, 20, 0, 2));
    profile
}

/// One stack of `depth` frames.
pub(super) fn deep(depth: usize) -> ResolvedProfile {
    let mut frames = vec![0];
    frames.resize(depth, 1);
    ResolvedProfile {
        frames: vec![native("main", "app"), native("fall", "app")],
        stacks: vec![stack(0, &frames, End::Complete, 10, 0, 1)],
        threads: vec![thread(1, "app", 1, "app")],
        ..ResolvedProfile::default()
    }
}
