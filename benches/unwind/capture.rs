//! A thread's registers and stack, copied once, and the modules of its process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sampler_platforms::linux::proc::maps::{self, Mapping};
use sampler_platforms::linux::{self, ProcessMemory, target_file};
use sampler_platforms::{MappedFile, Pid, Tid};
use sampler_unwind::{
    Arch, Avma, ElfImage, ImageBytes, LoadBias, MemoryReader, Module, Modules, Registers,
    SliceMemory,
};

/// How long a stop may take to happen.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// A running program and what it maps.
pub(crate) struct Program {
    pid: Pid,
    live: ProcessMemory,
    mappings: Vec<Mapping>,
    pub(crate) modules: Modules,
}

/// Where its main thread was, and its stack from there on outwards.
pub(crate) struct Captured {
    pub(crate) registers: Registers,
    start: Avma,
    bytes: Vec<u8>,
}

impl Program {
    pub(crate) fn of(pid: i32) -> Self {
        let pid = Pid(pid);
        let live = ProcessMemory::new(pid);
        let mappings = maps::read(pid).expect("the target is there");
        let modules = modules(pid, &mappings, &live);
        Self {
            pid,
            live,
            mappings,
            modules,
        }
    }

    /// Stops the main thread for as long as it takes to copy its registers and stack.
    pub(crate) fn capture(&self) -> Captured {
        let stopped = linux::stop(self.pid, Tid(self.pid.0), STOP_WITHIN, Duration::ZERO)
            .expect("the target can be stopped");
        let registers = stopped.registers().expect("a stopped thread has registers");
        let _as_it_was = stopped.repair_interrupted_syscall(&registers);
        let registers = registers.registers;
        let sp = registers
            .sp()
            .expect("a stopped thread tells its registers");
        let start = Avma(sp.0.saturating_sub(Arch::X86_64.red_zone_bytes));
        let end = self
            .mappings
            .iter()
            .find(|mapping| mapping.range.contains(&sp))
            .map_or(start, |mapping| mapping.range.end);
        let bytes = usize::try_from(end.0 - start.0).expect("a stack fits into memory");
        let mut bytes = vec![0; bytes];
        let copied = self.live.read_exact(start, &mut bytes);
        stopped.detach().expect("the target runs on");
        copied.expect("a stack can be read");
        Captured {
            registers,
            start,
            bytes,
        }
    }
}

impl Captured {
    /// All that a walk through it reads: code comes from the modules.
    pub(crate) fn stack(&self) -> SliceMemory<'_> {
        SliceMemory::new(self.start, &self.bytes)
    }
}

/// Every mapped file with code, and the vDSO.
fn modules(pid: Pid, mappings: &[Mapping], live: &ProcessMemory) -> Modules {
    let mut by_name: BTreeMap<PathBuf, Vec<&Mapping>> = BTreeMap::new();
    for mapping in mappings {
        if let Some(name) = &mapping.name {
            by_name.entry(name.clone()).or_default().push(mapping);
        }
    }
    let modules = by_name
        .values()
        .filter_map(|parts| {
            let code = parts.iter().find(|part| part.executable)?;
            let image = image(pid, code, live)?;
            let bias = image.bias_of_mapping(code.range.start, code.offset, true)?;
            place(image, bias)
        })
        .collect();
    let executable = mappings
        .iter()
        .filter(|mapping| mapping.executable)
        .map(|mapping| mapping.range.clone())
        .collect();
    Modules::new(modules, executable)
}

fn image(pid: Pid, code: &Mapping, live: &ProcessMemory) -> Option<ElfImage> {
    if let Ok(file) = target_file::open(pid, code) {
        let mapped = MappedFile::map(&file.file).ok()?;
        return ElfImage::parse(ImageBytes::new(Arc::new(mapped))).ok();
    }
    let bytes = usize::try_from(code.range.end.0 - code.range.start.0).ok()?;
    let mut image = vec![0; bytes];
    live.read_exact(code.range.start, &mut image).ok()?;
    ElfImage::parse_memory(ImageBytes::new(Arc::new(image))).ok()
}

fn place(image: ElfImage, bias: LoadBias) -> Option<Module> {
    let segments = image.segments();
    let start = segments.iter().map(|segment| segment.svma.start).min()?;
    let end = segments.iter().map(|segment| segment.svma.end).max()?;
    Some(Module {
        avma: bias.avma(start)..bias.avma(end),
        bias,
        image: Arc::new(image),
    })
}
