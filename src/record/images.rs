//! Which files the targets map, each opened and parsed once.

mod kept_names;
mod placement;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use sampler_platforms::Pid;
use sampler_platforms::linux::ProcessMemory;
use sampler_platforms::linux::proc::maps::{self, Device, Mapping};
use sampler_unwind::{ElfImage, Module};

use self::kept_names::kept_names;
use self::placement::{FileMappings, Place as FilePlace};
use self::source::{Holder, Source};
use super::marks::Mark;
use crate::profile::{ModuleId, ModuleInfo, SampleSink};

/// The vDSO is kept in the recording as a whole, up to this size, in bytes.
const VDSO_BYTES_MAX: usize = 256 << 10;

/// What is kept of all images for their names, in bytes. A program that generates libraries has ever new ones.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Copies of images that only memory holds, in bytes; where there are more, no further ones are made.
const COPIED_BYTES_MAX: usize = 256 << 20;

/// How many images are kept that no target maps any more: the same files are often loaded again. A program that
/// generates libraries has ever new ones.
const UNUSED_MAX: usize = 64;

/// For how many calls of [`Images::load`] a copy is kept that no target maps any more: it can be large.
const UNUSED_COPY_LOADS: u64 = 4;

/// Of how many places it is remembered that a module was said to lie there, besides those where one lies now. A program
/// that loads and unloads without end puts its libraries at ever new ones.
const PLACES_MAX: usize = 4096;

/// How often in a row memory may show another image than a file has, until it is believed that the file is not the one
/// that is mapped. Before that, another one may just have taken its place.
const ANOTHER_TRIES_MAX: u8 = 64;

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
    /// It is there for as long as its process runs the same program.
    stays: bool,
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
    /// Bytes that the recording was given for names.
    kept_bytes: usize,
    /// Files that memory showed another image of when they were looked at, and how often.
    others: FxHashMap<FileKey, u8>,
    /// The last load left such files out.
    is_unsure: bool,
}

/// A module of a process, with the number of its file in the recording.
#[derive(Clone, Debug)]
pub(super) struct LoadedModule {
    /// Where it lies.
    pub module: Module,
    /// Its file.
    pub id: ModuleId,
    /// What shows whether it is still there, if it can be unloaded.
    pub mark: Option<Mark>,
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
        self.is_unsure = false;
        let mut by_file: BTreeMap<FileKey, FileMappings<'_>> = BTreeMap::new();
        for mapping in mappings {
            if let Some(key) = key_of(mapping) {
                by_file.entry(key).or_default().parts.push(mapping);
            }
        }
        for (key, file) in by_file.iter().filter(|(_, file)| file.may_hold_code()) {
            self.known(pid, key, file, memory, sink)?;
        }
        self.find_code_beside(&mut by_file, mappings);
        let mut modules = Vec::new();
        for (key, file) in by_file.iter().filter(|(_, file)| file.may_hold_code()) {
            if let Some(known) = self.known(pid, key, file, memory, sink)? {
                let places = file.places(&known.image, memory).into_iter();
                modules.extend(places.map(|place| known.loaded(place)));
            }
        }
        self.forget_unused();
        Ok(modules)
    }

    /// Whether the last load left out files because others may have taken their places meanwhile.
    pub(super) fn was_unsure(&self) -> bool {
        self.is_unsure
    }

    /// Gives code that is in no image to the files whose mappings are next to it: it may have been theirs.
    fn find_code_beside<'a>(
        &self,
        by_file: &mut BTreeMap<FileKey, FileMappings<'a>>,
        mappings: &'a [Mapping],
    ) {
        let has_image =
            |key: &FileKey| self.files.get(key).is_some_and(|seen| seen.known.is_some());
        let mut add = |beside: Option<&FileKey>, code: &'a Mapping| {
            if let Some(file) = beside.and_then(|key| by_file.get_mut(key)) {
                file.beside.push(code);
            }
        };
        let mut below: Option<FileKey> = None;
        let mut waiting: Vec<&Mapping> = Vec::new();
        for mapping in mappings {
            let key = key_of(mapping);
            if mapping.executable && !key.as_ref().is_some_and(has_image) {
                add(below.as_ref(), mapping);
                waiting.push(mapping);
            } else if key.is_some() {
                for code in waiting.drain(..).filter(|_| key != below) {
                    add(key.as_ref(), code);
                }
                below = key;
            }
        }
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

    /// The image of `file`, which `sink` is told of if it is new; `None` if it is none that can be used.
    fn known<S: SampleSink>(
        &mut self,
        pid: Pid,
        key: &FileKey,
        file: &FileMappings<'_>,
        memory: &ProcessMemory,
        sink: &mut S,
    ) -> Result<Option<Known>, S::Error> {
        if let Some(seen) = self.files.get_mut(key) {
            seen.last_load = self.loads;
            return Ok(seen.known.clone());
        }
        let may_copy = self.copied_bytes() < COPIED_BYTES_MAX;
        let from_file = file.to_open().and_then(|part| source::from_file(pid, part));
        let from_memory = || {
            may_copy
                .then(|| source::from_memory(&file.parts, memory))
                .flatten()
        };
        let source = match from_file {
            Some(source) if is_another(&source, file, memory) => {
                if !is_still_mapped(pid, key) {
                    // Another one has come into its place meanwhile. Which of them lies there is asked with each stack.
                    Some(source)
                } else if self.may_be_it(key) {
                    return Ok(None);
                } else {
                    // It was written to, or has only the number of the one that is mapped.
                    from_memory()
                }
            }
            Some(source) => Some(source),
            None => match from_memory() {
                Some(copy) if is_another(&copy, file, memory) && self.may_be_it(key) => {
                    return Ok(None);
                }
                copy => copy,
            },
        };
        self.others.remove(key);
        let is_copied = source
            .as_ref()
            .is_some_and(|source| source.holder == Holder::Memory);
        let known = match source {
            Some(source) => {
                let info = ModuleInfo {
                    path: key.name.to_string_lossy().into_owned(),
                    build_id: source.image.build_id().cloned(),
                    image: self.keep(key, file, &source, memory),
                };
                Some(Known {
                    // Programs and C libraries ask for a dynamic loader, what is loaded later does not.
                    stays: source.image.asks_for_loader() || key.name == Path::new(VDSO),
                    image: Arc::new(source.image),
                    id: sink.module(&info)?,
                })
            }
            None => None,
        };
        let build_id = source_build_id(known.as_ref());
        tracing::debug!(file = ?key.name, build_id, is_copied, usable = known.is_some(), "a file with code");
        let seen = Seen {
            known: known.clone(),
            is_copied,
            last_load: self.loads,
        };
        self.files.insert(key.clone(), seen);
        Ok(known)
    }

    /// Whether the file that memory shows another image of may be the one that is mapped all the same.
    fn may_be_it(&mut self, key: &FileKey) -> bool {
        if self.others.len() >= UNUSED_MAX && !self.others.contains_key(key) {
            self.others.clear();
        }
        let tries = self.others.entry(key.clone()).or_default();
        *tries += 1;
        let is_open = *tries < ANOTHER_TRIES_MAX;
        self.is_unsure |= is_open;
        is_open
    }

    fn copied_bytes(&self) -> usize {
        let copied = self.files.values().filter(|seen| seen.is_copied);
        let images = copied.filter_map(|seen| seen.known.as_ref());
        images.map(|known| known.image.bytes().len()).sum()
    }

    /// What the recording gets of an image because the report may not find its file.
    fn keep(
        &mut self,
        key: &FileKey,
        file: &FileMappings<'_>,
        source: &Source,
        memory: &ProcessMemory,
    ) -> Option<Vec<u8>> {
        let bytes = source.image.bytes();
        if key.name == Path::new(VDSO) {
            return (bytes.len() <= VDSO_BYTES_MAX).then(|| bytes.to_vec());
        }
        if source.holder == Holder::FileAtItsPath {
            return None;
        }
        let place = file.places(&source.image, memory).into_iter().next();
        let bias = place.map(|place| place.bias).unwrap_or_default();
        let kept = kept_names(&source.image, source.holder, bias)?;
        let kept_bytes = self.kept_bytes.saturating_add(kept.len());
        (kept_bytes <= KEPT_BYTES_MAX).then(|| {
            self.kept_bytes = kept_bytes;
            kept
        })
    }
}

