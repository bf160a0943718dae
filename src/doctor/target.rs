//! Whether a process can be recorded, and what a recording would find in it. It is not stopped for that.

use std::fs;
use std::path::Path;

use sampler_platforms::linux::abilities::{self, Rung};
use sampler_platforms::linux::permission::{self, DeniedBy, Facts};
use sampler_platforms::linux::proc::task::{self, ThreadFiles, ThreadReadError};
use sampler_platforms::linux::proc::{maps, names};
use sampler_platforms::linux::remedy::Place;
use sampler_platforms::linux::{Errno, ProcessMemory};
use sampler_platforms::{Pid, Tid};
use sampler_unwind::MemoryReader as _;

use super::{Check, Runtime, Target, Verdict, counted, modules_of};
use crate::record::{Inspection, inspect};
use crate::symbols::FileSymbolizer;

/// Programs and libraries that compile code, and how to have them write its names down.
const COMPILERS: &[(&str, &str)] = &[
    ("node", "node --perf-basic-prof"),
    ("nodejs", "node --perf-basic-prof"),
    ("libjvm.so", "jcmd PID Compiler.perfmap"),
    ("libcoreclr.so", "DOTNET_PerfMapEnabled=1"),
    ("beam.smp", "erl +JPperf true"),
];

/// Examines `pid`.
pub(super) fn examine(pid: Pid, place: Place, symbolizer: &mut FileSymbolizer) -> Target {
    let mut checks = vec![program(pid)];
    checks.extend(access(pid, place));
    checks.extend(separation(pid));
    let inspection = match inspect(pid) {
        Ok(inspection) => Some(inspection),
        Err(error) => {
            checks.push(Check::note(
                "modules",
                format!("its mappings cannot be read: {error}"),
            ));
            None
        }
    };
    let left = left_of(pid, &checks);
    let modules = modules_of(inspection.as_ref(), symbolizer);
    let mut runtimes = Vec::new();
    if let Some(inspection) = &inspection {
        checks.push(memory(pid));
        runtimes = inspection.runtimes.iter().map(Runtime::new).collect();
        checks.extend(interpreters(&runtimes));
        checks.extend(compiled_code(pid, inspection));
        let (with_all, tables) = (
            modules.iter().filter(|module| module.all_functions).count(),
            modules
                .iter()
                .filter(|module| !module.unwinding.is_empty())
                .count(),
        );
        checks.push(of_modules(
            "symbols",
            with_all,
            modules.len(),
            "have names of all functions",
            symbols_hint(),
        ));
        checks.push(of_modules(
            "unwinding",
            tables,
            modules.len(),
            "say how to unwind them",
            None,
        ));
        checks.extend(unreadable(inspection));
    }
    Target {
        pid: pid.0,
        name: names::of_a_process(pid).unwrap_or_default(),
        checks,
        left,
        runtimes,
        modules,
    }
}

/// What can be had of `pid` though one of `checks` fails.
fn left_of(pid: Pid, checks: &[Check]) -> Option<&'static str> {
    if checks.iter().all(|check| check.verdict != Verdict::Fails) {
        return None;
    }
    match abilities::rung(pid, Tid(pid.0), true) {
        Rung::Stops => None,
        Rung::Reads => Some("stacks of sleeping threads, and the CPU time of all"),
        Rung::States => Some("which of its threads run, and their CPU time"),
    }
}

fn program(pid: Pid) -> Check {
    let threads = task::TaskCount::new(pid)
        .read()
        .map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let threads = counted(threads, "thread");
    match names::executable(pid) {
        Ok((path, false)) => Check::ok("program", format!("{}, {threads}", path.display())),
        Ok((path, true)) => {
            let found = format!(
                "{} (deleted or replaced since it was started), {threads}",
                path.display()
            );
            Check::ok("program", found)
        }
        Err(_) => Check::ok("program", threads),
    }
}

