//! Any calls of a sink.

use proptest::prelude::*;
use sampler_unwind::interpreter::{Function, FunctionKind, Language, LinePrecision};
use sampler_unwind::{BuildId, FrameOrigin};

use super::support::Call;
use crate::profile::{
    Birth, End, FrameKey, FramesLost, FunctionId, JitCode, JitLine, JitSource, LeftOut, Missed,
    ModuleId, ModuleInfo, Observation, ProcessId, ProcessInfo, StackId, Summary, ThreadId,
    ThreadState, WaitId, WaitInfo, Weights,
};

fn texts() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..6).prop_map(|chars| chars.into_iter().collect())
}

fn origins() -> impl Strategy<Value = FrameOrigin> {
    prop_oneof![
        Just(FrameOrigin::Registers),
        Just(FrameOrigin::SignalFrame),
        Just(FrameOrigin::CallFrameInfo),
        Just(FrameOrigin::DebugFrame),
        Just(FrameOrigin::KnownCode),
        Just(FrameOrigin::Prologue),
        Just(FrameOrigin::FramePointer),
        Just(FrameOrigin::InferredRegister),
        Just(FrameOrigin::Scan),
        Just(FrameOrigin::Interpreter),
        Just(FrameOrigin::GoTable),
    ]
}

fn precisions() -> impl Strategy<Value = LinePrecision> {
    prop_oneof![
        Just(LinePrecision::Exact),
        Just(LinePrecision::Block),
        Just(LinePrecision::Function),
    ]
}

fn kinds() -> impl Strategy<Value = FunctionKind> {
    prop_oneof![
        Just(FunctionKind::Interpreted),
        Just(FunctionKind::Compiled),
        Just(FunctionKind::Inlined),
        Just(FunctionKind::Builtin),
        Just(FunctionKind::Pseudo),
    ]
}

fn frames() -> impl Strategy<Value = FrameKey> {
    prop_oneof![
        4 => (any::<Option<u8>>(), any::<u64>(), any::<bool>(), origins()).prop_map(
            |(module, address, is_return_address, origin)| FrameKey::Code {
                module: module.map(|module| ModuleId(module.into())),
                address,
                is_return_address,
                origin,
            }
        ),
        2 => (any::<u8>(), any::<u32>(), precisions(), kinds()).prop_map(
            |(function, line, precision, kind)| FrameKey::Interpreted {
                function: FunctionId(function.into()),
                line,
                precision,
                kind,
            }
        ),
        1 => any::<u32>().prop_map(FrameKey::Syscall),
        1 => any::<u32>().prop_map(FrameKey::Blocked),
        1 => any::<u32>().prop_map(|wait| FrameKey::BlockedOn(WaitId(wait))),
        1 => Just(FrameKey::BlockedInFault),
        1 => Just(FrameKey::Stopped),
        1 => Just(FrameKey::Ended),
        1 => Just(FrameKey::HoldsLock),
        1 => Just(FrameKey::NotStopped),
        1 => Just(FrameKey::Asleep),
        1 => Just(FrameKey::NoStack),
        1 => Just(FrameKey::UnseenCpu),
        1 => Just(FrameKey::ChildrenEnded),
    ]
}

fn ns() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..1000u64, 9_000_000..11_000_000u64, any::<u64>()]
}

fn observations() -> impl Strategy<Value = Observation> {
    let state = prop_oneof![
        Just(ThreadState::Running),
        Just(ThreadState::Blocked),
        Just(ThreadState::Stopped),
        Just(ThreadState::Unseen),
    ];
    let ticks = prop_oneof![Just(1), any::<u32>()];
    ((0..4u32, ns(), state, 0..4u32, ticks), (ns(), ns(), ns())).prop_map(
        |((thread, at_ns, state, stack, ticks), (cpu_ns, wall_ns, run_queue_ns))| Observation {
            thread: ThreadId(thread),
            at_ns,
            state,
            stack: StackId(stack),
            ticks,
            weights: Weights {
                cpu_ns,
                wall_ns,
                run_queue_ns,
            },
        },
    )
}

