//! Where PUC Lua keeps what a walk reads, by version.
//!
//! Compiled out of the headers of 5.1.5, 5.2.4, 5.3.6, 5.4.9 and 5.5.1 (`lstate.h`, `lobject.h`) for a 64-bit build with
//! doubles. What differs between releases of one version is named.

use super::opcodes::{self, Opcodes};

/// A release of Lua 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LuaVersion {
    /// The second number: 4 of 5.4.6.
    pub minor: u8,
    /// The third number.
    pub release: u8,
}

/// Offsets in bytes, and what else differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `lua_State.l_G`.
    pub global: u32,
    /// `lua_State.ci`.
    pub call: u32,
    /// `lua_State.stack`.
    pub stack: u32,
    /// Where calls are written down.
    pub calls: Calls,
    /// `CallInfo.func`.
    pub function: u32,
    /// `CallInfo.u.l.savedpc`, in 5.1 `CallInfo.savedpc`.
    pub saved_pc: u32,
    /// `LClosure.p`.
    pub closure_proto: u32,
    /// `Proto`.
    pub proto: ProtoLayout,
    /// How strings are stored.
    pub strings: Strings,
    /// What of a `Proto` names are found by.
    pub names: NameLayout,
    /// The instructions.
    pub opcodes: &'static Opcodes,
}

/// `Proto`: what names of functions are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameLayout {
    /// `k`, constants.
    pub constants: u32,
    /// `sizek`.
    pub constant_count: u32,
    /// `upvalues`: of each a pointer to its name first.
    pub upvalues: u32,
    /// `sizeupvalues`.
    pub upvalue_count: u32,
    /// `sizeof(Upvaldesc)`; in 5.1 there are the names alone.
    pub upvalue_bytes: u32,
    /// `locvars`, local variables.
    pub variables: u32,
    /// `sizelocvars`.
    pub variable_count: u32,
}

/// How calls are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// In an array (5.1).
    Array {
        /// `lua_State.base_ci`: the first of them.
        base: u32,
        /// `sizeof(CallInfo)`.
        stride: u32,
        /// `lua_State.savedpc`: how far the innermost one has come.
        innermost_pc: u32,
        /// `CallInfo.tailcalls`: how many functions it has taken the place of.
        tail_calls: u32,
    },
    /// In a list; the outermost one is part of the `lua_State`.
    List {
        /// `CallInfo.previous`.
        previous: u32,
        /// `CallInfo.callstatus`, and its bits.
        status: u32,
        /// Where the activation of the interpreter's loop ends.
        flags: Flags,
    },
}

/// Bits of `CallInfo.callstatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    /// The bits that are there at all.
    pub mask: u32,
    /// What `status & lua.0 == lua.1` says: that the function is written in Lua.
    pub lua: (u32, u32),
    /// What `status & fresh.0 == fresh.1` says: that an activation of `luaV_execute` began with this call.
    pub fresh: (u32, u32),
    /// `CIST_TAIL`: it has taken the place of another.
    pub tail: u32,
    /// `CIST_HOOKED` and, where there is one, `CIST_FIN`: what it calls is called by none of its instructions.
    pub unseen: u32,
}

/// `Proto`: what is common to all closures of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProtoLayout {
    /// Its `tt`.
    pub tag: u8,
    /// `code`.
    pub code: u32,
    /// `sizecode`.
    pub instructions: u32,
    /// `lineinfo`.
    pub lines: u32,
    /// `sizelineinfo`.
    pub line_count: u32,
    /// `abslineinfo` and `sizeabslineinfo` (5.4): `lineinfo` has differences, of a byte each; before, whole lines.
    pub absolute: Option<(u32, u32)>,
    /// `source`.
    pub source: u32,
    /// `linedefined`.
    pub first_line: u32,
}

/// How a `TString` says how long it is and where its characters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strings {
    /// A `size_t`, then the characters.
    Plain,
    /// Of short ones the length is a byte (5.3).
    Short,
    /// The same, and of long ones the characters lie elsewhere (5.5).
    ShortAndFar,
}

/// `GCObject.tt`, and the place of a `TValue`'s tag; `LUA_TTHREAD`.
pub(super) const TAG: u64 = 8;
pub(super) const TAG_OF_THREAD: u8 = 8;
/// `sizeof(TString)` and the place of `TString.shrlen`, `.len` and `.u.lnglen`.
pub(super) const STRING_HEAD_BYTES: usize = 24;
pub(super) const STRING_SHORT_LENGTH: usize = 11;
pub(super) const STRING_LENGTH: usize = 16;
/// `Closure.isC` of 5.1.
pub(super) const CLOSURE_IS_C: u64 = 10;
/// Bytes of an instruction.
pub(super) const INSTRUCTION_BYTES: u64 = 4;

