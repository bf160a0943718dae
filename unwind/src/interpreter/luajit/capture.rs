//! What is copied of a virtual machine while a thread stands still, and which of its C frames are on the thread's stack.

use std::ops::Range;

use super::calibrate::Vm;
use super::functions::Wanted;
use super::layout::{GCT_THREAD, Layout, u32_in, u64_in};
use crate::address::Avma;
use crate::interpreter::{ThreadContext, VolatileCopy};

/// C frames of one thread: C code calls Lua at most 200 times into itself (`LUAI_MAXCCALLS`), in each of its threads.
pub(super) const CFRAMES_MAX: usize = 512;

/// Lua threads (coroutines) that are active on one thread.
pub(super) const THREADS_MAX: usize = 16;

/// How many virtual machines are asked whether they run on the thread.
const VMS_ASKED_MAX: usize = 4;

/// How far the stack is searched for the next C frame outside one that C code has called, in bytes.
const SEARCH_BYTES_MAX: usize = 32 << 10;

/// How far above the highest known slot frames of functions can lie that have not been entered in `base` or `top`: a
/// function has at most 250 slots.
const SLACK_BYTES: u64 = 256 * 8;

/// The low bits of a C frame's address are flags (`CFRAME_RESUME`, `CFRAME_UNWIND_FF`).
const CFRAME_FLAGS: u64 = 3;

/// `vmstate` while the interpreter executes, or C code that it has called (lj_obj.h, LJ_VMST_INTERP).
pub(super) const STATE_INTERPRETER: i32 = !0;

/// A C frame: the interpreter was entered there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CFrame {
    /// The stack pointer of the interpreter.
    pub(super) at: u64,
    /// The Lua thread that it executes.
    pub(super) thread: u64,
}

/// What a virtual machine does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Roots {
    /// The Lua thread that is being executed.
    pub(super) current: u64,
    /// A trace's number, or minus one less a state.
    pub(super) vmstate: i32,
    /// The base of the executed trace.
    pub(super) jit_base: u64,
    /// The table of traces and how many there is room for.
    pub(super) traces: Option<(u64, u32)>,
}

impl Roots {
    /// Of `vm`, with the innermost C frame that it has on `thread`; `None` if it does not run there.
    fn copy(
        vm: &Vm,
        interpreter: &Range<Avma>,
        thread: &ThreadContext,
        copy: &mut VolatileCopy<'_>,
    ) -> Option<(Self, CFrame)> {
        let layout = vm.layout;
        let behind_traces = vm.traces.map_or(vm.current + 16, |traces| traces + 16);
        let bytes = usize::try_from(behind_traces.checked_sub(vm.vmstate)?).ok()?;
        let global = copy.copy(Avma(vm.global.checked_add(vm.vmstate)?), bytes);
        let field = |at: u64| usize::try_from(at.wrapping_sub(vm.vmstate)).unwrap_or(usize::MAX);
        let roots = Self {
            current: layout.reference_in(global, field(vm.current))?,
            vmstate: u32_in(global, 0)?.cast_signed(),
            jit_base: layout.reference_in(global, field(vm.current + layout.reference_bytes()))?,
            traces: vm.traces.and_then(|at| {
                let table = u64_in(global, field(at))?;
                Some((table, u32_in(global, field(at + 12))?))
            }),
        };
        let current = copy_thread(vm, roots.current, copy)?;
        let cframe = u64_in(current, usize::try_from(layout.thread.cframe).ok()?)? & !CFRAME_FLAGS;
        let is_within = thread.stack.contains(&Avma(cframe)) && stack_pointer(thread)? <= cframe;
        if is_within && thread_of(layout, copy, cframe) == Some(roots.current) {
            let first = CFrame {
                at: cframe,
                thread: roots.current,
            };
            return Some((roots, first));
        }
        // C code has resumed another thread, which has just ended.
        let first = search(layout, interpreter, thread, copy, stack_pointer(thread)?)?;
        copy_thread(vm, first.thread, copy)?;
        Some((roots, first))
    }
}

/// Copies a Lua thread, if it is one of `vm`.
fn copy_thread<'a>(vm: &Vm, lua: u64, copy: &'a mut VolatileCopy<'_>) -> Option<&'a [u8]> {
    let layout = vm.layout;
    let bytes = copy.copy(Avma(lua), layout.thread.bytes);
    let is_thread = bytes.get(usize::try_from(layout.gct).ok()?) == Some(&GCT_THREAD);
    let global = layout.reference_in(bytes, usize::try_from(layout.thread.glref).ok()?)?;
    (is_thread && global == vm.global).then_some(bytes)
}

