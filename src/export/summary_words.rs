//! What a recording holds and what it cost, in words: what `sampler record` says at its end.

use std::io::{self, Write};

use super::units::{bytes, count, percent, time};
use crate::profile::{Fallback, FramesLost, LeftOut, Missed, Summary};

/// Writes `summary` in a few lines.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(summary: &Summary, out: &mut impl Write) -> io::Result<()> {
    line(out, "samples", &samples(summary))?;
    if summary.samples > 0 {
        line(out, "taken", &taken(summary))?;
        line(out, "stacks", &stacks(summary))?;
    }
    if let Some(interpreted) = interpreted(summary) {
        line(out, "scripts", &interpreted)?;
    }
    if let Some(missed) = missed(summary) {
        line(out, "missed", &missed)?;
    }
    if let Some(left_out) = left_out(summary) {
        line(out, "left out", &left_out)?;
    }
    if let Some(unnamed) = jit_left_out(summary) {
        line(out, "unnamed", &unnamed)?;
    }
    line(out, "target", &target(summary))?;
    if summary.stops > 0 {
        line(out, "paused", &paused(summary))?;
    }
    line(out, "sampler", &sampler(summary))?;
    if let Some(overhead) = overhead(summary) {
        line(out, "overhead", &overhead)?;
    }
    for &fallback in &summary.fallbacks {
        line(out, "instead", fallback_words(fallback))?;
    }
    Ok(())
}

fn line(out: &mut impl Write, label: &str, words: &str) -> io::Result<()> {
    writeln!(out, "{label:<8} {words}")
}

fn samples(summary: &Summary) -> String {
    format!(
        "{} in {}, at {:.1} Hz of {} Hz asked for",
        count(summary.samples),
        time(summary.wall_ns),
        summary.rate_hz_achieved,
        summary.rate_hz_requested,
    )
}

fn taken(summary: &Summary) -> String {
    let ways = [
        (summary.stops, "by stopping a running thread"),
        (summary.unstopped_reads, unstopped_words(summary)),
        (summary.reused, "unchanged since the last look"),
        (summary.torn, "torn (ran on while they were read)"),
    ];
    let taken: Vec<String> = ways
        .iter()
        .filter(|(samples, _)| *samples > 0)
        .map(|(samples, way)| format!("{} {way}", count(*samples)))
        .collect();
    taken.join(", ")
}

fn unstopped_words(summary: &Summary) -> &'static str {
    let is_any = |fallback| summary.fallbacks.contains(&fallback);
    match is_any(Fallback::NoStops) || is_any(Fallback::StatesOnly) {
        true => "read without a stop",
        false => "read asleep without a stop",
    }
}

fn fallback_words(fallback: Fallback) -> &'static str {
    match fallback {
        Fallback::MemoryByFile => "memory was read from /proc/PID/mem: no process_vm_readv here",
        Fallback::MemoryByWords => {
            "memory was read word by word of threads that stood still: neither process_vm_readv nor /proc/PID/mem here; \
             frames of scripts may be missing"
        }
        Fallback::StopsBySignal => "threads were stopped by PTRACE_ATTACH: no PTRACE_SEIZE here",
        Fallback::SleepersStopped => {
            "sleeping threads were stopped too, once each time they fell asleep: they cannot be read as they sleep here"
        }
        Fallback::CpuByTicks => {
            "CPU time was read in ticks of 10 ms, and no time waiting for a CPU: no /proc/PID/schedstat here"
        }
        Fallback::StopsPolled => "stops were polled for: no timer_create here",
        Fallback::NoStops => "running threads were not stopped: their machine code was not seen",
        Fallback::StatesOnly => {
            "of processes that may not be looked at, only what their threads did and their CPU time: no stacks"
        }
    }
}

fn stacks(summary: &Summary) -> String {
    let mut words = format!(
        "{:.1} % reach their root",
        // A ratio just below one must not be shown as all.
        (summary.complete_ratio * 1000.0).floor() / 10.0
    );
    if summary.partial > 0 {
        words += &format!(", {} partial (information missing)", count(summary.partial));
    }
    if summary.truncated > 0 {
        words += &format!(
            ", {} truncated (deeper than copied)",
            count(summary.truncated)
        );
    }
    words
}

