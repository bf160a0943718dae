//! Python programs, by every CPython that is on the machine: that of the distribution, and those of a version manager.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use sampler_tests_support::{
    Frame, Report, Sampler, Stack, Target, more_runtimes, need, repository, sampler,
};

/// That of the distribution, those of a version manager, if there is one here, and those that `tests/more-runtimes` has
/// got: 3.8 to 3.15.
fn pythons() -> Vec<PathBuf> {
    let mut found = vec![need("python3")];
    let versions = std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv/versions"));
    let entries = versions.and_then(|folder| std::fs::read_dir(folder).ok());
    let mut managed: Vec<_> = entries.into_iter().flatten().flatten().collect();
    managed.sort_by_key(|entry| entry.file_name());
    for entry in managed {
        let name = entry.file_name().into_string().unwrap_or_default();
        let minor = name
            .strip_prefix("3.")
            .and_then(|rest| rest.split('.').next()?.parse().ok());
        if minor.is_some_and(|minor: u8| (8..=15).contains(&minor)) {
            found.push(entry.path().join("bin/python3"));
        }
    }
    found.extend(more_runtimes("python"));
    say(&found);
    found
}

#[expect(
    clippy::print_stdout,
    reason = "which versions a test has seen belongs in its output"
)]
fn say(found: &[PathBuf]) {
    println!("with {found:?}");
}

/// `program`, executed by `python`.
fn start(sampler: &Sampler, python: &Path, program: &str) -> Target {
    let path = sampler.path("program.py");
    std::fs::write(&path, program).expect("its folder is ours");
    Target::spawn(Command::new(python).arg("-B").arg(path))
}

/// What `sampler report` makes of its recording of `target` for `duration`, however much that costs.
fn record(sampler: &Sampler, target: &Target, duration: &str) -> Report {
    let options = ["-r", "997", "-d", duration, "--max-overhead", "50"];
    sampler.attach(target.pid(), &options).wait().expect_code(0);
    sampler.report()
}

/// The names of the Python functions of a stack without their places, outermost first.
fn names(stack: &Stack) -> Vec<&str> {
    let frames = stack
        .frames
        .iter()
        .filter(|frame| frame.module.as_deref() == Some("python"));
    frames
        .filter_map(|frame| frame.function.split(" (").next())
        .collect()
}

/// Starts `fixtures/python/shapes.py`, and gives the stack of each of its threads in its own words.
fn shapes(python: &Path, deep: Option<&str>) -> (Target, BTreeMap<i32, String>) {
    let mut command = Command::new(python);
    command.arg("-B").env("PYTHONUTF8", "1");
    command
        .arg(repository().join("fixtures/python/shapes.py"))
        .args(deep);
    let mut target = Target::spawn(&mut command);
    let mut printed = BTreeMap::new();
    loop {
        let line =
            target.until_line(|line| line.starts_with("stack ") || line.starts_with("ready"));
        let mut words = line.trim_end().splitn(3, ' ').skip(1);
        let Some(tid) = words.next() else {
            return (target, printed);
        };
        printed.insert(
            tid.parse().expect("a number"),
            words.next().expect("a stack").to_owned(),
        );
    }
}

#[test]
fn stacks_are_those_that_the_program_itself_prints() {
    for python in pythons() {
        let sampler = sampler!();
        let (target, printed) = shapes(&python, None);
        assert_eq!(printed.len(), 14, "{python:?}: {printed:#?}");
        let found = dumped(&sampler, &target);
        for (tid, stack) in &printed {
            assert_eq!(found.get(tid), Some(stack), "thread {tid} of {python:?}");
        }
        let main = found.get(&target.pid()).map_or("", String::as_str);
        assert!(
            main.starts_with("main|") && main.contains("<module>|"),
            "{python:?}: {main}"
        );
        target.assert_free();
    }
}

/// How deep one activation of the interpreter's loop goes: until 3.11 each function had its own.
#[test]
fn ten_thousand_functions_deep_is_not_too_deep() {
    let sampler = sampler!();
    let (target, printed) = shapes(&need("python3"), Some("10000"));
    let found = dumped(&sampler, &target);
    assert_eq!(printed.len(), 1);
    for (tid, stack) in &printed {
        assert!(found.get(tid) == Some(stack), "{:?}", found.get(tid));
        assert!(stack.split(';').count() > 10_000);
    }
}

