//! What cannot work is told in one line, with the right exit code, and loses nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use object::{Object as _, ObjectSection as _};
use sampler_tests_support::{Report, Running, Sampler, Target, fixture, need, need_root, sampler};

#[test]
fn what_was_typed_makes_no_sense() {
    let sampler = sampler!();
    for arguments in [
        &["no-such-command"][..],
        &["record"],
        &["record", "-p", "x"],
        &["record", "-p", "-1"],
        &["record", "-p", "0"],
        &["record", "-p", "1", "--", "true"],
        &["record", "-r", "0", "--", "true"],
        &["record", "-r", "-5", "--", "true"],
        &["record", "-r", "often", "--", "true"],
        &["record", "-d", "0", "--", "true"],
        &["record", "-d", "10 parsecs", "--", "true"],
        &["record", "-d", "-1s", "--", "true"],
        &["record", "-r", "1e9", "--", "true"],
        &["record", "-r", "1000000000", "--", "true"],
        &["record", "-d", "99999999999999999999h", "--", "true"],
        &["record", "--max-overhead", "0", "--", "true"],
        &["record", "--max-overhead", "-2", "--", "true"],
        &["record", "--max-overhead", "100.1", "--", "true"],
        &["record", "--max-overhead", "none", "--", "true"],
        &["record", "--max-pause", "0", "--", "true"],
        &["record", "--max-pause", "1h", "--", "true"],
        &["report", "-f", "no-such-format"],
        &["report", "--weight", "feathers"],
        &["dump"],
    ] {
        let done = sampler.run(arguments);
        assert_eq!(done.code, Some(2), "{arguments:?}: {}", done.stderr);
        assert!(!done.stderr.is_empty(), "{arguments:?}");
    }
    assert!(!sampler.path("sampler.data").exists());
}

#[test]
fn there_is_no_such_process() {
    let sampler = sampler!();
    sampler
        .run(&["record", "-p", "999999999"])
        .expect_error(4, &["999999999"]);
    // Not one of several either: better told at once than found missing in the profile.
    let target = Target::start("shares", &[]);
    let pids = format!("{},999999999", target.pid());
    sampler
        .run(&["record", "-d", "1", "-p", &pids])
        .expect_error(4, &["999999999"]);
    assert!(!sampler.path("sampler.data").exists());
    assert!(!sampler.path("sampler.data.partial").exists());
}

#[test]
fn a_zombie_has_no_stacks() {
    let sampler = sampler!();
    let target = Target::spawn(&mut Command::new("/bin/true"));
    target.until_zombie();
    let pid = target.pid_text();
    sampler
        .run(&["record", "-d", "1", "-p", &pid])
        .expect_error(4, &[&pid, "zombie"]);
}

#[test]
fn a_kernel_thread_has_no_user_stack() {
    // In a container none is to be seen; then its number is nobody's, which must be told as well.
    let sampler = sampler!();
    let kernel_thread = fs::read_dir("/proc")
        .expect("/proc is there")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| {
            *pid > 1
                && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                    status.contains("Kthread:\t1") || !status.contains("VmSize")
                })
                && fs::read_link(format!("/proc/{pid}/exe")).is_err()
                && fs::read_to_string(format!("/proc/{pid}/stat"))
                    .is_ok_and(|stat| !stat.contains(") Z "))
        });
    #[expect(clippy::print_stderr, reason = "what was not checked is told")]
    let Some(pid) = kernel_thread else {
        eprintln!("no kernel thread is visible in this pid namespace; the message was not checked");
        return;
    };
    let pid = pid.to_string();
    let done = sampler.run(&["record", "-d", "1", "-p", &pid]);
    done.expect_error(4, &[&pid, "kernel thread"]);
}

/// Runs `sampler` as nobody, from a place where nobody may read it.
#[track_caller]
fn start_as_nobody(sampler: &Sampler, arguments: &[&str]) -> Running {
    need_root();
    let mut command = Command::new(need("setpriv"));
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--",
        ])
        .arg(sampler.for_everybody())
        .args(arguments);
    sampler.prepare(&mut command);
    sampler.start_command(&mut command)
}

#[test]
fn another_users_process_is_denied_and_by_whom_is_told() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    // What everybody may know of it is recorded all the same.
    let done = start_as_nobody(&sampler, &["record", "-d", "500ms", "-p", &pid]).wait();
    done.expect_code(0);
    let said = done.stderr.lines().next().unwrap_or_default();
    assert!(
        said.contains(&pid) && said.contains("uid"),
        "{}",
        done.stderr
    );
    let report = sampler.report();
    assert_eq!(report.summary.fallbacks, ["states_only"]);
    let running = report.share_below("[running, not stopped]");
    report.expect_share("running", running, 0.9);
    start_as_nobody(&sampler, &["dump", "-p", &pid])
        .wait()
        .expect_error(3, &[&pid, "uid"]);
    target.assert_free();
}

