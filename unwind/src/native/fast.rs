//! The fast storey: framehop, entered only where it is known to be right.
//!
//! framehop must not decide alone: when call frame information fails it walks on by the frame pointer, remembers that
//! as the rule, and reports success. So it takes only steps from addresses whose rule was proven to be one that it
//! represents exactly; at the first other one the complete walk starts over.
//!
//! Off unless asked for. Warm, on a noisy virtual machine: 16 ns a frame against the complete walk's 20 in a recursion
//! and 25 against 28 in a stack of 7, but 28 to 45 against 21 to 35 where it has to be given up; and it takes 100 us
//! and its own copies of the module list for each process. It serves as a check on the complete walk's own rules.

use framehop::aarch64::{CacheAarch64, PtrAuthMask, UnwindRegsAarch64, UnwinderAarch64};
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Unwinder};

use super::aarch64::Aarch64;
use super::cfi::hdr_is_reliable;
use super::machine::Machine;
use super::resolve::Resolver;
use super::rule::{Rule, RuleKind};
use super::walk::{FRAMES_MAX, Place, Position, Walk};
use super::x86_64::X86_64;
use crate::address::Avma;
use crate::elf::{ImageBytes, UnwindSection};
use crate::memory::MemoryReader;
use crate::modules::{Module, Modules, ModulesId};
use crate::registers::Registers;
use crate::stack::{Frame, FrameOrigin, Stack, StackEnd};

/// Processes (rather: lists of modules) that a framehop unwinder is kept for.
const PROCESSES_MAX: usize = 16;

/// framehop's part for an architecture.
trait Framehop: Machine {
    type Unwinder: Unwinder<
            UnwindRegs = Self::Registers,
            Cache = Self::Cache,
            Module = framehop::Module<ImageBytes>,
        > + Default;
    type Registers;
    type Cache: Default;

    /// What framehop starts from, if all of it is known.
    fn registers(start: &Registers) -> Option<Self::Registers>;
    /// The stack pointer in it.
    fn sp(registers: &Self::Registers) -> Avma;
}

impl Framehop for X86_64 {
    type Unwinder = UnwinderX86_64<ImageBytes>;
    type Registers = UnwindRegsX86_64;
    type Cache = CacheX86_64;

    fn registers(start: &Registers) -> Option<UnwindRegsX86_64> {
        let frame_pointer = start.get(Self::ARCH.frame_pointer)?;
        let (pc, sp) = (start.pc()?, start.sp()?);
        Some(UnwindRegsX86_64::new(pc.0, sp.0, frame_pointer))
    }

    fn sp(registers: &UnwindRegsX86_64) -> Avma {
        Avma(registers.sp())
    }
}

impl Framehop for Aarch64 {
    type Unwinder = UnwinderAarch64<ImageBytes>;
    type Registers = UnwindRegsAarch64;
    type Cache = CacheAarch64;

    fn registers(start: &Registers) -> Option<UnwindRegsAarch64> {
        let frame_pointer = start.get(Self::ARCH.frame_pointer)?;
        let (link, sp) = (start.get(Self::LINK_REGISTER?)?, start.sp()?);
        let mask = PtrAuthMask(Self::code_address(u64::MAX >> 9));
        Some(UnwindRegsAarch64::new_with_ptr_auth_mask(
            mask,
            link,
            sp.0,
            frame_pointer,
        ))
    }

    fn sp(registers: &UnwindRegsAarch64) -> Avma {
        Avma(registers.sp())
    }
}

/// framehop's unwinders, one for each list of modules.
#[derive(Default)]
pub(super) struct FastStorey {
    x86_64: Processes<X86_64>,
    aarch64: Processes<Aarch64>,
    /// Stacks that came to their root here.
    pub(super) walks: u64,
    /// Stacks for which the complete walk had to start over.
    pub(super) fallbacks: u64,
}

struct Processes<A: Framehop>(Vec<Process<A>>);

impl<A: Framehop> Default for Processes<A> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

struct Process<A: Framehop> {
    modules: ModulesId,
    /// Whether framehop finds by the search table what we find, by module.
    is_searched: Vec<bool>,
    unwinder: A::Unwinder,
    /// Not shared between processes: framehop tells them apart by a 16-bit number that wraps.
    cache: A::Cache,
}

impl std::fmt::Debug for FastStorey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FastStorey")
            .field("walks", &self.walks)
            .field("fallbacks", &self.fallbacks)
            .finish_non_exhaustive()
    }
}

