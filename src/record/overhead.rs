//! What sampling costs the target's threads and the machine, beside what was promised.

use std::time::Duration;

use sampler_platforms::linux;

use super::budget::{Budget, SECOND_NS, Share};
use super::meter::Meter;

/// For how long a target is expected to go on as before while nobody has looked, in nanoseconds.
const AHEAD_NS_MAX: u64 = SECOND_NS / 5;

/// When what was earned by that is taken back at the latest.
const TAKEN_BACK_NS: u64 = SECOND_NS / 2;

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

/// Readings of the target's clock that are no further apart tell little, in nanoseconds.
const READINGS_NS_MIN: u64 = 1_000_000;

/// What the target is known to have used.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetCpu {
    /// Its CPU time since the recording began, in nanoseconds.
    pub used_ns: u64,
    /// When a clock of it was read last, in nanoseconds.
    pub read_ns: u64,
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
    /// When the target's time was last seen to have grown. It is not read each time.
    seen: TargetCpu,
    /// How much there was to take a share of until then, by the time that had passed.
    pace: f64,
    /// What was earned ahead since then: see [`OwnCpu::earn_ahead`].
    ahead_ns: u64,
    /// Whether the last reading has shown that it is not enough for another tick.
    is_waiting: bool,
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
            seen: TargetCpu {
                used_ns: 0,
                read_ns: now_ns,
            },
            pace: 1.0,
            ahead_ns: 0,
            is_waiting: false,
            spent: Meter::default(),
            income: Meter::default(),
            most: 0.0,
        }
    }

    /// At `now_ns` we have used `own_ns`, and the target what `target` says.
    pub(super) fn read(&mut self, now_ns: u64, own_ns: u64, target: TargetCpu) {
        let cost_ns = own_ns.saturating_sub(self.own_ns);
        let passed_ns = now_ns.saturating_sub(self.at_ns);
        let more_ns = self.seen_beyond_ns(target);
        (self.at_ns, self.own_ns) = (now_ns, own_ns);
        if now_ns < self.in_force_ns {
            return;
        }
        if more_ns.is_some() || now_ns.saturating_sub(self.seen.read_ns) > TAKEN_BACK_NS {
            self.budget.unearn(std::mem::take(&mut self.ahead_ns));
        }
        let income_ns = passed_ns.saturating_add(more_ns.unwrap_or(0));
        self.budget.earn(now_ns, income_ns);
        if more_ns.is_none() {
            self.earn_ahead(now_ns, passed_ns);
        }
        if self.is_waiting {
            self.budget.spend_in_vain(now_ns, cost_ns);
        } else {
            self.budget.spend(now_ns, cost_ns);
        }
        self.is_waiting = self.budget.wait_ns(self.pace) > 0;
        let spent_ns = self.spent.add(now_ns, cost_ns);
        let income_ns = self.income.add(now_ns, income_ns).max(SECOND_NS);
        // What is not known yet cannot be judged by.
        if self.ahead_ns == 0 {
            self.most = self.most.max(ratio(spent_ns, income_ns));
        }
    }

    /// What the target has used beyond the time that has passed, by its clock; `None` unless that shows that it has used
    /// any since it last did.
    fn seen_beyond_ns(&mut self, target: TargetCpu) -> Option<u64> {
        let used_ns = target.used_ns.saturating_sub(self.seen.used_ns);
        let since_ns = target.read_ns.saturating_sub(self.seen.read_ns);
        if used_ns == 0 || since_ns < READINGS_NS_MIN {
            return None;
        }
        self.seen = target;
        self.pace = ratio(used_ns, since_ns).max(1.0);
        Some(used_ns.saturating_sub(since_ns))
    }

    /// Earns what the target will be seen to have used beyond the `passed_ns` until `now_ns`, if it goes on as before.
    /// To add up the CPU time of thousands of threads takes long, and is done seldom; to wait for it would be to make
    /// half of the looks that are paid for.
    ///
    /// When it is seen, or not in time, what was earned ahead is taken back. A target that falls silent is found out so
    /// soon that in no second more than the share is spent: four times the span is no more than the rest of a second.
    fn earn_ahead(&mut self, now_ns: u64, passed_ns: u64) {
        if now_ns.saturating_sub(self.seen.read_ns) > AHEAD_NS_MAX {
            return;
        }
        let more_ns = beyond(self.pace, passed_ns);
        self.ahead_ns = self.ahead_ns.saturating_add(more_ns);
        self.budget.earn(now_ns, more_ns);
    }

    /// Whether the last reading has shown that it is not enough for another tick.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
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