/// What was found of one thread.
#[derive(Debug)]
pub(super) struct Capture {
    /// The position of the virtual machine among those that are known; `None` if none runs here.
    pub(super) vm: Option<usize>,
    /// From the innermost outwards.
    pub(super) cframes: Vec<CFrame>,
    /// What that does.
    pub(super) roots: Roots,
    /// The Lua threads of which all that is in use was copied.
    pub(super) copied: Vec<u64>,
    /// Nothing could be copied any more before it was known whether one runs here.
    pub(super) is_cut: bool,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            vm: None,
            cframes: Vec::with_capacity(CFRAMES_MAX),
            roots: Roots::default(),
            copied: Vec::with_capacity(THREADS_MAX),
            is_cut: false,
        }
    }
}

impl Capture {
    fn clear(&mut self) {
        self.vm = None;
        self.cframes.clear();
        self.copied.clear();
        self.is_cut = false;
    }

    /// Copies what is needed of the virtual machine that runs on `thread`, if one of `vms` does: of several the
    /// innermost one. The one at position `last` is asked first.
    pub(super) fn take(
        &mut self,
        vms: &[Vm],
        last: usize,
        interpreter: &Range<Avma>,
        thread: &ThreadContext,
        copy: &mut VolatileCopy<'_>,
    ) {
        self.clear();
        let mut innermost: Option<(&Vm, CFrame)> = None;
        let order = (0..vms.len()).map(|turn| (last + turn) % vms.len());
        for position in order.take(VMS_ASKED_MAX) {
            let Some(vm) = vms.get(position) else {
                continue;
            };
            let Some((roots, first)) = Roots::copy(vm, interpreter, thread, copy) else {
                continue;
            };
            if innermost.is_none_or(|(_, known)| first.at < known.at) {
                innermost = Some((vm, first));
                self.vm = Some(position);
                self.roots = roots;
            }
        }
        match innermost {
            Some((vm, first)) => {
                self.follow(vm.layout, interpreter, thread, copy, first);
                self.copy_stacks(vm.layout, interpreter, thread, copy);
            }
            None => self.is_cut = !vms.is_empty() && copy.is_full(),
        }
    }

    /// Finds all C frames from `first` outwards.
    fn follow(
        &mut self,
        layout: &Layout,
        interpreter: &Range<Avma>,
        thread: &ThreadContext,
        copy: &VolatileCopy<'_>,
        first: CFrame,
    ) {
        let mut next = Some(first);
        while let Some(cframe) = next.filter(|_| self.cframes.len() < CFRAMES_MAX) {
            self.cframes.push(cframe);
            next = outer(layout, interpreter, thread, copy, cframe);
        }
    }

    /// Copies the Lua threads, their stacks, and the functions on these.
    fn copy_stacks(
        &mut self,
        layout: &Layout,
        interpreter: &Range<Avma>,
        thread: &ThreadContext,
        copy: &mut VolatileCopy<'_>,
    ) {
        let mut threads = [0; THREADS_MAX];
        let mut count = 0;
        for cframe in &self.cframes {
            let known = threads.get(..count).unwrap_or_default();
            let is_known = known.contains(&cframe.thread);
            if let Some(free) = threads.get_mut(count).filter(|_| !is_known) {
                *free = cframe.thread;
                count += 1;
            }
        }
        let threads = threads.get(..count).unwrap_or_default();
        let mut wanted = [(Avma(0), 0); THREADS_MAX];
        let mut regions = 0;
        let others = threads.iter().filter(|&&other| other != self.roots.current);
        for (&other, wanted) in others.zip(&mut wanted) {
            *wanted = (Avma(other), layout.thread.bytes);
            regions += 1;
        }
        copy.copy_all(wanted.get(..regions).unwrap_or_default());
        let mut stacks = [Used::default(); THREADS_MAX];
        let mut wanted = [(Avma(0), 0); THREADS_MAX];
        let mut regions = 0;
        for &lua in threads {
            let is_current = lua == self.roots.current;
            let jit_base = is_current.then_some(self.roots.jit_base);
            let [base, builtin_base] = [layout.processor.base, layout.processor.builtin_base]
                .map(|register| thread.registers.get(register).filter(|_| is_current));
            if let (Some(used), Some(free), Some(region)) = (
                Used::find(layout, copy, lua, [base, builtin_base, jit_base]),
                stacks.get_mut(regions),
                wanted.get_mut(regions),
            ) {
                *free = used;
                *region = (Avma(used.stack), used.bytes);
                regions += 1;
            }
        }
        copy.copy_all(wanted.get(..regions).unwrap_or_default());
        let mut functions = Wanted::default();
        let is_in_c = self.roots.vmstate == STATE_INTERPRETER
            && !thread
                .registers
                .pc()
                .is_some_and(|pc| interpreter.contains(&pc));
        for used in stacks.get(..regions).unwrap_or_default() {
            let copied = copy.slice_at(Avma(used.stack)).len() as u64;
            if used.stack.saturating_add(copied) >= used.highest && copied > 0 {
                self.copied.push(used.thread);
                let is_above = is_in_c && used.thread == self.roots.current;
                functions.add_of_stack(layout, copy, used.stack, used.bases(), is_above);
            }
        }
        functions.copy(layout, copy);
    }
}

