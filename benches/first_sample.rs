//! How long after its start `sampler record` has its first sample: `cargo bench --bench first_sample`.
//!
//! Of a small program and of one that maps 100 MB of ELF files, all of them in the page cache. From before the command
//! is started to when its first sample was taken; the recording says the latter.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::convert::Infallible;
use std::fs::File;
use std::time::{Duration, SystemTime};

use sampler::profile::{
    End, FrameKey, FunctionId, JitCode, ModuleId, ModuleInfo, Observation, ProcessId, ProcessInfo,
    SampleSink, StackId, Summary, ThreadId, ThreadInfo, ThreadState, WaitId, WaitInfo,
};
use sampler_tests_support::{Target, fixture, sampler};
use sampler_unwind::interpreter::Function;

/// How many recordings of each; `SAMPLER_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 10;
/// Copies of the 20 MB library.
const COPIES: &str = "5";
/// How long each recording is: a hundred times what it takes to get a sample.
const LENGTH: &str = "200ms";

fn main() {
    let rounds = std::env::var("SAMPLER_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    let library = fixture("big_library.so");
    let library = library.to_str().expect("our paths are text");
    let targets = [
        ("small", Target::start("counts", &[])),
        (
            "100 MB mapped",
            Target::start("big_mapping", &[library, COPIES]),
        ),
    ];
    println!(
        "{:<14} {:>22} {:>22} {:>16}",
        "target", "recording begins, ms", "first sample, ms", "at most, ms"
    );
    for (name, target) in targets {
        let mut begins = Vec::new();
        let mut firsts = Vec::new();
        for _ in 0..rounds {
            let (begin, first) = first_sample(&target);
            begins.push(begin);
            firsts.push(first);
        }
        begins.sort();
        firsts.sort();
        println!(
            "{name:<14} {:>22.2} {:>22.2} {:>16.2}",
            milliseconds(begins.get(rounds / 2)),
            milliseconds(firsts.get(rounds / 2)),
            milliseconds(firsts.last()),
        );
    }
}

/// How long after the command's start the recording began, and how long after it the first sample was taken.
fn first_sample(target: &Target) -> (Duration, Duration) {
    let sampler = sampler!();
    let pid = target.pid_text();
    let start = SystemTime::now();
    sampler
        .run(&["record", "-p", &pid, "-d", LENGTH])
        .expect_code(0);
    let file = File::open(sampler.path("sampler.data")).expect("the recording is there");
    let mut earliest = Earliest::default();
    let read = sampler::recording::read(file, &mut earliest).expect("the recording can be read");
    let began = SystemTime::UNIX_EPOCH + Duration::from_nanos(read.info.start_unix_ns);
    let began = began.duration_since(start).unwrap_or_default();
    let at_ns = earliest.at_ns.expect("there is a sample");
    (began, began + Duration::from_nanos(at_ns))
}

fn milliseconds(time: Option<&Duration>) -> f64 {
    time.map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// When the first sample was taken; of all else only how much there is, to number it.
#[derive(Default)]
struct Earliest {
    at_ns: Option<u64>,
    given: u32,
}

impl Earliest {
    fn number(&mut self) -> u32 {
        self.given += 1;
        self.given - 1
    }
}

impl SampleSink for Earliest {
    type Error = Infallible;

    fn process(&mut self, _: &ProcessInfo) -> Result<ProcessId, Infallible> {
        Ok(ProcessId(self.number()))
    }

    fn thread(&mut self, _: &ThreadInfo) -> Result<ThreadId, Infallible> {
        Ok(ThreadId(self.number()))
    }

    fn module(&mut self, _: &ModuleInfo) -> Result<ModuleId, Infallible> {
        Ok(ModuleId(self.number()))
    }

    fn function(&mut self, _: &Function) -> Result<FunctionId, Infallible> {
        Ok(FunctionId(self.number()))
    }

    fn wait(&mut self, _: &WaitInfo) -> Result<WaitId, Infallible> {
        Ok(WaitId(self.number()))
    }

    fn mapping(
        &mut self,
        _: ProcessId,
        _: ModuleId,
        _: u64,
        _: u64,
        _: u64,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn jit_code(&mut self, _: &JitCode) -> Result<(), Infallible> {
        Ok(())
    }

    fn stack(&mut self, _: &[FrameKey], _: End) -> Result<StackId, Infallible> {
        Ok(StackId(self.number()))
    }

    fn observation(&mut self, observation: &Observation) -> Result<(), Infallible> {
        if observation.state != ThreadState::Unseen {
            let earliest = self.at_ns.unwrap_or(u64::MAX);
            self.at_ns = Some(earliest.min(observation.at_ns));
        }
        Ok(())
    }

    fn flush(&mut self, _: &Summary) -> Result<bool, Infallible> {
        Ok(false)
    }
}
