//! Who takes turns at a target.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sampler_tests_support::{STACK_BYTES, Sampler, bare_cycle};

use crate::load::{Load, Scenario};
use crate::peers::{BEGINS_WITHIN, Peer, hindrance};
use crate::table::quantile;
use crate::turns::{Told, Turn, turn};

/// How often somebody looks at the target, in Hz; the last for those that stop it for long.
pub(crate) const RATES: [u32; 4] = [99, 250, 1000, SLOW_HZ];

const SLOW_HZ: u32 = 1;

/// Somebody who looks at the target, and what keeps them from doing so.
#[derive(Debug)]
pub(crate) struct Who<'a> {
    kind: Kind<'a>,
    hindrance: Option<String>,
}

#[derive(Debug)]
enum Kind<'a> {
    /// The least that a look takes: every busy thread, at every tick.
    BareCycle,
    Sampler(&'a Sampler),
    Peer(Peer, &'a Sampler),
}

/// Everybody.
pub(crate) fn all(sampler: &Sampler) -> Vec<Who<'_>> {
    let own = [Kind::BareCycle, Kind::Sampler(sampler)].map(|kind| Who {
        kind,
        hindrance: None,
    });
    let peers = Peer::ALL.map(|peer| Who {
        kind: Kind::Peer(peer, sampler),
        hindrance: hindrance(peer, sampler.folder()),
    });
    own.into_iter().chain(peers).collect()
}

impl Who<'_> {
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::BareCycle => "bare cycle",
            Kind::Sampler(_) => "sampler",
            Kind::Peer(peer, _) => peer.name(),
        }
    }

    /// Whether an argument means them.
    pub(crate) fn is_called(&self, word: &str) -> bool {
        self.name().contains(word) || word == "peers" && matches!(self.kind, Kind::Peer(..))
    }

    /// Whether they look at this target at this rate.
    pub(crate) fn looks_at(&self, scenario: &Scenario, hz: u32) -> bool {
        match self.kind {
            // Which thread of python3 works depends on the moment.
            Kind::BareCycle => hz != SLOW_HZ && !scenario.is_python(),
            Kind::Sampler(_) => hz != SLOW_HZ,
            Kind::Peer(peer, _) => {
                (hz == SLOW_HZ) == peer.is_slow() && (scenario.is_python() || !peer.needs_python())
            }
        }
    }

    /// Why they cannot look at anything here.
    pub(crate) fn hindrance(&self) -> Option<&str> {
        self.hindrance.as_deref()
    }

    /// The target's pace while they look at it.
    pub(crate) fn take_turn(&self, load: &mut Load, hz: u32) -> Turn {
        match self.kind {
            Kind::BareCycle => bare_turn(load, hz),
            Kind::Sampler(sampler) => sampled_turn(sampler, load, hz),
            Kind::Peer(peer, sampler) => peer.take_turn(sampler.folder(), load, hz),
        }
    }
}

/// The sampler's own account is in its report; but what it takes to find a process's threads is no part of a turn, as
/// it is not of its peers'.
fn sampled_turn(sampler: &Sampler, load: &mut Load, hz: u32) -> Turn {
    let running = sampler.attach(load.pid(), &["-r", &hz.to_string()]);
    thread::sleep(BEGINS_WITHIN);
    let cpu_before = running.cpu();
    let mut turn = turn(load, || true);
    let cpu = running.cpu().saturating_sub(cpu_before);
    running.interrupt().expect_code(0);
    let summary = sampler.report().summary;
    let pauses = [
        summary.pause_ns.p50,
        summary.pause_ns.p99,
        summary.pause_ns.max,
    ];
    let wall_ns = summary.wall_ns.max(1);
    turn.told = Told {
        stood_still: Some(ratio(summary.target_stopped_ns, wall_ns)),
        pauses_us: Some(pauses.map(|ns| ratio(ns, 1000))),
        cpu_us_per_sample: Some(ratio(summary.sampler_cpu_ns, summary.samples.max(1)) / 1e3),
        cpu_share: Some(cpu.as_secs_f64() * 1e9 / turn.wall_ns),
        rate_hz: Some(summary.rate_hz_achieved),
    };
    turn
}

fn ratio(part: u64, whole: u64) -> f64 {
    Duration::from_nanos(part).div_duration_f64(Duration::from_nanos(whole))
}

fn bare_turn(load: &mut Load, hz: u32) -> Turn {
    let tids = load.busy_threads();
    let done = AtomicBool::new(false);
    let (mut turn, told) = thread::scope(|scope| {
        let cycles = scope.spawn(|| cycle_until(&done, &tids, Duration::from_secs(1) / hz));
        let turn = turn(load, || true);
        done.store(true, Ordering::Relaxed);
        (turn, cycles.join().expect("the bare cycle works here"))
    });
    turn.told = told;
    turn
}

/// Goes through the bare cycle at each of `tids` once a period until it is `done`.
fn cycle_until(done: &AtomicBool, tids: &[i32], period: Duration) -> Told {
    let mut stack = vec![0; STACK_BYTES];
    let mut pauses_us = Vec::new();
    let mut ticks = 0;
    let start = Instant::now();
    while !done.load(Ordering::Relaxed) {
        thread::sleep(period);
        for &tid in tids {
            let paused = bare_cycle(tid, &mut stack).expect("the target can be traced");
            pauses_us.push(paused.as_secs_f64() * 1e6);
        }
        ticks += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let all_us = pauses_us.iter().sum::<f64>();
    Told {
        stood_still: Some(all_us / 1e6 / seconds),
        pauses_us: quantiles(&mut pauses_us),
        rate_hz: Some(f64::from(ticks) / seconds),
        ..Told::default()
    }
}

/// p50, p99 and the longest; `None` of nothing.
pub(crate) fn quantiles(values: &mut [f64]) -> Option<[f64; 3]> {
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|at| quantile(values, at));
    Some([p50?, p99?, max?])
}
