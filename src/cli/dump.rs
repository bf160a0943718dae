//! `sampler dump`: what all threads of a process are doing right now.

use std::collections::BTreeMap;
use std::io::{self, Write};

use sampler_platforms::Pid;
use sampler_platforms::linux;
use sampler_platforms::linux::proc::names;
use serde::Serialize;

use super::failure;
use super::options::DumpOptions;
use super::record;
use sampler_unwind::interpreter::Language;

use crate::export::names::printable;
use crate::profile::{
    FrameKind, Missed, ProfileBuilder, ResolvedFrame, ResolvedProfile, ThreadState,
};
use crate::record::{STACK_BYTES_MAX_DEFAULT, Snapshot, ThreadSnapshot, snapshot};
use crate::report::{FrameFilter, filter, resolve};

/// How often threads are looked for that have yet to stop, and for how long, in nanoseconds.
const STRAYS_NS: u64 = 1_000_000;
const STRAYS_NS_MAX: u64 = 2_000_000_000;

/// Prints all threads' stacks.
///
/// # Errors
/// When the process cannot be looked at, or nothing can be printed.
pub fn run(options: &DumpOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let pid = Pid(options.pid);
    failure::check(pid)?;
    linux::proc::task::raise_descriptor_limit()?;
    record::put_down_rights();
    let mut sink = ProfileBuilder::new();
    let snapshot = snapshot(pid, STACK_BYTES_MAX_DEFAULT, options.languages, &mut sink)?;
    // Names may take seconds, and a thread that stops late would stand still for as long.
    let until_ns = linux::clock::monotonic_ns() + STRAYS_NS_MAX;
    while linux::release_strays() && linux::clock::monotonic_ns() < until_ns {
        linux::clock::sleep_until(linux::clock::monotonic_ns() + STRAYS_NS);
    }
    let mut profile = resolve(&sink.finish(), &mut options.symbols.symbolizer()?);
    let shown = FrameFilter {
        languages: options.languages,
        native: !options.no_native,
        only_lock_holders: false,
    };
    filter(&mut profile, shown);
    let dump = Dump::new(pid, &snapshot, &profile);
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &dump)?;
        writeln!(out)?;
    } else {
        dump.write(out)?;
    }
    Ok(())
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Dump {
    pid: i32,
    command: String,
    threads: usize,
    /// Threads that were stopped to be looked at, and for how long altogether.
    stops: u64,
    target_stopped_ns: u64,
    groups: Vec<Group>,
}

/// Threads that are at the same place.
#[derive(Debug, Serialize)]
struct Group {
    count: usize,
    threads: Vec<Thread>,
    state: &'static str,
    /// Whether the stack reaches its outermost frame.
    complete: bool,
    /// Innermost first.
    frames: Vec<Frame>,
}

