//! The JSON of `sampler report`, as types: what a test asks of a profile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

/// A profile.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// What the recording holds and what it cost.
    pub summary: Summary,
    /// System calls that a stop would have interrupted, and that were restarted unseen.
    pub repaired_syscalls: u64,
    /// What the reader must be told.
    pub notes: Vec<String>,
    /// The stacks with their weights.
    pub stacks: Vec<Stack>,
}

/// The object `summary`. A key that is missing fails the test.
#[derive(Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the keys are documented where they are written"
)]
pub struct Summary {
    pub samples: u64,
    pub stops: u64,
    pub unstopped_reads: u64,
    pub reused: u64,
    pub torn: u64,
    pub partial: u64,
    pub truncated: u64,
    pub interpreted: u64,
    pub interpreted_lost: BTreeMap<String, u64>,
    pub missed: BTreeMap<String, u64>,
    pub processes: u64,
    pub left_out: BTreeMap<String, u64>,
    pub cpu_ns: u64,
    pub wall_ns: u64,
    pub target_stopped_ns: u64,
    pub pause_ns: PauseNs,
    pub sampler_cpu_ns: u64,
    pub sampler_peak_rss_bytes: u64,
    pub rate_hz_requested: f64,
    pub rate_hz_achieved: f64,
    pub complete_ratio: f64,
    pub overhead: Overhead,
    pub fallbacks: Vec<String>,
}

/// What was promised, and the most of any second.
#[derive(Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the keys are documented where they are written"
)]
pub struct Overhead {
    pub promised: Option<f64>,
    pub pause_max_ns: u64,
    pub thread_stopped: f64,
    pub sampler_cpu: f64,
}

/// How long threads stood still.
#[derive(Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the keys are documented where they are written"
)]
pub struct PauseNs {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

/// One stack of one thread.
#[derive(Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the keys are documented where they are written"
)]
pub struct Stack {
    pub process: Process,
    pub frames: Vec<Frame>,
    pub weights: Weights,
    pub end: String,
    pub thread: Thread,
    pub holds_lock: bool,
}

/// Which thread it is of.
#[derive(Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the keys are documented where they are written"
)]
pub struct Thread {
    pub tid: i32,
    pub name: String,
}

/// Whose stack it is.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the keys are documented where they are written"
)]
pub struct Process {
    pub pid: i32,
    pub parent: Option<i32>,
    pub command: String,
    pub name: String,
}

/// What a stack stands for.
#[derive(Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the keys are documented where they are written"
)]
pub struct Weights {
    pub cpu_ns: u64,
    pub wall_ns: u64,
    pub off_cpu_ns: u64,
    pub run_queue_ns: u64,
    pub samples: u64,
}

/// One frame.
#[derive(Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the keys are documented where they are written"
)]
pub struct Frame {
    pub function: String,
    pub module: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub line_precision: Option<String>,
    pub inlined: bool,
    pub kind: String,
    pub language: Option<String>,
}

impl Stack {
    /// The functions, innermost first (the JSON has them outermost first).
    pub fn functions(&self) -> Vec<&str> {
        self.frames
            .iter()
            .rev()
            .map(|frame| frame.function.as_str())
            .collect()
    }

    /// The innermost frame of machine code: what the thread ran, or the function that called the kernel.
    pub fn leaf(&self) -> Option<&Frame> {
        self.frames
            .iter()
            .rev()
            .find(|frame| frame.kind == "native")
    }

    /// Whether a frame's function has this in its name.
    pub fn has(&self, function: &str) -> bool {
        self.frames
            .iter()
            .any(|frame| frame.function.contains(function))
    }
}

impl Report {
    /// Reads the JSON of a report.
    ///
    /// # Panics
    /// When it is not what is promised.
    #[track_caller]
    pub fn parse(json: &[u8]) -> Self {
        serde_json::from_slice(json).unwrap_or_else(|error| {
            panic!(
                "the report is not as promised: {error}\n{}",
                String::from_utf8_lossy(json)
            )
        })
    }

    /// The share of CPU time whose innermost function is this one (its whole name).
    pub fn share_of(&self, function: &str) -> f64 {
        self.cpu_share(|stack| stack.leaf().is_some_and(|frame| frame.function == function))
    }

    /// The share of CPU time with a frame whose name contains this.
    pub fn share_below(&self, function: &str) -> f64 {
        self.cpu_share(|stack| stack.has(function))
    }

