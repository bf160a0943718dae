//! Observations, in columns: for each value the difference to what can be predicted from the observation before, or
//! from the same thread's last one.
//!
//! For a thread that sleeps on, all but the time is as predicted. Values of one kind beside each other compress, a mix
//! of them does not.

use super::packed::{Packed, PackedReader};
use super::records::Record;
use crate::profile::{Observation, StackId, ThreadId, ThreadState, Weights};

/// The values of an observation; all differences are modulo 2^64.
///
/// | column | difference to |
/// |---|---|
/// | state | its number in [`STATES`], to 0 |
/// | thread | the thread of the observation before |
/// | time | the time of the observation before |
/// | stack | the stack of the thread's last observation |
/// | ticks | for a thread that was not looked at 0, else 1 |
/// | wall time | for a thread that was not looked at 0, else the time since the thread's last observation |
/// | run-queue time | 0 |
/// | CPU time | for a running thread, wall time less run-queue time; else 0 |
///
/// Observations of a thread that was not looked at are not the thread's last: they come between two others, and leave
/// the wall time to the second of these.
pub(super) const COLUMNS: usize = 8;
const STATE: usize = 0;
const THREAD: usize = 1;
const TIME: usize = 2;
const STACK: usize = 3;
const TICKS: usize = 4;
const WALL: usize = 5;
const RUN_QUEUE: usize = 6;
const CPU: usize = 7;

/// The states, by number.
const STATES: [ThreadState; 4] = [
    ThreadState::Running,
    ThreadState::Blocked,
    ThreadState::Stopped,
    ThreadState::Unseen,
];

/// How many threads are remembered: a thread takes the place of the one whose id is this much lower, so that memory
/// stays bounded however many threads come and go.
const THREADS_REMEMBERED: usize = 1 << 14;

/// What predictions are made from. Writer and reader have the same, from the start of the recording.
#[derive(Debug)]
pub(in super::super) struct History {
    thread: u32,
    at_ns: u64,
    /// By thread id modulo [`THREADS_REMEMBERED`]; all there from the start, so that memory does not grow with threads
    /// that come and go.
    threads: Vec<Last>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            thread: 0,
            at_ns: 0,
            threads: vec![Last::default(); THREADS_REMEMBERED],
        }
    }
}

/// A thread's last observation. Before there was one: at 0 ns, at stack 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Last {
    thread: u32,
    at_ns: u64,
    stack: u32,
}

impl History {
    /// Stack ids are void: every thread is as if it had last been at stack 0.
    pub(in super::super) fn forget_stacks(&mut self) {
        self.threads.iter_mut().for_each(|last| last.stack = 0);
    }

    fn last(&self, thread: u32) -> Last {
        self.threads
            .get(thread as usize % THREADS_REMEMBERED)
            .filter(|last| last.thread == thread)
            .copied()
            .unwrap_or_default()
    }

    fn remember(&mut self, observation: &Observation) {
        let thread = observation.thread.0;
        self.thread = thread;
        self.at_ns = observation.at_ns;
        if observation.state == ThreadState::Unseen {
            return;
        }
        self.threads[thread as usize % THREADS_REMEMBERED] = Last {
            thread,
            at_ns: observation.at_ns,
            stack: observation.stack.0,
        };
    }
}

/// Observations that wait to be written.
#[derive(Debug, Default)]
pub(in super::super) struct Columns {
    count: u32,
    columns: [Packed; COLUMNS],
}

impl Columns {
    pub(in super::super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How long the record of these will be, but for a few bytes.
    pub(in super::super) fn bytes(&self) -> usize {
        self.columns.iter().map(Packed::len_bytes).sum()
    }

    /// Takes one observation.
    pub(in super::super) fn push(&mut self, history: &mut History, observation: &Observation) {
        let Observation {
            thread,
            at_ns,
            state,
            stack,
            ticks,
            weights,
        } = *observation;
        let last = history.last(thread.0);
        let differences = [
            state_number(state),
            difference(thread.0, history.thread),
            at_ns.wrapping_sub(history.at_ns),
            difference(stack.0, last.stack),
            difference(ticks, expected_ticks(state)),
            weights
                .wall_ns
                .wrapping_sub(expected_wall_ns(state, at_ns, last)),
            weights.run_queue_ns,
            weights.cpu_ns.wrapping_sub(expected_cpu_ns(state, weights)),
        ];
        for (column, difference) in self.columns.iter_mut().zip(differences) {
            column.push(difference);
        }
        self.count += 1;
        history.remember(observation);
    }

    /// All of them as one record.
    pub(in super::super) fn record(&self) -> Record<'_> {
        Record::Observations {
            count: self.count,
            columns: self.columns.each_ref().map(Packed::column),
        }
    }

    /// Forgets them; the memory is kept.
    pub(in super::super) fn clear(&mut self) {
        self.count = 0;
        self.columns.iter_mut().for_each(Packed::clear);
    }
}

/// Reads observations back. Ids are those of the recording, unchecked.
#[derive(Debug)]
pub(super) struct ColumnsReader<'a> {
    left: u32,
    columns: [PackedReader<'a>; COLUMNS],
}

