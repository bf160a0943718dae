//! The walk through compiled code.

pub(crate) mod aarch64;
mod cache;
mod cfi;
mod complex;
mod convention;
mod fast;
mod go;
mod infer;
mod machine;
mod record;
mod resolve;
mod rule;
mod walk;
mod x86_64;

use crate::address::{Avma, Svma};
use crate::elf::ElfImage;
use crate::interpreter::NativeFrame;
use crate::memory::MemoryReader;
use crate::modules::Modules;
use crate::registers::Registers;
use crate::stack::{FrameOrigin, Stack, StackEnd};

use aarch64::Aarch64;
pub(crate) use cfi::function;
use cfi::{CfiLookup, look_up};
use fast::FastStorey;
use machine::{Code, INSTRUCTION_BYTES_MAX, Machine};
use resolve::Resolver;
use walk::Walk;
use x86_64::X86_64;

/// How often each way of finding a caller was taken, over the life of an [`Unwinder`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindCounts {
    /// Stacks walked.
    pub walks: u64,
    /// Frames found.
    pub frames: u64,
    /// Frames found, by [`FrameOrigin`] in the order of its variants; see [`UnwindCounts::found_by`].
    pub frames_by_origin: [u64; FrameOrigin::COUNT],
    /// Addresses whose rule was known from before.
    pub rule_hits: u64,
    /// Addresses whose rule had to be decided.
    pub rule_misses: u64,
    /// Stacks walked by framehop alone, and for which it was given up; see [`Unwinder::with_fast_storey`].
    pub fast_walks: u64,
    /// Stacks that framehop began and the complete walk began anew.
    pub fast_fallbacks: u64,
}

impl UnwindCounts {
    /// How many frames were found in this way.
    pub fn found_by(&self, origin: FrameOrigin) -> u64 {
        self.frames_by_origin
            .get(origin as usize)
            .copied()
            .unwrap_or_default()
    }
}

/// Knows the callers of code that no table and no convention tells anything about: what an interpreter has compiled.
pub trait WalkGuide {
    /// Asked at each frame, before its caller is looked for. Gives the registers of the caller where the frame is one
    /// that the guide knows; a caller must lie further up the stack.
    fn caller(&mut self, frame: NativeFrame<'_>) -> Option<Registers>;
}

/// Walks stacks; keeps the rules it has decided, by image, for all processes that map it.
#[derive(Debug, Default)]
pub struct Unwinder {
    counts: UnwindCounts,
    resolver: Resolver,
    fast: Option<FastStorey>,
}

impl Unwinder {
    /// Without any rule decided yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to let framehop walk where each of its steps is proven to be exact. The stacks are the same. Off at
    /// first: it gains a few nanoseconds a frame where it holds to the root, and loses more where it does not.
    #[must_use]
    pub fn with_fast_storey(mut self, enabled: bool) -> Self {
        self.fast = enabled.then(FastStorey::default);
        self
    }

    /// Walks from `start` outwards and puts what it finds into `stack`, replacing what was there.
    ///
    /// `memory` need only hold the thread's stack (and, for code outside any module, that code). Walking never
    /// fails: what stopped it is in [`Stack::end`]. Once the rules of all addresses are known, a walk allocates only
    /// when `stack.frames` must grow.
    pub fn walk<M: MemoryReader + ?Sized>(
        &mut self,
        modules: &Modules,
        start: &Registers,
        memory: &M,
        stack: &mut Stack,
    ) {
        stack.frames.clear();
        let is_done = self
            .fast
            .as_mut()
            .is_some_and(|fast| fast.walk(&mut self.resolver, modules, start, memory, stack));
        if is_done {
            self.count(stack);
            return;
        }
        stack.end = walk_completely(&mut self.resolver, modules, start, memory, None, stack);
        self.count(stack);
    }

    /// As [`Unwinder::walk`]; `guide` is asked at each frame.
    pub fn walk_with_guide<M: MemoryReader + ?Sized>(
        &mut self,
        modules: &Modules,
        start: &Registers,
        memory: &M,
        guide: &mut dyn WalkGuide,
        stack: &mut Stack,
    ) {
        stack.frames.clear();
        let resolver = &mut self.resolver;
        stack.end = walk_completely(resolver, modules, start, memory, Some(guide), stack);
        self.count(stack);
    }

    /// What has been done so far.
    pub fn counts(&self) -> UnwindCounts {
        UnwindCounts {
            rule_hits: self.resolver.hits,
            rule_misses: self.resolver.misses,
            fast_walks: self.fast.as_ref().map_or(0, |fast| fast.walks),
            fast_fallbacks: self.fast.as_ref().map_or(0, |fast| fast.fallbacks),
            ..self.counts
        }
    }

    fn count(&mut self, stack: &Stack) {
        self.counts.walks += 1;
        self.counts.frames += stack.frames.len() as u64;
        for frame in &stack.frames {
            if let Some(count) = self.counts.frames_by_origin.get_mut(frame.origin as usize) {
                *count += 1;
            }
        }
    }
}

/// Walks to the end on the processor that the registers are of, and says why it is the end.
fn walk_completely<'a, M: MemoryReader + ?Sized>(
    resolver: &'a mut Resolver,
    modules: &'a Modules,
    start: &'a Registers,
    memory: &'a M,
    guide: Option<&'a mut dyn WalkGuide>,
    stack: &mut Stack,
) -> StackEnd {
    match start.arch().elf_machine {
        X86_64::ELF_MACHINE => {
            Walk::<_, X86_64>::new(resolver, modules, memory, start, guide).run(stack)
        }
        Aarch64::ELF_MACHINE => {
            Walk::<_, Aarch64>::new(resolver, modules, memory, start, guide).run(stack)
        }
        _ => StackEnd::NoUnwindInfo(start.pc().unwrap_or_default()),
    }
}

/// What `read` makes of the rule for the caller's frame that the unwind tables have at `svma`.
pub(crate) fn with_row<T>(
    image: &ElfImage,
    svma: Svma,
    context: &mut gimli::UnwindContext<usize>,
    mut read: impl FnMut(&gimli::CfaRule<usize>) -> Option<T>,
) -> Option<T> {
    match look_up(image, svma, context, |row| read(row.row.cfa())) {
        CfiLookup::Found(found) => Some(found),
        CfiLookup::None | CfiLookup::Bad => None,
    }
}

/// Code that is read from the target.
struct MemoryCode<'a, M: ?Sized>(&'a M);

impl<M: MemoryReader + ?Sized> Code for MemoryCode<'_, M> {
    fn fetch(&self, at: u64, into: &mut [u8; INSTRUCTION_BYTES_MAX]) -> usize {
        self.0.read(Avma(at), into).unwrap_or(0)
    }
}
