//! Letting a thread go whose system call is to be made again, so that no signal handler goes unnoticed.
//!
//! On x86_64 the kernel decides after the stop whether the call returns `EINTR`, and a handler that runs in between makes it
//! do so. On aarch64 it has decided before the stop, and the thread is put back to before the call: a handler that ran on the
//! way there would return to that place, and the call begin as if nothing had been. The program may wait for just that
//! `EINTR` (epoll_pwait(2) is there for it).
//!
//! So such a thread stays traced until the kernel can decide once more. It runs to the beginning of the call; a signal
//! with a handler that comes first is reported before it is delivered, and the thread gets back the `EINTR` that was taken
//! from it. There it is asked to stop, so that the call returns at once, and let run to its end: to a stop that comes
//! *before* the kernel looks at the result, which is replaced as on x86_64. The call is a true one all the while: should we be
//! killed meanwhile, it returns `EINTR`.

use std::cell::Cell;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::registers::{self, RawRegisters};
use super::stop_kind::StopKind;
use super::{ptrace, stop};
use crate::Tid;

/// How long to wait for the thread, which has a few instructions to go, to get a CPU. After that it is collected later.
const WITHIN: Duration = Duration::from_millis(5);

/// What a thread is given so that it makes an interrupted call again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repair {
    /// Its registers from now on.
    pub(super) registers: RawRegisters,
    /// Its way into the call, where a handler can come between.
    pub(super) reentry: Option<Reentry>,
}

/// A thread's way into a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reentry {
    /// The signals that have a handler: bit n for signal n + 1.
    handlers: u64,
    is_in_call: bool,
}

impl Reentry {
    /// Of a thread that has been put back to before a call, as only aarch64 has it.
    #[cfg(any(target_arch = "aarch64", test))]
    pub(super) fn new(handlers: u64) -> Self {
        Self {
            handlers,
            is_in_call: false,
        }
    }
}

/// What is still to be done for a thread that stands still before it is let go.
#[derive(Debug, Default)]
pub(super) struct Repaired(Cell<Option<Reentry>>);

impl Repaired {
    /// Of a thread that was on its way when it was last waited for.
    pub(super) fn going_on(reentry: Option<Reentry>) -> Self {
        Self(Cell::new(reentry))
    }

    /// How far it has come.
    pub(super) fn reentry(&self) -> Option<Reentry> {
        self.0.get()
    }

    /// Repairs `tid`.
    pub(super) fn repair(&self, tid: Tid, repair: &Repair) -> Result<(), Errno> {
        ptrace::set_registers(tid, &repair.registers)?;
        self.0.set(repair.reentry);
        Ok(())
    }

    /// Lets `tid` go, which stands in a stop of `kind`.
    ///
    /// # Errors
    /// `ESRCH` when it was killed, `ETIMEDOUT` when it has not got a CPU: then it is traced, and will stop.
    pub(super) fn detach(&self, tid: Tid, mut kind: StopKind) -> Result<(), Errno> {
        match self.go_on(tid, &mut kind) {
            Err(Errno::ETIMEDOUT) => Err(Errno::ETIMEDOUT),
            // Whatever has kept it from going on, it must not be left standing: from where it is, it makes the call again.
            Ok(()) | Err(_) => match kind.exit_status() {
                None => ptrace::detach(tid, kind.held_back_signal()),
                Some(_) => Ok(()),
            },
        }
    }

    /// Takes `tid` as far as it has to go; `kind` becomes that of the stop in which it stands then.
    fn go_on(&self, tid: Tid, kind: &mut StopKind) -> Result<(), Errno> {
        // Each turn takes it one stop further: to the beginning of the call, to its end.
        while let Some(mut reentry) = self.0.get() {
            let goes_on = reentry.goes_on(tid, *kind)?;
            self.0.set(goes_on.then_some(reentry));
            if goes_on {
                ptrace::go_on_to_syscall(tid)?;
                let reported = stop::wait(tid, Instant::now(), WITHIN, Duration::ZERO)?;
                *kind = reported.ok_or(Errno::ETIMEDOUT)?;
            }
        }
        Ok(())
    }
}

impl Reentry {
    /// Does what is to be done in a stop of `kind`, and says whether the thread is to go on to another one.
    fn goes_on(&mut self, tid: Tid, kind: StopKind) -> Result<bool, Errno> {
        match kind {
            StopKind::Trap => Ok(!self.is_in_call),
            StopKind::Syscall if !self.is_in_call => {
                self.is_in_call = true;
                ptrace::interrupt(tid)?;
                Ok(true)
            }
            StopKind::Syscall => {
                if let Some(raw) = registers::left_to_the_kernel(&read(tid)?) {
                    ptrace::set_registers(tid, &raw)?;
                }
                Ok(false)
            }
            StopKind::SignalDelivery(signal) => {
                if !self.is_in_call && is_among(signal, self.handlers) {
                    ptrace::set_registers(tid, &registers::interrupted(&read(tid)?))?;
                }
                Ok(false)
            }
            StopKind::GroupStop
            | StopKind::Event(_)
            | StopKind::Exited { .. }
            | StopKind::Killed { .. } => Ok(false),
        }
    }
}

fn read(tid: Tid) -> Result<RawRegisters, Errno> {
    let mut raw = registers::ZEROED;
    ptrace::get_registers(tid, &mut raw)?;
    Ok(raw)
}

/// Whether a set of signals, bit n for signal n + 1, has this one.
pub(super) fn is_among(signal: i32, set: u64) -> bool {
    let bit = u32::try_from(signal - 1).ok();
    bit.and_then(|bit| set.checked_shr(bit))
        .is_some_and(|set| set & 1 != 0)
}