/// The Python frames of all threads, in the words of the program above.
fn dumped(sampler: &Sampler, target: &Target) -> BTreeMap<i32, String> {
    let done = sampler.run(&["dump", "--json", "--no-native", "-p", &target.pid_text()]);
    done.expect_code(0);
    let dump: serde_json::Value = serde_json::from_slice(&done.stdout).expect("it is JSON");
    let mut found = BTreeMap::new();
    for group in dump["groups"].as_array().expect("groups") {
        let frames = group["frames"].as_array().expect("frames").iter();
        let python = frames
            .filter(|frame| frame["module"] == "python")
            .map(|frame| {
                let function = frame["function"].as_str().expect("a name");
                let (name, place) = function.rsplit_once(" (").expect("a place");
                let first_line = place
                    .trim_end_matches(')')
                    .rsplit(':')
                    .next()
                    .expect("a line");
                let file = frame["file"].as_str().expect("a file");
                format!("{name}|{file}|{first_line}|{}", frame["line"])
            });
        let stack = python.collect::<Vec<_>>().join(";");
        for thread in group["threads"].as_array().expect("threads") {
            let tid = thread["tid"]
                .as_i64()
                .and_then(|tid| i32::try_from(tid).ok());
            found.insert(tid.expect("a number"), stack.clone());
        }
    }
    found
}

/// Work in three functions, one of which has two lines of it; how much CPU time each took is printed at the end. Each has
/// its turn for several samples, so that their shares do not hang on where in them the samples fall.
const SPLIT: &str = r#"
import time, sys
def third():
    s = 0
    for i in range(3000): s += i
    return s
def first():
    a = [i * i for i in range(6000)]
    b = [third() and i for i in range(1)]
    del a, b # what a function leaves to be freed is freed when it is no longer on the stack
def second():
    x = sum(j * 3 for j in range(2000))
    y = sum([k * 3 for k in range(4000)])
spent = {'first': 0, 'second': 0}
def timed(f):
    began = time.thread_time_ns()
    f()
    spent[f.__name__] += time.thread_time_ns() - began
print('ready', flush=True)
sys.stdin.readline()
until = time.thread_time() + 4
while time.thread_time() < until:
    for f in [first] * 10 + [second] * 10:
        timed(f)
print('truth', spent['first'] / sum(spent.values()), flush=True)
sys.stdin.readline()
"#;

#[test]
fn shares_of_functions_are_what_they_take() {
    let sampler = sampler!();
    let mut target = start(&sampler, &need("python3"), SPLIT);
    target.until_ready();
    let running = sampler.attach(target.pid(), &["-r", "997", "--max-overhead", "50"]);
    target.tell("go\n");
    let truth = target.until_line(|line| line.starts_with("truth"));
    let truth: f64 = truth
        .trim()
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a number");
    running.interrupt();
    let report = sampler.report();
    let share_below = |name: &str| report.cpu_share(|stack| names(stack).contains(&name));
    let (first, second) = (share_below("first"), share_below("second"));
    assert!(
        first + second > 0.9,
        "{first} and {second}\n{}",
        report.heaviest()
    );
    let found = first / (first + second);
    assert!(
        (found - truth).abs() < 0.03,
        "{found} for {truth}\n{}",
        report.heaviest()
    );
}

/// Which function calls which changes all the time; each is named after its callers.
const ALTERNATING: &str = r#"
import threading
def leaf(n):
    s = 0
    for i in range(n): s += i
    return s
def make(path, depth):
    names = [make(path + '_' + letter, depth - 1) for letter in 'xyz'] if depth else []
    space = {'calls': names, 'leaf': None}
    body = 'for f in calls: f()' if depth else 's = 0\n    for i in range(40): s += i'
    if path.endswith('y') and depth: body = '[f() for f in calls]'
    if path.endswith('z') and depth: body = 'list(map(lambda f: f(), calls))'
    exec(f'def {path}():\n    {body}\n', space)
    return space[path]
