//! Seized threads that nobody holds a guard for any more.
//!
//! A thread that is traced by us and never waited for would stand still, or be a zombie whose parent hears nothing,
//! for as long as the sampling thread lives. The list belongs to the thread that seized, as all of ptrace does.

use std::cell::RefCell;

use super::late_stop::{Collected, collect};
use super::proc::syscall::AsleepIn;
use super::reentry::Reentry;
use crate::{Pid, Tid};

thread_local! {
    static STRAYS: RefCell<Vec<Stray>> = const { RefCell::new(Vec::new()) };
}

/// A seized thread that will stop or end some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stray {
    pub(super) pid: Pid,
    pub(super) tid: Tid,
    /// As a [`super::LateStop`] knows it.
    pub(super) last_asleep_in: Option<AsleepIn>,
    /// How far it has come on its way into a call.
    pub(super) reentry: Option<Reentry>,
}

impl Stray {
    /// `tid`, a thread of `pid`, of which nothing else is known.
    pub(super) fn new(pid: Pid, tid: Tid) -> Self {
        Self {
            pid,
            tid,
            last_asleep_in: None,
            reentry: None,
        }
    }
}

/// From now on this is one of them.
pub(super) fn adopt(stray: Stray) {
    // Fails only while the thread ends, when the kernel lets everything go.
    let _ends = STRAYS.try_with(|strays| strays.borrow_mut().push(stray));
}

/// There is no seized thread `tid` of `pid` any more, and its end was not reported: it has executed another program. It
/// has taken over the number of its process's first thread (execve(2), "Multithreaded processes"; `de_thread` in
/// fs/exec.c), and is seized under that.
pub(super) fn expect_renamed(pid: Pid, tid: Tid) {
    if tid.0 != pid.0 {
        adopt(Stray::new(pid, Tid(pid.0)));
    }
}

/// `tid`, a thread of `pid`, has turned out to be traced by us and not to be held: what is known of it. From now on somebody
/// holds a [`super::LateStop`] for it.
pub(super) fn reclaim(pid: Pid, tid: Tid) -> Stray {
    STRAYS.with_borrow_mut(|strays| {
        let at = strays.iter().position(|stray| stray.tid == tid);
        at.map_or_else(|| Stray::new(pid, tid), |at| strays.swap_remove(at))
    })
}

/// Lets go every thread that stopped after nobody held a [`super::LateStop`] for it any more, and says whether there
/// are some that have not stopped yet. Does not wait for that, and costs nothing when there are none.
///
/// Whoever samples calls this between looks while [`are_there`], and whoever stops sampling while its targets run on
/// until it says no: a thread that stops later would stand still for as long as the sampling thread lives.
pub fn release() -> bool {
    // Not borrowed meanwhile: collecting one may find that it has another number.
    for stray in STRAYS.take() {
        if collect(stray) == Collected::NotYet {
            adopt(stray);
        }
    }
    are_there()
}

/// Whether there are any, as far as is known.
pub fn are_there() -> bool {
    STRAYS.with_borrow(|strays| !strays.is_empty())
}

/// How many there are.
#[cfg(test)]
pub(super) fn count() -> usize {
    STRAYS.with_borrow(Vec::len)
}
