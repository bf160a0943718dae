//! What `sampler` does with the rights it is given: it keeps no more than it needs, takes none from a command, and what
//! it writes belongs to who asked for it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use sampler_tests_support::{Sampler, Target, need, need_root, sampler};

/// Capabilities by their bits (linux/capability.h).
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;

/// Somebody who has asked by sudo.
const SOMEBODY: u32 = 4242;

/// A set of capabilities in /proc/PID/task/TID/status.
fn capabilities(status: &Path, set: &str) -> u64 {
    let text = fs::read_to_string(status).expect("the thread is there");
    let line = text.lines().find_map(|line| line.strip_prefix(set));
    u64::from_str_radix(line.expect("the set is listed").trim(), 16).expect("a number")
}

fn by_sudo(sampler: &Sampler, arguments: &[&str]) -> Command {
    let mut command = sampler.command(arguments);
    let number = SOMEBODY.to_string();
    command.env("SUDO_UID", &number).env("SUDO_GID", &number);
    command
}

#[test]
fn all_threads_keep_only_what_looking_takes() {
    need_root();
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let running = sampler.attach(target.pid(), &[]);
    running.until_recorded(1000);
    let tasks = fs::read_dir(format!("/proc/{}/task", running.pid())).expect("it runs");
    let allowed = CAP_DAC_READ_SEARCH | CAP_SYS_PTRACE | CAP_CHECKPOINT_RESTORE;
    let mut threads = 0;
    for task in tasks {
        let status = task.expect("a task").path().join("status");
        let effective = capabilities(&status, "CapEff:");
        assert_eq!(effective & !allowed, 0, "{effective:#x}");
        assert_ne!(effective & CAP_SYS_PTRACE, 0, "{effective:#x}");
        assert_eq!(capabilities(&status, "CapInh:"), 0);
        threads += 1;
    }
    assert!(threads >= 2, "the thread that writes is one of them");
    running.interrupt().expect_code(0);
    sampler.report().expect_complete();
}

#[test]
fn what_is_needed_later_is_still_there_without_the_rest() {
    need_root();
    let sampler = sampler!();
    // Of another user, with a program that only that user may read.
    let folder = tempfile::tempdir().expect("a folder");
    let number = SOMEBODY.to_string();
    let program = folder.path().join("private");
    fs::copy(sampler_tests_support::fixture("shares"), &program).expect("a copy");
    std::os::unix::fs::chown(folder.path(), Some(SOMEBODY), Some(SOMEBODY)).expect("we are root");
    std::os::unix::fs::chown(&program, Some(SOMEBODY), Some(SOMEBODY)).expect("we are root");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o500)).expect("we are root");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("we are root");
    let mut command = Command::new(need("setpriv"));
    command
        .args(["--reuid", &number, "--regid", &number, "--clear-groups"])
        .arg(&program);
    let target = Target::start_command(&mut command);
    // It is found by name once the recording has begun, and so opened without the rights that were put down.
    let pattern = format!("^{}$", program.display());
    let done = sampler.run(&["record", "-P", &pattern, "-d", "1", "-r", "499"]);
    done.expect_code(0);
    let report = sampler.report();
    report.expect_complete();
    report.expect_share("burns_sixty", report.share_of("burns_sixty"), 0.5);
    target.assert_free();
}

#[test]
fn a_command_has_all_rights_that_we_were_started_with() {
    need_root();
    let own = Path::new("/proc/self/status");
    let sampler = sampler!();
    for set in [
        "CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:", "Uid:", "Gid:", "Groups:",
    ] {
        let done = sampler.run(&["record", "-q", "--", "grep", set, "/proc/self/status"]);
        done.expect_code(0);
        let ours = fs::read_to_string(own).expect("we are there");
        let ours = ours
            .lines()
            .find(|line| line.starts_with(set))
            .expect("the set is listed");
        assert_eq!(done.text().trim_end(), ours.trim_end());
    }
}

#[test]
fn files_belong_to_who_asked_by_sudo() {
    need_root();
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let pid = target.pid_text();
    // A folder of the user's in which root without its capabilities could write nothing.
    std::os::unix::fs::chown(sampler.folder(), Some(SOMEBODY), Some(SOMEBODY))
        .expect("we are root");
    fs::set_permissions(sampler.folder(), fs::Permissions::from_mode(0o755)).expect("we are root");
    let owner = |name: &str| {
        let file = fs::metadata(sampler.path(name)).expect("it was written");
        (file.uid(), file.gid())
    };
    let run = |arguments: &[&str]| {
        let done = sampler
            .start_command(&mut by_sudo(&sampler, arguments))
            .wait();
        done.expect_code(0);
    };
    run(&["record", "-p", &pid, "-d", "300ms"]);
    assert_eq!(owner("sampler.data"), (SOMEBODY, SOMEBODY));
    run(&["record", "-p", &pid, "-d", "300ms", "-o", "x.svg"]);
    assert_eq!(owner("x.svg"), (SOMEBODY, SOMEBODY));
    assert!(!sampler.path("x.svg.partial").exists());
    run(&["report", "-o", "x.folded"]);
    assert_eq!(owner("x.folded"), (SOMEBODY, SOMEBODY));
    // What was there belongs to whom it belonged.
    fs::write(sampler.path("roots.json"), "").expect("we are root");
    run(&["report", "-o", "roots.json"]);
    assert_eq!(owner("roots.json"), (0, 0));
}

#[test]
fn nobody_has_us_write_to_a_file_of_ours_or_give_it_away() {
    need_root();
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let pid = target.pid_text();
    let precious = sampler.path("precious");
    fs::write(&precious, "kept").expect("we are root");
    let arguments = ["record", "-p", &pid, "-d", "200ms"];
    let partial = sampler.path("sampler.data.partial");
    let record = || {
        let done = sampler
            .start_command(&mut by_sudo(&sampler, &arguments))
            .wait();
        let found = fs::metadata(&precious).expect("it is there");
        assert_eq!(found.uid(), 0, "it was given away");
        done
    };
    symlink(&precious, &partial).expect("a link can be laid");
    record().expect_error(1, &["cannot create", "sampler.data.partial"]);
    assert_eq!(fs::read(&precious).expect("it is there"), b"kept");
    fs::remove_file(&partial).expect("it is there");
    fs::hard_link(&precious, &partial).expect("a link can be laid");
    record();
}
