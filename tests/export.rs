//! `sampler export`: every format, read back by what reads it.

use std::fs;
use std::process::{Command, Output};

use sampler_tests_support::{
    Browser, Done, Sampler, Target, fixture, need, need_speedscope, repository, sampler,
};
use serde_json::Value;

/// A second of `shares`, recorded. Where the clock is read by a system call, that takes a tenth of it besides the three
/// functions.
#[track_caller]
fn recorded() -> Sampler {
    let sampler = sampler!();
    let program = fixture("shares");
    let program = program.to_str().expect("our paths are text");
    sampler
        .run(&[
            "record",
            "-r",
            "999",
            "--max-overhead",
            "off",
            "--",
            program,
            "1000",
        ])
        .expect_code(0);
    sampler
}

/// Exports to a file of this name, and gives its bytes.
#[track_caller]
fn exported(sampler: &Sampler, name: &str, options: &[&str]) -> Vec<u8> {
    let words = [&["export", "-o", name], options].concat();
    let done = sampler.run(&words);
    done.expect_code(0);
    assert!(done.stdout.is_empty(), "it goes to the file alone");
    fs::read(sampler.path(name)).expect("it is written")
}

#[track_caller]
fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("it is JSON")
}

#[track_caller]
fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What all stacks weigh by the JSON report.
#[track_caller]
fn cpu_ns(sampler: &Sampler) -> u64 {
    let stacks = sampler.report().stacks;
    stacks.iter().map(|stack| stack.weights.cpu_ns).sum()
}

#[test]
fn pprof_is_read_by_go_tool_pprof() {
    let sampler = recorded();
    exported(&sampler, "profile.pb.gz", &[]);
    let pprof = |options: &[&str]| {
        let output = Command::new(need("go"))
            .args(["tool", "pprof"])
            .args(options)
            .arg(sampler.path("profile.pb.gz"))
            .env("HOME", sampler.folder())
            .env("PPROF_TMPDIR", sampler.folder())
            .output();
        text(&output.expect("go is there"))
    };
    let top = pprof(&["-top"]);
    assert!(top.contains("Type: cpu"), "{top}");
    let sixty = top.lines().find(|line| line.contains("burns_sixty"));
    let share = sixty.and_then(|line| line.split_whitespace().nth(1));
    let share: Option<f64> = share.and_then(|share| share.trim_end_matches('%').parse().ok());
    assert!(
        share.is_some_and(|share| (45.0..75.0).contains(&share)),
        "{top}"
    );
    let raw = pprof(&["-raw"]);
    for word in [
        "samples/count",
        "cpu/nanoseconds",
        "off_cpu/nanoseconds",
        "thread:[shares]",
        "shares.c",
    ] {
        assert!(raw.contains(word), "{word}: {raw}");
    }
    let other = pprof(&["-top", "-sample_index=samples"]);
    assert!(other.contains("Type: samples"), "{other}");
}

#[test]
fn speedscope_is_what_its_schema_says() {
    let sampler = recorded();
    let document = json(&exported(&sampler, "profile.speedscope.json", &[]));
    let schema = repository().join("fixtures/schemas/speedscope.json");
    let output = Command::new(need("jsonschema"))
        .arg("-i")
        .arg(sampler.path("profile.speedscope.json"))
        .arg(schema)
        .output()
        .expect("jsonschema is there");
    text(&output);
    let profiles = document["profiles"].as_array().expect("a list");
    let weights = profiles
        .iter()
        .flat_map(|profile| profile["weights"].as_array().expect("a list"));
    let sum: u64 = weights.filter_map(Value::as_u64).sum();
    assert_eq!(sum, cpu_ns(&sampler));
    assert!(
        profiles
            .iter()
            .all(|profile| profile["unit"] == "nanoseconds")
    );
}