#[derive(Debug, Serialize)]
struct Thread {
    tid: i32,
    name: String,
    waits_for: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Frame {
    function: String,
    module: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    inlined: bool,
    kind: FrameKind,
    language: Option<&'static str>,
}

impl Dump {
    fn new(pid: Pid, snapshot: &Snapshot, profile: &ResolvedProfile) -> Self {
        let mut groups: BTreeMap<(&'static str, Vec<Frame>, bool), Vec<Thread>> = BTreeMap::new();
        for thread in &snapshot.threads {
            let (frames, complete) = frames_of(thread, profile);
            groups
                .entry((state_of(thread), frames, complete))
                .or_default()
                .push(Thread {
                    tid: thread.tid.0,
                    name: thread.name.clone(),
                    waits_for: thread
                        .look
                        .as_ref()
                        .ok()
                        .and_then(|look| look.waits_for.clone()),
                });
        }
        let mut groups: Vec<Group> = groups
            .into_iter()
            .map(|((state, frames, complete), threads)| Group {
                count: threads.len(),
                threads,
                state,
                complete,
                frames,
            })
            .collect();
        // What runs is what one looks for; then what many threads do.
        groups.sort_by_key(|group| {
            (
                group.state != RUNNING,
                usize::MAX - group.count,
                group.threads[0].tid,
            )
        });
        Self {
            pid: pid.0,
            command: names::of_a_process(pid).unwrap_or_default(),
            threads: snapshot.threads.len(),
            stops: snapshot.summary.stops,
            target_stopped_ns: snapshot.summary.target_stopped_ns,
            groups,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let micros = self.target_stopped_ns / 1_000;
        write!(
            out,
            "process {} ({}): {}",
            self.pid,
            self.command,
            threads(self.threads)
        )?;
        match self.stops {
            0 => writeln!(out, ", none stopped to look at it")?,
            stops => writeln!(
                out,
                ", {stops} stopped to look at it, {micros} µs altogether"
            )?,
        }
        self.groups.iter().try_for_each(|group| group.write(out))
    }
}

impl Group {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        if self.count > 1 {
            writeln!(out, "{} threads, {}", self.count, self.state)?;
        }
        for thread in &self.threads {
            let state = if self.count > 1 { "  " } else { "" };
            let name = printable(&thread.name);
            write!(out, "{state}thread {} ({name})", thread.tid)?;
            match thread.waits_for.as_deref().map(printable) {
                Some(what) => writeln!(out, ", {}: {what}", self.state)?,
                None if self.count > 1 => writeln!(out)?,
                None => writeln!(out, ", {}", self.state)?,
            }
        }
        for (number, frame) in self.frames.iter().enumerate() {
            frame.write(number, out)?;
        }
        Ok(())
    }
}

impl Frame {
    fn write(&self, number: usize, out: &mut impl Write) -> io::Result<()> {
        write!(out, "    #{number:<3} {}", printable(&self.function))?;
        if let Some(file) = &self.file {
            write!(out, " at {}", printable(file))?;
            if let Some(line) = self.line {
                write!(out, ":{line}")?;
            }
        }
        if let Some(module) = &self.module {
            write!(out, " in {}", printable(module))?;
        }
        writeln!(out, "{}", if self.inlined { " (inlined)" } else { "" })
    }
}

impl From<&ResolvedFrame> for Frame {
    fn from(frame: &ResolvedFrame) -> Self {
        Self {
            function: frame.function.clone(),
            module: frame.module.clone(),
            file: frame.file.clone(),
            line: frame.line,
            inlined: frame.inlined,
            kind: frame.kind,
            language: frame.language.map(Language::name),
        }
    }
}

fn threads(count: usize) -> String {
    match count {
        1 => "1 thread".to_owned(),
        count => format!("{count} threads"),
    }
}

const RUNNING: &str = "running";

fn state_of(thread: &ThreadSnapshot) -> &'static str {
    match &thread.look {
        Ok(look) => match look.state {
            ThreadState::Running => RUNNING,
            ThreadState::Blocked => "asleep",
            ThreadState::Stopped => "stopped",
            ThreadState::Unseen => "unseen",
        },
        Err(Missed::Traced) => "running, and held by another tracer",
        Err(Missed::Denied) => "running, and not ours to stop",
        Err(Missed::NotScheduled) => {
            "waiting for a CPU; it did not get one in time to be looked at"
        }
        Err(Missed::Torn) => "running on each time it was read asleep",
        Err(
            Missed::Late
            | Missed::ThreadEnded
            | Missed::Unreadable
            | Missed::LeftAlone
            | Missed::Budget,
        ) => "unreadable",
    }
}

/// Innermost first, and whether they reach the outermost.
fn frames_of(thread: &ThreadSnapshot, profile: &ResolvedProfile) -> (Vec<Frame>, bool) {
    let stack = profile
        .stacks
        .iter()
        .find(|stack| stack.thread == thread.id.0);
    let Some(stack) = stack.filter(|_| thread.look.is_ok()) else {
        return (Vec::new(), false);
    };
    let frames = stack
        .frames
        .iter()
        .rev()
        .filter_map(|&index| profile.frames.get(index as usize));
    (
        frames.map(Frame::from).collect(),
        stack.end == crate::profile::End::Complete,
    )
}
