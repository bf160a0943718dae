//! What /proc tells of processes, as [`super::finder`] asks it.

use std::path::Path;

use sampler_platforms::linux::proc::cgroup::{self, Cgroup, Members};
use sampler_platforms::linux::proc::{is_gone, names, processes, stat, status, task};
use sampler_platforms::linux::{TargetError, check_target};
use sampler_platforms::{Pid, Tid};

use super::description::command_line_of;
use crate::profile::LeftOut;

/// Who a process is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kin {
    /// When it was started, in clock ticks since boot: with its number, this is who it is.
    pub started_ticks: u64,
    /// Its parent now.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
}

/// All processes; a table in memory stands for them in tests.
pub(super) trait ProcessTable {
    /// All that are visible to us.
    fn list(&self) -> Vec<Pid>;
    /// The number given last to a process or thread, where that is known.
    fn last_created(&self) -> Option<Pid>;
    /// Who a process or thread is; `None` when there is none.
    fn kin(&self, pid: Pid) -> Option<Kin>;
    /// Whether that is a process, rather than a thread of one.
    fn is_process(&self, pid: Pid) -> bool;
    /// Its name, and its command line.
    fn names(&self, pid: Pid) -> (String, String);
    /// Whether it is in the control group at a path as in /proc/PID/cgroup.
    fn is_in(&self, pid: Pid, path: &Path) -> bool;
    /// Who is in a control group; `None` where that cannot be read from its folders.
    fn members(&self, cgroup: &Cgroup) -> Option<Members>;
    /// Ourselves.
    fn own(&self) -> Pid;
}

/// Those of /proc.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Proc;

impl ProcessTable for Proc {
    fn list(&self) -> Vec<Pid> {
        processes::list().unwrap_or_default()
    }

    fn last_created(&self) -> Option<Pid> {
        processes::last_created().ok().flatten()
    }

    fn kin(&self, pid: Pid) -> Option<Kin> {
        let stat = stat::read(pid).ok()?;
        Some(Kin {
            started_ticks: stat.start_time_ticks,
            parent: stat.parent,
            group: stat.group,
            session: stat.session,
        })
    }

    fn is_process(&self, pid: Pid) -> bool {
        status::read(pid).is_ok_and(|status| status.process == pid)
    }

    fn names(&self, pid: Pid) -> (String, String) {
        (
            names::of_a_process(pid).unwrap_or_default(),
            command_line_of(pid),
        )
    }

    fn is_in(&self, pid: Pid, path: &Path) -> bool {
        cgroup::is_in(pid, path)
    }

    fn members(&self, cgroup: &Cgroup) -> Option<Members> {
        cgroup.members()
    }

    fn own(&self) -> Pid {
        Pid(std::process::id().cast_signed())
    }
}

/// Why process `pid` cannot be sampled; `None` when nothing speaks against it. One that another tracer holds now may be
/// let go: until then its samples are missed.
pub(super) fn why_left_out(pid: Pid) -> Option<LeftOut> {
    match check_target(pid) {
        Err(TargetError::KernelThread { .. }) => return Some(LeftOut::KernelThread),
        Err(TargetError::ThirtyTwoBit { .. }) => return Some(LeftOut::ThirtyTwoBit),
        Err(TargetError::NoSuchProcess { .. } | TargetError::Zombie { .. }) => {
            return Some(LeftOut::Ended);
        }
        Err(_) => return Some(LeftOut::Unreadable),
        Ok(()) => {}
    }
    match task::ThreadFiles::new(pid, Tid(pid.0)).syscall() {
        Err(task::ThreadReadError::Denied(_)) => Some(LeftOut::Denied),
        Err(task::ThreadReadError::Gone) if stat::read(pid).is_err_and(|error| is_gone(&error)) => {
            Some(LeftOut::Ended)
        }
        // What else goes wrong with a thread is told of its samples.
        Ok(_) | Err(_) => None,
    }
}
