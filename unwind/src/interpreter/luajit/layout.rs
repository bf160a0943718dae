//! Where fields lie. Offsets in bytes, little-endian processors with pointers of 64 bits, builds without assertions.

use super::processor::{AARCH64, AARCH64_OLDER, Processor, X86_64, X86_64_GC32};
use crate::address::Avma;
use crate::memory::MemoryReader;

/// The kinds of garbage-collected objects (`gct` in GCHeader, lj_obj.h: ~LJ_T...).
pub(super) const GCT_STRING: u8 = 4;
pub(super) const GCT_THREAD: u8 = 6;
pub(super) const GCT_PROTO: u8 = 7;
pub(super) const GCT_FUNCTION: u8 = 8;
pub(super) const GCT_TRACE: u8 = 9;

/// Pointers are not higher than this (`LJ_GCVMASK`).
pub(super) const POINTER_MASK: u64 = (1 << 47) - 1;

/// What does not differ between versions, for one size of references.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// What differs between processors.
    pub(super) processor: &'static Processor,
    /// Whether references have 64 bits (GC64) and frames two slots (FR2).
    pub(super) gc64: bool,
    /// In every object: its kind.
    pub(super) gct: u64,
    /// lua_State.
    pub(super) thread: ThreadLayout,
    /// GCproto.
    pub(super) proto: ProtoLayout,
    /// GCfunc.
    pub(super) function_ffid: u64,
    pub(super) function_pc: u64,
    /// GCstr: its bytes, with a zero behind them.
    pub(super) string_data: u64,
    /// GCtrace.
    pub(super) trace: TraceLayout,
    /// From the field of global_State that is looked for to another: how far `vmstate` lies before `mainthref`.
    pub(super) vmstate_before_main: u64,
    /// Only in the layouts up to May 2020, which are known by it.
    pub(super) empty_string: Option<EmptyString>,
}

