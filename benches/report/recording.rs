//! A recording as a busy program with many threads would give it, the same at every run.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::{Object as _, ObjectSymbol as _, SymbolKind};
use sampler::profile::{
    End, FrameKey, ModuleId, ModuleInfo, Observation, ProcessId, ProcessInfo, SampleSink, StackId,
    Summary, ThreadId, ThreadInfo, ThreadState, Weights,
};
use sampler::recording::{RecordingInfo, Writer};
use sampler_platforms::linux::proc::maps;
use sampler_platforms::{MappedFile, Pid};
use sampler_unwind::{ElfImage, FrameOrigin, ImageBytes};

const THREADS: usize = 16;
const STACKS: usize = 1_000;
const FRAMES: usize = 40;
/// Places in code that stacks go through.
const PLACES: usize = 6_000;
const RATE_HZ: u32 = 99;
const SEED: u64 = 1;

/// What was written.
pub(crate) struct Written {
    pub(crate) stacks: usize,
    pub(crate) bytes: u64,
}

/// Writes `observations` observations to `path`, of stacks through `program` and libc.
pub(crate) fn write(path: &Path, program: &Path, observations: u32) -> Written {
    let mut random = fastrand::Rng::with_seed(SEED);
    let file = BufWriter::new(File::create(path).expect("the recording can be created"));
    let info = RecordingInfo {
        sampler_version: env!("CARGO_PKG_VERSION").to_owned(),
        rate_hz: f64::from(RATE_HZ),
        arch: std::env::consts::ARCH.to_owned(),
        ..RecordingInfo::default()
    };
    let mut writer = Writer::create(file, &info).expect("the recording can be begun");
    let process = writer
        .process(&ProcessInfo {
            birth: None,
            pid: 1,
            command_line: "busy".to_owned(),
            executable: program.display().to_string(),
        })
        .expect("a process can be written");
    let threads = threads(&mut writer, process);
    let places: Vec<FrameKey> = [program.to_owned(), libc()]
        .iter()
        .zip(1u64..)
        .flat_map(|(file, number)| places_in(&mut writer, process, file, number, &mut random))
        .collect();
    let stacks = stacks(&mut writer, &places, &mut random);
    observe(&mut writer, &threads, &stacks, observations, &mut random);
    let summary = summary(observations);
    let mut file = writer.finish(&summary).expect("the recording can be ended");
    file.flush().expect("the recording can be written");
    Written {
        stacks: stacks.len(),
        bytes: std::fs::metadata(path)
            .expect("the recording is there")
            .len(),
    }
}

fn threads(writer: &mut Writer<impl Write>, process: ProcessId) -> Vec<ThreadId> {
    (1i32..)
        .take(THREADS)
        .map(|tid| {
            let name = format!("worker-{tid}");
            writer
                .thread(&ThreadInfo { process, tid, name })
                .expect("a thread can be written")
        })
        .collect()
}

/// The libc that this bench itself runs with.
fn libc() -> PathBuf {
    maps::read(Pid(std::process::id().cast_signed()))
        .expect("/proc is there")
        .iter()
        .filter_map(|mapping| mapping.path())
        .find(|path| path.ends_with("libc.so.6"))
        .expect("this bench is linked with glibc")
        .to_owned()
}

/// Return addresses somewhere in the functions of `file`, which is mapped as the `number`th.
fn places_in(
    writer: &mut Writer<impl Write>,
    process: ProcessId,
    file: &Path,
    number: u64,
    random: &mut fastrand::Rng,
) -> Vec<FrameKey> {
    let opened = File::open(file).expect("a program that runs can be read");
    let mapped = Arc::new(MappedFile::map(&opened).expect("a program can be mapped"));
    let image = ElfImage::parse(ImageBytes::new(mapped.clone())).expect("a program is ELF");
    let info = ModuleInfo {
        path: file.display().to_string(),
        build_id: image.build_id().cloned(),
        image: None,
    };
    let module = writer.module(&info).expect("a module can be written");
    let bias = number << 32;
    writer
        .mapping(process, module, bias, bias + (1 << 32), bias)
        .expect("a mapping can be written");
    let functions = functions((*mapped).as_ref());
    (0..PLACES / 2)
        .map(|_| {
            let (start, size) = functions[random.usize(..functions.len())];
            place(module, start + random.u64(1..size))
        })
        .collect()
}

fn place(module: ModuleId, address: u64) -> FrameKey {
    FrameKey::Code {
        module: Some(module),
        address,
        is_return_address: true,
        origin: FrameOrigin::CallFrameInfo,
    }
}

/// Address and size of every function of more than one byte.
fn functions(bytes: &[u8]) -> Vec<(u64, u64)> {
    let file = object::File::parse(bytes).expect("a program is ELF");
    let functions: Vec<(u64, u64)> = file
        .symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 1)
        .map(|symbol| (symbol.address(), symbol.size()))
        .collect();
    assert!(!functions.is_empty(), "the program has symbols");
    functions
}

/// Each stack leaves an earlier one somewhere on its way in, as calls do.
fn stacks(
    writer: &mut Writer<impl Write>,
    places: &[FrameKey],
    random: &mut fastrand::Rng,
) -> Vec<StackId> {
    let mut stacks: Vec<Vec<FrameKey>> = Vec::with_capacity(STACKS);
    while stacks.len() < STACKS {
        let mut stack = match stacks.len() {
            0 => Vec::new(),
            known => stacks[random.usize(..known)].clone(),
        };
        stack.truncate(random.usize(1..FRAMES));
        while stack.len() < FRAMES {
            stack.push(places[random.usize(..places.len())]);
        }
        stacks.push(stack);
    }
    stacks
        .iter()
        .map(|stack| {
            writer
                .stack(stack, End::Complete)
                .expect("a stack can be written")
        })
        .collect()
}

/// All threads at every tick, and a flush every second.
fn observe(
    writer: &mut Writer<impl Write>,
    threads: &[ThreadId],
    stacks: &[StackId],
    observations: u32,
    random: &mut fastrand::Rng,
) {
    let period_ns = 1_000_000_000 / u64::from(RATE_HZ);
    let mut left = observations;
    let mut at_ns = 0;
    for tick in 1u32.. {
        at_ns += period_ns;
        for &thread in threads {
            if left == 0 {
                return;
            }
            left -= 1;
            let observation = Observation {
                thread,
                at_ns: at_ns + random.u64(..100_000),
                state: ThreadState::Running,
                stack: stacks[random.usize(..stacks.len())],
                ticks: 1,
                weights: Weights {
                    cpu_ns: period_ns - random.u64(..1_000_000),
                    wall_ns: period_ns,
                    run_queue_ns: random.u64(..1_000_000),
                },
            };
            writer
                .observation(&observation)
                .expect("an observation can be written");
        }
        if tick % RATE_HZ == 0 {
            let forgotten = writer
                .flush(&summary(observations - left))
                .expect("the recording can be written");
            assert!(!forgotten, "the stacks are few enough to be kept");
        }
    }
}

fn summary(samples: u32) -> Summary {
    Summary {
        samples: samples.into(),
        stops: samples.into(),
        rate_hz_requested: f64::from(RATE_HZ),
        rate_hz_achieved: f64::from(RATE_HZ),
        complete_ratio: 1.0,
        ..Summary::default()
    }
}
