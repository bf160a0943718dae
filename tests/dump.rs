//! `sampler dump`: all threads' stacks, now.

use std::process::Command;

use sampler_tests_support::{Target, sampler};

#[test]
fn sleepers_are_shown_with_what_they_wait_for() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let done = sampler.run(&["dump", "-p", &target.pid_text()]);
    done.expect_code(0);
    let text = done.text();
    for word in [
        "by_mutex",
        "by_condition",
        "by_read_pipe",
        "by_epoll_wait",
        "by_nanosleep",
        "by_accept",
        "by_poll",
        "by_flock",
        "futex",
        "epoll_wait",
        "main",
    ] {
        assert!(text.contains(word), "`{word}` is missing:\n{text}");
    }
    assert_eq!(text.matches("by_mutex").count(), 1, "{text}");
    target.assert_free();
    assert_eq!(target.wait().number_after("came_back"), 0);
}

#[test]
fn identical_stacks_are_one_with_a_count() {
    let sampler = sampler!();
    let mut target = Target::start("threads64", &[]);
    target.tell("\n");
    target.until_it_ran();
    let done = sampler.run(&["stack", "-p", &target.pid_text()]);
    done.expect_code(0);
    let text = done.text();
    // 62 sleepers of five kinds: 13 or 12 of each.
    for (function, count) in [("sleeps_on_mutex", "13"), ("sleeps_in_nanosleep", "12")] {
        assert_eq!(text.matches(function).count(), 1, "{function}:\n{text}");
        assert!(
            text.contains(count),
            "{function} has {count} threads:\n{text}"
        );
    }
    assert!(text.contains("busy"), "{text}");
    target.assert_free();
    target.until_it_ran();
}

#[test]
fn json_is_json() {
    let sampler = sampler!();
    let target = Target::start("sleepers", &[]);
    let done = sampler.run(&["dump", "--json", "-p", &target.pid_text()]);
    done.expect_code(0);
    let json: serde_json::Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", done.text()));
    let text = json.to_string();
    assert!(
        text.contains("by_mutex") && text.contains("futex"),
        "{text}"
    );
}

#[test]
fn a_running_thread_is_shown_where_it_runs() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let done = sampler.run(&["dump", "-p", &target.pid_text()]);
    done.expect_code(0);
    let text = done.text();
    assert!(
        text.contains("one_round") && text.contains("running"),
        "{text}"
    );
    target.assert_free();
    target.until_it_ran();
}

#[test]
fn who_is_not_there_cannot_be_shown() {
    let sampler = sampler!();
    sampler
        .run(&["dump", "-p", "999999999"])
        .expect_error(4, &["999999999"]);
    sampler.run(&["dump"]).expect_code(2);
    let target = Target::spawn(&mut Command::new("/bin/true"));
    target.until_zombie();
    sampler
        .run(&["dump", "-p", &target.pid_text()])
        .expect_error(4, &[&target.pid_text(), "zombie"]);
}
