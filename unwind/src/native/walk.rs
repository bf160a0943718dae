//! The complete walk: all registers, each known or unknown, from frame to frame.

use super::complex::Caller;
use super::resolve::Resolver;
use super::rule::{Rule, RuleKind};
use super::x86_64::{self, follow::Followed};
use super::{WalkGuide, follow_memory};
use crate::address::{Avma, Svma};
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::interpreter::NativeFrame;
use crate::memory::MemoryReader;
use crate::modules::{Module, Modules, Piece};
use crate::registers::Registers;
use crate::stack::{Frame, FrameOrigin, Stack, StackEnd};

/// Frames of one stack. Deeper recursion is cut, and said so.
pub(super) const FRAMES_MAX: usize = 1 << 17;

/// What kind of place a PC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In an image.
    Image,
    /// In executable memory without an image.
    Anonymous,
    /// Not in code.
    Nowhere,
}

/// Where the walk stands.
///
/// Flat, and with the rule as it lies in the cache: a walk copies one of these for each frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// What the address calls for, if it is in an image.
    pub(super) rule: Rule,
    pub(super) place: Place,
    pub(super) is_return_address: bool,
    /// The index of the module, if it is in an image.
    pub(super) module: usize,
    pub(super) pc: Avma,
}

/// Why a rule could not be applied.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// The walk ends.
    End(StackEnd),
    /// This was found as the return address, and it is none.
    NotCode(Avma),
}

impl From<StackEnd> for Refused {
    fn from(end: StackEnd) -> Self {
        Refused::End(end)
    }
}

impl Refused {
    /// How the stack ends where `rule` was refused. Tables that lead to a zero have found where somebody laid out a
    /// stack of his own.
    pub(super) fn end(self, rule: &Rule) -> StackEnd {
        match self {
            Refused::End(end) => end,
            Refused::NotCode(Avma(0)) if rule.is_cfi() => StackEnd::Root,
            Refused::NotCode(found) => StackEnd::NotCode(found),
        }
    }
}

/// One walk under way.
pub(super) struct Walk<'a, M: ?Sized> {
    pub(super) resolver: &'a mut Resolver,
    pub(super) modules: &'a Modules,
    pub(super) memory: &'a M,
    /// The frame at which the walk stands, and the one looked at next; they take turns, and so nothing is copied.
    positions: [Position; 2],
    /// Which of the two the walk stands at; only the lowest bit counts.
    current: usize,
    /// The registers there.
    pub(super) registers: Registers,
    /// The registers of the innermost frame.
    pub(super) innermost: &'a Registers,
    /// Where the last address was found.
    last_piece: Option<&'a Piece>,
    guide: Option<&'a mut dyn WalkGuide>,
}

impl<'a, M: MemoryReader + ?Sized> Walk<'a, M> {
    pub(super) fn new(
        resolver: &'a mut Resolver,
        modules: &'a Modules,
        memory: &'a M,
        start: &'a Registers,
        guide: Option<&'a mut dyn WalkGuide>,
    ) -> Self {
        let nowhere = Position {
            rule: Rule::of(RuleKind::NoCode),
            place: Place::Nowhere,
            is_return_address: false,
            module: 0,
            pc: start.pc().unwrap_or_default(),
        };
        Self {
            resolver,
            modules,
            memory,
            positions: [nowhere; 2],
            current: 0,
            registers: *start,
            innermost: start,
            last_piece: None,
            guide,
        }
    }

