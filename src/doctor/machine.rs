//! This machine, this kernel and ourselves.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use sampler_platforms::linux::permission::{self, DeniedBy};
use sampler_platforms::linux::proc::maps;
use sampler_platforms::linux::proc::syscall::SyscallState;
use sampler_platforms::linux::proc::task::{ThreadFiles, ThreadReadError};
use sampler_platforms::linux::remedy::Place;
use sampler_platforms::linux::surroundings::{self, Surroundings};
use sampler_platforms::linux::{Errno, clock};
use sampler_platforms::{Pid, Tid};
use sampler_unwind::Avma;

use super::{CHILD, Check};

/// The architectures there is a stop for.
const ARCHITECTURES: &[&str] = &["x86_64", "aarch64"];

/// The oldest kernel with PTRACE_SEIZE is 3.4; the oldest that is used is that of RHEL 7.
const KERNEL_MIN: (u32, u32) = (3, 10);

/// Looks at all of it.
pub(super) fn checks(place: Place) -> Vec<Check> {
    let here = match Surroundings::look() {
        Ok(here) => here,
        Err(error) => {
            return vec![Check::fails(
                "proc",
                format!("/proc cannot be read: {error}"),
            )];
        }
    };
    let mut checks = vec![kernel(&here), ours(&here, place)];
    checks.extend(namespaces(&here, place));
    checks.push(yama(&here, place));
    checks.push(security_modules(&here));
    checks.extend(processors(&here));
    match OwnProcess::start() {
        Ok(own) => checks.extend(own.checks(&here, place)),
        Err(error) => checks.push(Check::fails(
            "own process",
            format!("none can be started: {error}"),
        )),
    }
    checks
}

