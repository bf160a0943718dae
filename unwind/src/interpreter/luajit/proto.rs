//! Prototypes: the code of a Lua function, its lines and its names. They do not change while a function lives; that they
//! are still what they were is checked whenever one is used.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::layout::{GCT_FUNCTION, GCT_PROTO, GCT_STRING, Layout, u16_in, u32_in};
use crate::address::Avma;
use crate::interpreter::{Function, Language};
use crate::memory::MemoryReader;

/// A prototype with its bytecode, constants and lines is not larger than this, in bytes.
const PROTO_BYTES_MAX: usize = 4 << 20;

/// All prototypes that are kept, in bytes; then they are read again.
const CACHE_BYTES_MAX: usize = 32 << 20;

/// A name or the name of a file is cut there, in bytes.
const TEXT_BYTES_MAX: usize = 200;

/// The kinds of functions (`ffid`, lj_obj.h); higher numbers are builtins of the interpreter.
const FFID_LUA: u8 = 0;
const FFID_C: u8 = 1;

/// What a function object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callee {
    /// A Lua function, with the address of its bytecode.
    Lua { bytecode: u64 },
    /// A C function, or one written in assembly.
    Native { is_fast: bool },
}

/// What kind of function lies at `at`, if one does.
pub(super) fn callee(memory: &dyn MemoryReader, layout: &Layout, at: u64) -> Option<Callee> {
    let mut object = [0; 0x28];
    let bytes = usize::try_from(layout.function_pc.checked_add(layout.reference_bytes())?).ok()?;
    memory.read_exact(Avma(at), object.get_mut(..bytes)?).ok()?;
    if *object.get(usize::try_from(layout.gct).ok()?)? != GCT_FUNCTION {
        return None;
    }
    let ffid = *object.get(usize::try_from(layout.function_ffid).ok()?)?;
    Some(match ffid {
        FFID_LUA => Callee::Lua {
            bytecode: layout.reference_in(&object, usize::try_from(layout.function_pc).ok()?)?,
        },
        _ => Callee::Native {
            is_fast: ffid > FFID_C,
        },
    })
}

/// A prototype, as it was read.
#[derive(Debug)]
pub(super) struct Proto {
    layout: &'static Layout,
    /// Where it lies.
    at: u64,
    /// All of it: the structure, bytecode, constants, lines, names.
    bytes: Box<[u8]>,
    /// The function, by the name it was first seen called by.
    pub(super) function: Arc<Function>,
    pub(super) is_named: bool,
}

impl Proto {
    /// Reads the prototype whose bytecode begins at `bytecode`.
    fn read(memory: &dyn MemoryReader, layout: &'static Layout, bytecode: u64) -> Option<Self> {
        let at = bytecode.checked_sub(layout.proto.bytes)?;
        let mut header = [0; 0x68];
        let header = header.get_mut(..usize::try_from(layout.proto.bytes).ok()?)?;
        memory.read_exact(Avma(at), header).ok()?;
        let size = usize::try_from(u32_in(header, layout.proto.sizept)?).ok()?;
        let is_proto = header.get(usize::try_from(layout.gct).ok()?) == Some(&GCT_PROTO);
        if !is_proto || !(header.len()..=PROTO_BYTES_MAX).contains(&size) {
            return None;
        }
        let mut bytes = vec![0; size].into_boxed_slice();
        memory.read_exact(Avma(at), &mut bytes).ok()?;
        let chunk = layout.reference_in(&bytes, layout.proto.chunkname)?;
        let chunk = string(memory, layout, chunk)?;
        let first_line = u32_in(&bytes, layout.proto.firstline)?;
        let name = match first_line {
            0 => "main chunk",
            _ => "",
        };
        Some(Self {
            function: Arc::new(Function {
                language: Language::Lua,
                name: name.to_owned(),
                file: chunk_name(&chunk),
                first_line,
            }),
            is_named: first_line == 0,
            layout,
            at,
            bytes,
        })
    }