impl<'a> ColumnsReader<'a> {
    pub(super) fn new(count: u32, columns: [super::records::Column<'a>; COLUMNS]) -> Self {
        Self {
            left: count,
            columns: columns.map(PackedReader::new),
        }
    }

    /// The next observation; `Ok(None)` when there are no more.
    pub(super) fn next(
        &mut self,
        history: &mut History,
    ) -> Result<Option<Observation>, &'static str> {
        if self.left == 0 {
            return if self.columns.iter().all(PackedReader::is_at_end) {
                Ok(None)
            } else {
                Err("a column that is longer than its observations")
            };
        }
        self.left -= 1;
        let mut differences = [0; COLUMNS];
        for (difference, column) in differences.iter_mut().zip(&mut self.columns) {
            *difference = column
                .next()
                .ok_or("a column that is shorter than its observations")?;
        }
        let observation = observation(differences, history)?;
        history.remember(&observation);
        Ok(Some(observation))
    }
}

fn observation(
    differences: [u64; COLUMNS],
    history: &History,
) -> Result<Observation, &'static str> {
    let state = usize::try_from(differences[STATE])
        .ok()
        .and_then(|number| STATES.get(number).copied())
        .ok_or("a state without meaning")?;
    let thread = sum(history.thread, differences[THREAD]).ok_or("a thread out of range")?;
    let at_ns = history.at_ns.wrapping_add(differences[TIME]);
    let last = history.last(thread);
    let mut weights = Weights {
        cpu_ns: 0,
        wall_ns: expected_wall_ns(state, at_ns, last).wrapping_add(differences[WALL]),
        run_queue_ns: differences[RUN_QUEUE],
    };
    weights.cpu_ns = expected_cpu_ns(state, weights).wrapping_add(differences[CPU]);
    Ok(Observation {
        thread: ThreadId(thread),
        at_ns,
        state,
        stack: StackId(sum(last.stack, differences[STACK]).ok_or("a stack out of range")?),
        ticks: sum(expected_ticks(state), differences[TICKS]).ok_or("ticks out of range")?,
        weights,
    })
}

fn difference(number: u32, to: u32) -> u64 {
    u64::from(number).wrapping_sub(u64::from(to))
}

fn sum(number: u32, difference: u64) -> Option<u32> {
    u32::try_from(u64::from(number).wrapping_add(difference)).ok()
}

fn expected_ticks(state: ThreadState) -> u32 {
    u32::from(state != ThreadState::Unseen)
}

/// What wall time a thread has by its last observation.
fn expected_wall_ns(state: ThreadState, at_ns: u64, last: Last) -> u64 {
    match state {
        ThreadState::Unseen => 0,
        ThreadState::Running | ThreadState::Blocked | ThreadState::Stopped => {
            at_ns.wrapping_sub(last.at_ns)
        }
    }
}

/// What CPU time a thread has by its other times.
fn expected_cpu_ns(state: ThreadState, weights: Weights) -> u64 {
    match state {
        ThreadState::Running => weights.wall_ns.wrapping_sub(weights.run_queue_ns),
        ThreadState::Blocked | ThreadState::Stopped | ThreadState::Unseen => 0,
    }
}

/// The position in [`STATES`].
fn state_number(state: ThreadState) -> u64 {
    match state {
        ThreadState::Running => 0,
        ThreadState::Blocked => 1,
        ThreadState::Stopped => 2,
        ThreadState::Unseen => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asleep(thread: u32, at_ns: u64) -> Observation {
        Observation {
            thread: ThreadId(thread),
            at_ns,
            state: ThreadState::Blocked,
            stack: StackId(7),
            ticks: 1,
            weights: Weights {
                wall_ns: 10_000_000,
                ..Weights::default()
            },
        }
    }

    #[test]
    fn states_are_positions_in_the_table() {
        for (number, state) in (0..).zip(STATES) {
            assert_eq!(state_number(state), number);
        }
    }

    #[test]
    fn a_thread_that_sleeps_on_takes_its_state_and_the_time() {
        let (mut columns, mut history) = (Columns::default(), History::default());
        columns.push(&mut history, &asleep(0, 10_000_000));
        let first = columns.bytes();
        columns.push(&mut history, &asleep(0, 20_000_000));
        // A byte of state, two of time in microseconds; the lengths of both observations share bytes.
        assert_eq!(columns.bytes() - first, 1 + 2);
    }

    #[test]
    fn an_observation_without_a_look_takes_its_state_the_time_and_the_cpu_time_and_no_more() {
        let unseen = |at_ns| Observation {
            at_ns,
            state: ThreadState::Unseen,
            stack: StackId(7),
            ticks: 0,
            weights: Weights {
                cpu_ns: 5_000_000,
                ..Weights::default()
            },
            ..asleep(0, at_ns)
        };
        let (mut columns, mut history) = (Columns::default(), History::default());
        columns.push(&mut history, &asleep(0, 10_000_000));
        let first = columns.bytes();
        columns.push(&mut history, &unseen(20_000_000));
        assert_eq!(columns.bytes() - first, 1 + 2 + 2);
        // The next look goes on from the last one.
        let second = columns.bytes();
        let mut seen = asleep(0, 30_000_000);
        seen.weights.wall_ns = 20_000_000;
        columns.push(&mut history, &seen);
        assert_eq!(columns.bytes() - second, 1 + 2 + COLUMNS);
    }

    #[test]
    fn a_forgotten_thread_and_the_one_in_its_place_are_told_apart() {
        let mut history = History::default();
        history.remember(&asleep(1, 500));
        assert_eq!(history.last(1).stack, 7);
        let same_place = u32::try_from(THREADS_REMEMBERED).unwrap_or(0) + 1;
        assert_eq!(history.last(same_place), Last::default());
        history.remember(&asleep(same_place, 600));
        assert_eq!(history.last(1), Last::default());
    }
}
