//! What a recording has cost so far, and what it has to show for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hdrhistogram::Histogram;
use sampler_platforms::linux;
use sampler_unwind::interpreter::WalkedAll;

use super::budget::SECOND_NS;
use super::look::Looked;
use crate::profile::{End, Fallback, FramesLost, LeftOut, Missed, Overhead, PauseNs, Summary};

/// Pauses longer than this are counted as this long, in nanoseconds.
const PAUSE_NS_MAX: u64 = 60_000_000_000;

/// Counters that are only ever added to; none of them allocates.
#[derive(Debug)]
pub struct Costs {
    /// Ticks made, but for those at which the budget allowed no look at all.
    pub ticks: u64,
    stops: u64,
    unstopped_reads: u64,
    reused: u64,
    torn: u64,
    complete: u64,
    partial: u64,
    truncated: u64,
    interpreted: u64,
    interpreted_lost: BTreeMap<FramesLost, u64>,
    missed: BTreeMap<Missed, u64>,
    /// Processes taken in.
    pub processes: u64,
    left_out: BTreeMap<LeftOut, u64>,
    repaired_syscalls: u64,
    target_stopped_ns: u64,
    pauses_ns: Histogram<u64>,
    /// The longest that a thread stood still within a second.
    worst_second_ns: u64,
    /// The longest that a tick had to wait until it could be paid for, as was foreseen.
    pub longest_wait: Duration,
    /// CPU time attributed to the target's threads.
    pub cpu_ns: u64,
    /// What we had to make do with.
    pub fallbacks: BTreeSet<Fallback>,
}

impl Default for Costs {
    /// Nothing yet.
    fn default() -> Self {
        let pauses_ns = Histogram::new_with_bounds(1, PAUSE_NS_MAX, 3)
            .expect("the bounds are constants in the allowed order");
        Self {
            ticks: 0,
            stops: 0,
            unstopped_reads: 0,
            reused: 0,
            torn: 0,
            complete: 0,
            partial: 0,
            truncated: 0,
            interpreted: 0,
            interpreted_lost: BTreeMap::new(),
            missed: BTreeMap::new(),
            processes: 0,
            left_out: BTreeMap::new(),
            repaired_syscalls: 0,
            target_stopped_ns: 0,
            pauses_ns,
            worst_second_ns: 0,
            longest_wait: Duration::ZERO,
            cpu_ns: 0,
            fallbacks: BTreeSet::new(),
        }
    }
}

impl Costs {
    /// How many samples were taken until now, and how many were left out for the budget.
    pub fn looks(&self) -> (u64, u64) {
        let unpaid = self.missed.get(&Missed::Budget).copied();
        (self.samples(), unpaid.unwrap_or(0))
    }

    /// A tick was made, before which there were these [`Costs::looks`].
    pub fn tick_made(&mut self, before: (u64, u64)) {
        let (samples, unpaid) = self.looks();
        let is_idle = samples == before.0 && unpaid > before.1;
        self.ticks += u64::from(!is_idle);
    }

    /// Changes whenever there is something to be written: samples, reasons why there are none, CPU time. Not for what
    /// was left out for the budget: writing that down would cost of the little that there is.
    pub fn news(&self) -> u64 {
        let missed = self.missed.values().sum::<u64>();
        let (samples, unpaid) = self.looks();
        samples
            .wrapping_add(missed - unpaid)
            .wrapping_add(self.cpu_ns)
    }

    /// A thread stood still for `pause`.
    pub fn stopped(&mut self, pause: Duration) {
        let ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.stops += 1;
        self.target_stopped_ns = self.target_stopped_ns.saturating_add(ns);
        self.pauses_ns.saturating_record(ns.clamp(1, PAUSE_NS_MAX));
    }

    /// A thread stood still for `ns` altogether in the last second.
    pub fn worst_second(&mut self, ns: u64) {
        self.worst_second_ns = self.worst_second_ns.max(ns);
    }

    /// A thread was read without a stop.
    pub fn read_unstopped(&mut self) {
        self.unstopped_reads += 1;
    }

    /// A system call that a stop would have interrupted was restarted.
    pub fn repaired_syscall(&mut self) {
        self.repaired_syscalls += 1;
    }

    /// A stack was walked.
    pub(super) fn walked(&mut self, looked: &Looked) {
        self.count_end(End::from(looked.stack.end), 1);
        match looked.walked {
            WalkedAll {
                lost: Some(lost), ..
            } => *self.interpreted_lost.entry(lost.into()).or_default() += 1,
            WalkedAll { is_interpreted, .. } => self.interpreted += u64::from(is_interpreted),
        }
    }

    /// A thread provably had not run for `ticks`: its last stack, which ended in `end`, holds.
    pub fn reused(&mut self, end: End, ticks: u32) {
        self.reused += u64::from(ticks);
        self.count_end(end, u64::from(ticks));
    }

    fn count_end(&mut self, end: End, samples: u64) {
        match end {
            End::Complete => self.complete += samples,
            End::Partial => self.partial += samples,
            End::Truncated => self.truncated += samples,
        }
    }

