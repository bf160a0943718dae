//! What differs between processor architectures, as a table.

/// The facts of one architecture that a walk needs. Register numbers are DWARF's.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// The name as `uname -m` gives it.
    pub name: &'static str,
    /// The stack pointer.
    pub stack_pointer: u16,
    /// The frame pointer by convention.
    pub frame_pointer: u16,
    /// The column that stands for the return address, or for the PC of the innermost frame.
    pub return_address: u16,
    /// Registers a called function gives back unchanged; every other one is unknown in the caller unless saved.
    pub callee_saved: &'static [u16],
    /// The same as bits: bit n is DWARF register n.
    pub callee_saved_mask: u64,
    /// Bytes below the stack pointer that a leaf function may use.
    pub red_zone_bytes: u64,
    /// A short name for each DWARF register number.
    pub register_names: &'static [&'static str],
}

impl Arch {
    /// x86_64: System V ABI AMD64 supplement, figure 3.36 (DWARF register numbers) and section 3.2.2 (red zone).
    pub const X86_64: Arch = Arch {
        name: "x86_64",
        stack_pointer: 7,
        frame_pointer: 6,
        return_address: 16,
        callee_saved: &[3, 6, 12, 13, 14, 15],
        callee_saved_mask: 1 << 3 | 1 << 6 | 0b1111 << 12,
        red_zone_bytes: 128,
        register_names: &[
            "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15", "rip",
        ],
    };
}
