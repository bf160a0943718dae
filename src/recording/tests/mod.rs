//! Whole recordings: written, damaged, read back.

use std::error::Error;

use proptest::prelude::*;
use sampler_unwind::{BuildId, FrameOrigin};

use super::chunk::{ChunkKind, encode};
use super::*;
use crate::profile::{
    End, FrameKey, Missed, ModuleId, ModuleInfo, Observation, ProcessInfo, ProfileBuilder,
    SampleSink, StackId, Summary, ThreadId, ThreadInfo, ThreadState, UnknownId, WaitId, WaitInfo,
    Weights,
};

mod strategies;
mod support;

use strategies::calls;
use support::{Call, Event, Log, Teller};

type TestResult = Result<(), Box<dyn Error>>;

/// What a sink that is told `calls` directly keeps of them.
fn told(calls: &[Call]) -> Result<Vec<Event>, UnknownId> {
    let mut log = Log::default();
    let mut teller = Teller::new(&mut log);
    calls.iter().try_for_each(|call| teller.tell(call))?;
    Ok(log.events)
}

/// A finished recording of `calls`, and where its chunks end.
fn recorded(calls: &[Call], table_nodes_goal: usize) -> Result<(Vec<u8>, Vec<usize>), WriteError> {
    let mut writer = Writer::create(Vec::new(), &info())?;
    writer.set_table_nodes_goal(table_nodes_goal);
    let mut teller = Teller::new(&mut writer);
    calls.iter().try_for_each(|call| teller.tell(call))?;
    let bytes = writer.finish(&last_summary())?;
    let mut ends = vec![HEADER_BYTES];
    let mut position = HEADER_BYTES;
    while let Some(length) = bytes.get(position..position + 4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        position += 9 + length as usize;
        ends.push(position);
    }
    Ok((bytes, ends))
}

fn info() -> RecordingInfo {
    RecordingInfo {
        sampler_version: "0.1.0".into(),
        start_unix_ns: 1_700_000_000_000_000_000,
        rate_hz: 99.0,
        kernel_release: "6.18.0".into(),
        arch: "x86_64".into(),
        command: vec!["sleep".into(), "1".into()],
        pids: vec![4711, 1],
    }
}

fn last_summary() -> Summary {
    Summary {
        samples: 12,
        missed: [(Missed::Late, 2)].into(),
        rate_hz_achieved: 98.5,
        ..Summary::default()
    }
}

fn code(address: u64) -> FrameKey {
    FrameKey::Code {
        module: Some(ModuleId(0)),
        address,
        is_return_address: address % 2 == 1,
        origin: FrameOrigin::CallFrameInfo,
    }
}

fn seen(thread: u32, at_ns: u64, stack: u32, weights: Weights) -> Call {
    Call::Observation(Observation {
        thread: ThreadId(thread),
        at_ns,
        state: if weights.cpu_ns > 0 {
            ThreadState::Running
        } else {
            ThreadState::Blocked
        },
        stack: StackId(stack),
        ticks: 1,
        weights,
    })
}

/// A small recording with a bit of everything.
fn small() -> Vec<Call> {
    let mut calls = vec![
        Call::Process(ProcessInfo {
            birth: None,
            pid: 4711,
            command_line: "nginx: worker".into(),
            executable: "/usr/sbin/nginx".into(),
        }),
        Call::Thread(0, 4711, "nginx".into()),
        Call::Thread(0, 4712, "aio".into()),
        Call::Module(ModuleInfo {
            path: "/usr/sbin/nginx".into(),
            build_id: Some(BuildId(vec![1, 2, 3])),
            image: None,
        }),
        Call::Mapping(0, 0, 0x1000, 0x3000, 0u64.wrapping_sub(0x1000)),
        Call::Stack(vec![code(1), code(3)], End::Complete),
        Call::Stack(vec![code(1), code(5), FrameKey::Blocked(232)], End::Partial),
    ];
    for second in 0..3 {
        for tick in 0..5 {
            let at_ns = second * 1_000_000_000 + tick * 10_000_000;
            let weights = Weights {
                cpu_ns: tick * 1_000,
                wall_ns: 10_000_000,
                run_queue_ns: tick % 2,
            };
            let stack = u32::from(tick % 2 == 0);
            calls.push(seen(0, at_ns, stack, weights));
            calls.push(seen(1, at_ns + 40_000, 1, Weights::default()));
        }
        calls.push(Call::Flush(Summary {
            samples: second * 10,
            ..Summary::default()
        }));
    }
    calls
}