    /// The layout it was read by.
    pub(super) fn layout(&self) -> &'static Layout {
        self.layout
    }

    fn field(&self, at: usize) -> Option<u32> {
        u32_in(&self.bytes, at)
    }

    fn reference(&self, at: usize) -> Option<usize> {
        let there = self.layout.reference_in(&self.bytes, at)?;
        usize::try_from(there.checked_sub(self.at)?).ok()
    }

    /// How many instructions it has.
    fn size(&self) -> Option<u64> {
        self.field(self.layout.proto.sizebc).map(u64::from)
    }

    /// The position in its bytecode of the instruction at `pc`.
    pub(super) fn position(&self, pc: u64) -> Option<u32> {
        let start = self.at.checked_add(self.layout.proto.bytes)?;
        let position = pc.checked_sub(start)? / 4;
        (position < self.size()?)
            .then(|| u32::try_from(position).ok())
            .flatten()
    }

    /// The instruction at a position.
    pub(super) fn instruction(&self, position: u32) -> Option<u32> {
        let start = usize::try_from(self.layout.proto.bytes).ok()?;
        let position = usize::try_from(position).ok()?;
        u32_in(&self.bytes, start.checked_add(position.checked_mul(4)?)?)
    }

    /// The line of the instruction at a position; `None` where the function was compiled without lines.
    pub(super) fn line(&self, position: u32) -> Option<u32> {
        let first = self.field(self.layout.proto.firstline)?;
        let Some(index) = position.checked_sub(1) else {
            return Some(first);
        };
        let index = usize::try_from(index).ok()?;
        let lines = self.reference(self.layout.proto.lineinfo)?;
        let delta = match self.field(self.layout.proto.numline)? {
            ..256 => u32::from(*self.bytes.get(lines.checked_add(index)?)?),
            256..65536 => u32::from(u16_in(
                &self.bytes,
                lines.checked_add(index.checked_mul(2)?)?,
            )?),
            _ => u32_in(&self.bytes, lines.checked_add(index.checked_mul(4)?)?)?,
        };
        first.checked_add(delta)
    }

    /// The reference at a position before its constants (`proto_kgc(pt, ~index)`).
    pub(super) fn constant(&self, index: u32) -> Option<u64> {
        let constants = self.reference(self.layout.proto.k)?;
        let bytes = usize::try_from(self.layout.reference_bytes()).ok()?;
        let back = usize::try_from(index)
            .ok()?
            .checked_add(1)?
            .checked_mul(bytes)?;
        self.layout
            .reference_in(&self.bytes, constants.checked_sub(back)?)
    }

    /// What it was compiled with about its local variables, and about those of functions around it.
    pub(super) fn variables(&self) -> Option<&[u8]> {
        self.bytes.get(self.reference(self.layout.proto.varinfo)?..)
    }

    /// See [`Proto::variables`].
    pub(super) fn upvalues(&self) -> Option<&[u8]> {
        self.bytes.get(self.reference(self.layout.proto.uvinfo)?..)
    }

    /// Gives it the name it is called by, if it has none.
    pub(super) fn give_name(&mut self, name: String) {
        if !self.is_named {
            self.is_named = true;
            self.function = Arc::new(Function {
                name,
                ..(*self.function).clone()
            });
        }
    }

    /// Whether it is still there: its structure is what it was, but for what the collector and the compiler write.
    fn is_still(&self, memory: &dyn MemoryReader) -> bool {
        let mut now = [0; 0x68];
        let from = self.layout.proto.sizebc;
        let range = from..usize::try_from(self.layout.proto.bytes).unwrap_or(0);
        let (Some(now), Some(then)) = (now.get_mut(range.clone()), self.bytes.get(range)) else {
            return false;
        };
        let Some(at) = self.at.checked_add(from as u64) else {
            return false;
        };
        if memory.read_exact(Avma(at), now).is_err() {
            return false;
        }
        let fields = [
            self.layout.proto.sizebc,
            self.layout.proto.k,
            self.layout.proto.sizept,
            self.layout.proto.chunkname,
            self.layout.proto.firstline,
            self.layout.proto.numline,
            self.layout.proto.lineinfo,
        ];
        fields.into_iter().all(|field| {
            let at = field - from;
            u32_in(now, at) == u32_in(then, at)
        })
    }
}

/// A string object's text, cut at a zero or at [`TEXT_BYTES_MAX`].
pub(super) fn string(memory: &dyn MemoryReader, layout: &Layout, at: u64) -> Option<String> {
    if layout.kind(memory, at)? != GCT_STRING {
        return None;
    }
    let mut bytes = [0; TEXT_BYTES_MAX];
    let read = memory
        .read(Avma(at.checked_add(layout.string_data)?), &mut bytes)
        .ok()?;
    let bytes = bytes.get(..read)?;
    let text = bytes.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What a chunk is called (luaO_chunkid): `@` precedes the name of a file, `=` any other name; what has neither is source
/// text.
pub(in super::super) fn chunk_name(chunk: &str) -> String {
    const SOURCE_CHARS_MAX: usize = 40;
    match chunk.as_bytes().first() {
        Some(b'@' | b'=') => chunk.get(1..).unwrap_or_default().to_owned(),
        _ => {
            let line = chunk.lines().next().unwrap_or_default();
            let shown: String = line.chars().take(SOURCE_CHARS_MAX).collect();
            let more = if shown.len() < chunk.len() { "..." } else { "" };
            format!("[string \"{shown}{more}\"]")
        }
    }
}

/// Prototypes that were read, by where their bytecode lies.
#[derive(Debug, Default)]
pub(super) struct Protos {
    by_bytecode: FxHashMap<u64, Proto>,
    bytes: usize,
}

impl Protos {
    /// The one whose bytecode begins at `bytecode`, checked to be what it was, or read anew.
    pub(super) fn get(
        &mut self,
        memory: &dyn MemoryReader,
        layout: &'static Layout,
        bytecode: u64,
    ) -> Option<&mut Proto> {
        let is_known = self
            .by_bytecode
            .get(&bytecode)
            .is_some_and(|proto| proto.is_still(memory));
        if !is_known {
            if let Some(gone) = self.by_bytecode.remove(&bytecode) {
                self.bytes = self.bytes.saturating_sub(gone.bytes.len());
            }
            let proto = Proto::read(memory, layout, bytecode)?;
            if self.bytes.saturating_add(proto.bytes.len()) > CACHE_BYTES_MAX {
                self.by_bytecode.clear();
                self.bytes = 0;
            }
            self.bytes += proto.bytes.len();
            self.by_bytecode.insert(bytecode, proto);
        }
        self.by_bytecode.get_mut(&bytecode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_called_what_lua_calls_them() {
        assert_eq!(chunk_name("@/srv/app.lua"), "/srv/app.lua");
        assert_eq!(
            chunk_name("=content_by_lua(nginx.conf:9)"),
            "content_by_lua(nginx.conf:9)"
        );
        assert_eq!(chunk_name("return 1"), "[string \"return 1\"]");
        assert_eq!(chunk_name("local a\nlocal b"), "[string \"local a...\"]");
        assert_eq!(chunk_name(""), "[string \"\"]");
    }
}
