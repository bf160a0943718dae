//! Lua by LuaJIT: its frames, with file and line, inside the native stack.
//!
//! The truth comes from the programs: stacks that they print themselves (debug.traceback) at a place where they stop,
//! shares of CPU time that they measure, and calls that they can have made.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampler_tests_support::{
    Ended, Frame, Report, Sampler, Stack, Target, need, repository, sampler,
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

/// Starts the program that stops, and gives the lines that it says it is at, innermost first: it prints the stacks of
/// its coroutines from the outermost to the innermost.
fn stacks_of(mode: &str, how: &str) -> (Target, Vec<String>) {
    let mut target = lua(mode, "stop.lua", &[how]);
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
    assert_eq!(lines.len(), 14, "the program stops elsewhere: {lines:?}");
    (target, lines)
}

#[test]
fn a_sleeper_s_stack_is_the_one_that_it_has_printed() {
    for mode in MODES {
        let sampler = sampler!();
        let (target, truth) = stacks_of(mode, "read");
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
    expect_lost_at_most(report, 0.005);
}

fn expect_lost_at_most(report: &Report, share: f64) {
    let whole = report.summary.interpreted;
    let lost: u64 = report.summary.interpreted_lost.values().sum();
    assert!(
        whole > 0 && lost as f64 <= share * whole as f64 + 2.0,
        "{whole} whole, lost {:?}; the profile:\n{}",
        report.summary.interpreted_lost,
        report.heaviest()
    );
}

#[test]
fn a_spinning_thread_s_stacks_are_the_one_that_it_has_printed() {
    for mode in MODES {
        let sampler = sampler!();
        let (target, mut truth) = stacks_of(mode, "spin");
        // From the line with the output to that with the loop.
        truth[0] = "stop.lua:7".to_owned();
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
        let unit = if mode == "-joff" { "20000" } else { "200000" };
        let mut target = lua(mode, "split.lua", &[unit, "2.5"]);
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
    /// Who is called by whom.
    const VIA: [(&str, &str); 3] = [("via_a", "a"), ("via_b", "b"), ("via_c", "c")];
    for mode in MODES {
        let sampler = sampler!();
        let mut target = lua(mode, "alternate.lua", &[]);
        target.until_ready();
        let report = record(&sampler, &target, &[]);
        // A third of it runs in closures that live for microseconds: some are gone before they are read.
        expect_lost_at_most(&report, 0.15);
        let mut impossible = BTreeSet::new();
        // One that says that frames are missing is none that never was; how many may is asserted above.
        let is_whole = |stack: &&Stack| {
            let mut names = stack.frames.iter().map(|frame| &frame.function);
            !names.any(|name| name.starts_with("[lua: lost"))
        };
        for stack in report.stacks.iter().filter(is_whole) {
            let names: Vec<&str> = stack
                .frames
                .iter()
                .filter(|frame| matches!(frame.kind.as_str(), "interpreted" | "compiled"))
                .filter_map(|frame| frame.function.split(' ').next())
                // The function of the coroutine has no name, or that of the variable through which it is called.
                .filter(|name| !name.starts_with("alternate.lua") && *name != "co")
                .collect();
            let is_possible = match names.as_slice() {
                [] | ["main"] => true,
                ["main", caller] => VIA.iter().any(|(_, own)| own == caller),
                ["main", caller, via] => VIA.contains(&(via, caller)),
                ["main", caller, via, "leaf"] => VIA.contains(&(via, caller)),
                _ => false,
            };
            if !is_possible {
                impossible.insert(names.join(" > "));
            }
        }
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

const NGINX: &str = r#"
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
daemon off; master_process off; pid nginx.pid; error_log error.log;
events {}
http {
  access_log off;
  client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  init_by_lua_block { cjson = require "cjson" print("ready") }
  server {
    listen 127.0.0.1:PORT;
    location / { content_by_lua_block {
      local function build(n)
        local list = {}
        for i = 1, n do list[i] = { id = i, name = string.format("item-%d", i), tags = { "a", "b" } } end
        return list
      end
      local function checksum(text)
        local sum = 0
        for i = 1, #text do sum = (sum * 31 + text:byte(i)) % 65536 end
        return sum
      end
      local text = cjson.encode(build(50))
      local words = {}
      for word in text:gmatch("%a+") do words[#words + 1] = word:upper() end
      local replaced = ngx.re.gsub(text, "item-([0-9]+)", "x$1", "jo")
      ngx.say(checksum(text), #cjson.decode(text), #words, #replaced)
    } }
  }
}
"#;

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
    let report = record(&sampler, &nginx, &[]);
    report.expect_complete();
    expect_whole(&report);
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
