//! The overhead that was promised, and keeping to it.
//!
//! What is spent (time a thread stands still, CPU time of the sampler) may be no more than a share of what passes, in
//! any second. The budget is a bucket that fills steadily: with [`STEADY`] of the share, up to what the rest of the
//! share comes to in a second. So whatever is asked for, in any second no more can be spent than what was in the bucket
//! at its beginning and what flowed in: the share of that second. What costs more than could be foreseen leaves the
//! bucket in debt, and nothing is spent until it is paid back.
//!
//! Nothing here reads a clock: times are nanoseconds of whatever clock the caller reads.

/// How much of the share flows in steadily. The rest is what can be spent at once.
const STEADY: f64 = 0.8;

/// The span over which the promise is kept, in nanoseconds.
pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// How long a cost is expected to come again, in nanoseconds: longer than between two flushes.
const FORESIGHT_NS: u64 = 2 * SECOND_NS;

/// How much more than the highest cost of late is expected.
const MARGIN: f64 = 1.25;

/// How much of a full bucket is enough for whatever comes next.
const NEEDED_MAX: f64 = 0.75;

/// What it costs to wake up only to find that it is not enough, before it is known, in nanoseconds.
const FIRST_WAKE_COST_NS: f64 = 50_000.0;

/// How many times that is earned beforehand, so that it is enough.
const WAKES: f64 = 1.5;

/// What is expected to be spent before anything is known, in nanoseconds.
const FIRST_COST_NS: u64 = 100_000;

/// A promise: the share of time that may be spent, above 0 and at most 1; `None` when nothing was promised.
pub type Share = Option<f64>;

/// What may be spent on one thing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    share: Share,
    /// What can be spent now, in nanoseconds; below zero, what is owed.
    credit_ns: f64,
    /// Up to when credit has flowed in.
    at_ns: u64,
    expected: Expected,
    /// What it costs to wake up for nothing, of late.
    wake_ns: f64,
}

impl Budget {
    /// A full one.
    pub(super) fn new(share: Share, now_ns: u64) -> Self {
        Self {
            share,
            credit_ns: credit_max_ns(share.unwrap_or(1.0)),
            at_ns: now_ns,
            expected: Expected::new(now_ns),
            wake_ns: FIRST_WAKE_COST_NS,
        }
    }

    /// `now_ns` has come, and of what the share is of there has been `income_ns` since the last time: of passing time
    /// as much as has passed.
    pub(super) fn earn(&mut self, now_ns: u64, income_ns: u64) {
        self.at_ns = self.at_ns.max(now_ns);
        if let Some(share) = self.share {
            let earned = self.credit_ns + share * STEADY * float(income_ns);
            self.credit_ns = earned.min(credit_max_ns(share));
        }
    }

    /// Of what was earned, `income_ns` has turned out not to be there.
    pub(super) fn unearn(&mut self, income_ns: u64) {
        if let Some(share) = self.share {
            self.credit_ns -= share * STEADY * float(income_ns);
        }
    }

    /// The same for a share of the time that passes.
    pub(super) fn earn_until(&mut self, now_ns: u64) {
        self.earn(now_ns, now_ns.saturating_sub(self.at_ns));
    }

    /// `cost_ns` have been spent.
    pub(super) fn spend(&mut self, now_ns: u64, cost_ns: u64) {
        self.expected.learn(now_ns, cost_ns);
        self.credit_ns -= float(cost_ns);
    }

    /// `cost_ns` have been spent on waking up and finding that it was not enough.
    pub(super) fn spend_in_vain(&mut self, now_ns: u64, cost_ns: u64) {
        /// How fast it is learned: by such a part of what is new in each.
        const PART: f64 = 0.25;
        self.wake_ns += (float(cost_ns) - self.wake_ns) * PART;
        self.spend(now_ns, cost_ns);
    }

    /// How long to wait until what comes next can be paid for, in nanoseconds, if there is `pace` of what the share is
    /// of in every one of them; 0 if it can be now.
    pub(super) fn wait_ns(&self, pace: f64) -> u64 {
        let Some(share) = self.share else { return 0 };
        let most_ns = credit_max_ns(share);
        let needed_ns = self.expected.cost_ns().min(most_ns * NEEDED_MAX);
        if self.credit_ns >= needed_ns {
            return 0;
        }
        // To wait costs something too: for no more than is missing, it would always be just missed.
        let enough_ns = (needed_ns + self.wake_ns * WAKES).min(most_ns);
        whole((enough_ns - self.credit_ns) / (share * STEADY * pace))
    }

    /// How much can be spent at once, in nanoseconds.
    pub(super) fn slice_ns(&self) -> u64 {
        self.share
            .map_or(u64::MAX, |share| whole(credit_max_ns(share)))
    }
}

/// How much can be spent at once.
fn credit_max_ns(share: f64) -> f64 {
    share * (1.0 - STEADY) * float(SECOND_NS)
}

