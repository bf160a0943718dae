//! Why the kernel does not let us trace a process.
//!
//! It answers `EPERM` for a dozen different reasons. This asks what can be asked in the order in which the kernel
//! decides (`ptrace_attach` and `__ptrace_may_access` in kernel/ptrace.c), and names the layer that refused.
//!
//! What each layer is called and what would help is said here alone, for errors and for `sampler doctor` alike;
//! [`super::remedy`] has the exact lines.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::unistd::{getegid, getgid, getuid};

use super::proc::stat::{self, ProcState};
use super::proc::status::{self, Status};
use super::proc::{is_gone, names};
use super::ptrace;
use crate::{Pid, Tid};

/// The layer that refused, as far as can be told from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeniedBy {
    /// The process has ended meanwhile.
    Gone,
    /// The process has ended and only waits to be reaped.
    Zombie,
    /// It is a thread of the kernel's.
    KernelThread,
    /// It is our own process: nobody traces himself.
    Ourselves,
    /// Another tracer has it.
    Tracer {
        /// The tracing thread.
        tracer: Tid,
        /// What the tracer is called, if that could be read.
        name: Option<String>,
    },
    /// A seccomp filter that we run under refuses the system call as such.
    Seccomp,
    /// It belongs to other users or groups, and we have no capability over them.
    OtherUser {
        /// Whose it is (the real uid).
        target: u32,
        /// Who we are (the real uid).
        ours: u32,
    },
    /// We have the capability, but in another user namespace than the target's.
    UserNamespace,
    /// It has withdrawn itself (`PR_SET_DUMPABLE`), changed its user, or its program file is not readable.
    NotDumpable,
    /// The Yama security module, by the value of `kernel.yama.ptrace_scope`.
    Yama {
        /// 1: descendants only; 2: with CAP_SYS_PTRACE only; 3: nobody.
        scope: u32,
    },
    /// It has capabilities that we do not have.
    MoreCapabilities,
    /// None of these: another security module (SELinux, AppArmor), or a reason that was gone when we looked.
    Unknown {
        /// What the kernel said.
        errno: Errno,
    },
}

/// Bit of CAP_SYS_PTRACE in a set of capabilities (linux/capability.h).
pub const CAP_SYS_PTRACE: u64 = 1 << 19;

/// Why tracing thread `tid` of process `pid` was refused with `errno`. Reads a dozen small files.
pub fn why(pid: Pid, tid: Tid, errno: Errno) -> DeniedBy {
    match Facts::gather(pid, tid) {
        Ok(facts) => facts.decide(errno),
        Err(error) if is_gone(&error) => DeniedBy::Gone,
        Err(_) => DeniedBy::Unknown { errno },
    }
}

impl fmt::Display for DeniedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("nobody: the process has ended"),
            Self::Zombie => f.write_str("the kernel: the process has ended and waits to be reaped"),
            Self::KernelThread => f.write_str("the kernel: it is a kernel thread"),
            Self::Ourselves => f.write_str("the kernel: no process can trace itself"),
            Self::Tracer {
                tracer,
                name: Some(name),
            } => write!(f, "another tracer, {name} (pid {tracer})"),
            Self::Tracer { tracer, name: None } => write!(f, "another tracer (pid {tracer})"),
            Self::Seccomp => f.write_str("the seccomp filter that this command runs under"),
            Self::OtherUser { target, ours } if target != ours => {
                write!(f, "its user: it belongs to uid {target}, we are uid {ours}")
            }
            Self::OtherUser { .. } => f.write_str("its user: it has other user or group ids"),
            Self::UserNamespace => f.write_str("its user namespace"),
            Self::NotDumpable => f.write_str("the process itself: it is not dumpable"),
            Self::Yama { scope } => write!(f, "kernel.yama.ptrace_scope={scope}"),
            Self::MoreCapabilities => f.write_str("its capabilities, which we do not have"),
            Self::Unknown { errno } => write!(
                f,
                "the kernel ({errno}), perhaps by a security module such as SELinux or AppArmor"
            ),
        }
    }
}

