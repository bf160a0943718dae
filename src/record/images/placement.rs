//! Where in a process an image lies, by the mappings of its file and by code that was put in their place.

use std::ops::Range;

use sampler_platforms::linux::proc::maps::Mapping;
use sampler_unwind::{Avma, ElfImage, LoadBias, MemoryReader, Segment};

/// How much of remapped code is compared with the file's, in bytes, at its beginning and at its end.
const COMPARED_BYTES: u64 = 64;

/// At how many places one file is looked for. A library is in each of the 16 namespaces of dlmopen(3) at most; a process
/// that maps a file ten thousand times must not cost that many times as many comparisons.
const PLACES_MAX: usize = 64;

/// The smallest page.
const PAGE_MASK: u64 = 0xfff;

/// Where an image lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From its first to its last mapped byte.
    pub avma: Range<Avma>,
    /// What was added to the addresses that its file states.
    pub bias: LoadBias,
}

/// The mappings of one file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileMappings<'a> {
    /// Those that the kernel shows with the file's name.
    pub parts: Vec<&'a Mapping>,
    /// Code without a file beside them. Some programs copy their code to memory of their own at the same addresses, to
    /// have it in huge pages.
    pub beside: Vec<&'a Mapping>,
}

impl FileMappings<'_> {
    /// Whether code can be in them.
    pub(super) fn may_hold_code(&self) -> bool {
        !self.beside.is_empty() || self.parts.iter().any(|part| part.executable)
    }

    /// The mapping through which the file is opened.
    pub(super) fn to_open(&self) -> Option<&Mapping> {
        let code = self.parts.iter().find(|part| part.executable);
        code.or(self.parts.first()).copied()
    }

    /// Where `image`, which is that of this file, lies: at more than one place if it is mapped more than once.
    pub(super) fn places<M: MemoryReader>(&self, image: &ElfImage, memory: &M) -> Vec<Place> {
        let mut biases = self.biases(image, true);
        if biases.is_empty() && !self.beside.is_empty() {
            biases = self.biases(image, false);
            biases.retain(|bias| {
                let mut beside = self.beside.iter();
                beside.any(|code| is_code_of(image, *bias, code, memory))
            });
        }
        let places = biases.into_iter();
        places.filter_map(|bias| self.place(image, bias)).collect()
    }

    /// All load biases that the mappings with code (or the others) tell.
    fn biases(&self, image: &ElfImage, executable: bool) -> Vec<LoadBias> {
        let parts = self.parts.iter();
        let mut biases: Vec<LoadBias> = parts
            .filter(|part| part.executable == executable)
            .filter_map(|part| image.bias_of_mapping(part.range.start, part.offset, executable))
            .collect();
        biases.sort_unstable();
        biases.dedup();
        biases.truncate(PLACES_MAX);
        biases
    }

    /// From the first to the last of the mappings that lie where the image's segments do. The segments alone would
    /// claim what is not mapped of them, where another file may lie.
    fn place(&self, image: &ElfImage, bias: LoadBias) -> Option<Place> {
        let segments = image.segments();
        let first = segments.iter().map(|segment| segment.svma.start).min()?;
        let last = segments.iter().map(|segment| segment.svma.end).max()?;
        let stated = bias.avma(first)..bias.avma(last);
        let mapped = self
            .parts
            .iter()
            .chain(&self.beside)
            .map(|part| &part.range);
        let within = mapped
            .map(|range| range.start.max(stated.start)..range.end.min(stated.end))
            .filter(|range| range.start < range.end);
        let hull =
            within.reduce(|hull, range| hull.start.min(range.start)..hull.end.max(range.end))?;
        Some(Place { avma: hull, bias })
    }
}

/// Whether `mapping`, which has no file, holds code that `image` has at that address.
fn is_code_of<M: MemoryReader>(
    image: &ElfImage,
    bias: LoadBias,
    mapping: &Mapping,
    memory: &M,
) -> bool {
    let in_it = |segment: &&Segment| {
        let start = bias.avma(segment.svma.start).0 & !PAGE_MASK;
        let end = bias.avma(segment.svma.end).0;
        segment.executable && start < mapping.range.end.0 && mapping.range.start.0 < end
    };
    let Some(segment) = image.segments().iter().find(in_it) else {
        return false;
    };
    let start = bias.avma(segment.svma.start).max(mapping.range.start);
    let end = bias.avma(segment.svma.end).min(mapping.range.end);
    let last = Avma(end.0.saturating_sub(COMPARED_BYTES).max(start.0));
    [start, last].into_iter().all(|at| {
        let bytes = COMPARED_BYTES.min(end.0.saturating_sub(at.0));
        let mut found = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let stated = image.bytes_at(bias.svma(at));
        memory.read_exact(at, &mut found).is_ok()
            && stated.is_some_and(|stated| !found.is_empty() && stated.starts_with(&found))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use sampler_platforms::Pid;
    use sampler_platforms::linux::ProcessMemory;
    use sampler_platforms::linux::proc::maps;
    use sampler_unwind::{ImageBytes, SliceMemory};

    use super::*;

    /// The image of this very program, and its mappings.
    fn own() -> (ElfImage, Vec<Mapping>) {
        let program = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&program).unwrap();
        let image = ElfImage::parse(ImageBytes::new(Arc::new(bytes))).unwrap();
        let mappings = maps::read(own_pid()).unwrap();
        let is_own = |mapping: &Mapping| mapping.path() == Some(Path::new(&program));
        (image, mappings.into_iter().filter(is_own).collect())
    }

    fn own_pid() -> Pid {
        Pid(std::process::id().cast_signed())
    }

    #[test]
    fn code_that_was_copied_to_memory_without_a_file_is_the_files() {
        let (image, mappings) = own();
        let (code, parts): (Vec<_>, Vec<_>) = mappings.iter().partition(|part| part.executable);
        let memory = ProcessMemory::new(own_pid());
        let whole = FileMappings {
            parts: mappings.iter().collect(),
            beside: Vec::new(),
        };
        let expected = whole.places(&image, &memory);
        assert_eq!(expected.len(), 1);
        let remapped = FileMappings {
            parts,
            beside: code,
        };
        assert!(remapped.may_hold_code());
        assert_eq!(remapped.places(&image, &memory), expected);
        let other_code = SliceMemory::new(Avma(0), &[]);
        assert_eq!(remapped.places(&image, &other_code), []);
    }

    #[test]
    fn a_file_that_is_mapped_ever_so_often_is_found_at_some_places() {
        let (image, mappings) = own();
        let code = mappings.iter().find(|part| part.executable).unwrap();
        let copies: Vec<Mapping> = (0..10_000)
            .map(|number| {
                let [start, end] = [code.range.start, code.range.end]
                    .map(|at| Avma(at.0 + number * 0x1_0000_0000));
                Mapping {
                    range: start..end,
                    ..code.clone()
                }
            })
            .collect();
        let often = FileMappings {
            parts: copies.iter().collect(),
            beside: Vec::new(),
        };
        let places = often.places(&image, &ProcessMemory::new(own_pid()));
        assert_eq!(places.len(), PLACES_MAX);
    }

    #[test]
    fn what_is_not_mapped_is_not_claimed() {
        let (image, mappings) = own();
        let code = mappings.iter().find(|part| part.executable).unwrap();
        let partly = FileMappings {
            parts: vec![code],
            beside: Vec::new(),
        };
        let places = partly.places(&image, &ProcessMemory::new(own_pid()));
        let [place] = &places[..] else {
            panic!("{places:?}");
        };
        assert!(code.range.start <= place.avma.start && place.avma.end <= code.range.end);
    }
}
