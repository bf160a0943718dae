//! What sampling costs the target's threads and the machine, beside what was promised.

use std::time::Duration;

use sampler_platforms::linux;

use super::budget::{Budget, SECOND_NS, Share};
use super::meter::Meter;

/// A thread's time that it stood still because of us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    budget: Budget,
    meter: Meter,
}

impl Pauses {
    /// Of a thread found at `now_ns`: at most `share` of its time.
    pub(super) fn new(share: Share, now_ns: u64) -> Self {
        Self {
            budget: Budget::new(share, now_ns),
            meter: Meter::default(),
        }
    }

    /// Whether it may be stopped at `now_ns`.
    pub(super) fn allow(&mut self, now_ns: u64) -> bool {
        self.budget.earn_until(now_ns);
        self.budget.wait_ns(1.0) == 0
    }

    /// It stood still until `now_ns`. Says for how long it has altogether in the last second, in nanoseconds.
    pub(super) fn stood(&mut self, now_ns: u64, pause: Duration) -> u64 {
        let pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.budget.spend(now_ns, pause_ns);
        self.meter.add(now_ns, pause_ns)
    }
}

/// The sampler's own CPU time, as a share of the CPU time that the target uses or of one CPU, whichever is more.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnCpu {
    budget: Budget,
    /// Finding out what the target is made of is not sampling: the promise holds from here on, in nanoseconds.
    in_force_ns: u64,
    /// What was known at the last reading.
    at_ns: u64,
    own_ns: u64,
    target_ns: u64,
    /// When the target's time was last seen to have grown. It is not read each time.
    target_at_ns: u64,
    /// How much there was to take a share of until then, by the time that had passed.
    pace: f64,
    spent: Meter,
    income: Meter,
    /// The highest share of any second.
    most: f64,
}

impl OwnCpu {
    /// At most `share` of it, from one second after `now_ns` on; `own_ns` is what we have used until now.
    pub(super) fn new(share: Share, now_ns: u64, own_ns: u64) -> Self {
        let in_force_ns = now_ns.saturating_add(SECOND_NS);
        Self {
            budget: Budget::new(share, in_force_ns),
            in_force_ns,
            at_ns: now_ns,
            own_ns,
            target_ns: 0,
            target_at_ns: now_ns,
            pace: 1.0,
            spent: Meter::default(),
            income: Meter::default(),
            most: 0.0,
        }
    }

    /// At `now_ns` we have used `own_ns`, and the target `target_ns` since the recording began.
    pub(super) fn read(&mut self, now_ns: u64, own_ns: u64, target_ns: u64) {
        let cost_ns = own_ns.saturating_sub(self.own_ns);
        let income_ns = self.income_ns(now_ns, target_ns);
        (self.at_ns, self.own_ns) = (now_ns, own_ns);
        if now_ns < self.in_force_ns {
            return;
        }
        self.budget.earn(now_ns, income_ns);
        self.budget.spend(now_ns, cost_ns);
        let spent_ns = self.spent.add(now_ns, cost_ns);
        let income_ns = self.income.add(now_ns, income_ns).max(SECOND_NS);
        self.most = self.most.max(ratio(spent_ns, income_ns));
    }

    /// How much there was to take a share of since the last reading: as much as has passed, and where the target has
    /// used more since it was last seen to have used any, what that is more.
    fn income_ns(&mut self, now_ns: u64, target_ns: u64) -> u64 {
        let passed_ns = now_ns.saturating_sub(self.at_ns);
        let used_ns = target_ns.saturating_sub(self.target_ns);
        if used_ns == 0 {
            return passed_ns;
        }
        let since_ns = now_ns.saturating_sub(self.target_at_ns);
        (self.target_ns, self.target_at_ns) = (target_ns, now_ns);
        self.pace = ratio(used_ns, since_ns).max(1.0);
        passed_ns.saturating_add(used_ns.saturating_sub(since_ns))
    }

    /// How long to wait until another tick can be paid for, in nanoseconds.
    pub(super) fn wait_ns(&self) -> u64 {
        if self.at_ns < self.in_force_ns {
            return 0;
        }
        self.budget.wait_ns(self.pace)
    }