impl DeniedBy {
    /// What would help; `None` when nothing does.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Gone | Self::Zombie | Self::KernelThread | Self::Ourselves => return None,
            Self::Tracer { .. } => "detach the debugger or tracer first",
            Self::Seccomp => {
                "allow ptrace in the container's seccomp profile, e.g. docker run --cap-add SYS_PTRACE"
            }
            Self::OtherUser { .. } | Self::NotDumpable | Self::MoreCapabilities => {
                "run as root, or grant CAP_SYS_PTRACE (in a container: --cap-add SYS_PTRACE)"
            }
            Self::UserNamespace => {
                "run as root outside the container, or inside the target's user namespace"
            }
            Self::Yama { scope: 1 } => {
                "run as root, grant CAP_SYS_PTRACE, or start the program with `sampler record -- CMD`"
            }
            Self::Yama { scope: 2 } => "run as root, or grant CAP_SYS_PTRACE",
            Self::Yama { .. } => {
                "nothing until the next boot: kernel.yama.ptrace_scope=3 cannot be lowered"
            }
            Self::Unknown { .. } => "run as root, and look into the audit log (dmesg) for a denial",
        })
    }
}

/// What the decision rests on.
#[derive(Clone, Debug)]
pub struct Facts {
    ourselves: bool,
    zombie: bool,
    kernel_thread: bool,
    /// Who the target is.
    pub target: Status,
    tracer_name: Option<String>,
    ptrace_is_filtered: bool,
    /// Our real uid.
    pub our_uid: u32,
    our_gids: [u32; 2],
    /// Our capabilities in force.
    pub our_capabilities: u64,
    /// Whether the target is in our user namespace; `None` where that cannot be read.
    pub same_user_namespace: Option<bool>,
    /// Whether the target lets others of its user look at it.
    pub dumpable: bool,
    /// `None` without Yama.
    pub yama_scope: Option<u32>,
    /// Whether we have started the target, or an ancestor of it.
    pub descends_from_us: bool,
}

impl Facts {
    /// Asks what can be asked about thread `tid` of process `pid`.
    ///
    /// # Errors
    /// What the kernel answers; `ENOENT` and `ESRCH` when it is gone.
    pub fn gather(pid: Pid, tid: Tid) -> io::Result<Self> {
        let stat = stat::read_thread(pid, tid)?;
        let target = status::read(Pid(tid.0))?;
        let us = Pid(std::process::id().cast_signed());
        Ok(Self {
            ourselves: pid == us,
            zombie: matches!(stat.state, ProcState::Zombie | ProcState::Dead),
            kernel_thread: stat.is_kernel_thread(),
            tracer_name: target
                .tracer
                .and_then(|tracer| names::of_a_process(Pid(tracer.0)).ok()),
            ptrace_is_filtered: ptrace_is_filtered(),
            our_uid: getuid().as_raw(),
            our_gids: [getgid().as_raw(), getegid().as_raw()],
            our_capabilities: status::read(us)?.effective_capabilities,
            same_user_namespace: same_user_namespace(pid),
            dumpable: is_dumpable(pid, &target)?,
            yama_scope: yama_scope(),
            descends_from_us: descends(pid, us),
            target,
        })
    }

    fn decide(&self, errno: Errno) -> DeniedBy {
        let first = self.denials().into_iter().next();
        first.unwrap_or(DeniedBy::Unknown { errno })
    }

    /// Every layer that speaks against tracing the target, in the order in which the kernel asks them. None of those
    /// that [`DeniedBy::Unknown`] stands for is among them.
    ///
    /// That our capability counts for nothing in another user namespace is said of any other, also of one below ours,
    /// in which it does count: to be asked where tracing was refused.
    pub fn denials(&self) -> Vec<DeniedBy> {
        let hopeless = [
            (self.zombie, DeniedBy::Zombie),
            (self.kernel_thread, DeniedBy::KernelThread),
            (self.ourselves, DeniedBy::Ourselves),
        ];
        if let Some((_, by)) = hopeless.into_iter().find(|(is_so, _)| *is_so) {
            return vec![by];
        }
        let mut denials = Vec::new();
        if let Some(tracer) = self.target.tracer {
            let name = self.tracer_name.clone();
            denials.push(DeniedBy::Tracer { tracer, name });
        }
        if self.ptrace_is_filtered {
            denials.push(DeniedBy::Seccomp);
        }
        if self.yama_scope == Some(3) {
            denials.push(DeniedBy::Yama { scope: 3 });
        }
        if self.our_capabilities & CAP_SYS_PTRACE == 0 {
            denials.extend(self.denials_without_capability());
        } else if self.same_user_namespace != Some(true) {
            // Where it cannot even be read the capability does not count.
            denials.push(DeniedBy::UserNamespace);
        }
        denials
    }

