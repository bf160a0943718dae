//! All threads of a process as they are now: one look at each.

use sampler_platforms::linux::proc::fd;
use std::time::Duration;

use sampler_platforms::linux::clock;
use sampler_platforms::{Pid, Tid};
use sampler_unwind::interpreter::Languages;
use sampler_unwind::{ReadError, StackEnd};

use super::costs::{Costs, OwnUse};
use super::functions::FunctionIds;
use super::images::Images;
use super::jit::JitBudget;
use super::look::{self, Looked, Looker, Seen, Unseen, Waiting};
use super::process::{Baseline, ProcessSettings, TargetProcess};
use super::settle::settle;
use crate::profile::{
    End, Missed, Observation, SampleSink, Summary, ThreadId, ThreadState, Weights,
};
use crate::symbols::{recorded_syscall, syscall_name};

/// How long a stop may take to happen: until a thread gets a CPU on a busy machine.
const STOP_WITHIN: Duration = Duration::from_millis(200);

/// How long a thread may stand still: a dump looks once, and is to show everything.
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// How often a thread is looked at, while looks find nothing, or less than the next one may.
const TRIES: usize = 3;

/// One thread of a [`Snapshot`].
#[derive(Clone, Debug)]
pub struct ThreadSnapshot {
    /// Its number.
    pub tid: Tid,
    /// Its number in the sink.
    pub id: ThreadId,
    /// Its name.
    pub name: String,
    /// What it does; or why that could not be seen.
    pub look: Result<ThreadLook, Missed>,
}

/// What a thread was doing.
#[derive(Clone, Debug)]
pub struct ThreadLook {
    /// Running or not.
    pub state: ThreadState,
    /// What it waits for, in words: `futex 0x7f12...`, `read from fd 3 (pipe:[812])`.
    pub waits_for: Option<String>,
}

/// All threads of a process, and what looking at them cost it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// In the order in which the kernel lists them. A thread that ended meanwhile is left out.
    pub threads: Vec<ThreadSnapshot>,
    /// Stops and pauses among others.
    pub summary: Summary,
}

/// Looks once at every thread of `pid` and gives `sink` one observation of each, which weighs nothing. Only threads
/// that run are stopped, one at a time.
///
/// # Errors
/// When `sink` could not keep what was seen.
pub fn snapshot<S: SampleSink>(
    pid: Pid,
    stack_bytes_max: usize,
    languages: Languages,
    sink: &mut S,
) -> Result<Snapshot, S::Error> {
    let began_ns = clock::monotonic_ns();
    let settings = ProcessSettings {
        stack_bytes_max,
        max_overhead: None,
        languages,
        may_stop: true,
    };
    let mut process = TargetProcess::new(pid, None, Baseline::Now, settings, sink)?;
    process.find_threads(began_ns, Baseline::Now, sink)?;
    let mut images = Images::default();
    process.refresh_mappings(&mut images, sink)?;
    let mut looker = Looker::new(stack_bytes_max, PAUSE_MAX, STOP_WITHIN);
    let mut costs = Costs::default();
    costs.fallbacks.extend(process.fallbacks());
    let mut functions = FunctionIds::default();
    let (mut threads, mut positions) = (Vec::new(), Vec::new());
    for at in 0..process.threads.len() {
        let Some(seen) = look(&mut looker, &mut process, at, &mut costs) else {
            continue;
        };
        let look = match seen {
            Ok(seen) => {
                // Libraries come and go while threads are looked at.
                if seen.has_stack() {
                    settle(&mut looker, &mut process, at, &mut images, sink)?;
                }
                costs.walked(looker.looked());
                Ok(keep(
                    &mut looker,
                    &mut process,
                    at,
                    seen,
                    &mut functions,
                    sink,
                )?)
            }
            Err(missed) => Err(missed),
        };
        let thread = &process.threads[at];
        threads.push(ThreadSnapshot {
            tid: thread.tid,
            id: thread.id,
            name: String::new(), // known when all were looked at
            look,
        });
        positions.push(at);
    }
    // By one time, so that each is asked for once, however many there are.
    let now_ns = clock::monotonic_ns();
    while process.are_names_due() {
        process.ask_for_names(now_ns, sink)?;
    }
    for (thread, at) in threads.iter_mut().zip(positions) {
        thread.name = process.threads[at].name.shown().to_owned();
    }
    let elapsed_ns = clock::monotonic_ns() - began_ns;
    let mut budget = JitBudget::default();
    budget.begin_end();
    process.name_jit_code(began_ns, &mut budget, sink)?;
    Ok(Snapshot {
        threads,
        summary: costs.summary(elapsed_ns, 0.0, OwnUse::now()),
    })
}