    /// Walks to the end, and says why it is the end.
    pub(super) fn run(&mut self, stack: &mut Stack) -> StackEnd {
        let unknown = |register| StackEnd::UnknownRegister {
            pc: Avma::default(),
            register,
        };
        let arch = self.registers.arch();
        if arch.name != Arch::X86_64.name {
            return StackEnd::NoUnwindInfo(self.registers.pc().unwrap_or_default());
        }
        let Some(pc) = self.registers.pc() else {
            return unknown(arch.return_address);
        };
        let Some(mut sp) = self.registers.sp() else {
            return unknown(arch.stack_pointer);
        };
        self.start_at(pc);
        let mut origin = FrameOrigin::Registers;
        let mut guard = LoopGuard::new(pc, sp);
        loop {
            stack.frames.push(Frame {
                address: self.at().pc,
                sp,
                origin,
            });
            if stack.frames.len() >= FRAMES_MAX {
                return StackEnd::DepthLimit;
            }
            let simple_origin = self.at().rule.origin();
            origin = if self.step_by_guide(stack.frames.len() - 1, sp) {
                self.origin(FrameOrigin::Interpreter)
            } else if self.step_simply() {
                simple_origin
            } else {
                match self.step_otherwise() {
                    Ok(origin) => origin,
                    Err(end) => return end,
                }
            };
            sp = self.registers.sp().unwrap_or_default();
            if guard.was_here(self.at().pc, sp) {
                return StackEnd::DidNotAdvance;
            }
        }
    }

    /// Goes to the caller that the guide knows, if it knows one: further up the stack, and in code.
    #[inline]
    fn step_by_guide(&mut self, index: usize, sp: Avma) -> bool {
        let Position {
            is_return_address,
            place,
            ..
        } = *self.at();
        let Some(guide) = &mut self.guide else {
            return false;
        };
        let frame = NativeFrame {
            index,
            registers: &self.registers,
            is_return_address,
            is_in_image: place == Place::Image,
        };
        let Some(caller) = guide.caller(frame) else {
            return false;
        };
        let (Some(pc), Some(caller_sp)) = (caller.pc(), caller.sp()) else {
            return false;
        };
        if caller_sp <= sp || !self.is_return_to(pc) {
            return false;
        }
        self.registers = caller;
        self.arrive(caller_sp);
        true
    }

    /// Takes the step that nearly every step is: by a rule whose register is known, to an address that can be returned
    /// to. False, with nothing changed, where it is any other; that is taken, or explained, by `step_otherwise`.
    #[inline]
    fn step_simply(&mut self) -> bool {
        let rule = self.at().rule;
        if rule.kind() != RuleKind::Register {
            return false;
        }
        let Some(base) = self.registers.get(rule.register()) else {
            return false;
        };
        let cfa = base.wrapping_add_signed(i64::from(rule.offset()));
        let slot = Avma(cfa.wrapping_add_signed(rule.return_address()));
        let Ok(return_address) = self.memory.read_u64(slot) else {
            return false;
        };
        let to = self.look_at(Avma(return_address), true);
        let is_usual = to.place == Place::Image
            && !matches!(
                to.rule.kind(),
                RuleKind::NotAfterCall | RuleKind::SignalTrampoline
            );
        if return_address == 0 || !is_usual {
            return false;
        }
        self.restore(&rule, cfa);
        self.arrive(Avma(slot.0.wrapping_add(8)));
        true
    }

    /// Goes to the caller and says how it was found; or why there is none.
    fn step_otherwise(&mut self) -> Result<FrameOrigin, StackEnd> {
        let pc = self.at().pc;
        match self.at().place {
            Place::Image => {}
            Place::Anonymous => return self.step_anonymous(),
            Place::Nowhere => return self.step_nowhere(),
        }
        let rule = self.at().rule;
        let origin = match rule.kind() {
            RuleKind::Register | RuleKind::Memory => self.step_by_rule(rule)?,
            RuleKind::Complex => self.step_by_complex_rule(rule)?,
            RuleKind::Root => return Err(StackEnd::Root),
            RuleKind::SignalTrampoline => self.step_to_interrupted()?,
            RuleKind::BadCfi => self.step_by_convention(StackEnd::BadUnwindInfo(pc))?,
            RuleKind::NoCfi => self.step_by_convention(StackEnd::NoUnwindInfo(pc))?,
            RuleKind::OtherStack => return Err(StackEnd::OtherStack(pc)),
            RuleKind::NotAfterCall | RuleKind::NoCode => return Err(StackEnd::NotCode(pc)),
        };
        Ok(origin)
    }