fn kernel(here: &Surroundings) -> Check {
    let found = format!("Linux {}, {}", here.kernel_release, here.arch);
    if !ARCHITECTURES.contains(&here.arch) {
        return Check::fails(
            "kernel",
            format!("{found}: this architecture is not supported"),
        );
    }
    match version_of(&here.kernel_release) {
        Some(version) if version < KERNEL_MIN => {
            let (major, minor) = KERNEL_MIN;
            Check::note(
                "kernel",
                format!("{found}: older than {major}.{minor}, the oldest that was thought of"),
            )
        }
        Some(_) | None => Check::ok("kernel", found),
    }
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// Who we are, and whether that gives us a right over processes of others.
fn ours(here: &Surroundings, place: Place) -> Check {
    let who = match here.uid == here.effective_uid {
        true => format!("uid {}", here.uid),
        false => format!("uid {}, acting as {}", here.uid, here.effective_uid),
    };
    if here.may_trace_all() {
        return Check::ok(
            "rights",
            format!("{who} with CAP_SYS_PTRACE: processes of all users"),
        );
    }
    let ours = here.uid;
    let by = DeniedBy::OtherUser { target: 0, ours };
    let check = Check::note(
        "rights",
        format!("{who} without CAP_SYS_PTRACE: processes of this user alone"),
    );
    check.against(&by, place)
}

/// What we are shut into.
fn namespaces(here: &Surroundings, place: Place) -> Vec<Check> {
    let mut shut_in = Vec::new();
    if place != Place::Machine {
        shut_in.push(place.words());
    }
    if here.is_in_user_namespace {
        shut_in.push("a user namespace: capabilities count in it alone");
    }
    let inside = match shut_in.is_empty() {
        true => Place::Machine.words().to_owned(),
        false => shut_in.join(", "),
    };
    let filter = match (here.has_filter, here.no_new_privileges) {
        (Some(true), Some(true)) => {
            "a filter lies on us; setuid and file capabilities do not count (no_new_privs)"
        }
        (Some(true), _) => "a filter lies on us; what it lets through shows below",
        (Some(false), Some(true)) => {
            "no filter; setuid and file capabilities do not count (no_new_privs)"
        }
        (Some(false), _) => "no filter",
        (None, _) => "this kernel has none",
    };
    vec![Check::ok("container", inside), Check::ok("seccomp", filter)]
}

fn yama(here: &Surroundings, place: Place) -> Check {
    let Some(scope) = here.yama_scope else {
        return Check::ok("yama", "this kernel has none, or /proc/sys is not there");
    };
    let by = DeniedBy::Yama { scope };
    match scope {
        0 => Check::ok("yama", format!("{by}: no restriction")),
        3 => Check::fails("yama", format!("{by}: nobody may trace")).against(&by, place),
        _ if here.may_trace_all() => {
            Check::ok("yama", format!("{by}, which CAP_SYS_PTRACE overrides"))
        }
        1 => Check::note(
            "yama",
            format!("{by}: only commands that sampler starts itself"),
        )
        .against(&by, place),
        _ => Check::fails("yama", format!("{by}: only with CAP_SYS_PTRACE")).against(&by, place),
    }
}

fn security_modules(here: &Surroundings) -> Check {
    let label = here
        .label
        .as_ref()
        .map(|label| format!("; we are labelled {label}"));
    let modules = match &here.security_modules {
        Some(modules) => modules.clone(),
        None => "not told (securityfs is not mounted)".to_owned(),
    };
    Check::ok("lsm", modules + &label.unwrap_or_default())
}

fn processors(here: &Surroundings) -> Option<Check> {
    let (allowed, all) = (here.cpus_allowed, here.cpus);
    if allowed == 0 {
        return None;
    }
    if all > 1 && allowed == 1 {
        let found = format!("we may run on 1 of {all}: threads on that one wait for us");
        return Some(
            Check::note("cpus", found)
                .with_hint("let sampler run on more than one CPU: taskset -c 0- sampler ..."),
        );
    }
    Some(Check::ok(
        "cpus",
        format!("{allowed} of {} for us", all.max(allowed)),
    ))
}

/// A process of our own, to try things on; it ends with this value.
#[derive(Debug)]
struct OwnProcess {
    child: Child,
    pid: Pid,
}

impl OwnProcess {
    fn start() -> std::io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(CHILD)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Once it has taken these it sleeps in read(2), and is nothing else any more than what it will be.
        if let Some(stdin) = &mut child.stdin {
            stdin.write_all(b"\n")?;
        }
        let pid = Pid(child.id().cast_signed());
        Ok(Self { child, pid })
    }

    fn checks(&self, here: &Surroundings, place: Place) -> Vec<Check> {
        let tid = Tid(self.pid.0);
        let mut files = ThreadFiles::new(self.pid, tid);
        let mut checks = vec![
            self.stopping(place),
            self.memory(here, place),
            syscall(files.syscall()),
        ];
        checks.push(match files.sched_stat() {
            Ok(_) => Check::ok(
                "schedstat",
                "CPU and waiting time of threads, by the kernel's accounts",
            ),
            Err(error) => {
                let found = format!("threads' CPU time cannot be read: {error}");
                Check::fails("schedstat", found).with_hint("use a kernel with CONFIG_SCHED_INFO")
            }
        });
        checks.push(match clock::process_cpu_time(self.pid) {
            Ok(_) => Check::ok("clock", "the CPU clock of other processes"),
            Err(error) => Check::note("clock", format!("no CPU clock of other processes: {error}")),
        });
        checks
    }

    fn stopping(&self, place: Place) -> Check {
        match surroundings::try_stop(self.pid) {
            Ok(()) => Check::ok(
                "ptrace",
                "a process that we have started was stopped, read and let go",
            ),
            Err(errno) => {
                let by = match permission::ptrace_is_filtered() {
                    true => DeniedBy::Seccomp,
                    false => permission::why(self.pid, Tid(self.pid.0), errno),
                };
                Check::fails("ptrace", format!("denied by {by}")).against(&by, place)
            }
        }
    }

    fn memory(&self, here: &Surroundings, place: Place) -> Check {
        let Some(at) = readable_address(self.pid) else {
            return Check::note(
                "memory",
                "the mappings of a process that we have started cannot be read",
            );
        };
        let by_call = surroundings::try_read_by_call(self.pid, at);
        let by_file = surroundings::try_read_by_file(self.pid, at);
        match (by_call, by_file) {
            (Ok(()), _) => Check::ok("memory", "by process_vm_readv"),
            (Err(errno), Ok(())) => {
                let why = match (errno, here.has_filter) {
                    (Errno::ENOSYS, Some(true)) | (Errno::EPERM, Some(true)) => {
                        "a seccomp filter refuses"
                    }
                    _ => "the kernel refuses",
                };
                let check = Check::note(
                    "memory",
                    format!("by /proc/PID/mem, because {why} process_vm_readv; slower"),
                );
                check.against(&DeniedBy::Seccomp, place)
            }
            (Err(errno), Err(error)) => {
                let found = format!(
                    "neither process_vm_readv ({errno}) nor /proc/PID/mem ({error}) gives any"
                );
                Check::fails("memory", found).against(&DeniedBy::Seccomp, place)
            }
        }
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        // That it cannot be waited for changes nothing for anybody.
        let _ended = self.child.wait();
    }
}

