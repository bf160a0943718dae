//! Numbers as people read them.

use crate::profile::Weight;

/// A time of `ns` nanoseconds with three digits and its unit: `1.23 s`, `45.6 ms`, `2 min 05 s`.
pub fn time(ns: u64) -> String {
    // Each bound is where rounding to three digits reaches the next unit.
    match ns {
        0 => "0 s".into(),
        1..1_000 => format!("{ns} ns"),
        1_000..999_500 => format!("{} µs", three_digits(ratio(ns, 1_000))),
        999_500..999_500_000 => format!("{} ms", three_digits(ratio(ns, 1_000_000))),
        999_500_000..120_000_000_000 => format!("{} s", three_digits(ratio(ns, 1_000_000_000))),
        _ => {
            let seconds = ns / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            if hours > 0 {
                format!("{hours} h {minutes:02} min")
            } else {
                format!("{minutes} min {:02} s", seconds % 60)
            }
        }
    }
}

/// A number with a comma between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut separated = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            separated.push(',');
        }
        separated.push(digit);
    }
    separated
}

/// An amount of memory: `12.3 MiB`.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", three_digits(ratio(bytes, 1 << 10))),
        1_048_576..1_073_741_824 => format!("{} MiB", three_digits(ratio(bytes, 1 << 20))),
        _ => format!("{} GiB", three_digits(ratio(bytes, 1 << 30))),
    }
}

/// `part` of `whole` in percent; 0 of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    100.0 * ratio(part, whole)
}

/// `part` over `whole`; 0 of nothing.
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// A value of `weight` with its unit, where it has one.
pub fn weighed(weight: Weight, value: u64) -> String {
    match weight {
        Weight::Samples => count(value),
        Weight::Cpu | Weight::Wall | Weight::OffCpu | Weight::RunQueue => time(value),
    }
}

/// What `weight` is, for a title.
pub fn name(weight: Weight) -> &'static str {
    match weight {
        Weight::Cpu => "CPU time",
        Weight::Wall => "Wall-clock time",
        Weight::OffCpu => "Time asleep (off-CPU)",
        Weight::RunQueue => "Time waiting for a CPU",
        Weight::Samples => "Samples",
    }
}

fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let cases = [
            (0, "0 s"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (9_994, "9.99 µs"),
            (9_999, "10.0 µs"),
            (999_499, "999 µs"),
            (999_999, "1.00 ms"),
            (45_600_000, "45.6 ms"),
            (999_999_999, "1.00 s"),
            (119_900_000_000, "120 s"),
            (125_000_000_000, "2 min 05 s"),
            (3_900_000_000_000, "1 h 05 min"),
            (u64::MAX, "5124095 h 34 min"),
        ];
        for (ns, words) in cases {
            assert_eq!(time(ns), words);
        }
    }

    #[test]
    fn counts_and_sizes() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(12_900_000), "12.3 MiB");
        assert_eq!(percent(1, 0), 0.0);
        assert_eq!(percent(1, 4), 25.0);
    }
}
