//! Tests of the builder.

use super::super::sample::{ThreadState, Weights};
use super::super::sink::Birth;
use super::*;

fn process() -> ProcessInfo {
    ProcessInfo {
        pid: 7,
        birth: None,
        command_line: "worker --fast".into(),
        executable: "/usr/bin/worker".into(),
    }
}

fn thread(process: ProcessId, tid: i32, name: &str) -> ThreadInfo {
    ThreadInfo {
        process,
        tid,
        name: name.into(),
    }
}

fn seen(thread: ThreadId, state: ThreadState, stack: StackId, cpu_ns: u64) -> Observation {
    Observation {
        thread,
        at_ns: 0,
        state,
        stack,
        ticks: 1,
        weights: Weights {
            cpu_ns,
            wall_ns: 10,
            run_queue_ns: 0,
        },
    }
}

#[test]
fn observations_of_one_stack_are_added_up_per_thread() -> Result<(), UnknownId> {
    let mut builder = ProfileBuilder::new();
    let process = builder.process(&process())?;
    let threads = [
        builder.thread(&thread(process, 7, "main"))?,
        builder.thread(&thread(process, 8, "io"))?,
    ];
    let stack = builder.stack(&[FrameKey::Syscall(1)], End::Complete)?;
    for thread in [threads[0], threads[1], threads[0]] {
        builder.observation(&seen(thread, ThreadState::Running, stack, 4))?;
    }
    let profile = builder.finish();
    let cpu: Vec<_> = profile
        .stacks
        .iter()
        .map(|stack| (stack.thread, stack.weights.cpu_ns, stack.weights.samples))
        .collect();
    assert_eq!(cpu, [(threads[0], 8, 2), (threads[1], 4, 1)]);
    Ok(())
}

#[test]
fn what_is_asked_for_meanwhile_is_all_there_was_and_changes_nothing() -> Result<(), UnknownId> {
    let mut builder = ProfileBuilder::new().with_timeline();
    let process = builder.process(&process())?;
    let main = builder.thread(&thread(process, 7, "main"))?;
    let stacks = [1, 2].map(|number| builder.stack(&[FrameKey::Syscall(number)], End::Complete));
    let [one, other] = [stacks[0]?, stacks[1]?];
    let sums = |profile: &Profile| -> Vec<_> {
        let stacks = profile.stacks.iter();
        stacks
            .map(|stack| (stack.stack, stack.weights.cpu_ns, stack.weights.samples))
            .collect()
    };
    // Its CPU time is nowhere, until it is seen to run.
    builder.observation(&seen(main, ThreadState::Blocked, one, 4))?;
    for _ in 0..2 {
        let so_far = sums(builder.so_far());
        let cpu: u64 = so_far.iter().map(|sum| sum.1).sum();
        assert_eq!((cpu, so_far.len()), (4, 2));
    }
    builder.observation(&seen(main, ThreadState::Running, other, 8))?;
    let so_far = builder.so_far();
    assert_eq!(
        so_far.timeline.as_ref().map(|timeline| timeline.parts()),
        Some(1)
    );
    let so_far = sums(so_far);
    assert_eq!(so_far, [(one, 0, 1), (other, 12, 1)]);
    assert_eq!(sums(&builder.finish()), so_far);
    Ok(())
}

#[test]
fn code_compiled_at_run_time_is_what_it_was_when_it_was_seen() -> Result<(), UnknownId> {
    use super::super::jit::JitSource;
    use sampler_unwind::FrameOrigin;
    let mut builder = ProfileBuilder::new();
    let process = builder.process(&process())?;
    let main = builder.thread(&thread(process, 7, "main"))?;
    let frame = FrameKey::Code {
        module: None,
        address: 0x1008,
        is_return_address: false,
        origin: FrameOrigin::Registers,
    };
    let stack = builder.stack(&[frame], End::Complete)?;
    for at_ns in [10, 20, 30, 60] {
        builder.observation(&Observation {
            at_ns,
            ..seen(main, ThreadState::Running, stack, at_ns)
        })?;
    }
    // Told after it was seen.
    for (from_ns, name) in [(15, "f"), (25, "g")] {
        builder.jit_code(&JitCode {
            process,
            start: 0x1000,
            size: 0x10,
            from_ns,
            source: JitSource::JitDump,
            name: name.into(),
            files: Vec::new(),
            lines: Vec::new(),
        })?;
    }
    builder.flush(&Summary::default())?;
    let profile = builder.finish();
    let mut named: Vec<_> = profile
        .stacks
        .iter()
        .map(|stack| {
            let (node, _) = profile.table.stacks()[stack.stack.index()];
            let frame = profile.table.nodes()[node.index()].frame;
            let name = match profile.table.frames()[frame.index()] {
                FrameKey::Jit { code, .. } => profile.jit.get(code).map(|code| &*code.name),
                _ => None,
            };
            (name, stack.weights.samples)
        })
        .collect();
    named.sort_unstable();
    assert_eq!(named, [(None, 1), (Some("f"), 1), (Some("g"), 2)]);
    Ok(())
}

