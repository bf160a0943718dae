//! Lua by LuaJIT: its frames, with file and line, inside the native stack.
//!
//! The truth comes from the programs: stacks that they print themselves (debug.traceback) at a place where they stop,
//! shares of CPU time that they measure, and calls that they can have made.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampler_tests_support::{
    Ended, Frame, Report, Sampler, Stack, Target, need, never_were, repository, sampler,
};

fn script(name: &str) -> PathBuf {
    repository().join("fixtures/lua").join(name)
}

/// With the compiler and without.
const MODES: [&str; 2] = ["-joff", "-jon"];

fn lua(mode: &str, name: &str, arguments: &[&str]) -> Target {
    let mut command = Command::new(need("luajit"));
    command.arg(mode).arg(script(name)).args(arguments);
    Target::spawn(&mut command)
}

/// The file and line of each Lua function in what debug.traceback has printed, innermost first.
fn lines_of_traceback(text: &str) -> Vec<String> {
    let frames = text.lines().filter_map(|line| line.strip_prefix('\t'));
    frames
        .filter(|frame| !frame.starts_with("[C]"))
        .filter_map(|frame| {
            let (place, _) = frame.split_once(": in ")?;
            Some(place.rsplit('/').next()?.to_owned())
        })
        .collect()
}

/// The same of frames that we have found, innermost first.
fn lines_of<'a>(frames: impl Iterator<Item = &'a Frame>) -> Vec<String> {
    frames
        .filter(|frame| matches!(frame.kind.as_str(), "interpreted" | "compiled"))
        .map(|frame| {
            let file = frame.file.as_deref().unwrap_or("?");
            let file = file.rsplit('/').next().unwrap_or(file);
            format!("{file}:{}", frame.line.unwrap_or(0))
        })
        .collect()
}

/// The programs that stop, with the lines that they stop at and spin at, and how many frames they have.
const STOPPING: [(&str, &str, &str, usize); 2] = [
    ("stop.lua", "stop.lua:5", "stop.lua:7", 14),
    ("callback.lua", "callback.lua:9", "callback.lua:11", 6),
];

/// Starts a program that stops, and gives the lines that it says it is at, innermost first: it prints the stacks of
/// its coroutines from the outermost to the innermost.
fn stacks_of(mode: &str, name: &str, how: &str, frames: usize) -> (Target, Vec<String>) {
    let mut target = lua(mode, name, &[how]);
    let mut sections = vec![String::new()];
    loop {
        let line = target.until_line(|_| true);
        match line.as_str() {
            "ready" => break,
            "outer" | "middle" | "inner" => sections.push(String::new()),
            _ => {
                let section = sections.last_mut().expect("there is one");
                section.push_str(&line);
                section.push('\n');
            }
        }
    }
    let lines = sections
        .iter()
        .rev()
        .map(|section| lines_of_traceback(section));
    let lines: Vec<String> = lines.flatten().collect();
    assert_eq!(lines.len(), frames, "{name} stops elsewhere: {lines:?}");
    (target, lines)
}

#[test]
fn a_sleeper_s_stack_is_the_one_that_it_has_printed() {
    let programs = STOPPING
        .iter()
        .flat_map(|program| MODES.map(|mode| (mode, program)));
    for (mode, &(name, stops, _, frames)) in programs {
        let sampler = sampler!();
        let (target, truth) = stacks_of(mode, name, "read", frames);
        assert_eq!(truth[0], stops);
        target.until_all_threads_sleep();
        let done = sampler.run(&["dump", "--json", "-p", &target.pid_text()]);
        done.expect_code(0);
        let dump: serde_json::Value = serde_json::from_str(&done.text()).expect("JSON");
        let frames = dump["groups"][0]["frames"].clone();
        let frames: Vec<Frame> = serde_json::from_value(frames).expect("frames");
        assert_eq!(lines_of(frames.iter()), truth, "{mode}: {}", done.text());
    }
}

