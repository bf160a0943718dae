//! LuaJIT where no distribution has it: the original and OpenResty's, with references of both sizes, stripped, inside a
//! program and inside a library; several virtual machines in one process, and several kinds.

use std::path::{Path, PathBuf};
use std::process::Command;

use sampler_tests_support::{
    LuaJit, Report, Sampler, Target, need, need_lupa, never_were, repository, sampler,
};

/// Executes a script in a virtual machine of its own on each of two threads.
const EMBEDS: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include "lua.h"
#include "lauxlib.h"
#include "lualib.h"
static void *executes(void *script) {
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    if (luaL_loadfile(L, script) || lua_pcall(L, 0, 0, 0)) fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return NULL;
}
int executes_twice(const char *script) {
    pthread_t other;
    pthread_create(&other, NULL, executes, (void *)script);
    executes((void *)script);
    return 1;
}
"#;

const MAIN: &str = "int executes_twice(const char *script); int main(int argc, char **argv) \
                    { return argc > 1 ? executes_twice(argv[1]) : 1; }";

/// A stripped program with `luajit` in it, or in a library of its own.
fn embedded(sampler: &Sampler, luajit: LuaJit, in_library: bool) -> PathBuf {
    let built = luajit.built();
    let (embeds, main) = (sampler.path("embeds.c"), sampler.path("main.c"));
    std::fs::write(&embeds, EMBEDS).expect("its folder is ours");
    std::fs::write(&main, MAIN).expect("its folder is ours");
    let (library, program) = (sampler.path("libembeds.so"), sampler.path("embeds"));
    let gcc = |output: &Path, words: &[&str], files: &[&Path]| {
        let mut gcc = Command::new(need("gcc"));
        gcc.args(["-O2", "-s", "-pthread"]).args(words);
        gcc.arg("-I").arg(&built).arg("-o").arg(output).args(files);
        let status = gcc.args(["-lm", "-ldl"]).status();
        assert!(status.expect("gcc runs").success(), "{gcc:?}");
    };
    let archive = built.join("libluajit.a");
    match in_library {
        true => {
            gcc(&library, &["-shared", "-fPIC"], &[&embeds, &archive]);
            let beside = format!("-Wl,-rpath,{}", sampler.folder().display());
            gcc(&program, &[&beside], &[&main, &library]);
        }
        false => gcc(&program, &[], &[&main, &embeds, &archive]),
    }
    program
}

fn record(sampler: &Sampler, target: &Target) -> Report {
    let options = ["-r", "997", "-d", "1.5"];
    sampler.attach(target.pid(), &options).wait().expect_code(0);
    sampler.report()
}

/// Asserts that hardly any stack lacks frames but the first of each virtual machine.
#[track_caller]
fn expect_whole(report: &Report) {
    let whole = report.summary.interpreted;
    let lost: u64 = report.summary.interpreted_lost.values().sum();
    assert!(
        whole > 100 && lost as f64 <= 0.005 * whole as f64 + 4.0,
        "{whole} whole, lost {:?}; the profile:\n{}",
        report.summary.interpreted_lost,
        report.heaviest()
    );
}

#[test]
fn built_from_its_sources_it_is_found_in_programs_and_libraries() {
    let script = repository().join("fixtures/lua/alternate.lua");
    for (luajit, in_library) in LuaJit::ALL.into_iter().zip([false, false, true]) {
        let sampler = sampler!();
        let program = embedded(&sampler, luajit, in_library);
        let mut target = Target::spawn(Command::new(program).arg(&script));
        // Both of them.
        target.until_ready();
        target.until_ready();
        let report = record(&sampler, &target);
        expect_whole(&report);
        let impossible = never_were(&report);
        assert!(impossible.is_empty(), "{luajit:?}: {impossible:#?}");
        for tid in target.threads() {
            let leaf = report
                .stacks
                .iter()
                .any(|stack| stack.thread.tid == tid && stack.has("leaf (alternate.lua:4)"));
            assert!(leaf, "{luajit:?}: thread {tid}\n{}", report.heaviest());
        }
        let precision = |precision: &str, by_compiler: bool| {
            let frames = report.stacks.iter().flat_map(|stack| &stack.frames);
            let mut frames = frames.filter(|frame| (frame.kind == "compiled") == by_compiler);
            frames.any(|frame| frame.line_precision.as_deref() == Some(precision))
        };
        // Before 2021-03 snapshots do not say where they hold.
        let of_traces = match luajit.sources {
            "2020-openresty" => "function",
            _ => "block",
        };
        assert!(
            precision(of_traces, true),
            "{luajit:?}: {}",
            report.heaviest()
        );
        assert!(
            precision("exact", false),
            "{luajit:?}: {}",
            report.heaviest()
        );
    }
}

