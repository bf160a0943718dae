//! How long a report takes that touches a large file: the first time, and with the names of the last time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::recording;

/// Observations in the recording.
const OBSERVATIONS: u32 = 100_000;

/// What one round took.
struct Round {
    first: Duration,
    again: Duration,
}

/// Prints what the reports of a recording with addresses in a large file took; nothing where there is no such file.
pub(crate) fn print(program: &Path, folder: &Path, rounds: usize) {
    let Some(large) = large_file() else {
        println!("no large file: SAMPLER_BENCH_LARGE may name one");
        return;
    };
    let recording = folder.join("large.data");
    recording::write(&recording, &large, OBSERVATIONS);
    let bytes = std::fs::metadata(&large).map_or(0, |file| file.len());
    let mut rounds: Vec<Round> = (0..rounds)
        .map(|round| {
            let cache = folder.join(format!("cache-{round}"));
            Round {
                first: report(program, &recording, &cache),
                again: report(program, &recording, &cache),
            }
        })
        .collect();
    rounds.sort_by_key(|round| round.first);
    let first = rounds[rounds.len() / 2].first;
    rounds.sort_by_key(|round| round.again);
    let again = rounds[rounds.len() / 2].again;
    println!(
        "{} ({:.0} MB): {:.0} ms the first time, {:.0} ms with the names of the last time",
        large.display(),
        bytes as f64 / 1e6,
        first.as_secs_f64() * 1e3,
        again.as_secs_f64() * 1e3
    );
}

fn report(program: &Path, recording: &Path, cache: &Path) -> Duration {
    let begin = Instant::now();
    let status = Command::new(program)
        .args(["report", "--no-pager"])
        .arg(recording)
        .env("XDG_CACHE_HOME", cache)
        .stdout(Stdio::null())
        .status()
        .expect("sampler can be started");
    assert!(status.success(), "the report failed: {status}");
    begin.elapsed()
}

/// What the environment names, else the compiler itself.
fn large_file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SAMPLER_BENCH_LARGE") {
        return Some(path.into());
    }
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let lib = PathBuf::from(String::from_utf8(sysroot.stdout).ok()?.trim()).join("lib");
    let mut files = std::fs::read_dir(lib)
        .ok()?
        .flatten()
        .map(|file| file.path());
    files.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("librustc_driver-") && name.ends_with(".so")
    })
}
