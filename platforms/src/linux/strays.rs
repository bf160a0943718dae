//! Seized threads that nobody holds a guard for any more.
//!
//! A thread that is traced by us and never waited for would stand still, or be a zombie whose parent hears nothing,
//! for as long as the sampling thread lives. The list belongs to the thread that seized, as all of ptrace does.

use std::cell::{Cell, RefCell};

use nix::errno::Errno;

use super::late_stop::{Collected, collect};
use super::ptrace;
use crate::Tid;

thread_local! {
    static STRAYS: RefCell<Vec<Tid>> = const { RefCell::new(Vec::new()) };
    /// How many seized threads will stop under a number that is not known.
    static RENAMED: Cell<u32> = const { Cell::new(0) };
}

/// `tid` is seized, and will stop or end some time.
pub(super) fn adopt(tid: Tid) {
    // Fails only while the thread ends, when the kernel lets everything go.
    let _ends = STRAYS.try_with(|strays| strays.borrow_mut().push(tid));
}

/// A seized thread has executed another program, and will stop under the number of its process.
pub(super) fn expect_renamed() {
    RENAMED.set(RENAMED.get().saturating_add(1));
}

/// `tid` has turned out to be traced by us and not to be held: from now on somebody holds a [`super::LateStop`] for it.
pub(super) fn reclaim(tid: Tid) {
    let was_known = STRAYS.with_borrow_mut(|strays| {
        let before = strays.len();
        strays.retain(|&stray| stray != tid);
        strays.len() < before
    });
    if !was_known {
        RENAMED.set(RENAMED.get().saturating_sub(1));
    }
}

/// Lets go every thread that stopped after nobody held a [`super::LateStop`] for it any more, and says whether there
/// are some that have not stopped yet. Never blocks, and costs nothing when there are none.
///
/// Whoever stops sampling while its targets run on calls this until it says no: a thread that stops later would stand
/// still for as long as the sampling thread lives.
pub fn release() -> bool {
    STRAYS.with_borrow_mut(|strays| strays.retain(|&tid| collect(tid) == Collected::NotYet));
    if RENAMED.get() > 0 {
        release_renamed();
    }
    are_there()
}

/// Whether there are any, as far as is known.
pub(super) fn are_there() -> bool {
    STRAYS.with_borrow(|strays| !strays.is_empty()) || RENAMED.get() > 0
}

/// Any stopped thread that has not been waited for is one that nobody holds a [`super::StoppedThread`] for, so letting
/// it go is always right.
fn release_renamed() {
    match ptrace::peek_any() {
        Ok(Some(tid)) if collect(tid) != Collected::NotYet => {
            RENAMED.set(RENAMED.get().saturating_sub(1));
        }
        // Nobody is left to stop.
        Err(Errno::ECHILD) => RENAMED.set(0),
        Ok(_) | Err(_) => {}
    }
}

/// How many there are.
#[cfg(test)]
pub(super) fn count() -> usize {
    STRAYS.with_borrow(Vec::len)
}
