//! Modules that change under the sampler's hands: stacks stay whole, and names are those of the code that ran.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sampler_tests_support::{
    Dump, Report, Sampler, Stack, Target, fixture, need, need_root, sampler,
};

const START: [&str; 3] = ["[libc.so.6]", "[libc.so.6]", "_start"];

/// What `changes` does in `libfirst.so`; the inner function is known to its file alone, the outer one is exported.
const IN_LIBRARY: [&str; 4] = ["innermost", "spins_below", "first_inner", "first_outer"];

/// A copy of a fixture, under a name of its choice.
fn copy_of(sampler: &Sampler, fixture_name: &str, name: &str) -> PathBuf {
    let copy = sampler.path(name);
    fs::copy(fixture(fixture_name), &copy).expect("the folder can be written");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
    copy
}

fn changes(arguments: &[&str]) -> Target {
    Target::start("changes", arguments)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our paths are text")
}

/// The functions of the fixture below the library, up to the root.
fn stack(functions: &[&'static str], below: &[&'static str]) -> Vec<&'static str> {
    [functions, below, &["main"], &START].concat()
}

/// Records `target`, ends it, and reports: what was in its memory alone is gone then.
#[track_caller]
fn record_and_report(sampler: &Sampler, target: Target) -> Report {
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "500ms", "-r", "200"])
        .expect_code(0);
    target.end();
    sampler.report()
}

/// Asserts that all samples have this chain of functions, and that they are whole.
#[track_caller]
fn expect_chain(report: &Report, chain: &[&str]) {
    report.expect_complete();
    let has_it = |stack: &Stack| {
        let functions = stack.functions();
        let mut rest = functions.iter();
        chain.iter().all(|wanted| rest.any(|found| found == wanted))
    };
    let share = report.cpu_share(has_it);
    report.expect_share(&format!("{chain:?}"), share, 0.95);
}

#[test]
fn a_library_that_was_deleted_or_replaced_keeps_its_names() {
    for replaced in [false, true] {
        let sampler = sampler!();
        let library = copy_of(&sampler, "libfirst.so", "libshelf.so");
        let target = changes(&["library", text(&library)]);
        if replaced {
            let other = copy_of(&sampler, "libsecond.so", "other");
            fs::rename(other, &library).expect("the folder can be written");
        } else {
            fs::remove_file(&library).expect("the folder can be written");
        }
        let dump = Dump::of_spinning(&sampler, &target);
        dump.only()
            .expect("dump", &stack(&IN_LIBRARY, &["library"]));
        let report = record_and_report(&sampler, target);
        expect_chain(&report, &stack(&IN_LIBRARY, &["library"])[..6]);
    }
}

#[test]
fn a_program_that_was_deleted_keeps_its_names() {
    let sampler = sampler!();
    let program = copy_of(&sampler, "changes", "deleted");
    let target = Target::start_command(Command::new(&program).arg("spin"));
    fs::remove_file(&program).expect("the folder can be written");
    let dump = Dump::of_spinning(&sampler, &target);
    dump.only()
        .expect("dump", &stack(&["innermost", "spins_below"], &[]));
    let report = record_and_report(&sampler, target);
    expect_chain(&report, &["innermost", "spins_below", "main"]);
}

/// Without the rights that the kernel's own links to mapped files need, memory alone has a deleted library.
#[test]
fn a_deleted_library_is_read_from_memory_where_its_file_cannot_be_had() {
    need_root();
    let sampler = sampler!();
    let command = sampler.for_everybody();
    let program = copy_of(&sampler, "changes", "changes");
    let library = copy_of(&sampler, "libfirst.so", "libshelf.so");
    let as_nobody = |program: &Path| {
        let mut command = Command::new(need("setpriv"));
        let nobody = [
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--",
        ];
        command.args(nobody).arg(program);
        command
    };
    let target = Target::start_command(as_nobody(&program).arg("library").arg(&library));
    fs::remove_file(&library).expect("the folder can be written");
    target.until_it_ran();
    let mut command = as_nobody(&command);
    command.args(["dump", "--json", "-p", &target.pid_text()]);
    sampler.prepare(&mut command);
    let dump = Dump::parse(&sampler.start_command(&mut command).wait());
    let group = dump.only();
    // A function that is not exported has no name in memory.
    let functions = group.functions();
    assert!(
        functions[2].starts_with("[unknown in libshelf.so"),
        "{functions:?}"
    );
    let mut expected = stack(&IN_LIBRARY, &["library"]);
    expected[2] = &functions[2];
    group.expect("dump", &expected);
}