#[test]
fn of_a_part_of_the_time_only_that_is_charged() -> Result<(), UnknownId> {
    let mut builder = ProfileBuilder::new().within(100..200).with_observations();
    let process = builder.process(&process())?;
    let main = builder.thread(&thread(process, 7, "main"))?;
    let busy = builder.stack(&[FrameKey::Syscall(1)], End::Complete)?;
    let asleep = builder.stack(&[FrameKey::Blocked(202)], End::Complete)?;
    // What was observed at that time, for how long, and how much of it on a CPU.
    for (at_ns, state, stack, ticks, wall_ns, cpu_ns) in [
        (90, ThreadState::Running, busy, 1, 90, 90),
        (120, ThreadState::Running, busy, 1, 30, 30),
        (240, ThreadState::Blocked, asleep, 12, 120, 0),
        (300, ThreadState::Running, busy, 1, 60, 60),
    ] {
        builder.observation(&Observation {
            at_ns,
            ticks,
            weights: Weights {
                cpu_ns,
                wall_ns,
                run_queue_ns: 0,
            },
            ..seen(main, state, stack, 0)
        })?;
    }
    let profile = builder.finish();
    let of = |weights: StackWeights| {
        let StackWeights {
            cpu_ns,
            wall_ns,
            off_cpu_ns,
            samples,
            ..
        } = weights;
        (cpu_ns, wall_ns, off_cpu_ns, samples)
    };
    let charged: Vec<_> = profile
        .stacks
        .iter()
        .map(|stack| of(stack.weights))
        .collect();
    assert_eq!(charged, [(20, 20, 0, 1), (0, 80, 80, 8)]);
    assert_eq!(profile.whole.map(of), Some((180, 300, 120, 15)));
    let moments: Vec<u64> = profile.observations.iter().map(|seen| seen.at_ns).collect();
    assert_eq!(moments, [120, 200]);
    Ok(())
}

#[test]
fn a_number_given_again_is_another_process() -> Result<(), UnknownId> {
    let mut builder = ProfileBuilder::new();
    let born = |started_ticks, command_line: &str| ProcessInfo {
        birth: Some(Birth {
            parent: 1,
            started_ticks,
        }),
        command_line: command_line.into(),
        ..process()
    };
    let first = builder.process(&born(100, "make"))?;
    let then = builder.process(&born(100, "cc1"))?;
    let other = builder.process(&born(200, "ld"))?;
    assert_eq!(first, then);
    assert_ne!(first, other);
    assert_eq!(builder.process(&born(200, "ld"))?, other);
    let threads = [
        builder.thread(&thread(first, 7, "cc1"))?,
        builder.thread(&thread(other, 7, "ld"))?,
    ];
    assert_ne!(threads[0], threads[1]);
    let lines = builder.finish().processes;
    assert_eq!(lines, [born(100, "cc1"), born(200, "ld")]);
    Ok(())
}

#[test]
fn a_renamed_thread_stays_one_thread() -> Result<(), UnknownId> {
    let mut builder = ProfileBuilder::new();
    let process = builder.process(&process())?;
    let before = builder.thread(&thread(process, 7, "main"))?;
    let after = builder.thread(&thread(process, 7, "serving"))?;
    assert_eq!(before, after);
    assert_eq!(builder.finish().threads, [thread(process, 7, "serving")]);
    Ok(())
}

#[test]
fn cpu_nobody_saw_gets_a_frame_that_says_so() -> Result<(), UnknownId> {
    let mut builder = ProfileBuilder::new();
    let process = builder.process(&process())?;
    let thread = builder.thread(&thread(process, 7, "main"))?;
    let asleep = builder.stack(&[FrameKey::Blocked(202)], End::Complete)?;
    builder.observation(&seen(thread, ThreadState::Blocked, asleep, 4))?;
    let profile = builder.finish();
    let [at_rest, unseen] = profile.stacks.as_slice() else {
        panic!("expected two stacks: {:?}", profile.stacks);
    };
    assert_eq!((at_rest.weights.cpu_ns, at_rest.weights.wall_ns), (0, 10));
    assert_eq!((unseen.weights.cpu_ns, unseen.weights.wall_ns), (4, 0));
    let (node, end) = profile.table.stacks()[unseen.stack.index()];
    let leaf = profile.table.nodes()[node.index()];
    assert_eq!(end, End::Complete);
    assert_eq!(
        profile.table.frames()[leaf.frame.index()],
        FrameKey::UnseenCpu
    );
    assert_eq!(leaf.caller, Some(profile.table.stacks()[asleep.index()].0));
    Ok(())
}

#[test]
fn ids_that_were_not_handed_out_are_refused() -> Result<(), UnknownId> {
    let mut builder = ProfileBuilder::new();
    let none = ThreadId(0);
    assert_eq!(
        builder.thread(&thread(ProcessId(3), 7, "main")),
        Err(UnknownId::Process(ProcessId(3)))
    );
    assert_eq!(
        builder.observation(&seen(none, ThreadState::Running, StackId(0), 1)),
        Err(UnknownId::Stack(StackId(0)))
    );
    let stack = builder.stack(&[], End::Partial)?;
    assert_eq!(
        builder.observation(&seen(none, ThreadState::Running, stack, 1)),
        Err(UnknownId::Thread(none))
    );
    Ok(())
}
