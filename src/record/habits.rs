//! What the last looks at a thread teach for the next ones.

use std::time::Duration;

/// Whether spinning for a thread's stop is worth it, learned from its last stops. A thread that waits for the very CPU
/// that we are on stops only once we sleep.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SpinHabit {
    /// Stops to come in which not to spin.
    pass: u32,
    /// How many those were after the last time that it was in vain.
    passed: u32,
}

impl SpinHabit {
    /// How long to spin for the next stop: `longest`, or not at all.
    pub(super) fn next(&self, longest: Duration) -> Duration {
        if self.pass == 0 {
            longest
        } else {
            Duration::ZERO
        }
    }

    /// The thread has, or has not, stopped while we spun as long as [`SpinHabit::next`] said.
    pub(super) fn learn(&mut self, has_stopped: bool) {
        const PASS_MAX: u32 = 32;
        match (self.pass, has_stopped) {
            (0, true) => self.passed = 0,
            (0, false) => {
                self.passed = (self.passed * 2).clamp(1, PASS_MAX);
                self.pass = self.passed;
            }
            (_, _) => self.pass -= 1,
        }
    }
}

/// How much of the time that a thread has slept it is left alone for next, at most: one part in so many.
const REST_PARTS_MIN: u64 = 2;

/// How long that is at most, in nanoseconds for each thread that the process has.
const REST_NS_MAX_PER_THREAD: u64 = 1_000_000;

/// Of so many threads each may rest for the most.
const CROWD: u64 = 1000;

/// How long a thread may be left alone at all, in nanoseconds.
const REST_NS_MAX: u64 = 5_000_000_000;

/// Leaving a thread alone that has slept for long: of a thousand threads most sleep, and to ask each of them a hundred
/// times a second whether it has run costs more than all the rest. The more there are, the longer each is left alone;
/// a few dozen are not.
///
/// Nothing is lost while it sleeps on: one proof that it has not run holds for all the ticks before. If it has, those
/// ticks are missed; [`Unexplained`] tells when that was for more than a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    until_ns: u64,
    passed_ticks: u32,
}

impl Rest {
    /// Whether the thread is to be left alone at this tick; counts it if so.
    pub(super) fn goes_on(&mut self, now_ns: u64) -> bool {
        let rests = now_ns < self.until_ns;
        self.passed_ticks = self.passed_ticks.saturating_add(u32::from(rests));
        rests
    }

    /// The thread, one of `threads`, has not run since `asleep_since_ns`. Says how many ticks it was left alone for, and
    /// lets it rest again.
    pub(super) fn proven(&mut self, now_ns: u64, asleep_since_ns: u64, threads: usize) -> u32 {
        let threads = threads as u64;
        let asleep_ns = now_ns.saturating_sub(asleep_since_ns);
        let share_ns = (asleep_ns / REST_PARTS_MIN / CROWD).saturating_mul(threads.min(CROWD));
        let most_ns = threads.saturating_mul(REST_NS_MAX_PER_THREAD);
        self.until_ns = now_ns + share_ns.min(most_ns).min(REST_NS_MAX);
        std::mem::take(&mut self.passed_ticks)
    }

    /// Whether there are ticks at which it was left alone and of which it is not known what it did.
    pub(super) fn is_unproven(&self) -> bool {
        self.passed_ticks > 0
    }

    /// The thread has run after all, or has ended. Says how many ticks it was left alone for.
    pub(super) fn in_vain(&mut self) -> u32 {
        self.end();
        std::mem::take(&mut self.passed_ticks)
    }

    /// The thread is looked at again at the next tick.
    pub(super) fn end(&mut self) {
        self.until_ns = 0;
    }
}

/// What a tick asks of every thread, and of most threads nothing else. Kept apart from them: what a thousand of them take
/// up does not fit into a CPU's nearest cache.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    /// Whether it is left alone, having slept for long.
    pub rest: Rest,
    /// The last tick at which it had its turn.
    ticked: u64,
}

impl Turn {
    /// Whether it has not had its turn yet at this tick, the `tick`th; from now on it has.
    pub(super) fn comes(&mut self, tick: u64) -> bool {
        std::mem::replace(&mut self.ticked, tick) != tick
    }
}

/// How much CPU time threads that are left alone may use before all of them are looked at, in nanoseconds.
const UNEXPLAINED_NS_MAX: u64 = 1_000_000;

/// CPU time that a process has used and that no look at its threads explains. If it grows, a thread that is left alone
/// may have woken up; what has been there for longer is of threads that ended, or could not be looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unexplained {
    /// How much there was at most when it last had grown, or less since.
    known_ns: u64,
}

