//! What single words of the command line stand for.

use std::time::Duration;

use sampler_unwind::interpreter::{Language, Languages};

use crate::record::{Pattern, Share};
use crate::report::{NamePattern, States};

/// Samples per second at most: beyond it a target would hardly run between two stops.
pub const RATE_HZ_MAX: f64 = 10_000.0;
/// No recording is longer than a year; clocks can be added to without overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// A page: less holds no stack.
pub const STACK_SIZE_MIN: usize = 4 << 10;
/// More than that takes longer to copy than a thread should stand still.
pub const STACK_SIZE_MAX: usize = 64 << 20;

/// A thread cannot be looked at in less.
pub const PAUSE_MIN: Duration = Duration::from_micros(10);
/// Longer than that nobody wants a thread to stand still.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A word that is not what its place on the command line asks for. clap puts the word and the option in front.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a rate.
    #[error("a rate is a number of samples per second above 0 and at most 10000")]
    Rate,
    /// Not a duration.
    #[error("a duration is a number of seconds, or a number with a unit: 10, 2.5, 500ms, 2m, 1h")]
    Duration,
    /// A duration of nothing.
    #[error("the duration is zero")]
    DurationZero,
    /// A duration beyond [`DURATION_MAX`].
    #[error("the duration is longer than a year")]
    DurationTooLong,
    /// Not a size.
    #[error("a size is a whole number of bytes, or a number with a unit: 65536, 64k, 1m")]
    Size,
    /// A stack size out of bounds.
    #[error("the size must lie between 4k and 64m")]
    StackSize,
    /// Not a process.
    #[error("a process is given by its number, such as 4711")]
    Pid,
    /// Not an overhead.
    #[error(
        "the most that recording may cost is a number of percent above 0 and at most 100, or off"
    )]
    MaxOverhead,
    /// Not languages.
    #[error("languages are none, auto, or some of lua,python with commas between them")]
    Languages,
    /// Not a pause.
    #[error("a pause lasts from 10us to 1s")]
    Pause,
    /// Not a number of files.
    #[error("a number of files is a whole number above 0")]
    Count,
    /// Too short a time for a file.
    #[error("a file is to last for at least a second")]
    Rotation,
    /// Not a regular expression.
    #[error("{0}")]
    Pattern(String),
    /// Not a part of a recording.
    #[error(
        "a part of a recording is FROM..TO with a time on either side or both: 10s..20s, ..500ms, 1m.."
    )]
    Window,
    /// A part of a recording that ends before it begins.
    #[error("the part ends before it begins")]
    WindowEmpty,
    /// Not states.
    #[error("states are some of running,sleeping,runnable with commas between them")]
    States,
    /// Not a share.
    #[error("a share is a number of percent from 0 to 100")]
    Percent,
}

/// Samples per second: above 0, at most [`RATE_HZ_MAX`].
///
/// # Errors
/// For anything else.
pub fn parse_rate(word: &str) -> Result<f64, ValueError> {
    let rate_hz = decimal(word).ok_or(ValueError::Rate)?;
    if rate_hz > 0.0 && rate_hz <= RATE_HZ_MAX {
        Ok(rate_hz)
    } else {
        Err(ValueError::Rate)
    }
}

/// The most that recording may cost: a share above 0 and at most 1, given in percent; `None` for `off`.
///
/// # Errors
/// For anything else.
pub fn parse_max_overhead(word: &str) -> Result<Share, ValueError> {
    if word == "off" {
        return Ok(None);
    }
    match parse_percent(word) {
        Ok(percent) if percent > 0.0 => Ok(Some(percent / 100.0)),
        Ok(_) | Err(_) => Err(ValueError::MaxOverhead),
    }
}

/// How many: above 0.
///
/// # Errors
/// For anything else.
pub fn parse_count(word: &str) -> Result<usize, ValueError> {
    match word.parse() {
        Ok(count) if count > 0 => Ok(count),
        Ok(_) | Err(_) => Err(ValueError::Count),
    }
}

