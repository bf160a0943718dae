//! Programs of the distribution and of everyday: what a user would point `sampler` at.
//!
//! Each is attached to while it waits for its input, so that all its work is recorded, and its CPU time is compared
//! with the kernel's account of its whole life.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use sampler_tests_support::{Report, Target, need, sampler};

/// Bytes that compress somewhat: words of a small vocabulary in no order.
fn text_to_compress(bytes: usize) -> Vec<u8> {
    let mut state: u64 = 1;
    let mut text = Vec::with_capacity(bytes + 16);
    while text.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let _infallible = write!(text, "{:x} ", (state >> 40) % 5000);
    }
    text
}

#[test]
fn xz_compressing() {
    let sampler = sampler!();
    let mut target = Target::spawn(Command::new(need("xz")).args(["-T1", "-6", "-c"]));
    let running = sampler.attach(target.pid(), &["-r", "299"]);
    let mut stdin = target.take_stdin().expect("its input is a pipe");
    let feeder = std::thread::spawn(move || stdin.write_all(&text_to_compress(2 << 20)));
    let (ended, done) = target.wait_recorded(running);
    feeder
        .join()
        .expect("the feeder does not panic")
        .expect("xz reads it all");
    assert!(ended.status.success(), "{}", ended.status);
    done.expect_code(0);
    let report = sampler.report();
    report.expect_complete().expect_cpu(ended.cpu);
    report.expect_share("liblzma", report.share_of_module("liblzma"), 0.8);
}

#[test]
fn sqlite3_on_a_heavy_query() {
    let sampler = sampler!();
    let mut target = Target::spawn(Command::new(need("sqlite3")).arg(":memory:"));
    let running = sampler.attach(target.pid(), &["-r", "299"]);
    running.until_first_sample();
    target.tell(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000000) \
         SELECT 'sum', sum(x * 7 % 13), max(hex(x)) FROM n;\n",
    );
    let (ended, done) = target.wait_recorded(running);
    assert!(ended.stdout.starts_with("sum|"), "{}", ended.stdout);
    done.expect_code(0);
    let report = sampler.report();
    report.expect_complete().expect_cpu(ended.cpu);
    report.expect_share("libsqlite3", report.share_of_module("libsqlite3"), 0.6);
    report.expect_share(
        "in or below it",
        report.share_below_module("libsqlite3"),
        0.95,
    );
}

const PYTHON: &str = "
import sys
print('ready', flush=True)
sys.stdin.readline()
def busy(n):
    total = 0
    for i in range(n):
        total = (total * 31 + i) % 1000003
    return total
print(busy(8_000_000))
";

#[test]
fn python3_on_a_busy_loop() {
    let sampler = sampler!();
    let mut target = Target::spawn(Command::new(need("python3")).args(["-S", "-c", PYTHON]));
    target.until_ready();
    let started = target.cpu();
    let running = sampler.attach(target.pid(), &["-r", "299"]);
    running.until_first_sample();
    target.tell("\n");
    let (ended, done) = target.wait_recorded(running);
    done.expect_code(0);
    let report = sampler.report();
    report
        .expect_complete()
        .expect_cpu(ended.cpu.saturating_sub(started));
    report.expect_share("the interpreter", report.share_of_module("python3"), 0.8);
}

#[test]
fn redis_server_under_redis_benchmark() {
    let sampler = sampler!();
    let benchmark = need("redis-benchmark");
    let socket = sampler.path("redis.sock");
    let mut server = Target::spawn(
        Command::new(need("redis-server"))
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(&socket)
            .current_dir(sampler.folder()),
    );
    server.until_line(|line| line.contains("eady to accept connections"));
    let before = server.cpu();
    let running = sampler.attach(server.pid(), &["-r", "299"]);
    let status = Command::new(benchmark)
        .arg("-s")
        .arg(&socket)
        .args(["-n", "120000", "-c", "20", "-t", "set,get,lrange_100", "-q"])
        .stdout(Stdio::null())
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "redis-benchmark did its work"
    );
    let used = server.cpu().saturating_sub(before);
    running.interrupt().expect_code(0);
    server.assert_free();
    let report = sampler.report();
    report.expect_complete().expect_cpu(used);
    // redis-server is a link to redis-check-rdb in Debian's package, and the module has the file's name.
    let own = report.share_below_module("redis-");
    report.expect_share("redis's own code somewhere on the stack", own, 0.95);
    server.end();
}

