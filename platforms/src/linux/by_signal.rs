//! Stopping threads by SIGSTOP, where PTRACE_SEIZE is not to be had.
//!
//! PTRACE_ATTACH sends the thread a SIGSTOP of its own and reports the moment before it would be delivered. That one is
//! kept from the thread, so that its process is not stopped. Whatever else is reported before it is handed on and
//! waited past: were the thread let go there, the SIGSTOP would still come, and stop the whole process.
//!
//! What a seized thread is spared: should we be killed while one stands in such a stop, the kernel delivers the SIGSTOP.
//! The process is stopped then until somebody sends SIGCONT.

use nix::errno::Errno;

use super::abilities::{Abilities, StopWay};
use super::ptrace;
use super::stop_kind::StopKind;
use crate::Tid;

/// The next report about a thread that was asked to stop, as [`ptrace::wait`] gives it of a seized one; `None` also
/// where something came before the stop and was handed on.
pub(super) fn wait(tid: Tid, flags: i32) -> Result<Option<StopKind>, Errno> {
    let reported = ptrace::wait(tid, flags)?;
    match (reported, Abilities::here().stop_way()) {
        (Some(kind), Some(StopWay::Signal)) => settle(tid, kind),
        (reported, _) => Ok(reported),
    }
}

/// What a report about an attached thread comes to.
fn settle(tid: Tid, kind: StopKind) -> Result<Option<StopKind>, Errno> {
    let StopKind::SignalDelivery(signal) = kind else {
        return match kind.exit_status() {
            Some(_) => Ok(Some(kind)),
            None => ptrace::go_on(tid, 0).map(|()| None),
        };
    };
    let origin = match ptrace::signal_origin(tid) {
        // Its process is stopped, and remains so. Our own SIGSTOP waits; the SIGCONT that wakes the process removes it.
        Err(Errno::EINVAL) => return Ok(Some(StopKind::GroupStop)),
        Err(Errno::ESRCH) => return Err(Errno::ESRCH),
        // It stands, and this must not be the reason for which it does not go on: a SIGSTOP is then taken for ours.
        Err(_refused) => (libc::SI_KERNEL, 0),
        Ok(origin) => origin,
    };
    match meaning(signal, origin) {
        Meaning::Ours => Ok(Some(StopKind::Trap)),
        Meaning::Merged => Ok(Some(kind)),
        Meaning::Exec => ptrace::go_on(tid, 0).map(|()| None),
        Meaning::Another => ptrace::go_on(tid, signal).map(|()| None),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The SIGSTOP that PTRACE_ATTACH has sent.
    Ours,
    /// A SIGSTOP that somebody had sent to this very thread before: ours is one with it, and is not sent again.
    Merged,
    /// The thread has executed a program. The kernel tells so by a SIGTRAP, which nobody else is to get.
    Exec,
    /// Ours is yet to come.
    Another,
}

/// By `si_code` and `si_pid` of the signal. The kernel sends without a sender: since Linux 4.20 as SI_KERNEL, before
/// that as SI_USER (`ptrace_attach` in kernel/ptrace.c). A signal to the whole process comes after those to the thread.
fn meaning(signal: i32, (code, sender): (i32, i32)) -> Meaning {
    match signal {
        libc::SIGSTOP if sender == 0 => Meaning::Ours,
        libc::SIGSTOP => Meaning::Merged,
        libc::SIGTRAP if code == libc::SI_USER => Meaning::Exec,
        _ => Meaning::Another,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pid;
    use crate::linux::proc::stat::{self, ProcState};
    use crate::linux::stopped_thread::StoppedThread;
    use crate::linux::testing::{Target, wait_until};
    use std::time::Instant;

    #[test]
    fn signals_are_told_apart_by_who_sent_them() {
        assert_eq!(meaning(libc::SIGSTOP, (libc::SI_KERNEL, 0)), Meaning::Ours);
        assert_eq!(meaning(libc::SIGSTOP, (libc::SI_USER, 0)), Meaning::Ours);
        assert_eq!(meaning(libc::SIGSTOP, (libc::SI_TKILL, 7)), Meaning::Merged);
        assert_eq!(meaning(libc::SIGTRAP, (libc::SI_USER, 7)), Meaning::Exec);
        assert_eq!(
            meaning(libc::SIGTRAP, (libc::SI_KERNEL, 0)),
            Meaning::Another
        );
        assert_eq!(
            meaning(libc::SIGALRM, (libc::SI_KERNEL, 0)),
            Meaning::Another
        );
    }

    /// Attaches as [`crate::linux::stop`] does where it has no other way.
    fn stop(tid: Tid) -> StoppedThread {
        ptrace::attach(tid).unwrap();
        loop {
            let reported = ptrace::wait(tid, 0).unwrap().unwrap();
            if let Some(kind) = settle(tid, reported).unwrap() {
                return StoppedThread::new(Pid(tid.0), tid, kind, Instant::now());
            }
        }
    }

    #[test]
    fn a_busy_thread_goes_on_and_its_process_is_not_stopped() {
        let target = Target::busy();
        for _ in 0..50 {
            let stopped = stop(target.tid());
            assert_eq!(stopped.kind(), StopKind::Trap);
            stopped.detach().unwrap();
        }
        assert_eq!(stat::read(target.pid()).unwrap().state, ProcState::Running);
    }

    #[test]
    fn a_stopped_process_remains_stopped_and_can_go_on() {
        let target = Target::busy();
        let is = |state| stat::read(target.pid()).unwrap().state == state;
        target.signal(libc::SIGSTOP);
        wait_until(|| is(ProcState::Stopped));
        let stopped = stop(target.tid());
        assert_eq!(stopped.kind(), StopKind::GroupStop);
        stopped.detach().unwrap();
        wait_until(|| is(ProcState::Stopped));
        target.signal(libc::SIGCONT);
        wait_until(|| is(ProcState::Running));
    }
}
