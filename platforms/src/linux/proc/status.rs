//! /proc/PID/status: who a process is, and who may look at it.

use std::io;

use super::{Malformed, decimal, hexadecimal, of_process, read_all};
use crate::{Pid, Tid};

/// What is taken from /proc/PID/status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The process that the thread belongs to.
    pub process: Pid,
    /// Its users, as our user namespace sees them.
    pub uids: Ids,
    /// Its groups, likewise.
    pub gids: Ids,
    /// The thread that traces it.
    pub tracer: Option<Tid>,
    /// Its pids, from our pid namespace to its own, innermost last; empty before Linux 4.1.
    pub namespace_pids: Vec<i32>,
    /// How many threads the process has; a zombie has none.
    pub threads: Option<u32>,
    /// The most memory it has had resident, in bytes. A zombie has none.
    pub peak_rss_bytes: Option<u64>,
    /// The capabilities in force, bit n for capability n of linux/capability.h.
    pub effective_capabilities: u64,
    /// 0 none, 1 strict, 2 a filter; `None` where the kernel has no seccomp.
    pub seccomp: Option<u32>,
    /// Signals for which there is a handler: bit n for signal n + 1.
    pub handled_signals: u64,
    /// Whether execve cannot raise its rights; `None` before Linux 4.10.
    pub no_new_privileges: Option<bool>,
}

/// The four user or group ids of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Who started it.
    pub real: u32,
    /// Whose rights it acts with.
    pub effective: u32,
    /// Whose rights it may take on again.
    pub saved: u32,
    /// Whose files it may open.
    pub filesystem: u32,
}

/// What /proc/PID/status says; `pid` may be any thread's number as well.
///
/// # Errors
/// What the kernel answers, or [`Malformed`].
pub fn read(pid: Pid) -> io::Result<Status> {
    Ok(parse(&read_all(&of_process(pid, "status"))?)?)
}

/// Lines of `KEY:<tab>VALUE`; unknown ones are ignored.
///
/// # Errors
/// When a line that every kernel prints is missing or is not as in proc(5).
pub fn parse(text: &[u8]) -> Result<Status, Malformed> {
    let value = |key: &[u8]| {
        text.split(|&byte| byte == b'\n').find_map(|line| {
            let value = line.strip_prefix(key)?.strip_prefix(b":")?;
            Some(value.trim_ascii())
        })
    };
    let tracer = value(b"TracerPid")
        .and_then(decimal)
        .ok_or(malformed("TracerPid"))?;
    Ok(Status {
        process: value(b"Tgid")
            .and_then(decimal)
            .map(Pid)
            .ok_or(malformed("Tgid"))?,
        uids: value(b"Uid").and_then(ids).ok_or(malformed("Uid"))?,
        gids: value(b"Gid").and_then(ids).ok_or(malformed("Gid"))?,
        tracer: (tracer != 0).then_some(Tid(tracer)),
        namespace_pids: value(b"NSpid")
            .map_or(Some(Vec::new()), numbers)
            .ok_or(malformed("NSpid"))?,
        threads: value(b"Threads").and_then(decimal),
        peak_rss_bytes: value(b"VmHWM").and_then(kibibytes),
        effective_capabilities: value(b"CapEff")
            .and_then(hexadecimal)
            .ok_or(malformed("CapEff"))?,
        seccomp: value(b"Seccomp").and_then(decimal),
        handled_signals: value(b"SigCgt").and_then(hexadecimal).unwrap_or(0),
        no_new_privileges: value(b"NoNewPrivs").map(|value| value != b"0"),
    })
}

/// Pid namespaces nest at most this deep (`MAX_PID_NS_LEVEL`, include/linux/pid_namespace.h), and one on top.
const NAMESPACES_MAX: usize = 33;

/// `N kB`, which means kibibytes.
fn kibibytes(text: &[u8]) -> Option<u64> {
    let number: u64 = decimal(text.strip_suffix(b"kB")?.trim_ascii_end())?;
    number.checked_mul(1024)
}

