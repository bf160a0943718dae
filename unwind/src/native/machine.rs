//! What a walk must know of the processor. Each architecture implements it; the walk is compiled for each, so that
//! knowing several costs a walk nothing.

use super::cfi::CfiRow;
use super::rule::{Rule, Slot};
use crate::address::{Avma, Svma};
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::memory::{MemoryReader, ReadError};
use crate::registers::Registers;
use crate::stack::StackEnd;

/// The longest instruction of any architecture here (x86: Intel SDM, volume 2, section 2.3.11).
pub(crate) const INSTRUCTION_BYTES_MAX: usize = 15;

/// Where code is read from.
pub(crate) trait Code {
    /// Fills `into` with code from `at` on, and says how many bytes there were.
    fn fetch(&self, at: u64, into: &mut [u8; INSTRUCTION_BYTES_MAX]) -> usize;
}

/// What following a piece of code found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    /// A path returns; this is the rule for where it started.
    Returns(Rule),
    /// The code goes straight on to end the thread or the process, without another call: what a thread's or a
    /// program's first code does when all is over. (`abort` never returns either, but was called.)
    Exits,
    /// Neither was found.
    Unknown,
}

/// A processor architecture. Register numbers are DWARF's.
pub(crate) trait Machine {
    /// Its table, of which these are parts where a constant is wanted.
    const ARCH: &'static Arch;
    const ELF_MACHINE: u16 = Self::ARCH.elf_machine;
    const STACK_POINTER: u16 = Self::ARCH.stack_pointer;
    const RETURN_ADDRESS: u16 = Self::ARCH.return_address;
    /// Where a call leaves the return address, if that is not the stack.
    const LINK_REGISTER: Option<u16>;
    /// Bytes before a return address that tell whether a call is there.
    const CALL_BYTES_MAX: usize;

    /// Whether `code` is a signal trampoline.
    fn is_signal_trampoline(code: &[u8]) -> bool;
    /// Whether `code` is the system call in a signal trampoline of which `before` are the bytes before it.
    fn is_signal_trampoline_call(before: &[u8], code: &[u8]) -> bool;
    /// The registers of the code that a signal interrupted, for a trampoline whose stack pointer is `sp`.
    ///
    /// # Errors
    /// When the context cannot be read.
    fn interrupted<M: MemoryReader + ?Sized>(sp: Avma, memory: &M) -> Result<Registers, ReadError>;
    /// Whether the kernel has code at `pc` that it tells nobody of.
    fn is_kernel_page(pc: Avma) -> bool;

    /// Whether `before` ends with a call, i.e. whether the address after it can be a return address.
    fn ends_with_call(before: &[u8]) -> bool;
    /// Where the direct call leads after which `svma` is the return address; `before` are the bytes before `svma`.
    fn direct_call_target(svma: Svma, before: &[u8]) -> Option<Svma>;
    /// The slot that a call reads its target from, after which `svma` is the return address.
    fn call_slot(svma: Svma, before: &[u8]) -> Option<Svma>;
    /// The slot that the PLT stub with the bytes `code` at `svma` reads its target from.
    fn plt_slot(svma: Svma, code: &[u8]) -> Option<Svma>;

    /// The compact rule for a row of call frame information at `pc`, or `None` when only a complex rule says all of it.
    fn compact(image: &ElfImage, pc: Svma, cfi: &CfiRow<'_>) -> Option<Rule>;
    /// Whether `pc`, which is the image's entry point and has the bytes `code`, is a frame without a caller whatever
    /// its tables say.
    fn is_outermost_entry(code: &[u8]) -> bool;
    /// Whether `pc` is where a thread's start routine returns to in a `clone` that carries wrong tables.
    fn is_thread_start(image: &ElfImage, pc: Svma, before: &[u8], code: &[u8]) -> bool;
    /// Follows the code from `start` on to where it returns.
    fn follow(code: &impl Code, start: u64) -> Followed;
    /// The rule for code without tables, from the code itself.
    fn by_code(image: &ElfImage, pc: Svma, is_return_address: bool) -> Option<Rule>;
    /// The rule at `pc` in the epilogue of a function that realigned its stack, if that is where it is: tables are
    /// wrong there.
    fn realigned_epilogue(image: &ElfImage, pc: Svma) -> Option<Rule>;
    /// The rule for `pc` if its function begins at `function`.
    fn rule_from_entry(image: &ElfImage, function: Svma, pc: Svma) -> Option<Rule>;
    /// `rule`, which is that of `pc`, with the stack pointer in place of its register. `lookup` is in the function.
    fn rule_by_stack(image: &ElfImage, lookup: Svma, pc: Svma, rule: Rule) -> Option<Rule>;
    /// The rule for code of a Go program where the stack pointer has moved this far.
    fn go_rule(moved: i32) -> Option<Rule>;

    /// Where the return address lies from the CFA by `rule`, in bytes; `None` if it is in a register.
    fn return_slot(rule: &Rule) -> Option<i64>;
    /// The return address by `rule`, in a frame at `pc` with these `registers`.
    ///
    /// # Errors
    /// Why there is none.
    fn return_address<M: MemoryReader + ?Sized>(
        rule: &Rule,
        cfa: u64,
        registers: &Registers,
        memory: &M,
    ) -> Result<u64, StackEnd>;
    /// The caller's stack pointer by `rule`.
    fn caller_sp(rule: &Rule, cfa: u64) -> Avma;
    /// Puts the callee-saved registers back as the frame's function found them, and makes all others unknown.
    fn restore<M: MemoryReader + ?Sized>(
        rule: &Rule,
        cfa: u64,
        registers: &mut Registers,
        memory: &M,
    );
    /// Where, by `rule`, the caller's frame pointer lies from the CFA, if it is kept with the return address just above it
    /// and the function's own frame pointer points there.
    fn frame_record(rule: &Rule) -> Option<i64>;
    /// The address of code that `word`, a return address from wherever it was kept, stands for.
    fn code_address(word: u64) -> u64;
}

/// Puts `register` back from `slot`. Nothing but registers that a call preserves may be known.
#[inline]
pub(crate) fn put_back<M: MemoryReader + ?Sized>(
    registers: &mut Registers,
    (register, slot): (u16, Slot),
    (cfa, sp): (u64, Avma),
    memory: &M,
) {
    if let Some(offset) = slot.offset() {
        let at = Avma(cfa.wrapping_add_signed(offset));
        match memory.read_u64(at) {
            Ok(value) => registers.set(register, value),
            // Popped already, so still in the register: epilogues leave it described below the stack pointer,
            // where not everybody copies.
            Err(_) if at < sp => {}
            // Unknown in the caller; that ends the walk only where it is needed.
            Err(_) => registers.forget(register),
        }
    } else if slot.is_lost() {
        registers.forget(register);
    }
}