root = make('r', 4)
def work():
    while True: root()
threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
for thread in threads: thread.start()
print('ready', flush=True)
work()
"#;

#[test]
fn no_stack_is_impossible() {
    for python in pythons() {
        let sampler = sampler!();
        let mut target = start(&sampler, &python, ALTERNATING);
        target.until_ready();
        let report = record(&sampler, &target, "700ms");
        let mut seen = 0;
        for stack in &report.stacks {
            let of_tree = names(stack)
                .into_iter()
                .filter(|name| *name == "r" || name.starts_with("r_"));
            // Lambdas and comprehensions are called what they are called in, or nothing at all.
            let path: Vec<_> = of_tree.filter(|name| !name.contains('<')).collect();
            let is_possible = path.windows(2).all(|pair| {
                pair[1]
                    .strip_prefix(pair[0])
                    .is_some_and(|rest| rest.len() == 2)
            });
            assert!(is_possible, "{python:?}: {path:?}");
            assert!(
                path.first().is_none_or(|name| *name == "r"),
                "{python:?}: {path:?}"
            );
            seen += u64::from(path.len() > 3) * stack.weights.samples;
        }
        assert!(seen > 50, "{python:?}: {seen}\n{}", report.heaviest());
    }
}

const SERVICE: &str = r#"
import threading, time, json, re
def handle(n):
    return json.loads(json.dumps({'n': [n] * 20, 'text': re.sub('a', lambda m: 'b', 'aaa')}))
all_serve = threading.Barrier(51)
def serve(n):
    all_serve.wait()
    while True:
        for i in range(20): handle(i)
        time.sleep(0.002 * (n % 7 + 1))
for n in range(50):
    threading.Thread(target=serve, args=(n,), daemon=True).start()
all_serve.wait()
print('ready', flush=True)
time.sleep(1000)
"#;

#[test]
fn all_stacks_of_a_service_are_merged() {
    let sampler = sampler!();
    let mut target = start(&sampler, &need("python3"), SERVICE);
    target.until_ready();
    let report = record(&sampler, &target, "3s");
    let lost: u64 = report.summary.interpreted_lost.values().sum();
    let all = report.summary.interpreted + lost;
    assert!(all > 500, "{all} stacks in Python");
    // The first stack shows that there is an interpreter; a thread may be met before it has its state.
    assert!(
        lost * 1000 <= all,
        "{lost} of {all} lost: {:?}",
        report.summary.interpreted_lost
    );
    let threads: BTreeSet<i32> = report.stacks.iter().map(|stack| stack.thread.tid).collect();
    assert!(threads.len() >= 51, "{threads:?}");
    for stack in report.stacks.iter().filter(|stack| stack.end == "complete") {
        let names = names(stack);
        let is_lost = names.iter().any(|name| name.starts_with("[python: lost"));
        assert!(
            is_lost || names.contains(&"serve") || names.contains(&"<module>"),
            "{names:?}"
        );
    }
}

/// Threads that live for some milliseconds each.
const SHORT_LIVED: &str = r#"
import threading, time
def work():
    until = time.thread_time() + 0.005
    while time.thread_time() < until: pass
print('ready', flush=True)
while True:
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"#;

#[test]
fn threads_are_known_when_they_are_first_met() {
    for python in pythons() {
        let sampler = sampler!();
        let mut target = start(&sampler, &python, SHORT_LIVED);
        target.until_ready();
        let report = record(&sampler, &target, "1s");
        let lost: u64 = report.summary.interpreted_lost.values().sum();
        let all = report.summary.interpreted + lost;
        let threads: BTreeSet<i32> = report.stacks.iter().map(|stack| stack.thread.tid).collect();
        assert!(threads.len() > 20, "{python:?}: {threads:?}");
        assert!(
            lost * 20 <= all,
            "{python:?}: {lost} of {all} lost: {:?}",
            report.summary.interpreted_lost
        );
    }
}

/// A function that an extension executes natively, and one that the extension calls.
const EXTENSION: &str = r#"
import numpy
data = numpy.random.default_rng(1).random(20000)
def inside(x):
    s = 0
    for i in range(20): s += i
    return x
