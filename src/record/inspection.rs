//! What a recording of a process would find in it: its modules, its interpreters, names of code compiled at run time.
//! Nothing is stopped for it.

use std::io;
use std::path::PathBuf;

use sampler_platforms::Pid;
use sampler_platforms::linux::ProcessMemory;
use sampler_platforms::linux::proc::maps::{self, Mapping};
use sampler_unwind::UnwindTables;
use sampler_unwind::interpreter::Language;

use super::images::{Images, LoadedModule};
use super::jit::{self, SeenJitFiles};
use crate::profile::{ModuleInfo, ProfileBuilder};

/// What was found in a process.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its modules, by address.
    pub modules: Vec<InspectedModule>,
    /// Files with code of which no image could be made: their frames would be addresses.
    pub unreadable: Vec<PathBuf>,
    /// Its interpreters.
    pub runtimes: Vec<InspectedRuntime>,
    /// Its perf map and jitdumps.
    pub jit: SeenJitFiles,
    /// How much memory it has for code that no file backs, in bytes.
    pub anonymous_code_bytes: u64,
}

/// A module of a process.
#[derive(Clone, Debug)]
pub struct InspectedModule {
    /// What a recording would say of it.
    pub info: ModuleInfo,
    /// What says how to unwind it.
    pub unwinding: UnwindTables,
}

/// An interpreter in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedRuntime {
    /// What its frames are written in.
    pub language: Language,
    /// Such as `LuaJIT 2.1.1700008891`.
    pub version: String,
    /// Why its frames cannot be shown, if so.
    pub unsupported: Option<String>,
    /// The module that it is in.
    pub module: String,
}

/// Looks at what `pid` has mapped.
///
/// # Errors
/// When its mappings cannot be read.
pub fn inspect(pid: Pid) -> io::Result<Inspection> {
    let mappings = maps::read(pid)?;
    let memory = ProcessMemory::new(pid);
    let mut sink = ProfileBuilder::new();
    let mut images = Images::default();
    let loaded = images.load(pid, &mappings, &memory, &mut sink);
    let mut loaded = loaded.map_err(io::Error::other)?;
    loaded.sort_by_key(|module| module.module.avma.start);
    let profile = sink.finish();
    let info = |module: &LoadedModule| profile.modules.get(module.id.index()).cloned();
    let mut modules = Vec::new();
    let mut runtimes = Vec::new();
    for module in &loaded {
        let Some(info) = info(module) else { continue };
        for (language, image) in module.module.image.runtimes() {
            let attached = image.attach(&module.module, &memory);
            runtimes.push(InspectedRuntime {
                language: *language,
                version: image.version(),
                unsupported: attached.err().map(|unsupported| unsupported.reason),
                module: info.path.clone(),
            });
        }
        modules.push(InspectedModule {
            unwinding: module.module.image.unwind_tables(),
            info,
        });
    }
    Ok(Inspection {
        unreadable: unreadable(&mappings, &modules),
        anonymous_code_bytes: anonymous_code_bytes(&mappings),
        jit: SeenJitFiles::of(pid, &mappings),
        modules,
        runtimes,
    })
}

/// Files with code that no module was made of. A perf map's or jitdump's own mapping is none.
fn unreadable(mappings: &[Mapping], modules: &[InspectedModule]) -> Vec<PathBuf> {
    let has_module = |path: &str| modules.iter().any(|module| module.info.path == path);
    let code = mappings
        .iter()
        .filter(|mapping| mapping.executable && !jit::is_jitdump(mapping));
    let mut paths: Vec<PathBuf> = code
        .filter_map(Mapping::path)
        .filter(|path| !has_module(&path.to_string_lossy()))
        .map(ToOwned::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn anonymous_code_bytes(mappings: &[Mapping]) -> u64 {
    let code = mappings
        .iter()
        .filter(|mapping| mapping.executable && mapping.path().is_none());
    // The kernel's own ones, [vdso] and [vsyscall], have names.
    code.filter(|mapping| mapping.name.is_none())
        .map(|mapping| mapping.range.end.0.saturating_sub(mapping.range.start.0))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_modules_have_unwind_tables() {
        let own = inspect(Pid(std::process::id().cast_signed())).unwrap();
        let program = std::env::current_exe().unwrap();
        let is_ours = |module: &&InspectedModule| module.info.path == program.to_string_lossy();
        let found = own.modules.iter().find(is_ours).unwrap();
        assert!(found.unwinding.eh_frame);
        assert!(
            own.modules
                .iter()
                .any(|module| module.info.path == "[vdso]")
        );
        assert!(own.unreadable.is_empty(), "{:?}", own.unreadable);
        assert!(!own.jit.has_perf_map);
    }
}
