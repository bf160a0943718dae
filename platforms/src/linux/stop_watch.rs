//! Sleeping until a late thread stops.

use std::mem;
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use super::clock::{Slept, monotonic_ns};
use super::deadline::timespec;
use std::time::Duration;

/// For as long as it lives, the stop of a thread ends a sleep of this thread.
///
/// Make it, poll what is late ([`super::LateStop::poll`]), then sleep: a stop that comes in between is not missed. By
/// SIGCHLD, which the kernel sends to a tracer and which this blocks and waits for; at other times it is ignored and
/// costs nothing. Only in the main thread: the kernel asks that one whether the signal is ignored. In any other thread
/// a sleep lasts until its moment.
#[derive(Debug)]
pub struct StopWatch {
    mask: SigSet,
}

impl StopWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// What pthread_sigmask(3) answers.
    pub fn new() -> Result<Self, Errno> {
        let mut mask = SigSet::empty();
        let stops = SigSet::from(Signal::SIGCHLD);
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&stops), Some(&mut mask))?;
        Ok(Self { mask })
    }

    /// Sleeps until [`monotonic_ns`] reaches `moment_ns`, a thread stops, a child ends, or a signal handler runs.
    pub fn sleep_until(&self, moment_ns: u64) -> Slept {
        let left = Duration::from_nanos(moment_ns.saturating_sub(monotonic_ns()));
        let timeout = timespec(left);
        let stops = SigSet::from(Signal::SIGCHLD);
        // SAFETY: siginfo_t is plain data for which zeroes are valid.
        let mut information: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: all three are ours for the length of the call; the set and the time-out are only read.
        let answer = unsafe {
            libc::sigtimedwait(
                stops.as_ref(),
                &raw mut information,
                ptr::from_ref(&timeout),
            )
        };
        match Errno::result(answer) {
            Err(Errno::EAGAIN) => Slept::Through,
            Ok(_) | Err(_) => Slept::Interrupted,
        }
    }
}

impl Drop for StopWatch {
    fn drop(&mut self) {
        // It cannot fail: the mask is one that was in force.
        let _restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_has_come_is_not_slept_for() {
        let watch = StopWatch::new().unwrap();
        while watch.sleep_until(monotonic_ns()) == Slept::Interrupted {} // other tests' children
    }
}