#[test]
fn programs_and_libraries_without_a_name_are_whole() {
    let sampler = sampler!();
    let library = fixture("libfirst.so");
    let target = changes(&["memfd_library", text(&library)]);
    let expected = stack(&IN_LIBRARY, &["library", "memfd_library"]);
    Dump::of_spinning(&sampler, &target)
        .only()
        .expect("dump", &expected);
    expect_chain(&record_and_report(&sampler, target), &expected[..7]);

    let target = changes(&["memfd_program"]);
    let expected = stack(&["innermost", "spins_below"], &[]);
    Dump::of_spinning(&sampler, &target)
        .only()
        .expect("dump", &expected);
    expect_chain(&record_and_report(&sampler, target), &expected[..3]);
}

#[test]
fn files_of_another_mount_namespace_are_those_that_ran() {
    need_root();
    let sampler = sampler!();
    // Under the names that others see, there are other files.
    let program = copy_of(&sampler, "libsecond.so", "changes");
    let library = copy_of(&sampler, "libsecond.so", "libshelf.so");
    let script = format!(
        "mount -t tmpfs none {folder} && cp {changes} {folder}/changes && cp {first} {folder}/libshelf.so && \
         exec {folder}/changes library {folder}/libshelf.so",
        folder = text(sampler.folder()),
        changes = text(&fixture("changes")),
        first = text(&fixture("libfirst.so")),
    );
    let mut command = Command::new(need("unshare"));
    command.args(["--mount", "sh", "-c", &script]);
    let target = Target::start_command(&mut command);
    assert!(program.exists() && library.exists());
    let expected = stack(&IN_LIBRARY, &["library"]);
    Dump::of_spinning(&sampler, &target)
        .only()
        .expect("dump", &expected);
    expect_chain(&record_and_report(&sampler, target), &expected[..6]);
}

#[test]
fn code_in_other_places_than_its_file_says_is_whole() {
    let sampler = sampler!();
    let target = changes(&["remapped"]);
    let expected = stack(&["innermost", "spins_below"], &["remapped"]);
    Dump::of_spinning(&sampler, &target)
        .only()
        .expect("remapped", &expected);
    expect_chain(&record_and_report(&sampler, target), &expected[..4]);

    let library = fixture("libfirst.so");
    let target = changes(&["partial", text(&library)]);
    let expected = stack(&IN_LIBRARY, &["partial"]);
    Dump::of_spinning(&sampler, &target)
        .only()
        .expect("partial", &expected);
    expect_chain(&record_and_report(&sampler, target), &expected[..6]);
}

/// A page of a mapped file that the file no longer reaches is touched at the price of SIGBUS.
#[test]
fn a_library_that_its_process_cuts_off_ends_no_recording() {
    let sampler = sampler!();
    let library = copy_of(&sampler, "libfirst.so", "libshelf.so");
    let mut target = changes(&["shortens", text(&library)]);
    let running = sampler.attach(target.pid(), &["-r", "499"]);
    let maps = format!("/proc/{}/maps", running.pid());
    running.until_file(|| fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("libshelf.so")));
    target.tell("\n");
    target.until_line(|line| line == "short");
    let enough = target.cpu() + Duration::from_millis(200);
    target.until("CPU time to be used", || target.cpu() >= enough);
    let done = running.interrupt();
    done.expect_code(0);
    assert!(
        done.stderr.contains("a file became shorter"),
        "{}",
        done.stderr
    );
    target.assert_free();
    let report = sampler.report();
    let was_cut_off = |stack: &Stack| stack.functions().contains(&"cuts_off");
    report.expect_share("cuts_off", report.cpu_share(was_cut_off), 0.1);
    target.end();
}

#[test]
fn libraries_that_come_and_go_are_never_taken_for_each_other() {
    let sampler = sampler!();
    let (first, second) = (fixture("libfirst.so"), fixture("libsecond.so"));
    let target = changes(&["storm", text(&first), text(&second)]);
    let report = sampler.record_often(&target, "2");
    target.assert_free();
    let mut seen = [0, 0];
    let mut mistaken = 0;
    for stack in &report.stacks {
        let functions = stack.functions();
        for (index, own, other) in [(0, "first", "second"), (1, "second", "first")] {
            if !functions.contains(&format!("uses_{own}").as_str()) {
                continue;
            }
            seen[index] += stack.weights.samples
                * u64::from(functions.contains(&format!("{own}_work").as_str()));
            if functions.contains(&format!("{other}_work").as_str()) {
                mistaken += stack.weights.samples;
            }
        }
    }
    let samples = report.summary.samples;
    assert!(
        seen.iter().all(|&seen| seen > samples / 20),
        "{seen:?}: {}",
        report.heaviest()
    );
    // Until it was first seen that the process unloads libraries, one may have been taken for the other.
    assert!(
        mistaken <= samples / 100,
        "{mistaken} of {samples}: {}",
        report.heaviest()
    );
    assert!(report.summary.complete_ratio > 0.8, "{:?}", report.summary);
}
