//! What time it is, how much CPU time was used, and waiting for a moment.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{
    ClockId, ClockNanosleepFlags, clock_getcpuclockid, clock_gettime, clock_nanosleep,
};

use super::proc::status;
use crate::Pid;

/// Nanoseconds on the clock that nobody sets (CLOCK_MONOTONIC); counted from boot.
pub fn monotonic_ns() -> u64 {
    // Without this clock std's `Instant` would not work either; zero is a time that never comes back.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| nanoseconds(&time))
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// The moment has come.
    Through,
    /// A signal handler ran first: see [`super::interrupts::requested`].
    Interrupted,
}

/// Sleeps until [`monotonic_ns`] reaches `moment_ns`; not at all if it has. A signal ends it early.
///
/// How late it wakes is the kernel's business: see [`super::prepare_sampling_thread`].
pub fn sleep_until(moment_ns: u64) -> Slept {
    let moment = TimeSpec::from_duration(Duration::from_nanos(moment_ns));
    let clock = ClockId::CLOCK_MONOTONIC;
    match clock_nanosleep(clock, ClockNanosleepFlags::TIMER_ABSTIME, &moment) {
        Err(Errno::EINTR) => Slept::Interrupted,
        // No other error is possible with this clock and a valid time.
        Ok(_) | Err(_) => Slept::Through,
    }
}

/// How much CPU time all threads of a process have used, those that ended included. Works on any process, whoever
/// owns it, and on a zombie that has not been reaped.
///
/// It is brought up to date at scheduler ticks and switches: what a running thread has used since then is missing.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn process_cpu_time(pid: Pid) -> io::Result<Duration> {
    let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(pid.0))?;
    match clock_gettime(clock) {
        Ok(time) => Ok(Duration::from(time)),
        // The clock of a process that has just ended does not exist.
        Err(Errno::EINVAL) => Err(Errno::ESRCH.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// How much CPU time the calling thread has used.
pub fn thread_cpu_time_self() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// How much CPU time this process has used.
pub fn process_cpu_time_self() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The most memory this program has had resident, in bytes; zero where the kernel does not tell.
///
/// `VmHWM` of /proc/self/status: what getrusage(2) says of a process holds for what it ran before execve(2) too.
pub fn peak_rss_self() -> u64 {
    status::read(Pid(std::process::id().cast_signed()))
        .ok()
        .and_then(|status| status.peak_rss_bytes)
        .unwrap_or(0)
}

fn nanoseconds(time: &TimeSpec) -> u64 {
    u64::try_from(Duration::from(*time).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::{Target, own_pid, wait_until};

    #[test]
    fn time_passes_while_we_sleep() {
        let before = monotonic_ns();
        assert_eq!(sleep_until(before + 1_000_000), Slept::Through);
        assert!(monotonic_ns() >= before + 1_000_000);
        assert_eq!(sleep_until(before), Slept::Through);
    }

    #[test]
    fn what_we_use_is_accounted() {
        // A new thread may have used none yet.
        wait_until(|| thread_cpu_time_self() > Duration::ZERO);
        assert!(process_cpu_time_self() >= thread_cpu_time_self());
        assert!(process_cpu_time(own_pid()).unwrap() > Duration::ZERO);
        assert!(peak_rss_self() > 1 << 20);
    }

    #[test]
    fn a_zombie_still_has_its_cpu_time() {
        let target = Target::ended_after_using_cpu();
        let used = process_cpu_time(target.pid()).unwrap();
        assert!(used > Duration::ZERO);
        assert_eq!(process_cpu_time(target.pid()).unwrap(), used);
        let pid = target.pid();
        target.end();
        assert_eq!(
            process_cpu_time(pid).map_err(|error| error.raw_os_error()),
            Err(Some(libc::ESRCH))
        );
    }
}