    fn step_by_rule(&mut self, rule: Rule) -> Result<FrameOrigin, StackEnd> {
        let Some(base) = self.registers.get(rule.register()) else {
            return self.step_by_inference(rule);
        };
        match self.apply(&rule, base) {
            Ok(()) => Ok(self.origin(rule.origin())),
            Err(refused) => self.step_despite(rule, refused),
        }
    }

    /// How the frame arrived at was found: by `origin`, or by the kernel if it is a signal trampoline.
    #[inline]
    pub(super) fn origin(&self, origin: FrameOrigin) -> FrameOrigin {
        match self.at().rule.kind() {
            RuleKind::SignalTrampoline if self.at().place == Place::Image => {
                FrameOrigin::SignalFrame
            }
            _ => origin,
        }
    }

    /// Goes to the caller by a compact rule, whose register is `base`.
    pub(super) fn apply(&mut self, rule: &Rule, base: u64) -> Result<(), Refused> {
        let mut cfa = base.wrapping_add_signed(i64::from(rule.offset()));
        if rule.kind() == RuleKind::Memory {
            cfa = self.word(Avma(cfa))?;
        }
        let slot = Avma(cfa.wrapping_add_signed(rule.return_address()));
        let return_address = Avma(self.word(slot)?);
        if !self.is_return_to(return_address) {
            return Err(Refused::NotCode(return_address));
        }
        self.restore(rule, cfa);
        self.arrive(Avma(slot.0.wrapping_add(8)));
        Ok(())
    }

    /// Puts the callee-saved registers back as the frame's function found them.
    #[inline]
    fn restore(&mut self, rule: &Rule, cfa: u64) {
        let sp = self.registers.sp().unwrap_or_default();
        self.registers.keep_callee_saved();
        if rule.saves_nothing() {
            return;
        }
        for (slot, register) in rule.saved().into_iter().zip(x86_64::CALLEE_SAVED) {
            if let Some(offset) = slot.offset() {
                let at = Avma(cfa.wrapping_add_signed(offset));
                match self.memory.read_u64(at) {
                    Ok(value) => self.registers.set(register, value),
                    // Popped already, so still in the register: epilogues leave it described below the stack pointer,
                    // where not everybody copies.
                    Err(_) if at < sp => {}
                    // Unknown in the caller; that ends the walk only where it is needed.
                    Err(_) => self.registers.forget(register),
                }
            } else if slot.is_lost() {
                self.registers.forget(register);
            }
        }
    }

    /// The frame at which the walk stands.
    #[inline]
    pub(super) fn at(&self) -> &Position {
        &self.positions[self.current & 1]
    }

    /// Goes to the position looked at last.
    #[inline]
    fn go(&mut self) {
        self.current ^= 1;
    }

    /// Goes to the position looked at last, with the stack pointer `sp`.
    #[inline]
    pub(super) fn arrive(&mut self, sp: Avma) {
        self.go();
        self.registers.set(x86_64::STACK_POINTER, sp.0);
        self.registers.set(x86_64::RETURN_ADDRESS, self.at().pc.0);
    }

    /// A rule led to what is no return address. The code itself is asked: tables of hand-written code are sometimes
    /// wrong, but what starts a coroutine has nothing to return to either way.
    #[cold]
    fn step_despite(&mut self, rule: Rule, refused: Refused) -> Result<FrameOrigin, StackEnd> {
        let Refused::NotCode(found) = refused else {
            return Err(refused.end(&rule));
        };
        let not_code = refused.end(&rule);
        if rule.origin() == FrameOrigin::Prologue {
            // Zeros are common on a stack, so that alone does not make a root of what only the code told.
            return self.step_by_convention(match found {
                Avma(0) => StackEnd::Root,
                _ => not_code,
            });
        }
        let followed = self.module().map(|module| {
            let image: &ElfImage = &module.image;
            x86_64::follow::follow(&image, module.svma(self.at().pc).0)
        });
        let Some(Followed::Returns(other)) = followed else {
            return Err(not_code);
        };
        let arch = self.registers.arch();
        let has_own_stack = ![arch.stack_pointer, arch.frame_pointer].contains(&other.register());
        // Where the tables find the end of the stack, the code may be followed into what lies behind a function that
        // does not return; it is believed only if it keeps the stack of its caller in a register, as Go's does while
        // it calls the vDSO on the thread's stack.
        let is_other = other != rule && (not_code != StackEnd::Root || has_own_stack);
        let base = self.registers.get(other.register());
        match base
            .filter(|_| is_other)
            .map(|base| self.apply(&other, base))
        {
            Some(Ok(())) => Ok(self.origin(FrameOrigin::Prologue)),
            _ => Err(not_code),
        }
    }