/// What the next thing may cost: the most that anything has of late.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// The most in this span of time and in the one before.
    most_ns: [u64; 2],
    span_ends_ns: u64,
}

impl Expected {
    fn new(now_ns: u64) -> Self {
        Self {
            most_ns: [0, FIRST_COST_NS],
            span_ends_ns: now_ns.saturating_add(FORESIGHT_NS),
        }
    }

    fn learn(&mut self, now_ns: u64, cost_ns: u64) {
        if now_ns >= self.span_ends_ns {
            self.most_ns = [0, self.most_ns[0]];
            self.span_ends_ns = now_ns.saturating_add(FORESIGHT_NS);
        }
        self.most_ns[0] = self.most_ns[0].max(cost_ns);
    }

    fn cost_ns(&self) -> f64 {
        float(self.most_ns[0].max(self.most_ns[1])) * MARGIN
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "spans of time far below 2^52 ns"
)]
fn float(ns: u64) -> f64 {
    ns as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that is too large saturates, and one below zero is nothing to wait for"
)]
fn whole(ns: f64) -> u64 {
    ns.ceil() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARE: f64 = 0.02;
    const MILLISECOND: u64 = 1_000_000;

    /// What was spent, and when.
    #[derive(Default)]
    struct Ledger(Vec<(u64, u64)>);

    impl Ledger {
        /// The most within any span of a second that ends with something being spent.
        fn worst_second_ns(&self) -> u64 {
            let mut first = 0;
            let mut sum = 0;
            let mut worst = 0;
            for &(at_ns, cost_ns) in &self.0 {
                sum += cost_ns;
                while self.0[first].0 + SECOND_NS <= at_ns {
                    sum -= self.0[first].1;
                    first += 1;
                }
                worst = worst.max(sum);
            }
            worst
        }
    }

    /// Spends `costs_ns`, each as soon as it is allowed and no sooner than `period_ns` after the one before. A clock
    /// that moves only as it is told.
    fn spend_all(
        budget: &mut Budget,
        start_ns: u64,
        period_ns: u64,
        costs_ns: impl IntoIterator<Item = u64>,
    ) -> Ledger {
        let mut ledger = Ledger::default();
        let mut now_ns = start_ns;
        for cost_ns in costs_ns {
            now_ns += period_ns;
            budget.earn_until(now_ns);
            now_ns += budget.wait_ns(1.0);
            budget.earn_until(now_ns);
            budget.spend(now_ns, cost_ns);
            ledger.0.push((now_ns, cost_ns));
        }
        ledger
    }

    proptest! {
        #[test]
        fn no_second_holds_more_than_its_share(
            share in 0.001f64..1.0,
            period_ns in 1u64..20 * MILLISECOND,
            lowest_ns in 1u64..1_000_000,
            parts in prop::collection::vec(0u64..=100, 50..2000),
        ) {
            // Costs that vary by a quarter, and one of which can be paid for at all.
            let lowest_ns = lowest_ns.min(whole(credit_max_ns(share) / 2.0));
            let costs_ns = parts.iter().map(|part| lowest_ns + lowest_ns * part / 400);
            let mut budget = Budget::new(Some(share), 0);
            let ledger = spend_all(&mut budget, 0, period_ns, costs_ns);
            // What comes first is not foreseen.
            let unforeseen_ns = (ledger.0[0].1).saturating_sub(FIRST_COST_NS);
            let most_ns = whole(share * float(SECOND_NS)) + unforeseen_ns + 1;
            prop_assert!(ledger.worst_second_ns() <= most_ns, "{} > {most_ns}", ledger.worst_second_ns());
        }

        #[test]
        fn what_nobody_could_foresee_is_paid_back(
            gaps_and_costs in prop::collection::vec((1u64..50 * MILLISECOND, 1u64..200 * MILLISECOND), 2..200),
        ) {
            let mut budget = Budget::new(Some(SHARE), 0);
            let (mut now_ns, mut spent_ns) = (0, 0);
            for (gap_ns, cost_ns) in gaps_and_costs {
                now_ns += gap_ns;
                budget.earn_until(now_ns);
                now_ns += budget.wait_ns(1.0);
                budget.earn_until(now_ns);
                // All that was spent before has been earned by now, whatever it was.
                let earned_ns = float(now_ns) * SHARE * STEADY + credit_max_ns(SHARE);
                prop_assert!(float(spent_ns) <= earned_ns, "{spent_ns} of {earned_ns}");
                budget.spend(now_ns, cost_ns);
                spent_ns += cost_ns;
            }
        }

        #[test]
        fn a_target_that_uses_more_cpus_allows_more_and_no_more_than_its_share(
            paces in prop::collection::vec(0.0f64..16.0, 20..200),
            cost_ns in 1_000u64..2 * MILLISECOND,
        ) {
            let mut budget = Budget::new(Some(SHARE), 0);
            let (mut now_ns, mut earned_ns, mut spent_ns) = (0, 0.0, 0);
            for pace in paces {
                for _ in 0..10 {
                    now_ns += MILLISECOND;
                    let income_ns = whole(float(MILLISECOND) * pace.max(1.0));
                    budget.earn(now_ns, income_ns);
                    earned_ns += float(income_ns) * SHARE;
                    if budget.wait_ns(pace.max(1.0)) == 0 {
                        budget.spend(now_ns, cost_ns);
                        spent_ns += cost_ns;
                    }
                }
                let most_ns = earned_ns + credit_max_ns(SHARE);
                prop_assert!(float(spent_ns) <= most_ns + float(cost_ns));
            }
        }
    }

    #[test]
    fn it_converges_and_stays_there() {
        // 100 us each, asked for 1000 times a second: 2 % pay for 160 a second.
        let mut budget = Budget::new(Some(SHARE), 0);
        let ledger = spend_all(
            &mut budget,
            0,
            MILLISECOND,
            std::iter::repeat_n(100_000, 2000),
        );
        let after_a_second: Vec<u64> = ledger.0.iter().map(|&(at_ns, _)| at_ns).collect();
        let gaps: Vec<u64> = after_a_second
            .windows(2)
            .filter(|pair| pair[0] > SECOND_NS)
            .map(|pair| pair[1] - pair[0])
            .collect();
        let (least, most) = (gaps.iter().min().copied(), gaps.iter().max().copied());
        assert!(gaps.len() > 1000);
        // 100 us by 1.6 %, and nothing between too much and too little.
        assert!(
            least >= Some(6_200_000) && most <= Some(6_300_000),
            "{least:?} to {most:?}"
        );
    }

    #[test]
    fn waking_up_to_ask_costs_something_and_is_not_all_that_is_paid_for() {
        const ASKING_NS: u64 = 30_000;
        // Now and then something is dear, and more than can be saved up for is expected for a while.
        for dear_ns in [200_000, 3 * MILLISECOND] {
            let mut budget = Budget::new(Some(SHARE), 0);
            let (mut now_ns, mut asked, mut done) = (0, 0, 0);
            while now_ns < 20 * SECOND_NS {
                now_ns += MILLISECOND;
                budget.earn_until(now_ns);
                loop {
                    budget.spend(now_ns, ASKING_NS);
                    asked += 1;
                    let wait_ns = budget.wait_ns(1.0);
                    if wait_ns == 0 {
                        break;
                    }
                    now_ns += wait_ns;
                    budget.earn_until(now_ns);
                }
                let cost_ns = if done % 100 == 0 { dear_ns } else { 200_000 };
                budget.spend(now_ns, cost_ns);
                done += 1;
            }
            // 320 ms in all.
            assert!(done > 1000, "{done} done, asked {asked} times");
        }
    }

    #[test]
    fn it_follows_what_things_cost() {
        let rate_hz = |cost_ns: u64, budget: &mut Budget, now_ns: &mut u64| {
            let ledger = spend_all(
                budget,
                *now_ns,
                MILLISECOND,
                std::iter::repeat_n(cost_ns, 500),
            );
            let from_ns = ledger.0[250].0;
            *now_ns = ledger.0[499].0;
            float(249 * SECOND_NS) / float(*now_ns - from_ns)
        };
        let (mut budget, mut now_ns) = (Budget::new(Some(SHARE), 0), 0);
        let cheap = rate_hz(10_000, &mut budget, &mut now_ns);
        let dear = rate_hz(200_000, &mut budget, &mut now_ns);
        let cheap_again = rate_hz(10_000, &mut budget, &mut now_ns);
        assert!((990.0..1010.0).contains(&cheap), "{cheap}");
        assert!((79.0..81.0).contains(&dear), "{dear}");
        assert!((990.0..1010.0).contains(&cheap_again), "{cheap_again}");
    }

    #[test]
    fn where_not_even_one_can_be_paid_for_they_are_as_rare_as_need_be() {
        // 40 us each of 10 us a second.
        let mut budget = Budget::new(Some(0.000_01), 0);
        let ledger = spend_all(&mut budget, 0, MILLISECOND, std::iter::repeat_n(40_000, 20));
        let gap_ns = ledger.0[19].0 - ledger.0[18].0;
        assert!((4 * SECOND_NS..6 * SECOND_NS).contains(&gap_ns), "{gap_ns}");
    }

    #[test]
    fn without_a_promise_nothing_waits() {
        let mut budget = Budget::new(None, 0);
        budget.spend(1, u64::MAX);
        assert_eq!((budget.wait_ns(1.0), budget.slice_ns()), (0, u64::MAX));
    }

    #[test]
    fn a_clock_that_jumps_brings_no_more_than_a_full_bucket() {
        let mut budget = Budget::new(Some(SHARE), 0);
        budget.earn_until(3600 * SECOND_NS);
        budget.earn_until(0);
        let ledger = spend_all(
            &mut budget,
            3600 * SECOND_NS,
            1,
            std::iter::repeat_n(100_000, 1000),
        );
        assert!(ledger.worst_second_ns() <= 20 * MILLISECOND);
    }
}
