//! Kills what hangs.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything a test starts may live: far more than any needs, on a machine however busy.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Kills a process that is still there after [`LIMIT`], so that a hang becomes a failure.
///
/// To be dropped before the process is reaped: until then its number cannot be another's.
#[derive(Debug)]
pub struct Watchdog {
    _ends_when_dropped: Sender<()>,
}

impl Watchdog {
    /// Watches a child of ours.
    pub fn watch(pid: Pid) -> Self {
        Self::watch_for(pid, LIMIT)
    }

    /// Watches one that may live for so long: a bench's.
    pub fn watch_for(pid: Pid, limit: Duration) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || bite(pid, limit, &receiver));
        Self {
            _ends_when_dropped: sender,
        }
    }
}

fn bite(pid: Pid, limit: Duration, watched: &Receiver<()>) {
    if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        // Stopped or not, it goes; an error means that it is gone.
        let _gone = kill(pid, Signal::SIGKILL);
    }
}