    fn step_by_complex_rule(&mut self, rule: Rule) -> Result<FrameOrigin, StackEnd> {
        let bad = StackEnd::BadUnwindInfo(self.at().pc);
        let image = &self.module().ok_or(bad)?.image;
        let complex = self.resolver.complex(rule).ok_or(bad)?;
        let is_signal_frame = complex.is_signal_frame;
        let Caller {
            registers,
            return_address,
        } = complex.apply(image, &self.registers, self.memory)?;
        let pc = match return_address {
            Some(0) if !is_signal_frame => return Err(StackEnd::Root),
            None => return Err(StackEnd::Root),
            Some(address) => Avma(address),
        };
        let origin = if is_signal_frame {
            self.start_at(pc);
            FrameOrigin::SignalFrame
        } else {
            if !self.is_return_to(pc) {
                return Err(StackEnd::NotCode(pc));
            }
            self.go();
            self.origin(rule.origin())
        };
        self.registers = registers;
        Ok(origin)
    }

    fn step_to_interrupted(&mut self) -> Result<FrameOrigin, StackEnd> {
        let sp = self.registers.sp().unwrap_or_default();
        self.registers = x86_64::interrupted(sp, self.memory).map_err(StackEnd::Unreadable)?;
        self.start_at(self.registers.pc().unwrap_or_default());
        Ok(FrameOrigin::SignalFrame)
    }

    /// Code without an image: what was compiled just now, or the vsyscall page.
    fn step_anonymous(&mut self) -> Result<FrameOrigin, StackEnd> {
        let pc = self.at().pc;
        if x86_64::VSYSCALL.contains(&pc) {
            return self.step_nowhere();
        }
        match follow_memory(self.memory, pc) {
            Followed::Returns(rule) => self.step_by_rule(rule),
            Followed::Exits if self.at().is_return_address => Err(StackEnd::Root),
            Followed::Exits | Followed::Unknown => {
                self.step_by_convention(StackEnd::NoUnwindInfo(pc))
            }
        }
    }

    /// A call just led to what is no code (a null function pointer) or a leaf: the return address is on top.
    fn step_nowhere(&mut self) -> Result<FrameOrigin, StackEnd> {
        let sp = self.registers.sp().unwrap_or_default();
        let address = Avma(self.word(sp)?);
        let is_called = !self.at().is_return_address && self.is_after_call(address);
        if !is_called || !self.is_return_to(address) {
            return Err(StackEnd::NotCode(self.at().pc));
        }
        self.registers.keep_callee_saved();
        self.arrive(Avma(sp.0.wrapping_add(8)));
        Ok(FrameOrigin::KnownCode)
    }

