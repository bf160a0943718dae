//! Tests of `attribution.rs`, apart because they are longer than it.

use proptest::prelude::*;

use super::super::sample::Weights;
use super::super::stacks::ThreadId;
use super::*;

const COMPUTE: StackId = StackId(0);
const RENDER: StackId = StackId(1);
const FUTEX: StackId = StackId(2);
const READ: StackId = StackId(3);

/// (state, stack, CPU ns, run-queue ns, off-CPU ns)
type Seen = (ThreadState, StackId, u64, u64, u64);

fn attribute(seen: &[Seen]) -> Vec<Attributed> {
    attribute_every(0, seen)
}

/// `seen` with so much time from each look to the next.
fn attribute_every(gap_ns: u64, seen: &[Seen]) -> Vec<Attributed> {
    let mut tally = ThreadTally::default();
    for (number, &(state, stack, cpu_ns, run_queue_ns, off_cpu_ns)) in (0..).zip(seen) {
        tally.observe(&Observation {
            thread: ThreadId(0),
            at_ns: gap_ns * number,
            state,
            stack,
            ticks: 1,
            weights: Weights {
                cpu_ns,
                wall_ns: cpu_ns + run_queue_ns + off_cpu_ns,
                run_queue_ns,
            },
        });
    }
    tally.attribute()
}

/// (stack, CPU, unseen CPU, off-CPU)
fn charged(seen: &[Seen]) -> Vec<(StackId, u64, u64, u64)> {
    attribute(seen)
        .iter()
        .map(|charged| {
            (
                charged.stack,
                charged.weights.cpu_ns,
                charged.unseen_cpu_ns,
                charged.weights.off_cpu_ns,
            )
        })
        .collect()
}

use ThreadState::{Blocked, Running, Stopped, Unseen};

#[test]
fn cpu_of_a_second_is_shared_by_how_often_the_thread_was_caught_running() {
    assert_eq!(
        charged(&[
            (Running, COMPUTE, 10, 0, 0),
            (Running, RENDER, 70, 0, 0),
            (Running, COMPUTE, 10, 0, 0)
        ]),
        [(COMPUTE, 60, 0, 0), (RENDER, 30, 0, 0)]
    );
}

#[test]
fn each_second_keeps_its_own_cpu_time() {
    let cpu: Vec<u64> = attribute_every(
        600_000_000,
        &[
            (Running, COMPUTE, 60, 0, 0),
            (Running, COMPUTE, 40, 0, 0),
            (Running, RENDER, 10, 0, 0),
            (Blocked, FUTEX, 10, 0, 0),
            // Only asleep in this second: shared over all of them.
            (Blocked, FUTEX, 12, 0, 0),
        ],
    )
    .iter()
    .map(|charged| charged.weights.cpu_ns)
    .collect();
    assert_eq!(cpu, [110, 22, 0]);
}

#[test]
fn cpu_seen_on_a_sleeper_is_shared_over_where_the_thread_ran() {
    assert_eq!(
        charged(&[
            (Running, COMPUTE, 60, 0, 0),
            (Running, RENDER, 20, 0, 0),
            (Blocked, FUTEX, 8, 0, 92),
        ]),
        [(COMPUTE, 44, 0, 0), (RENDER, 44, 0, 0), (FUTEX, 0, 0, 92)]
    );
}

#[test]
fn cpu_seen_before_the_thread_was_caught_running_is_shared_too() {
    assert_eq!(
        charged(&[(Blocked, FUTEX, 8, 0, 0), (Running, COMPUTE, 1, 0, 0)]),
        [(FUTEX, 0, 0, 0), (COMPUTE, 9, 0, 0)]
    );
}

#[test]
fn shares_are_whole_and_lose_nothing() {
    let charged = charged(&[
        (Running, COMPUTE, 1, 0, 0),
        (Running, RENDER, 1, 0, 0),
        (Running, READ, 1, 0, 0),
        (Stopped, FUTEX, 100, 0, 0),
    ]);
    assert_eq!(
        charged,
        [
            (COMPUTE, 35, 0, 0),
            (RENDER, 34, 0, 0),
            (READ, 34, 0, 0),
            (FUTEX, 0, 0, 0)
        ]
    );
}

