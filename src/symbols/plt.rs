//! Names for the stubs of the procedure linkage table: `printf@plt`.
//!
//! Through such a stub a program calls a function of another file. It jumps to where a slot of the global offset table
//! points, and the relocation of the slot says which function that is (System V ABI, AMD64 supplement, section 5.2).
//! x86_64 alone.

use object::elf::{EM_X86_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, Rela64};
use object::read::elf::{Rela, SectionHeader, Sym};
use object::{Endianness, SectionIndex};
use rustc_hash::FxHashMap;

use super::demangle;
use super::elf::{Elf, symbol_name};

/// The sections that hold stubs.
const SECTIONS: [&[u8]; 3] = [b".plt", b".plt.sec", b".plt.got"];
/// The size of a stub where the section does not state it.
const STUB_BYTES: u64 = 16;
const STUB_BYTES_MAX: u64 = 64;
/// Where in a stub the jump may begin: after `endbr64` (4 bytes), `bnd` (1), or the `mov` of an index (6).
const JUMP_OFFSETS: [usize; 5] = [0, 1, 4, 5, 10];

/// The stubs of one file.
#[derive(Debug)]
pub(super) struct PltStubs<'data> {
    sections: Vec<StubSection<'data>>,
    /// Function by the slot of the global offset table that holds its address.
    by_slot: FxHashMap<u64, &'data str>,
    /// The functions of `.rela.plt` in its order, by which stubs that bind late name theirs.
    by_index: Vec<Option<&'data str>>,
}

#[derive(Debug)]
struct StubSection<'data> {
    start: u64,
    stub_bytes: u64,
    bytes: &'data [u8],
}

impl<'data> PltStubs<'data> {
    /// The stubs of `elf`; `None` where there are none.
    pub(super) fn find(elf: &Elf<'data>) -> Option<Self> {
        if elf.machine() != EM_X86_64 {
            return None;
        }
        let sections: Vec<_> = SECTIONS
            .iter()
            .filter_map(|name| StubSection::find(elf, name))
            .collect();
        if sections.is_empty() {
            return None;
        }
        let mut stubs = Self {
            sections,
            by_slot: FxHashMap::default(),
            by_index: Vec::new(),
        };
        for section in elf.sections.iter() {
            let name = elf.sections.section_name(elf.endian, section);
            if let Ok(Some((relocations, symbols))) = section.rela(elf.endian, elf.data) {
                stubs.add(elf, relocations, symbols, name == Ok(b".rela.plt"));
            }
        }
        Some(stubs)
    }

    /// The name of the stub at `address`.
    pub(super) fn name_at(&self, address: u64) -> Option<String> {
        let section = self
            .sections
            .iter()
            .find(|section| section.holds(address))?;
        let (start, stub) = section.stub_at(address)?;
        let function = match slot(start, stub) {
            Some(slot) => *self.by_slot.get(&slot)?,
            None => {
                let index = usize::try_from(pushed_index(stub)?).ok()?;
                (*self.by_index.get(index)?)?
            }
        };
        Some(format!("{}@plt", demangle(function)))
    }

    fn add(
        &mut self,
        elf: &Elf<'data>,
        relocations: &[Rela64<Endianness>],
        symbols: SectionIndex,
        is_plt: bool,
    ) {
        let table = elf
            .sections
            .symbol_table_by_index(elf.endian, elf.data, symbols);
        let Ok(table) = table else {
            return;
        };
        for relocation in relocations {
            let kind = relocation.r_type(elf.endian, false);
            let is_slot = kind == R_X86_64_JUMP_SLOT || kind == R_X86_64_GLOB_DAT;
            let name = is_slot
                .then(|| table.symbol(relocation.symbol(elf.endian, false)?).ok())
                .flatten()
                .and_then(|symbol| symbol_name(table.strings(), symbol.st_name(elf.endian)));
            if is_plt {
                self.by_index.push(name);
            }
            if let Some(name) = name {
                self.by_slot
                    .insert(relocation.r_offset.get(elf.endian), name);
            }
        }
    }
}

impl<'data> StubSection<'data> {
    fn find(elf: &Elf<'data>, name: &[u8]) -> Option<Self> {
        let (_, section) = elf.sections.section_by_name(elf.endian, name)?;
        let stub_bytes = match section.sh_entsize(elf.endian) {
            stated @ 8..=STUB_BYTES_MAX => stated,
            _ => STUB_BYTES,
        };
        Some(Self {
            start: section.sh_addr(elf.endian),
            stub_bytes,
            bytes: section.data(elf.endian, elf.data).ok()?,
        })
    }

    fn holds(&self, address: u64) -> bool {
        address
            .checked_sub(self.start)
            .is_some_and(|offset| offset < self.bytes.len() as u64)
    }

    /// The stub that `address` lies in: where it starts, and its bytes.
    fn stub_at(&self, address: u64) -> Option<(u64, &'data [u8])> {
        let offset = address.checked_sub(self.start)?;
        let offset = offset - offset % self.stub_bytes;
        let bytes = self.bytes.get(usize::try_from(offset).ok()?..)?;
        let stub = bytes.get(..bytes.len().min(usize::try_from(self.stub_bytes).ok()?))?;
        Some((self.start.checked_add(offset)?, stub))
    }
}

/// The slot that the stub at `start` jumps to the contents of: `jmp *slot(%rip)`.
fn slot(start: u64, stub: &[u8]) -> Option<u64> {
    JUMP_OFFSETS.into_iter().find_map(|at| {
        let [0xff, 0x25, distance @ ..] = *stub.get(at..)?.first_chunk::<6>()? else {
            return None;
        };
        // Counted from the next instruction.
        let next = start.checked_add(at as u64)?.checked_add(6)?;
        next.checked_add_signed(i64::from(i32::from_le_bytes(distance)))
    })
}

/// The number of its relocation that a stub pushes for the loader: `push $index`.
fn pushed_index(stub: &[u8]) -> Option<u32> {
    [0, 4].into_iter().find_map(|at| {
        let [0x68, index @ ..] = *stub.get(at..)?.first_chunk::<5>()? else {
            return None;
        };
        Some(u32::from_le_bytes(index))
    })
}
