//! Who is recorded: children, processes by name, processes of a control group.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sampler_tests_support::{
    Done, Report, Sampler, Target, fixture, need, need_root, number_after, sampler,
};

/// CPU time that a fixture says it or its children used.
#[track_caller]
fn used(stdout: &str, key: &str) -> Duration {
    Duration::from_micros(number_after(stdout, key))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts that the recording has the CPU time `used` by all processes together. Of what the kernel accounts to a
/// parent less than a clock tick (10 ms) may be missing of the children's user and of their system time each, and as
/// much of what a process used after it was last read.
#[track_caller]
fn expect_cpu(report: &Report, used: Duration) {
    let recorded = Duration::from_nanos(report.summary.cpu_ns);
    let margin = Duration::from_millis(30) + used.mul_f64(0.03);
    assert!(
        recorded.abs_diff(used) <= margin,
        "recorded {recorded:?}, used {used:?}; the profile:\n{}",
        report.heaviest()
    );
    let stacks: u64 = report.stacks.iter().map(|stack| stack.weights.cpu_ns).sum();
    let stacks = Duration::from_nanos(stacks);
    assert!(
        stacks.abs_diff(recorded) <= recorded.mul_f64(0.001),
        "{stacks:?} in stacks, {recorded:?} in all"
    );
}

/// Records `families` with these arguments; what it and its children used by their own account.
#[track_caller]
fn record_family(sampler: &Sampler, options: &[&str], arguments: &[&str]) -> (Report, Duration) {
    let program = fixture("families");
    let program = program.to_str().expect("our paths are text");
    let mut words = vec!["record", "-r", "499"];
    words.extend(options);
    words.extend(["--", program]);
    words.extend(arguments);
    let done = sampler.run(&words);
    done.expect_code(0);
    let stdout = text(&done.stdout);
    let used = used(&stdout, "rusage_us") + used(&stdout, "children_us");
    (sampler.report(), used)
}

#[test]
fn a_commands_children_are_recorded_with_all_they_used() {
    let sampler = sampler!();
    let (report, used) = record_family(&sampler, &[], &["12", "60"]);
    assert_eq!(report.summary.processes, 13, "{:?}", report.summary);
    expect_cpu(&report, used);
    // Of each child some milliseconds of 60 are missing, before its first look and after its last.
    report.expect_share("the children", report.share_below("burns_in_child"), 0.75);
    let processes = report.processes();
    let is_child_of = |parent: i32| {
        processes
            .iter()
            .filter(move |child| child.parent == Some(parent))
    };
    let counts = processes
        .iter()
        .map(|process| is_child_of(process.pid).count());
    assert_eq!(counts.max(), Some(12), "{processes:?}");
    assert!(
        processes
            .iter()
            .all(|process| process.command == "families")
    );
}

#[test]
fn children_that_nobody_saw_are_accounted_for() {
    let sampler = sampler!();
    // Looked for ten times a second, hardly one of them is there to be seen.
    let program = fixture("families");
    let program = program.to_str().expect("our paths are text");
    let done = sampler.run(&["record", "-r", "10", "--", program, "150", "2"]);
    done.expect_code(0);
    let stdout = text(&done.stdout);
    let used = used(&stdout, "rusage_us") + used(&stdout, "children_us");
    let report = sampler.report();
    assert!(report.summary.processes < 75, "{:?}", report.summary);
    expect_cpu(&report, used);
    report.expect_share(
        "those that were not seen",
        report.share_of("[children ended unseen]") + report.share_below("[children ended unseen]"),
        0.4,
    );
}

#[test]
fn orphans_belong_to_the_command() {
    let sampler = sampler!();
    // In a session of our own: whoever takes the orphans over is in another, as it is on a terminal.
    let program = fixture("families");
    let mut command = Command::new(need("setsid"));
    command
        .arg("--wait")
        .arg(env!("CARGO_BIN_EXE_sampler"))
        .args(["record", "-r", "499", "--"])
        .arg(&program)
        .args(["4", "150", "orphans"]);
    sampler.prepare(&mut command);
    sampler.start_command(&mut command).wait().expect_code(0);
    let report = sampler.report();
    // Each of 150 ms; nobody is accounted them.
    report.expect_share("orphans", report.share_below("burns_in_child"), 0.8);
    let cpu = Duration::from_nanos(report.summary.cpu_ns);
    assert!(cpu > Duration::from_millis(4 * 120), "{cpu:?}");
}

#[test]
fn a_command_can_be_recorded_alone() {
    let sampler = sampler!();
    let (report, used) = record_family(&sampler, &["--no-subprocesses"], &["3", "100"]);
    assert_eq!(report.summary.processes, 1);
    assert!(Duration::from_nanos(report.summary.cpu_ns) < used / 3);
    assert!(report.share_below("burns_in_child") < 0.01);
}

#[test]
fn children_of_running_processes_are_recorded_on_demand() {
    for (options, processes) in [(&["-r", "499", "-s"][..], 4), (&["-r", "499"], 1)] {
        let sampler = sampler!();
        let mut target = Target::start("families", &["3", "100", "wait"]);
        let pid = target.pid();
        let running = sampler.attach(pid, options);
        target.tell("\n");
        let ended = target.wait();
        running.wait().expect_code(0);
        let report = sampler.report();
        assert_eq!(report.summary.processes, processes);
        let children = report.cpu_share(|stack| stack.process.parent == Some(pid));
        if processes == 1 {
            assert!(children < 0.01, "{}", report.heaviest());
        } else {
            report.expect_share("children", children, 0.7);
            let of_children = used(&ended.stdout, "children_us");
            let recorded = Duration::from_nanos(report.summary.cpu_ns);
            // What it was accounted of its last child is lost if it ends at once and is forgotten before it is read.
            assert!(
                recorded > of_children.mul_f64(0.8),
                "{recorded:?} {of_children:?}"
            );
        }
    }
}

#[test]
fn children_that_run_already_are_recorded_from_now_on() {
    let sampler = sampler!();
    let shares = fixture("shares");
    let shell = Target::spawn(
        Command::new("/bin/sh")
            .args([
                "-c",
                "trap 'kill $a $b' TERM; \"$0\" & a=$!; \"$0\" & b=$!; wait; wait",
            ])
            .arg(&shares),
    );
    let of_shell = |process: &Path| {
        fs::read_to_string(process.join("stat")).is_ok_and(|stat| {
            stat.contains("(shares) ") && stat.contains(&format!(" {} ", shell.pid()))
        })
    };
    let children = || -> Vec<i32> {
        fs::read_dir("/proc")
            .expect("/proc is there")
            .flatten()
            .filter(|entry| of_shell(&entry.path()))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    };
    while children().len() < 2 {
        std::thread::yield_now();
    }
    let found = children();
    let pid = shell.pid_text();
    sampler
        .run(&["record", "-s", "-p", &pid, "-r", "299", "-d", "700ms"])
        .expect_code(0);
    shell.end();
    let report = sampler.report();
    assert_eq!(report.summary.processes, 3);
    for pid in found {
        let share = report.cpu_share(|stack| stack.process.pid == pid && stack.has("one_round"));
        report.expect_share("each of them", share, 0.2);
    }
}

/// A C project with some work for the compiler.
fn write_project(folder: &Path) {
    fs::create_dir(folder).expect("the folder can be written");
    let mut objects = String::new();
    for file in 0..4 {
        let mut code = String::new();
        for function in 0..90 {
            code += &format!(
                "int f{file}_{function}(int a, int b) {{ int s = 0; for (int i = 0; i < a; i++) for (int j = 0; j < b; \
                 j++) s += (i * j) ^ (a + {function} - s / (b + 1)); return s % {}; }}\n",
                function + 7
            );
        }
        fs::write(folder.join(format!("f{file}.c")), code).expect("the folder can be written");
        objects += &format!(" f{file}.o");
    }
    let makefile = format!("all:{objects}\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n");
    fs::write(folder.join("Makefile"), makefile).expect("the folder can be written");
}

#[test]
fn a_build_shows_the_functions_of_the_compiler() {
    need("gcc");
    let sampler = sampler!();
    let project = sampler.path("project");
    write_project(&project);
    let project = project.to_str().expect("our paths are text");
    let make = need("make");
    let make = make.to_str().expect("our paths are text");
    let done = sampler.run(&["record", "-r", "299", "--", make, "-C", project]);
    done.expect_code(0);
    assert!(done.stderr.contains(" processes"), "{}", done.stderr);
    let report = sampler.report();
    report.expect_share("cc1 by name", report.share_of_command("cc1"), 0.6);
    report.expect_share("cc1 by file", report.share_below_module("cc1"), 0.6);
    // make, and per file gcc, cc1 and as; some may end unseen.
    assert!(report.summary.processes >= 9, "{:?}", report.summary);
    let of_cc1 = report.processes().into_iter();
    let of_cc1: Vec<_> = of_cc1.filter(|process| process.command == "cc1").collect();
    assert_eq!(of_cc1.len(), 4, "{of_cc1:?}");
    assert!(of_cc1.iter().all(|process| process.name.contains("/cc1 ")));
    assert!(
        report.stacks.iter().any(|stack| {
            stack.process.command == "cc1"
                && stack.end == "complete"
                && stack.functions().last() == Some(&"_start")
        }),
        "{}",
        report.heaviest()
    );

    // One root for all of them, and with --threads one for each.
    let folded = text(&sampler.run(&["report", "-f", "folded"]).stdout);
    assert!(folded.contains("cc1 (4 processes);"), "{folded}");
    let table = text(&sampler.run(&["report", "--threads"]).stdout);
    for process in of_cc1 {
        let label = format!("cc1 ({}) of ", process.pid);
        assert!(table.contains(&label), "{label}: {table}");
    }
}

#[test]
fn a_shell_with_short_lived_children() {
    let sampler = sampler!();
    let script = "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done; exit 7";
    let done = sampler.run(&["record", "-r", "999", "--", "/bin/sh", "-c", script]);
    done.expect_code(7);
    let report = sampler.report();
    assert!(
        report.summary.processes > 1,
        "{:?} {}",
        report.summary,
        done.stderr
    );
}

/// `sampler` as nobody, from a place where nobody may read it.
#[track_caller]
fn run_as_nobody(sampler: &Sampler, arguments: &[&str]) -> Done {
    need_root();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut command = Command::new(need("setpriv"));
    command
        .args(nobody)
        .arg("--")
        .arg(sampler.for_everybody())
        .args(arguments);
    sampler.prepare(&mut command);
    sampler.start_command(&mut command).wait()
}

#[test]
fn a_child_that_cannot_be_sampled_leaves_the_others_alone() {
    need_root();
    let sampler = sampler!();
    sampler.for_everybody();
    // With the rights of its owner, which are more than those of who starts it.
    let (other, own) = (sampler.path("other"), sampler.path("own"));
    for (program, mode) in [(&other, 0o4755), (&own, 0o755)] {
        fs::copy(fixture("shares"), program).expect("the folder can be written");
        fs::set_permissions(program, fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    let script = "./other 400 >&2 & ./own 400 >&2 & wait; exit 3";
    let done = run_as_nobody(
        &sampler,
        &[
            "record",
            "-r",
            "299",
            "--max-overhead",
            "off",
            "--",
            "/bin/sh",
            "-c",
            script,
        ],
    );
    done.expect_code(3);
    let report = sampler.report();
    let own = report.cpu_share(|stack| stack.process.command == "own" && stack.has("one_round"));
    report.expect_share("the one that can be", own, 0.3);
    let seen = |command: &str| {
        report.cpu_share(|stack| stack.process.command == command && stack.has("one_round"))
    };
    assert!(seen("other") < 0.01, "{}", report.heaviest());
    // It is left out, or, if it was found before it had executed the program, its looks are denied.
    let denied = |reasons: &std::collections::BTreeMap<String, u64>| {
        reasons.get("denied").copied().unwrap_or(0)
    };
    assert!(
        denied(&report.summary.left_out) + denied(&report.summary.missed) > 0,
        "{:?}",
        report.summary
    );
    assert!(
        done.stderr.contains("denied by the kernel"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_child_that_another_tracer_holds_is_missed_and_no_more() {
    let sampler = sampler!();
    let shares = fixture("shares");
    let script = "strace -o /dev/null \"$0\" 300 >&2 & \"$0\" 300 >&2 & wait; exit 3";
    need("strace");
    let mut command = sampler.command(["record", "-r", "299", "--", "/bin/sh", "-c", script]);
    command.arg(&shares);
    sampler.start_command(&mut command).wait().expect_code(3);
    let report = sampler.report();
    let traced = report.summary.missed.get("traced");
    assert!(
        traced.is_some_and(|&ticks| ticks > 0),
        "{:?}",
        report.summary
    );
    report.expect_share("the other one", report.share_below("one_round"), 0.2);
}

#[test]
fn processes_of_a_name_are_recorded_when_they_come() {
    let sampler = sampler!();
    let program = sampler.path("late-riser");
    fs::copy(fixture("shares"), &program).expect("the folder can be written");
    let running = sampler.start(&["record", "-P", "^late-riser$", "-r", "299"]);
    running.until_recording();
    let start = || {
        let mut target = Target::spawn(&mut Command::new(&program));
        target.until_ready();
        target
    };
    let (one, other) = (start(), start());
    // Long enough for a listing of all processes, whatever they looked like when they were new.
    while one.cpu() < Duration::from_millis(500) || other.cpu() < Duration::from_millis(500) {
        one.until_it_ran();
        other.until_it_ran();
    }
    let pids = [one.pid(), other.pid()];
    drop((one, other));
    let done = running.interrupt();
    done.expect_code(0);
    let report = sampler.report();
    assert_eq!(report.summary.processes, 2, "{:?}", report.processes());
    for pid in pids {
        let share = report.cpu_share(|stack| stack.process.pid == pid && stack.has("one_round"));
        report.expect_share("each of them", share, 0.2);
    }
}

#[test]
fn a_pattern_that_only_we_match_finds_nobody() {
    let sampler = sampler!();
    // Nobody else's, who may run the same tests.
    let pattern = format!("no-such-program-as-{}", std::process::id());
    let done = sampler.run(&["record", "-q", "-P", &pattern, "-d", "300ms"]);
    done.expect_error(5, &[&format!("no process matches '{pattern}'")]);
    assert!(!sampler.path("sampler.data").exists());
}

#[test]
fn while_there_is_nobody_to_record_that_is_said() {
    let sampler = sampler!();
    let pattern = format!("no-such-program-for-{}", std::process::id());
    let done = sampler.run(&["record", "-P", &pattern, "-d", "300ms"]);
    assert_eq!(done.code, Some(5), "{}", done.stderr);
    let is_said = done.stderr.contains("nobody to record yet; waiting");
    assert!(is_said, "{}", done.stderr);
}

/// A control group made for a test, gone with this value.
struct OwnCgroup(PathBuf);

impl OwnCgroup {
    /// In whatever hierarchy lets us make one, of either version.
    fn make() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let points = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind) = (words.next()?, words.next()?);
            kind.starts_with("cgroup").then_some(point)
        });
        points
            .map(|point| Path::new(point).join(format!("sampler-test-{}", std::process::id())))
            .find(|folder| fs::create_dir_all(folder.join("below")).is_ok())
            .map(Self)
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        // Empty by now; if not, the next boot removes it.
        let _below = fs::remove_dir(self.0.join("below"));
        let _own = fs::remove_dir(&self.0);
    }
}

#[test]
fn processes_of_a_control_group_are_recorded_when_they_enter_it() {
    let group = OwnCgroup::make().expect(
        "a control group can be made: run the tests as root, with a hierarchy below /sys/fs/cgroup that can be written",
    );
    let sampler = sampler!();
    let (outside, inside) = (Target::start("shares", &[]), Target::start("shares", &[]));
    let later = Target::start("shares", &[]);
    let enter = |folder: &Path, target: &Target| {
        fs::write(folder.join("cgroup.procs"), target.pid_text()).expect("it can enter");
    };
    enter(&group.0, &inside);
    let path = group.0.to_str().expect("our paths are text");
    let running = sampler.start(&["record", "--cgroup", path, "-r", "299"]);
    running.until_recording();
    enter(&group.0.join("below"), &later);
    let before = later.cpu();
    while later.cpu() < before + Duration::from_millis(300) {
        later.until_it_ran();
    }
    running.interrupt().expect_code(0);
    let report = sampler.report();
    let mut pids: Vec<i32> = report
        .processes()
        .iter()
        .map(|process| process.pid)
        .collect();
    pids.sort_unstable();
    assert_eq!(pids, [inside.pid(), later.pid()]);
    for pid in pids {
        let share = report.cpu_share(|stack| stack.process.pid == pid && stack.has("one_round"));
        report.expect_share("each of them", share, 0.2);
    }
    outside.assert_free();
    drop((outside, inside, later));
}

#[test]
fn the_control_group_that_we_are_in_is_known_by_its_path() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let groups = fs::read_to_string("/proc/self/cgroup").expect("the kernel has control groups");
    let longest = groups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .max_by_key(|path| path.len())
        .expect("a line for each hierarchy");
    sampler
        .run(&["record", "--cgroup", longest, "-r", "199", "-d", "600ms"])
        .expect_code(0);
    let report = sampler.report();
    let pid = target.pid();
    assert!(
        report
            .stacks
            .iter()
            .any(|stack| stack.process.pid == pid && stack.has("one_round")),
        "{}",
        report.heaviest()
    );
    let nothing = format!("{}/no-such-group", longest.trim_end_matches('/'));
    sampler
        .run(&["record", "--cgroup", &nothing, "-d", "1"])
        .expect_error(4, &["no control group", "no-such-group"]);
}

#[test]
fn there_is_one_way_of_choosing_at_a_time() {
    let sampler = sampler!();
    for both in [
        &["-p", "1", "-P", "x"][..],
        &["-P", "x", "true"],
        &["--cgroup", "/", "-p", "1"],
        &["-P", "("],
        &[],
    ] {
        let mut command = sampler.command([&["record"], both].concat());
        command.stdin(Stdio::null());
        sampler.start_command(&mut command).wait().expect_code(2);
    }
}
