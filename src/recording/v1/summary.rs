//! The summary, as what has changed in it: pairs of a key and by how much the value grew since the last flush.
//!
//! A key that is not known is left aside and a missing one is zero, so that a count can be added without a new version
//! of the format.

use postcard::{take_from_bytes, to_io};

use crate::profile::{Fallback, FramesLost, LeftOut, Missed, Overhead, PauseNs, Summary};

/// The first key of the counts in [`Summary::missed`].
const MISSED_KEY: u8 = 128;

/// The reasons, by key from [`MISSED_KEY`].
const MISSED: [Missed; 9] = [
    Missed::Late,
    Missed::ThreadEnded,
    Missed::NotScheduled,
    Missed::Traced,
    Missed::Denied,
    Missed::Unreadable,
    Missed::Torn,
    Missed::LeftAlone,
    Missed::Budget,
];

/// The first key of the counts in [`Summary::left_out`].
const LEFT_OUT_KEY: u8 = 160;

/// The reasons, by key from [`LEFT_OUT_KEY`].
const LEFT_OUT: [LeftOut; 6] = [
    LeftOut::Ended,
    LeftOut::Denied,
    LeftOut::ThirtyTwoBit,
    LeftOut::KernelThread,
    LeftOut::Unreadable,
    LeftOut::TooMany,
];

/// The first key of the counts in [`Summary::interpreted_lost`].
const FRAMES_LOST_KEY: u8 = 192;

/// The reasons, by key from [`FRAMES_LOST_KEY`].
const FRAMES_LOST: [FramesLost; 7] = [
    FramesLost::NotFound,
    FramesLost::Inconsistent,
    FramesLost::Unreadable,
    FramesLost::Changed,
    FramesLost::TooDeep,
    FramesLost::Unmatched,
    FramesLost::Unsupported,
];

/// The key of [`Summary::fallbacks`].
const FALLBACKS_KEY: u8 = 96;

/// What each bit of them stands for, from the lowest on: the places of [`Fallback::ALL`], of which none ever moves.
fn fallback_bits() -> impl Iterator<Item = (Fallback, u64)> {
    Fallback::ALL.into_iter().zip((0..64).map(|bit| 1 << bit))
}
/// The key of [`Summary::jit_left_out`].
const JIT_LEFT_OUT_KEY: u8 = 224;

/// Values by key.
type Values = [u64; 256];

/// The summary as it was last flushed.
#[derive(Debug)]
pub(in super::super) struct SummaryCodec {
    values: Values,
}

impl Default for SummaryCodec {
    fn default() -> Self {
        Self { values: [0; 256] }
    }
}

impl SummaryCodec {
    /// What has changed.
    pub(in super::super) fn encode(&mut self, summary: &Summary) -> postcard::Result<Vec<u8>> {
        let values = values(summary);
        let mut bytes = Vec::new();
        for ((key, value), last) in (0..=u8::MAX).zip(values).zip(&mut self.values) {
            if value != *last {
                to_io(&key, &mut bytes)?;
                to_io(&value.wrapping_sub(*last).cast_signed(), &mut bytes)?;
                *last = value;
            }
        }
        Ok(bytes)
    }

    /// The whole summary.
    pub(super) fn decode(&mut self, mut bytes: &[u8]) -> postcard::Result<Summary> {
        while !bytes.is_empty() {
            let ((key, change), rest): ((u8, i64), _) = take_from_bytes(bytes)?;
            let value = &mut self.values[usize::from(key)];
            *value = value.wrapping_add(change.cast_unsigned());
            bytes = rest;
        }
        Ok(summary(&self.values))
    }
}

fn values(summary: &Summary) -> Values {
    // Without `..`: a field that is added must get a key.
    let Summary {
        samples,
        stops,
        unstopped_reads,
        reused,
        torn,
        partial,
        truncated,
        interpreted,
        interpreted_lost,
        missed,
        processes,
        left_out,
        jit_left_out,
        cpu_ns,
        wall_ns,
        target_stopped_ns,
        pause_ns,
        sampler_cpu_ns,
        sampler_peak_rss_bytes,
        rate_hz_requested,
        rate_hz_achieved,
        complete_ratio,
        repaired_syscalls,
        overhead,
        fallbacks,
    } = summary;
    let mut values = [0; 256];
    let fixed = [
        *samples,
        *stops,
        *unstopped_reads,
        *reused,
        *torn,
        *partial,
        *truncated,
        *cpu_ns,
        *wall_ns,
        *target_stopped_ns,
        pause_ns.p50,
        pause_ns.p99,
        pause_ns.max,
        *sampler_cpu_ns,
        *sampler_peak_rss_bytes,
        rate_hz_requested.to_bits(),
        rate_hz_achieved.to_bits(),
        complete_ratio.to_bits(),
        *repaired_syscalls,
        // No promise is one of nothing: zero.
        overhead.promised.unwrap_or(0.0).to_bits(),
        overhead.pause_max_ns,
        overhead.thread_stopped.to_bits(),
        overhead.sampler_cpu.to_bits(),
        *processes,
        *interpreted,
    ];
    values[..fixed.len()].copy_from_slice(&fixed);
    let bits = fallback_bits().filter(|(fallback, _)| fallbacks.contains(fallback));
    values[usize::from(FALLBACKS_KEY)] = bits.map(|(_, bit)| bit).sum();
    values[usize::from(JIT_LEFT_OUT_KEY)] = *jit_left_out;
    for (&reason, &count) in missed {
        values[usize::from(missed_key(reason))] = count;
    }
    for (&reason, &count) in left_out {
        values[usize::from(left_out_key(reason))] = count;
    }
    for (&reason, &count) in interpreted_lost {
        values[usize::from(frames_lost_key(reason))] = count;
    }
    values
}

