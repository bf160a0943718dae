//! Go's own table of functions, `.gopclntab`: names, files, lines, and how far the stack pointer has moved.
//!
//! It is in every Go program, also a stripped one (`-ldflags="-s -w"`), because the runtime itself walks stacks by it.
//! Source of the layouts: Go's `runtime/symtab.go`, `runtime/runtime2.go` (`_func`, `inlinedCall`) and
//! `debug/gosym/pclntab.go`, as of Go 1.2, 1.16, 1.18 and 1.20, each of which has its own magic number.

use std::ops::{Deref, Range};

use crate::address::Svma;

/// The header that all versions begin with: magic, two zeros, quantum of PCs, size of a pointer.
const HEADER_BYTES: usize = 8;
const POINTER_BYTES: usize = 8;
/// A name or path longer than this is not believed; generic instances have names of some hundred bytes.
const STRING_BYTES_MAX: usize = 1 << 14;
/// Steps of one PC-value table. Generated functions of 100,000 lines have about as many.
const VALUE_STEPS_MAX: usize = 1 << 20;
/// Which word of the header of Go 1.18 to 1.25 holds the start of the text.
pub(super) const TEXT_START_WORD: u64 = 3;
/// Functions that are asked whether they have an inline tree.
const TRIED_MAX: usize = 1 << 14;
/// How deep functions inlined into each other are followed.
const INLINED_MAX: usize = 256;
/// `PCDATA_InlTreeIndex` and `FUNCDATA_InlTree` (`runtime/symtab.go`, Go 1.16 and later).
const INLINE_INDEX: usize = 2;
const INLINE_TREE: usize = 3;
/// "No such table" among offsets of function data, and "no such file" among those of files.
const NONE: u32 = u32::MAX;

/// The functions of a Go program, read where they lie: nothing is copied or built.
#[derive(Clone, Debug)]
pub struct GoFunctions<B> {
    bytes: B,
    layout: Layout,
    /// What function data is relative to, up to the end of its segment.
    inline_trees: Option<B>,
}

/// A function of a Go program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoFunction<'a> {
    /// Its first instruction.
    pub entry: Svma,
    /// Where the next function starts; bytes of padding may lie before that.
    pub end: Svma,
    /// With its package: `main.(*Shelf).Put`.
    pub name: &'a str,
    /// `funcFlag`, of Go 1.17 and later; zero before that.
    flags: u8,
    /// The position of its `_func`.
    record: usize,
}

impl GoFunction<'_> {
    /// Whether a goroutine or thread begins here, so that there is no caller (`TOPFRAME`; Go 1.17 and later).
    pub fn is_outermost(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Whether it sets the stack pointer otherwise than by pushing and popping, so that the stack pointer's movement
    /// ends to mean anything in it (`SPWRITE`; Go 1.17 and later).
    pub fn writes_stack_pointer(&self) -> bool {
        self.flags & 2 != 0
    }
}

/// A place in the source of a Go program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoLine<'a> {
    /// The path as it was when the program was compiled.
    pub file: &'a str,
    /// The line in it.
    pub line: u32,
}

/// A function at an address: one that was inlined, or the one whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoCall<'a> {
    /// The function's name, with its package.
    pub name: &'a str,
    /// The line in it that the address belongs to: of the call, where another function is inlined there.
    pub line: Option<GoLine<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Go1_2,
    Go1_16,
    Go1_18,
    Go1_20,
}

/// Positions in the table; the sub-tables have no stated end, so each is read up to the end of all.
#[derive(Clone, Copy, Debug)]
struct Layout {
    version: Version,
    /// PCs advance by multiples of this: the length of the shortest instruction.
    quantum: u8,
    /// What entries of Go 1.18 and later are relative to.
    text_start: u64,
    functions: usize,
    names: usize,
    /// By compilation unit, the files that it was made from. In Go 1.2 the files themselves.
    units: usize,
    files: usize,
    values: usize,
    /// Where the functions are listed by address, and what positions of `_func` are relative to.
    index: usize,
    records: usize,
}