fn syscall(state: Result<SyscallState, ThreadReadError>) -> Check {
    match state {
        Ok(_) => Check::ok(
            "syscall",
            "what sleeping threads wait in, without stopping them",
        ),
        Err(ThreadReadError::Denied(error)) => Check::fails(
            "syscall",
            format!("/proc/PID/task/TID/syscall is refused: {error}"),
        ),
        Err(error) => Check::note(
            "syscall",
            format!("sleeping threads cannot be looked at without a stop: {error}"),
        ),
    }
}

/// Where something can be read.
fn readable_address(pid: Pid) -> Option<Avma> {
    let mappings = maps::read(pid).ok()?;
    let readable = mappings.iter().find(|mapping| mapping.readable)?;
    Some(readable.range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn surroundings() -> Surroundings {
        Surroundings {
            kernel_release: "6.1.0-13-amd64".to_owned(),
            arch: "x86_64",
            uid: 1000,
            effective_uid: 1000,
            capabilities: 0,
            has_filter: Some(false),
            no_new_privileges: Some(false),
            is_in_user_namespace: false,
            yama_scope: Some(1),
            security_modules: Some("capability,yama".to_owned()),
            label: None,
            cpus_allowed: 4,
            cpus: 8,
        }
    }

    #[test]
    fn yama_is_judged_by_its_value_and_our_rights() {
        let verdict = |scope, capabilities| {
            let here = Surroundings {
                yama_scope: scope,
                capabilities,
                ..surroundings()
            };
            yama(&here, Place::Machine).verdict
        };
        let rights = permission::CAP_SYS_PTRACE;
        assert_eq!(verdict(None, 0), Verdict::Ok);
        assert_eq!(verdict(Some(0), 0), Verdict::Ok);
        assert_eq!(verdict(Some(1), 0), Verdict::Note);
        assert_eq!(verdict(Some(1), rights), Verdict::Ok);
        assert_eq!(verdict(Some(2), 0), Verdict::Fails);
        assert_eq!(verdict(Some(2), rights), Verdict::Ok);
        assert_eq!(verdict(Some(3), rights), Verdict::Fails);
    }

    #[test]
    fn what_yama_refuses_has_the_sysctl_for_it() {
        let check = yama(&surroundings(), Place::Machine);
        assert!(
            check.found.contains("kernel.yama.ptrace_scope=1"),
            "{check:?}"
        );
        let is_sysctl = |line: &String| line == "sudo sysctl kernel.yama.ptrace_scope=0";
        assert!(check.remedies.iter().any(is_sysctl), "{check:?}");
    }

    #[test]
    fn old_kernels_and_other_machines_are_told() {
        let verdict = |release: &str, arch| {
            let here = Surroundings {
                kernel_release: release.to_owned(),
                arch,
                ..surroundings()
            };
            kernel(&here).verdict
        };
        assert_eq!(verdict("6.1.0", "x86_64"), Verdict::Ok);
        assert_eq!(verdict("3.10.0-1160.el7.x86_64", "x86_64"), Verdict::Ok);
        assert_eq!(verdict("2.6.32", "x86_64"), Verdict::Note);
        assert_eq!(verdict("6.1.0", "riscv64"), Verdict::Fails);
    }

    #[test]
    fn one_cpu_of_many_is_noted() {
        let check = |allowed, all| {
            let here = Surroundings {
                cpus_allowed: allowed,
                cpus: all,
                ..surroundings()
            };
            processors(&here).map(|check| check.verdict)
        };
        assert_eq!(check(1, 8), Some(Verdict::Note));
        assert_eq!(check(1, 1), Some(Verdict::Ok));
        assert_eq!(check(0, 8), None);
    }
}