/// How long a file of several lasts: at least a second.
///
/// # Errors
/// For anything else.
pub fn parse_rotation(word: &str) -> Result<Duration, ValueError> {
    match parse_duration(word) {
        Ok(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        Ok(_) => Err(ValueError::Rotation),
        Err(error) => Err(error),
    }
}

/// `none`, `auto`, or names of languages with commas between them.
///
/// # Errors
/// For anything else.
pub fn parse_languages(words: &str) -> Result<Languages, ValueError> {
    match words {
        "none" => return Ok(Languages::NONE),
        "auto" => return Ok(Languages::ALL),
        _ => {}
    }
    words
        .split(',')
        .try_fold(Languages::NONE, |languages, word| {
            let named = Language::ALL
                .into_iter()
                .find(|language| language.name() == word);
            named
                .map(|language| languages.with(language))
                .ok_or(ValueError::Languages)
        })
}

/// How long a thread may stand still: a duration from [`PAUSE_MIN`] to [`PAUSE_MAX`].
///
/// # Errors
/// For anything else.
pub fn parse_pause(word: &str) -> Result<Duration, ValueError> {
    match parse_duration(word) {
        Ok(pause) if (PAUSE_MIN..=PAUSE_MAX).contains(&pause) => Ok(pause),
        Ok(_) | Err(_) => Err(ValueError::Pause),
    }
}

/// `10` and `2.5` are seconds; `20us`, `500ms`, `30s`, `2m` and `1h` say their unit.
///
/// # Errors
/// For anything else, for zero, and beyond [`DURATION_MAX`].
pub fn parse_duration(word: &str) -> Result<Duration, ValueError> {
    let (number, unit) = split_unit(word);
    let seconds_per_unit = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(ValueError::Duration),
    };
    let seconds = decimal(number).ok_or(ValueError::Duration)? * seconds_per_unit;
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err(ValueError::DurationTooLong);
    }
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| ValueError::Duration)?;
    if duration.is_zero() {
        return Err(ValueError::DurationZero);
    }
    Ok(duration)
}

/// A number of bytes: `65536`, `64k`, `1m`, `1g`; the units are powers of 1024.
///
/// # Errors
/// For anything else, and for more than fits.
pub fn parse_size(word: &str) -> Result<usize, ValueError> {
    let (number, unit) = split_unit(word);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(ValueError::Size),
    };
    let number: usize = number.parse().map_err(|_| ValueError::Size)?;
    number.checked_mul(1 << shift).ok_or(ValueError::Size)
}

/// How much of a stack is copied: a size from [`STACK_SIZE_MIN`] to [`STACK_SIZE_MAX`].
///
/// # Errors
/// For anything else.
pub fn parse_stack_size(word: &str) -> Result<usize, ValueError> {
    let bytes = parse_size(word)?;
    if (STACK_SIZE_MIN..=STACK_SIZE_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(ValueError::StackSize)
    }
}

/// A regular expression that names of programs, or command lines, are to match.
///
/// # Errors
/// For anything else, with what is wrong about it.
pub fn parse_pattern(word: &str) -> Result<Pattern, ValueError> {
    Pattern::new(word).map_err(|error| ValueError::Pattern(error.to_string()))
}

/// A regular expression that names in a recording are to match.
///
/// # Errors
/// For anything else.
pub fn parse_name_pattern(word: &str) -> Result<NamePattern, ValueError> {
    NamePattern::new(word).map_err(|error| ValueError::Pattern(error.to_string()))
}

/// From when to when, since a recording began: durations with `..` between them, one of which may be missing.
///
/// # Errors
/// For anything else, and where the end is not after the start.
pub fn parse_window(word: &str) -> Result<(Option<Duration>, Option<Duration>), ValueError> {
    let (from, to) = word.split_once("..").ok_or(ValueError::Window)?;
    let time = |word: &str| match word {
        "" => Ok(None),
        word => match parse_duration(word) {
            Ok(time) => Ok(Some(time)),
            Err(ValueError::DurationZero) => Ok(Some(Duration::ZERO)),
            Err(_) => Err(ValueError::Window),
        },
    };
    match (time(from)?, time(to)?) {
        (None, None) => Err(ValueError::Window),
        (from, Some(to)) if from.unwrap_or_default() >= to => Err(ValueError::WindowEmpty),
        window => Ok(window),
    }
}