/// Where the fields of `_func` lie. Those from the first offset of a PC-value table on are of 32 bits.
#[derive(Clone, Copy, Debug)]
struct RecordFields {
    name: usize,
    stack: usize,
    file: usize,
    line: usize,
    values: usize,
    unit: Option<usize>,
    flags: Option<usize>,
    /// Offsets of further PC-value tables, as many as the field `values` says; then those of function data.
    tables: usize,
}

impl Version {
    fn of(magic: u32) -> Option<Self> {
        match magic {
            0xffff_fffb => Some(Version::Go1_2),
            0xffff_fffa => Some(Version::Go1_16),
            0xffff_fff0 => Some(Version::Go1_18),
            0xffff_fff1 => Some(Version::Go1_20),
            _ => None,
        }
    }

    /// Whether addresses are 32 bits, relative to the text, in place of pointers.
    fn has_offsets(self) -> bool {
        self >= Version::Go1_18
    }

    fn address_bytes(self) -> usize {
        if self.has_offsets() { 4 } else { POINTER_BYTES }
    }

    fn fields(self) -> RecordFields {
        // After the entry: name, args, deferreturn (once: frame), pcsp, pcfile, pcln, npcdata, [cuOffset],
        // [startLine], funcID and flag in one word.
        let name = self.address_bytes();
        let words = |count: usize| name + 4 * count;
        let (unit, last) = match self {
            Version::Go1_2 => (None, 7),
            Version::Go1_16 | Version::Go1_18 => (Some(words(7)), 8),
            Version::Go1_20 => (Some(words(7)), 9),
        };
        RecordFields {
            name,
            stack: words(3),
            file: words(4),
            line: words(5),
            values: words(6),
            unit,
            flags: unit.map(|_| words(last) + 1),
            tables: words(last + 1),
        }
    }
}

impl<B: Deref<Target = [u8]>> GoFunctions<B> {
    /// The table that begins at the first of `bytes` and ends at or before the last of them. `text_start` is where
    /// the code of Go functions begins (`runtime.text`), needed where the header does not say: in programs that are
    /// position independent the loader writes it there, and from Go 1.26 on nobody does.
    ///
    /// `None` when this is no such table for a 64-bit little-endian machine.
    pub fn parse(bytes: B, text_start: Option<Svma>) -> Option<Self> {
        let layout = Layout::parse(&bytes, text_start)?;
        let found = Self {
            bytes,
            layout,
            inline_trees: None,
        };
        // The magic number alone is found by chance in tables of numbers.
        found.function(0)?;
        found.address(found.layout.functions)?;
        Some(found)
    }

    /// Also tells what was inlined. `trees` are the bytes that function data is relative to (`moduledata.gofunc`, of Go
    /// 1.18 and later), up to the end of their segment.
    #[must_use]
    pub fn with_inline_trees(self, trees: B) -> Self {
        Self {
            inline_trees: Some(trees),
            ..self
        }
    }

