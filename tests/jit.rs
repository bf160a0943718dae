//! Code that was compiled at run time gets its names from what the program says of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use sampler_tests_support::{Report, Target, fixture, need, sampler};

/// Samples enough that chance alone does not move a share by a quarter of what it may differ by.
const RECORD: [&str; 5] = ["record", "-r", "999", "--max-overhead", "off"];

/// By how much a share may differ from what the program measured.
const WITHIN: f64 = 0.03;

/// The shares that the fixture printed.
#[track_caller]
fn expect_shares(report: &Report, printed: &str) {
    let shares: Vec<(&str, f64)> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("share ")?.rsplit_once(' '))
        .map(|(name, share)| (name, share.parse().expect("a share is a number")))
        .collect();
    assert_eq!(shares.len(), 2, "{printed}");
    for (name, expected) in shares {
        let share = report.share_of(name);
        assert!(
            (share - expected).abs() < WITHIN,
            "{name}: {share:.3} instead of {expected:.3}; {:?}",
            report.notes
        );
    }
}

#[test]
fn a_perf_map_names_code_and_is_not_needed_for_the_report() {
    let sampler = sampler!();
    let program = fixture("jit");
    let program = program.to_str().expect("our paths are text");
    let done = sampler.run(&[&RECORD, &["--", program, "map", "4000"][..]].concat());
    done.expect_code(0);
    let report = sampler.report();
    expect_shares(&report, &done.text());
    let frames = report.stacks.iter().flat_map(|stack| &stack.frames);
    let modules: Vec<_> = frames
        .filter(|frame| frame.function.starts_with("jitted"))
        .map(|frame| frame.module.as_deref())
        .collect();
    assert!(modules.iter().all(|module| *module == Some("[jit]")));
    assert!(report.notes.iter().all(|note| !note.contains("run time")));
}

#[test]
fn a_jitdump_tells_functions_apart_that_had_the_same_address() {
    let sampler = sampler!();
    let program = fixture("jit");
    let program = program.to_str().expect("our paths are text");
    let folder = sampler.folder().to_str().expect("our paths are text");
    let done = sampler.run(&[&RECORD, &["--", program, "dump", folder, "4000"][..]].concat());
    done.expect_code(0);
    let report = sampler.report();
    expect_shares(&report, &done.text());
    for (name, line) in [("reused_by_two_thirds", 11), ("reused_by_one_third", 22)] {
        let frames = report.stacks.iter().flat_map(|stack| &stack.frames);
        let lines: Vec<_> = frames
            .filter(|frame| frame.function == name)
            .map(|frame| (frame.file.as_deref(), frame.line))
            .collect();
        assert!(
            !lines.is_empty()
                && lines
                    .iter()
                    .all(|at| *at == (Some("reused.src"), Some(line))),
            "{name}: {lines:?}"
        );
    }
}

#[test]
fn in_a_container_the_map_is_found_by_the_number_that_the_process_has_there() {
    sampler_tests_support::need_root();
    let sampler = sampler!();
    let program = fixture("jit");
    // The first process of a pid namespace, with a /tmp of its own, in which the program may have been.
    let script = format!(
        "mount -t tmpfs none /mnt && cp '{}' /mnt/jit && mount -t tmpfs none /tmp && exec /mnt/jit map 4000",
        program.display()
    );
    let unshare = need("unshare");
    let unshare = unshare.to_str().expect("our paths are text");
    let words = [
        "--", unshare, "--pid", "--fork", "--mount", "sh", "-c", &script,
    ];
    let done = sampler.run(&[&RECORD, &words[..]].concat());
    done.expect_code(0);
    expect_shares(&sampler.report(), &done.text());
}

#[test]
fn a_dump_of_a_running_program_has_the_names_too() {
    let target = Target::start("jit", &["map"]);
    let sampler = sampler!();
    let done = sampler.run(&["dump", "-p", &target.pid_text()]);
    done.expect_code(0);
    // It may be caught between two calls, so the stack with the names is looked for.
    let mut text = done.text();
    for _ in 0..20 {
        if text.contains("jitted") {
            break;
        }
        text = sampler.run(&["dump", "-p", &target.pid_text()]).text();
    }
    assert!(text.contains("jitted") && text.contains("[jit]"), "{text}");
}

#[test]
fn javascript_has_its_names() {
    let sampler = sampler!();
    let script = sampler.path("split.js");
    fs::write(
        &script,
        "function threeQuarters(n) { let x = 1; for (let i = 0; i < 3 * n; i++) x = (x * 48271) % 2147483647; return x; }\n\
         function oneQuarter(n) { let x = 1; for (let i = 0; i < n; i++) x = (x * 48271) % 2147483647; return x; }\n\
         const end = Date.now() + 4000;\n\
         let sum = 0;\n\
         while (Date.now() < end) { sum += threeQuarters(100000); sum += oneQuarter(100000); }\n\
         if (sum === 42) console.log(sum);\n",
    )
    .expect("the folder is ours");
    let node = need("node");
    let (node, script) = (node.to_str().expect("text"), script.to_str().expect("text"));
    let done = sampler.run(&[
        "record",
        "-r",
        "499",
        "--",
        node,
        "--perf-basic-prof",
        script,
    ]);
    done.expect_code(0);
    let report = sampler.report();
    let share = |function: &str| {
        report.cpu_share(|stack| {
            let leaf = stack.leaf();
            leaf.is_some_and(|frame| frame.function.contains(function))
        })
    };
    let (three, one) = (share("threeQuarters"), share("oneQuarter"));
    assert!(three + one > 0.4, "{three} + {one}; {:?}", report.notes);
    let of_both = three / (three + one);
    assert!((of_both - 0.75).abs() < 2.0 * WITHIN, "{of_both}");
}

#[test]
fn what_poses_as_a_perf_map_harms_nobody() {
    let target = Target::start("jit", &["map"]);
    let path = format!("/tmp/perf-{}.map", target.pid());
    let sampler = sampler!();
    // A FIFO that nobody writes to, a device, a folder.
    fs::remove_file(&path).expect("the target has made it");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.is_ok_and(|made| made.success()));
    sampler
        .run(&["record", "-p", &target.pid_text(), "-d", "1", "-r", "199"])
        .expect_code(0);
    let report = sampler.report();
    assert!(report.share_of("jitted_three_quarters") == 0.0);
    let is_told = |note: &String| note.contains("compiled at run time: no names");
    assert!(report.notes.iter().any(is_told), "{:?}", report.notes);

    // Somebody else's, when we may be somebody else: only root can give a file away.
    fs::remove_file(&path).expect("the FIFO is ours");
    fs::write(&path, "0 ffffffffffff forged\n").expect("/tmp can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    sampler_tests_support::need_root();
    std::os::unix::fs::chown(&path, Some(65534), Some(65534)).expect("root may");
    sampler
        .run(&["record", "-p", &target.pid_text(), "-d", "1", "-r", "199"])
        .expect_code(0);
    assert!(sampler.report().share_of("forged") == 0.0);

    // Gigabytes of nothing, and a name without end.
    fs::remove_file(&path).expect("it is ours");
    let file = fs::File::create(&path).expect("/tmp can be written");
    file.set_len(64 << 30).expect("a file may have holes");
    let done = sampler.run(&["record", "-p", &target.pid_text(), "-d", "1", "-r", "199"]);
    done.expect_code(0);
    fs::remove_file(&path).expect("it is ours");
}
