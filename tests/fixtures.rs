//! The fixtures themselves: each builds and, left alone, does what its line in `fixtures/README.md` says. What the
//! other tests see beyond that is `sampler`'s doing.

use std::time::Duration;

use sampler_tests_support::{RECIPES, Target, fixture};

#[test]
fn every_fixture_builds() {
    for recipe in RECIPES {
        assert!(fixture(recipe.name).exists(), "{}", recipe.name);
    }
}

#[test]
fn the_kernels_account_agrees_with_getrusage() {
    let ended = Target::start("shares", &["300"]).wait();
    assert!(ended.status.success());
    let rusage = ended.rusage();
    assert!(
        ended.cpu.abs_diff(rusage) < Duration::from_millis(5),
        "{:?} by the clock, {rusage:?} by getrusage",
        ended.cpu
    );
    assert!(rusage >= Duration::from_millis(300));
}

#[test]
fn shares_are_about_as_named() {
    for fixture in [
        "shares",
        "static",
        "static_pie",
        "no_pie",
        "stripped",
        "musl_static",
    ] {
        let ended = Target::start(fixture, &["200"]).wait();
        let line = ended
            .stdout
            .lines()
            .find(|line| line.starts_with("share burns_sixty"))
            .unwrap_or_default();
        let share: f64 = line.rsplit(' ').next().unwrap_or("").parse().unwrap_or(0.0);
        assert!((0.5..0.7).contains(&share), "{fixture}: {line}");
    }
}

#[test]
fn nobody_wakes_the_sleepers() {
    let mut target = Target::start("sleepers", &[]);
    target.tell("\n");
    let ended = target.wait();
    assert_eq!(ended.number_after("sleepers"), 29);
    assert_eq!(ended.number_after("came_back"), 0);
}

#[test]
fn those_that_check_themselves_find_no_fault() {
    let target = Target::start("sixteen", &[]);
    target.until_all_threads_ran();
    let ended = target.wait();
    assert_eq!(ended.number_after("threads"), 16);
    assert!(ended.number_after("checks") > 0 && ended.number_after("sent") > 0);
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);

    let mut target = Target::start("vforks", &[]);
    target.tell("\n");
    target.until_line(|line| line == "holding");
    let ended = target.wait();
    assert!(ended.number_after("executed") > 0 && ended.number_after("waited") > 0);
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);

    let ended = Target::start("thread_storm", &["100"]).wait();
    assert_eq!(ended.number_after("made"), 100);
    assert_eq!(ended.number_after("ended"), 100);
    assert_eq!(ended.number_after("left"), 0);
}

#[test]
fn the_spinning_ones_end_at_their_bound() {
    for (fixture, arguments) in [
        ("recursion", &["50"][..]),
        ("omit_frame_pointer", &["50"]),
        ("signal_handler", &["raise", "50"]),
        ("signal_handler", &["altstack", "50"]),
        ("signal_handler", &["fault", "50"]),
        ("vdso", &["50"]),
        ("plt", &["50"]),
        ("realign", &["50"]),
        ("short_lived", &["50"]),
        ("threads64", &["50"]),
    ] {
        let ended = Target::start(fixture, arguments).wait();
        assert!(ended.status.success(), "{fixture}: {:?}", ended.status);
        assert!(ended.rusage() >= Duration::from_millis(50), "{fixture}");
    }
}

#[test]
fn every_signal_arrives() {
    let target = Target::start("rt_signals", &[]);
    target.until_it_ran();
    let ended = target.wait();
    assert_eq!(ended.number_after("sent"), ended.number_after("received"));
}