fn read_events(bytes: &[u8]) -> Result<(Vec<Event>, ReadOutcome), ReadError<UnknownId>> {
    let mut log = Log::default();
    let outcome = read(bytes, &mut log)?;
    Ok((log.events, outcome))
}

fn with_last_flush(mut events: Vec<Event>) -> Vec<Event> {
    events.push(Event::Flush(last_summary()));
    events
}

#[test]
fn a_recording_comes_back_as_it_was_told() -> TestResult {
    let (bytes, _) = recorded(&small(), usize::MAX)?;
    let (events, outcome) = read_events(&bytes)?;
    assert_eq!(events, with_last_flush(told(&small())?));
    assert_eq!(
        outcome,
        ReadOutcome {
            info: info(),
            summary: Some(last_summary()),
            complete: true,
            damage: None,
        }
    );
    Ok(())
}

#[test]
fn a_cut_recording_is_read_up_to_its_last_whole_chunk() -> TestResult {
    let (bytes, ends) = recorded(&small(), usize::MAX)?;
    let (whole, _) = read_events(&bytes)?;
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        let Ok((events, outcome)) = read_events(cut) else {
            assert!(length < ends[1], "nothing was read of {length} bytes");
            continue;
        };
        assert!(whole.starts_with(&events), "cut at {length}");
        assert!(!outcome.complete, "cut at {length}");
        let last_end = ends.iter().rev().find(|&&end| end <= length);
        let damage = outcome.damage.map(|damage| damage.offset);
        let expected = last_end.filter(|&&end| end < length).map(|&end| end as u64);
        assert_eq!(damage, expected, "cut at {length}");
        let flushes = events
            .iter()
            .filter(|event| matches!(event, Event::Flush(_)))
            .count();
        let chunks = ends[2..].iter().filter(|&&end| end <= length).count();
        assert_eq!(flushes, chunks, "cut at {length}");
    }
    Ok(())
}

