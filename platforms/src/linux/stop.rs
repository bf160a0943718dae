//! Making one thread stand still.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::abilities::{Abilities, StopWay};
use super::late_stop::{self, LateStop};
use super::proc::stat::{self, ProcState};
use super::proc::status;
use super::stop_kind::StopKind;
use super::stopped_thread::StoppedThread;
use super::strays::{self, Stray};
use super::{by_signal, deadline, ptrace};
use crate::{Pid, Tid};

/// How long to sleep between two looks where the kernel has no timer to interrupt a blocking wait with.
const POLL: Duration = Duration::from_micros(20);

/// Why a thread does not stand still.
#[derive(Debug, thiserror::Error)]
pub enum StopFailure {
    /// There is no such thread, or it has exited and only waits to be forgotten (a zombie).
    #[error("thread {tid} has ended")]
    Gone {
        /// Which thread.
        tid: Tid,
    },
    /// It ended while we waited for it to stop.
    #[error("thread {tid} ended while it was being stopped")]
    Exited {
        /// Which thread.
        tid: Tid,
        /// As waitpid(2) reports it.
        status: i32,
    },
    /// It has not stopped by the deadline: in an uninterruptible sleep, or still waiting for a CPU.
    #[error("thread {} did not stop in time", .0.tid())]
    Late(LateStop),
    /// Another tracer, usually a debugger, has it.
    #[error("thread {tid} is already traced by {tracer}")]
    AlreadyTraced {
        /// Which thread.
        tid: Tid,
        /// The tracing thread.
        tracer: Tid,
    },
    /// The kernel does not let us; [`super::permission::why`] tells why.
    #[error("stopping thread {tid} was denied: {errno}")]
    Denied {
        /// Which thread.
        tid: Tid,
        /// What the kernel said.
        errno: Errno,
    },
    /// A thread of its process is executing another program, and has not got past the end of the others by the
    /// deadline.
    #[error("the process of thread {tid} is executing another program")]
    Executing {
        /// Which thread.
        tid: Tid,
    },
    /// It sleeps uninterruptibly, and a signal that would stop its whole process is not to wait for it: see
    /// [`StopWay::Signal`].
    #[error("thread {tid} sleeps uninterruptibly")]
    Uninterruptible {
        /// Which thread.
        tid: Tid,
    },
    /// The kernel answered something that is none of the above.
    #[error("cannot stop thread {tid}: {errno}")]
    Failed {
        /// Which thread.
        tid: Tid,
        /// What the kernel said.
        errno: Errno,
    },
}

/// Readies the calling thread for [`stop`] and for waiting precisely: makes the timer that bounds a wait, asks for
/// sleeps that end when they should (a thread's timer slack is 50 µs by default), and for a CPU as soon as it wakes.
///
/// The last is not for speed. Where no CPU is idle a woken thread of ordinary priority gets one when the thread that
/// runs there next leaves the kernel, which a program that makes system calls does after each of them: such samples
/// would show its system calls and not its work (measured on Linux 6.18, both CPUs busy: 7 % of samples where 0.2 %
/// is true). Threads and programs that are started later do not inherit the priority.
///
/// Without it the first [`stop`] makes the timer, and sleeps come late.
///
/// # Errors
/// When the kernel offers no per-thread timers: [`stop`] works then, but polls.
pub fn prepare_sampling_thread() -> Result<(), Errno> {
    const SLACK_NS: libc::c_ulong = 1;
    // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory.
    let answer = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
    Errno::result(answer)?;
    // Not while a thread stands still.
    let _found_out = Abilities::here();
    // Without the right to it, samples are as good as they are on a machine with an idle CPU.
    let _as_before = run_when_woken();
    let has_timer = deadline::arm(Duration::from_secs(1));
    deadline::disarm();
    if has_timer {
        Ok(())
    } else {
        Err(Errno::ENOSYS)
    }
}

