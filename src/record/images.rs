//! Which files the targets map, each opened and parsed once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sampler_platforms::linux::ProcessMemory;
use sampler_platforms::linux::proc::maps::{Device, Mapping};
use sampler_platforms::linux::target_file;
use sampler_platforms::{MappedFile, Pid};
use sampler_unwind::{Avma, ElfImage, ImageBytes, LoadBias, MemoryReader, Module};

use crate::profile::{ModuleId, ModuleInfo, SampleSink};

/// The most that is read of an image that only exists in the target's memory, in bytes.
const IMAGE_BYTES_MAX: u64 = 64 << 20;

/// An image of which no file exists is kept in the recording up to this size, in bytes: the vDSO, for one.
const RECORDED_IMAGE_BYTES_MAX: usize = 256 << 10;

/// What tells one mapped file from another, as far as /proc/PID/maps does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct FileKey {
    device: Device,
    inode: u64,
    name: PathBuf,
}

/// A parsed image and the number it has in the recording.
#[derive(Clone, Debug)]
struct Known {
    image: Arc<ElfImage>,
    id: ModuleId,
}

/// All images seen in any target.
#[derive(Debug, Default)]
pub(super) struct Images {
    files: FxHashMap<FileKey, Option<Known>>,
}

/// A module of a process, with the number of its file in the recording.
#[derive(Clone, Debug)]
pub(super) struct LoadedModule {
    /// Where it lies.
    pub module: Module,
    /// Its file.
    pub id: ModuleId,
}

impl Images {
    /// The modules that `mappings` of process `pid` show. What cannot be opened or parsed is left out: its frames are
    /// then addresses without a module.
    ///
    /// # Errors
    /// When `sink` could not keep a module it had not seen before.
    pub(super) fn load<S: SampleSink>(
        &mut self,
        pid: Pid,
        mappings: &[Mapping],
        memory: &ProcessMemory,
        sink: &mut S,
    ) -> Result<Vec<LoadedModule>, S::Error> {
        let mut by_file: BTreeMap<FileKey, Vec<&Mapping>> = BTreeMap::new();
        for mapping in mappings {
            if let Some(key) = key_of(mapping) {
                by_file.entry(key).or_default().push(mapping);
            }
        }
        let mut modules = Vec::new();
        for (key, parts) in by_file {
            if !parts.iter().any(|part| part.executable) {
                continue;
            }
            if let Some(known) = self.image_of(pid, &key, &parts, memory, sink)? {
                modules.extend(place(&known, &parts));
            }
        }
        Ok(modules)
    }

    fn image_of<S: SampleSink>(
        &mut self,
        pid: Pid,
        key: &FileKey,
        parts: &[&Mapping],
        memory: &ProcessMemory,
        sink: &mut S,
    ) -> Result<Option<Known>, S::Error> {
        if let Some(known) = self.files.get(key) {
            return Ok(known.clone());
        }
        let from_file = parts
            .iter()
            .find(|part| part.executable)
            .and_then(|part| read_file(pid, part));
        let (image, in_memory) = match from_file {
            Some(image) => (Some(image), None),
            None => match read_memory(parts, memory) {
                Some((image, bytes)) => (Some(image), Some(bytes)),
                None => (None, None),
            },
        };
        let known = match image {
            Some(image) => {
                let info = ModuleInfo {
                    path: key.name.to_string_lossy().into_owned(),
                    build_id: image.build_id().cloned(),
                    image: in_memory.filter(|bytes| bytes.len() <= RECORDED_IMAGE_BYTES_MAX),
                };
                Some(Known {
                    image: Arc::new(image),
                    id: sink.module(&info)?,
                })
            }
            None => None,
        };
        self.files.insert(key.clone(), known.clone());
        Ok(known)
    }
}

/// `None` for a mapping that no ELF image can be in.
fn key_of(mapping: &Mapping) -> Option<FileKey> {
    let name = mapping.name.as_deref()?;
    let is_image = mapping.path().is_some() || name == Path::new("[vdso]");
    is_image.then(|| FileKey {
        device: mapping.device,
        inode: mapping.inode,
        name: name.to_owned(),
    })
}

fn read_file(pid: Pid, mapping: &Mapping) -> Option<ElfImage> {
    let file = target_file::open(pid, mapping).ok()?.file;
    let bytes = ImageBytes::new(Arc::new(MappedFile::map(&file).ok()?));
    ElfImage::parse(bytes).ok()
}

/// Reads an image that no file holds (any more): the vDSO, or a file that was deleted or hidden.
fn read_memory(parts: &[&Mapping], memory: &ProcessMemory) -> Option<(ElfImage, Vec<u8>)> {
    let first = parts
        .iter()
        .find(|part| part.offset.0 == 0 && part.readable)?;
    let mut end = first.range.end;
    while let Some(next) = parts
        .iter()
        .find(|part| part.range.start == end && part.readable)
    {
        end = next.range.end;
    }
    let bytes = (end.0 - first.range.start.0).min(IMAGE_BYTES_MAX);
    let mut image = vec![0; usize::try_from(bytes).ok()?];
    memory.read_exact(first.range.start, &mut image).ok()?;
    let parsed = ElfImage::parse_memory(ImageBytes::new(Arc::new(image.clone()))).ok()?;
    Some((parsed, image))
}

/// Where `known` lies, given all mappings of its file: more than once if it is mapped at several biases.
fn place(known: &Known, parts: &[&Mapping]) -> Vec<LoadedModule> {
    let mut biases: Vec<LoadBias> = parts
        .iter()
        .filter(|part| part.executable)
        .filter_map(|part| {
            known
                .image
                .bias_of_mapping(part.range.start, part.offset, true)
        })
        .collect();
    biases.sort_unstable();
    biases.dedup();
    biases
        .into_iter()
        .filter_map(|bias| {
            let avma = extent(known, bias)?;
            let module = Module {
                avma,
                bias,
                image: Arc::clone(&known.image),
            };
            Some(LoadedModule {
                module,
                id: known.id,
            })
        })
        .collect()
}

fn extent(known: &Known, bias: LoadBias) -> Option<Range<Avma>> {
    let segments = known.image.segments();
    let start = segments.iter().map(|segment| segment.svma.start).min()?;
    let end = segments.iter().map(|segment| segment.svma.end).max()?;
    let range = bias.avma(start)..bias.avma(end);
    (range.start < range.end).then_some(range)
}
