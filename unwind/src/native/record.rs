//! Steps where calls leave the return address in a register: what frame records tell, and what to do where that
//! register is not known.
//!
//! A frame record is the pair of a caller's frame pointer and a return address to which the frame pointer of a function
//! points. Unlike x86_64's it may lie anywhere in its frame, so that a chain of records tells who called whom but not where
//! the stack pointer was.

use super::cfi;
use super::machine::Machine;
use super::rule::{Rule, RuleKind};
use super::walk::Walk;
use crate::address::{Avma, Svma};
use crate::memory::MemoryReader;
use crate::stack::{FrameOrigin, StackEnd};

/// How far into a function a PC is believed to be.
const FUNCTION_BYTES_MAX: u64 = 1 << 16;
/// The last record of a chain lies no further above the stack pointer: the functions with which C libraries start a
/// program have small frames.
const RECORD_BYTES_MAX: u64 = 4096;
/// Words on the stack in which the return address of a caller is looked for.
const CALLER_WORDS_MAX: u64 = 512;
/// Functions that are looked through for a call.
const CALLERS_MAX: u32 = 16;

impl<M: MemoryReader + ?Sized, A: Machine> Walk<'_, M, A> {
    /// Applies `rule`, whose return address is in the link register, which is not known: `base` is the value of its
    /// register, `unknown` how the stack ends otherwise.
    #[cold]
    pub(super) fn step_without_link(
        &mut self,
        rule: Rule,
        base: u64,
        unknown: StackEnd,
    ) -> Result<FrameOrigin, StackEnd> {
        let cfa = base.wrapping_add_signed(i64::from(rule.offset()));
        self.step_by_callers_frame(cfa)
            .map_or_else(|| self.step_by_convention(unknown), Ok)
    }

    /// Applies `rule`, which tells the CFA from a stack pointer that is not known, by the function's frame record.
    #[cold]
    pub(super) fn step_by_record_of(&mut self, rule: Rule) -> Option<FrameOrigin> {
        if !self.sp_is_bound || rule.kind() != RuleKind::Register {
            return None;
        }
        let record = self.registers.get(A::ARCH.frame_pointer)?;
        let is_above = Avma(record) >= self.registers.sp()?;
        if let Some(from_cfa) = A::frame_record(&rule).filter(|_| is_above) {
            let cfa = record.wrapping_sub(from_cfa.cast_unsigned());
            let base = cfa.wrapping_sub(i64::from(rule.offset()).cast_unsigned());
            if self.apply(&rule, base).is_ok() {
                return Some(self.origin(FrameOrigin::InferredRegister));
            }
        }
        self.step_by_frame_pointer()
    }

    /// The caller by the link register, in code that nothing describes and that has been interrupted: as long as it has not
    /// called anybody, that register holds its return address, and if the innermost record has another one, then the code
    /// has not made its own yet.
    pub(super) fn step_by_link(&mut self) -> Option<FrameOrigin> {
        let link = self.registers.get(A::LINK_REGISTER?)?;
        let link = Avma(A::code_address(link));
        let at = *self.at();
        if at.is_return_address || !self.is_after_call(link) {
            return None;
        }
        let record = self.registers.get(A::ARCH.frame_pointer).map(Avma);
        let recorded = record.and_then(|record| self.memory.read_u64(record.checked_add(8)?).ok());
        if recorded.map(A::code_address) == Some(link.0) {
            return None;
        }
        let called = self.call_target(link);
        let is_own_caller = match called {
            Some(target) => {
                let into = at.pc.0.checked_sub(target.0);
                into.is_some_and(|bytes| bytes < FUNCTION_BYTES_MAX)
            }
            // A function does not call itself by a pointer, nearly.
            None => link.0.abs_diff(at.pc.0) >= FUNCTION_BYTES_MAX,
        };
        if !is_own_caller || !self.is_return_to(link) {
            return None;
        }
        let sp = self.registers.sp()?;
        self.registers.keep_callee_saved();
        self.arrive(sp);
        self.sp_is_bound = true;
        Some(FrameOrigin::FramePointer)
    }

    /// Whether the frame has called somebody and its record is the last of the chain, which holds two zeroes (Procedure Call
    /// Standard for the Arm 64-bit Architecture, "The Frame Pointer"): so C libraries start a program, and musl's main
    /// thread has no other mark of its end.
    pub(super) fn has_last_record(&self) -> bool {
        if A::LINK_REGISTER.is_none() || !self.at().is_return_address {
            return false;
        }
        let record = self.registers.get(A::ARCH.frame_pointer);
        let (Some(record), Some(sp)) = (record, self.registers.sp()) else {
            return false;
        };
        let is_own = (sp.0..=sp.0.saturating_add(RECORD_BYTES_MAX)).contains(&record);
        let word = |at: Option<u64>| self.memory.read_u64(Avma(at?)).ok();
        // A zero is signed as any other address is.
        let link = || word(record.checked_add(8)).map(A::code_address);
        is_own && record % 8 == 0 && word(Some(record)) == Some(0) && link() == Some(0)
    }

    /// A return address was found in `slot`: it may be part of a record.
    pub(super) fn found_by_scan(&mut self, slot: u64) {
        if A::LINK_REGISTER.is_none() {
            return;
        }
        self.sp_is_bound = true;
        let outer = self.memory.read_u64(Avma(slot.wrapping_sub(8)));
        if let Ok(outer) = outer
            && outer > slot
        {
            self.registers.set(A::ARCH.frame_pointer, outer);
        }
    }

    /// The caller of a function that has left its return address in the link register, as one that sleeps in a system
    /// call may have: a function that calls it, whose frame begins at `cfa`, and that was itself called from where the
    /// return address in that frame says.
    fn step_by_callers_frame(&mut self, cfa: u64) -> Option<FrameOrigin> {
        let at = *self.at();
        if at.is_return_address {
            return None;
        }
        let module = self.module()?;
        let own = cfi::function(&module.image, module.svma(at.pc))?.start;
        let own = module.bias.avma(own);
        let mut tries = 0;
        for word in 0..CALLER_WORDS_MAX {
            let slot = cfa.checked_add(word * 8)?;
            let address = self.memory.read_u64(Avma(slot)).ok()?;
            let address = Avma(A::code_address(address));
            let Some(caller) = self.called_from(address) else {
                continue;
            };
            tries += 1;
            if tries > CALLERS_MAX {
                return None;
            }
            if let Some(return_address) = self.call_with_frame(caller, own, cfa, slot) {
                self.is_return_to(return_address).then_some(())?;
                self.registers.keep_callee_saved();
                self.arrive(Avma(cfa));
                return Some(FrameOrigin::InferredRegister);
            }
        }
        None
    }

    /// The only return address in the function at `caller` of a call to `called`, at which its frame begins at `cfa` and
    /// has its own return address in `slot`.
    fn call_with_frame(&mut self, caller: Avma, called: Avma, cfa: u64, slot: u64) -> Option<Avma> {
        let (modules, index) = (self.modules, self.modules.find_index(caller)?);
        let module = modules.get(index)?;
        let function = cfi::function(&module.image, module.svma(caller))?;
        let mut found = None;
        let end = function
            .end
            .0
            .min(function.start.0.saturating_add(FUNCTION_BYTES_MAX));
        let mut at = function.start.0.saturating_add(A::CALL_BYTES_MAX as u64);
        while at <= end {
            let svma = Svma(at);
            let return_address = module.bias.avma(svma);
            at += A::CALL_BYTES_MAX as u64;
            if self.called_from(return_address) != Some(called) {
                continue;
            }
            let piece = modules.find_piece(return_address)?;
            let rule = self
                .resolver
                .rule::<A>(modules, piece, return_address, true);
            let offset = i64::from(rule.offset());
            let saved = A::return_slot(&rule).and_then(|from_cfa| offset.checked_add(from_cfa));
            let is_framed = rule.kind() == RuleKind::Register
                && rule.register() == A::STACK_POINTER
                && saved.map(|saved| cfa.wrapping_add_signed(saved)) == Some(slot);
            if is_framed {
                if found.is_some() {
                    return None;
                }
                found = Some(return_address);
            }
        }
        found
    }
}
