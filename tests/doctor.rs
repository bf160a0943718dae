//! `sampler doctor`: what it says of machines and processes that can be recorded, and of those that cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use sampler_tests_support::{Done, Sampler, Target, fixture, need, need_root, sampler};
use serde_json::Value;

/// An ordinary user, by number: it needs no entry anywhere.
const SOMEBODY: &str = "4242";

fn doctor(sampler: &Sampler, pid: Option<i32>) -> (Done, Value) {
    let mut arguments = vec!["doctor".to_owned(), "--json".to_owned()];
    arguments.extend(pid.map(|pid| format!("--pid={pid}")));
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    parsed(sampler.run(&words))
}

/// `sampler doctor --json` behind another command.
fn doctor_behind(sampler: &Sampler, launcher: &mut Command, pid: Option<i32>) -> (Done, Value) {
    let program = sampler.for_everybody();
    launcher.arg(program).args(["doctor", "--json"]);
    launcher.args(pid.map(|pid| format!("--pid={pid}")));
    sampler.prepare(launcher);
    parsed(sampler.start_command(launcher).wait())
}

#[track_caller]
fn parsed(done: Done) -> (Done, Value) {
    let checkup = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", done.text(), done.stderr));
    (done, checkup)
}

fn as_somebody() -> Command {
    need_root();
    let mut command = Command::new(need("setpriv"));
    command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"]);
    command
}

/// A fixture where anybody may read and run it.
fn public(sampler: &Sampler, name: &str) -> PathBuf {
    sampler.for_everybody();
    let copy = sampler.path(name);
    fs::copy(fixture(name), &copy).expect("the folder can be written");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
    copy
}

/// The check called `name`, of the target if there is one with this name, else of the machine.
#[track_caller]
fn check<'a>(checkup: &'a Value, name: &str) -> &'a Value {
    let lists = [&checkup["target"]["checks"], &checkup["machine"]];
    let mut checks = lists.into_iter().filter_map(Value::as_array).flatten();
    checks
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no check `{name}` in {checkup:#}"))
}

#[track_caller]
fn expect(checkup: &Value, name: &str, verdict: &str, words: &str) {
    let check = check(checkup, name);
    assert_eq!(check["verdict"], verdict, "{check:#}");
    let found = check["found"].as_str().unwrap_or_default();
    assert!(found.contains(words), "`{words}` is not in {check:#}");
}

#[test]
fn a_machine_on_which_commands_can_be_recorded() {
    let sampler = sampler!();
    let (done, checkup) = doctor(&sampler, None);
    done.expect_code(0);
    assert_eq!(checkup["works"], true);
    for name in [
        "kernel",
        "ptrace",
        "memory",
        "syscall",
        "schedstat",
        "clock",
    ] {
        expect(&checkup, name, "ok", "");
    }
    expect(&checkup, "kernel", "ok", "Linux ");
    assert!(checkup["target"].is_null());
    // A kernel without Yama says so, and one with it names the value.
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let expected = match &yama {
        Ok(scope) => format!("ptrace_scope={}", scope.trim()),
        Err(_) => "has none".to_owned(),
    };
    let found = check(&checkup, "yama")["found"]
        .as_str()
        .unwrap_or_default();
    assert!(found.contains(&expected), "{found}");
}

#[test]
fn an_ordinary_user_can_record_commands_and_is_told_whom_else() {
    let sampler = sampler!();
    let (done, checkup) = doctor_behind(&sampler, &mut as_somebody(), None);
    done.expect_code(0);
    expect(
        &checkup,
        "rights",
        "note",
        "uid 4242 without CAP_SYS_PTRACE",
    );
    expect(&checkup, "ptrace", "ok", "");
}

#[test]
fn a_target_is_described_without_being_stopped() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let (done, checkup) = doctor(&sampler, Some(target.pid()));
    done.expect_code(0);
    target.assert_free();
    for name in [
        "user",
        "dumpable",
        "tracer",
        "access",
        "memory",
        "unwinding",
    ] {
        expect(&checkup, name, "ok", "");
    }
    let modules = checkup["target"]["modules"].as_array().expect("modules");
    let program = modules.iter().find(|module| {
        module["path"]
            .as_str()
            .is_some_and(|path| path.ends_with("/shares"))
    });
    let program = program.expect("the program is a module");
    assert_eq!(program["lines"], true, "{program:#}");
    assert_eq!(program["unwinding"][0], ".eh_frame", "{program:#}");
    assert!(program["build_id"].is_string(), "{program:#}");
}

