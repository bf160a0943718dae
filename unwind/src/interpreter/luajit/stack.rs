//! The frames on the stack of a Lua thread (lj_frame.h, lj_debug_frame in lj_debug.c).

use super::capture::CFrame;
use super::layout::{Layout, POINTER_MASK};
use crate::address::Avma;
use crate::memory::MemoryReader;

/// Frames of one Lua thread that are walked; its stack has at most 65,500 slots (`LUAI_MAXSTACK`).
pub(super) const FRAMES_MAX: usize = 1 << 15;

/// The lowest bits of the link of a frame say what kind it is.
const TYPE: u64 = 3;
const TYPE_AND_P: u64 = 7;
const TYPE_LUA: u64 = 0;
const TYPE_C: u64 = 1;
const TYPE_CONTINUATION: u64 = 2;
const TYPE_VARARG: u64 = 3;

/// The value in place of a continuation's address for a call from C by the FFI (`LJ_CONT_FFI_CALLBACK`).
const CONTINUATION_CALLBACK: u64 = 1;

/// A Lua thread as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LuaThread {
    pub(super) at: u64,
    pub(super) base: u64,
    pub(super) stack: u64,
    pub(super) maxstack: u64,
}

impl LuaThread {
    pub(super) fn read(memory: &dyn MemoryReader, layout: &Layout, at: u64) -> Option<Self> {
        let field = |field: u64| at.checked_add(field);
        Some(Self {
            at,
            base: memory.read_u64(Avma(field(layout.thread.base)?)).ok()?,
            stack: layout.reference(memory, field(layout.thread.stack)?)?,
            maxstack: layout.reference(memory, field(layout.thread.maxstack)?)?,
        })
    }

    /// Whether `base` can be where the slots of a function begin.
    pub(super) fn can_be_base(&self, base: u64) -> bool {
        base.is_multiple_of(8) && base > self.stack && base <= self.maxstack
    }
}

/// One frame on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StackFrame {
    /// Where its link lies; its slots begin 8 bytes further up.
    pub(super) at: u64,
    /// The function.
    pub(super) function: u64,
    /// Where it will go on, as far as the frame above tells; `None` for the innermost one.
    pub(super) pc: Pc,
}

/// How the position of a frame that has called another is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pc {
    /// It is the innermost one.
    Innermost,
    /// The frame it has called says: behind the call.
    Known(u64),
    /// It was called by C code from within: the C frame has kept it.
    InCFrame,
}

/// What the link of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// A position in the caller's bytecode, or a distance with a type in its lowest bits.
    pub(super) raw: u64,
}

impl Link {
    fn kind(self) -> u64 {
        self.raw & TYPE
    }

    pub(super) fn is_lua(self) -> bool {
        self.kind() == TYPE_LUA
    }

    /// Called by C code, which has a C frame of its own.
    pub(super) fn is_c(self) -> bool {
        self.kind() == TYPE_C
    }

    pub(super) fn is_continuation(self) -> bool {
        self.raw & TYPE_AND_P == TYPE_CONTINUATION
    }

    /// The same frame lies once more below, without the variable arguments.
    pub(super) fn is_vararg(self) -> bool {
        self.raw & TYPE_AND_P == TYPE_VARARG
    }

    /// Whether it is a distance, as pcall has it where other callers have their position.
    pub(super) fn is_distance(self) -> bool {
        !self.is_lua() && (1..=FRAMES_MAX as u64 * 16).contains(&self.distance())
    }

    /// How far below the caller's frame lies.
    pub(super) fn distance(self) -> u64 {
        self.raw & !TYPE_AND_P
    }
}

/// The link of the frame at `at`.
pub(super) fn link(memory: &dyn MemoryReader, layout: &Layout, at: u64) -> Option<Link> {
    let raw = match layout.gc64 {
        true => memory.read_u64(Avma(at)).ok()?,
        false => u64::from(memory.read_u32(Avma(at.checked_add(4)?)).ok()?),
    };
    Some(Link { raw })
}

/// The function of the frame at `at`.
pub(super) fn function(memory: &dyn MemoryReader, layout: &Layout, at: u64) -> Option<u64> {
    Some(match layout.gc64 {
        true => memory.read_u64(Avma(at.checked_sub(8)?)).ok()? & POINTER_MASK,
        false => u64::from(memory.read_u32(Avma(at)).ok()?),
    })
}

/// How far below a frame that the instruction before `pc` has called its caller's frame lies, in bytes.
pub(super) fn distance_to_caller(layout: &Layout, instruction: u32) -> u64 {
    let slot = u64::from(instruction >> 8 & 0xff);
    8 * (slot + if layout.gc64 { 2 } else { 1 })
}

/// The instruction before `pc`.
pub(super) fn instruction_before(memory: &dyn MemoryReader, pc: u64) -> Option<u32> {
    memory.read_u32(Avma(pc.checked_sub(4)?)).ok()
}

/// Where a frame with a continuation says its caller goes on.
pub(super) fn continuation_pc(memory: &dyn MemoryReader, layout: &Layout, at: u64) -> Option<u64> {
    match layout.gc64 {
        true => memory.read_u64(Avma(at.checked_sub(16)?)).ok(),
        false => memory
            .read_u32(Avma(at.checked_sub(4)?))
            .ok()
            .map(u64::from),
    }
}