/// `strempty` in global_State: a string without characters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EmptyString {
    pub(super) before_main: usize,
    /// Where in it the number of its characters is.
    pub(super) length: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ThreadLayout {
    pub(super) glref: u64,
    pub(super) base: u64,
    pub(super) top: u64,
    pub(super) maxstack: u64,
    pub(super) stack: u64,
    pub(super) cframe: u64,
    /// How much of it is copied: up to `cframe` and with it.
    pub(super) bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProtoLayout {
    /// The size of the structure; bytecode follows.
    pub(super) bytes: u64,
    pub(super) sizebc: usize,
    pub(super) k: usize,
    pub(super) sizept: usize,
    pub(super) chunkname: usize,
    pub(super) firstline: usize,
    pub(super) numline: usize,
    pub(super) lineinfo: usize,
    pub(super) uvinfo: usize,
    pub(super) varinfo: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct TraceLayout {
    pub(super) nsnap: usize,
    pub(super) ir: usize,
    pub(super) nsnapmap: usize,
    pub(super) snap: usize,
    pub(super) snapmap: usize,
    pub(super) startpt: usize,
    pub(super) startpc: usize,
    pub(super) szmcode: usize,
    pub(super) mcode: usize,
    pub(super) traceno: usize,
    /// How much of it is read.
    pub(super) bytes: usize,
}

/// Those of a virtual machine on one processor, in the order in which they are tried: all with the same
/// [`Processor::cfa`], by which the interpreter is recognized.
pub(super) type Layouts = &'static [&'static Layout];

/// All there are.
pub(super) static LAYOUTS: [Layouts; 3] = [
    &[&GC64_OLDER, &GC64, &GC32_OLDER, &GC32],
    &[&GC64_AARCH64],
    &[&GC64_OLDER_AARCH64_OLDER, &GC64_AARCH64_OLDER],
];

/// 64-bit references: on x86_64 the default from December 2019 on, on aarch64 there are no others.
pub(super) static GC64: Layout = GC64_NEWER;
const GC64_NEWER: Layout = Layout {
    processor: &X86_64,
    gc64: true,
    gct: 9,
    thread: ThreadLayout {
        glref: 0x10,
        base: 0x20,
        top: 0x28,
        maxstack: 0x30,
        stack: 0x38,
        cframe: 0x50,
        bytes: 0x58,
    },
    proto: ProtoLayout {
        bytes: 0x68,
        sizebc: 0xc,
        k: 0x20,
        sizept: 0x38,
        chunkname: 0x40,
        firstline: 0x48,
        numline: 0x4c,
        lineinfo: 0x50,
        uvinfo: 0x58,
        varinfo: 0x60,
    },
    function_ffid: 0xa,
    function_pc: 0x20,
    string_data: 0x18,
    trace: TraceLayout {
        nsnap: 0xa,
        ir: 0x20,
        nsnapmap: 0x2c,
        snap: 0x30,
        snapmap: 0x38,
        startpt: 0x40,
        startpc: 0x48,
        szmcode: 0x54,
        mcode: 0x58,
        traceno: 0x68,
        bytes: 0x70,
    },
    vmstate_before_main: 8,
    empty_string: None,
};

/// The same up to May 2020.
pub(super) static GC64_OLDER: Layout = GC64_OLDEST;
const GC64_OLDEST: Layout = Layout {
    vmstate_before_main: 72,
    empty_string: Some(EmptyString {
        before_main: 32,
        length: 16,
    }),
    ..GC64_NEWER
};

/// The same on aarch64, since September 2021.
pub(super) static GC64_AARCH64: Layout = Layout {
    processor: &AARCH64,
    ..GC64_NEWER
};

/// The same before that, and up to May 2020.
pub(super) static GC64_AARCH64_OLDER: Layout = Layout {
    processor: &AARCH64_OLDER,
    ..GC64_NEWER
};
pub(super) static GC64_OLDER_AARCH64_OLDER: Layout = Layout {
    processor: &AARCH64_OLDER,
    ..GC64_OLDEST
};

/// 32-bit references.
pub(super) static GC32: Layout = GC32_NEWER;
const GC32_NEWER: Layout = Layout {
    processor: &X86_64_GC32,
    gc64: false,
    gct: 5,
    thread: ThreadLayout {
        glref: 0x8,
        base: 0x10,
        top: 0x18,
        maxstack: 0x20,
        stack: 0x24,
        cframe: 0x30,
        bytes: 0x38,
    },
    proto: ProtoLayout {
        bytes: 0x40,
        sizebc: 0x8,
        k: 0x10,
        sizept: 0x20,
        chunkname: 0x28,
        firstline: 0x2c,
        numline: 0x30,
        lineinfo: 0x34,
        uvinfo: 0x38,
        varinfo: 0x3c,
    },
    function_ffid: 6,
    function_pc: 0x10,
    string_data: 0x14,
    trace: TraceLayout {
        nsnap: 6,
        ir: 0x10,
        nsnapmap: 0x1c,
        snap: 0x20,
        snapmap: 0x28,
        startpt: 0x30,
        startpc: 0x34,
        szmcode: 0x3c,
        mcode: 0x40,
        traceno: 0x50,
        bytes: 0x58,
    },
    vmstate_before_main: 4,
    empty_string: None,
};

/// The same up to May 2020.
pub(super) static GC32_OLDER: Layout = Layout {
    string_data: 0x10,
    vmstate_before_main: 40,
    empty_string: Some(EmptyString {
        before_main: 20,
        length: 12,
    }),
    ..GC32_NEWER
};

impl Layout {
    /// A reference (GCRef, MRef) in memory.
    pub(super) fn reference(&self, memory: &dyn MemoryReader, at: u64) -> Option<u64> {
        match self.gc64 {
            true => memory.read_u64(Avma(at)).ok(),
            false => memory.read_u32(Avma(at)).ok().map(u64::from),
        }
    }

    /// A reference in bytes that were read.
    pub(super) fn reference_in(&self, bytes: &[u8], at: usize) -> Option<u64> {
        match self.gc64 {
            true => u64_in(bytes, at),
            false => u32_in(bytes, at).map(u64::from),
        }
    }

    /// How many bytes a reference has.
    pub(super) fn reference_bytes(&self) -> u64 {
        match self.gc64 {
            true => 8,
            false => 4,
        }
    }

    /// What kind of object lies at `at`.
    pub(super) fn kind(&self, memory: &dyn MemoryReader, at: u64) -> Option<u8> {
        let mut kind = [0];
        let at = at.checked_add(self.gct)?;
        memory.read_exact(Avma(at), &mut kind).ok()?;
        Some(kind[0])
    }
}

/// Numbers in bytes that were read, little-endian.
pub(super) fn u16_in(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// See [`u16_in`].
pub(super) fn u32_in(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// See [`u16_in`].
pub(super) fn u64_in(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
