//! What is kept of an image for its names, where its file may not be found when the report is made.
//!
//! A small ELF file with the function symbols and nothing else: the report reads it as it reads any other.

use object::elf::{
    DT_GNU_HASH, DT_HASH, DT_STRSZ, DT_STRTAB, DT_SYMTAB, Dyn64, DynamicTag, ET_DYN, FileHeader64,
    PT_DYNAMIC, ProgramHeader64, SHF_ALLOC, SHF_EXECINSTR, SHT_DYNSYM, SHT_NOBITS, SHT_STRTAB,
    SHT_SYMTAB, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, SectionType, Sym64, SymbolSection,
};
use object::pod::slice_from_bytes;
use object::read::StringTable;
use object::read::elf::{FileHeader, GnuHashTable, HashTable, ProgramHeader, Sym};
use object::{Endianness, pod};
use sampler_unwind::{Arch, Avma, ElfImage, LoadBias, Segment, Svma};

use super::source::Holder;

/// How large it may become, in bytes: some 40,000 functions.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// Symbols that are read of one table.
const SYMBOLS_MAX: usize = 1 << 20;

/// A longer name is not kept, in bytes.
const NAME_BYTES_MAX: usize = 4 << 10;

/// Sections of code that are told apart; files have one to three.
const CODE_SECTIONS_MAX: usize = 64;

/// elf(5): how long headers are in bytes, where a 64-bit file is told.
const FILE_HEADER_BYTES: usize = 64;
const SECTION_HEADER_BYTES: usize = 64;
const SYMBOL_BYTES: u64 = 24;

const ENDIAN: Endianness = Endianness::Little;

type Symbol = Sym64<Endianness>;

/// An ELF file with the names of `image`, whose bytes are held by `holder` and which lies in the target at `bias`: of
/// all its functions or, where those are too many, of the exported ones. `None` where there is nothing to keep.
pub(super) fn kept_names(image: &ElfImage, holder: Holder, bias: LoadBias) -> Option<Vec<u8>> {
    let bytes: &[u8] = image.bytes();
    let code: Vec<&Segment> = image
        .segments()
        .iter()
        .filter(|segment| segment.executable)
        .take(CODE_SECTIONS_MAX)
        .collect();
    let file = |symbols, strings| small_file(&code, symbols, strings);
    if holder == Holder::Memory {
        let (symbols, strings) = dynamic_symbols(image, bias)?;
        return file(symbols, strings);
    }
    [SHT_SYMTAB, SHT_DYNSYM].into_iter().find_map(|kind| {
        let (symbols, strings) = section_symbols(bytes, kind)?;
        file(symbols, strings)
    })
}

/// The symbols of a file, by its section headers.
fn section_symbols(bytes: &[u8], kind: SectionType) -> Option<(&[Symbol], StringTable<'_>)> {
    let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
    let sections = header.sections(ENDIAN, bytes).ok()?;
    let table = sections.symbols(ENDIAN, bytes, kind).ok()?;
    Some((table.iter().as_slice(), table.strings()))
}

/// The exported symbols of an image in memory, by its dynamic section: what the dynamic loader itself needs.
fn dynamic_symbols(image: &ElfImage, bias: LoadBias) -> Option<(&[Symbol], StringTable<'_>)> {
    let bytes: &[u8] = image.bytes();
    let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
    let headers: &[ProgramHeader64<Endianness>] = header.program_headers(ENDIAN, bytes).ok()?;
    let dynamic = headers
        .iter()
        .find(|header| header.p_type(ENDIAN) == PT_DYNAMIC)?;
    let entries = image.bytes_at(Svma(dynamic.p_vaddr(ENDIAN)))?;
    let count = usize::try_from(dynamic.p_memsz(ENDIAN)).ok()? / size_of::<Dyn64<Endianness>>();
    let fitting = count.min(entries.len() / size_of::<Dyn64<Endianness>>());
    let (entries, _) = slice_from_bytes::<Dyn64<Endianness>>(entries, fitting).ok()?;
    let value = |tag: DynamicTag| {
        let entry = entries
            .iter()
            .find(|entry| entry.d_tag.get(ENDIAN) == tag)?;
        Some(entry.d_val.get(ENDIAN))
    };
    // glibc has moved these addresses to where the image lies; musl and the kernel leave them as they are.
    let table = |tag: DynamicTag| {
        let address = value(tag)?;
        let stated = image.bytes_at(Svma(address));
        stated.or_else(|| image.bytes_at(bias.svma(Avma(address))))
    };
    let count = symbol_count(table(DT_HASH), table(DT_GNU_HASH))?;
    let symbols = table(DT_SYMTAB)?;
    let fitting = count.min(symbols.len() / size_of::<Symbol>());
    let (symbols, _) = slice_from_bytes::<Symbol>(symbols, fitting).ok()?;
    let strings = table(DT_STRTAB)?;
    let end = value(DT_STRSZ)?.min(strings.len() as u64);
    Some((symbols, StringTable::new(strings, 0, end)))
}

