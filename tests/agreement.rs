//! `sampler dump` beside gdb: the same threads, stopped at the same moments, must have the same stacks.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use sampler_tests_support::{Sampler, Signal, Target, fixture, need, sampler};
use serde::Deserialize;

/// How often each program is stopped. It runs freely in between, for as long as gdb took: nobody chooses the moments.
const MOMENTS: usize = 4;

/// Prints `frame TID TYPE NAME` for each frame of each thread, innermost first.
const STACKS_OF_GDB: &str = r#"
import gdb
gdb.execute("set backtrace past-main on")
for thread in gdb.selected_inferior().threads():
    thread.switch()
    frame = gdb.newest_frame()
    while frame is not None:
        print("frame", thread.ptid[1], frame.type(), frame.name() or "??")
        frame = frame.older()
"#;

/// gdb.TAILCALL_FRAME and gdb.SIGTRAMP_FRAME.
const TAIL_CALL: &str = "3";
const SIGNAL_HANDLER_CALLED: &str = "4";

/// Where a thread or a program begins. gdb goes on there where it finds no CFI, in whatever lies on the stack.
const OUTERMOST: [&str; 4] = ["clone3", "clone", "start", "dl_start_user"];

/// A thread's function names, innermost first, by its number.
type Stacks = BTreeMap<i32, Vec<String>>;

#[derive(Deserialize)]
struct Dump {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    threads: Vec<Thread>,
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Thread {
    tid: i32,
}

#[derive(Deserialize)]
struct Frame {
    function: String,
}

#[test]
fn stacks_are_those_that_gdb_shows() {
    let sampler = sampler!();
    let script = sampler.path("stacks.py");
    fs::write(&script, STACKS_OF_GDB).expect("the folder can be written");
    let (mut threads, mut differences) = (0, Vec::new());
    for (name, mut command) in programs(&sampler) {
        let mut target = Target::spawn(command.stderr(Stdio::null()));
        if name == "threads64" {
            target.until_ready();
            target.tell("\n");
        }
        for _ in 0..MOMENTS {
            target.until_it_ran();
            target.signal(Signal::SIGSTOP);
            target.until_all_threads("T");
            let ours = stacks_of_dump(&sampler, &target);
            let theirs = stacks_of_gdb(&script.to_string_lossy(), &target);
            target.signal(Signal::SIGCONT);
            assert_eq!(
                ours.keys().collect::<Vec<_>>(),
                theirs.keys().collect::<Vec<_>>(),
                "threads of {name}"
            );
            threads += ours.len();
            differences.extend(ours.iter().filter_map(|(tid, ours)| {
                let theirs = &theirs[tid];
                (ours != theirs)
                    .then(|| format!("{name}, thread {tid}:\n ours {ours:?}\n gdb  {theirs:?}\n"))
            }));
        }
    }
    assert!(
        differences.len() * 100 <= threads && threads > 200,
        "{} of {threads} threads differ:\n{}",
        differences.len(),
        differences.concat()
    );
}

/// Programs that are busy all the time, most of them with threads that sleep.
fn programs(sampler: &Sampler) -> Vec<(&'static str, Command)> {
    const PERL: &str = "while (1) { my %h; $h{$_ % 97} .= 'x' for 1..1000; s/x+/y/ for values %h }";
    const PYTHON: &str = "import threading, json\n\
        for _ in range(3): threading.Thread(target=threading.Event().wait, daemon=True).start()\n\
        while True: json.loads(json.dumps([{'a': list(range(99))}] * 9))";
    const SQL: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) \
        SELECT sum(x * 7 % 13), max(hex(x)) FROM n;";
    let command = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(need(program));
        command.args(arguments).current_dir(sampler.folder());
        command
    };
    let mut threads64 = Command::new(fixture("threads64"));
    threads64.arg("0");
    vec![
        ("threads64", threads64),
        ("python3", command("python3", &["-S", "-c", PYTHON])),
        ("perl", command("perl", &["-e", PERL])),
        ("sqlite3", command("sqlite3", &[":memory:", SQL])),
        (
            "openssl",
            command("openssl", &["speed", "-seconds", "60", "sha256"]),
        ),
        (
            "redis-server",
            command(
                "redis-server",
                &["--port", "0", "--unixsocket", "redis.socket", "--hz", "500"],
            ),
        ),
    ]
}