    /// `samples` that were due were not taken.
    pub fn missed(&mut self, reason: Missed, samples: u64) {
        if samples > 0 {
            *self.missed.entry(reason).or_default() += samples;
        }
        if reason == Missed::Torn {
            self.torn += samples;
        }
    }

    /// A process that was to be recorded is not.
    pub fn left_out(&mut self, reason: LeftOut) {
        *self.left_out.entry(reason).or_default() += 1;
    }

    /// Samples taken so far.
    pub fn samples(&self) -> u64 {
        self.complete + self.partial + self.truncated
    }

    /// Everything in its public form.
    #[expect(
        clippy::cast_precision_loss,
        reason = "ratios of counts far below 2^52"
    )]
    pub fn summary(&self, elapsed_ns: u64, rate_hz: f64, own: OwnUse) -> Summary {
        let samples = self.samples();
        let ratio = |part: u64, whole: f64| {
            if whole > 0.0 {
                part as f64 / whole
            } else {
                0.0
            }
        };
        Summary {
            samples,
            stops: self.stops,
            unstopped_reads: self.unstopped_reads,
            reused: self.reused,
            torn: self.torn,
            partial: self.partial,
            truncated: self.truncated,
            interpreted: self.interpreted,
            interpreted_lost: self.interpreted_lost.clone(),
            missed: self.missed.clone(),
            processes: self.processes,
            left_out: self.left_out.clone(),
            jit_left_out: 0,
            cpu_ns: self.cpu_ns,
            wall_ns: elapsed_ns,
            target_stopped_ns: self.target_stopped_ns,
            pause_ns: PauseNs {
                p50: self.pauses_ns.value_at_quantile(0.5),
                p99: self.pauses_ns.value_at_quantile(0.99),
                max: self.pauses_ns.max(),
            },
            sampler_cpu_ns: own.cpu_ns,
            sampler_peak_rss_bytes: own.peak_rss_bytes,
            rate_hz_requested: rate_hz,
            rate_hz_achieved: ratio(self.ticks, elapsed_ns as f64 / 1e9),
            complete_ratio: ratio(self.complete, samples as f64),
            repaired_syscalls: self.repaired_syscalls,
            overhead: Overhead {
                thread_stopped: self.worst_second_ns as f64 / SECOND_NS as f64,
                ..Overhead::default()
            },
            fallbacks: self.fallbacks.clone(),
        }
    }
}

/// What the sampler itself has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnUse {
    /// CPU time.
    pub cpu_ns: u64,
    /// The most memory it held.
    pub peak_rss_bytes: u64,
}

impl OwnUse {
    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            ..self
        }
    }

    /// CPU time of this process until now, in nanoseconds.
    pub fn cpu_ns_now() -> u64 {
        u64::try_from(linux::process_cpu_time_self().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Of this process until now; zero where the kernel does not tell.
    pub fn now() -> Self {
        Self {
            cpu_ns: Self::cpu_ns_now(),
            peak_rss_bytes: linux::peak_rss_self(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_taking_a_sample_is_counted_once() {
        let mut costs = Costs {
            ticks: 200,
            ..Costs::default()
        };
        costs.stopped(Duration::from_micros(40));
        costs.count_end(End::Complete, 1);
        costs.read_unstopped();
        costs.count_end(End::Truncated, 1);
        costs.reused(End::Complete, 1);
        costs.missed(Missed::Torn, 1);
        costs.missed(Missed::Late, 0);
        let summary = costs.summary(2_000_000_000, 99.0, OwnUse::default());
        assert_eq!(
            (
                summary.samples,
                summary.stops,
                summary.unstopped_reads,
                summary.reused,
                summary.torn
            ),
            (3, 1, 1, 1, 1)
        );
        assert_eq!((summary.truncated, summary.partial), (1, 0));
        assert_eq!(
            summary.missed.keys().copied().collect::<Vec<_>>(),
            [Missed::Torn]
        );
        assert!((summary.complete_ratio - 2.0 / 3.0).abs() < 1e-9);
        assert!((summary.rate_hz_achieved - 100.0).abs() < 1e-9);
        assert!(summary.pause_ns.max >= 40_000 && summary.pause_ns.p50 >= 39_900);
    }

    #[test]
    fn a_tick_that_could_pay_for_nothing_is_none() {
        let mut costs = Costs::default();
        let mut tick = |look: fn(&mut Costs)| {
            let before = costs.looks();
            look(&mut costs);
            costs.tick_made(before);
            costs.ticks
        };
        assert_eq!(tick(|costs| costs.missed(Missed::Budget, 3)), 0);
        assert_eq!(tick(|costs| costs.reused(End::Complete, 1)), 1);
        assert_eq!(tick(|_nothing_to_look_at| {}), 2);
        assert_eq!(tick(|costs| costs.missed(Missed::NotScheduled, 1)), 3);
    }

    #[test]
    fn what_could_not_be_seen_is_news_and_what_could_not_be_paid_for_is_none() {
        let mut costs = Costs::default();
        let quiet = costs.news();
        costs.missed(Missed::Budget, 7);
        assert_eq!(costs.news(), quiet);
        costs.missed(Missed::Traced, 1);
        let traced = costs.news();
        assert_ne!(traced, quiet);
        costs.cpu_ns += 5_000_000;
        assert_ne!(costs.news(), traced);
    }
}