#[test]
fn a_cpp_program_with_64_threads() {
    let sampler = sampler!();
    let mut target = Target::start("threads64", &["2000"]);
    let running = sampler.attach(target.pid(), &["-r", "199"]);
    running.until_first_sample();
    target.tell("\n");
    let (ended, done) = target.wait_recorded(running);
    done.expect_code(0);
    let report = sampler.report();
    report.expect_complete().expect_cpu(ended.cpu);
    report.expect_share("template", report.share_below("work::busy<"), 0.95);
    report.expect_share(
        "the hot template",
        report.share_below("work::sort_noise<unsigned long>"),
        0.3,
    );
    let inlined = report.cpu_share(|stack| stack.frames.iter().any(|frame| frame.inlined));
    report.expect_share("inlined frames", inlined, 0.5);
    let summary = &report.summary;
    assert!(
        summary.unstopped_reads >= 62 && summary.reused > 62,
        "{summary:?}"
    );
    let off_cpu = |function: &str| -> u64 {
        let stacks = report.stacks.iter().filter(|stack| stack.has(function));
        stacks.map(|stack| stack.weights.off_cpu_ns).sum()
    };
    for function in [
        "sleeps_on_mutex",
        "sleeps_on_condition",
        "sleeps_in_poll",
        "sleeps_in_read",
        "sleeps_in_nanosleep",
    ] {
        // A dozen of each, for as long as the recording went.
        assert!(
            off_cpu(function) > summary.wall_ns * 6,
            "{function}: {} ns",
            off_cpu(function)
        );
    }
}

#[test]
fn a_rust_release_build() {
    let sampler = sampler!();
    let mut target = Target::start("rust_hot", &["1500"]);
    let running = sampler.attach(target.pid(), &["-r", "299"]);
    running.until_first_sample();
    target.tell("\n");
    let (ended, done) = target.wait_recorded(running);
    done.expect_code(0);
    let report = sampler.report();
    report.expect_complete().expect_cpu(ended.cpu);
    report.expect_share(
        "the hot generic function",
        report.share_below("rust_hot::hot_generic"),
        0.9,
    );
    let closure = report.cpu_share(|stack| {
        stack
            .frames
            .iter()
            .any(|frame| frame.inlined && frame.function.contains("{closure"))
    });
    report.expect_share("the closure inlined into it", closure, 0.5);
    let named = report.stacks.iter().flat_map(|stack| &stack.frames);
    let mangled: Vec<&str> = named
        .map(|frame| frame.function.as_str())
        .filter(|name| name.starts_with("_ZN") || name.starts_with("_R"))
        .collect();
    assert!(mangled.is_empty(), "{mangled:?}");
}

#[test]
fn the_recording_is_small_and_so_is_the_sampler() {
    let sampler = sampler!();
    let target = Target::start("threads64", &[]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "2", "-r", "199"])
        .expect_code(0);
    let report: Report = sampler.report();
    let bytes = fs::metadata(sampler.path("sampler.data"))
        .expect("it was written")
        .len();
    // 63 threads, 400 ticks: some 25,000 looks. Sleepers cost hardly anything to keep.
    assert!(bytes < 1 << 20, "{bytes} bytes");
    assert!(
        report.summary.sampler_peak_rss_bytes < 256 << 20,
        "{:?}",
        report.summary
    );
    let sampler_cpu = Duration::from_nanos(report.summary.sampler_cpu_ns);
    assert!(sampler_cpu < Duration::from_secs(2), "{sampler_cpu:?}");
}
