//! What a walk starts from, and what it knows at each frame.

use std::fmt;

use crate::address::Avma;
use crate::arch::Arch;

/// The largest number of registers of any architecture here (aarch64: x0 to x30, sp, pc).
pub(crate) const REGISTERS_MAX: usize = 33;

/// The registers of one frame, by DWARF number; each is known or unknown.
///
/// A stopped thread gives all of them. A sleeping one, seen through `/proc/PID/task/TID/syscall`, gives the stack
/// pointer and the PC alone, and what a walk cannot recover on its way stays unknown: unknown is a value here, never
/// a zero.
#[derive(Clone, Copy)]
pub struct Registers {
    arch: &'static Arch,
    known: u64,
    values: [u64; REGISTERS_MAX],
}

impl Registers {
    /// No register known.
    pub fn unknown(arch: &'static Arch) -> Self {
        Self {
            arch,
            known: 0,
            values: [0; REGISTERS_MAX],
        }
    }

    /// Only the PC and the stack pointer known.
    pub fn at(arch: &'static Arch, pc: Avma, sp: Avma) -> Self {
        let mut registers = Self::unknown(arch);
        registers.set(arch.return_address, pc.0);
        registers.set(arch.stack_pointer, sp.0);
        registers
    }

    /// The architecture whose numbers these are.
    #[inline]
    pub fn arch(&self) -> &'static Arch {
        self.arch
    }

    /// The value of `register`, if it is known.
    #[inline]
    pub fn get(&self, register: u16) -> Option<u64> {
        let index = usize::from(register);
        (index < REGISTERS_MAX && self.known & (1 << index) != 0).then(|| self.values[index])
    }

    /// Makes `register` known. A number beyond the architecture's registers is ignored.
    #[inline]
    pub fn set(&mut self, register: u16, value: u64) {
        let index = usize::from(register);
        if index < REGISTERS_MAX {
            self.known |= 1 << index;
            self.values[index] = value;
        }
    }

    /// Makes `register` unknown.
    #[inline]
    pub fn forget(&mut self, register: u16) {
        if usize::from(register) < REGISTERS_MAX {
            self.known &= !(1 << register);
        }
    }

    /// Makes all registers unknown but those in `registers`.
    pub(crate) fn keep_only(&mut self, registers: &[u16]) {
        self.known &= registers
            .iter()
            .fold(0, |mask, register| mask | 1 << (register & 63));
    }

    /// Makes all registers unknown that a call does not preserve, the PC and the stack pointer included.
    #[inline]
    pub(crate) fn keep_callee_saved(&mut self) {
        self.known &= self.arch.callee_saved_mask;
    }

    /// The program counter of the innermost frame, or the return address of an outer one.
    #[inline]
    pub fn pc(&self) -> Option<Avma> {
        self.get(self.arch.return_address).map(Avma)
    }

    /// The stack pointer.
    #[inline]
    pub fn sp(&self) -> Option<Avma> {
        self.get(self.arch.stack_pointer).map(Avma)
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (register, name) in (0u16..).zip(self.arch.register_names) {
            if let Some(value) = self.get(register) {
                map.entry(name, &format_args!("{value:#x}"));
            }
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_not_zero() {
        let mut registers = Registers::at(&Arch::X86_64, Avma(1), Avma(2));
        assert_eq!(
            (registers.pc(), registers.sp(), registers.get(6)),
            (Some(Avma(1)), Some(Avma(2)), None)
        );
        registers.set(6, 0);
        assert_eq!(registers.get(6), Some(0));
        registers.forget(6);
        assert_eq!(registers.get(6), None);
        registers.set(200, 1);
        assert_eq!(registers.get(200), None);
    }
}