/// How many stacks were in interpreted code, and of how many of these frames are missing; `None` when none was.
fn interpreted(summary: &Summary) -> Option<String> {
    let lost = || {
        summary
            .interpreted_lost
            .iter()
            .filter(|&(_, &count)| count > 0)
    };
    let all_lost = lost().fold(0, |all: u64, (_, &count)| all.saturating_add(count));
    if summary.interpreted == 0 && all_lost == 0 {
        return None;
    }
    let whole = count(summary.interpreted);
    let mut words = format!("{whole} stacks in interpreted code with all its frames");
    if all_lost > 0 {
        let reasons: Vec<String> = lost()
            .map(|(&reason, &stacks)| format!("{} {}", count(stacks), lost_words(reason)))
            .collect();
        words += &format!(", {} without: {}", count(all_lost), reasons.join(", "));
    }
    Some(words)
}

fn lost_words(reason: FramesLost) -> &'static str {
    match reason {
        FramesLost::NotFound => "before the interpreter's state was found",
        FramesLost::Inconsistent => "with a state that contradicts itself",
        FramesLost::Unreadable => "with unreadable memory",
        FramesLost::Changed => "whose functions were gone or others when they were read",
        FramesLost::TooDeep => "deeper than copied",
        FramesLost::Unmatched => "that do not match the native frames",
        FramesLost::Unsupported => "of an unsupported version",
    }
}

/// What was missed and why; `None` when nothing was.
pub fn missed(summary: &Summary) -> Option<String> {
    let reasons: Vec<String> = summary
        .missed
        .iter()
        .filter(|&(_, &samples)| samples > 0)
        .map(|(&reason, &samples)| format!("{} {}", count(samples), reason_words(reason)))
        .collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

fn reason_words(reason: Missed) -> &'static str {
    match reason {
        Missed::Late => "because the sampler came late",
        Missed::ThreadEnded => "of threads that ended first",
        Missed::NotScheduled => "of threads that waited for a CPU",
        Missed::Traced => "of threads held by another tracer",
        Missed::Denied => "denied by the kernel",
        Missed::Unreadable => "with unreadable memory or registers",
        Missed::Torn => "of threads that ran on each time they were read",
        Missed::LeftAlone => "of threads that woke up after long sleep",
        Missed::Budget => "left out to keep the overhead low",
    }
}

/// How many processes were left out and why; `None` when none was.
pub fn left_out(summary: &Summary) -> Option<String> {
    let counts = || summary.left_out.iter().filter(|&(_, &count)| count > 0);
    let reasons: Vec<String> = counts()
        .map(|(&reason, &processes)| format!("{} {}", count(processes), left_out_words(reason)))
        .collect();
    let all = counts().fold(0, |all: u64, (_, &count)| all.saturating_add(count));
    (all > 0).then(|| format!("{}: {}", processes(all), reasons.join(", ")))
}

fn left_out_words(reason: LeftOut) -> &'static str {
    match reason {
        LeftOut::Ended => "ended first",
        LeftOut::Denied => "denied by the kernel (another user's, or with more rights than ours)",
        LeftOut::ThirtyTwoBit => "with a 32-bit program",
        LeftOut::KernelThread => "of the kernel",
        LeftOut::Unreadable => "with an unreadable state",
        LeftOut::TooMany => "beyond what a recording holds",
    }
}

fn processes(processes: u64) -> String {
    match processes {
        1 => "1 process".into(),
        several => format!("{} processes", count(several)),
    }
}

/// Which names of code compiled at run time the recording has no room for; `None` when it has all.
fn jit_left_out(summary: &Summary) -> Option<String> {
    let functions = summary.jit_left_out;
    (functions > 0).then(|| {
        format!(
            "{} functions compiled at run time: the names of the others take up the room there is",
            count(functions)
        )
    })
}

