//! The most that was spent in any second.

use super::budget::SECOND_NS;

/// Into how many parts a second is divided.
const PARTS: usize = 16;
const PART_NS: u64 = SECOND_NS / PARTS as u64;

/// Adds up what the last second has held, in steps of a sixteenth of one: the span it looks back over ends now and is
/// never longer than a second, nor shorter than fifteen sixteenths of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    /// By part of a second, in turn.
    parts_ns: [u64; PARTS],
    /// The part that was the last, counted from the clock's zero.
    part: u64,
}

impl Meter {
    /// Adds `ns` spent until `now_ns`, and says what the last second has held.
    pub(super) fn add(&mut self, now_ns: u64, ns: u64) -> u64 {
        self.turn(now_ns / PART_NS);
        let part = &mut self.parts_ns[index(self.part)];
        *part = part.saturating_add(ns);
        self.parts_ns
            .iter()
            .fold(0, |sum, part| sum.saturating_add(*part))
    }

    fn turn(&mut self, part: u64) {
        let passed = part.saturating_sub(self.part).min(PARTS as u64);
        for forgotten in 0..passed {
            self.parts_ns[index(part - forgotten)] = 0;
        }
        self.part = self.part.max(part);
    }
}

fn index(part: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "a remainder below 16")]
    let index = (part % PARTS as u64) as usize;
    index
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_the_last_second_held(spent in prop::collection::vec((0u64..300_000_000, 0u64..50_000_000), 1..60)) {
            let mut meter = Meter::default();
            let mut now_ns = 5 * SECOND_NS;
            let mut history: Vec<(u64, u64)> = Vec::new();
            for (gap_ns, cost_ns) in spent {
                now_ns += gap_ns;
                history.push((now_ns, cost_ns));
                let within = |span_ns: u64| -> u64 {
                    let recent = history.iter().filter(|(at, _)| now_ns - at < span_ns);
                    recent.map(|(_, cost)| cost).sum()
                };
                let said = meter.add(now_ns, cost_ns);
                prop_assert!(said >= within(SECOND_NS - PART_NS), "{said}");
                prop_assert!(said <= within(SECOND_NS), "{said}");
            }
        }
    }

    #[test]
    fn what_is_too_much_to_count_is_not_taken_for_little() {
        let mut meter = Meter::default();
        meter.add(SECOND_NS, u64::MAX);
        assert_eq!(meter.add(SECOND_NS, u64::MAX), u64::MAX);
    }
}
