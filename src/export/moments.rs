//! A profile in the order of time: what the formats need that show or list single samples.

use crate::profile::{ResolvedProfile, ThreadState, Weight};

/// For how long a thread was at a stack, as far as the looks at it tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Position in the profile's stacks.
    pub(super) stack: u32,
    /// Position in the profile's threads.
    pub(super) thread: u32,
    /// Whether it slept; else it ran, or waited for a CPU.
    pub(super) is_asleep: bool,
    /// From when, in nanoseconds since the recording began.
    pub(super) from_ns: u64,
    /// Until when.
    pub(super) to_ns: u64,
}

/// How the weight of each stack is shared out among the moments it was seen in.
#[derive(Debug)]
pub(super) struct Shares {
    /// By moment.
    pub(super) of_moments: Vec<u64>,
    /// Stacks that have weight and no moment, such as CPU time that nobody saw.
    pub(super) unseen: Vec<(u32, u64)>,
}

/// Shares out `value` of each stack among its moments, by how often and in which state they saw it: the sum over the
/// moments of a stack is its value, as in the formats that know no time.
pub(super) fn shares(
    profile: &ResolvedProfile,
    weight: Weight,
    value: impl Fn(u64) -> u64,
) -> Shares {
    let base = |state: ThreadState, ticks: u32| -> u64 {
        let counts = match weight {
            Weight::Cpu => state == ThreadState::Running,
            Weight::OffCpu => matches!(state, ThreadState::Blocked | ThreadState::Stopped),
            Weight::Wall | Weight::RunQueue | Weight::Samples => true,
        };
        if counts { ticks.into() } else { 0 }
    };
    // By stack: the sum of the bases, and how many moments it has.
    let mut sums = vec![(0u64, 0u64); profile.stacks.len()];
    for moment in &profile.moments {
        if let Some((sum, moments)) = sums.get_mut(moment.stack as usize) {
            *sum += base(moment.state, moment.ticks);
            *moments += 1;
        }
    }
    let values: Vec<u64> = profile
        .stacks
        .iter()
        .map(|stack| value(stack.weights.get(weight)))
        .collect();
    let mut done = vec![0u64; sums.len()];
    let of_moments = profile.moments.iter().map(|moment| {
        let at = moment.stack as usize;
        let (Some(&(sum, moments)), Some(&value), Some(done)) =
            (sums.get(at), values.get(at), done.get_mut(at))
        else {
            return 0;
        };
        // Of a stack that was never seen in the state that counts, each moment counts.
        let (base, sum) = match sum {
            0 => (1, moments),
            sum => (base(moment.state, moment.ticks), sum),
        };
        let upto = |part: u64| {
            let product = u128::from(value) * u128::from(part);
            u64::try_from(product / u128::from(sum)).unwrap_or(value)
        };
        let before = upto(*done);
        *done += base;
        upto(*done) - before
    });
    Shares {
        of_moments: of_moments.collect(),
        unseen: (0u32..)
            .zip(values.iter().zip(&sums))
            .filter(|(_, (value, (_, moments)))| **value > 0 && *moments == 0)
            .map(|(stack, (value, _))| (stack, *value))
            .collect(),
    }
}

/// Where each thread was when, in the order of the looks that tell. What a thread slept before it was found running
/// belongs to where it slept; of one that ran before it was found asleep nobody knows where.
pub(super) fn spans(profile: &ResolvedProfile) -> impl Iterator<Item = Span> + '_ {
    let mut slept_at: Vec<Option<u32>> = vec![None; profile.threads.len()];
    profile.moments.iter().flat_map(move |moment| {
        let stack = profile.stacks.get(moment.stack as usize);
        let thread = stack.map_or(0, |stack| stack.thread);
        let on_ns = moment
            .weights
            .cpu_ns
            .saturating_add(moment.weights.run_queue_ns);
        let began_ns = moment.at_ns.saturating_sub(moment.weights.wall_ns);
        let ran_from_ns = moment.at_ns.saturating_sub(on_ns).max(began_ns);
        let span = |stack, is_asleep, from_ns, to_ns| {
            Some(Span {
                stack,
                thread,
                is_asleep,
                from_ns,
                to_ns,
            })
            .filter(|span| span.from_ns < span.to_ns)
        };
        let last = slept_at.get_mut(thread as usize);
        let (slept, seen) = match moment.state {
            ThreadState::Running => {
                let slept = last.and_then(Option::take);
                (
                    slept.and_then(|stack| span(stack, true, began_ns, ran_from_ns)),
                    span(moment.stack, false, ran_from_ns, moment.at_ns),
                )
            }
            ThreadState::Blocked | ThreadState::Stopped => {
                if let Some(last) = last {
                    *last = Some(moment.stack);
                }
                let slept_from_ns = began_ns.saturating_add(on_ns).min(moment.at_ns);
                (None, span(moment.stack, true, slept_from_ns, moment.at_ns))
            }
            ThreadState::Unseen => (None, None),
        };
        slept.into_iter().chain(seen)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::example;
    use super::*;

    #[test]
    fn what_was_slept_belongs_to_where() {
        let profile = example::in_time();
        let spans: Vec<_> = spans(&profile)
            .map(|span| {
                (
                    span.thread,
                    span.stack,
                    span.is_asleep,
                    span.from_ns,
                    span.to_ns,
                )
            })
            .collect();
        assert_eq!(
            spans,
            [
                (0, 0, false, 0, 10),
                (1, 4, true, 0, 90),
                (0, 1, false, 10, 20),
                (1, 4, true, 90, 95),
                (1, 5, false, 95, 100),
                (0, 1, false, 25, 30),
            ]
        );
    }

    #[test]
    fn moments_share_out_what_their_stack_weighs() {
        let profile = example::in_time();
        for weight in [Weight::Cpu, Weight::Wall, Weight::OffCpu, Weight::Samples] {
            let shares = shares(&profile, weight, |value| value);
            let of_moments: u64 = shares.of_moments.iter().sum();
            let unseen: u64 = shares.unseen.iter().map(|(_, value)| value).sum();
            assert_eq!(
                of_moments + unseen,
                profile.total().get(weight),
                "{weight:?}"
            );
        }
        let cpu = shares(&profile, Weight::Cpu, |value| value).of_moments;
        assert_eq!(cpu[1], 0, "no CPU time where a thread slept: {cpu:?}");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_in_any_order_of_moments(
            moments in prop::collection::vec((0..10u32, 0..4u8, 0..5u32), 0..40)
        ) {
            let mut profile = example::profile();
            profile.moments = moments
                .into_iter()
                .map(|(stack, state, ticks)| example::moment(stack, u64::from(ticks) * 7, state, ticks))
                .collect();
            for weight in [Weight::Cpu, Weight::OffCpu, Weight::Samples] {
                let shares = shares(&profile, weight, |value| value);
                let unseen = shares.unseen.iter().map(|(_, value)| value);
                let sum: u64 = shares.of_moments.iter().chain(unseen).sum();
                prop_assert_eq!(sum, profile.total().get(weight));
            }
            for span in spans(&profile) {
                prop_assert!(span.from_ns < span.to_ns);
            }
        }
    }
}