each = numpy.frompyfunc(inside, 1, 1)
def native():
    numpy.sort(data, kind='mergesort')
def through():
    each(data[:500])
print('ready', flush=True)
while True:
    native()
    through()
"#;

#[test]
fn extensions_are_between_functions() {
    let numpy = Path::new("/usr/lib/python3/dist-packages/numpy");
    assert!(
        numpy.exists(),
        "this test needs numpy: apt-get install -y --no-install-recommends python3-numpy"
    );
    let sampler = sampler!();
    let mut target = start(&sampler, &need("python3"), EXTENSION);
    target.until_ready();
    let report = record(&sampler, &target, "1s");
    let is_native = |module: &str| module.starts_with("_multiarray_umath");
    let in_extension = |stack: &Stack| {
        let position = |frame: &Frame| is_native(frame.module.as_deref().unwrap_or_default());
        stack.frames.iter().position(position)
    };
    let at = |stack: &Stack, name: &str| {
        let is_called = |frame: &Frame| frame.function.split(" (").next() == Some(name);
        stack.frames.iter().position(is_called)
    };
    let share = |name: &str, pleases: &dyn Fn(&Stack) -> bool| {
        let of_name = report.cpu_share(|stack| at(stack, name).is_some());
        report.cpu_share(|stack| at(stack, name).is_some() && pleases(stack)) / of_name
    };
    let is_below = share("native", &|stack| at(stack, "native") < in_extension(stack));
    assert!(is_below > 0.9, "{is_below}\n{}", report.heaviest());
    let is_between = share("inside", &|stack| {
        let (through, inside) = (at(stack, "through"), at(stack, "inside"));
        through.is_some() && through < in_extension(stack) && in_extension(stack) < inside
    });
    assert!(is_between > 0.95, "{is_between}\n{}", report.heaviest());
}

/// A library that calls back, between two functions of Python.
const CALLBACK: &str = r"
typedef int (*callback)(int);
__attribute__((noinline)) int between(callback call, int times) {
    int sum = 0;
    for (int i = 0; i < times; i++) sum += call(i);
    return sum;
}
";

const CALLS_BACK: &str = r#"
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def inside(i):
    s = 0
    for k in range(2000): s += k
    return 1
def outside():
    library.between(CALL(inside), 1000)
print('ready', flush=True)
while True: outside()
"#;

#[test]
fn native_code_is_between_the_functions_that_call_it_and_are_called_by_it() {
    let sampler = sampler!();
    let (source, library) = (sampler.path("between.c"), sampler.path("between.so"));
    std::fs::write(&source, CALLBACK).expect("its folder is ours");
    let mut gcc = Command::new(need("gcc"));
    let built = gcc
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    assert!(built.expect("gcc runs").success());
    for python in pythons() {
        let sampler = sampler!();
        let path = sampler.path("program.py");
        std::fs::write(&path, CALLS_BACK).expect("its folder is ours");
        let mut target = Target::spawn(Command::new(&python).arg("-B").arg(path).arg(&library));
        target.until_ready();
        let report = record(&sampler, &target, "500ms");
        let is_in_place = |stack: &Stack| {
            let position = |name: &str| {
                let is_called = |function: &str| function.split(" (").next() == Some(name);
                stack
                    .frames
                    .iter()
                    .position(|frame| is_called(&frame.function))
            };
            let [outside, between, inside] = ["outside", "between", "inside"].map(position);
            outside.is_some() && outside < between && between < inside
        };
        let share = report.cpu_share(is_in_place);
        report.expect_share("all three in their places", share, 0.9);
    }
}

const GIL: &str = r#"
import threading, hashlib
def holds():
    s = 0
    while True: s += 1
def lets_go():
    data = b'x' * 5000000
    while True: hashlib.sha256(data).digest()
threading.Thread(target=holds, daemon=True).start()
print('ready', flush=True)
lets_go()
"#;