/// What comes to `passed_ns` at this pace, beside them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "spans of time far below 2^52 ns; a pace is at least one"
)]
fn beyond(pace: f64, passed_ns: u64) -> u64 {
    (passed_ns as f64 * (pace - 1.0)) as u64
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
                let read_ns = now_ns - tick % every * MILLISECOND;
                own.read(
                    now_ns,
                    own_ns,
                    TargetCpu {
                        used_ns: seen_ns,
                        read_ns,
                    },
                );
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

    /// Ticks for a target that uses `cpus` up to `silent_ns` and nothing from then on, whose clock is read every
    /// `every_ns`, each tick `tick_ns` dear and each waking up `wake_ns`. Gives the ticks, and the meter's word.
    fn ticks(
        cpus: u64,
        silent_ns: u64,
        every_ns: u64,
        tick_ns: u64,
        wake_ns: u64,
    ) -> (Vec<u64>, f64) {
        let mut own = OwnCpu::new(Some(0.02), 0, 0);
        let (mut now_ns, mut own_ns) = (0, 0);
        let mut seen = TargetCpu {
            used_ns: 0,
            read_ns: 0,
        };
        let mut ticks = Vec::new();
        let read = |seen: &mut TargetCpu, now_ns: u64| {
            if now_ns >= seen.read_ns + every_ns {
                *seen = TargetCpu {
                    used_ns: cpus * now_ns.min(silent_ns),
                    read_ns: now_ns,
                };
            }
        };
        while now_ns < 5 * SECOND_NS {
            own_ns += wake_ns;
            if own.is_waiting() {
                read(&mut seen, now_ns);
            }
            own.read(now_ns, own_ns, seen);
            if own.wait_ns() == 0 {
                read(&mut seen, now_ns);
                own_ns += tick_ns;
                ticks.push(now_ns);
                now_ns += 10 * MILLISECOND;
            }
            now_ns += own.wait_ns();
        }
        (ticks, own.most())
    }

    #[test]
    fn a_target_whose_clock_is_seldom_read_is_looked_at_as_often_and_as_evenly() {
        let often = ticks(2, u64::MAX, 0, 400_000, 100_000);
        let seldom = ticks(2, u64::MAX, 150 * MILLISECOND, 400_000, 100_000);
        for (ticks, most) in [&often, &seldom] {
            let steady: Vec<u64> = ticks.iter().copied().filter(|&at| at > SECOND_NS).collect();
            let longest = steady.windows(2).map(|pair| pair[1] - pair[0]).max();
            // 64 a second could be paid for, if each were waited for once.
            assert!(steady.len() > 4 * 48, "{}", steady.len());
            assert!(longest < Some(30 * MILLISECOND), "{longest:?}");
            assert!(*most <= 0.02, "{most}");
        }
        assert!(
            seldom.0.len() * 10 > often.0.len() * 9,
            "{} {}",
            seldom.0.len(),
            often.0.len()
        );
    }

    #[test]
    fn a_target_that_falls_silent_is_found_out_in_time() {
        for cpus in [2, 4, 64] {
            for silent_ms in (2000..2300).step_by(17) {
                let (_, most) = ticks(
                    cpus,
                    silent_ms * MILLISECOND,
                    250 * MILLISECOND,
                    400_000,
                    50_000,
                );
                assert!(most <= 0.02, "{cpus} CPUs until {silent_ms} ms: {most}");
            }
        }
    }

    #[test]
    fn a_target_that_sleeps_pays_for_a_share_of_one_cpu() {
        let mut own = OwnCpu::new(Some(0.02), 0, 0);
        let mut own_ns = 0;
        for tick in 1..=10_000_u64 {
            let target = TargetCpu {
                used_ns: 0,
                read_ns: tick * MILLISECOND,
            };
            own.read(tick * MILLISECOND, own_ns, target);
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