impl Unexplained {
    /// There are at least `least_ns` of it after a tick, and `unsure_ns` more at most. Says whether it has grown by more
    /// than a moment.
    pub(super) fn has_grown(&mut self, least_ns: u64, unsure_ns: u64) -> bool {
        let most_ns = least_ns.saturating_add(unsure_ns);
        let has_grown = least_ns > self.known_ns.saturating_add(UNEXPLAINED_NS_MAX);
        self.known_ns = if has_grown {
            most_ns
        } else {
            self.known_ns.min(most_ns)
        };
        has_grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    #[test]
    fn spinning_in_vain_becomes_rare_and_is_tried_again() {
        const LONGEST: Duration = Duration::from_micros(100);
        let spins = |habit: &mut SpinHabit, has_stopped: bool| -> u32 {
            let stops = (0..1000).map(|_| {
                let spins = habit.next(LONGEST) == LONGEST;
                habit.learn(spins && has_stopped);
                u32::from(spins)
            });
            stops.sum()
        };
        let mut habit = SpinHabit::default();
        assert_eq!(spins(&mut habit, true), 1000);
        assert!((25..40).contains(&spins(&mut habit, false)));
        assert!(spins(&mut habit, true) > 960);
    }

    #[test]
    fn the_longer_a_thread_has_slept_the_longer_it_is_left_alone() {
        let mut rest = Rest::default();
        let mut checks = Vec::new();
        for tick in 0..1000 {
            let now_ns = tick * 10 * MILLISECOND;
            if !rest.goes_on(now_ns) {
                checks.push((tick, rest.proven(now_ns, 0, 250)));
            }
        }
        // Nothing is left out at first; later most is, but never more than a quarter of a second of it.
        assert!(
            checks
                .iter()
                .take(8)
                .enumerate()
                .all(|(at, check)| *check == (at as u64, 0))
        );
        assert!(checks.len() < 200, "{checks:?}");
        assert!(checks.iter().all(|(_, passed)| *passed <= 25), "{checks:?}");
        // Every tick is either a check or was passed, and known to have been slept through at the next check.
        let passed = checks.iter().map(|(_, passed)| u64::from(*passed));
        let (last, _) = checks.last().copied().unwrap_or_default();
        assert_eq!(checks.len() as u64 + passed.sum::<u64>(), last + 1);
    }

    #[test]
    fn the_more_threads_there_are_the_longer_each_is_left_alone() {
        let checks_in_ten_seconds = |threads| {
            let mut rest = Rest::default();
            let ticks = (0..1000_u64).map(|tick| tick * 10 * MILLISECOND);
            ticks
                .filter(|&now_ns| {
                    let is_asked = !rest.goes_on(now_ns);
                    if is_asked {
                        rest.proven(now_ns, 0, threads);
                    }
                    is_asked
                })
                .count()
        };
        assert_eq!(checks_in_ten_seconds(1), 1000);
        let (dozens, hundreds, thousands) = (
            checks_in_ten_seconds(50),
            checks_in_ten_seconds(500),
            checks_in_ten_seconds(5000),
        );
        assert!(
            dozens > 150 && hundreds < 60 && thousands < 20,
            "{dozens} {hundreds} {thousands}"
        );
    }

    #[test]
    fn time_that_nobody_explains_is_told_once() {
        let mut unexplained = Unexplained::default();
        assert!(!unexplained.has_grown(MILLISECOND, 0));
        // Slowly too: the least that there was counts, not the last.
        assert!(!unexplained.has_grown(0, 0));
        assert!(!unexplained.has_grown(MILLISECOND / 2, 0));
        assert!(unexplained.has_grown(MILLISECOND + 1, 0));
        assert!(!unexplained.has_grown(2 * MILLISECOND, 0));
        assert!(unexplained.has_grown(2 * MILLISECOND + 2, 0));
        // Once it has been found whose it was, the next moment tells again.
        assert!(!unexplained.has_grown(0, 0));
        assert!(unexplained.has_grown(MILLISECOND + 1, 0));
    }

    #[test]
    fn what_comes_and_goes_with_the_measurement_is_not_told() {
        let mut unexplained = Unexplained::default();
        assert!(unexplained.has_grown(5 * MILLISECOND, 0));
        // The same five, of which a slow tick can only say that they are between none and six.
        assert!(!unexplained.has_grown(0, 6 * MILLISECOND));
        assert!(!unexplained.has_grown(5 * MILLISECOND, 0));
    }

    #[test]
    fn a_rest_can_be_ended_at_once() {
        let mut rest = Rest::default();
        rest.proven(10_000 * MILLISECOND, 0, 1000);
        assert!(rest.goes_on(10_001 * MILLISECOND));
        rest.end();
        assert!(!rest.goes_on(10_002 * MILLISECOND));
        assert!(rest.is_unproven());
        assert_eq!(rest.in_vain(), 1);
        assert_eq!(rest.in_vain(), 0);
        assert!(!rest.is_unproven());
    }
}