/// Lets the calling thread have a CPU only when nobody else wants it (SCHED_IDLE, sched(7)), and says which thread that
/// is.
///
/// # Errors
/// When the kernel refuses: then it has the priority that it had.
pub fn give_way() -> Result<Tid, Errno> {
    set_policy(libc::SCHED_IDLE, 0)?;
    Ok(Tid(nix::unistd::gettid().as_raw()))
}

/// Puts the calling thread before all threads of ordinary priority: by the lowest real-time priority, or where that
/// is refused by niceness.
fn run_when_woken() -> Result<(), Errno> {
    const NICE: i32 = -10;
    if set_policy(libc::SCHED_FIFO, 1).is_ok() {
        return Ok(());
    }
    // Niceness is inherited too, unless the policy says not to.
    set_policy(libc::SCHED_OTHER, 0)?;
    // SAFETY: takes numbers only. On Linux the niceness is a thread's, and 0 the calling one (setpriority(2)).
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    Errno::result(answer).map(drop)
}

/// Gives the calling thread this policy, and its children the ordinary one. Not by the C library's function, which musl
/// has only to say that it has none.
fn set_policy(policy: i32, priority: i32) -> Result<(), Errno> {
    let policy = policy | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is the calling thread; the last argument is only read, and sched_param is one int to the kernel. See
    // sched_setscheduler(2).
    let answer =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) };
    Errno::result(answer).map(drop)
}

/// Seizes `tid`, a thread of `pid`, interrupts it, and waits for it to stop, at most until `within` has passed. Where
/// the kernel does not let us seize threads they are attached to: see [`StopWay`].
///
/// For the first part of that, `spin`, it asks again and again rather than sleep: on another CPU a thread stops within
/// a few microseconds, and being woken takes longer than that (measured on virtual CPUs: a cycle of 53 µs instead of
/// 95 µs). Where the thread has to wait for the CPU that the caller is on, it cannot stop before the caller sleeps.
///
/// Unless something goes wrong it allocates nothing, reads no file and asks the kernel for no more than the timer,
/// PTRACE_SEIZE, PTRACE_INTERRUPT and waitpid(2).
///
/// # Errors
/// See [`StopFailure`]. Except for [`StopFailure::Late`] the thread is then not traced by us.
pub fn stop(
    pid: Pid,
    tid: Tid,
    within: Duration,
    spin: Duration,
) -> Result<StoppedThread, StopFailure> {
    strays::release();
    let stopped = seize_and_wait(pid, tid, within, spin);
    if stopped.is_err() {
        // Otherwise the guard does it, after the thread runs again.
        deadline::disarm();
    }
    stopped
}

fn seize_and_wait(
    pid: Pid,
    tid: Tid,
    within: Duration,
    spin: Duration,
) -> Result<StoppedThread, StopFailure> {
    if late_stop::are_there() || strays::are_there() {
        // The kernel may wait for one of these to be waited for before it lets us seize another.
        deadline::arm(within);
    }
    let way = begin(pid, tid)?;
    let asked = Instant::now();
    if way == StopWay::Interrupt {
        // It can fail only for a thread that is being killed, which the wait reports.
        let _killed = ptrace::interrupt(tid);
    }
    match wait(tid, asked, within, spin) {
        Ok(Some(kind)) => reported(pid, tid, kind, asked),
        Ok(None) => Err(StopFailure::Late(LateStop::new(Stray::new(pid, tid)))),
        Err(Errno::ECHILD) => {
            strays::expect_renamed(pid, tid);
            Err(StopFailure::Gone { tid })
        }
        Err(errno) => Err(StopFailure::Failed { tid, errno }),
    }
}

