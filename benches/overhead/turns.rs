//! A turn: how fast the target works, window by window.

use std::time::Duration;

use crate::load::Load;

/// What is compared.
const WINDOW: Duration = Duration::from_millis(100);
/// How many windows in a turn, at least.
const WINDOWS: usize = 20;

/// What was seen in one turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Rounds a second, by window.
    pub(crate) paces: Vec<f64>,
    /// All rounds, and the time they took.
    pub(crate) rounds: f64,
    pub(crate) wall_ns: f64,
    /// What whoever took the turn says of it.
    pub(crate) told: Told,
}

/// What whoever took a turn says of it; nothing where it does not know.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The share of the turn that the target stood still.
    pub(crate) stood_still: Option<f64>,
    /// How long, per stop: p50, p99, longest, in microseconds.
    pub(crate) pauses_us: Option<[f64; 3]>,
    /// CPU time of the sampler per sample, in microseconds.
    pub(crate) cpu_us_per_sample: Option<f64>,
    /// The same as a share of one CPU.
    pub(crate) cpu_share: Option<f64>,
    /// Looks made a second.
    pub(crate) rate_hz: Option<f64>,
}

/// The target's pace in as many windows as a turn has, and on until `is_over`.
pub(crate) fn turn(load: &mut Load, is_over: impl Fn() -> bool) -> Turn {
    let first = load.work();
    let mut start = first;
    let mut paces = Vec::with_capacity(WINDOWS);
    while paces.len() < WINDOWS || !is_over() {
        std::thread::sleep(WINDOW);
        let end = load.work();
        paces.push((end.rounds - start.rounds) * 1e9 / (end.wall_ns - start.wall_ns));
        start = end;
    }
    Turn {
        paces,
        rounds: start.rounds - first.rounds,
        wall_ns: start.wall_ns - first.wall_ns,
        told: Told::default(),
    }
}
