//! What people are used to from other commands: completions, manual pages, colors, a file with defaults, names of
//! files, files one after the other, and reports in one step.

use std::fs;
use std::process::Command;

use sampler_tests_support::{Sampler, Signal, Target, need, sampler};

#[test]
fn shells_take_their_completions() {
    let sampler = sampler!();
    let script = sampler.path("completions.bash");
    let done = sampler.run(&["completions", "bash"]);
    done.expect_code(0);
    fs::write(&script, &done.stdout).expect("it can be written");
    // What bash offers for `sampler rec`.
    let offered = Command::new(need("bash"))
        .arg("-c")
        .arg("source \"$0\"; COMP_WORDS=(sampler rec); COMP_CWORD=1; _sampler sampler rec sampler; echo \"${COMPREPLY[*]}\"")
        .arg(&script)
        .output()
        .expect("bash is there");
    let offered = String::from_utf8_lossy(&offered.stdout).into_owned();
    assert_eq!(offered.trim(), "record");
    for shell in ["zsh", "fish"] {
        let done = sampler.run(&["completions", shell]);
        done.expect_code(0);
        assert!(done.text().contains("doctor"), "{shell}: {}", done.text());
    }
    sampler.run(&["completions", "tcsh"]).expect_code(2);
}

#[test]
fn every_command_has_its_manual_page() {
    let sampler = sampler!();
    let done = sampler.run(&["man", "pages"]);
    done.expect_code(0);
    for name in [
        "sampler",
        "sampler-record",
        "sampler-report",
        "sampler-doctor",
        "sampler-symbols-pack",
    ] {
        let page = fs::read_to_string(sampler.path(&format!("pages/{name}.1"))).expect("a page");
        assert!(page.contains(".TH"), "{name}: {page}");
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    assert!(!sampler.path("pages/sampler-demo-workload.1").exists());
    let first = sampler.run(&["man"]);
    assert!(first.text().contains(".SH NAME"), "{}", first.text());
}

#[test]
fn colors_are_where_they_are_wanted() {
    let sampler = sampler!();
    let stderr = |arguments: &[&str], no_color: &str| {
        let mut command = sampler.command(arguments);
        command.env("NO_COLOR", no_color);
        sampler.start_command(&mut command).wait().stderr
    };
    let refused = ["report", "absent.data"];
    assert!(!stderr(&refused, "").contains('\x1b'));
    let always = ["report", "absent.data", "--color", "always"];
    // What is typed is meant, whatever the environment says.
    assert!(stderr(&always, "1").contains("\x1b["));
    assert!(!stderr(&["report", "--color=never", "absent.data"], "").contains('\x1b'));
    // Also of what clap has to say.
    assert!(stderr(&["report", "--color=always", "--no-such-option"], "").contains("\x1b["));
    assert!(!stderr(&["report", "--no-such-option"], "").contains('\x1b'));
}

#[test]
fn verbose_tells_what_is_done_and_is_silent_otherwise() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let pid = target.pid_text();
    let record = |more: &[&str]| {
        let words = [&["record", "-p", &pid, "-d", "200ms"], more].concat();
        let done = sampler.run(&words);
        done.expect_code(0);
        done.stderr
    };
    let told = record(&["-vv"]);
    assert!(told.contains("INFO") && told.contains("DEBUG"), "{told}");
    assert!(told.contains("sleepers"), "{told}");
    assert_eq!(record(&["--quiet"]), "");
    assert!(!record(&[]).contains("INFO"));
}

fn write_config(sampler: &Sampler, text: &str) {
    let folder = sampler.path("config/sampler");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("config.toml"), text).expect("it can be written");
}