/// How many symbols there are, which only the tables for looking them up tell.
fn symbol_count(hash: Option<&[u8]>, gnu_hash: Option<&[u8]>) -> Option<usize> {
    type Header = FileHeader64<Endianness>;
    let by_hash = || {
        let table = HashTable::<Header>::parse(ENDIAN, hash?).ok()?;
        Some(table.symbol_table_length())
    };
    let by_gnu_hash = || {
        let table = GnuHashTable::<Header>::parse(ENDIAN, gnu_hash?).ok()?;
        table.symbol_table_length(ENDIAN)
    };
    usize::try_from(by_hash().or_else(by_gnu_hash)?).ok()
}

/// The function symbols among `symbols` as a file, or `None` if there are none or they become too many.
fn small_file(code: &[&Segment], symbols: &[Symbol], strings: StringTable<'_>) -> Option<Vec<u8>> {
    let mut names = vec![0];
    let mut table = vec![0; size_of::<Symbol>()];
    for symbol in symbols.iter().take(SYMBOLS_MAX) {
        let is_function = matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC | STT_NOTYPE);
        let value = Svma(symbol.st_value(ENDIAN));
        let in_it = |segment: &&Segment| segment.svma.contains(&value);
        let Some(section) = code.iter().position(in_it).filter(|_| is_function) else {
            continue;
        };
        let name = strings.get(symbol.st_name(ENDIAN)).unwrap_or_default();
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            continue;
        }
        let mut kept = *symbol;
        kept.st_name.set(ENDIAN, u32::try_from(names.len()).ok()?);
        kept.st_shndx
            .set(ENDIAN, SymbolSection(u16::try_from(section + 1).ok()?));
        table.extend(pod::bytes_of(&kept));
        names.extend(name);
        names.push(0);
        if names.len() + table.len() > KEPT_BYTES_MAX {
            return None;
        }
    }
    (table.len() > size_of::<Symbol>()).then(|| assemble(code, &table, &names))
}

/// Writes the file: its header, the two tables, and the section headers (elf(5)).
fn assemble(code: &[&Segment], table: &[u8], names: &[u8]) -> Vec<u8> {
    let table_at = FILE_HEADER_BYTES;
    let names_at = table_at + table.len();
    let headers_at = (names_at + names.len()).next_multiple_of(8);
    // None, those of code, the symbols, the names.
    let strings_index = code.len() + 2;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    let half = |file: &mut Vec<u8>, value: usize| {
        file.extend(u16::try_from(value).unwrap_or_default().to_le_bytes());
    };
    half(&mut file, usize::from(ET_DYN.0));
    half(&mut file, usize::from(Arch::NATIVE.elf_machine));
    file.extend(1u32.to_le_bytes());
    for word in [0, 0, headers_at as u64] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0; 4]);
    for value in [
        FILE_HEADER_BYTES,
        0,
        0,
        SECTION_HEADER_BYTES,
        strings_index + 1,
        strings_index,
    ] {
        half(&mut file, value);
    }
    file.extend(table);
    file.extend(names);
    file.resize(headers_at, 0);
    file.resize(headers_at + SECTION_HEADER_BYTES, 0);
    for segment in code {
        let bytes = segment.svma.end.0.saturating_sub(segment.svma.start.0);
        let flags = SHF_ALLOC.0 | SHF_EXECINSTR.0;
        section(
            &mut file,
            SHT_NOBITS,
            flags,
            [segment.svma.start.0, 0, bytes],
            [0; 2],
        );
    }
    let link = [strings_index as u64, SYMBOL_BYTES];
    section(
        &mut file,
        SHT_SYMTAB,
        0,
        [0, table_at as u64, table.len() as u64],
        link,
    );
    section(
        &mut file,
        SHT_STRTAB,
        0,
        [0, names_at as u64, names.len() as u64],
        [0; 2],
    );
    file
}

