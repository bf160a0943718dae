//! When the next state may be made.

use std::time::{Duration, Instant};

use crate::record::Share;

/// No state is made sooner after the one before.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Where no overhead is promised, states take no more of a CPU than this.
const SHARE_UNPROMISED: f64 = 0.1;
/// How much of what was promised for the sampler's own CPU time states may take: the rest is for samples.
const PART: f64 = 0.5;
/// A clock is not added to beyond this.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Spaces states out, so that making them takes no more than a small share of a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    share: f64,
    due: Option<Instant>,
}

impl Pace {
    /// With a share of the overhead that was promised.
    pub fn new(max_overhead: Share) -> Self {
        Self {
            share: max_overhead.map_or(SHARE_UNPROMISED, |share| share * PART),
            due: None,
        }
    }

    /// Whether the next one may be made.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// One was begun at `began` and took `cpu`.
    pub fn made(&mut self, began: Instant, cpu: Duration) {
        let seconds = cpu.as_secs_f64() / self.share;
        let pause = Duration::try_from_secs_f64(seconds).unwrap_or(PAUSE_MAX);
        self.due = Some(began + pause.clamp(PAUSE_MIN, PAUSE_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_take_half_of_what_was_promised() {
        let began = Instant::now();
        let mut pace = Pace::new(Some(0.02));
        assert!(pace.is_due(began));
        pace.made(began, Duration::from_millis(30));
        assert!(!pace.is_due(began + Duration::from_millis(2_999)));
        assert!(pace.is_due(began + Duration::from_millis(3_001)));
    }

    #[test]
    fn there_is_at_most_one_a_second_and_one_a_day() {
        let began = Instant::now();
        let mut pace = Pace::new(None);
        pace.made(began, Duration::from_micros(1));
        assert!(!pace.is_due(began + Duration::from_millis(999)));
        assert!(pace.is_due(began + PAUSE_MIN));
        pace.made(began, Duration::MAX);
        assert!(!pace.is_due(began + PAUSE_MIN));
        assert!(pace.is_due(began + PAUSE_MAX));
    }
}
