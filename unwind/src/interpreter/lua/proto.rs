//! Functions: where they are and where their lines are.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::calls::RawCall;
use super::layout::{
    INSTRUCTION_BYTES, Layout, STRING_HEAD_BYTES, STRING_LENGTH, STRING_SHORT_LENGTH, Strings, TAG,
};
use super::names;
use crate::address::Avma;
use crate::interpreter::luajit::chunk_name;
use crate::interpreter::{Function, Language, Lost};
use crate::memory::MemoryReader;

/// Functions that are remembered.
const PROTOS_MAX: usize = 1 << 14;
/// Instructions of one function: 5.4 could count no more lines in half a gigabyte of source.
const INSTRUCTIONS_MAX: u32 = 1 << 20;
/// Lines that are remembered, of all functions.
const LINES_KEPT_MAX: usize = 8 << 20;
/// The longest name of a chunk that is shown whole, in bytes.
const SOURCE_BYTES_MAX: usize = 512;
/// How often a name is looked for where a function is called: some callers have none for it.
const NAME_TRIES_MAX: u8 = 8;

/// A function's prototype.
#[derive(Debug)]
pub(super) struct Proto {
    identity: Identity,
    pub function: Arc<Function>,
    /// Of each instruction; empty where they were stripped.
    lines: Vec<u32>,
    name_tries: u8,
}

/// What no two prototypes at one address share, in all likelihood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    code: Avma,
    instructions: u32,
    lines: Avma,
    source: Avma,
    first_line: u32,
}

impl Proto {
    /// Whether `pc` is where one of its instructions begins or ends.
    pub(super) fn holds(&self, pc: u64) -> bool {
        let position = pc.wrapping_sub(self.identity.code.0);
        let bytes = u64::from(self.identity.instructions) * INSTRUCTION_BYTES;
        (0..=bytes).contains(&position) && position.is_multiple_of(INSTRUCTION_BYTES)
    }

    /// The line of the instruction that ends at `pc`.
    pub(super) fn line(&self, pc: u64) -> Option<u32> {
        let index = (pc.wrapping_sub(self.identity.code.0) / INSTRUCTION_BYTES).checked_sub(1)?;
        self.lines.get(usize::try_from(index).ok()?).copied()
    }
}

/// The prototypes of one process that were read, by address.
#[derive(Debug, Default)]
pub(super) struct Protos {
    known: FxHashMap<Avma, Proto>,
    lines: usize,
}

impl Protos {
    /// That of the function that `call` calls; the call `by` may have a name for it. As the code of no two functions lies
    /// at one place, how far the call has come tells whether it still is what it was.
    pub(super) fn of_call(
        &mut self,
        layout: &Layout,
        call: &RawCall,
        by: Option<&RawCall>,
        memory: &dyn MemoryReader,
    ) -> Result<&Proto, Lost> {
        let at = address(layout, call, memory)?;
        let identity = identity(layout, at, memory)?;
        let is_known = self
            .known
            .get(&at)
            .is_some_and(|proto| proto.identity == identity);
        if !is_known {
            let proto = read(layout, at, identity, memory)?;
            if self.known.len() >= PROTOS_MAX || self.lines >= LINES_KEPT_MAX {
                self.known.clear();
                self.lines = 0;
            }
            self.lines += proto.lines.len();
            if let Some(before) = self.known.insert(at, proto) {
                self.lines -= before.lines.len();
            }
        }
        let proto = self.known.get_mut(&at).ok_or(Lost::Inconsistent)?;
        // In the middle of a tail call its place is taken already by one that `by` has not called.
        if !proto.holds(call.pc) {
            return Err(Lost::Changed);
        }
        if let Some(by) = by
            && proto.function.name.is_empty()
            && proto.name_tries < NAME_TRIES_MAX
        {
            proto.name_tries += 1;
            if let Some(name) = name(layout, by, memory) {
                proto.function = Arc::new(Function {
                    name,
                    ..Function::clone(&proto.function)
                });
            }
        }
        Ok(proto)
    }
}

/// Where the prototype of the function that `call` calls is.
fn address(layout: &Layout, call: &RawCall, memory: &dyn MemoryReader) -> Result<Avma, Lost> {
    if let Some(at) = call.proto {
        return Ok(at);
    }
    let closure = call.closure.ok_or(Lost::Inconsistent)?;
    let at = closure.checked_add(u64::from(layout.closure_proto));
    let at = at.ok_or(Lost::Inconsistent)?;
    Ok(Avma(memory.read_u64(at).map_err(|_| Lost::Unreadable)?))
}

/// What the instruction that `call` is at calls what it calls.
fn name(layout: &Layout, call: &RawCall, memory: &dyn MemoryReader) -> Option<String> {
    let at = address(layout, call, memory).ok()?;
    let before = identity(layout, at, memory).ok()?;
    let behind = call.pc.checked_sub(before.code.0)? / INSTRUCTION_BYTES;
    let position = u32::try_from(behind).ok()?.checked_sub(1)?;
    if position >= before.instructions {
        return None;
    }
    let name = names::of_call(layout, at, position, memory)?;
    (identity(layout, at, memory) == Ok(before)).then_some(name)
}