#[test]
fn a_file_has_defaults_and_the_command_line_wins() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let pid = target.pid_text();
    write_config(
        &sampler,
        "# mine\n[record]\noutput = \"mine.data\"\nrate = 37\n\n[report]\nweight = \"wall\"\nformat = \"folded\"\n",
    );
    sampler
        .run(&["record", "-p", &pid, "-d", "300ms"])
        .expect_code(0);
    let mine = sampler.path("mine.data");
    let report = sampler.report_of(&mine);
    assert_eq!(report.summary.rate_hz_requested, 37.0);
    let folded = sampler.run(&["report", "mine.data"]).text();
    let stacks = folded.lines().filter(|line| line.contains(';')).count();
    assert!(stacks > 10, "{folded}");
    sampler
        .run(&[
            "record",
            "-p",
            &pid,
            "-d",
            "300ms",
            "-r",
            "55",
            "-o",
            "other.data",
        ])
        .expect_code(0);
    assert_eq!(
        sampler
            .report_of(&sampler.path("other.data"))
            .summary
            .rate_hz_requested,
        55.0
    );
    fs::remove_file(&mine).expect("it was written");
    sampler
        .run(&["record", "--no-config", "-p", &pid, "-d", "300ms"])
        .expect_code(0);
    assert!(!mine.exists() && sampler.path("sampler.data").exists());
}

#[test]
fn what_is_wrong_with_the_file_is_told_with_its_line() {
    let sampler = sampler!();
    for (text, words) in [
        ("[record]\nrate = 0\n", ["config.toml:2: ", "'--rate <HZ>'"]),
        (
            "\n[record]\nspeed = 3\n",
            ["config.toml:3: ", "no option 'speed'"],
        ),
        ("[record\n", ["config.toml:1: ", ""]),
    ] {
        write_config(&sampler, text);
        sampler.run(&["report"]).expect_error(2, &words);
        // It is in nobody's way who says so.
        sampler
            .run(&["report", "--no-config", "--help"])
            .expect_code(0);
    }
}

/// The names of the files in the sampler's folder that end so, sorted.
fn files(sampler: &Sampler, end: &str) -> Vec<String> {
    let names = fs::read_dir(sampler.folder()).expect("the folder is there");
    let names = names.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    let mut names: Vec<String> = names.filter(|name| name.ends_with(end)).collect();
    names.sort();
    names
}

#[test]
fn names_of_files_say_what_was_recorded() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let pid = target.pid_text();
    sampler
        .run(&["record", "-p", &pid, "-d", "200ms", "-o", "%n-%p-%t.data"])
        .expect_code(0);
    let names = files(&sampler, ".data");
    let name = names.first().expect("a recording");
    let time = name
        .strip_prefix(&format!("sleepers-{pid}-"))
        .expect("name and number");
    let is_right = time
        .bytes()
        .zip(b"2026-01-31T12:00:00Z.data")
        .all(|(found, form)| found == *form || found.is_ascii_digit() && form.is_ascii_digit());
    assert!(is_right, "{time}");
    // Of a command too, whose number is known only once it runs.
    let done = sampler.run(&[
        "record",
        "-o",
        "%n-%p.data",
        "--",
        "sh",
        "-c",
        "echo $$; exec sleep 0.2",
    ]);
    done.expect_code(0);
    let expected = sampler.path(&format!("sh-{}.data", done.text().trim()));
    sampler.report_of(&expected).expect_complete();
    sampler
        .run(&["record", "-p", &pid, "-o", "%d.data"])
        .expect_code(2);
}

#[test]
fn files_one_after_the_other_are_recordings_each_and_the_last_are_kept() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    let done = sampler.run(&[
        "record", "-p", &pid, "-d", "4500ms", "--rotate", "1s", "--keep", "2", "-o", "x.data",
    ]);
    done.expect_code(0);
    let wrote = done
        .stderr
        .lines()
        .filter(|line| line.starts_with("sampler: wrote x-2"))
        .count();
    assert!((3..=5).contains(&wrote), "{}", done.stderr);
    let names = files(&sampler, ".data");
    assert_eq!(names.len(), 2, "{names:?}");
    for name in &names {
        let report = sampler.report_of(&sampler.path(name));
        report.expect_complete();
        report.expect_share("main", report.share_below("main"), 0.5);
    }
    assert!(files(&sampler, ".partial").is_empty());
    target.assert_free();
}