/// Whether it may be looked at, layer by layer. Where it may, no layer is at fault.
fn access(pid: Pid, place: Place) -> Vec<Check> {
    let facts = match Facts::gather(pid, Tid(pid.0)) {
        Ok(facts) => facts,
        Err(error) => {
            return vec![Check::fails(
                "access",
                format!("nothing can be read of it: {error}"),
            )];
        }
    };
    let mut denials: Vec<DeniedBy> = match refusal(pid) {
        Some(errno) => {
            let denials = facts.denials();
            match denials.is_empty() {
                true => vec![permission::why(pid, Tid(pid.0), errno)],
                false => denials,
            }
        }
        None => Vec::new(),
    };
    // The file of /proc that was asked tells nothing of these two.
    let others = facts
        .denials()
        .into_iter()
        .filter(|by| matches!(by, DeniedBy::Tracer { .. } | DeniedBy::Seccomp));
    for by in others {
        if !denials.contains(&by) {
            denials.insert(0, by);
        }
    }
    let layers = layers(&facts)
        .into_iter()
        .filter(|check| !denials.iter().any(|by| name_of(by) == check.name));
    let refused = denials
        .iter()
        .map(|by| Check::fails(name_of(by), format!("denied by {by}")).against(by, place));
    let mut checks: Vec<Check> = layers.chain(refused).collect();
    if denials.is_empty() {
        checks.push(Check::ok(
            "access",
            "registers, memory and system calls of its threads",
        ));
    }
    checks
}

/// What the kernel says to reading the file that asks for the same right as ptrace(2).
fn refusal(pid: Pid) -> Option<Errno> {
    match ThreadFiles::new(pid, Tid(pid.0)).syscall() {
        Err(ThreadReadError::Denied(error)) => {
            Some(error.raw_os_error().map_or(Errno::EPERM, Errno::from_raw))
        }
        Ok(_) | Err(_) => None,
    }
}

/// The layers that could refuse, as they are where they do not.
fn layers(facts: &Facts) -> Vec<Check> {
    let overridden = match facts.our_capabilities & permission::CAP_SYS_PTRACE != 0 {
        true => ", which CAP_SYS_PTRACE overrides",
        false => "",
    };
    let uid = facts.target.uids.real;
    let user = match uid == facts.our_uid {
        true => format!("uid {uid}, as we are"),
        false => format!("uid {uid}, we are uid {}{overridden}", facts.our_uid),
    };
    let dumpable = match facts.dumpable {
        true => "yes".to_owned(),
        false => format!("no: it has withdrawn itself{overridden}"),
    };
    let namespace = match facts.same_user_namespace {
        Some(true) => "ours",
        Some(false) => "another, over which we have rights",
        None => "cannot be told",
    };
    vec![
        Check::ok("user", user),
        Check::ok("dumpable", dumpable),
        Check::ok("tracer", "none"),
        Check::ok("user namespace", namespace),
    ]
}

fn name_of(by: &DeniedBy) -> &'static str {
    match by {
        DeniedBy::Gone | DeniedBy::Zombie | DeniedBy::KernelThread | DeniedBy::Ourselves => {
            "program"
        }
        DeniedBy::Tracer { .. } => "tracer",
        DeniedBy::Seccomp => "seccomp",
        DeniedBy::OtherUser { .. } => "user",
        DeniedBy::UserNamespace => "user namespace",
        DeniedBy::NotDumpable => "dumpable",
        DeniedBy::Yama { .. } => "yama",
        DeniedBy::MoreCapabilities => "capabilities",
        DeniedBy::Unknown { .. } => "access",
    }
}

/// Namespaces that it has for itself: what is told of it in its own words is translated.
fn separation(pid: Pid) -> Option<Check> {
    let differs = |name: &str| {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()?;
        Some(theirs != fs::read_link(format!("/proc/self/ns/{name}")).ok()?)
    };
    let mount = differs("mnt")?.then(|| format!("files, read through /proc/{pid}/root"));
    let pids = differs("pid")
        .unwrap_or(false)
        .then(|| "process numbers".to_owned());
    let own: Vec<String> = [mount, pids].into_iter().flatten().collect();
    match own.is_empty() {
        true => None,
        false => Some(Check::ok(
            "container",
            format!("it has its own {}", own.join(" and ")),
        )),
    }
}