#[test]
fn modules_without_names_are_told_apart() {
    let sampler = sampler!();
    let target = Target::start("stripped", &[]);
    let (_, checkup) = doctor(&sampler, Some(target.pid()));
    let modules = checkup["target"]["modules"].as_array().expect("modules");
    let program = &modules[0];
    assert_eq!(program["all_functions"], false, "{program:#}");
    assert_eq!(program["lines"], false, "{program:#}");
    expect(&checkup, "symbols", "note", "have names of all functions");
    let hint = check(&checkup, "symbols")["hint"]
        .as_str()
        .unwrap_or_default();
    assert!(hint.contains("sampler symbols"), "{hint}");
}

#[test]
fn a_target_of_another_user_is_refused_with_what_would_help() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]); // root's
    let (done, checkup) = doctor_behind(&sampler, &mut as_somebody(), Some(target.pid()));
    done.expect_code(3);
    assert_eq!(checkup["works"], false);
    expect(
        &checkup,
        "user",
        "fails",
        "it belongs to uid 0, we are uid 4242",
    );
    let remedies = check(&checkup, "user")["remedies"].to_string();
    assert!(
        remedies.contains("SYS_PTRACE") || remedies.contains("setcap"),
        "{remedies}"
    );
    // The error of `dump` says the same, with the same remedies.
    let mut command = as_somebody();
    let pid = target.pid_text();
    command
        .arg(sampler.for_everybody())
        .args(["dump", "-p", &pid]);
    sampler.prepare(&mut command);
    let refused = sampler.start_command(&mut command).wait();
    let words = ["it belongs to uid 0, we are uid 4242", "sampler doctor -p"];
    refused.expect_error(3, &words);
    for line in check(&checkup, "user")["remedies"]
        .as_array()
        .expect("a list")
    {
        let line = line.as_str().unwrap_or_default();
        assert!(
            refused.stderr.contains(line),
            "`{line}` is not in {}",
            refused.stderr
        );
    }
}

#[test]
fn a_target_that_has_withdrawn_itself_is_refused_to_its_user() {
    let sampler = sampler!();
    let mut command = as_somebody();
    command.arg(public(&sampler, "withdrawn"));
    let target = Target::start_command(&mut command);
    let (done, checkup) = doctor_behind(&sampler, &mut as_somebody(), Some(target.pid()));
    done.expect_code(3);
    expect(&checkup, "dumpable", "fails", "it is not dumpable");
    // To root it is not closed.
    let (done, checkup) = doctor(&sampler, Some(target.pid()));
    done.expect_code(0);
    expect(&checkup, "dumpable", "ok", "withdrawn itself");
}

#[test]
fn another_tracer_is_named() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let mut gdb = Command::new(need("gdb"));
    gdb.args(["-nx", "-q", "-batch", "-iex", "set debuginfod enabled off"]);
    gdb.args([
        "-p",
        &target.pid_text(),
        "-ex",
        "echo held\\n",
        "-ex",
        "shell read line",
    ]);
    let mut gdb = Target::spawn(gdb.stderr(Stdio::null()));
    gdb.until_line(|line| line == "held");
    let (done, checkup) = doctor(&sampler, Some(target.pid()));
    done.expect_code(3);
    expect(&checkup, "tracer", "fails", "another tracer, gdb");
    gdb.tell("\n");
    gdb.wait();
    doctor(&sampler, Some(target.pid())).0.expect_code(0);
}

#[test]
fn a_filter_on_ourselves_is_found_out_by_trying() {
    let sampler = sampler!();
    let filtered = |rule: &str| {
        let mut command = Command::new(fixture("filtered"));
        command.args([rule, "--"]);
        command
    };
    let (done, checkup) = doctor_behind(&sampler, &mut filtered("ptrace=EPERM"), None);
    done.expect_code(3);
    expect(&checkup, "seccomp", "ok", "a filter lies on us");
    expect(
        &checkup,
        "ptrace",
        "fails",
        "the seccomp filter that this command runs under",
    );
    let (done, checkup) = doctor_behind(&sampler, &mut filtered("process_vm_readv=ENOSYS"), None);
    done.expect_code(0);
    expect(&checkup, "memory", "note", "/proc/PID/mem");
    expect(&checkup, "ptrace", "ok", "");
}

