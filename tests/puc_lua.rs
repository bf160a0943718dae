//! Lua programs, by every PUC Lua of the distribution: as the program `lua`, with its library, and linked into a program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampler_tests_support::{
    EMBEDS_LUA, Report, Sampler, Stack, Target, lua_built, more_runtimes, need, sampler,
};

const VERSIONS: [&str; 4] = ["5.1", "5.2", "5.3", "5.4"];

/// Those of the distribution, 5.5, and those that `tests/more-runtimes` has got.
fn luas() -> Vec<PathBuf> {
    let mut found: Vec<_> = VERSIONS
        .iter()
        .map(|version| need(&format!("lua{version}")))
        .collect();
    found.push(lua_built("5.5"));
    found.extend(more_runtimes("lua"));
    found
}

/// `program`, executed by `lua`.
fn start(sampler: &Sampler, lua: &Path, program: &str) -> Target {
    let path = sampler.path("program.lua");
    std::fs::write(&path, program).expect("its folder is ours");
    Target::spawn(Command::new(lua).arg(path))
}

fn record(sampler: &Sampler, target: &Target, duration: &str) -> Report {
    let options = ["-r", "997", "-d", duration, "--max-overhead", "50"];
    sampler.attach(target.pid(), &options).wait().expect_code(0);
    sampler.report()
}

/// The Lua functions of a stack by their first lines, outermost first: 0 is the main chunk.
fn first_lines(stack: &Stack) -> Vec<u32> {
    let frames = stack
        .frames
        .iter()
        .filter(|frame| frame.kind == "interpreted");
    let place = |function: &str| {
        function
            .trim_end_matches(')')
            .rsplit(':')
            .next()?
            .parse()
            .ok()
    };
    frames
        .map(|frame| place(&frame.function).unwrap_or(0))
        .collect()
}

/// Embeds the Lua of `version`: linked statically, or with its library.
fn embedded(sampler: &Sampler, version: &str, is_static: bool, has_more: bool) -> PathBuf {
    let (source, program) = (sampler.path("embeds.c"), sampler.path("embeds"));
    // Far more code than Lua's own, in a function that is far larger than its loop.
    let more = r#"
__attribute__((used)) void more(void) { __asm__(".fill 2000000, 1, 0x90"); }
"#;
    let text = if has_more { more } else { "" }.to_owned() + EMBEDS_LUA;
    std::fs::write(&source, text).expect("its folder is ours");
    let archive = format!("/usr/lib/x86_64-linux-gnu/liblua{version}.a");
    assert!(
        Path::new(&archive).exists(),
        "this test needs {archive}: apt-get install -y --no-install-recommends liblua{version}-dev \
         (liblua5.1-0-dev for 5.1)"
    );
    let mut gcc = Command::new(need("gcc"));
    gcc.arg("-O2")
        .arg(format!("-I/usr/include/lua{version}"))
        .arg(&source)
        .arg("-o")
        .arg(&program);
    match is_static {
        true => gcc.arg("-s").arg(archive),
        false => gcc.arg(format!("-llua{version}")),
    };
    assert!(
        gcc.args(["-lm", "-ldl"])
            .status()
            .expect("gcc runs")
            .success()
    );
    program
}

/// All kinds of calls, and in each a loop. The lines of functions are their names.
const CALLS: &str = r#"
local function leaf(n)
  local s = 0
  for i = 1, n do
    s = s + i % 7
  end
  return s
end
local object = setmetatable({}, { __index =
function(t, k)
  local x = leaf(300)
  return x
end })
local function compare(a, b)
  local x = leaf(30)
  return a < b
end
local function body()
  local x = leaf(200)
  coroutine.yield(x)
  local y = leaf(200)
  coroutine.yield(y)
end
local function work()
  local x = leaf(500)
  x = object.anything
  table.sort({ 3, 1, 2, 5, 4, 9, 8 }, compare)
  x = pcall(leaf, 200)
  local resume = coroutine.wrap(body)
  resume()
  resume()
  x = string.gsub("abc", ".", function() return leaf(50) .. "" end)
end
io.write("ready\n")
io.flush()
while true do
  work()
end
"#;

/// Each stack of that program, by first lines.
const POSSIBLE: [&[u32]; 6] = [
    &[0, 24, 2],
    &[0, 24, 10, 2],
    &[0, 24, 14, 2],
    &[0, 24, 18, 2],
    &[0, 24, 32, 2],
    &[0, 24],
];

