//! How long a report of a million samples takes: `cargo bench --bench report`.
//!
//! Each format is made by the command itself, from start to exit, names looked up anew; the formats take turns. The
//! recording is written here (see `recording`), with addresses of functions of real files.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod large;
mod recording;

use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use sampler_platforms::linux::spawn;

/// Observations in the recording; `SAMPLER_BENCH_OBSERVATIONS` overrides it.
const OBSERVATIONS: u32 = 1_000_000;
/// How often each format is made; `SAMPLER_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 5;
/// Commands and formats; all are compared to the first.
const FORMATS: [(&str, &str); 8] = [
    ("report", "table"),
    ("report", "tree"),
    ("report", "folded"),
    ("report", "json"),
    ("report", "flamegraph"),
    ("report", "html"),
    // Of sums, and of every look.
    ("export", "pprof"),
    ("export", "firefox"),
];

/// What one of them took.
#[derive(Clone, Copy)]
struct Run {
    wall: Duration,
    cpu: Duration,
    peak_rss_bytes: u64,
    written_bytes: u64,
}

fn main() {
    let rounds = given("SAMPLER_BENCH_ROUNDS").unwrap_or(ROUNDS);
    let observations = given("SAMPLER_BENCH_OBSERVATIONS").unwrap_or(OBSERVATIONS);
    let program = Path::new(env!("CARGO_BIN_EXE_sampler"));
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let recording = folder.path().join("million.data");
    let begin = Instant::now();
    let written = recording::write(&recording, program, observations);
    println!(
        "{observations} observations, {} stacks: {} bytes, written in {} ms",
        written.stacks,
        written.bytes,
        begin.elapsed().as_millis()
    );
    let mut runs: [Vec<Run>; FORMATS.len()] = Default::default();
    for _ in 0..rounds {
        for (&made, runs) in FORMATS.iter().zip(&mut runs) {
            runs.push(make(program, made, &recording, folder.path()));
        }
    }
    println!(
        "{:<18} {:>9} {:>9} {:>9} {:>12} {:>15}",
        "format", "ms", "cpu ms", "peak MB", "output bytes", "ratio to table"
    );
    let table_ms = median(&runs[0], |run| milliseconds(run.wall));
    for ((command, format), runs) in FORMATS.iter().zip(&runs) {
        let wall_ms = median(runs, |run| milliseconds(run.wall));
        println!(
            "{:<18} {wall_ms:>9.1} {:>9.1} {:>9.1} {:>12.0} {:>15.2}",
            format!("{command} {format}"),
            median(runs, |run| milliseconds(run.cpu)),
            median(runs, |run| run.peak_rss_bytes as f64 / 1e6),
            median(runs, |run| run.written_bytes as f64),
            wall_ms / table_ms,
        );
    }
    large::print(program, folder.path(), rounds);
    // A child begins as a copy of us, and the kernel counts that in.
    println!(
        "(peaks below {:.1} MB would be this bench's own)",
        sampler_platforms::linux::peak_rss_self() as f64 / 1e6
    );
}

/// What a variable of the environment says, if it does.
fn given<T: FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.parse().ok()
}

fn make(program: &Path, (command, format): (&str, &str), recording: &Path, folder: &Path) -> Run {
    let output = folder.join(format);
    let arguments = [
        OsString::from(command),
        OsString::from("--no-symbol-cache"),
        OsString::from("-f"),
        OsString::from(format),
        OsString::from("-o"),
        OsString::from(&output),
        OsString::from(recording),
    ];
    let begin = Instant::now();
    let child = spawn::launch(
        program.as_os_str(),
        &arguments,
        spawn::ChildStdout::Inherited,
    )
    .expect("sampler can be started");
    let ended = child.reap().expect("a child can be waited for");
    let wall = begin.elapsed();
    assert!(
        ended.status.success(),
        "{command} -f {format} failed: {}",
        ended.status
    );
    Run {
        wall,
        cpu: ended.user + ended.system,
        peak_rss_bytes: ended.peak_rss_bytes,
        written_bytes: std::fs::metadata(&output)
            .expect("the report is there")
            .len(),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
