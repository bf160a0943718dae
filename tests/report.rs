//! `sampler report`: one recording in every form.

use std::fs;

use sampler_tests_support::{Sampler, Target, Weights, fixture, sampler};

/// Half a second of `shares`, recorded.
#[track_caller]
fn recorded() -> Sampler {
    let sampler = sampler!();
    let program = fixture("shares");
    let program = program.to_str().expect("our paths are text");
    sampler
        .run(&["record", "-r", "299", "--", program, "500"])
        .expect_code(0);
    sampler
}

#[track_caller]
fn report(sampler: &Sampler, options: &[&str]) -> String {
    let mut words = vec!["report"];
    words.extend(options);
    let done = sampler.run(&words);
    done.expect_code(0);
    done.text()
}

/// Lines `outer;inner WEIGHT`, as flame graph tools read them.
#[track_caller]
fn folded(text: &str) -> Vec<(Vec<&str>, u64)> {
    text.lines()
        .map(|line| {
            let (stack, weight) = line.rsplit_once(' ').expect("a stack and a weight");
            (
                stack.split(';').collect(),
                weight.parse().expect("the weight is a whole number"),
            )
        })
        .collect()
}

#[test]
fn the_table_is_what_comes_unasked() {
    let sampler = recorded();
    let text = report(&sampler, &[]);
    assert_eq!(text, report(&sampler, &["-f", "table"]));
    assert_eq!(
        text,
        report(&sampler, &["--format", "table", "sampler.data"])
    );
    let line = text
        .lines()
        .find(|line| line.contains("burns_sixty"))
        .unwrap_or_default();
    assert!(text.contains("self %") && line.contains("shares"), "{text}");
    assert!(
        text.contains("burns_thirty") && text.contains("burns_ten"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "no colours into a pipe");
}

#[test]
fn a_limit_shortens_the_table() {
    let sampler = recorded();
    let text = report(&sampler, &["--limit", "1"]);
    assert!(
        text.contains("burns_sixty") && !text.contains("burns_ten"),
        "{text}"
    );
}

#[test]
fn the_tree_shows_who_called() {
    let text = report(&recorded(), &["-f", "tree"]);
    let at = |function: &str| {
        text.find(function)
            .unwrap_or_else(|| panic!("{function}:\n{text}"))
    };
    assert!(
        at("main") < at("one_round") && at("one_round") < at("burns_sixty"),
        "{text}"
    );
}

#[test]
fn folded_stacks_are_read_by_other_tools() {
    let sampler = recorded();
    let text = report(&sampler, &["-f", "folded"]);
    let stacks = folded(&text);
    let whole: u64 = stacks.iter().map(|(_, weight)| weight).sum();
    let sixty: u64 = stacks
        .iter()
        .filter(|(frames, _)| frames.last() == Some(&"burns_sixty"))
        .map(|(_, weight)| weight)
        .sum();
    assert!(sixty * 2 > whole, "{text}");
    assert!(
        stacks
            .iter()
            .all(|(frames, _)| frames.len() > 1 || frames[0].starts_with('[')),
        "{text}"
    );
}

#[test]
fn threads_are_put_under_the_root() {
    let sampler = recorded();
    let table = report(&sampler, &["--threads"]);
    assert!(
        table.contains("\nshares (") && table.contains("burns_sixty"),
        "{table}"
    );
    let text = report(&sampler, &["-f", "folded", "--threads"]);
    // What threads that ended unseen used is under a root of its own.
    let of_threads = folded(&text)
        .into_iter()
        .filter(|(frames, _)| frames.contains(&"main"))
        .inspect(|(frames, _)| {
            assert!(
                frames[0].starts_with("shares ("),
                "the thread comes first:\n{text}"
            );
        });
    assert!(of_threads.count() > 0, "{text}");
}

#[test]
fn the_flame_graph_is_svg() {
    let sampler = recorded();
    let text = report(&sampler, &["-f", "flamegraph"]);
    assert!(text.contains("<svg") && text.trim_end().ends_with("</svg>"));
    assert!(text.contains("burns_sixty") && text.to_lowercase().contains("cpu"));
}

#[test]
fn the_form_follows_from_the_files_name() {
    let sampler = recorded();
    for (name, start) in [
        ("x.svg", "<?xml"),
        ("x.json", "{"),
        ("x.folded", ""),
        ("x.txt", ""),
    ] {
        assert_eq!(
            report(&sampler, &["-o", name]),
            "",
            "{name} goes to the file alone"
        );
        let text = fs::read_to_string(sampler.path(name)).expect("it is written");
        assert!(
            text.starts_with(start) && text.contains("burns_sixty"),
            "{name}: {text}"
        );
    }
    let text = fs::read_to_string(sampler.path("x.folded")).expect("it is written");
    assert!(!folded(&text).is_empty());
}

#[test]
fn the_weights_differ_as_they_should() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "500ms", "-r", "199"])
        .expect_code(0);
    let sum = |weight: &str| -> u64 {
        folded(&report(&sampler, &["-f", "folded", "--weight", weight]))
            .iter()
            .filter(|(frames, _)| frames.contains(&"by_read_pipe"))
            .map(|(_, weight)| weight)
            .sum()
    };
    assert!(sum("off-cpu") > 0 && sum("wall") >= sum("off-cpu") && sum("samples") > 0);
    assert_eq!(sum("cpu"), 0, "a sleeper uses none");
    assert_eq!(sum("runqueue"), 0, "and waits for none");
}

