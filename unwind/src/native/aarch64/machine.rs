//! aarch64 as the walk asks for it.

use gimli::{CfaRule, RegisterRule};

use super::follow::{follow, is_program_start};
use super::{
    FRAME_POINTER, INSTRUCTION_BYTES, LINK, SIGRETURN, STACK_POINTER, direct_call_target, first,
    interrupted, is_call, is_signal_trampoline, last, plt_slot, without_signature,
};
use crate::address::{Avma, Svma};
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::memory::{MemoryReader, ReadError};
use crate::native::cfi::CfiRow;
use crate::native::machine::{Code, Followed, Machine, put_back};
use crate::native::rule::{Rule, RuleKind, SHORT_SAVED_MAX, ShortSlot, Slot};
use crate::registers::Registers;
use crate::stack::{FrameOrigin, StackEnd};

/// aarch64.
pub(crate) struct Aarch64;

/// The registers that rules have slots for: those that a call preserves, and the link register.
pub(super) const SAVED: [u16; SHORT_SAVED_MAX] = [19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30];
/// No register is saved.
pub(super) const NONE_SAVED: [ShortSlot; SHORT_SAVED_MAX] = [ShortSlot::SAME; SHORT_SAVED_MAX];

/// CFA = `register` + `offset`, the [`SAVED`] registers in `saved`.
pub(super) fn rule(
    register: u16,
    offset: i32,
    saved: [ShortSlot; SHORT_SAVED_MAX],
    origin: FrameOrigin,
) -> Rule {
    Rule::new(RuleKind::Register, register, offset, Slot::LOST, origin).with_short_saved(saved)
}

/// Where `rule` has the frame pointer and the link register.
#[inline]
fn record(rule: &Rule) -> (Slot, Slot) {
    let [.., frame_pointer, link] = rule.short_saved();
    (frame_pointer.long(), link.long())
}

impl Machine for Aarch64 {
    const ARCH: &'static Arch = &Arch::AARCH64;
    const LINK_REGISTER: Option<u16> = Some(LINK);
    const CALL_BYTES_MAX: usize = INSTRUCTION_BYTES;

    fn is_signal_trampoline(code: &[u8]) -> bool {
        is_signal_trampoline(code)
    }

    fn is_signal_trampoline_call(before: &[u8], code: &[u8]) -> bool {
        last(before) == Some(SIGRETURN[0]) && first(code) == Some(SIGRETURN[1])
    }

    fn interrupted<M: MemoryReader + ?Sized>(sp: Avma, memory: &M) -> Result<Registers, ReadError> {
        interrupted(sp, memory)
    }

    fn is_kernel_page(_pc: Avma) -> bool {
        false
    }

    fn ends_with_call(before: &[u8]) -> bool {
        last(before).is_some_and(is_call)
    }

    fn direct_call_target(svma: Svma, before: &[u8]) -> Option<Svma> {
        direct_call_target(svma, before)
    }

    fn call_slot(_svma: Svma, _before: &[u8]) -> Option<Svma> {
        None
    }

    fn plt_slot(svma: Svma, code: &[u8]) -> Option<Svma> {
        plt_slot(svma, code)
    }

    fn compact(_image: &ElfImage, _pc: Svma, cfi: &CfiRow<'_>) -> Option<Rule> {
        compact(cfi)
    }

    /// Its tables, or what a walk finds there, say so: the kernel starts a program with a zero in the link register.
    fn is_outermost_entry(_code: &[u8]) -> bool {
        false
    }

    /// The link register is marked as undefined where there are tables; where there are none, the code ends the thread.
    fn is_thread_start(_image: &ElfImage, _pc: Svma, _before: &[u8], _code: &[u8]) -> bool {
        false
    }

    fn follow(code: &impl Code, start: u64) -> Followed {
        follow(code, start)
    }

    fn by_code(image: &ElfImage, pc: Svma, is_return_address: bool) -> Option<Rule> {
        if is_program_start(&image, image.entry().0, pc.0) {
            return Some(Rule::of(RuleKind::Root));
        }
        match follow(&image, pc.0) {
            Followed::Returns(rule) => Some(rule),
            Followed::Exits if is_return_address => Some(Rule::of(RuleKind::Root)),
            Followed::Exits | Followed::Unknown => None,
        }
    }

    fn realigned_epilogue(_image: &ElfImage, _pc: Svma) -> Option<Rule> {
        None
    }

    fn rule_from_entry(_image: &ElfImage, _function: Svma, _pc: Svma) -> Option<Rule> {
        None
    }

    fn rule_by_stack(_image: &ElfImage, _lookup: Svma, _pc: Svma, _rule: Rule) -> Option<Rule> {
        None
    }

    /// A function of Go's keeps its return address at its stack pointer and its caller's frame pointer just below that,
    /// once it has moved the stack pointer (`cmd/internal/obj/arm64`), and nothing else for its caller.
    fn go_rule(moved: i32) -> Option<Rule> {
        let mut saved = [ShortSlot::LOST; SHORT_SAVED_MAX];
        let [.., frame_pointer, link] = &mut saved;
        (*frame_pointer, *link) = match moved {
            0 => (ShortSlot::SAME, ShortSlot::SAME),
            moved => {
                let link = i64::from(moved).checked_neg()?;
                (ShortSlot::at(link.checked_sub(8)?)?, ShortSlot::at(link)?)
            }
        };
        Some(rule(STACK_POINTER, moved, saved, FrameOrigin::GoTable))
    }