/// Begins to trace `tid`, a thread of `pid`. Attached to, it is asked to stop at once.
fn begin(pid: Pid, tid: Tid) -> Result<StopWay, StopFailure> {
    /// How often to try, where another tracer has let the thread go by the time we ask who it was.
    const TRIES: usize = 3;
    let here = Abilities::here();
    let way = here.stop_way().ok_or(StopFailure::Denied {
        tid,
        errno: here.seize.err().unwrap_or(Errno::EPERM),
    })?;
    if way == StopWay::Signal && is_uninterruptible(tid) {
        return Err(StopFailure::Uninterruptible { tid });
    }
    let mut tries = 1..=TRIES;
    loop {
        let answer = match way {
            StopWay::Interrupt => ptrace::seize(tid),
            StopWay::Signal => ptrace::attach(tid),
        };
        let Err(errno) = answer else {
            return Ok(way);
        };
        tries.next();
        match refused(pid, tid, errno) {
            StopFailure::Denied { .. } if !tries.is_empty() => {}
            failure => return Err(failure),
        }
    }
}

/// Whether it could not take a signal now. Should we end before it does, the SIGSTOP would stop its process for good.
fn is_uninterruptible(tid: Tid) -> bool {
    stat::read(Pid(tid.0)).is_ok_and(|stat| stat.state == ProcState::DiskSleep)
}

/// The next report about `tid`, or `None` once `within` has passed since `asked`. It may leave the timer armed.
pub(super) fn wait(
    tid: Tid,
    asked: Instant,
    within: Duration,
    spin: Duration,
) -> Result<Option<StopKind>, Errno> {
    let spin = spin.min(within);
    while asked.elapsed() < spin {
        if let Some(kind) = by_signal::wait(tid, libc::WNOHANG)? {
            return Ok(Some(kind));
        }
        std::hint::spin_loop();
    }
    let timer = deadline::arm(within.saturating_sub(asked.elapsed()));
    wait_until(tid, asked + within, timer)
}

/// The next report about `tid`, or `None` at `end`.
fn wait_until(tid: Tid, end: Instant, timer: bool) -> Result<Option<StopKind>, Errno> {
    loop {
        let answer = if timer {
            by_signal::wait(tid, 0)
        } else {
            by_signal::wait(tid, libc::WNOHANG)
        };
        match answer {
            Ok(Some(kind)) => return Ok(Some(kind)),
            Ok(None) if Instant::now() < end => std::thread::sleep(POLL),
            Err(Errno::EINTR) if Instant::now() < end => {}
            Ok(None) | Err(Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}

fn reported(
    pid: Pid,
    tid: Tid,
    kind: StopKind,
    asked: Instant,
) -> Result<StoppedThread, StopFailure> {
    match kind.exit_status() {
        None => Ok(StoppedThread::new(pid, tid, kind, asked)),
        Some(status) => Err(StopFailure::Exited { tid, status }),
    }
}

/// Why PTRACE_SEIZE or PTRACE_ATTACH said `errno`. `EPERM` has many meanings (ptrace(2)), one of which is a thread on its
/// way out.
fn refused(pid: Pid, tid: Tid, errno: Errno) -> StopFailure {
    match errno {
        Errno::ESRCH => StopFailure::Gone { tid },
        Errno::EINTR => StopFailure::Executing { tid },
        Errno::EPERM | Errno::EACCES => {
            let thread = Pid(tid.0);
            match stat::read(thread).map(|stat| stat.state) {
                Err(_) | Ok(ProcState::Zombie | ProcState::Dead) => StopFailure::Gone { tid },
                Ok(_) => match status::read(thread).map(|status| status.tracer) {
                    Ok(Some(Tid(tracer))) if tracer == nix::unistd::gettid().as_raw() => {
                        // Renamed by execve(2), or forgotten by whoever held it.
                        StopFailure::Late(LateStop::new(strays::reclaim(pid, tid)))
                    }
                    Ok(Some(tracer)) => StopFailure::AlreadyTraced { tid, tracer },
                    Ok(None) | Err(_) => StopFailure::Denied { tid, errno },
                },
            }
        }
        _ => StopFailure::Failed { tid, errno },
    }
}
