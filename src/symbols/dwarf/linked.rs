//! DWARF of which parts are in other files, by addr2line.

use std::sync::Arc;

use addr2line::gimli::{self, Dwarf, EndianSlice, LittleEndian, UnitRef, UnitType};
use addr2line::{Context, Location, LookupContinuation, LookupResult};
use sampler_unwind::{ElfImage, ImageBytes};
use typed_arena::Arena;

use super::split::SplitFiles;
use super::supplementary;
use super::{DwarfAnswer, DwarfError, DwarfFiles, INLINED_MAX};
use crate::symbols::contain::contain;
use crate::symbols::files::ElfOnDisk;
use crate::symbols::functions::{CodeFunctions, SourceLine};
use crate::symbols::{NameSource, NameTable};

/// Units of a file that are looked at to learn whether it is split.
pub(super) const UNITS_MAX: usize = 1 << 20;

/// Reads sections that an arena holds.
pub(super) type Reader<'arena> = EndianSlice<'arena, LittleEndian>;

/// Whether the DWARF of `file` cannot be read without other files, or names some for another reader to open.
pub(super) fn names_other_files(file: &ElfOnDisk) -> bool {
    let Some(image) = file.image() else {
        return false;
    };
    [".gnu_debugaltlink", ".debug_sup", ".gnu_debuglink"]
        .iter()
        .any(|name| image.section(name).is_some())
        || file.path_with(".dwp").exists()
        || is_split(image).unwrap_or_default()
}

/// Whether the compiler left the DWARF of a unit in another file.
fn is_split(image: &ElfImage) -> gimli::Result<bool> {
    // Such units have their addresses apart.
    if image.section(".debug_addr").is_none() {
        return Ok(false);
    }
    let arena = Arena::new();
    let [info, abbreviations] =
        [".debug_info", ".debug_abbrev"].map(|name| section(&arena, image, name));
    let abbreviations = gimli::DebugAbbrev::from(abbreviations);
    let mut units = gimli::DebugInfo::from(info).units();
    for _ in 0..UNITS_MAX {
        let Some(header) = units.next()? else {
            break;
        };
        let is_split = match header.type_() {
            UnitType::Skeleton(_) => true,
            // The GNU form of before DWARF 5: an attribute of the unit.
            _ if header.version() < 5 => {
                let abbreviations = header.abbreviations(&abbreviations)?;
                let root = header.entries(&abbreviations).next_dfs()?.cloned();
                root.is_some_and(|root| root.attr(gimli::DW_AT_GNU_dwo_id).is_some())
            }
            _ => false,
        };
        if is_split {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The contents of the section `name` of `image`; no bytes where there is none.
pub(super) fn section<'arena>(
    arena: &'arena Arena<ImageBytes>,
    image: &ElfImage,
    name: &str,
) -> Reader<'arena> {
    let bytes = image.section(name).unwrap_or_default();
    EndianSlice::new(arena.alloc(bytes), LittleEndian)
}

/// As [`super::look_up`].
pub(super) fn look_up(files: DwarfFiles<'_>, addresses: &[u64]) -> Result<DwarfAnswer, DwarfError> {
    let file = files.file;
    let arena = Arena::new();
    let mut answer = DwarfAnswer::default();
    let supplementary = match supplementary::find(file, files.paths) {
        Ok(found) => found,
        Err(note) => {
            answer.notes.push(note.to_string());
            None
        }
    };
    let source = NameSource {
        table: match supplementary {
            Some(_) => NameTable::Dwz,
            None => NameTable::Dwarf,
        },
        file: file.found,
    };
    let context = contain(|| context(file, supplementary.as_ref(), &arena))?
        .map_err(|error| DwarfError::Unreadable(error.to_string()))?;
    let mut split = contain(|| SplitFiles::new(files, &arena))?;
    for &address in addresses {
        match contain(|| functions_at(&context, &mut split, source, address)) {
            Ok(Ok(functions)) => answer.push(functions),
            Ok(Err(_)) | Err(_) => answer.push_damaged(),
        }
    }
    answer.notes.extend(split.note());
    Ok(answer)
}

fn context<'arena>(
    file: &ElfOnDisk,
    supplementary: Option<&ElfOnDisk>,
    arena: &'arena Arena<ImageBytes>,
) -> gimli::Result<Context<Reader<'arena>>> {
    let load = |file: &ElfOnDisk, id: gimli::SectionId| match file.image() {
        Some(image) => Ok::<_, gimli::Error>(section(arena, image, id.name())),
        None => Ok(Reader::default()),
    };
    let mut dwarf = Dwarf::load(|id| load(file, id))?;
    if let Some(supplementary) = supplementary {
        dwarf.load_sup(|id| load(supplementary, id))?;
    }
    dwarf.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::Duplicates);
    Context::from_dwarf(dwarf)
}

fn functions_at<'arena>(
    context: &Context<Reader<'arena>>,
    split: &mut SplitFiles<'_, 'arena>,
    source: NameSource,
    address: u64,
) -> gimli::Result<CodeFunctions> {
    let mut frames = finish(context.find_frames(address), split)?;
    let mut functions = Vec::new();
    while let Some(frame) = frames.next()? {
        let name = frame
            .function
            .map(|function| function.name.to_string_lossy());
        let name = name.map(|name| name.into_owned());
        functions.push((name, frame.location.as_ref().and_then(line_of)));
        if functions.len() > INLINED_MAX {
            break;
        }
    }
    let (name, line) = functions.pop().unwrap_or_default();
    let unit = finish(context.find_dwarf_and_unit(address), split);
    let table = unit.and_then(|unit: UnitRef<'_, _>| split.table_of(&unit));
    Ok(CodeFunctions {
        name,
        line,
        inlined: functions
            .into_iter()
            .rev()
            .filter_map(|(name, line)| Some((name?, line)))
            .collect(),
        source: NameSource {
            table: table.unwrap_or(source.table),
            ..source
        },
    })
}

/// Loads what a look-up asks for until it has its answer.
fn finish<'arena, L>(mut result: LookupResult<L>, split: &mut SplitFiles<'_, 'arena>) -> L::Output
where
    L: LookupContinuation<Buf = Reader<'arena>>,
{
    loop {
        match result {
            LookupResult::Output(output) => return output,
            LookupResult::Load { load, continuation } => {
                result = continuation.resume(split.load(&load).map(Arc::new));
            }
        }
    }
}

/// `None` where the compiler says that the code belongs to no line.
fn line_of(location: &Location<'_>) -> Option<SourceLine> {
    Some(SourceLine {
        file: location.file?.to_owned(),
        line: Some(location.line.filter(|&line| line != 0)?),
    })
}