#[test]
fn a_user_namespace_is_noticed() {
    let sampler = sampler!();
    let mut command = Command::new(need("unshare"));
    command.args(["--user", "--map-root-user"]);
    let (done, checkup) = doctor_behind(&sampler, &mut command, None);
    done.expect_code(0);
    expect(&checkup, "container", "ok", "a user namespace");
    // Root in there has the capability, and not over a process outside.
    let target = Target::start_command(as_somebody().arg(public(&sampler, "shares")));
    let mut command = Command::new(need("unshare"));
    command.args(["--user", "--map-root-user"]);
    let (done, checkup) = doctor_behind(&sampler, &mut command, Some(target.pid()));
    done.expect_code(3);
    expect(&checkup, "user namespace", "fails", "its user namespace");
}

#[test]
fn interpreters_are_named_with_their_versions() {
    let sampler = sampler!();
    for (program, script, name) in [
        (
            "python3",
            "import sys; print('ready', flush=True); sys.stdin.read()",
            "Python 3.",
        ),
        (
            "luajit",
            "print('ready') io.stdout:flush() io.read('*a')",
            "LuaJIT 2.",
        ),
    ] {
        let flag = if program == "luajit" { "-e" } else { "-c" };
        let target = Target::start_command(Command::new(need(program)).args([flag, script]));
        let (done, checkup) = doctor(&sampler, Some(target.pid()));
        done.expect_code(0);
        expect(&checkup, "runtime", "ok", name);
        let runtime = &checkup["target"]["runtimes"][0];
        assert!(
            runtime["version"]
                .as_str()
                .is_some_and(|version| version.contains(name)),
            "{runtime:#}"
        );
        assert!(runtime["unsupported"].is_null(), "{runtime:#}");
    }
}

#[test]
fn a_perf_map_is_seen_and_its_absence_too() {
    let sampler = sampler!();
    let script = "console.log('ready'); process.stdin.resume()";
    let node = |flags: &[&str]| {
        Target::start_command(
            Command::new(need("node"))
                .args(flags)
                .current_dir(sampler.folder())
                .args(["-e", script]),
        )
    };
    let target = node(&["--perf-basic-prof"]);
    let (_, checkup) = doctor(&sampler, Some(target.pid()));
    expect(&checkup, "compiled code", "ok", "named by a perf map");
    // What it has written in /tmp is its own, and nobody's after it.
    drop(fs::remove_file(format!("/tmp/perf-{}.map", target.pid())));
    let target = node(&[]);
    let (done, checkup) = doctor(&sampler, Some(target.pid()));
    done.expect_code(0);
    expect(&checkup, "compiled code", "note", "no perf map");
    let hint = check(&checkup, "compiled code")["hint"]
        .as_str()
        .unwrap_or_default();
    assert!(hint.contains("--perf-basic-prof"), "{hint}");
}

#[test]
fn nobody_is_told_as_every_command_tells_it() {
    let sampler = sampler!();
    sampler
        .run(&["doctor", "-p", "2147483647"])
        .expect_error(4, &["there is no process"]);
    sampler.run(&["doctor", "-p", "x"]).expect_code(2);
}

#[test]
fn a_person_reads_short_lines_and_what_to_do() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    let done = sampler.run(&["doctor", "-p", &pid]);
    done.expect_code(0);
    let text = done.text();
    let checks: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("  ok"))
        .collect();
    assert!(checks.len() > 15, "{text}");
    assert!(text.contains(&format!("process {pid} (shares)")), "{text}");
    assert!(
        text.contains(&format!(
            "process {pid} can be recorded: sampler record -p {pid}"
        )),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text}");
    let colored = sampler.run(&["doctor", "--color", "always"]).text();
    assert!(colored.contains("\x1b["), "{colored}");
    let mut command = as_somebody();
    command
        .arg(sampler.for_everybody())
        .args(["doctor", "-p", &pid]);
    sampler.prepare(&mut command);
    // Another name in argv[0], to see that nothing depends on it.
    let refused = sampler.start_command(command.arg0("setpriv")).wait();
    let text = refused.text();
    assert!(
        text.contains(&format!("process {pid} cannot be recorded")),
        "{text}"
    );
    let left =
        format!("but for which of its threads run, and their CPU time: sampler record -p {pid}");
    assert!(text.contains(&left), "{text}");
    assert!(
        text.contains("\nuser: run as root, or grant CAP_SYS_PTRACE"),
        "{text}"
    );
}
