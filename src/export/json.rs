//! Everything, for programs. docs/json.md describes it; what is written here is what it promises.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use sampler_unwind::interpreter::{Language, LinePrecision};
use serde::ser::{Serialize, Serializer};

use crate::profile::{
    End, Fallback, FrameKind, FramesLost, LeftOut, Missed, Overhead, PauseNs, ResolvedFrame,
    ResolvedProfile, ResolvedThread, StackWeights, Summary, WeightedStack,
};

/// Counts up when a key changes its meaning or goes; a new key is no new version.
const VERSION: u32 = 1;

/// Writes `profile` as one JSON object, stack by stack.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, out: &mut impl Write) -> io::Result<()> {
    let document = Document {
        stacks: Some(Stacks(profile)),
        ..Document::heading(profile)
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}

/// Writes `profile` as JSON lines: first an object with everything but the stacks, then an object for each stack.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_lines(profile: &ResolvedProfile, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Document::heading(profile))?;
    writeln!(out)?;
    for stack in &profile.stacks {
        serde_json::to_writer(&mut *out, &Stack::new(profile, stack))?;
        writeln!(out)?;
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    summary: SummaryKeys<'a>,
    repaired_syscalls: u64,
    notes: &'a [String],
    weight_units: WeightUnits,
    whole: Option<StackWeightKeys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stacks: Option<Stacks<'a>>,
}

impl<'a> Document<'a> {
    /// Without the stacks.
    fn heading(profile: &'a ResolvedProfile) -> Self {
        Self {
            format: "sampler-profile",
            version: VERSION,
            summary: (&profile.summary).into(),
            repaired_syscalls: profile.summary.repaired_syscalls,
            notes: &profile.notes,
            weight_units: WEIGHT_UNITS,
            whole: profile.whole.map(StackWeightKeys::from),
            stacks: None,
        }
    }
}

/// The keys of `summary`. They are a promise, and so spelled out here rather than taken over from [`Summary`], which
/// may grow.
#[derive(serde::Serialize)]
struct SummaryKeys<'a> {
    samples: u64,
    stops: u64,
    unstopped_reads: u64,
    reused: u64,
    torn: u64,
    partial: u64,
    truncated: u64,
    interpreted: u64,
    interpreted_lost: &'a BTreeMap<FramesLost, u64>,
    missed: &'a BTreeMap<Missed, u64>,
    processes: u64,
    left_out: &'a BTreeMap<LeftOut, u64>,
    cpu_ns: u64,
    wall_ns: u64,
    target_stopped_ns: u64,
    pause_ns: PauseNs,
    sampler_cpu_ns: u64,
    sampler_peak_rss_bytes: u64,
    rate_hz_requested: f64,
    rate_hz_achieved: f64,
    complete_ratio: f64,
    overhead: Overhead,
    fallbacks: &'a BTreeSet<Fallback>,
}

impl<'a> From<&'a Summary> for SummaryKeys<'a> {
    fn from(summary: &'a Summary) -> Self {
        Self {
            samples: summary.samples,
            stops: summary.stops,
            unstopped_reads: summary.unstopped_reads,
            reused: summary.reused,
            torn: summary.torn,
            partial: summary.partial,
            truncated: summary.truncated,
            interpreted: summary.interpreted,
            interpreted_lost: &summary.interpreted_lost,
            missed: &summary.missed,
            processes: summary.processes,
            left_out: &summary.left_out,
            cpu_ns: summary.cpu_ns,
            wall_ns: summary.wall_ns,
            target_stopped_ns: summary.target_stopped_ns,
            pause_ns: summary.pause_ns,
            sampler_cpu_ns: summary.sampler_cpu_ns,
            sampler_peak_rss_bytes: summary.sampler_peak_rss_bytes,
            rate_hz_requested: summary.rate_hz_requested,
            rate_hz_achieved: summary.rate_hz_achieved,
            complete_ratio: summary.complete_ratio,
            overhead: summary.overhead,
            fallbacks: &summary.fallbacks,
        }
    }
}

#[derive(serde::Serialize)]
struct WeightUnits {
    cpu_ns: &'static str,
    wall_ns: &'static str,
    off_cpu_ns: &'static str,
    run_queue_ns: &'static str,
    samples: &'static str,
}

const WEIGHT_UNITS: WeightUnits = WeightUnits {
    cpu_ns: "nanoseconds",
    wall_ns: "nanoseconds",
    off_cpu_ns: "nanoseconds",
    run_queue_ns: "nanoseconds",
    samples: "count",
};

/// The stacks of a profile, written one after the other without being gathered first.
struct Stacks<'a>(&'a ResolvedProfile);

impl Serialize for Stacks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let profile = self.0;
        serializer.collect_seq(
            profile
                .stacks
                .iter()
                .map(|stack| Stack::new(profile, stack)),
        )
    }
}

#[derive(serde::Serialize)]
struct Stack<'a> {
    process: Option<Process<'a>>,
    thread: Option<Thread<'a>>,
    end: &'static str,
    holds_lock: bool,
    frames: Frames<'a>,
    weights: StackWeightKeys,
}

impl<'a> Stack<'a> {
    fn new(profile: &'a ResolvedProfile, stack: &'a WeightedStack) -> Self {
        let thread = profile.threads.get(stack.thread as usize);
        Self {
            process: thread.map(Process::from),
            thread: thread.map(Thread::from),
            end: match stack.end {
                End::Complete => "complete",
                End::Truncated => "truncated",
                End::Partial => "partial",
            },
            holds_lock: stack.holds_lock,
            frames: Frames {
                profile,
                positions: &stack.frames,
            },
            weights: stack.weights.into(),
        }
    }
}

