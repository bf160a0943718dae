//! Hours of recording: memory that stays flat, and a file that stays small.
//!
//! An hour is told to the writer as the recorder would tell it, as fast as it goes; what is real here takes seconds.
//! `benches/soak.rs` records for ten minutes.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use sampler::profile::{
    End, FrameKey, ModuleId, ModuleInfo, Observation, ProcessId, ProcessInfo, SampleSink, StackId,
    Summary, ThreadId, ThreadInfo, ThreadState, Weights,
};
use sampler::recording::{RecordingInfo, WriteError, Writer};
use sampler_tests_support::{Sampler, Target, sampler};
use sampler_unwind::FrameOrigin;

const RATE_HZ: u64 = 99;
const SECOND_NS: u64 = 1_000_000_000;
const MINUTES: u64 = 60;

/// Threads of the told hour: some are seen running at every tick, some wake up ten times a second, the others sleep.
const BUSY: u64 = 3;
const WAKING: u64 = 7;
const ASLEEP: u64 = 90;

/// What the writer may hold: half of what the whole sampler may.
const HELD_BYTES_MAX: i64 = 16 << 20;

/// What the sampler may hold with a target of 100 threads.
const RSS_BYTES_MAX: u64 = 32 << 20;

const BYTES_PER_SAMPLE_MAX: u64 = 8;

/// Counts what is written, and keeps nothing.
#[derive(Debug, Default)]
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is new in a second of the told hour.
#[derive(Clone, Copy, Debug)]
struct News {
    /// Stacks that were never seen before; they differ from each other in their five innermost frames.
    stacks: u64,
    /// Threads that end and others that begin.
    threads: u64,
    /// Libraries that are loaded, each at a place of its own.
    modules: u64,
}

/// A program of 100 threads, told second by second.
struct Hour {
    writer: Writer<Counted>,
    random: fastrand::Rng,
    process: ProcessId,
    module: ModuleId,
    threads: Vec<Told>,
    news: News,
    /// How many stacks there ever were.
    stacks: u64,
    now_ns: u64,
    summary: Summary,
}

/// A thread, when it was last told of, and where it is.
#[derive(Clone, Copy)]
struct Told {
    id: ThreadId,
    at_ns: u64,
    stack: u64,
}

impl Hour {
    fn begin(news: News) -> Result<Self, WriteError> {
        let mut writer = Writer::create(Counted::default(), &RecordingInfo::default())?;
        let process = writer.process(&ProcessInfo {
            birth: None,
            pid: 4711,
            command_line: "server --threads 100".to_owned(),
            executable: "/usr/bin/server".to_owned(),
        })?;
        let module = add_module(&mut writer, process, 0)?;
        let mut hour = Self {
            writer,
            random: fastrand::Rng::with_seed(7),
            process,
            module,
            threads: Vec::new(),
            news,
            stacks: 200,
            now_ns: 0,
            summary: Summary::default(),
        };
        for number in 0..BUSY + WAKING + ASLEEP {
            let id = hour.add_thread(number)?;
            hour.threads.push(Told {
                id,
                at_ns: 0,
                stack: number,
            });
        }
        Ok(hour)
    }

    fn add_thread(&mut self, number: u64) -> Result<ThreadId, WriteError> {
        self.writer.thread(&ThreadInfo {
            process: self.process,
            tid: i32::try_from(number % 32_768).unwrap_or(0),
            name: format!("worker-{}", number % 100),
        })
    }

    fn second(&mut self, number: u64) -> Result<(), WriteError> {
        for tick in 0..RATE_HZ {
            self.now_ns += SECOND_NS / RATE_HZ - 1_000_000 + self.random.u64(..2_000) * 1000;
            for thread in 0..BUSY {
                self.stacks += u64::from(thread == 0 && tick < self.news.stacks);
                let newest = self.random.u64(..50).min(self.stacks - 1);
                let stack = self.stacks - 1 - newest;
                self.observe(thread, ThreadState::Running, stack, 1)?;
            }
            for thread in (BUSY..BUSY + WAKING).filter(|thread| (tick + thread) % 10 == 0) {
                self.observe(thread, ThreadState::Blocked, thread, 10)?;
            }
        }
        for thread in BUSY + WAKING..BUSY + WAKING + ASLEEP {
            self.observe(thread, ThreadState::Blocked, thread, 99)?;
        }
        for new in 0..self.news.threads {
            let id = self.add_thread(100 + number * self.news.threads + new)?;
            let at = usize::try_from(BUSY + self.random.u64(..WAKING + ASLEEP)).unwrap_or(0);
            self.threads[at].id = id;
        }
        for new in 0..self.news.modules {
            let number = 1 + number * self.news.modules + new;
            self.module = add_module(&mut self.writer, self.process, number)?;
        }
        self.summary.wall_ns = self.now_ns;
        self.summary.stops = self.summary.samples / 30;
        // Whether ids are void is of no concern: all stacks are told by their frames.
        self.writer.flush(&self.summary)?;
        Ok(())
    }

    fn observe(
        &mut self,
        thread: u64,
        state: ThreadState,
        stack: u64,
        ticks: u32,
    ) -> Result<(), WriteError> {
        let id = self.intern(stack)?;
        let noise_ns = |random: &mut fastrand::Rng, up_to_us| random.u64(..up_to_us) * 1000;
        let run_queue_ns = noise_ns(&mut self.random, 60);
        let told = &mut self.threads[usize::try_from(thread).unwrap_or(0)];
        told.stack = stack;
        let wall_ns = self.now_ns - told.at_ns;
        told.at_ns = self.now_ns;
        let cpu_ns = match state {
            ThreadState::Running => wall_ns - run_queue_ns - noise_ns(&mut self.random, 60),
            _ => 0,
        };
        self.summary.samples += u64::from(ticks);
        self.summary.cpu_ns += cpu_ns;
        self.writer.observation(&Observation {
            thread: told.id,
            at_ns: self.now_ns,
            state,
            stack: id,
            ticks,
            weights: Weights {
                cpu_ns,
                wall_ns,
                run_queue_ns,
            },
        })
    }

