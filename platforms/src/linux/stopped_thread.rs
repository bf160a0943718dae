//! The guard that lets a thread go again.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use sampler_unwind::Registers;

use super::registers::{self, RawRegisters};
use super::stop_kind::StopKind;
use super::{deadline, ptrace, strays};
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
        Self {
            pid,
            tid,
            kind,
            asked,
            released: false,
            not_send: PhantomData,
        }
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
    /// looked at the result before the stop, so the thread is put back to before the call, unless it handles signals. A
    /// relative time-out starts anew.
    ///
    /// # Errors
    /// When the registers cannot be written; then the call returns `EINTR`.
    pub fn repair_interrupted_syscall(
        &self,
        stopped: &StoppedRegisters,
    ) -> Result<bool, RegistersError> {
        let Some(repaired) = registers::repaired(self.tid, self.kind, stopped) else {
            return Ok(false);
        };
        ptrace::set_registers(self.tid, &repaired)?;
        Ok(true)
    }

    /// Lets the thread run, as dropping does, and says for how long it could not: from when it was asked to stop until
    /// now, which is a little longer than it stood. A signal that was about to be delivered is delivered; a thread
    /// that was stopped by a signal stays so.
    ///
    /// # Errors
    /// `ESRCH` when the thread was killed while it stood.
    pub fn detach(mut self) -> Result<Duration, Errno> {
        self.release()
    }

    fn release(&mut self) -> Result<Duration, Errno> {
        if self.released {
            return Ok(Duration::ZERO);
        }
        self.released = true;
        let answer = ptrace::detach(self.tid, self.kind.held_back_signal());
        let answer = answer.map(|()| self.asked.elapsed());
        if answer.is_err() {
            // Killed while it stood. Until its tracer has waited for it, nobody else hears of its end.
            strays::adopt(self.pid, self.tid);
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
