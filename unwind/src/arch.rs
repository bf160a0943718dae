//! What differs between processor architectures, as a table.

/// The facts of one architecture that a walk needs. Register numbers are DWARF's.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// The name as `uname -m` gives it.
    pub name: &'static str,
    /// `e_machine` of its ELF files (elf.h).
    pub elf_machine: u16,
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
    /// Bytes that a call puts on the stack.
    pub call_stack_bytes: u64,
    /// Bytes below the stack pointer that a leaf function may use.
    pub red_zone_bytes: u64,
    /// A short name for each DWARF register number.
    pub register_names: &'static [&'static str],
}

impl Arch {
    /// x86_64: System V ABI AMD64 supplement, figure 3.36 (DWARF register numbers) and section 3.2.2 (red zone).
    pub const X86_64: Arch = Arch {
        name: "x86_64",
        elf_machine: 62,
        stack_pointer: 7,
        frame_pointer: 6,
        return_address: 16,
        callee_saved: &[3, 6, 12, 13, 14, 15],
        callee_saved_mask: 1 << 3 | 1 << 6 | 0b1111 << 12,
        call_stack_bytes: 8,
        red_zone_bytes: 128,
        register_names: &[
            "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15", "rip",
        ],
    };

    /// aarch64: DWARF for the Arm 64-bit Architecture (2024Q3), section 4.1 (register numbers: 30 is the link register, 31
    /// the stack pointer, 32 the PC), and Procedure Call Standard for it, section 6.1.1. A leaf function may use nothing
    /// below its stack pointer.
    pub const AARCH64: Arch = Arch {
        name: "aarch64",
        elf_machine: 183,
        stack_pointer: 31,
        frame_pointer: 29,
        return_address: 32,
        callee_saved: &[19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29],
        callee_saved_mask: 0x7ff << 19,
        call_stack_bytes: 0,
        red_zone_bytes: 0,
        register_names: &[
            "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13",
            "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25",
            "x26", "x27", "x28", "x29", "x30", "sp", "pc",
        ],
    };

    /// The one whose ELF files have this `e_machine`.
    pub fn of_machine(elf_machine: u16) -> Option<&'static Arch> {
        let known: [&Arch; 2] = [&Arch::X86_64, &Arch::AARCH64];
        known
            .into_iter()
            .find(|arch| arch.elf_machine == elf_machine)
    }

    /// That of the machine this is compiled for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: &'static Arch = &Arch::X86_64;
    /// That of the machine this is compiled for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: &'static Arch = &Arch::AARCH64;
}