/// The Lua frames of a stack, innermost first.
fn lines_of_stack(stack: &Stack) -> Vec<String> {
    lines_of(stack.frames.iter().rev())
}

/// Records a target for a while, and gives the report.
fn record(sampler: &Sampler, target: &Target, arguments: &[&str]) -> Report {
    let pid = target.pid_text();
    let words = ["record", "-p", &pid, "-d", "1.5", "-r", "997"];
    let words = [&words[..], arguments].concat();
    sampler.run(&words).expect_code(0);
    sampler.report()
}

/// Asserts that hardly any stack in Lua lacks frames.
#[track_caller]
fn expect_whole(report: &Report) {
    let whole = report.summary.interpreted;
    let lost: u64 = report.summary.interpreted_lost.values().sum();
    assert!(
        whole > 0 && lost as f64 <= 0.005 * whole as f64 + 2.0,
        "{whole} whole, lost {:?}; the profile:\n{}",
        report.summary.interpreted_lost,
        report.heaviest()
    );
}

#[test]
fn a_spinning_thread_s_stacks_are_the_one_that_it_has_printed() {
    let programs = STOPPING
        .iter()
        .flat_map(|program| MODES.map(|mode| (mode, program)));
    for (mode, &(name, _, spins, frames)) in programs {
        let sampler = sampler!();
        let (target, mut truth) = stacks_of(mode, name, "spin", frames);
        // From the line with the output to that with the loop.
        truth[0] = spins.to_owned();
        target.until_it_ran();
        let report = record(&sampler, &target, &[]);
        report.expect_complete();
        expect_whole(&report);
        let is_true = |stack: &Stack| lines_of_stack(stack) == truth;
        report.expect_share(mode, report.cpu_share(is_true), 0.99);
    }
}

/// The shares that the program has measured, by name.
fn measured(ended: &Ended) -> Vec<(&'static str, f64)> {
    let names = ["alpha", "beta", "first", "second"];
    let times = names.map(|name| ended.number_after(name) as f64);
    let all: f64 = times.iter().sum();
    names
        .into_iter()
        .zip(times.map(|time| time / all))
        .collect()
}

#[test]
fn functions_and_lines_have_the_shares_that_they_took() {
    for mode in MODES {
        let sampler = sampler!();
        // Each of the four lasts longer than it is from one sample to the next: were all of them as short as that, their
        // shares would hang on where in such a round the samples happen to fall.
        let mut target = lua(mode, "split.lua", &["200000", "2.5"]);
        target.until_ready();
        let running = sampler.attach(target.pid(), &["-r", "499"]);
        target.tell("\n");
        let ended = target.wait();
        running.wait().expect_code(0);
        let report = sampler.report();
        report.expect_complete();
        expect_whole(&report);
        let leaf = |stack: &Stack| lines_of_stack(stack).first().cloned().unwrap_or_default();
        let is_in = |lines: std::ops::RangeInclusive<u32>| {
            report.cpu_share(|stack| {
                let leaf = leaf(stack);
                let line = leaf
                    .strip_prefix("split.lua:")
                    .and_then(|line| line.parse().ok());
                line.is_some_and(|line| lines.contains(&line))
            })
        };
        let shares = [
            is_in(6..=10),
            is_in(12..=16),
            is_in(19..=20),
            is_in(21..=22),
        ];
        let all: f64 = shares.iter().sum();
        assert!(
            all > 0.9,
            "{mode}: {all} in the four; {}",
            report.heaviest()
        );
        for ((name, truth), found) in measured(&ended).into_iter().zip(shares) {
            assert!(
                (truth - found / all).abs() <= 0.03,
                "{mode}: {name} took {truth:.3}, found {:.3}; the profile:\n{}",
                found / all,
                report.heaviest()
            );
        }
    }
}