#[test]
fn who_holds_the_lock_is_known() {
    for python in pythons() {
        let sampler = sampler!();
        let mut target = start(&sampler, &python, GIL);
        target.until_ready();
        let report = record(&sampler, &target, "600ms");
        let is_in = |stack: &Stack, name: &str| names(stack).contains(&name);
        let held = report.cpu_share(|stack| stack.holds_lock);
        report.expect_share("holders", held, 0.1);
        let samples = |pleases: &dyn Fn(&Stack) -> bool| {
            let stacks = report.stacks.iter().filter(|stack| pleases(stack));
            stacks.map(|stack| stack.weights.samples).sum::<u64>()
        };
        let by_holder = samples(&|stack| is_in(stack, "holds") && stack.holds_lock);
        let by_other = samples(&|stack| is_in(stack, "lets_go") && stack.holds_lock);
        assert!(
            by_other * 5 < by_holder,
            "{python:?}: {by_other} and {by_holder}"
        );
        let done = sampler.run(&["report", "--gil", "-f", "json", "sampler.data"]);
        done.expect_code(0);
        let holders = Report::parse(&done.stdout);
        assert!(!holders.stacks.is_empty() && holders.stacks.iter().all(|stack| stack.holds_lock));
    }
}

/// Starts `fixtures/python/names.py`, and gives what each of its threads should be shown as.
fn named(python: &Path) -> (Target, BTreeMap<i32, String>) {
    let mut command = Command::new(python);
    command.arg("-B").env("PYTHONUTF8", "1");
    let mut target = Target::spawn(command.arg(repository().join("fixtures/python/names.py")));
    let mut said = BTreeMap::new();
    loop {
        let line = target.until_line(|line| line.starts_with("name ") || line == "ready");
        let mut words = line.splitn(3, ' ').skip(1);
        let (Some(tid), Some(name)) = (words.next(), words.next()) else {
            return (target, said);
        };
        said.insert(tid.parse().expect("a number"), name.to_owned());
    }
}

/// The names of threads in a dump.
fn names_dumped(sampler: &Sampler, target: &Target) -> BTreeMap<i32, String> {
    let done = sampler.run(&["dump", "--json", "-p", &target.pid_text()]);
    done.expect_code(0);
    let dump: serde_json::Value = serde_json::from_slice(&done.stdout).expect("it is JSON");
    let groups = dump["groups"].as_array().expect("groups").iter();
    let threads = groups.flat_map(|group| group["threads"].as_array().expect("threads"));
    let named = threads.map(|thread| {
        let tid = thread["tid"].as_i64().expect("a number");
        let name = thread["name"].as_str().expect("a name");
        (i32::try_from(tid).expect("a tid"), name.to_owned())
    });
    named.collect()
}

/// The names of threads in a report.
fn names_reported(report: &Report) -> BTreeMap<i32, String> {
    let threads = report.stacks.iter().map(|stack| &stack.thread);
    let named = threads.map(|thread| (thread.tid, thread.name.clone()));
    named.collect()
}

#[test]
fn threads_are_shown_by_the_names_that_python_gives_them() {
    for python in pythons() {
        let sampler = sampler!();
        let (target, said) = named(&python);
        assert_eq!(said.len(), 108, "{python:?}");
        assert_eq!(names_dumped(&sampler, &target), said, "{python:?}");
        let report = record(&sampler, &target, "500ms");
        assert_eq!(names_reported(&report), said, "{python:?}");
        target.assert_free();
        let options = [
            "report",
            "--thread",
            "pool-77",
            "-f",
            "json",
            "sampler.data",
        ];
        let done = sampler.run(&options);
        done.expect_code(0);
        let shown = names_reported(&Report::parse(&done.stdout));
        assert_eq!(shown.into_values().collect::<Vec<_>>(), ["pool-77"]);
    }
}

/// A thread that another one gives a new name.
const RENAMED: &str = r"
import sys, threading, time
thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True, name='before')
thread.start()
print('ready', flush=True)
sys.stdin.readline()
thread.name = 'afterwards'
time.sleep(1000)
";