    /// Which words of `moduledata` (`runtime/symtab.go`) may hold where function data lies.
    pub(super) fn inline_tree_words(&self) -> &'static [u64] {
        match self.layout.version {
            Version::Go1_2 | Version::Go1_16 => &[],
            Version::Go1_18 => &[38],
            // Up to Go 1.26, and in Go 1.27.
            Version::Go1_20 => &[40, 43],
        }
    }

    /// Whether `trees` may be what function data is relative to: it is asked for one function that was inlined.
    pub(super) fn fits_inline_trees(&self, trees: &[u8]) -> bool {
        (0..self.len().min(TRIED_MAX))
            .filter_map(|index| self.function(index))
            .find(|function| self.inline_tree(function).is_some())
            .is_some_and(|function| self.inlined_call(&function, trees, 0).is_some())
    }

    /// Where the code of Go functions begins, as far as this table needs it.
    pub(super) fn text_start(&self) -> Svma {
        Svma(self.layout.text_start)
    }

    /// Whether it tells what was inlined.
    pub fn has_inline_trees(&self) -> bool {
        self.inline_trees.is_some()
    }

    /// Whether `bytes` may begin a table: to look for one where section headers are gone.
    pub fn is_start(bytes: &[u8]) -> bool {
        quantum(bytes).is_some()
    }

    /// How many functions there are.
    pub fn len(&self) -> usize {
        self.layout.functions
    }

    /// Never: a table without functions is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The function that `svma` lies in.
    pub fn find(&self, svma: Svma) -> Option<GoFunction<'_>> {
        // The first function that starts above.
        let mut range = 0..self.len();
        while range.start < range.end {
            let middle = range.start + (range.end - range.start) / 2;
            if self.address(middle)? <= svma {
                range.start = middle + 1;
            } else {
                range.end = middle;
            }
        }
        self.function(range.start.checked_sub(1)?)
            .filter(|function| (function.entry..function.end).contains(&svma))
    }

    /// How many bytes the stack pointer at `svma` is below where it was at the function's entry; so on x86_64 the
    /// return address lies that far above it. `None` where the function does not say, as some in assembler.
    pub fn sp_delta(&self, function: &GoFunction<'_>, svma: Svma) -> Option<i32> {
        let table = self.field(function, self.fields().stack)?;
        // Before the first step the value is -1: "unknown".
        self.value(function, table, svma)
            .filter(|&bytes| bytes >= 0)
    }

    /// The line at `svma`, of whichever function was inlined there.
    pub fn line(&self, function: &GoFunction<'_>, svma: Svma) -> Option<GoLine<'_>> {
        let fields = self.fields();
        let line = self.value(function, self.field(function, fields.line)?, svma)?;
        let file = self.value(function, self.field(function, fields.file)?, svma)?;
        let file = self.file(function, u32::try_from(file).ok()?)?;
        let line = u32::try_from(line).ok().filter(|&line| line != 0)?;
        Some(GoLine { file, line })
    }

    /// The functions at `svma`, innermost inlined first; the last is `function`. Without inline trees, that alone.
    pub fn calls(&self, function: &GoFunction<'_>, svma: Svma) -> Vec<GoCall<'_>> {
        let mut calls = Vec::new();
        let mut at = svma;
        while calls.len() < INLINED_MAX
            && let Some((name, parent)) = self.inlined_at(function, at)
        {
            calls.push(GoCall {
                name,
                line: self.line(function, at),
            });
            at = parent;
        }
        let name = self.name(function);
        let line = self.line(function, at);
        calls.extend(name.map(|name| GoCall { name, line }));
        calls
    }

    /// The innermost function that was inlined at `svma`, and the address whose line is that of its call.
    fn inlined_at(&self, function: &GoFunction<'_>, svma: Svma) -> Option<(&str, Svma)> {
        let trees = self.inline_trees.as_deref()?;
        let index = self.value(function, self.table(function, INLINE_INDEX)?, svma)?;
        self.inlined_call(function, trees, usize::try_from(index).ok()?)
    }

    /// The offset number `index` after the fields of a function's `_func`: first of its PC-value tables, then of its
    /// function data.
    fn table(&self, function: &GoFunction<'_>, index: usize) -> Option<u32> {
        let position = index.checked_mul(4)?.checked_add(self.fields().tables)?;
        self.field(function, position)
    }

    /// Where the inline tree of a function is in the function data, if it has one.
    fn inline_tree(&self, function: &GoFunction<'_>) -> Option<usize> {
        // Before Go 1.18 function data are pointers, and lie elsewhere.
        if !self.layout.version.has_offsets() {
            return None;
        }
        let values = usize::try_from(self.field(function, self.fields().values)?).ok()?;
        if values <= INLINE_INDEX {
            return None;
        }
        let start = self.table(function, values.checked_add(INLINE_TREE)?);
        usize::try_from(start.filter(|&start| start != NONE)?).ok()
    }

    /// The entry number `index` in a function's inline tree, as [`GoFunctions::inlined_at`] has it.
    fn inlined_call(
        &self,
        function: &GoFunction<'_>,
        trees: &[u8],
        index: usize,
    ) -> Option<(&str, Svma)> {
        let start = self.inline_tree(function)?;
        // inlinedCall: in Go 1.18 parent, funcID, file, line, func_, parentPc; in Go 1.20 funcID, nameOff, parentPc,
        // startLine.
        let (bytes, name, parent) = match self.layout.version {
            Version::Go1_20 => (16, 4, 8),
            _ => (20, 12, 16),
        };
        let call = index.checked_mul(bytes)?.checked_add(start)?;
        let name = self.string(self.layout.names, word_at(trees, call.checked_add(name)?)?)?;
        let parent = u64::from(word_at(trees, call.checked_add(parent)?)?);
        let parent = Svma(function.entry.0.checked_add(parent)?);
        (parent < function.end && !name.is_empty()).then_some((name, parent))
    }

    fn fields(&self) -> RecordFields {
        self.layout.version.fields()
    }

    /// The 32-bit field at `position` of a function's `_func`.
    fn field(&self, function: &GoFunction<'_>, position: usize) -> Option<u32> {
        word_at(&self.bytes, function.record.checked_add(position)?)
    }

    /// Where the function number `index` starts, or for the number after the last, where that ends.
    fn address(&self, index: usize) -> Option<Svma> {
        let bytes = self.layout.version.address_bytes();
        let position = index.checked_mul(2 * bytes)?;
        let address = self.address_at(self.layout.index.checked_add(position)?)?;
        Some(Svma(address))
    }

    /// The address at `position`, a pointer or relative to the text.
    fn address_at(&self, position: usize) -> Option<u64> {
        if self.layout.version.has_offsets() {
            let offset = u64::from(word_at(&self.bytes, position)?);
            self.layout.text_start.checked_add(offset)
        } else {
            pointer_at(&self.bytes, position)
        }
    }

    fn function(&self, index: usize) -> Option<GoFunction<'_>> {
        let bytes = self.layout.version.address_bytes();
        let position = index.checked_mul(2)?.checked_add(1)?.checked_mul(bytes)?;
        let position = position.checked_add(self.layout.index)?;
        let offset = if self.layout.version.has_offsets() {
            usize::try_from(word_at(&self.bytes, position)?).ok()?
        } else {
            usize::try_from(pointer_at(&self.bytes, position)?).ok()?
        };
        let record = self.layout.records.checked_add(offset)?;
        let mut function = GoFunction {
            entry: self.address(index)?,
            end: self.address(index.checked_add(1)?)?,
            name: "",
            flags: 0,
            record,
        };
        // The record repeats its function's address.
        if self.address_at(record)? != function.entry.0 {
            return None;
        }
        function.name = self.name(&function)?;
        if let Some(flags) = self.fields().flags {
            function.flags = *self.bytes.get(record.checked_add(flags)?)?;
        }
        Some(function)
    }

    fn name(&self, function: &GoFunction<'_>) -> Option<&str> {
        let name = self.field(function, self.fields().name)?;
        self.string(self.layout.names, name)
    }

    fn file(&self, function: &GoFunction<'_>, number: u32) -> Option<&str> {
        let (first, base) = match self.fields().unit {
            Some(unit) => (self.field(function, unit)?, self.layout.files),
            None => (0, 0),
        };
        let index = usize::try_from(first.checked_add(number)?).ok()?;
        let position = self.layout.units.checked_add(index.checked_mul(4)?)?;
        let offset = word_at(&self.bytes, position).filter(|&offset| offset != NONE)?;
        self.string(base, offset)
    }

    fn string(&self, base: usize, offset: u32) -> Option<&str> {
        let start = base.checked_add(usize::try_from(offset).ok()?)?;
        let bytes = self.bytes.get(start..)?;
        let bytes = bytes.get(..bytes.len().min(STRING_BYTES_MAX))?;
        let length = bytes.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(bytes.get(..length)?).ok()
    }

    /// The value at `svma` in the PC-value table at `offset`.
    ///
    /// A list of steps, each how much the value changes and for how many bytes of code it then holds.
    fn value(&self, function: &GoFunction<'_>, offset: u32, svma: Svma) -> Option<i32> {
        // Zero is "no table".
        if offset == 0 || !(function.entry..function.end).contains(&svma) {
            return None;
        }
        let start = self
            .layout
            .values
            .checked_add(usize::try_from(offset).ok()?)?;
        let mut steps = self.bytes.get(start..)?;
        let mut end = function.entry.0;
        let mut value = -1i32;
        for step in 0..VALUE_STEPS_MAX {
            let change = take_varint(&mut steps)?;
            if change == 0 && step != 0 {
                return None;
            }
            let sign = (change & 1).wrapping_neg();
            value = value.wrapping_add(((change >> 1) ^ sign).cast_signed());
            let code = u64::from(take_varint(&mut steps)?);
            end = end.checked_add(code.checked_mul(u64::from(self.layout.quantum))?)?;
            if svma.0 < end {
                return Some(value);
            }
        }
        None
    }
}