    /// The share of CPU time whose innermost code is of a module whose name starts so.
    pub fn share_of_module(&self, module: &str) -> f64 {
        self.cpu_share(|stack| {
            stack
                .leaf()
                .and_then(|frame| frame.module.as_deref())
                .is_some_and(|name| name.starts_with(module))
        })
    }

    /// The share of CPU time with a frame in a module whose name starts so.
    pub fn share_below_module(&self, module: &str) -> f64 {
        self.cpu_share(|stack| {
            stack.frames.iter().any(|frame| {
                frame
                    .module
                    .as_deref()
                    .is_some_and(|name| name.starts_with(module))
            })
        })
    }

    /// The CPU time of the stacks that please, in nanoseconds.
    pub fn cpu_ns(&self, pleases: impl Fn(&Stack) -> bool) -> u64 {
        let pleasing = self.stacks.iter().filter(|stack| pleases(stack));
        pleasing.map(|stack| stack.weights.cpu_ns).sum()
    }

    /// The share of CPU time of processes of this name.
    pub fn share_of_command(&self, command: &str) -> f64 {
        self.cpu_share(|stack| stack.process.command == command)
    }

    /// The processes, each once.
    pub fn processes(&self) -> BTreeSet<&Process> {
        self.stacks.iter().map(|stack| &stack.process).collect()
    }

    /// The share of CPU time of the stacks that please.
    pub fn cpu_share(&self, pleases: impl Fn(&Stack) -> bool) -> f64 {
        let sum = |stacks: &mut dyn Iterator<Item = &Stack>| {
            stacks
                .map(|stack| Duration::from_nanos(stack.weights.cpu_ns))
                .sum::<Duration>()
        };
        let all = sum(&mut self.stacks.iter());
        if all.is_zero() {
            return 0.0;
        }
        sum(&mut self.stacks.iter().filter(|stack| pleases(stack))).div_duration_f64(all)
    }

    /// Asserts that a share is at least so much.
    ///
    /// # Panics
    /// When it is less.
    #[track_caller]
    pub fn expect_share(&self, what: &str, share: f64, at_least: f64) -> &Self {
        assert!(
            share >= at_least,
            "{what}: share {share:.4}, wanted {at_least}; the profile:\n{}",
            self.heaviest()
        );
        self
    }

    /// Asserts that at least 99 of 100 stacks reach their root.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn expect_complete(&self) -> &Self {
        assert!(
            self.summary.samples > 0 && self.summary.complete_ratio >= 0.99,
            "complete_ratio {} of {} samples; the cut stacks:\n{}the profile:\n{}",
            self.summary.complete_ratio,
            self.summary.samples,
            listed(self.stacks.iter().filter(|stack| stack.end != "complete")),
            self.heaviest()
        );
        self
    }

    /// Asserts that the profile's CPU time is the target's, within 2 % (and, as a target's life has parts before and
    /// after the recording, two clock ticks).
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn expect_cpu(&self, truth: Duration) -> &Self {
        let recorded = Duration::from_nanos(self.summary.cpu_ns);
        let allowed = truth.mul_f64(0.02) + Duration::from_millis(8);
        assert!(
            recorded.abs_diff(truth) <= allowed,
            "the recording has {recorded:?} of CPU time, the target used {truth:?}; the profile:\n{}",
            self.heaviest()
        );
        let shared_out: u64 = self.stacks.iter().map(|stack| stack.weights.cpu_ns).sum();
        assert!(
            Duration::from_nanos(shared_out).abs_diff(recorded) <= recorded.mul_f64(0.001),
            "the stacks have {shared_out} ns of CPU time, the summary {recorded:?}"
        );
        self
    }

    /// The stacks with the most CPU time, for a failed test's message.
    pub fn heaviest(&self) -> String {
        listed(self.stacks.iter())
    }
}

/// The heaviest of some stacks, a line each.
fn listed<'a>(stacks: impl Iterator<Item = &'a Stack>) -> String {
    const SHOWN: usize = 8;
    let mut stacks: Vec<&Stack> = stacks.collect();
    stacks.sort_by_key(|stack| std::cmp::Reverse((stack.weights.cpu_ns, stack.weights.samples)));
    stacks
        .iter()
        .take(SHOWN)
        .map(|stack| {
            format!(
                "  {:>6.1} ms cpu, {} samples, {}: {}\n",
                Duration::from_nanos(stack.weights.cpu_ns).as_secs_f64() * 1e3,
                stack.weights.samples,
                stack.end,
                stack.functions().join(" < ")
            )
        })
        .collect()
}