/// Appends a section header: kind, flags, `[address, position, bytes]`, `[linked section, bytes of an entry]`.
fn section(file: &mut Vec<u8>, kind: SectionType, flags: u64, place: [u64; 3], link: [u64; 2]) {
    let [linked, entry_bytes] = link;
    file.extend(0u32.to_le_bytes());
    file.extend(kind.0.to_le_bytes());
    file.extend(flags.to_le_bytes());
    for word in place {
        file.extend(word.to_le_bytes());
    }
    file.extend(u32::try_from(linked).unwrap_or_default().to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for word in [1, entry_bytes] {
        file.extend(word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use object::read::elf::SectionHeader;
    use proptest::prelude::*;
    use sampler_unwind::ImageBytes;

    use super::*;

    static START_OF_OWN_FILE: LazyLock<Vec<u8>> =
        LazyLock::new(|| own_file().into_iter().take(1 << 16).collect());

    fn own_file() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    fn parse(bytes: Vec<u8>) -> ElfImage {
        ElfImage::parse(ImageBytes::new(Arc::new(bytes))).unwrap()
    }

    fn names_in(file: &[u8]) -> Vec<String> {
        let (symbols, strings) = section_symbols(file, SHT_SYMTAB).unwrap();
        let names = symbols.iter().skip(1).map(|symbol| {
            let name = strings.get(symbol.st_name(ENDIAN)).unwrap();
            String::from_utf8(name.to_vec()).unwrap()
        });
        names.collect()
    }

    #[test]
    fn a_file_keeps_its_functions_and_where_they_are() {
        let whole = own_file();
        let (symbols, strings) = section_symbols(&whole, SHT_SYMTAB).unwrap();
        let image = parse(whole.clone());
        let code: Vec<&Segment> = image.segments().iter().filter(|it| it.executable).collect();
        let few = &symbols[symbols.len() - 2000..];
        let kept = small_file(&code, few, strings).unwrap();
        let names = names_in(&kept);
        assert!(names.len() > 100, "{names:?}");
        let header = FileHeader64::<Endianness>::parse(&*kept).unwrap();
        let sections = header.sections(ENDIAN, &*kept).unwrap();
        let (found, _) = section_symbols(&kept, SHT_SYMTAB).unwrap();
        for symbol in found.iter().skip(1) {
            let index = usize::from(symbol.st_shndx.get(ENDIAN).0);
            let section = sections.section(object::SectionIndex(index)).unwrap();
            let from = section.sh_addr(ENDIAN);
            let range = from..from + section.sh_size(ENDIAN);
            assert!(range.contains(&symbol.st_value(ENDIAN)));
        }
    }

    #[test]
    fn too_many_functions_are_not_kept() {
        let whole = own_file();
        let (symbols, strings) = section_symbols(&whole, SHT_SYMTAB).unwrap();
        let image = parse(whole.clone());
        let code: Vec<&Segment> = image.segments().iter().filter(|it| it.executable).collect();
        let many: Vec<Symbol> = symbols.iter().copied().cycle().take(SYMBOLS_MAX).collect();
        assert_eq!(small_file(&code, &many, strings), None);
        assert_eq!(small_file(&code, &[], strings), None);
    }

    proptest! {
        /// Whatever stands in the file or the memory, it is read without a panic and within the bounds.
        #[test]
        fn garbage_is_survived(
            holder in prop::sample::select(vec![Holder::FileElsewhere, Holder::Memory]),
            changes in prop::collection::vec((0usize..8192, any::<u8>()), 0..200),
        ) {
            let mut bytes = START_OF_OWN_FILE.clone();
            for (at, byte) in changes {
                if let Some(slot) = bytes.get_mut(at) {
                    *slot = byte;
                }
            }
            let bytes = ImageBytes::new(Arc::new(bytes));
            let image = match holder {
                Holder::Memory => ElfImage::parse_memory(bytes),
                _ => ElfImage::parse(bytes),
            };
            if let Ok(image) = image {
                let kept = kept_names(&image, holder, LoadBias(0x1000));
                prop_assert!(kept.is_none_or(|kept| kept.len() <= KEPT_BYTES_MAX + (1 << 16)));
            }
        }
    }
}