fn numbers(text: &[u8]) -> Option<Vec<i32>> {
    text.split(u8::is_ascii_whitespace)
        .filter(|number| !number.is_empty())
        .take(NAMESPACES_MAX)
        .map(decimal)
        .collect()
}

fn ids(text: &[u8]) -> Option<Ids> {
    let mut numbers = text
        .split(u8::is_ascii_whitespace)
        .filter(|number| !number.is_empty())
        .map(decimal);
    let mut next = || numbers.next().flatten();
    Some(Ids {
        real: next()?,
        effective: next()?,
        saved: next()?,
        filesystem: next()?,
    })
}

fn malformed(field: &'static str) -> Malformed {
    Malformed {
        file: "status",
        field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTAINER: &[u8] = include_bytes!("../../../../fixtures/proc/status-in-container");
    const OLD: &[u8] = include_bytes!("../../../../fixtures/proc/status-linux-3.10");

    #[test]
    fn a_name_cannot_pose_as_another_line() {
        let status = parse(CONTAINER).unwrap();
        assert_eq!(status.tracer, Some(Tid(4242)));
        assert_eq!(status.namespace_pids, [4711, 17, 1]);
        assert_eq!(
            (status.uids.real, status.uids.filesystem),
            (100_000, 100_001)
        );
        assert_eq!(
            (status.seccomp, status.no_new_privileges),
            (Some(2), Some(true))
        );
        assert_eq!(status.effective_capabilities, 0xa804_25fb);
    }

    #[test]
    fn an_old_kernel_says_less() {
        let status = parse(OLD).unwrap();
        assert_eq!((status.process, status.tracer), (Pid(1), None));
        assert!(status.namespace_pids.is_empty());
        assert_eq!(status.no_new_privileges, None);
    }

    #[test]
    fn our_own_status_is_ours() {
        let status = read(Pid(nix::unistd::gettid().as_raw())).unwrap();
        assert_eq!(status.process.0, std::process::id().cast_signed());
        assert_eq!(status.uids.effective, nix::unistd::geteuid().as_raw());
    }

    proptest! {
        #[test]
        fn says_what_the_kernel_said(
            tgid in 1i32.., [a, b, c, d] in any::<[u32; 4]>(), tracer in 0i32.., pids in prop::collection::vec(1i32.., 1..4),
            kibibytes in 0u64..1 << 40, capabilities in any::<u64>(), seccomp in 0u32..3, no_new_privileges in any::<bool>(),
            handled in any::<u64>(),
        ) {
            let listed: String = pids.iter().map(|pid| format!("\t{pid}")).collect();
            let text = format!(
                "Name:\tx\nTgid:\t{tgid}\nTracerPid:\t{tracer}\nUid:\t{a}\t{b}\t{c}\t{d}\nGid:\t{d}\t{c}\t{b}\t{a}\nNSpid:{listed}\n\
                 VmHWM:\t{kibibytes:8} kB\nThreads:\t1\nSigCgt:\t{handled:016x}\nCapEff:\t{capabilities:016x}\nNoNewPrivs:\t{}\nSeccomp:\t{seccomp}\n",
                u8::from(no_new_privileges),
            );
            let expected = Status {
                process: Pid(tgid),
                uids: Ids { real: a, effective: b, saved: c, filesystem: d },
                gids: Ids { real: d, effective: c, saved: b, filesystem: a },
                tracer: (tracer != 0).then_some(Tid(tracer)),
                namespace_pids: pids,
                threads: Some(1),
                peak_rss_bytes: Some(kibibytes * 1024),
                effective_capabilities: capabilities,
                seccomp: Some(seccomp),
                handled_signals: handled,
                no_new_privileges: Some(no_new_privileges),
            };
            prop_assert_eq!(parse(text.as_bytes()), Ok(expected));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
