//! Finds where the fields of a virtual machine's global state lie, which differs between builds of one version: by
//! looking for what must be in them.

use std::ops::{Range, RangeInclusive};

use super::layout::{GCT_STRING, GCT_THREAD, GCT_TRACE, Layout, Layouts, u16_in, u32_in, u64_in};
use crate::address::Avma;
use crate::memory::MemoryReader;

/// How much of the global state is looked at, in bytes: `jit_State.trace` is the furthest of what is looked for.
const GLOBAL_BYTES: usize = 0x600;

/// Where `mainthref` and `J.trace` were in any version, with room to both sides.
pub(super) const MAIN_WITHIN: Range<usize> = 0x50..0x100;
pub(super) const TRACES_WITHIN: Range<usize> = 0x2f0..0x500;

/// Where `cur_L` was in any version. Behind it, with 32-bit references, there are other fields that name a thread.
pub(super) const CURRENT_WITHIN_GC64: Range<usize> = 0x150..0x1b0;
pub(super) const CURRENT_WITHIN_GC32: Range<usize> = 0xf0..0x130;

/// The size of a Lua thread, in any version.
const MAIN_BYTES: RangeInclusive<u64> = 0x40..=0x80;

/// More traces than this are not believed (OpenResty's default limit is 8000).
const TRACES_MAX: u32 = 1 << 16;

/// Of how many traces it is checked that they are traces.
const TRACES_CHECKED: u32 = 4;

/// One virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vm {
    pub(super) layout: &'static Layout,
    /// Its global_State.
    pub(super) global: u64,
    /// From there on: `vmstate`, `cur_L` (with `jit_base` behind it).
    pub(super) vmstate: u64,
    pub(super) current: u64,
    /// `J.trace`, with the size of the table 12 bytes behind it; unknown until there is a trace.
    pub(super) traces: Option<u64>,
}

/// What a thread says of its virtual machine, if `thread` is a Lua thread (lua_State).
pub(super) fn global_of(memory: &dyn MemoryReader, layout: &Layout, thread: u64) -> Option<u64> {
    if thread == 0 || !thread.is_multiple_of(layout.reference_bytes()) {
        return None;
    }
    if layout.kind(memory, thread)? != GCT_THREAD {
        return None;
    }
    let global = layout.reference(memory, thread.checked_add(layout.thread.glref)?)?;
    (global != 0 && global.is_multiple_of(layout.reference_bytes())).then_some(global)
}

impl Vm {
    /// The virtual machine of `thread`, if that is a Lua thread.
    pub(super) fn of_thread(
        memory: &dyn MemoryReader,
        layouts: Layouts,
        thread: u64,
    ) -> Option<Self> {
        let mut layouts = layouts.iter();
        layouts.find_map(|layout| Self::with_layout(memory, layout, thread))
    }

    fn with_layout(
        memory: &dyn MemoryReader,
        layout: &'static Layout,
        thread: u64,
    ) -> Option<Self> {
        let global = global_of(memory, layout, thread)?;
        let mut bytes = vec![0; GLOBAL_BYTES];
        let read = memory.read(Avma(global), &mut bytes).ok()?;
        bytes.truncate(read);
        let step = usize::try_from(layout.reference_bytes()).ok()?;
        let thread_at = |at: usize| {
            let thread = layout.reference_in(&bytes, at)?;
            (global_of(memory, layout, thread) == Some(global)).then_some(thread)
        };
        // The main thread lies just before the global state, and the one that was executed last is named further on. In
        // the older layouts a buffer names a thread before that.
        let main = MAIN_WITHIN.step_by(step).find(|&at| {
            thread_at(at).is_some_and(|main| MAIN_BYTES.contains(&global.wrapping_sub(main)))
                && has_empty_string(layout, &bytes, at) != Some(false)
        })?;
        let within = match layout.gc64 {
            true => CURRENT_WITHIN_GC64,
            false => CURRENT_WITHIN_GC32,
        };
        // The last one: some versions have a field before it that can name a thread as well.
        let current = within
            .step_by(step)
            .rev()
            .find(|&at| at > main && thread_at(at).is_some())?;
        Some(Self {
            layout,
            global,
            vmstate: (main as u64).checked_sub(layout.vmstate_before_main)?,
            current: current as u64,
            traces: None,
        })
    }

    /// Finds `J.trace`, if there are traces by now.
    pub(super) fn find_traces(&mut self, memory: &dyn MemoryReader) -> Option<()> {
        if self.traces.is_some() {
            return Some(());
        }
        let mut bytes = vec![0; GLOBAL_BYTES];
        let read = memory.read(Avma(self.global), &mut bytes).ok()?;
        bytes.truncate(read);
        let found = TRACES_WITHIN
            .step_by(8)
            .find(|&at| is_trace_table(memory, self.layout, &bytes, at).is_some())?;
        self.traces = Some(found as u64);
        Some(())
    }
}

/// Whether `strempty` is where it would be if `mainthref` were at `main`; `None` where the layout does not tell.
fn has_empty_string(layout: &Layout, bytes: &[u8], main: usize) -> Option<bool> {
    let empty = layout.empty_string.as_ref()?;
    let gct = usize::try_from(layout.gct).ok()?;
    let at = main.checked_sub(empty.before_main);
    let kind = at.and_then(|at| bytes.get(at.checked_add(gct)?));
    let length = at.and_then(|at| u32_in(bytes, at.checked_add(empty.length)?));
    Some(kind == Some(&GCT_STRING) && length == Some(0))
}

/// Whether at `at` lies a pointer to a table of traces, each at the position of its own number.
fn is_trace_table(
    memory: &dyn MemoryReader,
    layout: &Layout,
    bytes: &[u8],
    at: usize,
) -> Option<()> {
    let table = u64_in(bytes, at)?;
    let size = u32_in(bytes, at.checked_add(12)?)?;
    if table == 0
        || !table.is_multiple_of(layout.reference_bytes())
        || !(2..=TRACES_MAX).contains(&size)
    {
        return None;
    }
    if layout.reference(memory, table)? != 0 {
        return None;
    }
    let mut checked = 0;
    for number in 1..size.min(64) {
        let entry = table.checked_add(u64::from(number) * layout.reference_bytes())?;
        let trace = layout.reference(memory, entry)?;
        if trace == 0 {
            continue;
        }
        let mut object = [0; 0x70];
        memory
            .read_exact(Avma(trace), object.get_mut(..layout.trace.bytes)?)
            .ok()?;
        let kind = *object.get(usize::try_from(layout.gct).ok()?)?;
        if kind != GCT_TRACE || u32::from(u16_in(&object, layout.trace.traceno)?) != number {
            return None;
        }
        checked += 1;
        if checked == TRACES_CHECKED {
            break;
        }
    }
    (checked > 0).then_some(())
}
