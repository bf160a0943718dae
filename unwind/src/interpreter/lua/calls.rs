//! The calls under way in a `lua_State`, as they are while its thread stands still.

use std::ops::Range;

use super::layout::{CLOSURE_IS_C, Calls, Layout, TAG, TAG_OF_THREAD};
use crate::address::Avma;
use crate::interpreter::stretches::Stretches;
use crate::interpreter::{Lost, VolatileCopy};

/// Calls of one sample. Lua's own limit is some 200,000 Lua functions deep.
const CALLS_MAX: usize = 8192;
/// States of one sample: coroutines that have resumed one another.
const STATES_MAX: usize = 32;
/// How much of a `lua_State` is copied, in bytes.
pub(super) const STATE_BYTES: usize = 208;
/// The longest piece of a Lua stack that is copied whole: the functions that were called lie in it, far apart.
const STACK_BYTES_MAX: u64 = 128 << 10;

/// Prototypes that are found while a thread stands still: those of functions that may end soon.
const PROTOS_MAX: usize = 16;

/// `TValue.tt` of a closure of a Lua function, without the bit for what the garbage collector cares for; and the tag that
/// 5.1 has for closures of both kinds.
const TAG_OF_LUA_CLOSURE: u8 = 6;
const TAG_BITS: u8 = 0x3f;

/// One call of a Lua function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawCall {
    /// Its `CallInfo`.
    pub info: Avma,
    /// The closure that was called; `None` of a C function.
    pub closure: Option<Avma>,
    /// The prototype of the closure, if it was captured: closures may be garbage as soon as they have returned, while
    /// prototypes belong to what made the closure.
    pub proto: Option<Avma>,
    /// How far it has come, as it was last written down: the address behind an instruction.
    pub pc: u64,
    /// Whether an activation of the interpreter's loop began with it.
    pub is_fresh: bool,
    /// Whether it has taken the place of the call that made it.
    pub is_tail: bool,
    /// Whether what it calls is called by none of its instructions: a hook or a finalizer.
    pub calls_unseen: bool,
}

/// The calls of one `lua_State`.
#[derive(Clone, Debug)]
pub(super) struct StateCalls {
    /// Which.
    pub state: Avma,
    /// Its calls, innermost first: positions in [`Captured::calls`].
    pub calls: Range<usize>,
    /// Why there are no more, if there should be.
    pub lost: Option<Lost>,
    /// Calls that were not where any was expected.
    pub surprises: usize,
}

/// What was captured of one thread. The memory is kept from sample to sample.
#[derive(Debug)]
pub(super) struct Captured {
    pub calls: Vec<RawCall>,
    pub states: Vec<StateCalls>,
}

impl Default for Captured {
    fn default() -> Self {
        Self {
            calls: Vec::with_capacity(CALLS_MAX),
            states: Vec::with_capacity(STATES_MAX),
        }
    }
}