fn target(summary: &Summary) -> String {
    let mut words = format!(
        "{} on a CPU in {}",
        time(summary.cpu_ns),
        time(summary.wall_ns)
    );
    if summary.processes > 1 {
        words += &format!(", of {}", processes(summary.processes));
    }
    words
}

fn paused(summary: &Summary) -> String {
    let share = if summary.cpu_ns > 0 {
        let share = percent(summary.target_stopped_ns, summary.cpu_ns);
        format!(" ({share:.2} % of the target's CPU time)")
    } else {
        String::new()
    };
    let mut words = format!(
        "{}{share}; half of the stops took at most {}, 99 of 100 at most {}, the longest {}",
        time(summary.target_stopped_ns),
        time(summary.pause_ns.p50),
        time(summary.pause_ns.p99),
        time(summary.pause_ns.max),
    );
    if summary.repaired_syscalls > 0 {
        words += &format!(
            "; system calls restarted unseen: {}",
            count(summary.repaired_syscalls)
        );
    }
    words
}

fn sampler(summary: &Summary) -> String {
    format!(
        "{} on a CPU ({:.2} % of one), {} of memory at most",
        time(summary.sampler_cpu_ns),
        percent(summary.sampler_cpu_ns, summary.wall_ns),
        bytes(summary.sampler_peak_rss_bytes),
    )
}

/// What was promised beside what it came to; `None` when nothing was.
fn overhead(summary: &Summary) -> Option<String> {
    let spent = &summary.overhead;
    let promised = spent.promised?;
    let is_kept = spent.thread_stopped.max(spent.sampler_cpu) <= promised;
    let mut words = format!(
        "at most {} % promised, {}: in no second did a thread stand still for more than {:.2} % of it, nor the \
         sampler use more than {:.2} %",
        promised * 100.0,
        if is_kept { "and kept" } else { "not kept" },
        spent.thread_stopped * 100.0,
        spent.sampler_cpu * 100.0,
    );
    if summary.missed.contains_key(&Missed::Budget) {
        words += "; fewer samples were taken for that (--max-overhead allows more)";
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn of_a_recording() {
        insta::assert_snapshot!(example::written(|out| write(&example::summary(), out)));
    }

    #[test]
    fn of_names_that_had_no_room() {
        let summary = Summary {
            jit_left_out: 12_345,
            ..Summary::default()
        };
        let text = example::written(|out| write(&summary, out));
        assert!(
            text.contains("\nunnamed  12,345 functions compiled at run time: "),
            "{text}"
        );
        assert_eq!(jit_left_out(&Summary::default()), None);
    }

    #[test]
    fn of_a_target_that_slept() {
        let summary = Summary {
            samples: 100,
            reused: 100,
            complete_ratio: 0.9999,
            wall_ns: 1_000_000_000,
            rate_hz_requested: 99.5,
            rate_hz_achieved: 99.5,
            ..Summary::default()
        };
        insta::assert_snapshot!(example::written(|out| write(&summary, out)));
    }

    #[test]
    fn of_several_processes_and_of_those_left_out() {
        let summary = Summary {
            processes: 1234,
            left_out: [(LeftOut::Ended, 12), (LeftOut::Denied, 1)].into(),
            ..example::summary()
        };
        insta::assert_snapshot!(example::written(|out| write(&summary, out)));
        let summary = Summary {
            left_out: [(LeftOut::ThirtyTwoBit, 1)].into(),
            ..summary
        };
        let one = "1 process: 1 with a 32-bit program";
        assert_eq!(left_out(&summary).as_deref(), Some(one));
    }

    #[test]
    fn what_was_made_do_with_has_a_line_each() {
        let summary = Summary {
            fallbacks: Fallback::ALL.into(),
            ..example::summary()
        };
        let text = example::written(|out| write(&summary, out));
        let lines = text.lines().filter(|line| line.starts_with("instead  "));
        assert_eq!(lines.count(), Fallback::ALL.len(), "{text}");
        assert!(text.contains("20 read without a stop"), "{text}");
    }

    #[test]
    fn of_nothing() {
        insta::assert_snapshot!(example::written(|out| write(&Summary::default(), out)));
    }
}
