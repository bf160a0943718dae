//! Filters and groupings, comparisons, and recordings that have nothing to show.

use std::fs;
use std::process::Command;

use sampler::profile::Summary;
use sampler::recording::{RecordingInfo, Writer};
use sampler_tests_support::{Report, Sampler, Target, Weights, fixture, sampler};

/// One of the weights.
type Of = fn(&Weights) -> u64;

/// `program` of the fixtures, recorded into `file`.
#[track_caller]
fn record(sampler: &Sampler, file: &str, program: &str, argument: &str) {
    let program = fixture(program);
    let program = program.to_str().expect("our paths are text");
    sampler
        .run(&["record", "-r", "299", "-o", file, "--", program, argument])
        .expect_code(0);
}

#[track_caller]
fn report(sampler: &Sampler, options: &[&str]) -> String {
    let done = sampler.run(&[&["report"], options].concat());
    done.expect_code(0);
    done.text()
}

fn sum(report: &Report, of: Of) -> u64 {
    report.stacks.iter().map(|stack| of(&stack.weights)).sum()
}

#[test]
fn a_part_of_the_time_and_the_rest_are_the_whole() {
    let sampler = sampler!();
    record(&sampler, "sampler.data", "shares", "900");
    let whole = sampler.report();
    let parts = ["..300ms", "300ms..600ms", "600ms.."].map(|part| {
        let text = report(&sampler, &["--time", part]);
        assert!(text.contains("% of "), "{text}");
        sampler.report_with(&["--time", part])
    });
    let weights: [Of; 2] = [|w| w.wall_ns, |w| w.cpu_ns];
    for of in weights {
        let all: u64 = parts.iter().map(|part| sum(part, of)).sum();
        let expected = sum(&whole, of);
        assert!(
            all.abs_diff(expected) <= expected / 100 + 10_000,
            "{all} of {expected}"
        );
    }
    let outside = sampler.run(&["report", "--time", "1h.."]);
    outside.expect_error(5, &["--time", "lasted"]);
}

#[test]
fn threads_states_and_functions_are_chosen() {
    let sampler = sampler!();
    let target = Target::start("bursts", &["60", "62"]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "1", "-r", "99"])
        .expect_code(0);
    let all = sampler.report();
    let of_state = |state: &str| sampler.report_with(&["--state", state]);
    let (running, sleeping) = (of_state("running"), of_state("sleeping"));
    assert_eq!(sum(&running, |w| w.cpu_ns), sum(&all, |w| w.cpu_ns));
    assert_eq!(sum(&running, |w| w.off_cpu_ns), 0);
    assert_eq!(sum(&sleeping, |w| w.cpu_ns), 0);
    assert_eq!(
        sum(&sleeping, |w| w.off_cpu_ns),
        sum(&all, |w| w.off_cpu_ns)
    );
    assert!(
        sleeping
            .stacks
            .iter()
            .all(|stack| stack.weights.wall_ns == stack.weights.off_cpu_ns)
    );

    let one = sampler.report_with(&["--thread", &pid]);
    assert!(
        !one.stacks.is_empty()
            && one
                .stacks
                .iter()
                .all(|stack| stack.thread.tid == target.pid())
    );
    let nobody = sampler.run(&["report", "--thread", "nobody at all"]);
    nobody.expect_error(5, &["--thread", "there are"]);
    let nobody = sampler.run(&["report", "--pid", "1"]);
    nobody.expect_error(5, &["--pid", &pid]);

    // Rows are what is told apart, and add up to the whole.
    let table = report(&sampler, &["-w", "off-cpu", "--by", "syscall", "-n", "0"]);
    assert!(
        table.contains("pause") && !table.contains("start_thread"),
        "{table}"
    );
    let percent = |line: &str| line.split_whitespace().next()?.parse::<f64>().ok();
    let whole: f64 = table.lines().skip(3).filter_map(percent).sum();
    assert!((whole - 100.0).abs() < 1.0, "{whole}: {table}");
    let by_thread = report(&sampler, &["-w", "wall", "--by", "thread", "-n", "0"]);
    assert!(
        by_thread.lines().filter(|line| line.contains('(')).count() >= 64,
        "{by_thread}"
    );
}

