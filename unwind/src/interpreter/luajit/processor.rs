//! What differs between processors: the interpreter is written in assembly, and so it has its own use of registers and of
//! the native stack on each; and compiled code is told apart from its exits in another way.
//!
//! All else (layout.rs) is the same on both.

use crate::arch::Arch;
use crate::native::aarch64;

/// One processor, with references of one size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Processor {
    pub(super) arch: &'static Arch,
    /// What the call frame information of the interpreter says of all of it: its caller's frame begins so many bytes above
    /// what this register holds.
    pub(super) cfa: (u16, i64),
    /// A C frame.
    pub(super) cframe: CFrameLayout,
    /// DWARF number of the register that holds the base of the executed function (`BASE`).
    pub(super) base: u16,
    /// The same of the one that holds where the bytecode goes on (`PC`). The code that is called keeps it.
    pub(super) position: u16,
    /// The same of the one in which builtins, and instructions that call C code, keep their base meanwhile.
    pub(super) builtin_base: u16,
    /// By what `PC` goes past the instruction that was fetched (`ins_NEXT`), in machine code, or the part of it that does
    /// not differ; and from the beginning of the fetch to behind it, in bytes.
    pub(super) past_fetched: &'static [u8],
    pub(super) fetch_bytes: usize,
    /// The register in which a call leaves where it returns to, on processors that have one. What compiled code calls, and
    /// the interpreter's file holds (`lj_vm_modi`), leaves it there.
    pub(super) link: Option<u16>,
    /// The unit in which snapshots count machine addresses, in bytes (`MCode`).
    pub(super) code_unit: u64,
    /// Whether the exits of a trace lie just behind its code, an instruction for each, rather than in groups for all traces.
    pub(super) exits_follow: bool,
}

/// What lies above the stack pointer of the interpreter (lj_frame.h, `CFRAME_OFS_*`).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CFrameLayout {
    pub(super) nres: u64,
    pub(super) thread: u64,
    pub(super) pc: u64,
    pub(super) prev: u64,
    /// The registers of the caller that it has saved, of those that it gives other values.
    pub(super) saved: &'static [(u16, u64)],
    /// Where it returns to.
    pub(super) return_address: u64,
    /// Where the caller's frame begins.
    pub(super) bytes: u64,
    /// Where the interpreter's frame record is, on processors that have return addresses in records; elsewhere the return
    /// address to the interpreter lies straight below its frame.
    pub(super) record: Option<u64>,
}

/// x86_64 (vm_x64.dasc), with references of 64 bits.
pub(super) static X86_64: Processor = X86_64_GC64;
const X86_64_GC64: Processor = Processor {
    arch: &Arch::X86_64,
    cfa: (RSP, 80),
    cframe: CFrameLayout {
        nres: 8,
        thread: 16,
        pc: 24,
        prev: 32,
        saved: &[(14, 40), (15, 48), (RBX, 56), (RBP, 64)],
        return_address: 72,
        bytes: 80,
        record: None,
    },
    base: RDX,
    position: RBX,
    builtin_base: RBP,
    // `add rbx, 4`, without its prefix: before it come two or three instructions that take apart what was fetched.
    past_fetched: &[0x83, 0xc3, 0x04],
    fetch_bytes: 12,
    link: None,
    code_unit: 1,
    exits_follow: false,
};
const RDX: u16 = 1;
const RBX: u16 = 3;
const RBP: u16 = 6;
const RSP: u16 = 7;

/// The same with references of 32 bits (vm_x86.dasc).
pub(super) static X86_64_GC32: Processor = Processor {
    cframe: CFrameLayout {
        nres: 16,
        thread: 24,
        pc: 28,
        prev: 32,
        ..X86_64_GC64.cframe
    },
    ..X86_64_GC64
};

/// aarch64 (vm_arm64.dasc, lj_target_arm64.h) since September 2021. References have 64 bits.
pub(super) static AARCH64: Processor = AARCH64_NEWER;
const AARCH64_NEWER: Processor = Processor {
    arch: &Arch::AARCH64,
    cfa: (X29, 16),
    cframe: CFrameLayout {
        nres: 40,
        thread: 16,
        pc: 8,
        prev: 0,
        saved: &[
            (28, 112),
            (27, 120),
            (26, 128),
            (25, 136),
            (24, 144),
            (23, 152),
            (22, 160),
            (21, 168),
            (20, 176),
            (19, 184),
            (X29, 192),
        ],
        return_address: 200,
        bytes: 208,
        record: Some(192),
    },
    base: X19,
    position: X21,
    builtin_base: X19,
    // `ldr w16, [x21], #4`
    past_fetched: &[0xb0, 0x46, 0x40, 0xb8],
    fetch_bytes: 4,
    link: Some(X30),
    code_unit: 4,
    exits_follow: true,
};
const X19: u16 = 19;
const X21: u16 = 21;
const X29: u16 = 29;
const X30: u16 = 30;
const SP: u16 = 31;

/// The same before that: the frame has another order.
pub(super) static AARCH64_OLDER: Processor = Processor {
    cfa: (SP, 208),
    cframe: CFrameLayout {
        nres: 200,
        thread: 176,
        pc: 168,
        prev: 160,
        saved: &[
            (X29, 0),
            (19, 16),
            (20, 24),
            (21, 32),
            (22, 40),
            (23, 48),
            (24, 56),
            (25, 64),
            (26, 72),
            (27, 80),
            (28, 88),
        ],
        return_address: 8,
        bytes: 208,
        record: Some(0),
    },
    ..AARCH64_NEWER
};

/// The largest [`Processor::fetch_bytes`].
pub(super) const FETCH_BYTES_MAX: usize = 12;

impl Processor {
    /// The address that a return address on the stack stands for.
    pub(super) fn code_address(&self, word: u64) -> u64 {
        match self.cframe.record {
            Some(_) => aarch64::without_signature(word),
            None => word,
        }
    }
}

impl CFrameLayout {
    /// The C frame of the interpreter that has called C code, where a return address to the interpreter lies in `slot`,
    /// with the word `below` it.
    pub(super) fn that_called(&self, slot: u64, below: u64) -> Option<u64> {
        match self.record {
            // The function's own record: the interpreter's lies in its frame.
            Some(record) => below.checked_sub(record).filter(|&at| at > slot),
            None => slot.checked_add(8),
        }
    }
}