impl FastStorey {
    /// Walks to the root; false, with nothing decided, when any step is not known to be exact.
    pub(super) fn walk<M: MemoryReader + ?Sized>(
        &mut self,
        resolver: &mut Resolver,
        modules: &Modules,
        start: &Registers,
        memory: &M,
        stack: &mut Stack,
    ) -> bool {
        let reaches_root = match start.arch().elf_machine {
            X86_64::ELF_MACHINE => self.x86_64.walk(resolver, modules, start, memory, stack),
            Aarch64::ELF_MACHINE => self.aarch64.walk(resolver, modules, start, memory, stack),
            _ => false,
        };
        if reaches_root {
            self.walks += 1;
        } else {
            self.fallbacks += 1;
            stack.frames.clear();
        }
        reaches_root
    }
}

impl<A: Framehop> Processes<A> {
    fn walk<M: MemoryReader + ?Sized>(
        &mut self,
        resolver: &mut Resolver,
        modules: &Modules,
        start: &Registers,
        memory: &M,
        stack: &mut Stack,
    ) -> bool {
        let mut walk = Walk::<_, A>::new(resolver, modules, memory, start, None);
        let process = self.process(modules);
        process.is_some_and(|process| process.run(&mut walk, start, stack))
    }

    /// `None` where modules overlap: framehop takes the wrong one then, without a word.
    fn process(&mut self, modules: &Modules) -> Option<&mut Process<A>> {
        let Self(processes) = self;
        let known = processes
            .iter()
            .position(|process| process.modules == modules.id());
        let index = match known {
            Some(index) => index,
            None if modules.overlap() => return None,
            None => {
                if processes.len() >= PROCESSES_MAX {
                    processes.remove(0);
                }
                processes.push(Process::new(modules));
                processes.len() - 1
            }
        };
        processes.get_mut(index)
    }
}

impl<A: Framehop> Process<A> {
    fn new(modules: &Modules) -> Self {
        let mut unwinder = A::Unwinder::default();
        for module in modules.iter() {
            unwinder.add_module(framehop_module(module));
        }
        Self {
            modules: modules.id(),
            is_searched: modules
                .iter()
                .map(|module| hdr_is_reliable(module.image.unwind_sections()))
                .collect(),
            unwinder,
            cache: A::Cache::default(),
        }
    }

    fn run<M: MemoryReader + ?Sized>(
        &mut self,
        walk: &mut Walk<'_, M, A>,
        start: &Registers,
        stack: &mut Stack,
    ) -> bool {
        let (Some(pc), Some(mut registers)) = (start.pc(), A::registers(start)) else {
            return false;
        };
        let memory = walk.memory;
        let mut read = |at| memory.read_u64(Avma(at)).map_err(|_| ());
        walk.start_at(pc);
        let mut origin = FrameOrigin::Registers;
        loop {
            let position = *walk.at();
            stack.frames.push(Frame {
                address: position.pc,
                sp: A::sp(&registers),
                origin,
            });
            let Position { rule, module, .. } = position;
            if position.place != Place::Image {
                return false;
            }
            if rule.kind() == RuleKind::Root {
                stack.end = StackEnd::Root;
                return true;
            }
            let is_searched = self.is_searched.get(module).copied().unwrap_or_default();
            if !is_searched || !is_proven(&rule) || stack.frames.len() >= FRAMES_MAX {
                return false;
            }
            let address = match position.is_return_address {
                false => FrameAddress::from_instruction_pointer(position.pc.0),
                true => match FrameAddress::from_return_address(position.pc.0) {
                    Some(address) => address,
                    None => return false,
                },
            };
            let step =
                self.unwinder
                    .unwind_frame(address, &mut registers, &mut self.cache, &mut read);
            let Ok(Some(return_address)) = step else {
                return false;
            };
            if !walk.is_return_to(Avma(A::code_address(return_address))) {
                return false;
            }
            walk.arrive(A::sp(&registers));
            origin = FrameOrigin::CallFrameInfo;
        }
    }
}

/// Whether framehop takes just the step that `rule` says.
fn is_proven(rule: &Rule) -> bool {
    rule.is_framehop_exact() && rule.origin() == FrameOrigin::CallFrameInfo
}

fn framehop_module(module: &Module) -> framehop::Module<ImageBytes> {
    let sections = module.image.unwind_sections();
    let range = |section: &UnwindSection| {
        section.svma..section.svma.saturating_add(section.bytes.len() as u64)
    };
    let eh_frame = sections.eh_frame.as_ref();
    let hdr = sections.eh_frame_hdr.as_ref();
    framehop::Module::new(
        String::new(),
        module.avma.start.0..module.avma.end.0,
        module.avma.start.0,
        ExplicitModuleSectionInfo {
            base_svma: module.svma(module.avma.start).0,
            eh_frame_svma: eh_frame.map(range),
            eh_frame: eh_frame.map(|section| section.bytes.clone()),
            eh_frame_hdr_svma: hdr.map(range),
            eh_frame_hdr: hdr.map(|section| section.bytes.clone()),
            ..ExplicitModuleSectionInfo::default()
        },
    )
}