#[test]
fn the_summary_has_what_is_promised() {
    let sampler = recorded();
    let report = sampler.report(); // a missing key fails here
    let summary = &report.summary;
    assert!(
        summary.samples > 0 && summary.wall_ns > summary.cpu_ns / 2,
        "{summary:?}"
    );
    assert!(summary.stops + summary.unstopped_reads > 0, "{summary:?}");
    let samples: u64 = report
        .stacks
        .iter()
        .map(|stack| stack.weights.samples)
        .sum();
    assert!(
        samples.abs_diff(summary.samples) <= 1 + summary.samples / 100,
        "{samples}: {summary:?}"
    );
    assert!(report.stacks.iter().all(|stack| !stack.frames.is_empty()));
    // Of one stack it may be more: sleep that a running thread had behind it goes to where it slept.
    let sum = |weight: fn(&Weights) -> u64| -> u64 {
        report
            .stacks
            .iter()
            .map(|stack| weight(&stack.weights))
            .sum()
    };
    assert!(sum(|weights| weights.wall_ns) >= sum(|weights| weights.off_cpu_ns));
    // Outermost first, as in a folded stack.
    let heaviest = report
        .stacks
        .iter()
        .max_by_key(|stack| stack.weights.cpu_ns)
        .expect("there are stacks");
    assert_eq!(heaviest.functions().first().copied(), Some("burns_sixty"));
}

#[test]
fn a_replaced_binary_lends_no_names() {
    let sampler = sampler!();
    let program = sampler.path("program");
    fs::copy(fixture("shares"), &program).expect("the folder can be written");
    let path = program.to_str().expect("our paths are text");
    sampler
        .run(&["record", "-r", "299", "--", path, "400"])
        .expect_code(0);
    fs::remove_file(&program).expect("it is ours");
    fs::copy(fixture("omit_frame_pointer"), &program).expect("the folder can be written");
    for format in ["table", "json"] {
        let text = report(&sampler, &["-f", format]);
        assert!(text.contains("[unknown in program+0x"), "{text}");
        for name in ["burns_", "innermost", "outermost"] {
            assert!(!text.contains(name), "{name} cannot be known:\n{text}");
        }
        assert!(
            text.to_lowercase().contains("build id"),
            "it is told why:\n{text}"
        );
    }
}

#[test]
fn debug_files_are_found_by_their_link() {
    let sampler = sampler!();
    let program = sampler.path("program");
    fs::copy(fixture("shares"), &program).expect("the folder can be written");
    let objcopy = |arguments: &[&str]| {
        let status = std::process::Command::new(sampler_tests_support::need("objcopy"))
            .args(arguments)
            .current_dir(sampler.folder())
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "objcopy {arguments:?}"
        );
    };
    objcopy(&["--only-keep-debug", "program", "program.debug"]);
    objcopy(&[
        "--strip-all",
        "--add-gnu-debuglink=program.debug",
        "program",
    ]);
    let path = program.to_str().expect("our paths are text");
    sampler
        .run(&["record", "-r", "299", "--", path, "400"])
        .expect_code(0);
    let report = sampler.report();
    report.expect_share("burns_sixty", report.share_of("burns_sixty"), 0.4);
}