#[test]
fn ones_own_process_needs_no_root() {
    need_root();
    let sampler = sampler!();
    // A program nobody can read is not dumpable: the copy in a public folder is.
    sampler.for_everybody();
    let program = sampler.path("shares");
    fs::copy(fixture("shares"), &program).expect("the folder can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut command = Command::new(need("setpriv"));
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--",
        ])
        .arg(&program);
    let mut target = Target::spawn(&mut command);
    target.until_ready();
    let pid = target.pid_text();
    start_as_nobody(
        &sampler,
        &[
            "record",
            "-d",
            "2s",
            "-r",
            "299",
            "--max-overhead",
            "off",
            "-p",
            &pid,
        ],
    )
    .wait()
    .expect_code(0);
    let report = sampler.report();
    report.expect_complete();
    report.expect_share("burns_sixty", report.share_of("burns_sixty"), 0.4);
}

#[test]
fn another_tracer_is_named() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    let mut strace = Target::spawn(
        Command::new(need("strace"))
            .args(["-p", &pid, "-o", "/dev/null"])
            .stderr(Stdio::null()),
    );
    target.until_status("TracerPid", |tracer| tracer != "0");
    let tracer = strace.pid_text();
    let done = sampler.run(&["record", "-d", "1", "-p", &pid]);
    done.expect_error(3, &[&pid, &tracer, "strace"]);
    sampler
        .run(&["dump", "-p", &pid])
        .expect_error(3, &[&tracer]);
    // It still holds what it held.
    assert_eq!(
        target.status(target.pid(), "TracerPid").as_deref(),
        Some(tracer.as_str())
    );
    drop(strace.take_stdin());
    strace.end();
    target.until_it_ran();
}

#[test]
fn the_output_cannot_be_written() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    for output in ["no-such-folder/x", "."] {
        let done = sampler.run(&["record", "-d", "1", "-p", &pid, "-o", output]);
        done.expect_error(1, &[output]);
    }
    let done = sampler.run(&["record", "-o", "no-such-folder/x", "--", "/bin/true"]);
    done.expect_error(125, &["no-such-folder/x"]);
    target.assert_free();

    sampler
        .run(&["record", "-d", "200ms", "-p", &pid])
        .expect_code(0);
    let done = sampler.run(&["report", "-o", "no-such-folder/x.svg"]);
    done.expect_error(1, &["no-such-folder/x.svg"]);
}

#[test]
fn the_disk_is_full() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    let full = || Stdio::from(fs::File::create("/dev/full").expect("/dev/full is there"));
    let mut command = sampler.command(["record", "-d", "500ms", "-p", &pid, "-o", "-"]);
    command.stdout(full());
    sampler
        .start_command(&mut command)
        .wait()
        .expect_error(1, &["no space left"]);
    target.assert_free();

    sampler
        .run(&["record", "-d", "200ms", "-p", &pid])
        .expect_code(0);
    let mut command = sampler.command(["report"]);
    command.stdout(full());
    sampler
        .start_command(&mut command)
        .wait()
        .expect_error(1, &["no space left"]);
}

#[test]
fn the_reader_of_a_report_may_leave() {
    let sampler = sampler!();
    let program = fixture("exits");
    let program = program.to_str().expect("our paths are text");
    sampler
        .run(&["record", "--", program, "200"])
        .expect_code(0);
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let mut command = sampler.command(["report", "-f", "folded"]);
    command.stdout(Stdio::from(writer));
    let done = sampler.start_command(&mut command).wait();
    assert_eq!(done.stderr, "", "`report | head` is no failure to tell of");
}

#[test]
fn there_is_no_such_recording() {
    let sampler = sampler!();
    sampler.run(&["report"]).expect_error(1, &["sampler.data"]);
    sampler
        .run(&["report", "no-such-file"])
        .expect_error(1, &["no-such-file"]);
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", b"hello, this is no recording\n"),
        ("zeros", &[0; 8192]),
    ] {
        fs::write(sampler.path(name), bytes).expect("the folder can be written");
        sampler.run(&["report", name]).expect_error(1, &[name]);
    }
    sampler.run(&["report", "."]).expect_error(1, &["."]);
}