#[test]
fn no_stack_is_one_that_never_was() {
    for mode in MODES {
        let sampler = sampler!();
        let mut target = lua(mode, "alternate.lua", &[]);
        target.until_ready();
        let report = record(&sampler, &target, &[]);
        // A third of it runs in closures that live for microseconds.
        expect_whole(&report);
        let impossible = never_were(&report);
        assert!(impossible.is_empty(), "{mode}: {impossible:#?}");
        report.expect_share("leaf", report.share_below("leaf"), 0.05);
    }
}

#[test]
fn what_is_not_wanted_is_not_there() {
    let sampler = sampler!();
    let mut target = lua("-jon", "alternate.lua", &[]);
    target.until_ready();
    let report = record(&sampler, &target, &["--lang", "none"]);
    let has_lua = |report: &Report| {
        let mut frames = report.stacks.iter().flat_map(|stack| &stack.frames);
        frames.any(|frame| frame.language.is_some())
    };
    assert!(!has_lua(&report) && report.summary.interpreted == 0);
    let report = record(&sampler, &target, &["--lang", "lua"]);
    assert!(has_lua(&report));
    let report = sampler.report_with(&["--lang", "python"]);
    assert!(!has_lua(&report));
    let report = sampler.report_with(&["--no-native", "--by", "line"]);
    let mut frames = report.stacks.iter().flat_map(|stack| &stack.frames);
    assert!(
        frames.all(|frame| frame.kind != "native"),
        "{}",
        report.heaviest()
    );
    report.expect_share("a line", report.share_below("leaf (alternate.lua:6)"), 0.05);
}

const NGINX: &str = include_str!("../fixtures/lua/nginx.conf");

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
    listener.local_addr().expect("it has an address").port()
}

/// Waits until somebody answers.
fn until_it_answers(nginx: &Target, folder: &Path, port: u16) {
    nginx.until("an answer", || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let mut answer = String::new();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    });
    let log = fs::read_to_string(folder.join("error.log")).unwrap_or_default();
    assert!(!log.contains("[error]"), "{log}");
}

#[test]
fn nginx_under_load_has_whole_lua_stacks() {
    let sampler = sampler!();
    let port = free_port();
    let configuration = sampler.path("nginx.conf");
    fs::write(&configuration, NGINX.replace("PORT", &port.to_string())).expect("it can be written");
    let mut command = Command::new(need("nginx"));
    command
        .arg("-p")
        .arg(sampler.folder())
        .arg("-c")
        .arg(&configuration);
    let nginx = Target::spawn(&mut command);
    until_it_answers(&nginx, sampler.folder(), port);
    let mut load = Command::new(need("wrk"));
    load.args(["-t1", "-c8", "-d20", &format!("http://127.0.0.1:{port}/")]);
    let _load = Target::spawn(&mut load);
    nginx.until_it_ran();
    // At a rate for production, and at a high one.
    let pid = nginx.pid_text();
    for (rate, seconds) in [("99", "3"), ("997", "2")] {
        let words = ["record", "-p", &pid, "-d", seconds, "-r", rate];
        sampler.run(&words).expect_code(0);
        let report = sampler.report();
        report.expect_complete();
        expect_whole(&report);
    }
    let report = sampler.report();
    let main = report.share_below("main chunk (content_by_lua(nginx.conf:");
    report.expect_share("the handler", main, 0.4);
    let encode = |stack: &Stack| {
        let is_cjson = |frame: &Frame| {
            frame
                .module
                .as_deref()
                .is_some_and(|module| module.contains("cjson"))
        };
        let builtin = stack
            .frames
            .iter()
            .position(|frame| frame.function == "cjson.encode");
        builtin.is_some_and(|at| stack.frames.iter().skip(at).any(is_cjson))
    };
    report.expect_share("C code under its Lua name", report.cpu_share(encode), 0.01);
    let is_line = |stack: &Stack| {
        stack.frames.iter().any(|frame| {
            frame
                .function
                .starts_with("checksum (content_by_lua(nginx.conf:")
        })
    };
    report.expect_share("a function of the block", report.cpu_share(is_line), 0.01);
    nginx.assert_free();
}
