//! Steps for code that nothing describes: by a call that fits the code, by the frame pointer if it proves to be one,
//! and by a checked scan.

use super::machine::Machine;
use super::rule::{Rule, RuleKind};
use super::walk::{Place, Walk};
use crate::address::Avma;
use crate::memory::MemoryReader;
use crate::stack::{FrameOrigin, StackEnd};

/// A frame pointer further above the stack pointer than this is taken for data.
const FRAME_BYTES_MAX: u64 = 8 << 20;
/// Words in which a return address is looked for.
const SCAN_WORDS_MAX: u64 = 512;
/// How far into a function a PC is believed to be.
const FUNCTION_BYTES_MAX: u64 = 1 << 16;
/// Functions that are followed to find one that a PC belongs to.
const TRIES_MAX: u32 = 8;

impl<M: MemoryReader + ?Sized, A: Machine> Walk<'_, M, A> {
    /// Goes on by the frame pointer or by a scan, or else ends with `otherwise`.
    #[cold]
    pub(super) fn step_by_convention(
        &mut self,
        otherwise: StackEnd,
    ) -> Result<FrameOrigin, StackEnd> {
        self.step_by_call()
            .or_else(|| self.step_by_link())
            .or_else(|| self.step_by_frame_pointer())
            .map_or_else(|| self.step_by_last_means(otherwise), Ok)
    }

    fn step_by_last_means(&mut self, otherwise: StackEnd) -> Result<FrameOrigin, StackEnd> {
        if self.has_last_record() {
            return Err(StackEnd::Root);
        }
        self.step_by_scan().ok_or(otherwise)
    }

    /// The caller by a return address on the stack whose call is to code from which the PC is reached, with just as
    /// much on the stack as lies below that return address.
    pub(super) fn step_by_call(&mut self) -> Option<FrameOrigin> {
        let module = self.module()?;
        let pc = module.svma(self.at().pc);
        let sp = self.registers.sp()?.0;
        let mut tries = 0;
        for word in 0..SCAN_WORDS_MAX {
            let slot = sp.checked_add(word * 8)?;
            let address = self.memory.read_u64(Avma(slot)).ok()?;
            let address = Avma(A::code_address(address));
            let Some(target) = self.call_target(address) else {
                continue;
            };
            let target = module.bias.svma(target);
            let is_near =
                pc.0.checked_sub(target.0)
                    .is_some_and(|bytes| bytes < FUNCTION_BYTES_MAX);
            if !is_near {
                continue;
            }
            tries += 1;
            if tries > TRIES_MAX {
                return None;
            }
            let slot_of = |rule: &Rule| Some(i64::from(rule.offset()) + A::return_slot(rule)?);
            let rule = A::rule_from_entry(&module.image, target, pc);
            if let Some(rule) = rule.filter(|rule| slot_of(rule) == Some((word * 8).cast_signed()))
            {
                self.apply(&rule, sp).ok()?;
                return Some(self.origin(FrameOrigin::Prologue));
            }
        }
        None
    }

    /// Where the direct call leads after which `address` lies.
    pub(super) fn call_target(&self, address: Avma) -> Option<Avma> {
        let (image, svma) = self.image_of(address)?;
        let before = image.code_before(svma, A::CALL_BYTES_MAX as u64)?;
        let distance = A::direct_call_target(svma, before)?.0.wrapping_sub(svma.0);
        Some(Avma(address.0.wrapping_add(distance)))
    }

    /// The caller by the frame pointer: it lies on this stack and a proven return address above it.
    pub(super) fn step_by_frame_pointer(&mut self) -> Option<FrameOrigin> {
        let arch = self.registers.arch();
        let sp = self.registers.sp()?;
        let frame = self.registers.get(arch.frame_pointer)?;
        let distance = frame.checked_sub(sp.0)?;
        if distance > FRAME_BYTES_MAX || frame % 8 != 0 {
            return None;
        }
        let outer = self.memory.read_u64(Avma(frame)).ok()?;
        let address = self.memory.read_u64(Avma(frame.checked_add(8)?)).ok()?;
        let address = Avma(A::code_address(address));
        if !self.is_return_to(address) {
            return None;
        }
        // Where the code before the return address cannot be read, the chain itself must look right.
        if !self.is_after_call(address) && outer <= frame {
            return None;
        }
        // Others may have been saved in this frame, and where is not known.
        self.registers.keep_only(&[]);
        self.registers.set(arch.frame_pointer, outer);
        self.arrive(Avma(frame.wrapping_add(16)));
        self.sp_is_bound = true;
        Some(FrameOrigin::FramePointer)
    }

    /// The caller by the first proven return address on the stack.
    fn step_by_scan(&mut self) -> Option<FrameOrigin> {
        let sp = self.registers.sp()?.0.checked_next_multiple_of(8)?;
        for word in 0..SCAN_WORDS_MAX {
            let slot = sp.checked_add(word * 8)?;
            let address = self.memory.read_u64(Avma(slot)).ok()?;
            let address = Avma(A::code_address(address));
            if !self.is_after_call(address) {
                continue;
            }
            if !self.is_return_to(address) {
                continue;
            }
            self.registers.keep_only(&[]);
            self.arrive(Avma(slot.wrapping_add(8)));
            self.found_by_scan(slot);
            // Where a program or thread starts there is one such address, and no left-over of an earlier call.
            let to = self.at();
            let is_start = to.place == Place::Image && to.rule.kind() == RuleKind::Root;
            return Some(match is_start {
                true => FrameOrigin::KnownCode,
                false => FrameOrigin::Scan,
            });
        }
        None
    }
}
