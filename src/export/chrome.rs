//! The trace event format of Chrome's tracing, which Perfetto and speedscope read too: for each thread what it was in,
//! from when to when. Times are microseconds since the recording began.

use std::io::{self, Write};

use serde::Serialize;

use super::moments::{Span, spans};
use crate::profile::{FrameKind, ResolvedProfile, Weight};

/// Looks that are so far apart leave a gap between what they saw, in nanoseconds: times are kept in whole microseconds.
const GAP_NS: u64 = 2_000;

/// Writes what threads did in the time that `weight` counts.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, weight: Weight, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
    let mut events = Events {
        profile,
        out,
        is_first: true,
    };
    events.write_names()?;
    let mut threads: Vec<Open> = Vec::new();
    threads.resize_with(profile.threads.len(), Open::default);
    for span in spans(profile).filter(|span| counts(span, weight)) {
        if let Some(open) = threads.get_mut(span.thread as usize) {
            events.advance(open, span)?;
        }
    }
    for (thread, open) in (0u32..).zip(&mut threads) {
        events.close(thread, open, 0, open.until_ns)?;
    }
    writeln!(out, "]}}")
}

fn counts(span: &Span, weight: Weight) -> bool {
    match weight {
        Weight::Cpu | Weight::RunQueue => !span.is_asleep,
        Weight::OffCpu => span.is_asleep,
        Weight::Wall | Weight::Samples => true,
    }
}

/// What a thread is in.
#[derive(Default)]
struct Open {
    /// Frames and since when, outermost first.
    frames: Vec<(u32, u64)>,
    until_ns: u64,
}

#[derive(Serialize)]
struct Complete<'a> {
    name: &'a str,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: i32,
    tid: i32,
    args: Args<'a>,
}

#[derive(Serialize)]
struct Args<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'static str,
    ph: &'static str,
    pid: i32,
    tid: i32,
    args: NameArgs<'a>,
}

#[derive(Serialize)]
struct NameArgs<'a> {
    name: &'a str,
}

struct Events<'a, W> {
    profile: &'a ResolvedProfile,
    out: &'a mut W,
    is_first: bool,
}

impl<W: Write> Events<'_, W> {
    fn event(&mut self, event: &impl Serialize) -> io::Result<()> {
        self.out
            .write_all(if self.is_first { b"\n" } else { b",\n" })?;
        self.is_first = false;
        Ok(serde_json::to_writer(&mut *self.out, event)?)
    }

    fn write_names(&mut self) -> io::Result<()> {
        let profile = self.profile;
        for thread in &profile.threads {
            for (name, value) in [
                ("process_name", &thread.process),
                ("thread_name", &thread.name),
            ] {
                self.event(&Metadata {
                    name,
                    ph: "M",
                    pid: thread.pid,
                    tid: thread.tid,
                    args: NameArgs { name: value },
                })?;
            }
        }
        Ok(())
    }

    /// Goes on to `span`: what it is not in any more ends, what it is in now begins.
    fn advance(&mut self, open: &mut Open, span: Span) -> io::Result<()> {
        let profile = self.profile;
        let Some(stack) = profile.stacks.get(span.stack as usize) else {
            return Ok(());
        };
        let is_next = span.from_ns <= open.until_ns.saturating_add(GAP_NS);
        let common = match is_next {
            true => {
                let same = open.frames.iter().zip(&stack.frames);
                same.take_while(|((was, _), is)| self.is_same(*was, **is))
                    .count()
            }
            false => 0,
        };
        // A look that comes late does not begin before what ended.
        let from_ns = span.from_ns.max(open.until_ns);
        let ended_ns = if is_next { from_ns } else { open.until_ns };
        self.close(span.thread, open, common, ended_ns)?;
        let begun = stack.frames.get(common..).unwrap_or_default();
        open.frames
            .extend(begun.iter().map(|&frame| (frame, from_ns)));
        open.until_ns = span.to_ns.max(from_ns);
        Ok(())
    }

    fn is_same(&self, one: u32, other: u32) -> bool {
        let key = |position: u32| {
            let frame = self.profile.frames.get(position as usize)?;
            Some((&frame.function, &frame.module))
        };
        one == other || key(one) == key(other)
    }

    /// Ends all that is open from the frame at `depth` inwards.
    fn close(&mut self, thread: u32, open: &mut Open, depth: usize, at_ns: u64) -> io::Result<()> {
        let profile = self.profile;
        let (pid, tid) = profile
            .threads
            .get(thread as usize)
            .map_or((0, 0), |thread| (thread.pid, thread.tid));
        for (position, since_ns) in open.frames.drain(depth.min(open.frames.len())..) {
            let Some(frame) = profile.frames.get(position as usize) else {
                continue;
            };
            self.event(&Complete {
                name: &frame.function,
                cat: category(frame.kind),
                ph: "X",
                ts: microseconds(since_ns),
                dur: microseconds(at_ns.saturating_sub(since_ns)),
                pid,
                tid,
                args: Args {
                    module: frame.module.as_deref(),
                    file: frame.file.as_deref(),
                    line: frame.line,
                },
            })?;
        }
        Ok(())
    }
}

fn microseconds(ns: u64) -> f64 {
    super::units::ratio(ns, 1_000)
}

fn category(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Native => "native",
        FrameKind::Kernel => "kernel",
        FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Builtin => "interpreted",
        FrameKind::Runtime => "runtime",
        FrameKind::Blocked => "blocked",
        FrameKind::Note => "note",
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn events(weight: Weight) -> Vec<(String, f64, f64)> {
        let text = example::written(|out| write(&example::in_time(), weight, out));
        let trace: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let events = trace["traceEvents"].as_array().expect("a list").iter();
        let spans = events.filter(|event| event["ph"] == "X");
        let number = |value: &serde_json::Value| value.as_f64().expect("a number");
        spans
            .map(|event| {
                let name = event["name"].as_str().expect("a name").to_owned();
                (
                    name,
                    number(&event["ts"]) * 1e3,
                    number(&event["dur"]) * 1e3,
                )
            })
            .collect()
    }

    #[test]
    fn what_goes_on_is_one_event() {
        let running = events(Weight::Cpu);
        let main: Vec<_> = running.iter().filter(|(name, ..)| name == "main").collect();
        assert_eq!(main.len(), 1, "{running:?}");
        assert!(
            main[0].1.abs() < 0.1 && (main[0].2 - 30.0).abs() < 0.1,
            "{running:?}"
        );
    }

    #[test]
    fn the_weight_says_which_time_is_shown() {
        let asleep = events(Weight::OffCpu);
        let names: Vec<_> = asleep.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            ["start_thread", "worker 3", "pthread_cond_wait", "[futex]"]
        );
        assert!(
            asleep
                .iter()
                .all(|(_, ts, dur)| ts.abs() < 0.1 && (dur - 95.0).abs() < 0.1)
        );
        assert!(events(Weight::Wall).len() > asleep.len());
    }
}