#[test]
fn a_thread_never_caught_running_keeps_its_cpu_where_it_slept() {
    assert_eq!(
        charged(&[(Blocked, FUTEX, 5, 0, 1), (Blocked, READ, 3, 0, 2)]),
        [(FUTEX, 0, 5, 1), (READ, 0, 3, 2)]
    );
}

#[test]
fn a_thread_caught_running_without_cpu_time_shares_by_how_often() {
    // schedstat's CPU time may be a kernel tick old, so a running thread can show none.
    assert_eq!(
        charged(&[
            (Running, COMPUTE, 0, 0, 0),
            (Running, COMPUTE, 0, 0, 0),
            (Running, RENDER, 0, 0, 0),
            (Blocked, FUTEX, 9, 0, 0),
        ]),
        [(COMPUTE, 6, 0, 0), (RENDER, 3, 0, 0), (FUTEX, 0, 0, 0)]
    );
}

#[test]
fn cpu_of_a_thread_that_was_not_looked_at_is_shared_or_stays_where_it_was_put() {
    assert_eq!(
        charged(&[
            (Unseen, RENDER, 50, 0, 0),
            (Running, COMPUTE, 10, 0, 0),
            (Blocked, FUTEX, 30, 0, 0),
        ]),
        [(RENDER, 0, 0, 0), (COMPUTE, 90, 0, 0), (FUTEX, 0, 0, 0)]
    );
    assert_eq!(charged(&[(Unseen, RENDER, 50, 0, 0)]), [(RENDER, 50, 0, 0)]);
}

#[test]
fn sleep_seen_on_a_running_thread_was_slept_where_it_last_was() {
    assert_eq!(
        charged(&[
            (Blocked, FUTEX, 0, 0, 10),
            (Blocked, READ, 0, 0, 10),
            (Running, COMPUTE, 2, 0, 8),
        ]),
        [(FUTEX, 0, 0, 10), (READ, 0, 0, 18), (COMPUTE, 2, 0, 0)]
    );
}

#[test]
fn sleep_between_two_looks_at_a_running_thread_is_shared_over_where_it_sleeps() {
    assert_eq!(
        charged(&[
            (Running, COMPUTE, 1, 0, 0),
            (Running, COMPUTE, 1, 0, 8),
            (Blocked, FUTEX, 0, 0, 30),
            (Stopped, RENDER, 0, 0, 500),
            (Blocked, READ, 0, 0, 10),
        ]),
        [
            (COMPUTE, 2, 0, 0),
            (FUTEX, 0, 0, 36),
            (RENDER, 0, 0, 500),
            (READ, 0, 0, 12)
        ]
    );
}

#[test]
fn sleep_of_a_thread_never_found_asleep_stays_where_it_was_seen() {
    assert_eq!(
        charged(&[(Running, COMPUTE, 1, 0, 8), (Running, RENDER, 1, 0, 2)]),
        [(COMPUTE, 1, 0, 8), (RENDER, 1, 0, 2)]
    );
}

#[test]
fn wall_run_queue_and_samples_stay_where_they_were_seen() {
    let charged = attribute(&[
        (Blocked, FUTEX, 3, 4, 5),
        (Running, COMPUTE, 6, 7, 8),
        (Running, COMPUTE, 6, 7, 8),
    ]);
    let kept = |position: usize| {
        let weights = charged[position].weights;
        (weights.samples, weights.wall_ns, weights.run_queue_ns)
    };
    assert_eq!((kept(0), kept(1)), ((1, 12, 4), (2, 42, 14)));
}

#[test]
fn a_look_that_covers_several_ticks_counts_as_so_many_samples() {
    let mut tally = ThreadTally::default();
    tally.observe(&Observation {
        thread: ThreadId(0),
        at_ns: 0,
        state: Blocked,
        stack: FUTEX,
        ticks: 99,
        weights: Weights::default(),
    });
    assert_eq!(tally.attribute()[0].weights.samples, 99);
}

