//! Containers: `sampler` in one, and beside one. By the namespaces and filters that they are made of, without an
//! engine; tests/rigs has runs with one. From outside into one: tests/jit.rs, tests/modules.rs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use sampler_tests_support::{
    Dump, Report, Sampler, Target, fixture, fixtures_dir, need, need_root, sampler,
};

/// Nobody in particular, and without any capability.
const UNPRIVILEGED: &[&str] = &[
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
    "--",
];

/// What Docker's default profile refuses of what `sampler` would use: from 20.10.24 on ptrace is allowed, and from
/// 23.0 on process_vm_readv; before, and on Linux before 4.8, neither.
const PROFILES: [&[&str]; 3] = [
    &[],
    &["process_vm_readv=EPERM"],
    &["ptrace=EPERM", "process_vm_readv=EPERM"],
];

/// A copy of a fixture in the folder of `sampler`, for anybody to execute.
fn copied(sampler: &Sampler, name: &str) {
    let copy = sampler.path(name);
    fs::copy(fixture(name), &copy).expect("the folder can be written");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// Runs a script with `./sampler` beside it as nobody, in pid and mount namespaces of its own, under these rules.
#[track_caller]
fn contained(sampler: &Sampler, rules: &[&str], script: &str) {
    need_root();
    sampler.for_everybody();
    copied(sampler, "shares");
    copied(sampler, "without");
    let mut command = Command::new(need("unshare"));
    command
        .args(["--pid", "--fork", "--mount", "--mount-proc", "--"])
        .arg(need("setpriv"))
        .args(UNPRIVILEGED)
        .arg("./without")
        .args(rules)
        .args(["--", "sh", "-euc", script]);
    sampler.prepare(&mut command);
    sampler.start_command(&mut command).wait().expect_code(0);
}

/// That it is the profile of `shares`. Samplers without priority see the system calls of a busy machine more often than
/// there are any: what is compared are the three functions that share the rest.
#[track_caller]
fn expect_shares(report: &Report) {
    let [sixty, thirty, ten] =
        ["burns_sixty", "burns_thirty", "burns_ten"].map(|name| report.share_of(name));
    let all = sixty + thirty + ten;
    report.expect_share("all three", all, 0.2);
    report.expect_share("burns_sixty", sixty / all, 0.45);
}

fn is_running_unstopped(report: &Report) -> bool {
    let share = report.share_below("[running, not stopped]");
    share > 0.9
        && report
            .summary
            .fallbacks
            .iter()
            .any(|word| word == "no_stops")
}

#[test]
fn a_command_is_recorded_in_a_container() {
    for rules in PROFILES {
        let sampler = sampler!();
        let script = "./sampler record -q --max-overhead off -r 299 -- ./shares 400 >&2";
        contained(&sampler, rules, script);
        let report = sampler.report();
        match rules.contains(&"ptrace=EPERM") {
            true => assert!(is_running_unstopped(&report), "{}", report.heaviest()),
            false => {
                report.expect_complete();
                expect_shares(&report);
            }
        }
    }
}

#[test]
fn processes_of_ones_own_are_recorded_in_a_container() {
    const PYTHON: &str = "
import threading, time
def rests(): time.sleep(1000)
threading.Thread(target=rests, daemon=True).start()
def works():
    x = 0
    while True: x = (x * 31 + 7) % 1000003
works()
";
    for rules in PROFILES {
        let sampler = sampler!();
        fs::write(sampler.path("program.py"), PYTHON).expect("the folder is ours");
        let script = format!(
            "'{}' program.py & program=$!
            ./sampler record -q --max-overhead off -r 299 -d 1 -p $program
            ./sampler dump --json -p $program >dump.json
            kill $program",
            need("python3").display()
        );
        contained(&sampler, rules, &script);
        let report = sampler.report();
        report.expect_share("Python", report.share_below("works"), 0.5);
        let is_there = report.stacks.iter().any(|stack| stack.has("rests"));
        assert!(is_there, "{}", report.heaviest());
        let dump = fs::read_to_string(sampler.path("dump.json")).expect("it was written");
        assert!(
            dump.contains("\"rests") && dump.contains("\"works"),
            "{dump}"
        );
    }
}

#[test]
fn lua_is_seen_in_a_container() {
    const LUA: &str = "
local function works() local x = 0; while true do x = (x * 31 + 7) % 1000003 end end
works()
";
    let sampler = sampler!();
    fs::write(sampler.path("program.lua"), LUA).expect("the folder is ours");
    let script = format!(
        "'{}' program.lua & program=$!
        ./sampler record -q --max-overhead off -r 299 -d 500ms -p $program
        kill $program",
        need("lua5.4").display()
    );
    contained(&sampler, PROFILES[1], &script);
    let report = sampler.report();
    report.expect_share("Lua", report.share_below("program.lua:2"), 0.5);
}

/// In a pod that shares its pid namespace: the paths of the target lead nowhere here.
#[test]
fn a_sidecar_finds_the_files_of_its_neighbour() {
    need_root();
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let mut command = Command::new(need("unshare"));
    let script =
        "mount -t tmpfs none \"$1\" && exec \"$0\" dump --json --no-symbol-cache -p \"$2\"";
    command
        .args(["--mount", "sh", "-c", script])
        .arg(sampler.command(["dump"]).get_program())
        .arg(fixtures_dir())
        .arg(target.pid_text());
    sampler.prepare(&mut command);
    let dump = Dump::parse(&sampler.start_command(&mut command).wait());
    dump.with("one_round");
}

/// Nothing can be written anywhere, and there is no /tmp to speak of.
#[test]
fn a_root_that_cannot_be_written_is_enough() {
    need_root();
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    // The command may have been in /tmp.
    let script =
        "mount -t tmpfs none /mnt && cp \"$0\" /mnt/sampler && mount -o remount,ro /mnt || exit 8
        mount -o remount,bind,ro / && mount -t tmpfs -o ro none /tmp && cd / || exit 9
        /mnt/sampler record -q -o - -r 299 -d 500ms -p \"$1\" | /mnt/sampler report -f json -";
    let mut command = Command::new(need("unshare"));
    command
        .args(["--mount", "sh", "-c", script])
        .arg(sampler.command(["dump"]).get_program())
        .arg(target.pid_text());
    sampler.prepare(&mut command);
    let done = sampler.start_command(&mut command).wait();
    done.expect_code(0);
    let report = Report::parse(&done.stdout);
    report.expect_complete();
    expect_shares(&report);
}

/// Root inside, nobody outside.
#[test]
fn a_user_namespace_is_seen_into_and_from_within() {
    need_root();
    let sampler = sampler!();
    sampler.for_everybody();
    copied(&sampler, "shares");
    let enter = |script: &str| {
        let mut command = Command::new(need("setpriv"));
        command.args(UNPRIVILEGED).arg(need("unshare"));
        command.args(["--user", "--map-root-user", "--", "sh", "-euc", script]);
        command
    };
    let script = "test $(id -u) = 0
        ./shares >/dev/null & program=$!
        ./sampler record -q --max-overhead off -r 299 -d 500ms -p $program
        kill $program";
    let mut command = enter(script);
    sampler.prepare(&mut command);
    sampler.start_command(&mut command).wait().expect_code(0);
    expect_shares(&sampler.report());

    let mut command = enter("exec ./shares");
    let target = Target::start_command(command.current_dir(sampler.folder()));
    expect_shares(&sampler.record_often(&target, "500ms"));
}