/// `None` for a thread that has ended.
fn look(
    looker: &mut Looker,
    process: &mut TargetProcess,
    at: usize,
    costs: &mut Costs,
) -> Option<Result<Seen, Missed>> {
    let mut missed = Missed::Unreadable;
    let mut last = None;
    for _ in 0..TRIES {
        let (view, interpreters, threads) = process.split();
        let thread = &mut threads[at];
        let sched = thread.files.sched_stat().ok()?;
        let asked_ns = clock::monotonic_ns();
        match looker.look(view, interpreters, thread, sched, costs) {
            Ok(seen) if !may_find_more(looker.looked()) => return Some(Ok(seen)),
            Ok(seen) => last = Some(seen),
            Err(Unseen::Ended) => return None,
            Err(Unseen::Missed(reason)) => missed = reason,
        }
        if look::is_late(thread, asked_ns, costs) {
            break;
        }
    }
    if let Some(seen) = last {
        return Some(Ok(seen));
    }
    costs.missed(missed, 1);
    Some(Err(missed))
}

/// Whether the next look at the same thread may find more: the first one at an interpreter may find only where it is, and
/// of a stack that was not copied whole the next one copies more.
fn may_find_more(looked: &Looked) -> bool {
    let is_cut = matches!(
        looked.stack.end,
        StackEnd::Unreadable(ReadError::NotCopied(_))
    );
    is_cut || looked.walked.lost.is_some()
}

fn keep<S: SampleSink>(
    looker: &mut Looker,
    process: &mut TargetProcess,
    at: usize,
    seen: Seen,
    functions: &mut FunctionIds,
    sink: &mut S,
) -> Result<ThreadLook, S::Error> {
    let mut keys = Vec::new();
    let looked = looker.looked();
    process.keys(looked, seen.kernel, functions, sink, &mut keys)?;
    process.note_anonymous_code(&keys);
    if looked.walked.is_interpreted {
        process.met_runtime(at);
    }
    let stack = sink.stack(&keys, End::from(looked.stack.end))?;
    let thread = process.threads[at].id;
    let weights = Weights::default();
    sink.observation(&Observation {
        thread,
        at_ns: 0,
        state: seen.state,
        stack,
        ticks: 1,
        weights,
    })?;
    let mut state = seen.state;
    if state == ThreadState::Blocked && look::is_stopped(process.pid, process.threads[at].tid) {
        state = ThreadState::Stopped; // in whatever call it was: it does not wait for that
    }
    let waits_for = seen.waiting.map(|waiting| describe(process.pid, waiting));
    Ok(ThreadLook { state, waits_for })
}

/// What a sleeper waits for, in words, as far as its system call's arguments tell.
fn describe(pid: Pid, waiting: Waiting) -> String {
    let name = syscall_name(recorded_syscall(waiting.number));
    let first = waiting.arguments[0];
    match name.as_str() {
        "futex" => format!("futex {first:#x}"),
        "wait4" | "waitid" | "nanosleep" | "clock_nanosleep" | "pause" | "rt_sigtimedwait"
        | "restart_syscall" => name,
        _ if TAKES_DESCRIPTOR.contains(&name.as_str()) => match i32::try_from(first) {
            Ok(number) => match fd::describe(pid, number) {
                Ok(what) => format!("{name} on fd {number} ({what})"),
                Err(_) => format!("{name} on fd {number}"),
            },
            Err(_) => name,
        },
        _ => name,
    }
}

/// System calls that can sleep and whose first argument is a file descriptor.
const TAKES_DESCRIPTOR: [&str; 30] = [
    "accept",
    "accept4",
    "close",
    "connect",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "fallocate",
    "fcntl",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "getdents64",
    "io_uring_enter",
    "ioctl",
    "pread64",
    "preadv",
    "pwrite64",
    "pwritev",
    "read",
    "readv",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "write",
    "writev",
];