#[derive(serde::Serialize)]
struct Process<'a> {
    pid: i32,
    parent: Option<i32>,
    command: &'a str,
    name: &'a str,
}

impl<'a> From<&'a ResolvedThread> for Process<'a> {
    fn from(thread: &'a ResolvedThread) -> Self {
        Self {
            pid: thread.pid,
            parent: thread.parent,
            command: &thread.command,
            name: &thread.process,
        }
    }
}

#[derive(serde::Serialize)]
struct Thread<'a> {
    tid: i32,
    name: &'a str,
}

impl<'a> From<&'a ResolvedThread> for Thread<'a> {
    fn from(thread: &'a ResolvedThread) -> Self {
        Self {
            tid: thread.tid,
            name: &thread.name,
        }
    }
}

/// The frames of a stack, outermost first.
struct Frames<'a> {
    profile: &'a ResolvedProfile,
    positions: &'a [u32],
}

impl Serialize for Frames<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let frames = self.positions.iter();
        serializer.collect_seq(
            frames
                .filter_map(|&position| self.profile.frames.get(position as usize))
                .map(Frame::from),
        )
    }
}

#[derive(serde::Serialize)]
struct Frame<'a> {
    function: &'a str,
    module: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    line_precision: Option<&'static str>,
    inlined: bool,
    kind: FrameKind,
    language: Option<&'static str>,
}

impl<'a> From<&'a ResolvedFrame> for Frame<'a> {
    fn from(frame: &'a ResolvedFrame) -> Self {
        Self {
            function: &frame.function,
            module: frame.module.as_deref(),
            file: frame.file.as_deref(),
            line: frame.line,
            line_precision: frame.line_precision.map(precision_name),
            inlined: frame.inlined,
            kind: frame.kind,
            language: frame.language.map(Language::name),
        }
    }
}

fn precision_name(precision: LinePrecision) -> &'static str {
    match precision {
        LinePrecision::Exact => "exact",
        LinePrecision::Block => "block",
        LinePrecision::Function => "function",
    }
}

#[derive(serde::Serialize)]
struct StackWeightKeys {
    cpu_ns: u64,
    wall_ns: u64,
    off_cpu_ns: u64,
    run_queue_ns: u64,
    samples: u64,
}

impl From<StackWeights> for StackWeightKeys {
    fn from(weights: StackWeights) -> Self {
        Self {
            cpu_ns: weights.cpu_ns,
            wall_ns: weights.wall_ns,
            off_cpu_ns: weights.off_cpu_ns,
            run_queue_ns: weights.run_queue_ns,
            samples: weights.samples,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn json(profile: &ResolvedProfile) -> serde_json::Value {
        let text = example::written(|out| write(profile, out));
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn of_a_profile() {
        let pretty = serde_json::to_string_pretty(&json(&example::profile())).expect("JSON");
        insta::assert_snapshot!(pretty);
    }

    #[test]
    fn the_summary_has_the_keys_that_are_promised() {
        let json = json(&ResolvedProfile::default());
        let summary = json["summary"].as_object().expect("an object");
        let mut keys: Vec<&str> = summary.keys().map(String::as_str).collect();
        keys.sort_unstable();
        let mut promised = [
            "samples",
            "stops",
            "unstopped_reads",
            "reused",
            "torn",
            "partial",
            "truncated",
            "interpreted",
            "interpreted_lost",
            "missed",
            "processes",
            "left_out",
            "cpu_ns",
            "wall_ns",
            "target_stopped_ns",
            "pause_ns",
            "sampler_cpu_ns",
            "sampler_peak_rss_bytes",
            "rate_hz_requested",
            "rate_hz_achieved",
            "complete_ratio",
            "overhead",
            "fallbacks",
        ];
        promised.sort_unstable();
        assert_eq!(keys, promised);
        assert!(summary["missed"].is_object());
        assert!(
            ["p50", "p99", "max"]
                .iter()
                .all(|key| summary["pause_ns"][key] == 0)
        );
    }

    #[test]
    fn lines_are_the_same_stack_by_stack() {
        let profile = example::profile();
        let text = example::written(|out| write_lines(&profile, out));
        let mut lines = text.lines().map(|line| -> serde_json::Value {
            serde_json::from_str(line).expect("each line is JSON")
        });
        let heading = lines.next().expect("a heading");
        let whole = json(&profile);
        assert_eq!(heading["summary"], whole["summary"]);
        assert!(heading.get("stacks").is_none());
        assert_eq!(serde_json::Value::from_iter(lines), whole["stacks"]);
    }

    #[test]
    fn every_key_is_documented() {
        let documentation = include_str!("../../docs/json.md");
        let mut due = vec![json(&example::profile())];
        while let Some(value) = due.pop() {
            match value {
                serde_json::Value::Object(object) => {
                    for (key, value) in object {
                        assert!(documentation.contains(&format!("`{key}`")), "{key}");
                        due.push(value);
                    }
                }
                serde_json::Value::Array(values) => due.extend(values),
                _ => {}
            }
        }
    }

    #[test]
    fn a_deep_stack_and_none() {
        let deep = json(&example::deep(10_000));
        assert_eq!(
            deep["stacks"][0]["frames"].as_array().map(Vec::len),
            Some(10_000)
        );
        assert_eq!(
            json(&ResolvedProfile::default())["stacks"],
            serde_json::json!([])
        );
    }
}