fn identity(layout: &Layout, at: Avma, memory: &dyn MemoryReader) -> Result<Identity, Lost> {
    const PROTO_BYTES: usize = 128;
    let mut bytes = [0; PROTO_BYTES];
    memory
        .read_exact(at, &mut bytes)
        .map_err(|_| Lost::Unreadable)?;
    let word = |offset: u32| {
        let word = bytes.get(offset as usize..)?.first_chunk()?;
        Some(Avma(u64::from_le_bytes(*word)))
    };
    let number = |offset: u32| {
        let number = bytes.get(offset as usize..)?.first_chunk()?;
        Some(u32::from_le_bytes(*number))
    };
    let fields = &layout.proto;
    let identity = || {
        let is_proto = bytes.get(usize::try_from(TAG).ok()?) == Some(&fields.tag);
        is_proto.then_some(Identity {
            code: word(fields.code)?,
            instructions: number(fields.instructions).filter(|count| *count <= INSTRUCTIONS_MAX)?,
            lines: word(fields.lines)?,
            source: word(fields.source)?,
            first_line: number(fields.first_line)?,
        })
    };
    identity().ok_or(Lost::Inconsistent)
}

fn read(
    layout: &Layout,
    at: Avma,
    identity: Identity,
    memory: &dyn MemoryReader,
) -> Result<Proto, Lost> {
    let first_line = identity.first_line;
    let file = match identity.source {
        Avma(0) => String::new(), // stripped
        source => chunk_name(&string(layout, source, memory).ok_or(Lost::Unreadable)?),
    };
    let lines = lines(layout, at, &identity, memory).unwrap_or_default();
    if self::identity(layout, at, memory) != Ok(identity) {
        return Err(Lost::Changed);
    }
    Ok(Proto {
        identity,
        function: Arc::new(Function {
            language: Language::Lua,
            name: match first_line {
                0 => "main chunk".to_owned(),
                _ => String::new(),
            },
            file,
            first_line,
        }),
        lines,
        name_tries: 0,
    })
}

/// The line of each instruction.
fn lines(
    layout: &Layout,
    at: Avma,
    identity: &Identity,
    memory: &dyn MemoryReader,
) -> Option<Vec<u32>> {
    let fields = &layout.proto;
    let field = |offset: u32| at.checked_add(u64::from(offset));
    let count = memory.read_u32(field(fields.line_count)?).ok()?;
    let count = usize::try_from(count.min(identity.instructions)).ok()?;
    let Some((absolute, absolute_count)) = fields.absolute else {
        let mut bytes = vec![0; count * 4];
        memory.read_exact(identity.lines, &mut bytes).ok()?;
        let lines = bytes.as_chunks().0.iter();
        return Some(lines.map(|line| u32::from_le_bytes(*line)).collect());
    };
    let mut differences = vec![0; count];
    memory.read_exact(identity.lines, &mut differences).ok()?;
    let absolute = memory.read_u64(field(absolute)?).ok()?;
    let absolute_count = memory.read_u32(field(absolute_count)?).ok()?;
    let absolute_count = usize::try_from(absolute_count).ok()?.min(count);
    let mut entries = vec![0; absolute_count * 8];
    memory.read_exact(Avma(absolute), &mut entries).ok()?;
    add_up(identity.first_line, &differences, entries.as_chunks().0)
}

/// From 5.4 on: differences to the line of the instruction before, and some lines as they are, with the position of their
/// instruction (`ldebug.c`, luaG_getfuncline).
fn add_up(first_line: u32, differences: &[u8], absolute: &[[u8; 8]]) -> Option<Vec<u32>> {
    const ABSOLUTE: i8 = -128;
    let mut line = first_line;
    let mut absolute = absolute.iter();
    let mut lines = Vec::with_capacity(differences.len());
    for difference in differences {
        line = match difference.cast_signed() {
            ABSOLUTE => {
                let [.., a, b, c, d] = *absolute.next()?;
                u32::from_le_bytes([a, b, c, d])
            }
            difference => line.checked_add_signed(i32::from(difference))?,
        };
        lines.push(line);
    }
    Some(lines)
}

/// The characters of a string.
pub(super) fn string(layout: &Layout, at: Avma, memory: &dyn MemoryReader) -> Option<String> {
    /// `LUA_TSTRING`, and with the bit for a long one.
    const TAG_OF_STRING: u8 = 4;
    const TAG_OF_LONG: u8 = 4 | 1 << 4;
    let mut head = [0; STRING_HEAD_BYTES];
    memory.read_exact(at, &mut head).ok()?;
    let tag = *head.get(usize::try_from(TAG).ok()?)?;
    if !matches!(tag, TAG_OF_STRING | TAG_OF_LONG) {
        return None;
    }
    let short = usize::from(*head.get(STRING_SHORT_LENGTH)?);
    let long = u64::from_le_bytes(*head.get(STRING_LENGTH..)?.first_chunk()?);
    let is_short = tag == TAG_OF_STRING && layout.strings != Strings::Plain;
    let length = if is_short {
        short
    } else {
        usize::try_from(long).ok()?
    };
    let mut data = at.checked_add(STRING_HEAD_BYTES as u64)?;
    if layout.strings == Strings::ShortAndFar && !is_short {
        data = Avma(memory.read_u64(data).ok()?);
    }
    let mut bytes = vec![0; length.min(SOURCE_BYTES_MAX)];
    memory.read_exact(data, &mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_differences_and_some_as_they_are() {
        let absolute = [[3, 0, 0, 0, 0xe8, 3, 0, 0]];
        let lines = add_up(10, &[1, 0, 0xff, 0x80, 2], &absolute);
        assert_eq!(lines, Some(vec![11, 11, 10, 1000, 1002]));
        assert_eq!(add_up(10, &[0x80], &[]), None);
        assert_eq!(add_up(0, &[0xff], &[]), None);
    }

    proptest! {
        #[test]
        fn any_differences_are_added_up_or_refused(
            first in any::<u32>(),
            differences in prop::collection::vec(any::<u8>(), 0..100),
            absolute in prop::collection::vec(any::<[u8; 8]>(), 0..10),
        ) {
            let lines = add_up(first, &differences, &absolute);
            prop_assert!(lines.is_none_or(|lines| lines.len() == differences.len()));
        }
    }
}