    #[inline]
    fn return_slot(rule: &Rule) -> Option<i64> {
        let (_, link) = record(rule);
        link.offset()
    }

    #[inline]
    fn return_address<M: MemoryReader + ?Sized>(
        rule: &Rule,
        cfa: u64,
        registers: &Registers,
        memory: &M,
    ) -> Result<u64, StackEnd> {
        let word = match Self::return_slot(rule) {
            Some(offset) => {
                let slot = Avma(cfa.wrapping_add_signed(offset));
                memory.read_u64(slot).map_err(StackEnd::Unreadable)?
            }
            None => registers.get(LINK).ok_or(StackEnd::UnknownRegister {
                pc: registers.pc().unwrap_or_default(),
                register: LINK,
            })?,
        };
        Ok(without_signature(word))
    }

    #[inline]
    fn caller_sp(_rule: &Rule, cfa: u64) -> Avma {
        Avma(cfa)
    }

    /// The link register is unknown in the caller: what it held was overwritten by the call.
    #[inline]
    fn restore<M: MemoryReader + ?Sized>(
        rule: &Rule,
        cfa: u64,
        registers: &mut Registers,
        memory: &M,
    ) {
        let sp = registers.sp().unwrap_or_default();
        registers.keep_callee_saved();
        let saved = rule.short_saved().into_iter().zip(SAVED);
        for (slot, register) in saved.take(SAVED.len() - 1) {
            put_back(registers, (register, slot.long()), (cfa, sp), memory);
        }
    }

    fn frame_record(rule: &Rule) -> Option<i64> {
        let (frame_pointer, link) = record(rule);
        let offset = frame_pointer.offset()?;
        (link.offset()? == offset.checked_add(8)?).then_some(offset)
    }

    #[inline]
    fn code_address(word: u64) -> u64 {
        without_signature(word)
    }
}

/// The compact rule for a row: CFA = a register + n, all that is saved below it.
fn compact(cfi: &CfiRow<'_>) -> Option<Rule> {
    if cfi.is_signal_frame || cfi.return_address != LINK {
        return None;
    }
    let CfaRule::RegisterAndOffset { register, offset } = cfi.row.cfa() else {
        return None;
    };
    if cfi.row.register(gimli::Register(LINK)) == Some(RegisterRule::Undefined) {
        return Some(Rule::of(RuleKind::Root));
    }
    let mut saved = NONE_SAVED;
    for (register, register_rule) in cfi.row.registers() {
        match SAVED.iter().position(|saved| *saved == register.0) {
            Some(position) => *saved.get_mut(position)? = compact_slot(register_rule)?,
            // Vector registers, and whether the return address is signed: that shows.
            None if usize::from(register.0) >= Arch::AARCH64.register_names.len() => {}
            None if *register_rule == RegisterRule::Undefined => {}
            None => return None,
        }
    }
    let is_known = register.0 <= STACK_POINTER;
    let offset = i32::try_from(*offset).ok().filter(|_| is_known)?;
    let rule = rule(register.0, offset, saved, cfi.source.origin());
    let is_signed = cfi.row.register(gimli::AArch64::RA_SIGN_STATE).is_some();
    let is_exact = !is_signed && is_framehop_exact(&rule);
    Some(if is_exact {
        rule.framehop_exact()
    } else {
        rule
    })
}

/// framehop 0.16 keeps CFA = SP + 16n with x30, or x29 and x30, below the CFA or both unchanged, and CFA = x29 + 8n with
/// both below the CFA (`aarch64/dwarf.rs`). It does not know the instruction that says that a return address is signed.
fn is_framehop_exact(rule: &Rule) -> bool {
    const WORDS_MAX: i32 = 1 << 12;
    let (frame_pointer, link) = record(rule);
    let is_kept = |slot: Slot| !slot.is_lost();
    match (rule.register(), link.offset(), frame_pointer.offset()) {
        (STACK_POINTER, None, Some(_)) => false,
        (STACK_POINTER, ..) => {
            let is_near = (0..=WORDS_MAX * 16).contains(&rule.offset());
            rule.offset() % 16 == 0 && is_near && is_kept(frame_pointer) && is_kept(link)
        }
        (FRAME_POINTER, Some(_), Some(_)) => {
            rule.offset() % 8 == 0 && (8..=WORDS_MAX * 8).contains(&rule.offset())
        }
        _ => false,
    }
}

fn compact_slot(rule: &RegisterRule<usize>) -> Option<ShortSlot> {
    match rule {
        RegisterRule::Offset(offset) => ShortSlot::at(*offset),
        RegisterRule::SameValue => Some(ShortSlot::SAME),
        RegisterRule::Undefined => Some(ShortSlot::LOST),
        _ => None,
    }
}