impl Layout {
    /// That of `version`.
    pub(super) fn of(version: LuaVersion) -> Option<Layout> {
        match (version.minor, version.release) {
            (1, _) => Some(V5_1),
            // `savedpc` came to lie behind a union in 5.2.3.
            (2, 0..=2) => Some(Layout {
                saved_pc: 48,
                ..V5_2
            }),
            (2, _) => Some(V5_2),
            (3, _) => Some(V5_3),
            // `stack` lay behind `stack_last` until 5.4.2.
            (4, 0..=1) => Some(Layout { stack: 56, ..V5_4 }),
            (4, _) => Some(V5_4),
            (5, _) => Some(V5_5),
            _ => None,
        }
    }

    /// How much of a `CallInfo` must be copied.
    pub(super) fn call_bytes(&self) -> usize {
        let last = match self.calls {
            Calls::Array { stride, .. } => stride,
            Calls::List {
                previous, status, ..
            } => previous.max(status).max(self.saved_pc) + 8,
        };
        last as usize
    }
}

const V5_1: Layout = Layout {
    global: 32,
    call: 40,
    stack: 64,
    calls: Calls::Array {
        base: 80,
        stride: 40,
        innermost_pc: 48,
        tail_calls: 36,
    },
    function: 8,
    saved_pc: 24,
    closure_proto: 32,
    proto: ProtoLayout {
        tag: 9,
        code: 24,
        instructions: 80,
        lines: 40,
        line_count: 84,
        absolute: None,
        source: 64,
        first_line: 96,
    },
    strings: Strings::Plain,
    names: NameLayout {
        constants: 16,
        constant_count: 76,
        upvalues: 56,
        upvalue_count: 72,
        upvalue_bytes: 8,
        variables: 48,
        variable_count: 92,
    },
    opcodes: &opcodes::V5_1,
};

const V5_2: Layout = Layout {
    global: 24,
    call: 32,
    stack: 56,
    calls: Calls::List {
        previous: 16,
        status: 34,
        flags: Flags {
            mask: 0xff,
            lua: (1, 1),        // CIST_LUA
            fresh: (1 << 2, 0), // no CIST_REENTRY
            tail: 1 << 6,
            unseen: 1 << 1,
        },
    },
    function: 0,
    saved_pc: 56,
    closure_proto: 24,
    proto: ProtoLayout {
        instructions: 88,
        line_count: 92,
        source: 72,
        first_line: 104,
        ..V5_1.proto
    },
    strings: Strings::Plain,
    names: NameLayout {
        constant_count: 84,
        upvalue_count: 80,
        upvalue_bytes: 16,
        variable_count: 100,
        ..V5_1.names
    },
    opcodes: &opcodes::V5_2,
};

const V5_3: Layout = Layout {
    calls: Calls::List {
        previous: 16,
        status: 66,
        flags: Flags {
            mask: 0xffff,
            lua: (1 << 1, 1 << 1),   // CIST_LUA
            fresh: (1 << 3, 1 << 3), // CIST_FRESH
            tail: 1 << 5,
            unseen: 1 << 2 | 1 << 8,
        },
    },
    saved_pc: 40,
    proto: ProtoLayout {
        code: 56,
        instructions: 24,
        lines: 72,
        line_count: 28,
        source: 104,
        first_line: 40,
        ..V5_2.proto
    },
    strings: Strings::Short,
    names: NameLayout {
        constants: 48,
        constant_count: 20,
        upvalues: 88,
        upvalue_count: 16,
        upvalue_bytes: 16,
        variables: 80,
        variable_count: 36,
    },
    opcodes: &opcodes::V5_3,
    ..V5_2
};

const V5_4: Layout = Layout {
    stack: 48,
    calls: Calls::List {
        previous: 16,
        status: 62,
        flags: Flags {
            mask: 0xffff,
            lua: (1 << 1, 0),        // no CIST_C
            fresh: (1 << 2, 1 << 2), // CIST_FRESH
            tail: 1 << 5,
            unseen: 1 << 3 | 1 << 7,
        },
    },
    saved_pc: 32,
    proto: ProtoLayout {
        tag: 10,
        code: 64,
        lines: 88,
        absolute: Some((96, 40)),
        source: 112,
        first_line: 44,
        ..V5_3.proto
    },
    names: NameLayout {
        constants: 56,
        upvalues: 80,
        variables: 104,
        ..V5_3.names
    },
    opcodes: &opcodes::V5_4,
    ..V5_3
};

const V5_5: Layout = Layout {
    calls: Calls::List {
        previous: 16,
        status: 60,
        flags: Flags {
            mask: u32::MAX,
            lua: (1 << 15, 0),         // no CIST_C
            fresh: (1 << 16, 1 << 16), // CIST_FRESH
            tail: 1 << 22,
            unseen: 1 << 20 | 1 << 24,
        },
    },
    strings: Strings::ShortAndFar,
    opcodes: &opcodes::V5_5,
    ..V5_4
};
