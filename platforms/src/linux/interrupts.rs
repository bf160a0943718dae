//! Ctrl-C and its kin: asked to end, not ended. SIGUSR1: asked to show what is there.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// What a user or a supervisor ends a program with.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

static REQUESTED: AtomicU32 = AtomicU32::new(0);
static COPIES_REQUESTED: AtomicU32 = AtomicU32::new(0);

/// From now on SIGINT, SIGTERM and SIGHUP are counted instead of ending the process, and interrupt a
/// [`super::clock::sleep_until`] of the thread they arrive in: the only one, or one that does not block them.
///
/// A signal that was ignored when we were started (nohup, a background job of a shell without job control) stays
/// ignored.
///
/// signal-hook is not used here: it installs its handlers with SA_RESTART, which keeps a wait from being interrupted.
///
/// # Errors
/// What sigaction(2) answers.
pub fn install() -> io::Result<()> {
    SIGNALS
        .into_iter()
        .try_for_each(|signal| handle(signal, count))
}

/// Lets `handler`, one of those below, have `signal`, unless that was ignored.
fn handle(signal: Signal, handler: extern "C" fn(i32)) -> io::Result<()> {
    // Without SA_RESTART: blocking calls are to return.
    let action = SigAction::new(
        SigHandler::Handler(handler),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler only adds to an atomic number, which is allowed at any point of the program.
    let before = unsafe { sigaction(signal, &action) }?;
    if matches!(before.handler(), SigHandler::SigIgn) {
        // SAFETY: ignoring a signal runs no code.
        unsafe { sigaction(signal, &before) }?;
    }
    Ok(())
}

/// How often we have been asked to end since [`install`].
pub fn requested() -> u32 {
    REQUESTED.load(Ordering::Relaxed)
}

/// From now on SIGUSR1 is counted instead of ending the process, unless it was ignored.
///
/// # Errors
/// What sigaction(2) answers.
pub fn install_copies() -> io::Result<()> {
    handle(Signal::SIGUSR1, count_copy)
}

/// How often SIGUSR1 has come since [`install_copies`].
pub fn copies_requested() -> u32 {
    COPIES_REQUESTED.load(Ordering::Relaxed)
}

extern "C" fn count_copy(_signal: i32) {
    COPIES_REQUESTED.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn count(_signal: i32) {
    REQUESTED.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::clock::{Slept, monotonic_ns, sleep_until};
    use crate::linux::testing::own_tid;
    use std::thread;

    #[test]
    fn a_signal_is_counted_and_ends_a_sleep() {
        install().unwrap();
        let before = requested();
        let (sender, receiver) = std::sync::mpsc::channel();
        let sleeper = thread::spawn(move || {
            sender.send(own_tid()).unwrap();
            sleep_until(monotonic_ns() + 60_000_000_000)
        });
        let tid = receiver.recv().unwrap();
        while !sleeper.is_finished() {
            // Again and again, because it may not sleep yet.
            // SAFETY: tgkill touches no memory; the thread is ours and has not been joined.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid.0, libc::SIGTERM) };
            thread::yield_now();
        }
        assert_eq!(sleeper.join().unwrap(), Slept::Interrupted);
        assert!(requested() > before);
    }
}
