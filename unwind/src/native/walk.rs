//! The complete walk: all registers, each known or unknown, from frame to frame.

use std::marker::PhantomData;

use super::complex::Caller;
use super::machine::{Followed, INSTRUCTION_BYTES_MAX, Machine};
use super::resolve::Resolver;
use super::rule::{Rule, RuleKind};
use super::{MemoryCode, WalkGuide};
use crate::address::{Avma, Svma};
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

/// One walk under way, of a thread on a processor of kind `A`.
pub(super) struct Walk<'a, M: ?Sized, A> {
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
    /// Whether the stack pointer may lie further up than `registers` has it: the step to this frame did not tell. Only
    /// where return addresses are not always on the stack.
    pub(super) sp_is_bound: bool,
    machine: PhantomData<A>,
}

impl<'a, M: MemoryReader + ?Sized, A: Machine> Walk<'a, M, A> {
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
            sp_is_bound: false,
            machine: PhantomData,
        }
    }

    /// Walks to the end, and says why it is the end.
    pub(super) fn run(&mut self, stack: &mut Stack) -> StackEnd {
        let unknown = |register| StackEnd::UnknownRegister {
            pc: Avma::default(),
            register,
        };
        let arch = self.registers.arch();
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
        let Some(base) = self.base(&rule) else {
            return false;
        };
        let cfa = base.wrapping_add_signed(i64::from(rule.offset()));
        let found = A::return_address(&rule, cfa, &self.registers, self.memory);
        let Ok(return_address) = found else {
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
        A::restore(&rule, cfa, &mut self.registers, self.memory);
        self.arrive(A::caller_sp(&rule, cfa));
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
        let Some(base) = self.base(&rule) else {
            return self
                .step_by_record_of(rule)
                .map_or_else(|| self.step_by_inference(rule), Ok);
        };
        match self.apply(&rule, base) {
            Ok(()) => Ok(self.origin(rule.origin())),
            Err(Refused::End(unknown @ StackEnd::UnknownRegister { .. })) => {
                self.step_without_link(rule, base, unknown)
            }
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
        let return_address = A::return_address(rule, cfa, &self.registers, self.memory)?;
        let return_address = Avma(return_address);
        if !self.is_return_to(return_address) {
            return Err(Refused::NotCode(return_address));
        }
        A::restore(rule, cfa, &mut self.registers, self.memory);
        self.arrive(A::caller_sp(rule, cfa));
        Ok(())
    }

    /// The value of the register from which `rule` tells the CFA, if it is known.
    #[inline]
    pub(super) fn base(&self, rule: &Rule) -> Option<u64> {
        if A::LINK_REGISTER.is_some() && self.sp_is_bound && rule.register() == A::STACK_POINTER {
            return None;
        }
        self.registers.get(rule.register())
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
        self.registers.set(A::STACK_POINTER, sp.0);
        self.registers.set(A::RETURN_ADDRESS, self.at().pc.0);
        if A::LINK_REGISTER.is_some() {
            self.sp_is_bound = false;
        }
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
            A::follow(&image, module.svma(self.at().pc).0)
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
        let base = self.base(&other);
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
            Some(address) => Avma(A::code_address(address)),
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
        self.registers.set(A::RETURN_ADDRESS, pc.0);
        self.sp_is_bound = false;
        Ok(origin)
    }

    fn step_to_interrupted(&mut self) -> Result<FrameOrigin, StackEnd> {
        let sp = self.registers.sp().unwrap_or_default();
        self.registers = A::interrupted(sp, self.memory).map_err(StackEnd::Unreadable)?;
        self.sp_is_bound = false;
        self.start_at(self.registers.pc().unwrap_or_default());
        Ok(FrameOrigin::SignalFrame)
    }

    /// Code without an image: what was compiled just now, or the vsyscall page.
    fn step_anonymous(&mut self) -> Result<FrameOrigin, StackEnd> {
        let pc = self.at().pc;
        if A::is_kernel_page(pc) {
            return self.step_nowhere();
        }
        match A::follow(&MemoryCode(self.memory), pc.0) {
            Followed::Returns(rule) => self.step_by_rule(rule),
            Followed::Exits if self.at().is_return_address => Err(StackEnd::Root),
            Followed::Exits | Followed::Unknown => {
                self.step_by_convention(StackEnd::NoUnwindInfo(pc))
            }
        }
    }

    /// A call just led to what is no code (a null function pointer) or a leaf: the return address is on top, or where
    /// calls leave it.
    fn step_nowhere(&mut self) -> Result<FrameOrigin, StackEnd> {
        let sp = self.registers.sp().unwrap_or_default();
        let (address, caller_sp) = match A::LINK_REGISTER {
            None => (self.word(sp)?, Avma(sp.0.wrapping_add(8))),
            Some(register) => {
                let unknown = StackEnd::NotCode(self.at().pc);
                let link = self.registers.get(register).ok_or(unknown)?;
                (A::code_address(link), sp)
            }
        };
        let address = Avma(address);
        let is_called = !self.at().is_return_address && self.is_after_call(address);
        if !is_called || !self.is_return_to(address) {
            return Err(StackEnd::NotCode(self.at().pc));
        }
        self.registers.keep_callee_saved();
        self.arrive(caller_sp);
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
                    .rule::<A>(self.modules, piece, pc, is_return_address),
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
        if self.modules.is_executable(pc) || A::is_kernel_page(pc) {
            position.place = Place::Anonymous;
        }
    }

    /// Whether a call lies just before `pc`, proven by the code there.
    pub(super) fn is_after_call(&self, pc: Avma) -> bool {
        match self.image_of(pc) {
            Some((image, svma)) => image
                .code_before(svma, A::CALL_BYTES_MAX as u64)
                .is_some_and(A::ends_with_call),
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
        let mut before = [0; INSTRUCTION_BYTES_MAX];
        let before = before.get_mut(..A::CALL_BYTES_MAX)?;
        let at = pc.checked_sub(before.len() as u64)?;
        self.memory.read_exact(at, before).ok()?;
        Some(A::ends_with_call(before))
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