fn stack_pointer(thread: &ThreadContext) -> Option<u64> {
    Some(thread.registers.sp()?.0)
}

/// The Lua thread that a C frame names.
fn thread_of(layout: &Layout, copy: &VolatileCopy<'_>, cframe: u64) -> Option<u64> {
    let word = copy.word(Avma(cframe.checked_add(layout.processor.cframe.thread)?))?;
    Some(match layout.gc64 {
        true => word,
        false => word & u64::from(u32::MAX),
    })
}

/// The C frame outside `cframe`: of the same Lua thread, as that says; or of the one that has resumed it.
fn outer(
    layout: &Layout,
    interpreter: &Range<Avma>,
    thread: &ThreadContext,
    copy: &VolatileCopy<'_>,
    cframe: CFrame,
) -> Option<CFrame> {
    let fields = &layout.processor.cframe;
    let previous = copy.word(Avma(cframe.at.checked_add(fields.prev)?))? & !CFRAME_FLAGS;
    if previous != 0 {
        let is_further = previous > cframe.at && thread.stack.contains(&Avma(previous));
        return is_further.then_some(CFrame {
            at: previous,
            thread: cframe.thread,
        });
    }
    let outside = cframe.at.checked_add(fields.bytes)?;
    let return_address = copy.word(Avma(cframe.at.checked_add(fields.return_address)?))?;
    if interpreter.contains(&Avma(return_address)) {
        // coroutine.resume is part of the interpreter: its frame lies straight above.
        let thread = thread_of(layout, copy, outside)?;
        return Some(CFrame {
            at: outside,
            thread,
        });
    }
    search(layout, interpreter, thread, copy, outside)
}

/// The next place from `from` upwards where the interpreter has called C code.
fn search(
    layout: &Layout,
    interpreter: &Range<Avma>,
    thread: &ThreadContext,
    copy: &VolatileCopy<'_>,
    from: u64,
) -> Option<CFrame> {
    /// Read at once: to ask for each word would take as long as all else.
    const CHUNK_BYTES: usize = 512;
    let processor = layout.processor;
    let mut chunk = [0; CHUNK_BYTES];
    let mut below = 0;
    let mut next = from;
    for _ in 0..SEARCH_BYTES_MAX / CHUNK_BYTES {
        let read = copy.stack().read(Avma(next), &mut chunk).ok()?;
        let words = chunk.get(..read)?.chunks_exact(8);
        for (slot, word) in (next..).step_by(8).zip(words) {
            let word = u64_in(word, 0)?;
            let below = std::mem::replace(&mut below, word);
            if !interpreter.contains(&Avma(processor.code_address(word))) {
                continue;
            }
            let Some(at) = processor.cframe.that_called(slot, below) else {
                continue;
            };
            let lua = thread_of(layout, copy, at)?;
            if lua != 0 && lua.is_multiple_of(layout.reference_bytes()) {
                return thread
                    .stack
                    .contains(&Avma(slot))
                    .then_some(CFrame { at, thread: lua });
            }
        }
        next = next.checked_add(CHUNK_BYTES as u64)?;
    }
    None
}

/// What is in use of the stack of a Lua thread.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    thread: u64,
    stack: u64,
    /// The highest slot that is known to be in use.
    highest: u64,
    /// What is to be copied.
    bytes: usize,
    /// Where the slots of the innermost function may begin.
    bases: [u64; 4],
    bases_count: usize,
}

impl Used {
    /// Of `lua`, the innermost function of which may as well have its slots at one of `others`.
    fn find(
        layout: &Layout,
        copy: &VolatileCopy<'_>,
        lua: u64,
        others: [Option<u64>; 3],
    ) -> Option<Self> {
        let word = |field: u64| copy.word(Avma(lua.checked_add(field)?));
        let reference = |field| {
            let word = word(field)?;
            Some(if layout.gc64 {
                word
            } else {
                word & u64::from(u32::MAX)
            })
        };
        let stack = reference(layout.thread.stack)?;
        let end = reference(layout.thread.maxstack)?.checked_add(SLACK_BYTES)?;
        let (base, top) = (word(layout.thread.base)?, word(layout.thread.top)?);
        let mut used = Self {
            thread: lua,
            stack,
            highest: Some(top)
                .filter(|top| (stack..=end).contains(top))
                .unwrap_or(stack),
            ..Self::default()
        };
        for base in others.into_iter().flatten().chain([base]) {
            let is_base = (stack..=end).contains(&base) && base.is_multiple_of(8);
            if let Some(free) = used.bases.get_mut(used.bases_count).filter(|_| is_base) {
                *free = base;
                used.bases_count += 1;
                used.highest = used.highest.max(base);
            }
        }
        let upto = used.highest.checked_add(SLACK_BYTES)?.min(end);
        used.bytes = usize::try_from(upto.checked_sub(stack)?).ok()?;
        Some(used)
    }

    fn bases(&self) -> &[u64] {
        self.bases.get(..self.bases_count).unwrap_or_default()
    }
}