impl Captured {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.calls.clear();
        self.states.clear();
    }

    /// What was captured of `state`.
    pub(super) fn of(&self, state: Avma) -> Option<&StateCalls> {
        self.states.iter().find(|calls| calls.state == state)
    }

    /// The calls of `state`, innermost first.
    pub(super) fn calls_of(&self, state: &StateCalls) -> &[RawCall] {
        self.calls.get(state.calls.clone()).unwrap_or_default()
    }

    /// Adds the calls of `state`, which belongs to `global`, and are expected at `hints`. Says whether it still is that
    /// state.
    pub(super) fn add(
        &mut self,
        layout: &Layout,
        state: Avma,
        global: u64,
        hints: Option<&Stretches>,
        copy: &mut VolatileCopy<'_>,
    ) -> bool {
        if self.of(state).is_some() || self.states.len() >= STATES_MAX {
            return true;
        }
        // One that was only just met is there.
        if copy.slice_at(state).len() < STATE_BYTES {
            copy.copy(state, STATE_BYTES);
        }
        let tag = byte(copy, state, TAG);
        if tag != Some(TAG_OF_THREAD) || word(copy, state, layout.global) != Some(global) {
            return copy.is_full();
        }
        let from = self.calls.len();
        let mut surprises = 0;
        let walked = match layout.calls {
            Calls::Array { .. } => self.walk_array(layout, state, copy),
            Calls::List { .. } => {
                copy.copy_all(hints.map_or(&[], Stretches::regions));
                self.walk_list(layout, state, &mut surprises, copy)
            }
        };
        let found = walked.and(self.find_functions(layout, from, copy));
        self.states.push(StateCalls {
            state,
            calls: from..self.calls.len(),
            lost: found.err(),
            surprises,
        });
        true
    }

    fn walk_array(
        &mut self,
        layout: &Layout,
        state: Avma,
        copy: &mut VolatileCopy<'_>,
    ) -> Result<(), Lost> {
        let Calls::Array {
            base,
            stride,
            innermost_pc,
            tail_calls,
        } = layout.calls
        else {
            return Err(Lost::Inconsistent);
        };
        let field =
            |copy: &VolatileCopy<'_>, offset| word(copy, state, offset).ok_or(Lost::Unreadable);
        let base = field(copy, base)?;
        let mut at = Avma(field(copy, layout.call)?);
        let stride = u64::from(stride);
        let bytes = at.0.checked_sub(base).filter(|bytes| bytes % stride == 0);
        let depth = bytes.ok_or(Lost::Inconsistent)? / stride;
        let room = (CALLS_MAX - self.calls.len()) as u64;
        let is_cut = depth > room;
        let depth = depth.min(room);
        let first = Avma(at.0 - depth * stride);
        let bytes = usize::try_from((depth + 1) * stride).map_err(|_| Lost::TooDeep)?;
        if copy.copy(first, bytes).len() < bytes {
            return Err(if copy.is_full() {
                Lost::TooDeep
            } else {
                Lost::Unreadable
            });
        }
        let mut pc = field(copy, innermost_pc)?;
        // The first is that of the host program.
        for _ in 0..depth {
            // The last half of a word: behind it another call follows, or nothing that was copied.
            let before = tail_calls.checked_sub(4).ok_or(Lost::Inconsistent)?;
            let tail_calls = word(copy, at, before).ok_or(Lost::Unreadable)? >> 32;
            self.calls.push(RawCall {
                info: at,
                closure: None,
                proto: None,
                pc,
                is_fresh: false,
                is_tail: tail_calls > 0,
                calls_unseen: false,
            });
            at = Avma(at.0 - stride);
            pc = word(copy, at, layout.saved_pc).ok_or(Lost::Unreadable)?;
        }
        if is_cut { Err(Lost::TooDeep) } else { Ok(()) }
    }

    fn walk_list(
        &mut self,
        layout: &Layout,
        state: Avma,
        surprises: &mut usize,
        copy: &mut VolatileCopy<'_>,
    ) -> Result<(), Lost> {
        let Calls::List {
            previous,
            status,
            flags,
        } = layout.calls
        else {
            return Err(Lost::Inconsistent);
        };
        let bytes = layout.call_bytes();
        let mut at = Avma(word(copy, state, layout.call).ok_or(Lost::Unreadable)?);
        // The outermost one, that of the host program, is part of the state.
        let end = Avma(state.0.saturating_add(STATE_BYTES as u64));
        while !(state..end).contains(&at) {
            if self.calls.len() >= CALLS_MAX {
                return Err(Lost::TooDeep);
            }
            let last = at.checked_add(bytes as u64 - 8).ok_or(Lost::Inconsistent)?;
            if copy.word(at).is_none() || copy.word(last).is_none() {
                *surprises += 1;
                if copy.copy(at, bytes).len() < bytes {
                    return Err(if copy.is_full() {
                        Lost::TooDeep
                    } else {
                        Lost::Unreadable
                    });
                }
            }
            let field = |offset| word(copy, at, offset).ok_or(Lost::Unreadable);
            let bits = u32::try_from(field(status)? & u64::from(flags.mask)).unwrap_or(0);
            let is = |(bits_of, value): (u32, u32)| bits & bits_of == value;
            self.calls.push(RawCall {
                info: at,
                // Which one is found out later.
                closure: is(flags.lua).then_some(Avma(0)),
                proto: None,
                pc: field(layout.saved_pc)?,
                is_fresh: is(flags.fresh),
                is_tail: bits & flags.tail != 0,
                calls_unseen: bits & flags.unseen != 0,
            });
            at = Avma(field(previous)?);
        }
        Ok(())
    }

    /// Finds the closures of all calls from `from` on: on the Lua stack, where their arguments begin.
    fn find_functions(
        &mut self,
        layout: &Layout,
        from: usize,
        copy: &mut VolatileCopy<'_>,
    ) -> Result<(), Lost> {
        /// `sizeof(TValue)`.
        const SLOT_BYTES: usize = 16;
        let calls = self.calls.get_mut(from..).unwrap_or_default();
        let slot = |copy: &VolatileCopy<'_>, call: &RawCall| {
            word(copy, call.info, layout.function).map(Avma)
        };
        let slots = || calls.iter().filter_map(|call| slot(copy, call));
        let (Some(low), Some(high)) = (slots().min(), slots().max()) else {
            return Ok(());
        };
        if high.0 - low.0 <= STACK_BYTES_MAX {
            let bytes = usize::try_from(high.0 - low.0).unwrap_or(0) + SLOT_BYTES;
            copy.copy(low, bytes);
        }
        for call in calls.iter_mut() {
            let at = slot(copy, call).ok_or(Lost::Unreadable)?;
            if copy.word(at).is_none() && copy.copy(at, SLOT_BYTES).len() < SLOT_BYTES {
                return Err(if copy.is_full() {
                    Lost::TooDeep
                } else {
                    Lost::Unreadable
                });
            }
            let closure = Avma(copy.word(at).ok_or(Lost::Unreadable)?);
            let tag = byte(copy, at, TAG).ok_or(Lost::Unreadable)?;
            call.closure = (tag & TAG_BITS == TAG_OF_LUA_CLOSURE).then_some(closure);
        }
        find_protos(layout, calls, copy);
        Ok(())
    }

    /// In 5.1 closures of C functions look alike until one looks into them. Done later: they do not change.
    pub(super) fn is_c_closure(
        layout: &Layout,
        closure: Avma,
        memory: &dyn crate::memory::MemoryReader,
    ) -> bool {
        let mut is_c = [0];
        matches!(layout.calls, Calls::Array { .. })
            && closure
                .checked_add(CLOSURE_IS_C)
                .is_some_and(|at| memory.read_exact(at, &mut is_c).is_ok() && is_c != [0])
    }
}

