//! x86_64 as the walk asks for it.

use super::decode::decode;
use super::follow::{
    epilogue, follow, has_fixed_stack, loader_start, rule_from_entry, rule_of_body,
};
use super::{
    CALL_BYTES_MAX, CALLEE_SAVED, STACK_POINTER, VSYSCALL, call_slot, clears_frame_pointer,
    direct_call_target, ends_with_call, interrupted, is_signal_trampoline,
    is_signal_trampoline_call, plt_cfa_offset, plt_slot,
};
use crate::address::{Avma, Svma};
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::memory::{MemoryReader, ReadError};
use crate::native::cfi::{self, CfiRow};
use crate::native::machine::{Code, Followed, Machine, put_back};
use crate::native::rule::{self, Rule, RuleKind, SAVED_MAX, Slot};
use crate::registers::Registers;
use crate::stack::{FrameOrigin, StackEnd};

/// x86_64.
pub(crate) struct X86_64;

impl Machine for X86_64 {
    const ARCH: &'static Arch = &Arch::X86_64;
    const LINK_REGISTER: Option<u16> = None;
    const CALL_BYTES_MAX: usize = CALL_BYTES_MAX;

    fn is_signal_trampoline(code: &[u8]) -> bool {
        is_signal_trampoline(code)
    }

    fn is_signal_trampoline_call(before: &[u8], code: &[u8]) -> bool {
        is_signal_trampoline_call(before, code)
    }

    fn interrupted<M: MemoryReader + ?Sized>(sp: Avma, memory: &M) -> Result<Registers, ReadError> {
        interrupted(sp, memory)
    }

    fn is_kernel_page(pc: Avma) -> bool {
        VSYSCALL.contains(&pc)
    }

    fn ends_with_call(before: &[u8]) -> bool {
        ends_with_call(before)
    }

    fn direct_call_target(svma: Svma, before: &[u8]) -> Option<Svma> {
        direct_call_target(svma, before)
    }

    fn call_slot(svma: Svma, before: &[u8]) -> Option<Svma> {
        call_slot(svma, before)
    }

    fn plt_slot(svma: Svma, code: &[u8]) -> Option<Svma> {
        plt_slot(svma, code)
    }

    fn compact(image: &ElfImage, pc: Svma, cfi: &CfiRow<'_>) -> Option<Rule> {
        rule::compact(Self::ARCH, image, pc, cfi)
    }

    fn is_outermost_entry(code: &[u8]) -> bool {
        clears_frame_pointer(code)
    }

    fn is_thread_start(image: &ElfImage, pc: Svma, before: &[u8], code: &[u8]) -> bool {
        is_thread_start(image, pc, before, code)
    }

    fn follow(code: &impl Code, start: u64) -> Followed {
        follow(code, start)
    }

    fn by_code(image: &ElfImage, pc: Svma, is_return_address: bool) -> Option<Rule> {
        by_code(image, pc, is_return_address)
    }

    fn realigned_epilogue(image: &ElfImage, pc: Svma) -> Option<Rule> {
        epilogue(&image, pc.0)
    }

    fn rule_from_entry(image: &ElfImage, function: Svma, pc: Svma) -> Option<Rule> {
        rule_from_entry(&image, function.0, pc.0).or_else(|| rule_of_body(&image, function.0))
    }

    fn rule_by_stack(image: &ElfImage, lookup: Svma, pc: Svma, rule: Rule) -> Option<Rule> {
        decide_by_stack(image, lookup, pc, rule)
    }

    fn go_rule(moved: i32) -> Option<Rule> {
        const RETURN_ADDRESS_BYTES: i32 = 8;
        let offset = moved.checked_add(RETURN_ADDRESS_BYTES)?;
        let rule = Rule::simple(STACK_POINTER, offset, FrameOrigin::GoTable);
        // No function of Go's keeps a register for its caller but rbp, and where that is the table does not say.
        Some(rule.with_saved([Slot::LOST; SAVED_MAX]))
    }

    #[inline]
    fn return_slot(rule: &Rule) -> Option<i64> {
        Some(rule.return_address())
    }

    #[inline]
    fn return_address<M: MemoryReader + ?Sized>(
        rule: &Rule,
        cfa: u64,
        _registers: &Registers,
        memory: &M,
    ) -> Result<u64, StackEnd> {
        let slot = Avma(cfa.wrapping_add_signed(rule.return_address()));
        memory.read_u64(slot).map_err(StackEnd::Unreadable)
    }