#[test]
fn callers_and_callees_of_a_function() {
    let sampler = sampler!();
    record(&sampler, "sampler.data", "shares", "500");
    let callees = report(&sampler, &["-f", "folded", "--callees-of", "one_round"]);
    assert!(
        callees.lines().all(|line| line.starts_with("one_round")),
        "{callees}"
    );
    assert!(callees.contains("one_round;burns_sixty "), "{callees}");
    let callers = report(&sampler, &["-f", "folded", "--callers-of", "burns_sixty"]);
    assert!(
        callers
            .lines()
            .all(|line| line.starts_with("burns_sixty;one_round;main")),
        "{callers}"
    );
    let inverted = report(&sampler, &["-f", "tree", "--inverted"]);
    let at = |word: &str| inverted.find(word).unwrap_or(usize::MAX);
    // Where we are may be called so too.
    assert!(at("burns_sixty") < at("  main"), "{inverted}");
    sampler.run(&["report", "--inverted"]).expect_code(2);
    let module = report(&sampler, &["--by", "module"]);
    assert!(
        module.contains("shares") && !module.contains("burns_sixty"),
        "{module}"
    );
    let export = sampler.run(&["export", "-f", "folded", "--function", "burns_ten"]);
    export.expect_code(0);
    assert!(
        export
            .text()
            .lines()
            .all(|line| line.contains(";burns_ten")),
        "{}",
        export.text()
    );
}

#[test]
fn recordings_are_compared() {
    let sampler = sampler!();
    record(&sampler, "before.data", "shares", "600");
    record(&sampler, "again.data", "shares", "600");
    record(&sampler, "other.data", "recursion", "600");
    let same = sampler.run(&["diff", "before.data", "again.data", "--fail-above", "30"]);
    same.expect_code(0);
    assert!(same.text().contains("before  CPU time"), "{}", same.text());
    let grown = sampler.run(&["diff", "before.data", "other.data", "--fail-above", "30%"]);
    grown.expect_code(6);
    assert!(
        grown.stderr.contains("has grown by more than 30 points"),
        "{}",
        grown.stderr
    );
    let table = grown.text();
    let sixty = table
        .lines()
        .find(|line| line.contains("burns_sixty"))
        .unwrap_or_default();
    assert!(
        sixty.contains("***") && sixty.contains("0.00%") && sixty.contains('-'),
        "{table}"
    );
    sampler
        .run(&["diff", "before.data", "again.data", "-o", "diff.svg"])
        .expect_code(0);
    let svg = fs::read_to_string(sampler.path("diff.svg")).expect("it is written");
    assert!(svg.contains("<svg") && svg.contains("burns_sixty"));
}

#[test]
fn recordings_are_merged() {
    let sampler = sampler!();
    record(&sampler, "a.data", "shares", "300");
    record(&sampler, "b.data", "shares", "300");
    sampler
        .run(&["merge", "b.data", "a.data", "-o", "both.data"])
        .expect_code(0);
    let of = |file: &str| sampler.report_of(&sampler.path(file));
    let (a, b, both) = (of("a.data"), of("b.data"), of("both.data"));
    let weights: [Of; 3] = [|w| w.cpu_ns, |w| w.wall_ns, |w| w.samples];
    for weight in weights {
        assert_eq!(sum(&both, weight), sum(&a, weight) + sum(&b, weight));
    }
    assert_eq!(both.summary.samples, a.summary.samples + b.summary.samples);
    assert_eq!(both.summary.wall_ns, a.summary.wall_ns + b.summary.wall_ns);
    // The second one lies behind the first.
    let first = sampler.run(&["report", "-f", "json", "both.data", "--time", "..100ms"]);
    let pids: std::collections::BTreeSet<i32> = Report::parse(&first.stdout)
        .stacks
        .iter()
        .map(|stack| stack.process.pid)
        .collect();
    assert_eq!(pids.len(), 1);
    sampler
        .run(&["merge", "a.data", "-o", "a.data"])
        .expect_code(2);
    sampler
        .run(&["merge", "a.data", "none.data", "-o", "x.data"])
        .expect_error(1, &["none.data"]);
    assert!(!sampler.path("x.data").exists());
}

#[test]
fn files_of_other_tools_are_named() {
    let sampler = sampler!();
    record(&sampler, "sampler.data", "shares", "200");
    sampler.run(&["export", "-o", "x.pb.gz"]).expect_code(0);
    sampler
        .run(&["export", "-o", "x.speedscope.json"])
        .expect_code(0);
    sampler
        .run(&["export", "-o", "x.firefox.json.gz"])
        .expect_code(0);
    sampler
        .run(&["export", "-o", "x.trace.json"])
        .expect_code(0);
    sampler.run(&["report", "-o", "x.json"]).expect_code(0);
    sampler.run(&["report", "-o", "x.svg"]).expect_code(0);
    sampler.run(&["report", "-o", "x.folded"]).expect_code(0);
    fs::write(sampler.path("perf.data"), b"PERFILE2h\0\0\0\0\0\0\0").expect("it can be written");
    fs::copy(fixture("shares"), sampler.path("program")).expect("it can be copied");
    for (file, word) in [
        ("x.pb.gz", "pprof"),
        ("x.speedscope.json", "speedscope"),
        ("x.firefox.json.gz", "Firefox"),
        ("x.trace.json", "Chrome"),
        ("x.json", "report of sampler"),
        ("x.svg", "SVG"),
        ("x.folded", "folded stacks"),
        ("perf.data", "perf.data file"),
        ("program", "ELF"),
    ] {
        let done = sampler.run(&["report", file]);
        done.expect_error(1, &[file, word, "not a recording of sampler"]);
    }
}