/// Finds the prototypes of the innermost of `calls`.
fn find_protos(layout: &Layout, calls: &mut [RawCall], copy: &mut VolatileCopy<'_>) {
    let offset = layout.closure_proto;
    let bytes = offset as usize + 8;
    let mut closures = [(Avma(0), 0); PROTOS_MAX];
    let mut count = 0;
    for (call, into) in calls
        .iter()
        .filter(|call| call.closure.is_some())
        .zip(&mut closures)
    {
        *into = (call.closure.unwrap_or_default(), bytes);
        count += 1;
    }
    copy.copy_all(closures.get(..count).unwrap_or_default());
    let lua = calls.iter_mut().filter(|call| call.closure.is_some());
    for call in lua.take(count) {
        let Some(closure) = call.closure else {
            continue;
        };
        let is_array = matches!(layout.calls, Calls::Array { .. });
        match byte(copy, closure, CLOSURE_IS_C) {
            Some(is_c) if is_array && is_c != 0 => call.closure = None,
            _ => call.proto = word(copy, closure, offset).map(Avma),
        }
    }
}

fn word(copy: &VolatileCopy<'_>, at: Avma, offset: u32) -> Option<u64> {
    copy.word(at.checked_add(u64::from(offset))?)
}

fn byte(copy: &VolatileCopy<'_>, at: Avma, offset: u64) -> Option<u8> {
    let word = copy.word(at.checked_add(offset)?)?;
    Some(word.to_le_bytes()[0])
}
