//! Stacks that are hard to walk: each from its innermost frame to its root, all functions named.
//!
//! What the functions of the distribution's libraries are called depends on its debug packages, so of those the
//! library is asserted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use sampler_tests_support::{Dump, Group, Report, Target, fixture, need, sampler};

/// How the fixture `stacks` is built, and what of its C library is on its stacks.
struct Build {
    fixture: &'static str,
    /// Below `main`.
    start: &'static [&'static str],
    /// What a signal handler returns to.
    restorer: &'static str,
    /// The function that makes a system call.
    syscall: &'static str,
}

const GLIBC: Build = glibc("stacks");

const fn glibc(fixture: &'static str) -> Build {
    Build {
        fixture,
        start: &["[libc.so.6]", "[libc.so.6]", "_start"],
        restorer: "[libc.so.6]",
        syscall: "[libc.so.6]",
    }
}

const fn of_its_own(fixture: &'static str) -> Build {
    Build {
        fixture,
        start: &["__libc_start_call_main", "__libc_start_main", "_start"],
        restorer: "__restore_rt",
        syscall: "syscall",
    }
}

const MUSL: Build = Build {
    fixture: "stacks_musl",
    start: &["[libc.so]", "_start"],
    restorer: "[libc.so]",
    syscall: "[libc.so]",
};

const MUSL_STATIC: Build = Build {
    fixture: "stacks_musl_static",
    start: &["libc_start_main_stage2", "_start"],
    restorer: "__restore_rt",
    syscall: "syscall",
};

/// The stacks of the fixture `stacks` by name, from what called `innermost` to what `main` called; `restorer` and
/// `syscall` stand for those of the build.
const CASES: [(&str, &[&str]); 11] = [
    (
        "alignment",
        &[
            "realigned",
            "realigned_and_allocating",
            "allocating",
            "variable_length",
        ],
    ),
    (
        "noreturn",
        &["never_returns", "calls_at_its_end", "noreturn_call"],
    ),
    (
        "signal",
        &["handler", "restorer", "syscall", "raises", "signal_plain"],
    ),
    (
        "signal_other_stack",
        &[
            "handler",
            "restorer",
            "syscall",
            "raises",
            "signal_other_stack",
        ],
    ),
    (
        "signal_nested",
        &[
            "handler",
            "restorer",
            "syscall",
            "raises",
            "outer_handler",
            "restorer",
            "syscall",
            "raises",
            "signal_nested",
        ],
    ),
    (
        "signal_fault",
        &["handler", "restorer", "faults_at_once", "signal_fault"],
    ),
    (
        "signal_restorer",
        &[
            "handler",
            "own_restorer",
            "syscall",
            "raises",
            "signal_restorer",
        ],
    ),
    ("longjmp", &["after_longjmp"]),
    (
        "assembly",
        &[
            "called_by_assembly",
            "asm_pushes",
            "asm_subtracts",
            "asm_rbp_is_data",
            "asm_aligns",
            "assembly",
        ],
    ),
    ("tail_call", &["tail_target", "tail_outer", "tail_call"]),
    (
        "cold_part",
        &["seldom", "splits [clone .cold]", "cold_part"],
    ),
];

