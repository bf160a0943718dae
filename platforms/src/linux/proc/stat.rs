//! /proc/PID/stat: state, parent and kin of a process or thread in one line.

use std::io;

use super::{Malformed, decimal, fields, of_process, of_thread, read_all};
use crate::{Pid, Tid};

/// What is taken from /proc/PID/stat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The process, or the thread when read from below `task`.
    pub pid: i32,
    /// The thread's name, at most 15 bytes (63 for a kernel thread), any byte but NUL.
    pub comm: Vec<u8>,
    /// What the scheduler has it down for.
    pub state: ProcState,
    /// The process that started it, zero when that lies outside our pid namespace.
    pub parent: Pid,
    /// Its process group, by the number of the process that leads it or did.
    pub group: Pid,
    /// Its session, likewise. A process is born into its parent's and can leave it for one of its own alone.
    pub session: Pid,
    /// `PF_*` of include/linux/sched.h.
    pub flags: u32,
    /// CPU time of all children that it has waited for, and of those that they had waited for. In clock ticks: what is
    /// less than one is missing of the time in user code and of that in the kernel.
    pub waited_cpu_ticks: u64,
    /// How many threads the process has.
    pub threads: u32,
    /// When it began, in clock ticks since boot: with the pid, this names a process for good.
    pub start_time_ticks: u64,
    /// The CPU it last ran on.
    pub processor: u32,
}

/// The state letter of proc(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcState {
    /// R: on a CPU, or waiting for one.
    Running,
    /// S: asleep, can be woken by a signal.
    Sleeping,
    /// D: asleep, cannot be woken by a signal, and does not stop for us.
    DiskSleep,
    /// T: stopped by a signal (Ctrl-Z).
    Stopped,
    /// t: stopped by its tracer.
    TracingStop,
    /// Z: has ended; its parent has not asked how.
    Zombie,
    /// X, x: is just being forgotten.
    Dead,
    /// I: an idle kernel thread.
    Idle,
    /// A letter that came or went with a version of the kernel (K, W, P).
    Other(u8),
}

/// One clock tick of these files, in nanoseconds: USER_HZ is 100 on x86_64 and aarch64 (asm/param.h), whatever the
/// kernel's own ticks are.
const TICK_NS: u64 = 10_000_000;

impl Stat {
    /// [`Stat::waited_cpu_ticks`] in nanoseconds.
    pub fn waited_cpu_ns(&self) -> u64 {
        self.waited_cpu_ticks.saturating_mul(TICK_NS)
    }

    /// Whether it is a thread of the kernel's, without memory of its own.
    pub fn is_kernel_thread(&self) -> bool {
        /// include/linux/sched.h.
        const PF_KTHREAD: u32 = 0x0020_0000;
        self.flags & PF_KTHREAD != 0
    }
}

/// What /proc/PID/stat says of a process (the state is its first thread's).
///
/// # Errors
/// What the kernel answers, or [`Malformed`].
pub fn read(pid: Pid) -> io::Result<Stat> {
    Ok(parse(&read_all(&of_process(pid, "stat"))?)?)
}

/// What /proc/PID/task/TID/stat says of a thread.
///
/// # Errors
/// What the kernel answers, or [`Malformed`].
pub fn read_thread(pid: Pid, tid: Tid) -> io::Result<Stat> {
    Ok(parse(&read_all(&of_thread(pid, tid, "stat"))?)?)
}

/// `PID (COMM) STATE PPID ...`. The name ends at the *last* parenthesis: it may hold any of its own.
///
/// # Errors
/// When it does not have the form of proc(5).
pub fn parse(text: &[u8]) -> Result<Stat, Malformed> {
    let (pid, comm, rest) = split_name(text).ok_or(malformed("name in parentheses"))?;
    let rest: Vec<&[u8]> = fields(rest.trim_ascii()).take(FIELDS_MAX).collect();
    // proc(5) counts from 1, and the state is its field 3.
    let field = |number: usize| rest.get(number - 3).copied();
    let pid_at = |number, name| {
        field(number)
            .and_then(decimal)
            .map(Pid)
            .ok_or(malformed(name))
    };
    // Printed as signed numbers.
    let ticks_at = |number, name| {
        let ticks: Result<i64, _> = field(number).and_then(decimal).ok_or(malformed(name));
        ticks.map(|ticks| u64::try_from(ticks).unwrap_or(0))
    };
    let waited = [
        ticks_at(16, "user time of children")?,
        ticks_at(17, "system time of children")?,
    ];
    Ok(Stat {
        pid: decimal(pid).ok_or(malformed("pid"))?,
        comm: comm.to_vec(),
        state: field(3).and_then(state).ok_or(malformed("state"))?,
        parent: pid_at(4, "parent")?,
        group: pid_at(5, "process group")?,
        session: pid_at(6, "session")?,
        flags: field(9).and_then(decimal).ok_or(malformed("flags"))?,
        waited_cpu_ticks: waited[0].saturating_add(waited[1]),
        threads: field(20)
            .and_then(decimal)
            .ok_or(malformed("number of threads"))?,
        start_time_ticks: field(22).and_then(decimal).ok_or(malformed("start time"))?,
        processor: field(39).and_then(decimal).ok_or(malformed("processor"))?,
    })
}