    /// How much one tick may use before it leaves the rest of the threads to the next, in nanoseconds.
    pub(super) fn slice_ns(&self) -> u64 {
        if self.at_ns < self.in_force_ns {
            return u64::MAX;
        }
        self.budget.slice_ns()
    }

    /// The highest share of any second, from the second one on.
    pub(super) fn most(&self) -> f64 {
        self.most
    }
}

/// What one tick may use of the sampler's CPU time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// The thread's CPU time at which it is over; `None` without an end.
    ends: Option<Duration>,
    /// Something was done since the clock was last read that takes longer than reading it.
    is_used: bool,
    /// How often it was asked since then.
    asked: u32,
}

impl Default for Slice {
    /// One without an end.
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl Slice {
    /// `slice_ns` from now on.
    pub(super) fn new(slice_ns: u64) -> Self {
        let ends = (slice_ns != u64::MAX)
            .then(|| linux::thread_cpu_time_self() + Duration::from_nanos(slice_ns));
        Self {
            ends,
            is_used: false,
            asked: 0,
        }
    }

    /// A thread was looked at.
    pub(super) fn used(&mut self) {
        self.is_used = true;
    }

    /// Whether a thread was looked at since [`Slice::is_over`] was asked last.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Whether it is used up.
    pub(super) fn is_over(&mut self) -> bool {
        /// Threads that are only asked whether they have run, between two readings of the clock.
        const CHEAP_MAX: u32 = 64;
        self.asked += 1;
        if !self.is_used && self.asked < CHEAP_MAX {
            return false;
        }
        (self.is_used, self.asked) = (false, 0);
        self.ends
            .is_some_and(|ends| linux::thread_cpu_time_self() >= ends)
    }
}

/// `part` by `whole`; one where there is no whole.
#[expect(
    clippy::cast_precision_loss,
    reason = "spans of time far below 2^52 ns"
)]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    #[test]
    fn a_target_on_four_cpus_pays_for_four_times_as_much_however_rarely_its_clock_is_read() {
        for every in [1, 10] {
            let mut own = OwnCpu::new(Some(0.02), 0, 0);
            let (mut target_ns, mut seen_ns, mut own_ns) = (0, 0, 0);
            for tick in 1..=10_000_u64 {
                target_ns += 4 * MILLISECOND;
                if tick % every == 0 {
                    seen_ns = target_ns;
                }
                let now_ns = tick * MILLISECOND;
                own.read(now_ns, own_ns, seen_ns);
                if own.wait_ns() == 0 {
                    own_ns += 200_000;
                }
            }
            // Of one CPU 8 %, of which four fifths are spent, over nine seconds; in the first anything goes.
            let spent = ratio(own_ns - 1_000 * 200_000, 9 * SECOND_NS);
            assert!((0.055..0.066).contains(&spent), "{spent}");
            assert!(own.most() <= 0.02, "{}", own.most());
        }
    }

    #[test]
    fn a_target_that_sleeps_pays_for_a_share_of_one_cpu() {
        let mut own = OwnCpu::new(Some(0.02), 0, 0);
        let mut own_ns = 0;
        for tick in 1..=10_000_u64 {
            own.read(tick * MILLISECOND, own_ns, 0);
            if own.wait_ns() == 0 {
                own_ns += 200_000;
            }
        }
        let spent = ratio(own_ns - 1_000 * 200_000, 9 * SECOND_NS);
        assert!((0.014..0.017).contains(&spent), "{spent}");
        assert!(own.most() <= 0.02, "{}", own.most());
    }

    #[test]
    fn a_thread_is_let_alone_when_its_second_is_used_up() {
        let mut pauses = Pauses::new(Some(0.02), 0);
        let mut worst_ns = 0;
        let mut stops = 0_u64;
        for tick in 0..5_000_u64 {
            let now_ns = tick * MILLISECOND;
            if pauses.allow(now_ns) {
                worst_ns = worst_ns.max(pauses.stood(now_ns, Duration::from_micros(100)));
                stops += 1;
            }
        }
        // 160 a second, and 40 at once at the beginning.
        assert!((780..860).contains(&stops), "{stops}");
        assert!(worst_ns <= 20 * MILLISECOND, "{worst_ns}");
    }
}