#[test]
fn a_wait_for_a_cpu_that_is_accounted_late_is_no_sleep() {
    let mut tally = ThreadTally::default();
    // A thread that always wants to run, on a CPU that it shares: each wait is accounted when it ends.
    for (cpu_ns, run_queue_ns) in [(4, 0), (2, 14), (6, 0), (0, 14)] {
        tally.observe(&Observation {
            thread: ThreadId(0),
            at_ns: 0,
            state: Running,
            stack: COMPUTE,
            ticks: 1,
            weights: Weights {
                cpu_ns,
                wall_ns: 10,
                run_queue_ns,
            },
        });
    }
    let off_cpu_ns: u64 = tally
        .attribute()
        .iter()
        .map(|charged| charged.weights.off_cpu_ns)
        .sum();
    assert_eq!(
        off_cpu_ns, 6,
        "what the first look could not know, and no more"
    );
}

#[test]
fn forged_times_saturate() {
    let charged = charged(&[
        (Running, COMPUTE, u64::MAX, 0, 0),
        (Running, COMPUTE, u64::MAX, 0, 0),
        (Running, RENDER, u64::MAX, 0, 0),
        (Blocked, FUTEX, u64::MAX, 0, 0),
    ]);
    assert_eq!(charged[0].1 + charged[1].1, u64::MAX);
}

fn seen() -> impl Strategy<Value = Seen> {
    let state = prop_oneof![Just(Running), Just(Blocked), Just(Stopped), Just(Unseen)];
    let ns = || prop_oneof![Just(0), 0..10u64, 0..1u64 << 40];
    (state, 0..6u32, ns(), ns(), ns()).prop_map(|(state, stack, cpu, run_queue, off)| {
        (state, StackId(stack), cpu, run_queue, off)
    })
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_is_made_up(
        seen in prop::collection::vec(seen(), 0..60),
        gap_ns in 0..2 * WINDOW_NS,
    ) {
        let charged = attribute_every(gap_ns, &seen);
        let sum = |value: fn(&Attributed) -> u64| charged.iter().map(value).sum::<u64>();
        prop_assert_eq!(
            sum(|charged| charged.weights.cpu_ns + charged.unseen_cpu_ns),
            seen.iter().map(|seen| seen.2).sum::<u64>()
        );
        prop_assert_eq!(
            sum(|charged| charged.weights.run_queue_ns),
            seen.iter().map(|seen| seen.3).sum::<u64>()
        );
        prop_assert_eq!(
            sum(|charged| charged.weights.off_cpu_ns),
            seen.iter().map(|seen| seen.4).sum::<u64>()
        );
        prop_assert_eq!(
            sum(|charged| charged.weights.wall_ns),
            seen.iter().map(|seen| seen.2 + seen.3 + seen.4).sum::<u64>()
        );
        prop_assert_eq!(
            sum(|charged| charged.weights.samples),
            seen.len() as u64
        );
        // Only one who never ran has CPU time that nobody saw.
        if seen.iter().any(|seen| seen.0 == Running) {
            prop_assert_eq!(sum(|charged| charged.unseen_cpu_ns), 0);
        }
    }

    #[test]
    fn shares_add_up_and_differ_from_the_quota_by_less_than_one(
        total: u64,
        bases in prop::collection::vec(any::<u64>(), 0..20),
    ) {
        let sum: u128 = bases.iter().map(|&base| u128::from(base)).sum();
        match share(total, &bases) {
            None => prop_assert_eq!(sum, 0),
            Some(shares) => {
                let shared: u128 = shares.iter().map(|&share| u128::from(share)).sum();
                prop_assert_eq!(shared, u128::from(total));
                for (&base, &share) in bases.iter().zip(&shares) {
                    let quota = u128::from(total) * u128::from(base) / sum;
                    prop_assert!(u128::from(share) == quota || u128::from(share) == quota + 1);
                }
            }
        }
    }
}