fn stacks_of_dump(sampler: &Sampler, target: &Target) -> Stacks {
    // gdb shows the interpreter's functions, not what it executes.
    let done = sampler.run(&["dump", "--json", "--lang", "none", "-p", &target.pid_text()]);
    done.expect_code(0);
    let dump: Dump = serde_json::from_slice(&done.stdout).expect("what is said to be JSON is");
    let mut stacks = Stacks::new();
    for Group { threads, frames } in dump.groups {
        let names = frames.iter().map(|frame| frame.function.as_str());
        // What a thread does in the kernel is the innermost frame, which gdb does not show.
        let names: Vec<String> = names
            .enumerate()
            .filter(|(at, name)| *at > 0 || !is_in_kernel(name))
            .map(|(_, name)| skeleton(name))
            .collect();
        stacks.extend(threads.iter().map(|thread| (thread.tid, names.clone())));
    }
    stacks
}

fn is_in_kernel(name: &str) -> bool {
    // `[futex]`, `[page fault]`; a function without a name is `[unknown in …]`.
    name.starts_with('[') && !name.starts_with("[unknown")
}

fn stacks_of_gdb(script: &str, target: &Target) -> Stacks {
    let output = Command::new(need("gdb"))
        .args(["-nx", "-batch", "-p", &target.pid_text(), "-x", script])
        .output()
        .expect("gdb can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut stacks = Stacks::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("frame ")) {
        let mut words = line.splitn(3, ' ');
        let tid = words.next().and_then(|tid| tid.parse().ok());
        let (Some(tid), Some(kind), Some(name)) = (tid, words.next(), words.next()) else {
            panic!("gdb says {line:?}");
        };
        let stack = stacks.entry(tid).or_default();
        match kind {
            _ if stack
                .last()
                .is_some_and(|name| OUTERMOST.contains(&name.as_str())) => {}
            // A function that has jumped to its last callee and is on the stack no more; gdb infers it.
            TAIL_CALL => {}
            SIGNAL_HANDLER_CALLED => stack.push("restore_rt".to_owned()),
            _ => stack.push(skeleton(name)),
        }
    }
    stacks
}

/// What is left of a function's name without what the two spell differently: namespaces and classes (which DWARF alone
/// may not tell of inlined functions), template arguments, parameters, result types, and which of several names of one
/// address is shown (`__GI___libc_read` and `read`).
fn skeleton(name: &str) -> String {
    // gdb makes up no names.
    if name.starts_with('[') || name.contains("!fn_") || name == "??" {
        return "??".to_owned();
    }
    let name = name
        .split(" [clone")
        .next()
        .unwrap_or_default()
        .replace("(anonymous namespace)", "")
        .replace("operator()", "call")
        .replace("operator<", "less")
        .replace("operator>", "more");
    let mut depth = 0_u32;
    let mut bare = String::new();
    for letter in name.chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            '(' if depth == 0 => break,
            letter if depth == 0 => bare.push(letter),
            _ => {}
        }
    }
    let last = bare
        .trim_end()
        .rsplit([' ', ':'])
        .next()
        .unwrap_or_default();
    let last = last.split('@').next().unwrap_or_default();
    let last = last.strip_prefix("__GI_").unwrap_or(last);
    let last = last.trim_start_matches('_');
    let last = last.strip_prefix("libc_").unwrap_or(last);
    last.strip_suffix("_impl").unwrap_or(last).to_owned()
}