#[track_caller]
fn check_calls(sampler: &Sampler, lua: &Path) {
    let mut target = start(sampler, lua, CALLS);
    target.until_ready();
    let report = record(sampler, &target, "1500ms");
    let mut counts = [0; POSSIBLE.len()];
    for stack in report.stacks.iter().filter(|stack| !has_lost(stack)) {
        let lines = first_lines(stack);
        let is_part = |possible: &&[u32]| possible.starts_with(&lines);
        assert!(POSSIBLE.iter().any(is_part), "{lua:?}: {lines:?}");
        if let Some(index) = POSSIBLE.iter().position(|possible| **possible == lines) {
            counts[index] += stack.weights.samples;
        }
    }
    let all_were_seen = counts.iter().take(5).all(|count| *count > 3);
    assert!(all_were_seen, "{lua:?}: {counts:?}\n{}", report.heaviest());
    let lost: u64 = report.summary.interpreted_lost.values().sum();
    let all = report.summary.interpreted + lost;
    assert!(
        lost * 100 <= all,
        "{lua:?}: {lost} of {all}: {:?}",
        report.summary.interpreted_lost
    );
}

fn has_lost(stack: &Stack) -> bool {
    stack
        .frames
        .iter()
        .any(|frame| frame.function.starts_with("[lua: lost"))
}

#[test]
fn every_kind_of_call_is_found_in_its_place() {
    for lua in luas() {
        check_calls(&sampler!(), &lua);
    }
}

#[test]
fn lua_is_found_where_it_is_linked_in() {
    for version in ["5.1", "5.4"] {
        for is_static in [false, true] {
            let sampler = sampler!();
            let program = embedded(&sampler, version, is_static, false);
            check_calls(&sampler, &program);
        }
    }
}

#[test]
fn lua_is_found_in_a_large_program_without_symbols() {
    for version in ["5.1", "5.4"] {
        let sampler = sampler!();
        let program = embedded(&sampler, version, true, true);
        check_calls(&sampler, &program);
    }
}

/// Functions that are called by names of all kinds, and the line each begins in.
const NAMES: &str = r#"
local function leaf(n)
  local s = 0
  for i = 1, n do
    s = s + i % 7
  end
  return s
end
function Global()
  local x = leaf(2000)
end
local module = { inner = {} }
function module.field()
  local x = leaf(2000)
end
function module.inner.deeper()
  local x = leaf(2000)
end
function module:method()
  local x = leaf(2000)
end
local up =
function()
  local x = leaf(2000)
end
local object = setmetatable({}, {
  __index = function() local x = leaf(2000) return x end,
  __add = function() local x = leaf(2000) return x end,
  __lt = function() local x = leaf(2000) return false end,
})
local function replaced()
  local x = leaf(2000)
  return 1
end
local function tail()
  return replaced()
end
local function iterator()
  leaf(2000)
end
local function argument()
  leaf(2000)
end
local function work(parameter)
  Global()
  module.field()
  module.inner.deeper()
  module:method()
  up()
  local x = object.anything, object + 1, object < object
  x = tail()
  for _ in iterator do end
  parameter()
  pcall(function() leaf(2000) end)
end
io.write("ready\n")
io.flush()
while true do
  work(argument)
end
"#;

/// First lines and names.
const NAMED: [(u32, &str); 12] = [
    (2, "leaf"),
    (9, "Global"),
    (13, "module.field"),
    (16, "module.inner.deeper"),
    (19, "method"),
    (23, "up"),
    (27, "__index"),
    (28, "__add"),
    (29, "__lt"),
    (38, "(for iterator)"),
    (41, "parameter"),
    (44, "work"),
];

#[test]
fn functions_have_the_names_that_their_callers_call_them_by() {
    for lua in luas() {
        let sampler = sampler!();
        let mut target = start(&sampler, &lua, NAMES);
        target.until_ready();
        let report = record(&sampler, &target, "1500ms");
        let frames = report.stacks.iter().flat_map(|stack| &stack.frames);
        let functions = frames.filter(|frame| frame.kind == "interpreted");
        let functions: BTreeSet<&str> = functions.map(|frame| frame.function.as_str()).collect();
        for (line, name) in NAMED {
            let place = format!("program.lua:{line}");
            let named: Vec<_> = functions
                .iter()
                .filter(|function| function.trim_end_matches(')').ends_with(&place))
                .collect();
            let expected = format!("{name} ({place})");
            assert!(
                named.contains(&&expected.as_str()),
                "{lua:?}: {expected} {named:?}"
            );
            // Before it was seen called by a name it has none.
            let is_other = |function: &str| function != expected && function != place;
            assert!(
                !named.iter().any(|function| is_other(function)),
                "{lua:?}: {named:?}"
            );
        }
        // Who comes in the place of its caller has no name, unless it was seen before it had taken it.
        let names = ["program.lua:31", "replaced (program.lua:31)"];
        let (mut replaced, mut changing) = (0, 0);
        for stack in &report.stacks {
            let functions: Vec<&str> = stack.frames.iter().map(|frame| &*frame.function).collect();
            let Some(at) = functions.iter().position(|name| names.contains(name)) else {
                continue;
            };
            let by = at.checked_sub(1).and_then(|by| functions.get(by));
            match by {
                Some(&"[tail calls]") => replaced += 1,
                // It is just taking its place: the function is there, and how far the other had come.
                Some(&"[lua: lost: changed meanwhile]") => changing += 1,
                by => assert_eq!(by, Some(&"tail (program.lua:35)"), "{lua:?}: {functions:?}"),
            }
        }
        assert!(
            replaced > 0 && changing < 3,
            "{lua:?}: {replaced} {changing}"
        );
    }
}

