//! Which files the targets map, each opened and parsed once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
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

/// How many images are kept that no target maps any more: the same files are often loaded again. A program that
/// generates libraries has ever new ones.
const UNUSED_MAX: usize = 64;

/// For how many calls of [`Images::load`] a copy is kept that no target maps any more: it can be large.
const UNUSED_COPY_LOADS: u64 = 4;

/// Of how many places it is remembered that a module was said to lie there, besides those where one lies now. A program
/// that loads and unloads without end puts its libraries at ever new ones.
const PLACES_MAX: usize = 4096;

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

/// A file that was looked at.
#[derive(Debug)]
struct Seen {
    /// `None` if it is no image that can be used.
    known: Option<Known>,
    /// Its bytes are no mapped file but a copy of ours.
    is_copied: bool,
    /// The number of the [`Images::load`] that last came across it.
    last_load: u64,
}

/// All images that targets map, and the last that they did.
#[derive(Debug, Default)]
pub(super) struct Images {
    files: FxHashMap<FileKey, Seen>,
    /// How many calls of [`Images::load`] there were.
    loads: u64,
}

/// A module of a process, with the number of its file in the recording.
#[derive(Clone, Debug)]
pub(super) struct LoadedModule {
    /// Where it lies.
    pub module: Module,
    /// Its file.
    pub id: ModuleId,
}

/// A module and its load bias.
pub(super) type Place = (ModuleId, u64);

/// Where modules of one process were said to lie.
#[derive(Debug, Default)]
pub(super) struct Places(FxHashSet<Place>);

impl Places {
    /// Forgets where modules once lay, if that has become much: all but `now`. One that comes back there is new again.
    pub(super) fn make_room(&mut self, now: impl ExactSizeIterator<Item = Place>) {
        if self.0.len() >= PLACES_MAX.max(2 * now.len()) {
            let now: FxHashSet<_> = now.collect();
            self.0.retain(|place| now.contains(place));
        }
    }

    /// Adds one; whether it is new.
    pub(super) fn insert(&mut self, place: Place) -> bool {
        self.0.insert(place)
    }
}

impl LoadedModule {
    /// What tells it from any other in its process.
    pub(super) fn place(&self) -> Place {
        (self.id, self.module.bias.0)
    }
}

impl Seen {
    /// Whether some process has it as a module: then it is shared.
    fn is_mapped(&self) -> bool {
        let shared = |known: &Known| Arc::strong_count(&known.image) > 1;
        self.known.as_ref().is_some_and(shared)
    }
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
        self.loads += 1;
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
        self.forget_unused();
        Ok(modules)
    }

    /// Lets go of what no process maps: copies soon, files when there are many, those first that have not been mapped
    /// for longest.
    fn forget_unused(&mut self) {
        let copies_from = self.loads.saturating_sub(UNUSED_COPY_LOADS);
        self.files
            .retain(|_, seen| seen.is_mapped() || !seen.is_copied || seen.last_load > copies_from);
        let unused = self.files.values().filter(|seen| !seen.is_mapped());
        let mut last_loads: Vec<u64> = unused.map(|seen| seen.last_load).collect();
        let Some(excess) = last_loads.len().checked_sub(UNUSED_MAX + 1) else {
            return;
        };
        let (_, &mut newest_to_go, _) = last_loads.select_nth_unstable(excess);
        self.files
            .retain(|_, seen| seen.is_mapped() || seen.last_load > newest_to_go);
    }

    fn image_of<S: SampleSink>(
        &mut self,
        pid: Pid,
        key: &FileKey,
        parts: &[&Mapping],
        memory: &ProcessMemory,
        sink: &mut S,
    ) -> Result<Option<Known>, S::Error> {
        if let Some(seen) = self.files.get_mut(key) {
            seen.last_load = self.loads;
            return Ok(seen.known.clone());
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
        let is_copied = in_memory.is_some();
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
        let seen = Seen {
            known: known.clone(),
            is_copied,
            last_load: self.loads,
        };
        self.files.insert(key.clone(), seen);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use sampler_platforms::linux::proc::maps;

    use super::*;
    use crate::profile::ProfileBuilder;

    #[test]
    fn ever_new_files_are_forgotten_and_those_that_are_mapped_are_kept() {
        let pid = Pid(std::process::id().cast_signed());
        let program = std::env::current_exe().unwrap();
        let own: Vec<Mapping> = maps::read(pid)
            .unwrap()
            .into_iter()
            .filter(|mapping| mapping.path() == Some(&program))
            .collect();
        // On the same file system, for the links.
        let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let memory = ProcessMemory::new(pid);
        let (mut images, mut sink) = (Images::default(), ProfileBuilder::new());
        let mapped = images.load(pid, &own, &memory, &mut sink).unwrap();
        assert_eq!(mapped.len(), 1);
        for number in 0..3 * UNUSED_MAX {
            let name = folder.path().join(number.to_string());
            fs::hard_link(&program, &name).unwrap();
            let renamed: Vec<Mapping> = own
                .iter()
                .map(|mapping| Mapping {
                    name: Some(name.clone()),
                    ..mapping.clone()
                })
                .collect();
            let new = images.load(pid, &renamed, &memory, &mut sink).unwrap();
            assert_eq!(new.len(), 1);
            assert_ne!(new[0].id, mapped[0].id);
            let again = images.load(pid, &renamed, &memory, &mut sink).unwrap();
            assert_eq!(again[0].id, new[0].id);
        }
        assert!(
            (UNUSED_MAX..UNUSED_MAX + 3).contains(&images.files.len()),
            "{}",
            images.files.len()
        );
        let again = images.load(pid, &own, &memory, &mut sink).unwrap();
        assert_eq!(again[0].id, mapped[0].id);
    }

    #[test]
    fn places_are_forgotten_but_those_of_now() {
        let mut places = Places::default();
        let now = [(ModuleId(0), 0), (ModuleId(1), 0)];
        assert!(now.into_iter().all(|place| places.insert(place)));
        for bias in 1..10 * PLACES_MAX as u64 {
            places.make_room(now.into_iter());
            assert!(places.insert((ModuleId(1), bias)));
            assert!(places.0.len() <= PLACES_MAX);
        }
        assert!(!now.into_iter().any(|place| places.insert(place)));
    }
}
