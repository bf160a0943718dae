//! When the next sample is due, and how late the last one came.

/// Ticks at a mean rate, each a little early or late so that they cannot run in step with the target.
///
/// Times are nanoseconds of whatever clock the caller reads; the schedule reads none.
#[derive(Debug)]
pub(super) struct Schedule {
    period_ns: u64,
    /// Where the tick would be due without jitter: the mean rate does not depend on the jitter.
    base_ns: u64,
    due_ns: u64,
    /// Time that ticks were put off by, beyond whole ticks.
    put_off_ns: u64,
    random: fastrand::Rng,
}

impl Schedule {
    /// `rate_hz` ticks per second from `now_ns` on; the first is due at once.
    pub(super) fn new(rate_hz: f64, now_ns: u64, random: fastrand::Rng) -> Self {
        Self {
            period_ns: period_ns(rate_hz),
            base_ns: now_ns,
            due_ns: now_ns,
            put_off_ns: 0,
            random,
        }
    }

    /// When the next tick is due.
    pub(super) fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Plans the tick after the one that was made just now, and says how many were left out because it came late.
    ///
    /// A late sampler never catches up: a thread stopped again before it has run an instruction makes no progress.
    pub(super) fn advance(&mut self, now_ns: u64) -> u64 {
        let behind = now_ns.saturating_sub(self.base_ns) / self.period_ns;
        self.base_ns = self
            .base_ns
            .saturating_add(self.period_ns.saturating_mul(behind + 1));
        // The jitter spans half a period around the base, so two ticks are never closer than half a period unless the
        // first was late; then the gap is kept by hand.
        let half = self.period_ns / 2;
        let jittered = (self.base_ns - half / 2).saturating_add(self.random.u64(0..=half));
        self.due_ns = jittered.max(now_ns.saturating_add(self.period_ns / 4));
        behind
    }

    /// The tick that is due now has to wait for another `wait_ns`. Says how many ticks are left out by that.
    pub(super) fn put_off(&mut self, now_ns: u64, wait_ns: u64) -> u64 {
        let later_ns = now_ns.saturating_add(wait_ns);
        self.put_off_ns = self
            .put_off_ns
            .saturating_add(later_ns.saturating_sub(self.base_ns));
        self.base_ns = self.base_ns.max(later_ns);
        self.due_ns = later_ns;
        let left_out = self.put_off_ns / self.period_ns;
        self.put_off_ns %= self.period_ns;
        left_out
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive, and a float that is too large saturates"
)]
fn period_ns(rate_hz: f64) -> u64 {
    ((1e9 / rate_hz) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(rate_hz: f64) -> Schedule {
        Schedule::new(rate_hz, 1_000, fastrand::Rng::with_seed(7))
    }

    #[test]
    fn the_mean_rate_is_kept_and_no_two_gaps_are_alike() {
        let mut schedule = schedule(100.0);
        let mut gaps = Vec::new();
        let mut last = schedule.due_ns();
        for _ in 0..1_000 {
            assert_eq!(schedule.advance(last), 0);
            gaps.push(schedule.due_ns() - last);
            last = schedule.due_ns();
        }
        let mean = gaps.iter().sum::<u64>() / 1_000;
        assert!((9_990_000..=10_010_000).contains(&mean), "{mean}");
        gaps.sort_unstable();
        gaps.dedup();
        assert!(gaps.len() > 900, "{} distinct gaps", gaps.len());
    }

    #[test]
    fn a_late_tick_leaves_out_what_it_missed() {
        let mut schedule = schedule(100.0);
        assert_eq!(schedule.advance(1_000 + 35_000_000), 3);
        assert!(schedule.due_ns() > 1_000 + 35_000_000);
        assert!(schedule.due_ns() <= 1_000 + 45_000_000);
    }

    #[test]
    fn ticks_that_are_put_off_are_counted_as_time_passes() {
        let mut schedule = schedule(100.0);
        let (mut now_ns, mut ticks, mut left_out) = (1_000, 0, 0);
        while now_ns < 10_000_000_000 {
            left_out += schedule.put_off(now_ns, 13_000_000);
            now_ns = schedule.due_ns();
            ticks += 1;
            left_out += schedule.advance(now_ns);
            now_ns = schedule.due_ns();
        }
        // At 100 Hz there would have been 1000; each gap is of 23 ms and some jitter.
        assert!((400..470).contains(&ticks), "{ticks}");
        assert!(
            (970..=1_030).contains(&(ticks + left_out)),
            "{ticks} + {left_out}"
        );
    }

    #[test]
    fn an_hour_that_has_passed_at_once_is_left_out_and_not_caught_up() {
        const HOUR_NS: u64 = 3_600_000_000_000;
        const PERIOD_NS: u64 = 1_000_000;
        let mut schedule = schedule(1_000.0);
        let mut now = schedule.due_ns();
        assert_eq!(schedule.advance(now), 0);
        now = schedule.due_ns() + HOUR_NS;
        let left_out = schedule.advance(now);
        assert!((3_599_999..=3_600_001).contains(&left_out), "{left_out}");
        // And then on as before: no tick is due at once, and none is left out.
        for _ in 0..100 {
            assert!(schedule.due_ns() >= now + PERIOD_NS / 4);
            assert!(schedule.due_ns() <= now + PERIOD_NS * 2);
            now = schedule.due_ns();
            assert_eq!(schedule.advance(now), 0);
        }
    }

    proptest! {
        #[test]
        fn a_tick_is_never_due_at_once(rate in 0.1f64..10_000.0, lateness in prop::collection::vec(0u64..1_000_000_000, 1..50)) {
            let mut schedule = schedule(rate);
            for late in lateness {
                let now = schedule.due_ns() + late;
                schedule.advance(now);
                prop_assert!(schedule.due_ns() >= now + period_ns(rate) / 4);
                prop_assert!(schedule.due_ns() <= now + period_ns(rate) * 2);
            }
        }
    }
}