/// Two lines that take their time, in one function; how much is printed at the end. Each lasts for several samples, so
/// that their shares do not hang on where in them the samples fall.
const SPLIT: &str = r#"
local function work(n)
  local s = 0
  for i = 1, n do s = s + i % 7 end
  return s
end
local first, second = 0, 0
local function timed()
  local began = os.clock()
  work(300000)
  local middle = os.clock()
  work(100000) work(100000)
  second = second + os.clock() - middle
  first = first + middle - began
end
io.write("ready\n") io.flush() io.read()
local began = os.clock()
while os.clock() - began < 2.5 do timed() end
io.write("truth ", first / (first + second), "\n") io.flush() io.read()
"#;

#[test]
fn shares_of_lines_are_what_they_take() {
    for lua in luas() {
        let version = lua.display();
        let sampler = sampler!();
        let mut target = start(&sampler, &lua, SPLIT);
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
        let share = |line: u32| {
            report.cpu_share(|stack| {
                let mut frames = stack
                    .frames
                    .iter()
                    .filter(|frame| frame.kind == "interpreted");
                frames.any(|frame| frame.line == Some(line))
            })
        };
        let (first, second) = (share(10), share(12));
        assert!(
            first + second > 0.9,
            "{version}: {first}, {second}\n{}",
            report.heaviest()
        );
        let found = first / (first + second);
        assert!(
            (found - truth).abs() < 0.03,
            "{version}: {found} for {truth}"
        );
    }
}

/// Stops at a known place and prints where that is.
const SELF_REPORT: &str = r#"
local function where()
  local lines, level = {}, 2
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    if info.what ~= "C" then
      lines[#lines + 1] = info.short_src .. "|" .. info.linedefined .. "|" .. info.currentline
    end
    level = level + 1
  end
  return table.concat(lines, ";")
end
local function stop()
  io.write("stack ", where(), "\n", "ready\n") io.flush() io.read()
  return 1
end
local function deep(n) if n > 0 then local x = deep(n - 1) return x end
  return (string.gsub("a", "a", function(c) local x = stop() return x .. "" end))
end
local object = setmetatable({}, { __add = function(a, b) local x = deep(20) return x end })
local x = object + 1
"#;

#[test]
fn the_stack_is_the_one_that_the_program_itself_prints() {
    for lua in luas() {
        let version = lua.display();
        let sampler = sampler!();
        let mut target = start(&sampler, &lua, SELF_REPORT);
        let printed = target.until_line(|line| line.starts_with("stack "));
        let printed = printed.trim().trim_start_matches("stack ").to_owned();
        target.until_ready();
        target.until_all_threads_sleep();
        // The first look finds out where Lua's state is.
        let options = ["-r", "199", "-d", "100ms", "--lang", "lua"];
        sampler.attach(target.pid(), &options).wait().expect_code(0);
        let report = sampler.report();
        let found: Vec<String> = report.stacks.iter().map(places).collect();
        assert!(
            found.contains(&printed),
            "{version}: {printed} is not in {found:#?}"
        );
    }
}

/// The Lua functions of a stack in the words of the program above.
fn places(stack: &Stack) -> String {
    let frames = stack
        .frames
        .iter()
        .rev()
        .filter(|frame| frame.kind == "interpreted");
    let first_line = |function: &str| match function.starts_with("main chunk") {
        true => "0".to_owned(),
        false => function
            .trim_end_matches(')')
            .rsplit(':')
            .next()
            .unwrap_or("?")
            .to_owned(),
    };
    let place = frames.map(|frame| {
        let file = frame.file.as_deref().unwrap_or("?");
        format!(
            "{file}|{}|{}",
            first_line(&frame.function),
            frame.line.unwrap_or(0)
        )
    });
    place.collect::<Vec<_>>().join(";")
}