    /// Twenty frames, of which the inner five are this stack's own.
    fn intern(&mut self, stack: u64) -> Result<StackId, WriteError> {
        let frames: Vec<FrameKey> = (0..20)
            .map(|depth| match depth {
                0..15 => 0x1000 + depth * 64,
                _ => 0x10_0000 + stack * 320 + depth,
            })
            .map(|address| FrameKey::Code {
                module: Some(self.module),
                address,
                is_return_address: true,
                origin: FrameOrigin::CallFrameInfo,
            })
            .collect();
        self.writer.stack(&frames, End::Complete)
    }
}

fn add_module(
    writer: &mut Writer<Counted>,
    process: ProcessId,
    number: u64,
) -> Result<ModuleId, WriteError> {
    let module = writer.module(&ModuleInfo {
        path: format!("/usr/lib/generated-{number}.so"),
        build_id: None,
        image: None,
    })?;
    let start = (1 + number) << 24;
    writer.mapping(process, module, start, start + (1 << 20), start)?;
    Ok(module)
}

/// The most that was held in each minute, in bytes.
fn peaks(news: News) -> (Vec<i64>, Summary, u64) {
    let mut hour = None;
    let begun = allocation_counter::measure(|| {
        hour = Some(Hour::begin(news).expect("a count can be written to"));
    });
    let mut hour = hour.expect("it was begun just now");
    let mut held = begun.bytes_current;
    let mut peaks = Vec::new();
    for minute in 0..MINUTES {
        let used = allocation_counter::measure(|| {
            for second in 0..60 {
                let done = hour.second(minute * 60 + second);
                done.expect("a count can be written to");
            }
        });
        peaks.push(held + i64::try_from(used.bytes_max).expect("far below 2^63"));
        held += used.bytes_current;
    }
    (peaks, hour.summary.clone(), hour.writer.bytes_written())
}

#[track_caller]
fn expect_flat(news: News) {
    let (peaks, summary, bytes) = peaks(news);
    assert_eq!(peaks.len() as u64, MINUTES);
    // An hour of 100 threads at 99 Hz, no less.
    assert!(summary.samples > 3_600 * 99 * 95, "{summary:?}");
    let first = peaks[0];
    let most = peaks.iter().copied().max().unwrap_or(0);
    assert!(most * 100 <= first * 105, "{news:?}: {peaks:?}");
    assert!(most < HELD_BYTES_MAX, "{news:?}: {peaks:?}");
    assert!(
        bytes <= summary.samples * BYTES_PER_SAMPLE_MAX,
        "{news:?}: {bytes} bytes for {} samples",
        summary.samples
    );
}

#[test]
fn an_hour_of_a_steady_program_takes_no_more_memory_than_its_first_minute() {
    expect_flat(News {
        stacks: 1,
        threads: 0,
        modules: 0,
    });
}

#[test]
fn an_hour_of_ever_new_stacks_threads_and_libraries_takes_no_more_memory_than_its_first_minute() {
    expect_flat(News {
        stacks: 60,
        threads: 20,
        modules: 1,
    });
}

/// So many samples of running threads and of sleepers that were read, and bytes of the file, at a flush.
fn so_far(sampler: &Sampler, recording: &Path) -> (u64, u64) {
    let summary = sampler.report_of(recording).summary;
    let bytes = fs::metadata(recording).expect("it is there").len();
    (summary.stops + summary.unstopped_reads, bytes)
}

#[test]
fn a_sample_of_a_steady_program_takes_at_most_eight_bytes() {
    let sampler = sampler!();
    let target = Target::start("counts", &[]);
    let mut running = sampler.attach(target.pid(), &["-d", "6s"]);
    // What is written once, the vDSO's image for one, is not what a sample takes: from some flush on.
    running.until_recorded(4096);
    let early = sampler.path("early.data");
    fs::copy(sampler.path("sampler.data.partial"), &early).expect("it can be copied");
    while running.runs_for(std::time::Duration::from_secs(1)) {}
    running.wait().expect_code(0);
    let (samples_before, bytes_before) = so_far(&sampler, &early);
    let (samples, bytes) = so_far(&sampler, &sampler.path("sampler.data"));
    let (samples, bytes) = (samples - samples_before, bytes - bytes_before);
    // Threads that were known to sleep on count among the samples too, and take nothing; these are the others.
    assert!(samples > 200, "{samples} samples");
    assert!(
        bytes <= samples * BYTES_PER_SAMPLE_MAX,
        "{bytes} bytes for {samples} samples"
    );
}

#[test]
fn a_hundred_threads_are_recorded_in_less_than_32_mib() {
    let sampler = sampler!();
    // With the main thread a hundred.
    let target = Target::start("counts", &["2", "89", "8"]);
    assert_eq!(target.threads().len(), 100);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "4s"])
        .expect_code(0);
    let summary = sampler.report().summary;
    assert!(summary.samples > 4 * 99 * 50, "{summary:?}");
    assert!(
        summary.sampler_peak_rss_bytes < RSS_BYTES_MAX,
        "{summary:?}"
    );
    let bytes = fs::metadata(sampler.path("sampler.data"))
        .expect("it was written")
        .len();
    // Nearly all of them sleep on.
    assert!(
        bytes <= summary.samples * BYTES_PER_SAMPLE_MAX,
        "{bytes} bytes, {summary:?}"
    );
}
