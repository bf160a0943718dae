//! Code objects: what a function is called and where its lines are.
//!
//! They do not change, but they end, and another may come to lie where one was. So of each that is known some words are
//! read again at every sample: all its references to other objects.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::capture::RawFrame;
use super::layout::Layout;
use super::{lines, text};
use crate::address::Avma;
use crate::interpreter::{Function, FunctionKind, InterpretedFrame, Language, LinePrecision, Lost};
use crate::memory::MemoryReader;

/// Code objects that are remembered. A large service executes some ten thousand.
const CODES_MAX: usize = 1 << 16;
/// Bytes of line tables that are remembered.
const TABLE_BYTES_KEPT_MAX: usize = 32 << 20;
/// The longest name and path that are shown whole, in characters.
const NAME_CHARACTERS_MAX: usize = 256;
const FILE_CHARACTERS_MAX: usize = 1024;
/// The longest line table that is read. That of a generated module of 100,000 lines has some 400 KB.
const TABLE_BYTES_MAX: u64 = 4 << 20;
/// Bytes of the largest code object's head.
const HEAD_BYTES_MAX: usize = 256;

/// `PyBytesObject.ob_size` and `.ob_sval`.
const BYTES_SIZE: u64 = 16;
const BYTES_DATA: u64 = 32;

/// The head of a code object, as it was when the object was read.
type Head = [u8; HEAD_BYTES_MAX];

/// What is known of one code object.
#[derive(Debug)]
struct Code {
    identity: Identity,
    function: Arc<Function>,
    lines: Box<[u8]>,
}

/// What no two code objects at one address share, in all likelihood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    kind: u64,
    name: u64,
    file: u64,
    lines: u64,
    first_line: u32,
}

/// The code objects of one process.
#[derive(Debug, Default)]
pub(super) struct Codes {
    known: FxHashMap<Avma, Code>,
    table_bytes: usize,
    /// `PyCode_Type`, if its symbol was found.
    code_type: Option<Avma>,
}

impl Codes {
    pub(super) fn new(code_type: Option<Avma>) -> Self {
        Self {
            code_type,
            ..Self::default()
        }
    }

    /// Puts the frames that `raw` stand for behind those in `out`. Says what went wrong, if something did; there is a
    /// frame all the same.
    pub(super) fn resolve(
        &mut self,
        layout: &Layout,
        raw: &[RawFrame],
        memory: &dyn MemoryReader,
        out: &mut Vec<InterpretedFrame>,
    ) -> Result<(), Lost> {
        /// As many as are read at once.
        const AT_ONCE: usize = 8;
        let mut result = Ok(());
        for raw in raw.chunks(AT_ONCE) {
            let mut heads = [[0; HEAD_BYTES_MAX]; AT_ONCE];
            let mut copied = [0; AT_ONCE];
            let bytes = layout.code_bytes().min(HEAD_BYTES_MAX);
            let mut regions: [(Avma, &mut [u8]); AT_ONCE] =
                std::array::from_fn(|_| (Avma(0), &mut [][..]));
            for ((region, head), raw) in regions.iter_mut().zip(&mut heads).zip(raw) {
                *region = (raw.code, head.get_mut(..bytes).unwrap_or_default());
            }
            memory.read_each(&mut regions[..raw.len()], &mut copied);
            for ((raw, head), copied) in raw.iter().zip(&heads).zip(copied) {
                let frame = match copied == bytes {
                    true => self.frame(layout, raw, head, memory),
                    false => Err(Lost::Unreadable),
                };
                match frame {
                    Ok(frame) => out.push(frame),
                    Err(lost) => result = Err(lost),
                }
            }
        }
        result
    }

    fn frame(
        &mut self,
        layout: &Layout,
        raw: &RawFrame,
        head: &Head,
        memory: &dyn MemoryReader,
    ) -> Result<InterpretedFrame, Lost> {
        let identity = identity(layout, head).ok_or(Lost::Inconsistent)?;
        if self.code_type.is_some_and(|kind| kind.0 != identity.kind) {
            return Err(Lost::Inconsistent);
        }
        let is_known = self
            .known
            .get(&raw.code)
            .is_some_and(|code| code.identity == identity);
        if !is_known {
            let code = read(layout, identity, memory)?;
            let mut after = [0; HEAD_BYTES_MAX];
            let bytes = layout.code_bytes().min(HEAD_BYTES_MAX);
            let after_bytes = after.get_mut(..bytes).unwrap_or_default();
            memory
                .read_exact(raw.code, after_bytes)
                .map_err(|_| Lost::Changed)?;
            if self::identity(layout, &after) != Some(identity) {
                return Err(Lost::Changed);
            }
            self.remember(raw.code, code);
        }
        let code = self.known.get(&raw.code).ok_or(Lost::Inconsistent)?;
        let first = code.function.first_line;
        let line = match raw.at {
            Some(at) => lines::line_at(layout.lines, &code.lines, first, at),
            None => Some(first),
        };
        Ok(InterpretedFrame {
            function: Arc::clone(&code.function),
            line: line.unwrap_or(first),
            precision: match (line, raw.at) {
                (Some(_), Some(_)) => LinePrecision::Exact,
                _ => LinePrecision::Function,
            },
            kind: FunctionKind::Interpreted,
        })
    }

    fn remember(&mut self, at: Avma, code: Code) {
        if self.known.len() >= CODES_MAX || self.table_bytes >= TABLE_BYTES_KEPT_MAX {
            self.known.clear();
            self.table_bytes = 0;
        }
        self.table_bytes += code.lines.len();
        if let Some(before) = self.known.insert(at, code) {
            self.table_bytes -= before.lines.len();
        }
    }
}

fn identity(layout: &Layout, head: &Head) -> Option<Identity> {
    let word = |offset: u32| {
        let word = head.get(offset as usize..)?.first_chunk()?;
        Some(u64::from_le_bytes(*word))
    };
    let first_line = head.get(layout.code.first_line as usize..)?.first_chunk()?;
    Some(Identity {
        kind: word(8)?,
        name: word(layout.code.name)?,
        file: word(layout.code.file)?,
        lines: word(layout.code.lines)?,
        first_line: u32::from_le_bytes(*first_line),
    })
}

fn read(layout: &Layout, identity: Identity, memory: &dyn MemoryReader) -> Result<Code, Lost> {
    let text = |at, characters_max| {
        text::read(layout, Avma(at), characters_max, memory).ok_or(Lost::Unreadable)
    };
    Ok(Code {
        identity,
        function: Arc::new(Function {
            language: Language::Python,
            name: text(identity.name, NAME_CHARACTERS_MAX)?,
            file: text(identity.file, FILE_CHARACTERS_MAX)?,
            first_line: identity.first_line,
        }),
        lines: line_table(Avma(identity.lines), memory).ok_or(Lost::Unreadable)?,
    })
}

/// The contents of a `bytes` object.
fn line_table(at: Avma, memory: &dyn MemoryReader) -> Option<Box<[u8]>> {
    let size = memory.read_u64(at.checked_add(BYTES_SIZE)?).ok()?;
    if size > TABLE_BYTES_MAX {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    memory
        .read_exact(at.checked_add(BYTES_DATA)?, &mut bytes)
        .ok()?;
    Some(bytes.into())
}