/// Python calls Lua, which calls Python, which calls Lua of another virtual machine, which calls Python.
const MIXED: &str = r#"
import sys
sys.path.insert(0, sys.argv[1])
import lupa.luajit21, lupa.lua54
outer = getattr(lupa, sys.argv[2]).LuaRuntime()
inner = getattr(lupa, sys.argv[3]).LuaRuntime()
lua_text = """return function(f, n)
    local function NAME(g, m)
        local r = g(m)
        return r
    end
    local r = NAME(f, n)
    return r
end"""
outermost = outer.execute(lua_text.replace('NAME', 'outer_lua'))
# At other lines: places tell functions apart.
innermost = inner.execute(9 * chr(10) + lua_text.replace('NAME', 'inner_lua'))

def leaf(n):
    total = 0
    for i in range(int(n)):
        total += i * 7 % 3
    return total

def between(n):
    return innermost(leaf, n)

print('ready', flush=True)
while True:
    outermost(between, 500)
"#;

#[test]
fn virtual_machines_inside_each_other_are_told_apart() {
    for (outer, inner) in [("luajit21", "luajit21"), ("luajit21", "lua54")] {
        let sampler = sampler!();
        let program = sampler.path("mixed.py");
        std::fs::write(&program, MIXED).expect("its folder is ours");
        let mut python = Command::new(need("python3"));
        python.arg(program).arg(need_lupa()).args([outer, inner]);
        let mut target = Target::spawn(&mut python);
        target.until_ready();
        let report = record(&sampler, &target);
        expect_whole(&report);
        let place = |function: &str| match function.split(' ').next() {
            Some(name @ ("<module>" | "between" | "leaf")) => Some(name.to_owned()),
            Some("outer_lua") => Some("outer".to_owned()),
            Some("inner_lua") => Some("inner".to_owned()),
            // PUC Lua names functions by who calls them; Python does not say.
            Some(name) if name.starts_with("[string") => Some("lua".to_owned()),
            _ => None,
        };
        let names = |stack: &sampler_tests_support::Stack| -> Vec<String> {
            let frames = stack.frames.iter().filter(|frame| frame.language.is_some());
            frames.filter_map(|frame| place(&frame.function)).collect()
        };
        let is_right = |stack: &sampler_tests_support::Stack| {
            let names = names(stack);
            let named: Vec<&str> = names
                .iter()
                .map(String::as_str)
                .filter(|name| *name != "lua")
                .collect();
            match inner {
                "lua54" => {
                    let others = named.iter().filter(|&&name| name != "inner");
                    let is_lua = |name: &String| name == "lua" || name == "inner";
                    others.eq(&["<module>", "outer", "between", "leaf"]) && names.iter().any(is_lua)
                }
                _ => named == ["<module>", "outer", "between", "inner", "leaf"],
            }
        };
        let at_leaf =
            report.cpu_share(|stack| names(stack).last().is_some_and(|name| name == "leaf"));
        let right = report.cpu_share(is_right);
        assert!(
            at_leaf > 0.5 && right >= 0.99 * at_leaf,
            "{outer} and {inner}: {right} right of {at_leaf}; the profile:\n{}",
            report.heaviest()
        );
    }
}

#[test]
fn a_version_that_cannot_be_walked_is_named() {
    let sampler = sampler!();
    let program = "import sys; sys.path.insert(0, sys.argv[1]); import lupa.luajit20\n\
                   f = lupa.luajit20.LuaRuntime().execute('jit.off() return function() while true do end end')\n\
                   print('ready', flush=True); f()";
    let mut python = Command::new(need("python3"));
    let mut target = Target::spawn(python.args(["-c", program]).arg(need_lupa()));
    target.until_ready();
    let report = record(&sampler, &target);
    let lost = report.summary.interpreted_lost.get("unsupported");
    assert!(lost.is_some_and(|&lost| lost > 0), "{}", report.heaviest());
    let named = report.share_below("[lua: lost: LuaJIT 2.0.");
    report.expect_share("its name", named, 0.9);
    // What is around it is there all the same.
    report.expect_share("Python", report.share_below("<module>"), 0.9);
}