    /// The module in which the walk stands.
    pub(super) fn module(&self) -> Option<&'a Module> {
        match self.at().place {
            Place::Image => self.modules.get(self.at().module),
            Place::Anonymous | Place::Nowhere => None,
        }
    }

    #[inline]
    pub(super) fn word(&self, at: Avma) -> Result<u64, StackEnd> {
        self.memory.read_u64(at).map_err(StackEnd::Unreadable)
    }

    /// Goes to `pc` as the next instruction to be executed there.
    pub(super) fn start_at(&mut self, pc: Avma) {
        self.look_at(pc, false);
        self.go();
    }

    /// Looks at `pc` as a return address: whether it can be one.
    #[inline]
    pub(super) fn is_return_to(&mut self, pc: Avma) -> bool {
        let position = self.look_at(pc, true);
        match position.place {
            Place::Image => position.rule.kind() != RuleKind::NotAfterCall,
            Place::Anonymous => self.memory_before_is_call(pc) != Some(false),
            Place::Nowhere => false,
        }
    }

    /// Looks up what `pc` calls for, for the walk to go there.
    #[inline]
    fn look_at(&mut self, pc: Avma, is_return_address: bool) -> &Position {
        let next = self.current & 1 ^ 1;
        if let Some(piece) = self.last_piece.filter(|piece| piece.avma.contains(&pc))
            && let Some(rule) = self.resolver.known_rule(piece, pc, is_return_address)
        {
            let position = &mut self.positions[next];
            position.rule = *rule;
            position.module = piece.module;
            position.pc = pc;
            position.is_return_address = is_return_address;
            position.place = place_in_image(rule);
        } else {
            self.look_further(pc, is_return_address);
        }
        if self.positions[next].place != Place::Image {
            self.look_without_image();
        }
        &self.positions[next]
    }

    /// As `look_at`, where the address is in another module than the last, or its rule is not known yet.
    fn look_further(&mut self, pc: Avma, is_return_address: bool) {
        let next = self.current & 1 ^ 1;
        let piece = self.modules.find_piece(pc);
        let mut rule = Rule::of(RuleKind::NoCode);
        if let Some(piece) = piece {
            self.last_piece = Some(piece);
            rule = match self.resolver.known_rule(piece, pc, is_return_address) {
                Some(rule) => *rule,
                None => self
                    .resolver
                    .rule(self.modules, piece, pc, is_return_address),
            };
        }
        self.positions[next] = Position {
            rule,
            place: place_in_image(&rule),
            is_return_address,
            module: piece.map_or(0, |piece| piece.module),
            pc,
        };
    }

    /// What else than an image the position looked at may be in.
    fn look_without_image(&mut self) {
        let position = &mut self.positions[self.current & 1 ^ 1];
        let pc = position.pc;
        if self.modules.is_executable(pc) || x86_64::VSYSCALL.contains(&pc) {
            position.place = Place::Anonymous;
        }
    }

    /// Whether a call lies just before `pc`, proven by the code there.
    pub(super) fn is_after_call(&self, pc: Avma) -> bool {
        match self.image_of(pc) {
            Some((image, svma)) => image
                .code_before(svma, x86_64::CALL_BYTES_MAX as u64)
                .is_some_and(x86_64::ends_with_call),
            None => self.modules.is_executable(pc) && self.memory_before_is_call(pc) == Some(true),
        }
    }

    /// The image whose code is at `pc`.
    pub(super) fn image_of(&self, pc: Avma) -> Option<(&'a ElfImage, Svma)> {
        let module = self.modules.find(pc)?;
        let svma = module.svma(pc);
        let last = Svma(svma.0.checked_sub(1)?);
        module.image.code_at(last)?;
        Some((&module.image, svma))
    }

    /// Whether a call lies before `pc` in the target's memory; `None` when that cannot be read.
    fn memory_before_is_call(&self, pc: Avma) -> Option<bool> {
        let mut before = [0; x86_64::CALL_BYTES_MAX];
        let at = pc.checked_sub(before.len() as u64)?;
        self.memory.read_exact(at, &mut before).ok()?;
        Some(x86_64::ends_with_call(&before))
    }
}

/// An image's hole, or its data, is not in the image.
#[inline]
fn place_in_image(rule: &Rule) -> Place {
    match rule.kind() {
        RuleKind::NoCode => Place::Nowhere,
        _ => Place::Image,
    }
}

/// Notices when a walk comes back to where it has been (Brent's algorithm: one remembered place, renewed at
/// ever greater distances).
struct LoopGuard {
    place: (Avma, Avma),
    steps: u64,
    renew_at: u64,
}

impl LoopGuard {
    fn new(pc: Avma, sp: Avma) -> Self {
        Self {
            place: (pc, sp),
            steps: 0,
            renew_at: 1,
        }
    }

    #[inline]
    fn was_here(&mut self, pc: Avma, sp: Avma) -> bool {
        if self.place == (pc, sp) {
            return true;
        }
        self.steps += 1;
        if self.steps == self.renew_at {
            self.place = (pc, sp);
            self.renew_at = self.steps * 2;
        }
        false
    }
}