impl Known {
    fn loaded(&self, place: FilePlace) -> LoadedModule {
        LoadedModule {
            mark: Mark::of(&self.image, place.bias).filter(|_| !self.stays),
            module: Module {
                avma: place.avma,
                bias: place.bias,
                image: Arc::clone(&self.image),
            },
            id: self.id,
        }
    }
}

/// For those who want to be told.
fn source_build_id(known: Option<&Known>) -> Option<String> {
    tracing::enabled!(tracing::Level::DEBUG)
        .then(|| known?.image.build_id().map(ToString::to_string))
        .flatten()
}

/// The name of the image that the kernel maps into every process.
const VDSO: &str = "[vdso]";

/// `None` for a mapping that no ELF image can be in.
fn key_of(mapping: &Mapping) -> Option<FileKey> {
    let name = mapping.name.as_deref()?;
    let is_image = mapping.path().is_some() || name == Path::new(VDSO);
    is_image.then(|| FileKey {
        device: mapping.device,
        inode: mapping.inode,
        name: name.to_owned(),
    })
}

/// Whether memory shows another image where that of `source` is to lie.
fn is_another(source: &Source, file: &FileMappings<'_>, memory: &ProcessMemory) -> bool {
    let places = file.places(&source.image, memory).into_iter();
    let mut marks = places.filter_map(|place| Mark::of(&source.image, place.bias));
    marks.any(|mark| mark.is_there(memory) == Ok(false))
}

/// Whether process `pid` maps the file still, as far as it can be asked.
fn is_still_mapped(pid: Pid, key: &FileKey) -> bool {
    let is_it = |mapping: &Mapping| key_of(mapping).as_ref() == Some(key);
    maps::read(pid).map_or(true, |mappings| mappings.iter().any(is_it))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn a_file_is_given_up_only_when_memory_has_often_shown_another_image() {
        let mut images = Images::default();
        let key = |inode| FileKey {
            device: Device { major: 8, minor: 1 },
            inode,
            name: PathBuf::from("/lib/libx.so"),
        };
        let tries = (0..ANOTHER_TRIES_MAX).map(|_| images.may_be_it(&key(1)));
        assert_eq!(tries.filter(|is_open| *is_open).count(), 63);
        for inode in 2..1000 {
            assert!(images.may_be_it(&key(inode)));
            assert!(images.others.len() <= UNUSED_MAX);
        }
        assert!(images.was_unsure());
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
