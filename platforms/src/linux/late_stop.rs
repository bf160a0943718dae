//! A thread that was asked to stop and has not yet.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Instant;

use nix::errno::Errno;

use super::proc::syscall::AsleepIn;
use super::stopped_thread::{RegistersError, StoppedThread};
use super::strays::{self, Stray};
use super::{by_signal, ptrace};
use crate::Tid;

/// A seized thread that will stop some time: when it leaves an uninterruptible sleep, or gets a CPU.
///
/// It cannot be let go before it has stopped. Whoever holds this polls it now and then. Dropped too early it is kept
/// on a list of this thread's, which every [`super::stop`] works off; and when the sampling thread ends, the kernel
/// lets everything go.
#[derive(Debug)]
#[must_use = "the thread stands still from when it stops until this is polled"]
pub struct LateStop {
    stray: Stray,
    state: Collected,
    not_send: PhantomData<*const ()>,
}

thread_local! {
    /// How many threads this thread of ours has seized that have not stopped yet, as far as it knows.
    static LATE: Cell<u32> = const { Cell::new(0) };
}

/// Whether there are any.
pub(super) fn are_there() -> bool {
    LATE.get() > 0
}

/// What became of a thread that was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collected {
    /// It has not stopped yet.
    NotYet,
    /// It had stopped, and runs again, untraced.
    Released,
    /// It has ended, with this wait status.
    Ended(i32),
    /// It is no longer ours to wait for.
    Gone,
}

impl LateStop {
    pub(super) fn new(stray: Stray) -> Self {
        LATE.set(LATE.get() + 1);
        Self {
            stray,
            state: Collected::NotYet,
            not_send: PhantomData,
        }
    }

    /// Which thread this is.
    pub fn tid(&self) -> Tid {
        self.stray.tid
    }

    /// As [`StoppedThread::was_last_asleep_in`].
    pub fn was_last_asleep_in(&mut self, call: Option<AsleepIn>) {
        self.stray.last_asleep_in = call;
    }

    /// If the thread has stopped by now, lets it go (handing on a signal that was about to be delivered). Says whether
    /// this is done with: it runs again untraced, or has ended. Does not wait for the stop.
    pub fn poll(&mut self) -> bool {
        if self.state == Collected::NotYet {
            self.state = collect(self.stray);
            if self.state != Collected::NotYet {
                LATE.set(LATE.get().saturating_sub(1));
            }
        }
        self.state != Collected::NotYet
    }

    /// When the thread turned out to have ended: how, as waitpid(2) reports it.
    pub fn exit_status(&self) -> Option<i32> {
        match self.state {
            Collected::Ended(status) => Some(status),
            Collected::NotYet | Collected::Released | Collected::Gone => None,
        }
    }
}

impl Drop for LateStop {
    fn drop(&mut self) {
        if !self.poll() {
            LATE.set(LATE.get().saturating_sub(1));
            strays::adopt(self.stray);
        }
    }
}

/// Lets a thread go that stopped too late to be looked at. It may have stopped in a system call all the same.
fn let_go(stopped: StoppedThread) -> Collected {
    let repaired = stopped
        .registers()
        .and_then(|registers| stopped.repair_interrupted_syscall(&registers));
    match (repaired, stopped.detach()) {
        // Killed meanwhile: its end is still to be reported, and the guard has seen to it that it is asked for.
        (Err(RegistersError::Killed), _) | (_, Err(_)) => Collected::Gone,
        // Registers that are not ours to read (of a 32-bit thread) are not ours to repair.
        (Ok(_) | Err(_), Ok(_)) => Collected::Released,
    }
}

/// Takes the report about a seized thread, if there is one, and lets it go.
pub(super) fn collect(stray: Stray) -> Collected {
    let Stray { pid, tid, .. } = stray;
    match by_signal::wait(tid, libc::WNOHANG) {
        // Asking once more changes nothing, except that the kernel says whether it is ours still. The first thread of
        // a command of ours is not when another one has executed a program and has taken over its number.
        Ok(None) if ptrace::interrupt(tid) == Err(Errno::ESRCH) => Collected::Gone,
        Ok(None) | Err(Errno::EINTR) => Collected::NotYet,
        Ok(Some(kind)) => match kind.exit_status() {
            Some(status) => Collected::Ended(status),
            None => let_go(StoppedThread::known(stray, kind, Instant::now())),
        },
        Err(errno) => {
            if errno == Errno::ECHILD {
                // Nobody else waits for it: it may have executed a program.
                strays::expect_renamed(pid, tid);
            }
            Collected::Gone
        }
    }
}