impl Layout {
    fn parse(bytes: &[u8], text_start: Option<Svma>) -> Option<Self> {
        let version = Version::of(word_at(bytes, 0)?)?;
        let quantum = quantum(bytes)?;
        let word = |index: usize| pointer_at(bytes, HEADER_BYTES + index * POINTER_BYTES);
        let size = |index: usize| usize::try_from(word(index)?).ok();
        let functions = size(0).filter(|&functions| functions > 0)?;
        let mut layout = Self {
            version,
            quantum,
            text_start: 0,
            functions,
            names: 0,
            units: 0,
            files: 0,
            values: 0,
            index: HEADER_BYTES + POINTER_BYTES,
            records: 0,
        };
        let first = match version {
            Version::Go1_2 => {
                let after = layout.index_range()?.end;
                layout.units = usize::try_from(word_at(bytes, after)?).ok()?;
                return Some(layout);
            }
            Version::Go1_16 => 2,
            Version::Go1_18 | Version::Go1_20 => 3,
        };
        if version.has_offsets() {
            layout.text_start = match word(2)? {
                0 => text_start?.0,
                stated => stated,
            };
        }
        layout.names = size(first)?;
        layout.units = size(first + 1)?;
        layout.files = size(first + 2)?;
        layout.values = size(first + 3)?;
        layout.index = size(first + 4)?;
        layout.records = layout.index;
        bytes.get(layout.index_range()?)?;
        Some(layout)
    }

    /// The list of functions: an address and a position for each, and where the last one ends.
    fn index_range(&self) -> Option<Range<usize>> {
        let words = self.functions.checked_mul(2)?.checked_add(1)?;
        let bytes = words.checked_mul(self.version.address_bytes())?;
        Some(self.index..self.index.checked_add(bytes)?)
    }
}

/// The quantum of PCs in the header at the start of `bytes`, if it is one for pointers of 64 bits.
fn quantum(bytes: &[u8]) -> Option<u8> {
    Version::of(word_at(bytes, 0)?)?;
    match bytes.get(4..HEADER_BYTES)? {
        [0, 0, quantum @ (1 | 2 | 4), 8] => Some(*quantum),
        _ => None,
    }
}

fn word_at(bytes: &[u8], position: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(position..)?.first_chunk()?))
}

fn pointer_at(bytes: &[u8], position: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(position..)?.first_chunk()?))
}

/// Takes a number of up to 32 bits, seven in each byte, the lowest first.
fn take_varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