/// Whether a frame with a continuation was called by C code that the FFI has made.
fn is_callback(memory: &dyn MemoryReader, layout: &Layout, at: u64) -> Option<bool> {
    let continuation = match layout.gc64 {
        true => memory.read_u64(Avma(at.checked_sub(24)?)).ok()?,
        false => u64::from(memory.read_u32(Avma(at.checked_sub(8)?)).ok()?),
    };
    Some(continuation == CONTINUATION_CALLBACK)
}

/// Walks the frames of a Lua thread, from the innermost outwards, and knows in which C frame each is.
pub(super) struct StackWalk<'a> {
    memory: &'a dyn MemoryReader,
    layout: &'static Layout,
    thread: LuaThread,
    /// The C frames of the thread, innermost first.
    cframes: &'a [CFrame],
    /// The position of the one in which the walk is.
    cframe: usize,
    at: u64,
    /// The link of the innermost frame, where it may not have been written yet.
    first_link: Option<Link>,
    pc: Pc,
    skips: bool,
    left: usize,
}

/// Why a walk did not come to the bottom of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Unreadable,
    Inconsistent,
    TooDeep,
}

impl<'a> StackWalk<'a> {
    /// Begins with the function whose slots begin at `base`.
    pub(super) fn new(
        memory: &'a dyn MemoryReader,
        layout: &'static Layout,
        thread: LuaThread,
        cframes: &'a [CFrame],
        base: u64,
        pc: Pc,
    ) -> Self {
        Self {
            memory,
            layout,
            thread,
            cframes,
            cframe: 0,
            at: base.wrapping_sub(8),
            first_link: None,
            pc,
            skips: false,
            left: FRAMES_MAX,
        }
    }

    /// The link of the innermost frame, whatever its slot says; and whether only its callers are wanted.
    pub(super) fn called_before(mut self, link: Option<u64>, is_over: bool) -> Self {
        self.first_link = link.map(|raw| Link { raw });
        self.skips = is_over;
        self
    }

    /// Whether the walk has come to the bottom.
    fn is_at_bottom(&self) -> bool {
        let bottom = self.thread.stack + if self.layout.gc64 { 8 } else { 0 };
        self.at <= bottom
    }

    /// The C frame in which frames at `at` and below are: those that call C code without a frame have noted how high
    /// the stack was.
    fn settle_cframe(&mut self) {
        while let Some(cframe) = self.cframes.get(self.cframe) {
            let nres = self.memory.read_u32(Avma(
                cframe.at.wrapping_add(self.layout.processor.cframe.nres),
            ));
            let Ok(nres) = nres.map(u32::cast_signed) else {
                return;
            };
            let saved = self
                .thread
                .stack
                .wrapping_add(u64::from(nres.unsigned_abs()));
            if nres >= 0 || self.at >= saved {
                return;
            }
            self.cframe += 1;
        }
    }

    /// The next frame and the position of its C frame; `Ok(None)` at the bottom.
    pub(super) fn next(&mut self) -> Result<Option<(StackFrame, usize)>, Broken> {
        while !self.is_at_bottom() {
            self.left = self.left.checked_sub(1).ok_or(Broken::TooDeep)?;
            if self.at > self.thread.maxstack.wrapping_add(8) {
                return Err(Broken::Inconsistent);
            }
            self.settle_cframe();
            let link = match self.first_link.take() {
                Some(link) => link,
                None => link(self.memory, self.layout, self.at).ok_or(Broken::Unreadable)?,
            };
            let function = function(self.memory, self.layout, self.at).ok_or(Broken::Unreadable)?;
            let frame = StackFrame {
                at: self.at,
                function,
                pc: self.pc,
            };
            let is_shown = !self.skips && function != self.thread.at;
            let found = (frame, self.cframe);
            self.skips = link.is_vararg();
            self.step(link)?;
            if is_shown {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn step(&mut self, link: Link) -> Result<(), Broken> {
        let distance = if link.is_lua() {
            let instruction =
                instruction_before(self.memory, link.raw).ok_or(Broken::Inconsistent)?;
            self.pc = Pc::Known(link.raw);
            distance_to_caller(self.layout, instruction)
        } else {
            if link.is_vararg() {
                // The frame below is this one once more: what it has called stays what it was.
            } else if link.is_continuation() {
                let is_callback = is_callback(self.memory, self.layout, self.at) == Some(true);
                self.pc = match continuation_pc(self.memory, self.layout, self.at) {
                    Some(pc) if !is_callback => Pc::Known(pc),
                    _ => Pc::InCFrame,
                };
                self.cframe += usize::from(is_callback);
            } else {
                self.pc = Pc::InCFrame;
                self.cframe += usize::from(link.is_c());
            }
            link.distance()
        };
        if distance == 0 {
            return Err(Broken::Inconsistent);
        }
        self.at = self.at.checked_sub(distance).ok_or(Broken::Inconsistent)?;
        Ok(())
    }

    /// What the C frame at `cframe` has kept as where its innermost Lua function goes on.
    pub(super) fn pc_in(&self, cframe: usize) -> Option<u64> {
        let cframe = self.cframes.get(cframe)?;
        let at = Avma(cframe.at.checked_add(self.layout.processor.cframe.pc)?);
        match self.layout.gc64 {
            true => self.memory.read_u64(at).ok(),
            false => self.memory.read_u32(at).ok().map(u64::from),
        }
    }
}