/// What speedscope's own page makes of a file, by its importer: the title, and the rows of its table of functions, most
/// of their own time first: total, self, name.
#[track_caller]
fn in_speedscope(
    browser: &mut Browser,
    sampler: &Sampler,
    file: &str,
) -> (String, Vec<[String; 3]>) {
    use base64::Engine as _;
    const ROWS: &str = "[...document.querySelectorAll('tr')]\
        .map((row) => [...row.cells].map((cell) => cell.innerText.trim())).filter((row) => row.length === 3)";
    let bytes = fs::read(sampler.path(file)).expect("it was exported");
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    // How its command line program hands it a file.
    let script = sampler.path(&format!("{file}.js"));
    let call = format!("speedscope.loadFileFromBase64('{file}', '{text}')");
    fs::write(&script, call).expect("the folder can be written");
    let behind = format!(
        "?{file}#localProfilePath={}&view=sandwich",
        script.display()
    );
    let ready = format!(
        "location.search === '?{file}' && document.title !== 'speedscope' && {ROWS}.length > 1"
    );
    browser.open_with(&need_speedscope(), &behind, &ready);
    let title = browser.evaluate("document.title");
    let rows = serde_json::from_value(browser.evaluate(ROWS)).expect("rows of three texts");
    (title.as_str().unwrap_or_default().to_owned(), rows)
}

#[test]
fn speedscope_reads_what_it_is_given() {
    let sampler = recorded();
    let mut browser = Browser::start();
    for (file, unit_is_known) in [
        ("x.speedscope.json", true),
        ("x.pb.gz", true),
        ("x.perf", true),
        ("x.trace.json", true),
        ("x.folded", false),
        ("callgrind.out.x", false),
    ] {
        exported(&sampler, file, &[]);
        let (title, rows) = in_speedscope(&mut browser, &sampler, file);
        // Of its own format it names the thread, of others the file.
        let named = if file == "x.speedscope.json" {
            "shares ("
        } else {
            file
        };
        assert!(title.starts_with(named), "{file}: {title}");
        // Names of a trace have their arguments behind them.
        let of_sixty = rows.iter().find(|row| row[2].starts_with("burns_sixty"));
        let own = of_sixty.map_or("", |row| row[1].as_str());
        // As it writes it: `287.41ms (58%)`, or `287,410,000 (58%)` where it knows no unit.
        let percent = own.split(['(', '%']).nth(1).unwrap_or_default();
        let percent: f64 = percent.parse().unwrap_or_default();
        assert!((45.0..75.0).contains(&percent), "{file}: {rows:?}");
        assert_eq!(own.contains("s ("), unit_is_known, "{file}: {own}");
    }
    assert_eq!(browser.faults(), [] as [String; 0]);
}

#[test]
fn the_firefox_profiler_gets_threads_in_time() {
    let sampler = sampler!();
    let target = Target::start("bursts", &["60", "2"]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "2", "-r", "200"])
        .expect_code(0);
    let document = json(&exported(&sampler, "x.firefox.json", &["-w", "samples"]));
    assert_eq!(document["meta"]["symbolicated"], true);
    let threads = document["threads"].as_array().expect("a list");
    assert!(threads.len() >= 5, "{} threads", threads.len());
    let column = |thread: &Value, name: &str| -> Vec<f64> {
        let values = thread["samples"][name].as_array().expect("a list");
        values.iter().filter_map(Value::as_f64).collect()
    };
    let mut cpu_us = 0.0;
    let mut waits = 0;
    for thread in threads {
        let stacks = thread["samples"]["stack"].as_array().expect("a list").len();
        assert_eq!(column(thread, "threadCPUDelta").len(), stacks);
        cpu_us += column(thread, "threadCPUDelta").iter().sum::<f64>();
        let markers = thread["markers"]["data"].as_array().expect("a list");
        waits += markers
            .iter()
            .filter(|marker| marker["type"] == "Blocked")
            .count();
    }
    // What threads that ended used is not theirs; nobody has ended here.
    let accounted = cpu_ns(&sampler) as f64 / 1e3;
    assert!(
        (cpu_us - accounted).abs() < 0.05 * accounted + 5_000.0,
        "{cpu_us} of {accounted}"
    );
    assert!(waits >= 5, "{waits} waits");
    let plain = exported(&sampler, "x.firefox.json", &[]);
    let compressed = exported(&sampler, "x.firefox.json.gz", &[]);
    assert!(compressed.starts_with(b"\x1f\x8b") && compressed.len() < plain.len() / 2);
}