#[test]
fn an_empty_recording_says_why() {
    let sampler = sampler!();
    let writer =
        Writer::create(Vec::new(), &RecordingInfo::default()).expect("memory can be written");
    let empty = writer
        .finish(&Summary::default())
        .expect("memory can be written");
    fs::write(sampler.path("sampler.data"), empty).expect("the folder can be written");
    let done = sampler.run(&["report"]);
    done.expect_error(5, &["holds no samples", "no process to record"]);
    sampler
        .run(&["export", "-f", "pprof", "-o", "x.pb.gz"])
        .expect_error(5, &["no samples"]);
    sampler
        .run(&["diff", "sampler.data", "sampler.data"])
        .expect_error(5, &["no samples"]);
}

#[test]
fn sleepers_say_what_they_wait_for() {
    let sampler = sampler!();
    let socket = sampler.path("socket");
    let socket = socket.to_str().expect("our paths are text");
    let mut command = Command::new(fixture("waits"));
    command.arg(socket);
    let mut target = Target::spawn(&mut command);
    let ports = target.until_line(|line| line.starts_with("port "));
    target.until_ready();
    target.until_all_threads_sleep();
    target.until("ten threads", || target.threads().len() == 10);
    target.until_all_threads_sleep();
    let numbers: Vec<&str> = ports.split_whitespace().collect();
    let (port, peer) = (numbers[1], numbers[3]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "1", "-r", "99"])
        .expect_code(0);
    let report = sampler.report();
    let leaf = |function: &str| {
        let stacks = report.stacks.iter().filter(|stack| stack.has(function));
        let heaviest = stacks.max_by_key(|stack| stack.weights.off_cpu_ns);
        heaviest
            .and_then(|stack| stack.frames.last())
            .map(|leaf| leaf.function.clone())
            .unwrap_or_default()
    };
    let holder = report
        .stacks
        .iter()
        .find(|stack| stack.thread.name == "holder");
    let holder = holder.map_or(0, |stack| stack.thread.tid);
    for function in ["waits_for_mutex", "waits_for_inheriting_mutex"] {
        let leaf = leaf(function);
        let end = format!("held by thread {holder} (holder)]");
        assert!(
            leaf.starts_with("[futex 0x") && leaf.ends_with(&end),
            "{leaf}: {}",
            report.heaviest()
        );
    }
    assert_eq!(
        leaf("waits_for_connection"),
        format!("[recvfrom tcp 127.0.0.1:{peer}]")
    );
    assert_eq!(
        leaf("polls_connection"),
        format!("[poll tcp 127.0.0.1:{port}]")
    );
    assert_eq!(leaf("waits_for_caller"), format!("[accept unix {socket}]"));
    assert_eq!(leaf("waits_for_event"), "[read eventfd]");
    let lock = format!("{socket}.lock");
    assert_eq!(leaf("waits_for_file"), format!("[flock file {lock}]"));
    assert_eq!(leaf("waits_for_pipe"), "[read pipe]");
    assert!(
        leaf("waits_for_time").contains("nanosleep]"),
        "{}",
        leaf("waits_for_time")
    );
    let table = sampler.run(&["report", "-w", "off-cpu", "--by", "file", "-n", "0"]);
    let table = table.text();
    for row in [
        format!("tcp 127.0.0.1:{peer}"),
        format!("unix {socket}"),
        "eventfd".to_owned(),
        lock,
    ] {
        assert!(table.contains(&row), "{row}: {table}");
    }
}

#[test]
fn the_other_end_of_a_pipe_is_named() {
    let sampler = sampler!();
    // Its standard input is a pipe that we hold.
    let mut command = Command::new("/bin/cat");
    command.stdin(std::process::Stdio::piped());
    let mut target = Target::spawn(&mut command);
    let _held = target.take_stdin();
    target.until_all_threads_sleep();
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "1", "-r", "99"])
        .expect_code(0);
    let report = sampler.report();
    let ours = format!("[read pipe → pid {} (", std::process::id());
    let is_named = report.stacks.iter().filter_map(|stack| stack.frames.last());
    let mut leaves = is_named.map(|leaf| leaf.function.as_str());
    assert!(
        leaves.any(|leaf| leaf.starts_with(&ours)),
        "{ours}: {}",
        report.heaviest()
    );
}
