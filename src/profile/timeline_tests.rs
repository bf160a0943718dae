//! Tests of the timeline.

use super::super::sample::Weights;
use super::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

fn seen(state: ThreadState, at_ms: u64, stack: u32, [cpu, wall, queue]: [u64; 3]) -> Observation {
    Observation {
        thread: ThreadId(0),
        at_ns: at_ms * MS,
        state,
        stack: StackId(stack),
        ticks: 1,
        weights: Weights {
            cpu_ns: cpu * MS,
            wall_ns: wall * MS,
            run_queue_ns: queue * MS,
        },
    }
}

fn timeline(observations: &[Observation]) -> Timeline {
    let mut timeline = Timeline::default();
    for observation in observations {
        timeline.observe(observation);
    }
    timeline.finished()
}

/// Part and milliseconds of one weight.
fn by_part(timeline: &Timeline, stack: u32, of: fn(&StackWeights) -> u64) -> Vec<(u32, u64)> {
    let slices = timeline.slices(ThreadId(0), StackId(stack)).iter();
    let slices = slices.map(|slice| (slice.part, of(&slice.weights) / MS));
    slices.filter(|&(_, value)| value > 0).collect()
}

#[test]
fn a_sleep_lies_where_it_was_and_not_where_it_was_seen() {
    let timeline = timeline(&[
        seen(ThreadState::Blocked, 2, 0, [0, 2, 0]),
        // Slept on to 12 ms, waited 1 ms, ran 3 ms.
        seen(ThreadState::Running, 16, 1, [3, 14, 1]),
    ]);
    let off_cpu = |weights: &StackWeights| weights.off_cpu_ns;
    assert_eq!(by_part(&timeline, 0, off_cpu), [(0, 4), (1, 4), (2, 4)]);
    assert_eq!(by_part(&timeline, 1, off_cpu), []);
    assert_eq!(by_part(&timeline, 1, |weights| weights.cpu_ns), [(3, 3)]);
    assert_eq!(
        by_part(&timeline, 1, |weights| weights.run_queue_ns),
        [(3, 1)]
    );
    assert_eq!(timeline.parts(), 4);
}

#[test]
fn parts_grow_with_the_recording_and_nothing_is_lost() {
    let observations: Vec<_> = (1..=60_000)
        .map(|look| seen(ThreadState::Running, look * 10, 7, [10, 10, 0]))
        .collect();
    let timeline = timeline(&observations);
    assert!(u64::from(timeline.parts()) <= PARTS_MAX);
    assert!(u64::from(timeline.parts()) > PARTS_MAX / 4);
    let total: u64 = by_part(&timeline, 7, |weights| weights.cpu_ns)
        .iter()
        .map(|(_, ms)| ms)
        .sum();
    // Less than a millisecond is lost in each part, by dividing here.
    assert!((598_000..=600_000).contains(&total), "{total}");
}

/// `looks` at a thread every two milliseconds, at `stacks` by turns, where a thousand entries are many.
fn crowded(looks: u32, stacks: u32) -> Timeline {
    let mut timeline = Timeline {
        slices_max: 1_000,
        halve_above: 1_000,
        ..Timeline::default()
    };
    for look in 1..=looks {
        let at_ms = u64::from(look) * 2;
        timeline.observe(&seen(ThreadState::Running, at_ms, look % stacks, [2, 2, 0]));
    }
    timeline.finished()
}

#[test]
fn too_many_entries_make_parts_longer() {
    let timeline = crowded(20_000, 10);
    assert!(
        (2..=150).contains(&timeline.parts()),
        "{}",
        timeline.parts()
    );
    let cpu_ms = |stack| by_part(&timeline, stack, |weights| weights.cpu_ns);
    let cpu_ms = |stack| cpu_ms(stack).iter().map(|(_, ms)| ms).sum::<u64>();
    assert_eq!((0..10).map(cpu_ms).sum::<u64>(), 40_000);
}

#[test]
fn more_stacks_than_entries_are_kept_all_the_same() {
    let timeline = crowded(5_000, 5_000);
    assert!(timeline.parts() >= 1);
    assert!((0..5_000).all(|stack| !timeline.slices(ThreadId(0), StackId(stack)).is_empty()));
}

proptest! {
    /// Whatever a recording claims, it ends, and all that was observed is somewhere.
    #[test]
    fn nothing_is_lost_of_anything(
        observed in prop::collection::vec((any::<u64>(), 0u32..3, any::<u64>(), any::<u32>(), 0usize..4), 1..40)
    ) {
        let states = [ThreadState::Running, ThreadState::Blocked, ThreadState::Stopped, ThreadState::Unseen];
        let observations: Vec<_> = observed
            .iter()
            .map(|&(at_ns, stack, wall_ns, cpu_ns, state)| Observation {
                at_ns,
                weights: Weights { cpu_ns: cpu_ns.into(), wall_ns: wall_ns >> 8, run_queue_ns: 3 },
                ..seen(states[state], 0, stack, [0, 0, 0])
            })
            .collect();
        let timeline = timeline(&observations);
        let mut sum = StackWeights::default();
        for stack in 0..3 {
            for slice in timeline.slices(ThreadId(0), StackId(stack)) {
                sum += slice.weights;
            }
        }
        let mut expected = StackWeights::default();
        for Observation { weights, ticks, .. } in &observations {
            expected += StackWeights {
                cpu_ns: weights.cpu_ns,
                wall_ns: weights.wall_ns,
                off_cpu_ns: weights.off_cpu_ns(),
                run_queue_ns: weights.run_queue_ns,
                samples: u64::from(*ticks),
            };
        }
        prop_assert_eq!(sum, expected);
    }
}