#[test]
fn chrome_gets_events_that_lie_inside_each_other() {
    let sampler = recorded();
    let document = json(&exported(&sampler, "x.trace.json", &["-w", "wall"]));
    let events = document["traceEvents"].as_array().expect("a list");
    let mut by_thread: std::collections::BTreeMap<i64, Vec<(f64, f64)>> = Default::default();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let number = |key: &str| event[key].as_f64().expect("a number");
        let tid = event["tid"].as_i64().expect("a number");
        by_thread
            .entry(tid)
            .or_default()
            .push((number("ts"), number("ts") + number("dur")));
    }
    let names = events.iter().filter(|event| event["ph"] == "M");
    assert!(names.clone().any(|event| event["args"]["name"] == "shares"));
    assert!(!by_thread.is_empty());
    for events in by_thread.values_mut() {
        events.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut open: Vec<f64> = Vec::new();
        for &(from, to) in events.iter() {
            while open.last().is_some_and(|&end| end <= from + 1e-6) {
                open.pop();
            }
            assert!(
                open.last().is_none_or(|&end| to <= end + 1e-6),
                "{from} to {to} in {open:?}"
            );
            open.push(to);
        }
    }
}

#[test]
fn perf_script_is_read_by_flame_graph_tools() {
    use inferno::collapse::Collapse;
    let sampler = recorded();
    let script = exported(&sampler, "out.perf", &[]);
    let mut folded = Vec::new();
    inferno::collapse::perf::Folder::default()
        .collapse(&*script, &mut folded)
        .expect("it is understood");
    let folded = String::from_utf8_lossy(&folded);
    let values = folded.lines().filter_map(|line| line.rsplit_once(' '));
    let (mut sum, mut of_three) = (0u64, [0u64; 3]);
    for (stack, value) in values {
        let value: u64 = value.parse().expect("a number");
        sum += value;
        for (own, function) in
            of_three
                .iter_mut()
                .zip([";burns_sixty", ";burns_thirty", ";burns_ten"])
        {
            *own += if stack.ends_with(function) { value } else { 0 };
        }
    }
    assert_eq!(sum, cpu_ns(&sampler));
    assert!(of_three[0] * 2 > of_three.iter().sum(), "{folded}");
}

#[test]
fn callgrind_is_read_by_callgrind_annotate() {
    let sampler = recorded();
    exported(&sampler, "callgrind.out.1", &[]);
    let output = Command::new(need("callgrind_annotate"))
        .args(["--inclusive=yes", "--auto=no"])
        .arg(sampler.path("callgrind.out.1"))
        .output();
    let text = text(&output.expect("it is there"));
    let number = |line: &str| -> u64 {
        let first = line.split_whitespace().next().unwrap_or_default();
        first.replace(',', "").parse().unwrap_or(0)
    };
    let line_of = |word: &str| {
        text.lines()
            .find(|line| line.contains(word))
            .unwrap_or_default()
    };
    let total = number(line_of("PROGRAM TOTALS"));
    assert_eq!(total, cpu_ns(&sampler), "{text}");
    assert!(number(line_of(":main ")) * 10 > total * 9, "{text}");
    let of_three =
        [":burns_sixty", ":burns_thirty", ":burns_ten"].map(|name| number(line_of(name)));
    assert!(of_three[0] * 2 > of_three.iter().sum(), "{text}");
}

#[test]
fn lines_of_json_are_the_report() {
    let sampler = recorded();
    let lines = exported(&sampler, "x.jsonl", &[]);
    let lines = String::from_utf8(lines).expect("text");
    let stacks = lines.lines().skip(1).map(|line| json(line.as_bytes()));
    let sum: u64 = stacks
        .filter_map(|stack| stack["weights"]["cpu_ns"].as_u64())
        .sum();
    assert_eq!(sum, cpu_ns(&sampler));
}

/// Asserts that the command line made no sense, and that these words say why.
#[track_caller]
fn refused(done: &Done, words: &[&str]) {
    done.expect_code(2);
    for word in words {
        assert!(done.stderr.contains(word), "{word}: {}", done.stderr);
    }
}

#[test]
fn without_a_format_the_known_ones_are_listed() {
    let sampler = sampler!();
    let unknown = sampler.run(&["export", "-f", "xml"]);
    refused(
        &unknown,
        &["xml", "pprof", "speedscope", "perf-script", "jsonl"],
    );
    let unknown = sampler.run(&["export", "-o", "profile.json"]);
    refused(&unknown, &["profile.json", ".speedscope.json", ".pb.gz"]);
    let none = sampler.run(&["export"]);
    refused(&none, &["--format"]);
}