    fn denials_without_capability(&self) -> Vec<DeniedBy> {
        let uids = self.target.uids;
        let foreign_user = [uids.real, uids.effective, uids.saved]
            .iter()
            .any(|&uid| uid != self.our_uid);
        let gids = self.target.gids;
        let foreign_group = [gids.real, gids.effective, gids.saved]
            .iter()
            .any(|gid| !self.our_gids.contains(gid));
        let mut denials = Vec::new();
        if foreign_user || foreign_group {
            denials.push(DeniedBy::OtherUser {
                target: uids.real,
                ours: self.our_uid,
            });
        }
        if !self.dumpable {
            denials.push(DeniedBy::NotDumpable);
        }
        match self.yama_scope {
            Some(1) if self.descends_from_us => {}
            Some(scope @ (1 | 2)) => denials.push(DeniedBy::Yama { scope }),
            Some(_) | None => {}
        }
        if self.target.effective_capabilities & !self.our_capabilities != 0 {
            denials.push(DeniedBy::MoreCapabilities);
        }
        denials
    }
}

/// Whether a seccomp filter refuses ptrace(2) as such. No thread has the number 0, so without a filter the kernel says
/// that there is none.
pub fn ptrace_is_filtered() -> bool {
    ptrace::seize(Tid(0)) != Err(Errno::ESRCH)
}

/// The files of a process that is not dumpable belong to root, except its directory (`task_dump_owner` in
/// fs/proc/base.c).
fn is_dumpable(pid: Pid, status: &Status) -> io::Result<bool> {
    let owner = fs::metadata(format!("/proc/{pid}/stat"))?.uid();
    Ok(owner == status.uids.effective)
}

fn same_user_namespace(pid: Pid) -> Option<bool> {
    let theirs = fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
    let ours = fs::read_link("/proc/self/ns/user").ok()?;
    Some(theirs == ours)
}

/// The value of `kernel.yama.ptrace_scope`; `None` where the kernel has no Yama, or /proc/sys is not there.
pub fn yama_scope() -> Option<u32> {
    let text = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?;
    text.trim().parse().ok()
}

