//! The guard that lets a thread go again.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use sampler_unwind::Registers;

use super::proc::syscall::AsleepIn;
use super::reentry::Repaired;
use super::registers::{self, RawRegisters};
use super::stop_kind::StopKind;
use super::strays::{self, Stray};
use super::{deadline, ptrace};
use crate::{Pid, Tid};

/// A thread that stands still for as long as this value lives.
///
/// It belongs to the thread that stopped it and cannot be sent to another: the kernel would refuse every request.
#[derive(Debug)]
#[must_use = "dropping it detaches and lets the thread run"]
pub struct StoppedThread {
    pid: Pid,
    tid: Tid,
    kind: StopKind,
    /// When it was asked to stop.
    asked: Instant,
    last_asleep_in: Cell<Option<AsleepIn>>,
    repaired: Repaired,
    /// Whether it has been let go already, so that dropping it has nothing left to do.
    released: bool,
    not_send: PhantomData<*const ()>,
}

/// The registers of a stopped thread.
#[derive(Clone, Copy, Debug)]
pub struct StoppedRegisters {
    /// All general registers, all known.
    pub registers: Registers,
    /// The number of the system call that the thread stands at the end of (it was inside when it was stopped, or is
    /// just about to return); `None` when it was executing its own code.
    pub syscall: Option<u32>,
    /// Where the thread's own block of variables lies (x86_64: the base of FS; aarch64: TPIDR_EL0).
    pub thread_pointer: u64,
    /// Whether the stop has interrupted the system call, rather than come at its natural end. The kernel runs most of
    /// them again unseen; for the others there is [`StoppedThread::repair_interrupted_syscall`].
    pub interrupted_syscall: bool,
    pub(super) raw: RawRegisters,
}

/// Why the registers of a stopped thread could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistersError {
    /// The thread was killed while it stood.
    #[error("the thread was killed while it was stopped")]
    Killed,
    /// It runs 32-bit code (i386 or x32), which is not supported.
    #[error("the thread runs 32-bit code, which is not supported")]
    ThirtyTwoBit,
    /// The kernel answered something else.
    #[error("the kernel refused its registers: {0}")]
    Refused(Errno),
}

impl StoppedThread {
    /// `tid`, a thread of `pid`, has been seized by this thread, and a wait has reported that it stands in a stop of
    /// `kind`.
    pub(super) fn new(pid: Pid, tid: Tid, kind: StopKind, asked: Instant) -> Self {
        Self::known(Stray::new(pid, tid), kind, asked)
    }

    /// The same of a thread of which something is known from before.
    pub(super) fn known(stray: Stray, kind: StopKind, asked: Instant) -> Self {
        Self {
            pid: stray.pid,
            tid: stray.tid,
            kind,
            asked,
            last_asleep_in: Cell::new(stray.last_asleep_in),
            repaired: Repaired::going_on(stray.reentry),
            released: false,
            not_send: PhantomData,
        }
    }

    /// The process that it belongs to.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Which thread this is.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// How long ago it was asked to stop. Asked first of all, that is how long it took to stop.
    pub fn since_asked(&self) -> Duration {
        self.asked.elapsed()
    }

    /// Which kind of stop it stands in.
    pub fn kind(&self) -> StopKind {
        self.kind
    }

    /// In which of the calls that have to be repaired it was seen asleep last, before the stop.
    ///
    /// On aarch64 a call is repaired in a program with signal handlers only if this is the one: see
    /// [`StoppedThread::repair_interrupted_syscall`].
    pub fn was_last_asleep_in(&self, call: Option<AsleepIn>) {
        self.last_asleep_in.set(call);
    }

    #[cfg(target_arch = "aarch64")]
    pub(super) fn last_asleep_in(&self) -> Option<AsleepIn> {
        self.last_asleep_in.get()
    }

    /// Reads its registers.
    ///
    /// # Errors
    /// When the thread has been killed meanwhile, or is a 32-bit one.
    pub fn registers(&self) -> Result<StoppedRegisters, RegistersError> {
        let mut raw = registers::ZEROED;
        let bytes = ptrace::get_registers(self.tid, &mut raw).map_err(RegistersError::from)?;
        if bytes != size_of::<RawRegisters>() || registers::is_thirty_two_bit(&raw) {
            return Err(RegistersError::ThirtyTwoBit);
        }
        Ok(registers::decode(self.tid, raw))
    }

    /// Makes the kernel run a system call again which this stop has made to return `EINTR`, and says whether it was
    /// one.
    ///
    /// Most calls are run again by themselves. Those that are not (epoll_wait, semop, rt_sigtimedwait, io_getevents,
    /// io_uring_enter, sockets with a time-out: signal(7), and measured) would return `EINTR` to a program in which
    /// no signal handler ran. On x86_64 their result is replaced by the kernel's own "no handler: run again"
    /// (ERESTARTNOHAND): with a handler pending the kernel makes that `EINTR` again, which is right. On aarch64 it has
    /// looked at the result before the stop, so the thread is put back to before the call; if its program has signal
    /// handlers, then only to a call that it was seen asleep in. A relative time-out starts anew.
    ///
    /// # Errors
    /// When the registers cannot be written; then the call returns `EINTR`.
    pub fn repair_interrupted_syscall(
        &self,
        stopped: &StoppedRegisters,
    ) -> Result<bool, RegistersError> {
        let Some(repair) = registers::repair(self, stopped) else {
            return Ok(false);
        };
        self.repaired.repair(self.tid, &repair)?;
        Ok(true)
    }

    /// Lets the thread run, as dropping does, and says for how long it could not: from when it was asked to stop until
    /// now, which is a little longer than it stood. A signal that was about to be delivered is delivered; a thread
    /// that was stopped by a signal stays so.
    ///
    /// # Errors
    /// `ESRCH` when the thread was killed while it stood; `ETIMEDOUT` when it was put back to a call and has not come to
    /// it yet. It is collected later ([`super::release_strays`]).
    pub fn detach(mut self) -> Result<Duration, Errno> {
        self.release()
    }

    fn release(&mut self) -> Result<Duration, Errno> {
        if self.released {
            return Ok(Duration::ZERO);
        }
        self.released = true;
        let answer = self.repaired.detach(self.tid, self.kind);
        let answer = answer.map(|()| self.asked.elapsed());
        if answer.is_err() {
            // Killed while it stood: until its tracer has waited for it, nobody else hears of its end. Or on its way.
            strays::adopt(Stray {
                reentry: self.repaired.reentry(),
                ..Stray::new(self.pid, self.tid)
            });
        }
        deadline::disarm();
        answer
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // The target runs again on every way out, `?` and panic included. An error says that it was killed, and has
        // been seen to: nothing is left to resume.
        let _killed = self.release();
    }
}

impl From<Errno> for RegistersError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ESRCH => Self::Killed,
            other => Self::Refused(other),
        }
    }
}