/// States of threads with commas between them.
///
/// # Errors
/// For anything else.
pub fn parse_states(words: &str) -> Result<States, ValueError> {
    let mut states = States {
        running: false,
        sleeping: false,
        runnable: false,
    };
    for word in words.split(',') {
        match word {
            "running" => states.running = true,
            "sleeping" => states.sleeping = true,
            "runnable" => states.runnable = true,
            _ => return Err(ValueError::States),
        }
    }
    Ok(states)
}

/// The number of a process: above 0.
///
/// # Errors
/// For anything else.
pub fn parse_pid(word: &str) -> Result<i32, ValueError> {
    match word.parse() {
        Ok(pid) if pid > 0 && word.starts_with(|first: char| first.is_ascii_digit()) => Ok(pid),
        _ => Err(ValueError::Pid),
    }
}

/// One or more process numbers with commas between them, each kept once, in their order.
///
/// # Errors
/// When one of them is not a process number.
pub fn parse_pids(words: &str) -> Result<Vec<i32>, ValueError> {
    let mut pids = Vec::new();
    for word in words.split(',') {
        let pid = parse_pid(word.trim())?;
        if !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// A share in percent, from 0 to 100.
///
/// # Errors
/// For anything else.
pub fn parse_percent(word: &str) -> Result<f64, ValueError> {
    let percent = decimal(word.strip_suffix('%').unwrap_or(word)).ok_or(ValueError::Percent)?;
    if percent <= 100.0 {
        Ok(percent)
    } else {
        Err(ValueError::Percent)
    }
}

/// Digits with at most one point among them: no sign, exponent, `inf` or `nan`, all of which [`f64`] would take.
fn decimal(word: &str) -> Option<f64> {
    if word
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        word.parse().ok()
    } else {
        None
    }
}

/// The number at the start, and what follows it.
fn split_unit(word: &str) -> (&str, &str) {
    let number_ends = word
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(word.len());
    word.split_at(number_ends)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2.5"), Ok(Duration::from_millis(2500)));
        assert_eq!(parse_duration(".5s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for zero in ["0", "0ms", "0.0", "0.0000000000001"] {
            assert_eq!(parse_duration(zero), Err(ValueError::DurationZero));
        }
        for long in ["9000h", "999999999999999999999999"] {
            assert_eq!(parse_duration(long), Err(ValueError::DurationTooLong));
        }
        for wrong in [
            "", ".", "s", "-1", "+1", "1e3", "nan", "inf", "1 s", "1m30", "1.2.3", "5 ", "2d", "１",
        ] {
            assert_eq!(parse_duration(wrong), Err(ValueError::Duration), "{wrong}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("99"), Ok(99.0));
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        assert_eq!(parse_rate("10000"), Ok(10_000.0));
        for wrong in ["0", "-1", "10001", "nan", "inf", "1e3", "", "99Hz"] {
            assert_eq!(parse_rate(wrong), Err(ValueError::Rate), "{wrong}");
        }
    }

    #[test]
    fn what_recording_may_cost() {
        assert_eq!(parse_max_overhead("off"), Ok(None));
        assert_eq!(parse_max_overhead("2"), Ok(Some(0.02)));
        assert_eq!(parse_max_overhead("0.5%"), Ok(Some(0.005)));
        assert_eq!(parse_max_overhead("100"), Ok(Some(1.0)));
        for wrong in ["0", "0.0", "-1", "101", "nan", "inf", "none", ""] {
            assert_eq!(
                parse_max_overhead(wrong),
                Err(ValueError::MaxOverhead),
                "{wrong}"
            );
        }
        assert_eq!(parse_pause("20us"), Ok(Duration::from_micros(20)));
        assert_eq!(parse_pause("1ms"), Ok(Duration::from_millis(1)));
        for wrong in ["0", "5us", "2s", "-1ms", "1", "fast"] {
            let expected = if wrong == "1" {
                Ok(PAUSE_MAX)
            } else {
                Err(ValueError::Pause)
            };
            assert_eq!(parse_pause(wrong), expected, "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("65536"), Ok(65536));
        assert_eq!(parse_size("64k"), parse_size("65536"));
        assert_eq!(parse_size("1M"), Ok(1 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        for wrong in [
            "",
            "k",
            "-1",
            "1.5m",
            "1t",
            "99999999999999999999",
            "18446744073709551615k",
        ] {
            assert_eq!(parse_size(wrong), Err(ValueError::Size), "{wrong}");
        }
        assert_eq!(parse_stack_size("0"), Err(ValueError::StackSize));
        assert_eq!(parse_stack_size("1g"), Err(ValueError::StackSize));
    }

    #[test]
    fn processes() {
        assert_eq!(parse_pids("12"), Ok(vec![12]));
        assert_eq!(parse_pids("12,7, 12"), Ok(vec![12, 7]));
        for wrong in [
            "",
            "0",
            "-1",
            "+1",
            "1,,2",
            "1,",
            "nginx",
            "2147483648",
            "1.5",
        ] {
            assert_eq!(parse_pids(wrong), Err(ValueError::Pid), "{wrong}");
        }
    }

    #[test]
    fn parts_of_a_recording_and_states() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(parse_window("10s..20s"), Ok((seconds(10), seconds(20))));
        assert_eq!(parse_window("..2m"), Ok((None, seconds(120))));
        assert_eq!(parse_window("5.."), Ok((seconds(5), None)));
        assert_eq!(parse_window("0..1"), Ok((seconds(0), seconds(1))));
        for wrong in ["", "..", "10", "10-20", "a..b", "1..2..3", "-1..2"] {
            assert_eq!(parse_window(wrong), Err(ValueError::Window), "{wrong}");
        }
        for empty in ["2..1", "3..3", "..0"] {
            assert_eq!(parse_window(empty), Err(ValueError::WindowEmpty), "{empty}");
        }
        let states = parse_states("sleeping,running");
        assert!(states.is_ok_and(|states| states.sleeping && states.running && !states.runnable));
        for wrong in ["", "asleep", "running,", "Running"] {
            assert_eq!(parse_states(wrong), Err(ValueError::States), "{wrong}");
        }
    }

    #[test]
    fn shares() {
        assert_eq!(parse_percent("0.5"), Ok(0.5));
        assert_eq!(parse_percent("2%"), Ok(2.0));
        for wrong in ["-1", "101", "nan", "%", ""] {
            assert_eq!(parse_percent(wrong), Err(ValueError::Percent), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_within_bounds_or_refused(word in "\\PC{0,24}|[0-9.]{0,30}(ms|s|m|h|k|g|%)?") {
            if let Ok(duration) = parse_duration(&word) {
                prop_assert!(duration > Duration::ZERO && duration <= DURATION_MAX);
            }
            if let Ok(rate_hz) = parse_rate(&word) {
                prop_assert!(rate_hz > 0.0 && rate_hz <= RATE_HZ_MAX);
            }
            if let Ok(pids) = parse_pids(&word) {
                prop_assert!(!pids.is_empty() && pids.iter().all(|&pid| pid > 0));
            }
            if let Ok(bytes) = parse_stack_size(&word) {
                prop_assert!((STACK_SIZE_MIN..=STACK_SIZE_MAX).contains(&bytes));
            }
            if let Ok(percent) = parse_percent(&word) {
                prop_assert!((0.0..=100.0).contains(&percent));
            }
        }

        #[test]
        fn milliseconds_are_what_they_say(ms in 1u32..1_000_000_000) {
            prop_assert_eq!(parse_duration(&format!("{ms}ms")), Ok(Duration::from_millis(ms.into())));
        }

        #[test]
        fn process_numbers_come_back_as_given(pids in prop::collection::hash_set(1..i32::MAX, 1..8)) {
            let pids: Vec<i32> = pids.into_iter().collect();
            let typed: Vec<String> = pids.iter().map(i32::to_string).collect();
            prop_assert_eq!(parse_pids(&typed.join(",")), Ok(pids));
        }
    }
}
