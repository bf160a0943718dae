//! Which Python threads there are, and which native thread each of them is.

use rustc_hash::FxHashMap;

use super::hints::Hints;
use super::layout::{Gil, Layout};
use crate::address::Avma;
use crate::arch::Arch;
use crate::interpreter::{ThreadContext, VolatileCopy};
use crate::memory::MemoryReader;

/// Interpreters of one process that are looked at.
const INTERPRETERS_MAX: usize = 256;
/// Threads of one process that are looked at.
pub(super) const THREADS_MAX: usize = 1 << 16;
/// Interpreters, and states in each, among which that of a thread that is not known is looked for while it stands still.
const NEWEST_INTERPRETERS_MAX: usize = 2;
const NEWEST_STATES_MAX: usize = 4;

/// Where the C library keeps a thread's number in what `pthread_self` points to: `struct pthread.tid` of glibc
/// (`nptl/descr.h`, the same since 2.4; `nptl_db` has it as `_thread_db_pthread_tid`), and of musl
/// (`src/internal/pthread_impl.h`). Only on x86_64 do both begin with the header of the thread's own variables.
fn pthread_tid(arch: &Arch) -> [u64; 2] {
    match arch == &Arch::X86_64 {
        true => [720, 48],
        false => [208, 32],
    }
}

/// A `PyThreadState`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ThreadState {
    /// Where it is.
    pub address: Avma,
    /// Its `thread_id`.
    pub thread_id: u64,
    /// The lock of its interpreter.
    pub gil: Option<Avma>,
    /// Memory in which its frames are expected: see `hints.rs`.
    pub hints: Hints,
}

/// All thread states of a process, by the number of the native thread in the process's own pid namespace. A thread has
/// several if it has gone from one interpreter into another.
pub(super) type ThreadStates = FxHashMap<i32, Vec<ThreadState>>;

/// Lists the thread states of the runtime at `runtime`. A list that is changed meanwhile may give some twice or not at all;
/// whoever uses one looks whether it still is what it was.
pub(super) fn list(
    arch: &Arch,
    layout: &Layout,
    runtime: Avma,
    memory: &dyn MemoryReader,
) -> ThreadStates {
    let word = |at: Avma, offset: u32| {
        let at = at.checked_add(u64::from(offset))?;
        memory.read_u64(at).ok().map(Avma)
    };
    let mut found = ThreadStates::default();
    let mut threads = 0;
    for at in interpreters(layout, runtime, memory) {
        let gil = match layout.gil {
            Gil::OfRuntime(offset) => runtime.checked_add(u64::from(offset)),
            Gil::OfInterpreter(offset) => word(at, offset).filter(|gil| *gil != Avma(0)),
        };
        let mut thread = word(at, layout.threads_head);
        while let Some(address) = thread.filter(|at| *at != Avma(0) && threads < THREADS_MAX) {
            threads += 1;
            if let Some((tid, thread_id)) = identity(arch, layout, address, memory) {
                found.entry(tid).or_default().push(ThreadState {
                    address,
                    thread_id,
                    gil,
                    hints: Hints::guess(layout, address, memory),
                });
            }
            thread = word(address, layout.thread.next);
        }
    }
    found
}

/// The interpreters of the runtime at `runtime`, the newest first.
pub(super) fn interpreters(layout: &Layout, runtime: Avma, memory: &dyn MemoryReader) -> Vec<Avma> {
    let pointer = |at: Avma, offset: u32| {
        let at = at.checked_add(u64::from(offset))?;
        memory
            .read_u64(at)
            .ok()
            .map(Avma)
            .filter(|at| *at != Avma(0))
    };
    let first = pointer(runtime, layout.interpreters_head);
    let all = std::iter::successors(first, |at| pointer(*at, layout.interpreter_next));
    all.take(INTERPRETERS_MAX).collect()
}

/// The state of `thread`, if it is one of those that were made last: CPython puts new ones in front. While the thread stands
/// still: a few reads, and nothing is allocated.
pub(super) fn newest(
    layout: &Layout,
    runtime: Avma,
    thread: &ThreadContext,
    copy: &mut VolatileCopy<'_>,
) -> Option<ThreadState> {
    let mut interpreter = read_word(copy, runtime, layout.interpreters_head)?;
    for _ in 0..NEWEST_INTERPRETERS_MAX {
        if interpreter == Avma(0) {
            return None;
        }
        let gil = match layout.gil {
            Gil::OfRuntime(offset) => runtime.checked_add(u64::from(offset)),
            Gil::OfInterpreter(offset) => read_word(copy, interpreter, offset),
        };
        let mut state = read_word(copy, interpreter, layout.threads_head)?;
        for _ in 0..NEWEST_STATES_MAX {
            if state == Avma(0) {
                break;
            }
            copy.copy(state, layout.thread_bytes());
            let field = |offset: u32| copy.word(state.checked_add(u64::from(offset))?);
            let thread_id = field(layout.thread.thread_id)?;
            let is_of_thread = match layout.thread.native_thread_id {
                Some(offset) => i32::try_from(field(offset)?) == Ok(thread.namespace_tid),
                None => thread.thread_pointer == Some(thread_id),
            };
            if is_of_thread {
                return Some(ThreadState {
                    address: state,
                    thread_id,
                    gil: gil.filter(|gil| *gil != Avma(0)),
                    hints: Hints::default(),
                });
            }
            state = Avma(field(layout.thread.next)?);
        }
        interpreter = read_word(copy, interpreter, layout.interpreter_next)?;
    }
    None
}

fn read_word(copy: &mut VolatileCopy<'_>, at: Avma, offset: u32) -> Option<Avma> {
    let bytes = copy.copy(at.checked_add(u64::from(offset))?, 8);
    Some(Avma(u64::from_le_bytes(*bytes.first_chunk()?)))
}

/// The number of the native thread of the state at `thread`, and its `thread_id`.
fn identity(
    arch: &Arch,
    layout: &Layout,
    thread: Avma,
    memory: &dyn MemoryReader,
) -> Option<(i32, u64)> {
    let field = |offset: u32| memory.read_u64(thread.checked_add(u64::from(offset))?).ok();
    let thread_id = field(layout.thread.thread_id)?;
    let tid = match layout.thread.native_thread_id {
        Some(offset) => i32::try_from(field(offset)?).ok()?,
        None => pthread_tid(arch).iter().find_map(|offset| {
            let tid = memory
                .read_u32(Avma(thread_id).checked_add(*offset)?)
                .ok()?;
            i32::try_from(tid)
                .ok()
                .filter(|tid| (1..TID_MAX).contains(tid))
        })?,
    };
    (tid > 0).then_some((tid, thread_id))
}

/// No thread has a number as large (`PID_MAX_LIMIT`, `include/linux/threads.h`).
const TID_MAX: i32 = 1 << 22;