impl Build {
    fn stack(&self, functions: &[&'static str]) -> Vec<&'static str> {
        let own = functions.iter().map(|&function| match function {
            "restorer" => self.restorer,
            "syscall" => self.syscall,
            function => function,
        });
        let start = self.start.iter().copied();
        ["innermost"]
            .into_iter()
            .chain(own)
            .chain(["main"])
            .chain(start)
            .collect()
    }
}

#[track_caller]
fn check(build: &Build, name: &str, functions: &[&'static str]) {
    let sampler = sampler!();
    let target = Target::start(build.fixture, &[name]);
    let dump = Dump::of_spinning(&sampler, &target);
    let what = format!("{} {name}", build.fixture);
    dump.only().expect(&what, &build.stack(functions));
    target.assert_free();
}

#[track_caller]
fn check_all(build: &Build) {
    for (name, functions) in CASES {
        check(build, name, functions);
    }
}

#[test]
fn whole_with_a_shared_c_library() {
    check_all(&GLIBC);
}

#[test]
fn whole_linked_in_every_way() {
    for fixture in ["stacks_static", "stacks_static_pie"] {
        check_all(&of_its_own(fixture));
    }
    check_all(&glibc("stacks_no_pie"));
}

#[test]
fn whole_without_a_table_to_search_by() {
    check_all(&glibc("stacks_no_header"));
}

#[test]
fn whole_with_debug_frame_alone() {
    check_all(&glibc("stacks_debug_frame"));
}

/// Calls by pointers and returns go through code that changes the return address; frames have copies of their
/// variables elsewhere.
#[test]
fn whole_with_thunks_and_with_an_address_sanitizer() {
    check_all(&glibc("stacks_thunks"));
    for (name, functions) in &CASES[..2] {
        check(&glibc("stacks_checked"), name, functions);
    }
}

/// Each piece of such a stack is a mapping of its own.
#[test]
fn a_split_stack_is_whole_or_says_that_it_was_cut() {
    check(&glibc("stacks_split"), CASES[0].0, CASES[0].1);
    let sampler = sampler!();
    let target = Target::start("stacks_split", &["deep"]);
    let dump = Dump::of_spinning(&sampler, &target);
    let group = dump.only();
    let functions = group.functions();
    assert!(
        functions.contains(&"__morestack".to_owned()),
        "{functions:?}"
    );
    let descents = functions.iter().filter(|name| *name == "descends").count();
    assert!(!group.complete || descents == 10_001, "{descents}");
    assert!(descents > 5_000, "{descents}");
}

/// Asserts that the spinning thread of the fixture is in `inner`, and that its stack leads to `root`. What the C library
/// calls between them differs from version to version.
#[track_caller]
fn check_moment(fixture: &str, inner: &[&str], root: &str) {
    let sampler = sampler!();
    let target = Target::start(fixture, &[]);
    let dump = Dump::of_spinning(&sampler, &target);
    let group = dump.with("innermost");
    let functions = group.functions();
    let expected = [&["innermost", "at_that_moment"], inner].concat();
    assert!(group.complete, "{fixture}: {functions:?}");
    assert_eq!(functions[..expected.len()], expected, "{fixture}");
    assert!(functions.len() > expected.len(), "{fixture}: {functions:?}");
    assert_eq!(
        functions.last().map(String::as_str),
        Some(root),
        "{fixture}"
    );
    target.assert_free();
}

#[test]
fn whole_while_main_does_not_run() {
    const LOADER: &str = "[ld-linux-x86-64.so.2]";
    const LIBC: &str = "[libc.so.6]";
    // A resolver has the address of its function, which is the name that others know.
    check_moment("in_resolver", &["indirect", LOADER], LOADER);
    check_moment("in_constructor", &["constructs"], "_start");
    check_moment("at_exit", &["at_exit", LIBC], "_start");
    check_moment("in_destructor", &["destructs", LOADER], "_start");
    check_moment("at_thread_end", &["destructs_value", LIBC], LIBC);
    check_moment("thread_that_jumped", &["jumped_to", "jumps"], LIBC);
}

#[test]
fn whole_with_musl_which_has_no_tables() {
    check_all(&MUSL);
    check_all(&MUSL_STATIC);
}

#[test]
fn whole_with_debug_frame_in_a_file_of_its_own() {
    let sampler = sampler!();
    let (program, debug) = (sampler.path("stacks"), sampler.path("stacks.debug"));
    let objcopy = |arguments: &[&str], from: &std::path::Path, to: &std::path::Path| {
        let mut command = Command::new(need("objcopy"));
        let status = command.args(arguments).arg(from).arg(to).status();
        assert!(status.is_ok_and(|status| status.success()), "{command:?}");
    };
    let built = fixture("stacks_debug_frame");
    objcopy(&["--only-keep-debug"], &built, &debug);
    let link = format!("--add-gnu-debuglink={}", debug.display());
    objcopy(&["--strip-all", &link], &built, &program);
    for (name, functions) in CASES {
        let target = Target::start_command(Command::new(&program).arg(name));
        let dump = Dump::of_spinning(&sampler, &target);
        dump.only().expect(name, &GLIBC.stack(functions));
    }
}

/// As many frames as where there are names; without names each is an address in the program or a function exported.
#[track_caller]
fn check_without_names(fixture: &str, cases: &[(&str, &[&'static str])]) {
    let sampler = sampler!();
    for &(name, functions) in cases {
        let target = Target::start(fixture, &[name]);
        let dump = Dump::of_spinning(&sampler, &target);
        let group = dump.only();
        let what = format!("{fixture} {name}: {:?}", group.functions());
        assert!(group.complete, "{what}");
        assert_eq!(
            group.functions().len(),
            GLIBC.stack(functions).len(),
            "{what}"
        );
    }
}

#[test]
fn whole_without_names() {
    check_without_names("stacks_stripped", &CASES);
}

#[test]
fn whole_without_names_and_tables() {
    let (alignment, others) = CASES.split_first().expect("there are some");
    check_without_names("stacks_without_anything", others);
    // Code alone does not tell how two realigned frames in a row keep the caller's frame pointer; that is said.
    let sampler = sampler!();
    let target = Target::start("stacks_without_anything", &[alignment.0]);
    let dump = Dump::of_spinning(&sampler, &target);
    assert!(!dump.only().complete, "{dump:?}");
}

#[test]
fn a_coroutine_ends_where_it_was_started() {
    let sampler = sampler!();
    let target = Target::start("stacks", &["coroutine"]);
    let dump = Dump::of_spinning(&sampler, &target);
    let expected = [
        "innermost",
        "in_coroutine",
        "coroutine_entry",
        "[libc.so.6]",
    ];
    dump.only().expect("coroutine", &expected);
}

#[test]
fn a_deep_recursion_is_whole_and_one_too_deep_to_copy_says_that_it_was_cut() {
    let sampler = sampler!();
    let descents = |group: &Group| {
        let functions = group.functions();
        functions.iter().filter(|name| *name == "descends").count()
    };
    let target = Target::start("stacks", &["deep"]);
    let dump = Dump::of_spinning(&sampler, &target);
    let deep = ["descends"; 10_001].into_iter().chain(["deep"]);
    dump.only()
        .expect("deep", &GLIBC.stack(&deep.collect::<Vec<_>>()));
    let target = Target::start("stacks", &["too_deep"]);
    let dump = Dump::of_spinning(&sampler, &target);
    let group = dump.only();
    assert!(
        !group.complete && descents(group) > 1000,
        "{}",
        descents(group)
    );
    assert_eq!(group.functions().last().map(String::as_str), Some("[cut]"));
}

#[test]
fn asleep_in_vfork_the_return_address_is_in_a_register() {
    let sampler = sampler!();
    let target = Target::start("stacks", &["vfork"]);
    target.until_status("State", |state| state.starts_with('D'));
    let dump = Dump::of(&sampler, &target);
    let mut expected = vec!["[vfork]", "[libc.so.6]", "starts_child", "in_vfork", "main"];
    expected.extend(GLIBC.start);
    dump.only().expect("vfork", &expected);
}

#[test]
fn through_the_dynamic_loader_and_a_library_with_frame_pointers_alone() {
    let sampler = sampler!();
    let cases: [(&str, &[&str]); 2] = [
        (
            "resolver",
            &[
                "resolved_slowly",
                "[ld-linux-x86-64.so.2]",
                "[ld-linux-x86-64.so.2]",
                "calls_through_plt",
            ],
        ),
        (
            "frame_pointer",
            &[
                "called_back",
                "inner_with_frame_pointer",
                "calls_back",
                "keeps_data",
            ],
        ),
    ];
    for (name, functions) in cases {
        let target = Target::start("with_odd_library", &[name]);
        let dump = Dump::of_spinning(&sampler, &target);
        dump.only().expect(name, &GLIBC.stack(functions));
    }
}

#[test]
fn with_a_cpp_exception_in_flight() {
    const THROWS: &str = "throws(unsigned long, bool) [clone .cold]";
    const AT_FRAME: &str =
        "at_frame(int, int, unsigned long, _Unwind_Exception*, _Unwind_Context*, void*)";
    let sampler = sampler!();
    let cases: [(&str, &[&str]); 3] = [
        ("destructor", &["Guard::~Guard()", THROWS, "catches()"]),
        (
            "uncaught",
            &[
                "on_terminate()",
                "[libstdc++]",
                "[libstdc++]",
                "[libstdc++]",
                THROWS,
                "throws(unsigned long, bool)",
                "throws(unsigned long, bool)",
                "catches_nothing()",
            ],
        ),
        (
            "forced",
            &[
                AT_FRAME,
                "[libgcc_s.so.1]",
                "[libgcc_s.so.1]",
                "is_forced()",
            ],
        ),
    ];
    for (name, functions) in cases {
        let target = Target::start("in_flight", &[name]);
        let dump = Dump::of_spinning(&sampler, &target);
        let shown: Vec<String> = dump.only().functions();
        // The library's file name has its version.
        let shown = shown
            .iter()
            .map(|function| match function.starts_with("[libstdc++") {
                true => "[libstdc++]",
                false => function,
            });
        let mut expected = vec!["innermost()"];
        expected.extend(functions);
        expected.extend(["main"].iter().chain(GLIBC.start));
        assert_eq!(shown.collect::<Vec<_>>(), expected, "{name}");
        assert!(dump.only().complete, "{name}");
    }
}

#[test]
fn with_a_rust_panic_under_way() {
    let sampler = sampler!();
    let cases: [(&str, &[&str]); 2] = [
        (
            "hook",
            &[
                "rust_panics::innermost",
                "rust_panics::main::{{closure}}",
                "rust_panics::panics",
                "rust_panics::panics",
                "rust_panics::panics",
                "rust_panics::panics",
                "rust_panics::main",
            ],
        ),
        (
            "drop",
            &[
                "rust_panics::innermost",
                "<rust_panics::Guard as core::ops::drop::Drop>::drop",
                "rust_panics::panics",
                "rust_panics::main",
            ],
        ),
    ];
    for (name, expected) in cases {
        let target = Target::start("rust_panics", &[name]);
        let dump = Dump::of_spinning(&sampler, &target);
        let group = dump.only();
        let functions = group.functions();
        let is_own = |function: &&String| function.contains("rust_panics::");
        let own: Vec<&String> = functions.iter().filter(is_own).collect();
        assert_eq!(own, expected, "{name}: {functions:?}");
        // The frames of the standard library are others with each version; none is without a name.
        assert!(
            !functions
                .iter()
                .any(|function| function.starts_with("[unknown"))
        );
        assert!(group.complete, "{name}");
        let outermost: Vec<&str> = functions.iter().rev().take(4).map(String::as_str).collect();
        assert_eq!(
            outermost,
            ["_start", "[libc.so.6]", "[libc.so.6]", "main"],
            "{name}"
        );
    }
}

/// The functions of Go's scheduler in which the stack of a thread without a goroutine begins.
const GO_ROOTS: [&str; 4] = [
    "runtime.goexit",
    "runtime.mcall",
    "runtime.mstart",
    "runtime.rt0_go",
];

#[test]
fn goroutines_end_where_they_begin() {
    let sampler = sampler!();
    let main: &[&str] = &[
        "main.innermost",
        "main.inner",
        "main.outer",
        "main.main",
        "runtime.main",
        "runtime.goexit",
    ];
    let other: &[&str] = &[
        "main.innermost",
        "main.inner",
        "main.outer",
        "main.main.func1",
        "runtime.goexit",
    ];
    for (name, expected) in [("main", main), ("other", other)] {
        let target = Target::start("goroutines", &[name]);
        let dump = Dump::of_spinning(&sampler, &target);
        dump.with("main.innermost").expect(name, expected);
        // What the runtime's own threads do is not ours to say, but it begins somewhere.
        for group in &dump.groups {
            let functions = group.functions();
            let root = functions.last().map_or("", String::as_str);
            assert!(group.complete && GO_ROOTS.contains(&root), "{functions:?}");
        }
        let target = Target::start("goroutines_stripped", &[name]);
        let dump = Dump::of_spinning(&sampler, &target);
        let running = dump.groups.iter().filter(|group| group.state == "running");
        let same =
            running.filter(|group| group.complete && group.functions().len() == expected.len());
        assert!(same.count() > 0, "{dump:?}");
        assert!(dump.groups.iter().all(|group| group.complete), "{dump:?}");
    }
}

#[test]
fn goroutines_asleep_in_a_system_call_are_whole() {
    let sampler = sampler!();
    let target = Target::start("goroutines", &["syscall"]);
    target.until("main.reads to be asleep", || {
        let dump = Dump::of(&sampler, &target);
        let mut groups = dump.groups.iter();
        groups.any(|group| {
            group
                .functions()
                .first()
                .is_some_and(|leaf| leaf == "[read]")
        })
    });
    let dump = Dump::of(&sampler, &target);
    let functions = dump.with("main.reads").functions();
    let below: Vec<&str> = functions.iter().rev().map(String::as_str).collect();
    let expected = [
        "runtime.goexit",
        "runtime.main",
        "main.main",
        "main.outer",
        "main.inner",
        "main.reads",
    ];
    assert_eq!(below[..expected.len()], expected);
    assert!(dump.with("main.reads").complete);
}

#[test]
fn the_runtime_of_go_at_work_is_whole_or_says_where_it_left_the_stack() {
    let sampler = sampler!();
    let target = Target::start("goroutines", &["allocates"]);
    let report: Report = sampler.record_often(&target, "2");
    let mut of_goroutine = 0;
    for stack in &report.stacks {
        let functions = stack.functions();
        let root = *functions.last().unwrap_or(&"");
        of_goroutine += u64::from(functions.contains(&"main.(*shelf).fill"));
        assert!(
            GO_ROOTS.contains(&root) || stack.end != "complete",
            "complete without a root: {functions:?}"
        );
        assert!(
            !functions.contains(&"main.main") || root == "runtime.goexit",
            "{functions:?}"
        );
    }
    assert!(of_goroutine > 0, "{}", report.heaviest());
    assert!(report.summary.complete_ratio > 0.5, "{:?}", report.summary);
}

#[test]
fn a_program_of_32_bits_is_refused() {
    let sampler = sampler!();
    let target = Target::start("thirty_two_bit", &[]);
    for command in ["dump", "record"] {
        sampler
            .run(&[command, "-p", &target.pid_text()])
            .expect_error(
                1,
                &[&target.pid_text(), "32-bit program (i386)", "not supported"],
            );
    }
    target.assert_free();
    assert!(fs::metadata(sampler.path("sampler.data")).is_err());
}

/// Hardly a kernel runs such programs; one that does must not be told that it can be recorded.
#[test]
fn a_program_of_the_x32_abi_is_refused() {
    let sampler = sampler!();
    let program = sampler.path("x32");
    let mut bytes = fs::read(fixture("thirty_two_bit")).expect("it was built");
    // e_machine: EM_X86_64.
    bytes[18..20].copy_from_slice(&[62, 0]);
    fs::write(&program, bytes).expect("the folder can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let path = program.to_str().expect("our paths are text");
    let done = sampler.run(&["record", "--", path]);
    assert_eq!(done.code, Some(126), "{done:?}");
    let words = ["32-bit program (x32)", "not supported"];
    assert!(
        words.iter().all(|word| done.stderr.contains(word)),
        "{done:?}"
    );
    assert!(fs::metadata(sampler.path("sampler.data")).is_err());
}