#[test]
fn a_command_goes_on_in_the_next_file() {
    let sampler = sampler!();
    let program = sampler_tests_support::fixture("shares");
    let program = program.to_str().expect("our paths are text");
    let done = sampler.run(&[
        "record", "--rotate", "1s", "-o", "x.data", "--", program, "2600",
    ]);
    done.expect_code(0);
    let names = files(&sampler, ".data");
    assert!(names.len() >= 2, "{names:?}");
    let recorded: u64 = names
        .iter()
        .map(|name| sampler.report_of(&sampler.path(name)).summary.cpu_ns)
        .sum();
    // The milliseconds between two files are missing, and nothing is counted twice.
    let used = done.number_after("rusage_us") * 1000;
    assert!(
        recorded > used / 100 * 75 && recorded < used / 100 * 102,
        "{recorded} of {used}"
    );
}

#[test]
fn sigusr1_writes_what_is_there_and_the_recording_goes_on() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let running = sampler.attach(target.pid(), &["-r", "499"]);
    running.until_recorded(3000);
    running.signal(Signal::SIGUSR1);
    let copy = sampler.path("sampler.data");
    running.until_file(|| copy.exists());
    let so_far = sampler.report();
    so_far.expect_complete();
    so_far.expect_share("main", so_far.share_below("main"), 0.5);
    assert!(sampler.path("sampler.data.partial").exists());
    target.until_it_ran();
    let done = running.interrupt();
    done.expect_code(0);
    assert!(
        done.stderr.contains("with what was recorded so far"),
        "{}",
        done.stderr
    );
    let whole = sampler.report();
    whole.expect_complete();
    assert!(whole.summary.samples > so_far.summary.samples);
    assert!(files(&sampler, ".copy").is_empty());
}

#[test]
fn a_report_is_made_in_one_step() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    let record = |more: &[&str]| {
        let done =
            sampler.run(&[&["record", "-p", &pid, "-d", "400ms", "-r", "299"], more].concat());
        done.expect_code(0);
        done
    };
    let done = record(&["--format", "flamegraph", "-o", "x.svg"]);
    assert!(done.stderr.contains("wrote x.svg"), "{}", done.stderr);
    let svg = fs::read_to_string(sampler.path("x.svg")).expect("it was written");
    assert!(svg.contains("<svg") && svg.contains("burns_sixty"));
    record(&["-o", "y.folded", "-t"]);
    let folded = fs::read_to_string(sampler.path("y.folded")).expect("it was written");
    assert!(
        folded.contains(&format!("shares ({pid})")) || folded.contains("shares"),
        "{folded}"
    );
    let table = record(&["-f", "table"]).text();
    assert!(table.contains("burns_sixty"), "{table}");
    let json = record(&["-f", "json", "-o", "-"]);
    sampler_tests_support::Report::parse(&json.stdout).expect_complete();
    // Nothing but the reports is left.
    assert!(files(&sampler, ".partial").is_empty() && files(&sampler, ".data").is_empty());
}

#[test]
fn other_profilers_options_are_understood() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let pid = target.pid_text();
    // perf record -F 199 -g -p PID; py-spy record -r 199 -n -d 1 -o x.svg --pid PID
    sampler
        .run(&["record", "-F", "199", "-g", "-p", &pid, "-d", "300ms"])
        .expect_code(0);
    sampler
        .run(&["report", "-i", "sampler.data"])
        .expect_code(0);
    sampler
        .run(&[
            "record", "-r", "199", "-n", "-d", "0.3", "-i", "-o", "x.svg", "--pid", &pid,
        ])
        .expect_code(0);
    assert!(sampler.path("x.svg").exists());
    sampler.run(&["dump", "--pid", &pid, "-n"]).expect_code(0);
}