    #[inline]
    fn caller_sp(rule: &Rule, cfa: u64) -> Avma {
        Avma(
            cfa.wrapping_add_signed(rule.return_address())
                .wrapping_add(8),
        )
    }

    #[inline]
    fn restore<M: MemoryReader + ?Sized>(
        rule: &Rule,
        cfa: u64,
        registers: &mut Registers,
        memory: &M,
    ) {
        let sp = registers.sp().unwrap_or_default();
        registers.keep_callee_saved();
        if rule.saves_nothing() {
            return;
        }
        for saved in CALLEE_SAVED.into_iter().zip(rule.saved()) {
            put_back(registers, saved, (cfa, sp), memory);
        }
    }

    fn frame_record(_rule: &Rule) -> Option<i64> {
        None
    }

    #[inline]
    fn code_address(word: u64) -> u64 {
        word
    }
}

/// `rule` with the stack pointer in place of its register.
fn decide_by_stack(image: &ElfImage, lookup: Svma, pc: Svma, rule: Rule) -> Option<Rule> {
    let function = cfi::function(image, lookup)?;
    let by_code = has_fixed_stack(&image, function.start.0..function.end.0)
        .then(|| rule_from_entry(&image, function.start.0, pc.0))??;
    // The tables know better where registers are saved.
    Some(rule.on_register(STACK_POINTER, by_code.offset()))
}

/// The rule for code without tables, from the code itself.
fn by_code(image: &ElfImage, pc: Svma, is_return_address: bool) -> Option<Rule> {
    if is_program_start(image, pc, is_return_address) {
        return Some(Rule::of(RuleKind::Root));
    }
    if !is_return_address {
        let before = image
            .code_before(pc, CALL_BYTES_MAX as u64)
            .unwrap_or_default();
        if let Some(offset) = plt_cfa_offset(before, image.code_at(pc)?) {
            return Some(Rule::simple(STACK_POINTER, offset, FrameOrigin::KnownCode));
        }
    }
    match follow(&image, pc.0) {
        Followed::Returns(rule) => Some(rule),
        // What comes back to end the thread has no caller. Only after a call: the function that itself ends the
        // thread (`_exit`) has one.
        Followed::Exits if is_return_address => Some(Rule::of(RuleKind::Root)),
        Followed::Exits | Followed::Unknown => None,
    }
}

/// Whether `pc` is in the code at the image's entry point, up to and including its first call, which never returns;
/// or further on in that of the dynamic loader, or behind a call that it makes with rbp cleared, to run constructors.
fn is_program_start(image: &ElfImage, pc: Svma, is_return_address: bool) -> bool {
    const INSTRUCTIONS_MAX: usize = 16;
    const LOADER_BYTES_MAX: u64 = 128;
    if !is_return_address
        && loader_start(&image, image.entry().0).is_some_and(|start| start.contains(&pc.0))
    {
        return true;
    }
    let mut at = image.entry();
    for _ in 0..INSTRUCTIONS_MAX {
        if !is_return_address && at == pc {
            return true;
        }
        let Some(code) = image.code_at(at) else {
            return false;
        };
        let Some(instruction) = decode(code) else {
            break;
        };
        at = Svma(at.0.saturating_add(instruction.bytes as u64));
        if matches!(code, [0xe8 | 0xff, ..]) {
            if is_return_address && at == pc {
                return true;
            }
            break;
        }
    }
    let from_entry = pc.0.checked_sub(image.entry().0);
    is_return_address
        && from_entry.is_some_and(|bytes| bytes < LOADER_BYTES_MAX)
        && matches!(
            image.code_before(pc, CALL_BYTES_MAX as u64),
            Some([0x31, 0xed, 0xe8, ..])
        )
}

/// Whether `pc` is where a thread's start routine returns to in a `clone` that carries wrong tables: rbp was cleared
/// shortly before the call, and what was returned becomes the thread's exit code.
///
/// musl's tables for its assembly, where it has them, are generated and do not end the stack.
fn is_thread_start(image: &ElfImage, pc: Svma, before: &[u8], code: &[u8]) -> bool {
    const XOR_EBP_EBP: [u8; 2] = [0x31, 0xed];
    const MOV_EDI_EAX: [u8; 2] = [0x89, 0xc7];
    code.starts_with(&MOV_EDI_EAX)
        && before.windows(2).any(|bytes| bytes == XOR_EBP_EBP)
        && follow(&image, pc.0) == Followed::Exits
}