fn summaries() -> impl Strategy<Value = Summary> {
    let missed = prop::collection::btree_map(
        prop_oneof![Just(Missed::Late), Just(Missed::Traced), Just(Missed::Torn)],
        1..u64::MAX,
        0..3,
    );
    let left_out = prop::collection::btree_map(
        prop_oneof![Just(LeftOut::Ended), Just(LeftOut::TooMany)],
        1..u64::MAX,
        0..2,
    );
    let lost = prop::collection::btree_map(
        prop_oneof![Just(FramesLost::NotFound), Just(FramesLost::Unsupported)],
        1..u64::MAX,
        0..2,
    );
    (ns(), ns(), missed, left_out, lost, -1e9..1e9f64).prop_map(
        |(samples, cpu_ns, missed, left_out, interpreted_lost, complete_ratio)| Summary {
            interpreted: samples / 3,
            interpreted_lost,
            samples,
            cpu_ns,
            missed,
            processes: samples / 2,
            left_out,
            complete_ratio,
            ..Summary::default()
        },
    )
}

fn births() -> impl Strategy<Value = Option<Birth>> {
    let birth = any::<(i32, u64)>().prop_map(|(parent, started_ticks)| Birth {
        parent,
        started_ticks,
    });
    prop::option::of(birth)
}

fn jit_codes() -> impl Strategy<Value = JitCode> {
    let lines = prop::collection::vec((0..1000u64, any::<u32>(), any::<u32>()), 0..4);
    let files = prop::collection::vec(texts(), 0..3);
    (any::<(u32, u64, u64, u64, bool)>(), texts(), files, lines).prop_map(
        |((process, start, size, from_ns, is_dump), name, files, lines)| {
            let mut lines: Vec<JitLine> = lines
                .into_iter()
                .map(|(offset, file, line)| JitLine { offset, file, line })
                .collect();
            lines.sort_by_key(|line| line.offset);
            JitCode {
                process: ProcessId(process),
                start,
                size,
                from_ns,
                source: if is_dump {
                    JitSource::JitDump
                } else {
                    JitSource::PerfMap
                },
                name,
                files,
                lines,
            }
        },
    )
}

/// Any call of a sink.
pub(super) fn calls() -> impl Strategy<Value = Call> {
    let ends = prop_oneof![
        Just(End::Complete),
        Just(End::Truncated),
        Just(End::Partial)
    ];
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    prop_oneof![
        2 => (any::<i32>(), births(), texts(), texts()).prop_map(|(pid, birth, command_line, executable)| {
            Call::Process(ProcessInfo { pid, birth, command_line, executable })
        }),
        2 => (any::<u32>(), any::<i32>(), texts())
            .prop_map(|(process, tid, name)| Call::Thread(process, tid, name)),
        2 => (texts(), bytes(), bytes()).prop_map(|(path, build_id, image)| {
            Call::Module(ModuleInfo { path, build_id: build_id.map(BuildId), image })
        }),
        1 => (any::<bool>(), texts(), texts(), any::<u32>()).prop_map(|(is_lua, name, file, first_line)| {
            let language = if is_lua { Language::Lua } else { Language::Python };
            Call::Function(Function { language, name, file, first_line })
        }),
        1 => (any::<u32>(), texts()).prop_map(|(syscall, what)| Call::Wait(WaitInfo { syscall, what })),
        1 => any::<(u32, u32, u64, u64, u64)>().prop_map(|(process, module, start, end, bias)| {
            Call::Mapping(process, module, start, end, bias)
        }),
        1 => jit_codes().prop_map(Call::Jit),
        4 => (prop::collection::vec(frames(), 0..6), ends)
            .prop_map(|(frames, end)| Call::Stack(frames, end)),
        12 => observations().prop_map(Call::Observation),
        1 => summaries().prop_map(Call::Flush),
    ]
}