fn memory(pid: Pid) -> Check {
    let mappings = maps::read(pid).unwrap_or_default();
    let Some(readable) = mappings.iter().find(|mapping| mapping.readable) else {
        return Check::note("memory", "nothing of it is mapped");
    };
    match ProcessMemory::new(pid).read(readable.range.start, &mut [0]) {
        Ok(_) => Check::ok("memory", "can be read"),
        Err(error) => Check::fails("memory", format!("cannot be read: {error}")),
    }
}

fn interpreters(runtimes: &[Runtime]) -> Vec<Check> {
    if runtimes.is_empty() {
        return vec![Check::ok("runtimes", "no interpreter of Lua or Python")];
    }
    let check = |runtime: &Runtime| match &runtime.unsupported {
        None => Check::ok("runtime", runtime.version.clone()),
        Some(reason) => {
            let found = format!("{}: its frames cannot be shown: {reason}", runtime.version);
            Check::note("runtime", found)
        }
    };
    runtimes.iter().map(check).collect()
}

/// Whether code that no file backs has names.
fn compiled_code(pid: Pid, inspection: &Inspection) -> Option<Check> {
    let jit = inspection.jit;
    if jit.has_perf_map || jit.jitdumps > 0 {
        let map = jit.has_perf_map.then(|| "a perf map".to_owned());
        let dumps = (jit.jitdumps > 0).then(|| counted(jit.jitdumps, "jitdump"));
        let found: Vec<String> = map.into_iter().chain(dumps).collect();
        return Some(Check::ok(
            "compiled code",
            format!("named by {}", found.join(" and ")),
        ));
    }
    let compiler = compiler_in(pid, inspection);
    if inspection.anonymous_code_bytes == 0 && compiler.is_none() {
        return None;
    }
    let kib = inspection.anonymous_code_bytes / 1024;
    let found = format!("{kib} KiB of code without a file, no perf map and no jitdump");
    let is_known = inspection
        .runtimes
        .iter()
        .any(|runtime| runtime.unsupported.is_none());
    match compiler {
        Some(how) => Some(Check::note("compiled code", found).with_hint(&format!(
            "let the program write a perf map: {}",
            how.replace("PID", &pid.to_string())
        ))),
        // An interpreter whose compiled code we know needs none.
        None if is_known => None,
        None => Some(Check::note("compiled code", found)),
    }
}

fn compiler_in(pid: Pid, inspection: &Inspection) -> Option<&'static str> {
    let program = names::executable(pid).ok().map(|(path, _)| path);
    let modules = inspection
        .modules
        .iter()
        .map(|module| Path::new(&module.info.path));
    let files: Vec<_> = modules
        .chain(program.as_deref())
        .filter_map(Path::file_name)
        .collect();
    COMPILERS
        .iter()
        .find(|(name, _)| files.iter().any(|file| *file == *name))
        .map(|(_, how)| *how)
}

fn symbols_hint() -> Option<&'static str> {
    Some("record, then `sampler symbols`: it has for each of them the command that gets its names")
}

fn of_modules(
    name: &'static str,
    count: usize,
    all: usize,
    what: &str,
    hint: Option<&str>,
) -> Check {
    let found = format!("{count} of {} {what}", counted(all, "module"));
    match (count == all, hint) {
        (true, _) => Check::ok(name, found),
        (false, Some(hint)) => Check::note(name, found).with_hint(hint),
        (false, None) => Check::note(name, found),
    }
}

fn unreadable(inspection: &Inspection) -> Option<Check> {
    let first = inspection.unreadable.first()?;
    let more = match inspection.unreadable.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let found = format!(
        "{}{more} cannot be read: addresses instead of names",
        first.display()
    );
    Some(Check::note("files", found))
}