fn descends(pid: Pid, from: Pid) -> bool {
    /// Deeper than any real tree of processes.
    const ANCESTORS_MAX: usize = 1024;
    let parent = |pid: &Pid| stat::read(*pid).ok().map(|stat| stat.parent);
    std::iter::successors(Some(pid), parent)
        .take(ANCESTORS_MAX)
        .any(|ancestor| ancestor == from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::proc::status::Ids;
    use crate::linux::testing::{Target, own_pid, own_tid, wait_until};

    const MINE: Ids = Ids {
        real: 1000,
        effective: 1000,
        saved: 1000,
        filesystem: 1000,
    };
    const ROOT: Ids = Ids {
        real: 0,
        effective: 0,
        saved: 0,
        filesystem: 0,
    };

    /// A process of ours that nothing speaks against.
    fn allowed() -> Facts {
        Facts {
            ourselves: false,
            zombie: false,
            kernel_thread: false,
            target: Status {
                process: Pid(4711),
                uids: MINE,
                gids: MINE,
                tracer: None,
                namespace_pids: vec![4711],
                threads: Some(1),
                peak_rss_bytes: None,
                effective_capabilities: 0,
                seccomp: Some(0),
                handled_signals: 0,
                no_new_privileges: Some(false),
            },
            tracer_name: None,
            ptrace_is_filtered: false,
            our_uid: 1000,
            our_gids: [1000, 1000],
            our_capabilities: 0,
            same_user_namespace: Some(true),
            dumpable: true,
            yama_scope: Some(0),
            descends_from_us: false,
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Facts), expected: &str) {
        let mut facts = allowed();
        change(&mut facts);
        let denied = facts.decide(Errno::EPERM);
        assert_eq!(denied.to_string(), expected);
    }

    #[test]
    fn each_layer_is_named() {
        check(
            |facts| facts.target.uids = ROOT,
            "its user: it belongs to uid 0, we are uid 1000",
        );
        check(
            |facts| facts.target.gids = ROOT,
            "its user: it has other user or group ids",
        );
        check(
            |facts| facts.yama_scope = Some(1),
            "kernel.yama.ptrace_scope=1",
        );
        check(
            |facts| (facts.yama_scope, facts.descends_from_us) = (Some(2), true),
            "kernel.yama.ptrace_scope=2",
        );
        check(
            |facts| (facts.yama_scope, facts.our_capabilities) = (Some(3), u64::MAX),
            "kernel.yama.ptrace_scope=3",
        );
        check(
            |facts| facts.dumpable = false,
            "the process itself: it is not dumpable",
        );
        check(
            |facts| facts.target.effective_capabilities = 1,
            "its capabilities, which we do not have",
        );
        check(
            |facts| facts.ptrace_is_filtered = true,
            "the seccomp filter that this command runs under",
        );
        check(
            |facts| {
                facts.our_capabilities = CAP_SYS_PTRACE;
                facts.same_user_namespace = Some(false);
            },
            "its user namespace",
        );
        check(
            |facts| {
                facts.target.tracer = Some(Tid(7));
                facts.tracer_name = Some("gdb".into());
            },
            "another tracer, gdb (pid 7)",
        );
        check(
            |facts| (facts.yama_scope, facts.descends_from_us) = (Some(1), true),
            "the kernel (EPERM: Operation not permitted), perhaps by a security module such as SELinux or AppArmor",
        );
    }

    #[test]
    fn all_layers_that_refuse_are_listed_in_order() {
        let mut facts = allowed();
        assert_eq!(facts.denials(), []);
        facts.target.uids = ROOT;
        facts.dumpable = false;
        facts.yama_scope = Some(1);
        facts.target.effective_capabilities = 1;
        let (target, ours) = (0, 1000);
        let expected = [
            DeniedBy::OtherUser { target, ours },
            DeniedBy::NotDumpable,
            DeniedBy::Yama { scope: 1 },
            DeniedBy::MoreCapabilities,
        ];
        assert_eq!(facts.denials(), expected);
        facts.our_capabilities = CAP_SYS_PTRACE;
        assert_eq!(facts.denials(), []);
    }

    #[test]
    fn the_living_are_judged_by_what_they_are() {
        let ours = why(own_pid(), own_tid(), Errno::EPERM);
        assert_eq!(ours, DeniedBy::Ourselves);
        assert_eq!(ours.hint(), None);
        let zombie = Target::ended_after_using_cpu();
        let tid = Tid(zombie.pid().0);
        assert_eq!(why(zombie.pid(), tid, Errno::EPERM), DeniedBy::Zombie);
        let pid = zombie.pid();
        zombie.end();
        assert_eq!(why(pid, tid, Errno::EPERM), DeniedBy::Gone);
    }

    #[test]
    fn ptrace_is_not_filtered_here() {
        assert!(!ptrace_is_filtered(), "these tests cannot run here");
    }

    #[test]
    fn a_process_can_withdraw_itself() {
        /// PR_SET_DUMPABLE shows in the owner of files, which is root's for a test that runs as root: another user.
        const NOBODY: libc::uid_t = 65534;
        let target = Target::run(|shared| {
            // SAFETY: takes numbers. Fails without rights, and is not needed then.
            unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) };
            // SAFETY: takes numbers.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
            shared.set(0, 1);
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        });
        wait_until(|| target.shared().get(0) == 1);
        let status = status::read(target.pid()).unwrap();
        assert!(!is_dumpable(target.pid(), &status).unwrap());
        let ordinary = Target::pausing();
        let status = status::read(ordinary.pid()).unwrap();
        assert!(is_dumpable(ordinary.pid(), &status).unwrap());
    }

    #[test]
    fn a_child_descends_from_us_and_not_we_from_it() {
        let target = Target::pausing();
        assert!(descends(target.pid(), own_pid()));
        assert!(!descends(own_pid(), target.pid()));
        assert_eq!(same_user_namespace(target.pid()), Some(true));
    }
}