fn summary(values: &Values) -> Summary {
    let missed = MISSED
        .into_iter()
        .map(|reason| (reason, values[usize::from(missed_key(reason))]))
        .filter(|&(_, count)| count > 0)
        .collect();
    let left_out = LEFT_OUT
        .into_iter()
        .map(|reason| (reason, values[usize::from(left_out_key(reason))]))
        .filter(|&(_, count)| count > 0)
        .collect();
    let interpreted_lost = FRAMES_LOST
        .into_iter()
        .map(|reason| (reason, values[usize::from(frames_lost_key(reason))]))
        .filter(|&(_, count)| count > 0)
        .collect();
    Summary {
        samples: values[0],
        stops: values[1],
        unstopped_reads: values[2],
        reused: values[3],
        torn: values[4],
        partial: values[5],
        truncated: values[6],
        interpreted: values[24],
        interpreted_lost,
        missed,
        processes: values[23],
        left_out,
        jit_left_out: values[usize::from(JIT_LEFT_OUT_KEY)],
        cpu_ns: values[7],
        wall_ns: values[8],
        target_stopped_ns: values[9],
        pause_ns: PauseNs {
            p50: values[10],
            p99: values[11],
            max: values[12],
        },
        sampler_cpu_ns: values[13],
        sampler_peak_rss_bytes: values[14],
        rate_hz_requested: f64::from_bits(values[15]),
        rate_hz_achieved: f64::from_bits(values[16]),
        complete_ratio: f64::from_bits(values[17]),
        repaired_syscalls: values[18],
        overhead: Overhead {
            promised: Some(f64::from_bits(values[19])).filter(|&share| share != 0.0),
            pause_max_ns: values[20],
            thread_stopped: f64::from_bits(values[21]),
            sampler_cpu: f64::from_bits(values[22]),
        },
        fallbacks: fallback_bits()
            .filter(|(_, bit)| values[usize::from(FALLBACKS_KEY)] & bit != 0)
            .map(|(fallback, _)| fallback)
            .collect(),
    }
}

fn left_out_key(reason: LeftOut) -> u8 {
    LEFT_OUT_KEY
        + match reason {
            LeftOut::Ended => 0,
            LeftOut::Denied => 1,
            LeftOut::ThirtyTwoBit => 2,
            LeftOut::KernelThread => 3,
            LeftOut::Unreadable => 4,
            LeftOut::TooMany => 5,
        }
}

fn frames_lost_key(reason: FramesLost) -> u8 {
    FRAMES_LOST_KEY
        + match reason {
            FramesLost::NotFound => 0,
            FramesLost::Inconsistent => 1,
            FramesLost::Unreadable => 2,
            FramesLost::Changed => 3,
            FramesLost::TooDeep => 4,
            FramesLost::Unmatched => 5,
            FramesLost::Unsupported => 6,
        }
}

fn missed_key(reason: Missed) -> u8 {
    MISSED_KEY
        + match reason {
            Missed::Late => 0,
            Missed::ThreadEnded => 1,
            Missed::NotScheduled => 2,
            Missed::Traced => 3,
            Missed::Denied => 4,
            Missed::Unreadable => 5,
            Missed::Torn => 6,
            Missed::LeftAlone => 7,
            Missed::Budget => 8,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_key_of_its_own() {
        let mut from = [0; 256];
        for (key, value) in (0..25)
            .chain(128..137)
            .chain(160..166)
            .chain(192..199)
            .chain([224])
            .zip(1000..)
        {
            from[key] = value;
        }
        from[usize::from(FALLBACKS_KEY)] = 0b1000_0101;
        assert_eq!(values(&summary(&from)), from);
    }

    #[test]
    fn only_what_changed_is_written_and_unknown_keys_are_left_aside() -> postcard::Result<()> {
        let (mut writer, mut reader) = (SummaryCodec::default(), SummaryCodec::default());
        let mut summary = Summary {
            samples: 7,
            complete_ratio: 0.5,
            missed: [(Missed::Torn, 3)].into(),
            ..Summary::default()
        };
        assert_eq!(reader.decode(&writer.encode(&summary)?)?, summary);
        summary.samples = 9;
        summary.missed.clear();
        let mut bytes = writer.encode(&summary)?;
        assert_eq!(bytes, [0, 4, 134, 5]);
        bytes.extend([99, 1]);
        assert_eq!(reader.decode(&bytes)?, summary);
        assert!(writer.encode(&summary)?.is_empty());
        Ok(())
    }
}