#[test]
fn no_flipped_bit_goes_unnoticed() -> TestResult {
    let (bytes, _) = recorded(&small(), usize::MAX)?;
    let (whole, _) = read_events(&bytes)?;
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << bit;
            if let Ok((events, outcome)) = read_events(&flipped) {
                assert!(whole.starts_with(&events), "byte {position} bit {bit}");
                assert!(outcome.damage.is_some(), "byte {position} bit {bit}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_no_recording_is_refused_by_name() -> TestResult {
    let message = |bytes: &[u8]| read_events(bytes).err().map(|error| error.to_string());
    assert_eq!(message(b"").as_deref(), Some("the recording is empty"));
    for other in [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0".as_slice(),
        b"P",
        b"\x8fSAMX",
    ] {
        assert_eq!(
            message(other).as_deref(),
            Some("not a recording of sampler")
        );
    }
    let (mut bytes, _) = recorded(&[], usize::MAX)?;
    bytes[8] = 3;
    assert_eq!(
        message(&bytes).as_deref(),
        Some("the recording has format version 3, and this sampler reads up to version 2")
    );
    Ok(())
}

#[test]
fn version_1_is_read_and_holds_no_waits() -> TestResult {
    let (mut bytes, _) = recorded(&small(), usize::MAX)?;
    bytes[8] = 1;
    let (events, outcome) = read_events(&bytes)?;
    assert_eq!(
        (events, outcome.damage),
        (with_last_flush(told(&small())?), None)
    );
    let wait = WaitInfo {
        syscall: 0,
        what: "tcp 10.0.0.5:5432".into(),
    };
    let calls = [
        Call::Wait(wait.clone()),
        Call::Stack(vec![FrameKey::BlockedOn(WaitId(0))], End::Complete),
    ];
    let (mut bytes, _) = recorded(&calls, usize::MAX)?;
    let (events, outcome) = read_events(&bytes)?;
    assert_eq!(
        (events.first(), outcome.damage),
        (Some(&Event::Wait(wait)), None)
    );
    bytes[8] = 1;
    let (_, outcome) = read_events(&bytes)?;
    let what = outcome.damage.map(|damage| damage.what);
    assert_eq!(
        what,
        Some(DamageKind::Record("a record of a later version"))
    );
    Ok(())
}

#[test]
fn bytes_after_the_end_are_reported() -> TestResult {
    let (mut bytes, ends) = recorded(&small(), usize::MAX)?;
    bytes.extend(b"more");
    let (events, outcome) = read_events(&bytes)?;
    assert_eq!(events, with_last_flush(told(&small())?));
    assert!(outcome.complete);
    let end_chunk = ends[ends.len() - 2] as u64;
    assert_eq!(
        outcome.damage,
        Some(Damage {
            offset: end_chunk,
            what: DamageKind::AfterEnd
        })
    );
    Ok(())
}

#[test]
fn epochs_void_stack_ids_and_change_nothing_else() -> TestResult {
    let (bytes, _) = recorded(&small(), 2)?;
    let (events, outcome) = read_events(&bytes)?;
    assert_eq!(events, with_last_flush(told(&small())?));
    assert!(outcome.complete);

    let mut writer = Writer::create(Vec::new(), &info())?;
    writer.set_table_nodes_goal(1);
    let stack = writer.stack(
        &[code_without_module(1), code_without_module(2)],
        End::Complete,
    )?;
    assert!(writer.flush(&Summary::default())?);
    assert!(!writer.flush(&Summary::default())?);
    let process = writer.process(&ProcessInfo {
        birth: None,
        pid: 1,
        command_line: String::new(),
        executable: String::new(),
    })?;
    let thread = writer.thread(&ThreadInfo {
        process,
        tid: 1,
        name: String::new(),
    })?;
    let stale = Observation {
        thread,
        at_ns: 0,
        state: ThreadState::Running,
        stack,
        ticks: 1,
        weights: Weights::default(),
    };
    assert!(matches!(
        writer.observation(&stale),
        Err(WriteError::UnknownId(UnknownId::Stack(_)))
    ));
    Ok(())
}

fn code_without_module(address: u64) -> FrameKey {
    FrameKey::Code {
        module: None,
        address,
        is_return_address: false,
        origin: FrameOrigin::Registers,
    }
}

#[test]
fn a_sink_that_forgets_stacks_is_told_them_again() -> TestResult {
    let (bytes, _) = recorded(&small(), usize::MAX)?;
    let mut log = Log::new(true);
    read(bytes.as_slice(), &mut log)?;
    assert_eq!(log.events, with_last_flush(told(&small())?));
    Ok(())
}

#[test]
fn what_waits_is_written_before_it_is_much() -> TestResult {
    let mut writer = Writer::create(Vec::new(), &info())?;
    let mut teller = Teller::new(&mut writer);
    small()
        .iter()
        .take(7)
        .try_for_each(|call| teller.tell(call))?;
    let weights = |number: u64| Weights {
        // Far from any prediction.
        cpu_ns: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        wall_ns: number.wrapping_mul(0xd1b5_4a32_d192_ed03),
        run_queue_ns: number.wrapping_mul(0x94d0_49bb_1331_11eb),
    };
    for number in 0..100_000 {
        teller.tell(&seen(0, number, 0, weights(number)))?;
    }
    // 100,000 observations of some 30 bytes, without a flush.
    assert!(writer.bytes_written() > 2 << 20);
    let bytes = writer.finish(&Summary::default())?;
    let (events, _) = read_events(&bytes)?;
    let observations = events
        .iter()
        .filter(|event| matches!(event, Event::Observation(..)));
    assert_eq!(observations.count(), 100_000);
    Ok(())
}

#[test]
fn threads_that_are_too_many_share_a_number() -> TestResult {
    let mut writer = Writer::create(Vec::new(), &info())?;
    writer.set_own_threads_max(2);
    let process = writer.process(&ProcessInfo {
        birth: None,
        pid: 1,
        command_line: String::new(),
        executable: String::new(),
    })?;
    let mut thread = |tid| {
        writer.thread(&ThreadInfo {
            process,
            tid,
            name: "worker".into(),
        })
    };
    let ids = [thread(1)?, thread(2)?, thread(3)?, thread(4)?];
    assert_eq!(ids, [0, 1, 2, 2].map(ThreadId));
    let bytes = writer.finish(&Summary::default())?;
    let mut builder = ProfileBuilder::new();
    read(bytes.as_slice(), &mut builder)?;
    let threads = builder.finish().threads;
    let names: Vec<(i32, &str)> = threads
        .iter()
        .map(|thread| (thread.tid, thread.name.as_str()))
        .collect();
    assert_eq!(
        names,
        [(1, "worker"), (2, "worker"), (-1, "(further threads)")]
    );
    Ok(())
}

#[test]
fn very_deep_stacks_are_kept() -> TestResult {
    let frames: Vec<FrameKey> = (0..100_000).map(code_without_module).collect();
    let mut calls = small();
    calls.push(Call::Stack(frames, End::Truncated));
    calls.push(seen(0, 1, 2, Weights::default()));
    let (bytes, _) = recorded(&calls, usize::MAX)?;
    assert_eq!(read_events(&bytes)?.0, with_last_flush(told(&calls)?));
    Ok(())
}

#[test]
fn a_full_disk_ends_the_recording_with_its_cause() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = Writer::create(Full, &info()).err();
    assert!(
        matches!(error, Some(WriteError::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull)
    );
}

/// Bytes per sample of a program in a steady state, at 99 Hz with a flush each second.
fn bytes_per_sample(busy: u32, asleep: u32, seconds: u64) -> Result<f64, WriteError> {
    let mut random = 1u64;
    // xorshift64: times that do not compress.
    let mut random_below = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut writer = Writer::create(Vec::new(), &info())?;
    let mut teller = Teller::new(&mut writer);
    small()
        .iter()
        .take(5)
        .try_for_each(|call| teller.tell(call))?;
    for thread in 0..busy + asleep {
        let tid = i32::try_from(thread).unwrap_or(0);
        teller.tell(&Call::Thread(0, tid, "worker".into()))?;
    }
    for stack in 0..200 {
        let frames = (0..20 + stack % 20).map(|depth| code(stack * depth));
        teller.tell(&Call::Stack(frames.collect(), End::Complete))?;
    }
    teller.tell(&Call::Flush(Summary::default()))?;
    let started = teller.sink.bytes_written();
    let (mut now, mut samples, mut summary) = (0u64, 0u64, Summary::default());
    let mut last = vec![0; (busy + asleep) as usize];
    for _ in 0..seconds {
        for _ in 0..99 {
            // A period of 10.1 ms with a jitter of a fifth.
            now += 10_101_010 - 1_000_000 + random_below(2_000_000);
            let mut at_ns = now;
            for thread in 0..busy + asleep {
                at_ns += 5_000 + random_below(60_000);
                let wall_ns = at_ns - std::mem::replace(&mut last[thread as usize], at_ns);
                let is_busy = thread < busy;
                let stack = if is_busy {
                    random_below(200)
                } else {
                    u64::from(thread)
                };
                let weights = Weights {
                    cpu_ns: if is_busy {
                        wall_ns - 15_000 - random_below(50_000)
                    } else {
                        0
                    },
                    wall_ns,
                    run_queue_ns: 0,
                };
                samples += 1;
                let stack = u32::try_from(stack).unwrap_or(0);
                teller.tell(&seen(thread, at_ns, stack, weights))?;
            }
        }
        summary.samples = samples;
        summary.stops = samples;
        summary.cpu_ns = now * u64::from(busy) + random_below(1_000_000);
        summary.wall_ns = now;
        summary.target_stopped_ns += 99 * 45_000 + random_below(100_000);
        summary.pause_ns.p50 = 45_000 + random_below(2_000);
        summary.pause_ns.p99 = 80_000 + random_below(20_000);
        summary.sampler_cpu_ns += 9_000_000 + random_below(1_000_000);
        summary.rate_hz_achieved = 99.0 - 1.0 / (1.0 + now as f64);
        summary.complete_ratio = 1.0 - 1.0 / (1.0 + samples as f64);
        teller.tell(&Call::Flush(summary.clone()))?;
    }
    Ok((writer.bytes_written() - started) as f64 / samples as f64)
}

#[test]
fn a_steady_program_takes_at_most_eight_bytes_per_sample() -> TestResult {
    for (busy, asleep, bytes_max) in [(1, 0, 8.0), (2, 6, 8.0), (8, 0, 8.0), (0, 64, 8.0)] {
        let bytes = bytes_per_sample(busy, asleep, 60)?;
        assert!(bytes <= bytes_max, "{busy} busy, {asleep} asleep: {bytes}");
    }
    Ok(())
}

/// A recording whose chunks hold `contents`, all checksums right.
fn forged(contents: &[Vec<u8>]) -> Vec<u8> {
    let start = postcard::to_stdvec(&v1::Start::from(&info())).unwrap_or_default();
    let mut bytes = [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat();
    bytes.extend(encode(ChunkKind::Start, &start));
    for content in contents {
        bytes.extend(encode(ChunkKind::Records, content));
    }
    bytes
}

proptest! {
    #[test]
    fn any_recording_comes_back_as_it_was_told(
        calls in prop::collection::vec(calls(), 0..80),
        table_nodes_goal in prop_oneof![Just(usize::MAX), 0..10usize],
        forgetful: bool,
    ) {
        let (bytes, _) = recorded(&calls, table_nodes_goal).expect("a vector takes everything");
        let mut log = Log::new(forgetful);
        let outcome = read(bytes.as_slice(), &mut log).expect("it was just written");
        prop_assert_eq!(log.events, with_last_flush(told(&calls).expect("ids are valid")));
        prop_assert!(outcome.complete);
        prop_assert_eq!(outcome.damage, None);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(bytes.as_slice(), &mut ProfileBuilder::new()).is_err());
        let behind_header = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &bytes].concat();
        prop_assert!(read(behind_header.as_slice(), &mut ProfileBuilder::new()).is_err());
    }

    #[test]
    fn any_records_are_read_without_a_panic(
        contents in prop::collection::vec(prop::collection::vec(0..12u8, 0..60), 0..4),
    ) {
        let outcome = read(forged(&contents).as_slice(), &mut ProfileBuilder::new())
            .expect("the start is whole");
        prop_assert!(!outcome.complete);
    }

    #[test]
    fn damaged_records_with_right_checksums_are_read_without_a_panic(
        calls in prop::collection::vec(calls(), 10..60),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (bytes, _) = recorded(&calls, 20).expect("a vector takes everything");
        let mut chunks = chunk::Chunks::new(&bytes[HEADER_BYTES..], 0);
        let mut contents = Vec::new();
        while let Ok(Some(kind)) = chunks.next() {
            if kind == ChunkKind::Records {
                contents.push(chunks.content().to_vec());
            }
        }
        let length = contents.iter().map(Vec::len).sum::<usize>();
        for (index, value) in flips {
            let mut position = index.index(length);
            for content in &mut contents {
                if let Some(byte) = content.get_mut(position) {
                    *byte = value;
                    break;
                }
                position -= content.len();
            }
        }
        let mut builder = ProfileBuilder::new();
        read(forged(&contents).as_slice(), &mut builder).expect("the start is whole");
        builder.finish();
    }
}