/// A recording of a second or so, its bytes.
#[track_caller]
fn recording(sampler: &Sampler) -> Vec<u8> {
    let program = fixture("shares");
    let program = program.to_str().expect("our paths are text");
    sampler
        .run(&["record", "-r", "299", "--", program, "2500"])
        .expect_code(0);
    fs::read(sampler.path("sampler.data")).expect("it was written")
}

/// Reports on a recording that is not as it should be: as far as it can be read, or not at all with one line.
/// Either way the reader is told.
#[track_caller]
fn report_on_damaged(sampler: &Sampler, bytes: &[u8], what: &str) -> Option<Report> {
    fs::write(sampler.path("damaged"), bytes).expect("the folder can be written");
    let done = sampler.run(&["report", "-f", "json", "damaged"]);
    if done.code == Some(0) {
        let report = Report::parse(&done.stdout);
        assert!(!report.notes.is_empty(), "{what}: nothing is told");
        let table = sampler.run(&["report", "damaged"]);
        table.expect_code(0);
        assert!(table.text().contains("damaged"), "{what}: {}", table.text());
        return Some(report);
    }
    // What comes before the damage may hold no sample yet.
    let code = if done.code == Some(5) { 5 } else { 1 };
    done.expect_error(code, &["damaged"]);
    None
}

#[test]
fn a_truncated_recording_is_read_as_far_as_it_goes() {
    let sampler = sampler!();
    let whole = recording(&sampler);
    let samples = sampler.report().summary.samples;
    // The last chunk is torn: what stands before it is all there.
    let report = report_on_damaged(&sampler, &whole[..whole.len() - 3], "3 bytes less");
    let report = report.expect("the chunks before the last are whole");
    assert!(report.summary.samples > 0 && report.summary.samples <= samples);
    const PARTS: usize = 24;
    for part in 0..PARTS {
        let bytes = whole.len() * part / PARTS;
        let what = format!("{bytes} of {} bytes", whole.len());
        if let Some(report) = report_on_damaged(&sampler, &whole[..bytes], &what) {
            assert!(report.summary.samples <= samples, "{what}");
        }
    }
}

#[test]
fn a_corrupted_recording_is_read_as_far_as_it_can() {
    let sampler = sampler!();
    let whole = recording(&sampler);
    const PLACES: usize = 24;
    for place in 0..PLACES {
        let mut bytes = whole.clone();
        let at = whole.len() * place / PLACES;
        for byte in bytes.iter_mut().skip(at).take(16) {
            *byte ^= 0xa5;
        }
        report_on_damaged(&sampler, &bytes, &format!("damage at {at}"));
    }
}

/// Overwrites a section of an ELF file with noise.
#[track_caller]
fn garble(program: &Path, section: &str, seed: u64) {
    let mut file = fs::read(program).expect("it is ours");
    let (start, bytes) = object::File::parse(&*file)
        .expect("the fixture is an ELF file")
        .section_by_name(section)
        .and_then(|section| section.file_range())
        .unwrap_or_else(|| panic!("the fixture has no {section}"));
    let start = usize::try_from(start).expect("it is in memory");
    let bytes = usize::try_from(bytes).expect("it is in memory");
    let mut state = seed;
    for byte in file.iter_mut().skip(start).take(bytes) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *byte = state.to_be_bytes()[0];
    }
    fs::write(program, file).expect("it is ours");
}

#[test]
fn garbage_in_cfi_and_dwarf_harms_nobody() {
    for name in [
        ".eh_frame",
        ".eh_frame_hdr",
        ".debug_info",
        ".debug_abbrev",
        ".debug_line",
        ".debug_str",
        ".symtab",
        ".strtab",
    ] {
        for seed in 1..4 {
            let sampler = sampler!();
            let program = sampler.path("garbled");
            fs::copy(fixture("shares"), &program).expect("the folder can be written");
            garble(&program, name, seed);
            let path = program.to_str().expect("our paths are text");
            let done = sampler.run(&["record", "-r", "299", "--", path, "150"]);
            done.expect_code(0);
            assert!(
                done.text().contains("rusage_us"),
                "the program itself ran: {}",
                done.text()
            );
            let report = sampler.report();
            assert!(report.summary.samples > 0, "{name}: {:?}", report.summary);
        }
    }
}

#[test]
fn a_process_too_short_for_a_sample() {
    let sampler = sampler!();
    // Its status is its own, whatever was seen of it.
    sampler.run(&["record", "--", "/bin/true"]).expect_code(0);
    sampler.run(&["record", "--", "/bin/false"]).expect_code(1);
}
