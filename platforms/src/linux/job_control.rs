//! Keeping Ctrl-Z from stopping us while threads of the target stand still.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

/// For as long as it lives, the signals that the terminal stops programs with wait: a sampler that is stopped while it
/// holds threads would hold them until it goes on. [`JobControl::allow`] lets them in when nobody is held.
///
/// SIGSTOP cannot be kept out.
#[derive(Debug)]
pub struct JobControl {
    before: SigSet,
}

impl JobControl {
    /// Keeps them out of the calling thread, which must be the only one that takes them.
    ///
    /// # Errors
    /// What pthread_sigmask(3) answers.
    pub fn hold_back() -> Result<Self, Errno> {
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&stopping()), Some(&mut before))?;
        Ok(Self { before })
    }

    /// Does `sleep` with them let in: one that waits stops us here and now.
    pub fn allow<T>(&self, sleep: impl FnOnce() -> T) -> T {
        // Neither can fail: both masks have been in force.
        let _let_in = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
        let slept = sleep();
        let _held_back = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&stopping()), None);
        slept
    }
}

impl Drop for JobControl {
    fn drop(&mut self) {
        let _let_in = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

fn stopping() -> SigSet {
    [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU]
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked(signal: Signal) -> bool {
        SigSet::thread_get_mask().unwrap().contains(signal)
    }

    #[test]
    fn they_are_let_in_only_where_it_is_safe() {
        let control = JobControl::hold_back().unwrap();
        assert!(is_blocked(Signal::SIGTSTP) && is_blocked(Signal::SIGTTOU));
        control.allow(|| assert!(!is_blocked(Signal::SIGTSTP)));
        assert!(is_blocked(Signal::SIGTSTP) && !is_blocked(Signal::SIGINT));
        drop(control);
        assert!(!is_blocked(Signal::SIGTSTP));
    }
}
