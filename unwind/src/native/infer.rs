//! Does without a frame pointer that is not known.
//!
//! A sleeping thread gives its stack pointer and PC alone. Where the rule of a frame starts from rbp, and no inner
//! frame saved it, there are two ways. The code from the function's start to the PC says how deep the stack is there,
//! unless the function allocates on it (alloca). Else the value is the one slot on the stack above which lies the
//! return address of a call to this very function. What is not unique is not used.

use super::cfi;
use super::machine::Machine;
use super::rule::{Rule, RuleKind};
use super::walk::Walk;
use crate::address::{Avma, LoadBias, Svma};
use crate::memory::MemoryReader;
use crate::stack::{FrameOrigin, StackEnd};

/// Words above the stack pointer that are tried: frames of 64 KiB.
const INFER_WORDS_MAX: u64 = 1 << 13;

/// How well a return address fits the function that would return to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Made by a call to another function, or by none.
    No,
    /// Made by an indirect call, which does not tell to whom.
    Possible,
    /// Made by a call to this function, directly or by way of a slot that the dynamic loader has filled.
    Proven,
}

impl<M: MemoryReader + ?Sized, A: Machine> Walk<'_, M, A> {
    /// Applies `rule`, whose register is unknown.
    #[cold]
    pub(super) fn step_by_inference(&mut self, rule: Rule) -> Result<FrameOrigin, StackEnd> {
        let register = rule.register();
        let unknown = StackEnd::UnknownRegister {
            pc: self.at().pc,
            register,
        };
        if rule.kind() != RuleKind::Register {
            return Err(unknown);
        }
        if !rule.is_cfi() {
            return self
                .step_by_kept_register(rule)
                .or_else(|| self.step_by_call())
                .ok_or(unknown);
        }
        let (rule, base) = match self.rule_by_stack(rule) {
            Some(by_stack) => by_stack,
            None => (rule, self.solve(rule).ok_or(unknown)?),
        };
        self.apply(&rule, base)
            .map_err(|refused| refused.end(&rule))?;
        Ok(self.origin(FrameOrigin::InferredRegister))
    }

    /// Code written by hand knows which registers its own helpers leave alone, and keeps its caller's stack pointer in one
    /// while it calls them (x264's `hadamard_ac` in rcx). So the register still holds in the innermost frame what it
    /// held here, if it points to a return address not far up this stack.
    fn step_by_kept_register(&mut self, rule: Rule) -> Option<FrameOrigin> {
        let is_helper = self.modules.find_index(self.innermost.pc()?) == Some(self.at().module);
        let base = self.innermost.get(rule.register())?;
        let distance = base.checked_sub(self.registers.sp()?.0)?;
        if !is_helper || distance >= INFER_WORDS_MAX * 8 {
            return None;
        }
        let slot = i64::from(rule.offset()).checked_add(A::return_slot(&rule)?)?;
        let address = self.word(Avma(base.wrapping_add_signed(slot))).ok()?;
        if !self.is_after_call(Avma(address)) {
            return None;
        }
        self.apply(&rule, base).ok()?;
        Some(self.origin(FrameOrigin::InferredRegister))
    }

    /// The rule from the stack pointer, and its value, if that leads to a return address.
    fn rule_by_stack(&mut self, rule: Rule) -> Option<(Rule, u64)> {
        let module = self.module()?;
        let pc = module.svma(self.at().pc);
        let is_return_address = self.at().is_return_address;
        let by_stack =
            self.resolver
                .rule_by_stack::<A>(&module.image, pc, is_return_address, rule)?;
        let sp = self.registers.sp()?.0;
        let offset = i64::from(by_stack.offset()).checked_add(A::return_slot(&by_stack)?)?;
        let address = self
            .memory
            .read_u64(Avma(sp.wrapping_add_signed(offset)))
            .ok()?;
        self.is_after_call(Avma(address)).then_some((by_stack, sp))
    }

    /// The only value of the frame pointer that fits.
    fn solve(&self, rule: Rule) -> Option<u64> {
        if rule.register() != self.registers.arch().frame_pointer {
            return None;
        }
        let module = self.module()?;
        let at = self.at();
        let lookup = at.pc.0.wrapping_sub(u64::from(at.is_return_address));
        let function = cfi::function(&module.image, module.svma(Avma(lookup)))?;
        let function = module.bias.avma(function.start);
        let slot = i64::from(rule.offset()).checked_add(A::return_slot(&rule)?)?;
        let first = self.registers.sp()?.0.checked_next_multiple_of(8)?;
        let mut found = None;
        for word in 0..INFER_WORDS_MAX {
            let value = first.checked_add(word * 8)?;
            let Ok(address) = self.memory.read_u64(Avma(value.wrapping_add_signed(slot))) else {
                break;
            };
            match self.fit(Avma(address), function) {
                Fit::No => {}
                // The function may have been called this way, and then what is found further up is a left-over.
                Fit::Possible if found.is_none() && self.is_chained(value) => return None,
                Fit::Possible => {}
                Fit::Proven if found.is_some() => return None,
                Fit::Proven => found = Some(value),
            }
        }
        found
    }

    /// Whether the word at `frame` looks like the frame pointer of a caller.
    fn is_chained(&self, frame: u64) -> bool {
        self.memory
            .read_u64(Avma(frame))
            .is_ok_and(|outer| outer > frame)
    }

    /// How well `address` fits as where `function` returns to.
    fn fit(&self, address: Avma, function: Avma) -> Fit {
        let Some((image, svma)) = self.image_of(address) else {
            return Fit::No;
        };
        let Some(before) = image.code_before(svma, A::CALL_BYTES_MAX as u64) else {
            return Fit::No;
        };
        if !A::ends_with_call(before) {
            return Fit::No;
        }
        match self.called(address, svma, before) {
            None => Fit::Possible,
            Some(target) if target == function => Fit::Proven,
            Some(_) => Fit::No,
        }
    }

    /// Where the call leads after which `address` is the return address, as [`Walk::called`] tells.
    pub(super) fn called_from(&self, address: Avma) -> Option<Avma> {
        let (image, svma) = self.image_of(address)?;
        let before = image.code_before(svma, A::CALL_BYTES_MAX as u64)?;
        A::ends_with_call(before).then(|| self.called(address, svma, before))?
    }

    /// Where the call leads after which `address` is the return address; `None` when it does not tell, or by a slot
    /// that cannot be read.
    ///
    /// The slots that calls between modules go through are written once, by the dynamic loader.
    fn called(&self, address: Avma, svma: Svma, before: &[u8]) -> Option<Avma> {
        let bias = LoadBias(address.0.wrapping_sub(svma.0));
        let slot = |svma: Svma| self.memory.read_u64(bias.avma(svma)).ok().map(Avma);
        let Some(target) = A::direct_call_target(svma, before) else {
            return slot(A::call_slot(svma, before)?);
        };
        let code = self
            .image_of(address)
            .and_then(|(image, _)| image.code_at(target))
            .unwrap_or_default();
        match A::plt_slot(target, code) {
            Some(through) => slot(through),
            None => Some(bias.avma(target)),
        }
    }
}