/// State and CPU time alone, of the same line, without allocating. The CPU time is in nanoseconds, in whole ticks: what
/// is less than one is missing of the time in user code and of that in the kernel.
///
/// # Errors
/// When it does not have the form of proc(5).
pub fn state_and_cpu_ns(text: &[u8]) -> Result<(ProcState, u64), Malformed> {
    let (_, _, rest) = split_name(text).ok_or(malformed("name in parentheses"))?;
    let field = |number: usize| fields(rest.trim_ascii()).nth(number - 3);
    let ticks_at = |number, name| -> Result<u64, Malformed> {
        field(number).and_then(decimal).ok_or(malformed(name))
    };
    let state = field(3).and_then(state).ok_or(malformed("state"))?;
    let user = ticks_at(14, "user time")?;
    let system = ticks_at(15, "system time")?;
    Ok((state, user.saturating_add(system).saturating_mul(TICK_NS)))
}

/// More fields than any kernel prints; 52 now.
const FIELDS_MAX: usize = 64;

fn split_name(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let pid = text.get(..open)?.trim_ascii_end();
    Some((pid, text.get(open + 1..close)?, text.get(close + 1..)?))
}

fn state(text: &[u8]) -> Option<ProcState> {
    let [letter] = text else { return None };
    Some(match letter {
        b'R' => ProcState::Running,
        b'S' => ProcState::Sleeping,
        b'D' => ProcState::DiskSleep,
        b'T' => ProcState::Stopped,
        b't' => ProcState::TracingStop,
        b'Z' => ProcState::Zombie,
        b'X' | b'x' => ProcState::Dead,
        b'I' => ProcState::Idle,
        &other => ProcState::Other(other),
    })
}

fn malformed(field: &'static str) -> Malformed {
    Malformed {
        file: "stat",
        field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ODD_NAME: &[u8] = include_bytes!("../../../../fixtures/proc/stat-odd-name");
    const KERNEL_THREAD: &[u8] = include_bytes!("../../../../fixtures/proc/stat-kernel-thread");

    #[test]
    fn a_name_may_hold_parentheses_spaces_and_newlines() {
        let stat = parse(ODD_NAME).unwrap();
        assert_eq!(stat.comm, b"a) R 1 (\nb)");
        assert_eq!((stat.pid, stat.state), (4711, ProcState::Sleeping));
        assert_eq!((stat.parent, stat.threads), (Pid(812), 3));
        assert_eq!((stat.start_time_ticks, stat.processor), (123_456, 5));
        assert!(!stat.is_kernel_thread());
    }

    #[test]
    fn a_kernel_thread_is_known_by_its_flag() {
        assert!(parse(KERNEL_THREAD).unwrap().is_kernel_thread());
    }

    #[test]
    fn our_own_stat_is_ours() {
        let pid = Pid(std::process::id().cast_signed());
        let stat = read(pid).unwrap();
        assert_eq!(stat.pid, pid.0);
        let tid = Tid(nix::unistd::gettid().as_raw());
        let stat = read_thread(pid, tid).unwrap();
        assert_eq!((stat.pid, stat.state), (tid.0, ProcState::Running));
    }

    proptest! {
        #[test]
        fn says_what_the_kernel_said(
            pid in 1i32.., comm in any::<Vec<u8>>(), parent in 0i32.., flags in any::<u32>(), threads in any::<u32>(),
            start in any::<u64>(), processor in any::<u32>(), group in 0i32.., session in 0i32.., user in 0..1u64 << 40,
            system in 0..1u64 << 40,
        ) {
            let mut text = format!("{pid} (").into_bytes();
            text.extend(&comm);
            text.extend(format!(
                ") T {parent} {group} {session} 0 -1 {flags} 1 2 3 4 5 6 {user} {system} 20 0 {threads} 0 {start}"
            ).bytes());
            text.extend(" 9".repeat(16).bytes());
            text.extend(format!(" {processor} 0 0 0\n").bytes());
            let expected = Stat {
                pid, comm, state: ProcState::Stopped, parent: Pid(parent), group: Pid(group),
                session: Pid(session), flags, waited_cpu_ticks: user + system, threads,
                start_time_ticks: start, processor,
            };
            prop_assert_eq!(parse(&text), Ok(expected));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_cut_line_is_refused(length in 0..150usize) {
            prop_assert!(parse(&ODD_NAME[..length]).is_err());
        }
    }
}
