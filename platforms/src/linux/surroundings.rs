//! What this machine, this kernel and our own process are like, as far as it decides what can be sampled.

use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{geteuid, getuid};
use sampler_unwind::Avma;

use super::proc::status;
use super::stop::StopFailure;
use super::{permission, stop};
use crate::{Pid, Tid};

/// How long a process of our own may take to stop: until it gets a CPU on a busy machine.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A whole number of users: the map of the first user namespace (user_namespaces(7)).
const ALL_USERS: &str = "4294967295";

/// What is known of ourselves and of the kernel.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// As `uname -r` gives it; empty where /proc/sys is not there.
    pub kernel_release: String,
    /// As `uname -m` gives it, of the machine that we were built for.
    pub arch: &'static str,
    /// Our real and effective uid.
    pub uid: u32,
    /// Likewise.
    pub effective_uid: u32,
    /// Our capabilities in force, bit n for capability n of linux/capability.h.
    pub capabilities: u64,
    /// Whether a seccomp filter lies on us; `None` where the kernel has none.
    pub has_filter: Option<bool>,
    /// Whether execve(2) cannot raise our rights; `None` before Linux 4.10.
    pub no_new_privileges: Option<bool>,
    /// Whether our users are mapped to others: we are in a user namespace of our own.
    pub is_in_user_namespace: bool,
    /// `kernel.yama.ptrace_scope`; `None` without Yama.
    pub yama_scope: Option<u32>,
    /// The security modules that are active, with commas between them; `None` where securityfs is not mounted.
    pub security_modules: Option<String>,
    /// The label that one of them gives us; `None` for none.
    pub label: Option<String>,
    /// On how many CPUs we may run.
    pub cpus_allowed: usize,
    /// How many there are.
    pub cpus: usize,
}

impl Surroundings {
    /// Looks around.
    ///
    /// # Errors
    /// When our own /proc/self/status cannot be read.
    pub fn look() -> io::Result<Self> {
        let own = status::read(Pid(std::process::id().cast_signed()))?;
        let text = |path: &str| {
            let text = fs::read_to_string(path).ok()?;
            let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
            (!text.is_empty()).then(|| text.to_owned())
        };
        let label = text("/proc/self/attr/current").filter(|label| label != "unconfined");
        Ok(Self {
            kernel_release: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            arch: std::env::consts::ARCH,
            uid: getuid().as_raw(),
            effective_uid: geteuid().as_raw(),
            capabilities: own.effective_capabilities,
            has_filter: own.seccomp.map(|mode| mode != 0),
            no_new_privileges: own.no_new_privileges,
            is_in_user_namespace: text("/proc/self/uid_map")
                .is_some_and(|map| maps_some_users(&map)),
            yama_scope: permission::yama_scope(),
            security_modules: text("/sys/kernel/security/lsm"),
            label,
            cpus_allowed: cpus_allowed(),
            cpus: text("/sys/devices/system/cpu/online")
                .and_then(|list| count_of_list(&list))
                .unwrap_or(0),
        })
    }

    /// Whether we may trace processes of others.
    pub fn may_trace_all(&self) -> bool {
        self.capabilities & permission::CAP_SYS_PTRACE != 0
    }
}

/// Whether `uid_map` maps fewer users than there are, or to others.
fn maps_some_users(uid_map: &str) -> bool {
    let words: Vec<&str> = uid_map.split_whitespace().collect();
    words != ["0", "0", ALL_USERS]
}

fn cpus_allowed() -> usize {
    let Ok(set) = sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return 0; // more CPUs than the set has room for
    };
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .count()
}

/// How many numbers a list such as `0-3,8` has (the form of cpuset(7)).
fn count_of_list(list: &str) -> Option<usize> {
    list.split(',').try_fold(0_usize, |count, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Stops the first thread of `pid`, a process of our own, reads its registers and lets it go.
///
/// # Errors
/// What the kernel said.
pub fn try_stop(pid: Pid) -> Result<(), Errno> {
    let stopped = match stop(pid, Tid(pid.0), STOP_WITHIN, Duration::ZERO) {
        Ok(stopped) => stopped,
        Err(StopFailure::Denied { errno, .. } | StopFailure::Failed { errno, .. }) => {
            return Err(errno);
        }
        Err(StopFailure::Late(_)) => return Err(Errno::ETIMEDOUT),
        Err(StopFailure::AlreadyTraced { .. }) => return Err(Errno::EBUSY),
        Err(_) => return Err(Errno::ESRCH),
    };
    let read = stopped.registers();
    let detached = stopped.detach();
    read.map_err(|_| Errno::EIO)?;
    detached.map(drop).map_err(|_| Errno::ESRCH)
}

/// What process_vm_readv(2) says to reading a byte at `at` of process `pid`.
///
/// # Errors
/// What the kernel said.
pub fn try_read_by_call(pid: Pid, at: Avma) -> Result<(), Errno> {
    let mut byte = [0];
    let remote = RemoteIoVec {
        base: usize::try_from(at.0).map_err(|_| Errno::EFAULT)?,
        len: 1,
    };
    let pid = nix::unistd::Pid::from_raw(pid.0);
    process_vm_readv(pid, &mut [io::IoSliceMut::new(&mut byte)], &[remote]).map(drop)
}

/// What the kernel says to reading a byte at `at` of process `pid` by /proc/PID/mem.
///
/// # Errors
/// Likewise.
pub fn try_read_by_file(pid: Pid, at: Avma) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    fs::File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut [0], at.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::proc::maps;
    use crate::linux::testing::Target;

    #[test]
    fn this_machine_has_what_every_machine_has() {
        let here = Surroundings::look().unwrap();
        assert!(here.kernel_release.contains('.'), "{here:?}");
        assert!(
            here.cpus_allowed >= 1 && here.cpus >= here.cpus_allowed,
            "{here:?}"
        );
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_of_list("0-3,8"), Some(5));
        assert_eq!(count_of_list("0"), Some(1));
        for wrong in ["", "3-0", "a", "0-18446744073709551615"] {
            assert_eq!(count_of_list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn users_are_mapped_in_a_namespace_and_not_outside() {
        assert!(!maps_some_users("         0          0 4294967295"));
        assert!(maps_some_users("0 1000 1"));
        assert!(maps_some_users("0 0 65536"));
    }

    #[test]
    fn a_process_of_ours_can_be_stopped_and_read() {
        let target = Target::pausing();
        try_stop(target.pid()).unwrap();
        let mappings = maps::read(target.pid()).unwrap();
        let readable = mappings.iter().find(|mapping| mapping.readable).unwrap();
        try_read_by_call(target.pid(), readable.range.start).unwrap();
        try_read_by_file(target.pid(), readable.range.start).unwrap();
        assert_eq!(try_read_by_call(target.pid(), Avma(0)), Err(Errno::EFAULT));
    }
}