#[test]
fn a_thread_that_is_renamed_is_shown_by_its_new_name() {
    let mut pythons = pythons();
    let newest = pythons.pop().expect("at least one");
    let oldest = need("python3");
    for python in BTreeSet::from([oldest, newest]) {
        let sampler = sampler!();
        let mut target = start(&sampler, &python, RENAMED);
        target.until_ready();
        let running = sampler.attach(target.pid(), &["-r", "99"]);
        let is_shown = |name: &str| {
            let report = sampler.report_of(&sampler.path("sampler.data.partial"));
            names_reported(&report)
                .into_values()
                .any(|shown| shown == name)
        };
        running.until_first_sample();
        target.until("its name", || is_shown("before"));
        target.tell("go\n");
        target.until("its new name", || is_shown("afterwards"));
        running.interrupt().expect_code(0);
        let shown = names_reported(&sampler.report());
        assert!(shown.values().any(|name| name == "afterwards"), "{shown:?}");
    }
}

#[test]
fn without_interpreters_threads_have_the_names_that_the_kernel_knows() {
    let sampler = sampler!();
    let mut target = start(&sampler, &need("python3"), RENAMED);
    target.until_ready();
    let options = ["-r", "299", "-d", "300ms", "--lang", "none"];
    sampler.attach(target.pid(), &options).wait().expect_code(0);
    let shown = names_reported(&sampler.report());
    assert_eq!(shown.len(), 2);
    assert!(
        shown.values().all(|name| name.starts_with("python3")),
        "{shown:?}"
    );
}

/// What a free-threaded build has that others have not: a number behind its version is not zero.
const FREE_THREADED: &str = r#"
#include <stdio.h>
struct { char cookie[8]; unsigned long version, free_threaded, numbers[90]; } _PyRuntime = { "xdebugpy", 0x030e02f0, 1 };
__attribute__((noinline)) unsigned long _PyEval_EvalFrameDefault(unsigned long turns) {
    volatile unsigned long sum = 0;
    for (unsigned long i = 0; i < turns; i++) sum += i;
    return sum;
}
int main(void) {
    puts("ready");
    fflush(stdout);
    for (;;) if (_PyEval_EvalFrameDefault(100000) == 1) return 1;
}
"#;

#[test]
fn a_free_threaded_build_is_named_and_its_native_stacks_are_kept() {
    let sampler = sampler!();
    let (source, program) = (sampler.path("python.c"), sampler.path("python"));
    std::fs::write(&source, FREE_THREADED).expect("its folder is ours");
    let mut gcc = Command::new(need("gcc"));
    let built = gcc.args(["-O1", "-o"]).arg(&program).arg(&source).status();
    assert!(built.expect("gcc runs").success());
    let mut target = Target::spawn(&mut Command::new(&program));
    target.until_ready();
    let report = record(&sampler, &target, "300ms");
    let says = "[python: lost: CPython 3.14.2 is not supported: it is free-threaded]";
    let share = report.cpu_share(|stack| {
        ["main", "_PyEval_EvalFrameDefault", says]
            .iter()
            .all(|function| stack.has(function))
    });
    report.expect_share("named, and whole", share, 0.9);
    let lost = report.summary.interpreted_lost.get("unsupported");
    assert!(lost.is_some_and(|&lost| lost > 0), "{}", report.heaviest());
}

const OLD: &str = "print('ready', flush=True)\nwhile True: pass\n";

#[test]
fn without_interpreters_there_are_native_frames_alone() {
    let sampler = sampler!();
    let mut target = start(&sampler, &need("python3"), OLD);
    target.until_ready();
    let options = ["-r", "299", "-d", "300ms", "--lang", "none"];
    sampler.attach(target.pid(), &options).wait().expect_code(0);
    let report = sampler.report();
    assert!(report.stacks.iter().all(|stack| names(stack).is_empty()));
    assert!(
        report.share_below("_PyEval_EvalFrameDefault") > 0.9,
        "{}",
        report.heaviest()
    );
}

/// Where glibc keeps a thread's number, by which threads of CPython before 3.11 are recognized.
#[test]
fn the_number_of_a_thread_is_where_it_is_looked_for() {
    let program = "import ctypes, threading as t\n\
                   print(ctypes.c_int.from_address(t.get_ident() + 720).value == t.get_native_id())";
    let output = Command::new(need("python3")).args(["-c", program]).output();
    assert_eq!(
        String::from_utf8_lossy(&output.expect("it runs").stdout).trim(),
        "True"
    );
}
