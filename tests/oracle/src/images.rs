//! Which ELF images the target maps.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sampler_platforms::linux::proc::maps::{self, Mapping};
use sampler_platforms::linux::{ProcessMemory, target_file};
use sampler_platforms::{MappedFile, Pid};
use sampler_unwind::{Avma, ElfImage, ImageBytes, MemoryReader, Module, Modules};

/// The most that is read of an image that only exists in memory, in bytes.
const IMAGE_BYTES_MAX: u64 = 64 << 20;

/// Inode and name: enough for one program, whose files nobody replaces while it runs.
type FileKey = (u64, PathBuf);

/// The images of one target, each opened once.
#[derive(Debug, Default)]
pub(crate) struct Images {
    files: FxHashMap<FileKey, Option<Arc<ElfImage>>>,
    executable: Vec<Mapping>,
    modules: Modules,
    names: Vec<String>,
}

impl Images {
    /// What is mapped now, as far as [`Images::refresh`] has read it.
    pub(crate) fn modules(&self) -> &Modules {
        &self.modules
    }

    /// The file of the module at `index` in [`Modules::iter`].
    pub(crate) fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("?", String::as_str)
    }

    /// Reads what is mapped now, and says whether code lies elsewhere than before.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub(crate) fn refresh(&mut self, pid: Pid, memory: &ProcessMemory) -> std::io::Result<bool> {
        let mappings = maps::read(pid)?;
        let executable: Vec<Mapping> = mappings
            .iter()
            .filter(|mapping| mapping.executable)
            .cloned()
            .collect();
        if executable == self.executable {
            return Ok(false);
        }
        let mut by_file = BTreeMap::<FileKey, Vec<&Mapping>>::new();
        for mapping in &mappings {
            if let Some(name) = mapping
                .name
                .clone()
                .filter(|name| mapping.path().is_some() || name.as_os_str() == "[vdso]")
            {
                let key = (mapping.inode, name);
                by_file.entry(key).or_default().push(mapping);
            }
        }
        let mut modules = Vec::new();
        for ((inode, name), parts) in by_file {
            let Some(code) = parts.iter().find(|part| part.executable) else {
                continue;
            };
            let text = name.to_string_lossy().into_owned();
            let image = self
                .files
                .entry((inode, name))
                .or_insert_with(|| open(pid, &parts, code, memory).map(Arc::new));
            if let Some(module) = image.as_ref().and_then(|image| place(image, code)) {
                modules.push((text, module));
            }
        }
        modules.sort_by_key(|(_, module)| module.avma.start);
        self.names = modules.iter().map(|(name, _)| name.clone()).collect();
        self.modules = Modules::new(
            modules.into_iter().map(|(_, module)| module).collect(),
            executable.iter().map(|part| part.range.clone()).collect(),
        );
        self.executable = executable;
        Ok(true)
    }
}

fn open(pid: Pid, parts: &[&Mapping], code: &Mapping, memory: &ProcessMemory) -> Option<ElfImage> {
    if let Ok(target) = target_file::open(pid, code) {
        let bytes = MappedFile::map(&target.file).ok()?;
        return ElfImage::parse(ImageBytes::new(Arc::new(bytes))).ok();
    }
    let start = parts.first()?.range.start;
    let end = parts.last()?.range.end;
    let bytes = end.0.checked_sub(start.0)?.min(IMAGE_BYTES_MAX);
    let mut image = vec![0; usize::try_from(bytes).ok()?];
    memory.read_exact(start, &mut image).ok()?;
    ElfImage::parse_memory(ImageBytes::new(Arc::new(image))).ok()
}

fn place(image: &Arc<ElfImage>, code: &Mapping) -> Option<Module> {
    let bias = image.bias_of_mapping(code.range.start, code.offset, true)?;
    let segments = image.segments();
    let start = segments.iter().map(|segment| segment.svma.start).min()?;
    let end = segments.iter().map(|segment| segment.svma.end).max()?;
    let avma: Range<Avma> = bias.avma(start)..bias.avma(end);
    (avma.start < avma.end).then(|| Module {
        avma,
        bias,
        image: Arc::clone(image),
    })
}
