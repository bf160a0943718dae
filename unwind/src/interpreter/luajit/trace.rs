//! Compiled traces: from a machine address to the bytecode it was compiled from, with the functions that were inlined.
//!
//! A trace has snapshots: what the interpreter's state is to be if the trace is left there. Each says from which machine
//! address on it holds, where the bytecode goes on, and which frames there are above the one the trace began in.

use rustc_hash::FxHashMap;

use super::layout::{GCT_TRACE, Layout, u16_in, u32_in, u64_in};
use crate::address::Avma;
use crate::memory::MemoryReader;

/// Traces whose addresses are kept, at most; more than that are found by their number alone.
const TRACES_MAX: u32 = 1 << 14;

/// A trace's machine code is not larger than this, in bytes (`maxmcode` is 512 KiB; OpenResty's is 64 MiB, for all).
const CODE_BYTES_MAX: u32 = 1 << 20;

/// Snapshots of one trace (`maxsnap` is 500).
const SNAPSHOTS_MAX: u16 = 8192;

/// Slots of one snapshot: its count has eight bits, and so have slots.
const SLOTS: usize = 256;

/// Inlined functions at one place.
pub(super) const INLINED_MAX: usize = 64;

/// References to instructions below this are to constants (`REF_BIAS`).
const REF_BIAS: u32 = 0x8000;

/// In an entry of a snapshot's map: it is part of a frame (`SNAP_FRAME`), rather than a value.
const SNAP_FRAME: u32 = 0x1_0000;
/// It is part of a continuation (`SNAP_CONT`).
const SNAP_CONT: u32 = 0x2_0000;

/// SnapShot: 12 bytes, since 2021-03 with the machine address from which it holds.
pub(super) const SNAPSHOT_BYTES: usize = 12;

/// Where the exits of a trace lie behind its code (`asm_exitstub_setup` in lj_asm_arm64.h), that begins with padding and
/// what they have in common, of no more than so many instructions. The last of these loads the number of the trace:
/// `movz w0, #N`. Then an instruction follows for each.
const COMMON_WORDS_MAX: usize = 8;
const LOADS_NUMBER: u32 = 0x5280_0000;

/// A trace, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) number: u32,
    /// Its machine code.
    pub(super) code: std::ops::Range<u64>,
    /// The prototype it begins in and where in its bytecode.
    pub(super) start_proto: u64,
    pub(super) start_pc: u64,
    ir: u64,
    snapshots: u64,
    snapshot_count: u16,
    map: u64,
    map_count: u32,
}

/// An inlined frame, or the innermost one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inlined {
    /// Its function; `None` for the frame that the trace began in, which is on the stack.
    pub(super) function: Option<u64>,
    /// Where it goes on in its bytecode; 0 for a function that is no Lua function.
    pub(super) pc: u64,
    /// Whether `pc` is behind a call, rather than at the instruction to be executed.
    pub(super) is_after_call: bool,
}

impl Trace {
    fn read(memory: &dyn MemoryReader, layout: &Layout, at: u64, number: u32) -> Option<Self> {
        let mut object = [0; 0x70];
        let object = object.get_mut(..layout.trace.bytes)?;
        memory.read_exact(Avma(at), object).ok()?;
        let is_trace = object.get(usize::try_from(layout.gct).ok()?) == Some(&GCT_TRACE);
        if !is_trace || u32::from(u16_in(object, layout.trace.traceno)?) != number {
            return None;
        }
        let code = u64_in(object, layout.trace.mcode)?;
        let code_bytes = u32_in(object, layout.trace.szmcode)?;
        if code == 0 || code_bytes > CODE_BYTES_MAX {
            return None;
        }
        Some(Self {
            number,
            code: code..code.checked_add(u64::from(code_bytes))?,
            start_proto: layout.reference_in(object, layout.trace.startpt)?,
            start_pc: layout.reference_in(object, layout.trace.startpc)?,
            ir: u64_in(object, layout.trace.ir)?,
            snapshots: u64_in(object, layout.trace.snap)?,
            snapshot_count: u16_in(object, layout.trace.nsnap)?,
            map: u64_in(object, layout.trace.snapmap)?,
            map_count: u32_in(object, layout.trace.nsnapmap)?,
        })
    }

    /// Its exits, an instruction for each, of a trace that has them behind its code.
    fn exits(&self, memory: &dyn MemoryReader) -> Option<std::ops::Range<u64>> {
        let mut common = [0; COMMON_WORDS_MAX * 4];
        let read = memory.read(Avma(self.code.end), &mut common).ok()?;
        let mut words = common.get(..read)?.chunks_exact(4);
        let last =
            words.position(|word| u32_in(word, 0) == Some(LOADS_NUMBER | self.number << 5))?;
        let start = self.code.end.checked_add(last as u64 * 4 + 4)?;
        // One for each snapshot, and in some traces one for the check of the stack.
        let end = start.checked_add(u64::from(self.snapshot_count) * 4 + 4)?;
        Some(start..end)
    }

    /// The frames at machine address `pc`, in the trace or its exits, innermost first; the last one is the frame that is on
    /// the stack. `None` where snapshots do not tell, as before 2021-03, and where all exits are the same.
    pub(super) fn frames_at(
        &self,
        memory: &dyn MemoryReader,
        layout: &Layout,
        pc: u64,
    ) -> Option<Vec<Inlined>> {
        let unit = layout.processor.code_unit;
        let offset = pc.checked_sub(self.code.start)? / unit;
        if self.snapshot_count > SNAPSHOTS_MAX {
            return None;
        }
        let mut snapshots = vec![0; usize::from(self.snapshot_count).checked_mul(SNAPSHOT_BYTES)?];
        memory
            .read_exact(Avma(self.snapshots), &mut snapshots)
            .ok()?;
        let code_units = (self.code.end - self.code.start) / unit;
        if !have_offsets(&snapshots, self.map_count, code_units, layout.gc64) {
            return None;
        }
        let mut snapshots = snapshots.chunks_exact(SNAPSHOT_BYTES);
        let governing = match self.code.contains(&pc) {
            true => governing(snapshots, offset)?,
            false => {
                let exits = self.exits(memory)?;
                let exit = pc.checked_sub(exits.start)? / 4;
                snapshots.nth(usize::try_from(exit).ok()?)?
            }
        };
        let entries = usize::from(*governing.get(10)?);
        let first = u32_in(governing, 0)?;
        let behind = match layout.gc64 {
            true => 2,
            false => INLINED_MAX,
        };
        let upto = first
            .checked_add(u32::try_from(entries + behind).ok()?)?
            .min(self.map_count);
        let words = usize::try_from(upto.checked_sub(first)?).ok()?;
        let mut map = vec![0; words.checked_mul(4)?];
        let at = self.map.checked_add(u64::from(first).checked_mul(4)?)?;
        memory.read_exact(Avma(at), &mut map).ok()?;
        let map = Map {
            memory,
            layout,
            ir: self.ir,
            entries: map.get(..entries.checked_mul(4)?)?,
            behind: map.get(entries.checked_mul(4)?..)?,
        };
        match layout.gc64 {
            true => map.frames_of_two_slots(),
            false => map.frames_of_one_slot(),
        }
    }
}

/// The one of `snapshots` that holds at `offset` in the machine code: the last that begins there or before.
fn governing<'a>(snapshots: impl Iterator<Item = &'a [u8]>, offset: u64) -> Option<&'a [u8]> {
    let mut governing = None;
    for snapshot in snapshots {
        let from = u64::from(u16_in(snapshot, 6)?);
        if governing.is_some() && from > offset {
            break;
        }
        governing = Some(snapshot);
    }
    governing
}

/// Whether snapshots say from which machine address they hold, as they do since 2021-03: by where the map of each ends,
/// which the number of its entries tells. That number lay where others are now.
fn have_offsets(snapshots: &[u8], map_count: u32, code_units: u64, gc64: bool) -> bool {
    /// What lies in a map behind its entries, in words: where the bytecode goes on, and with 32-bit references the
    /// links of all frames, as many as are inlined.
    const BEHIND_GC64: u32 = 2;
    const BEHIND_GC32: std::ops::RangeInclusive<u32> = 1..=65;
    let starts = snapshots
        .chunks_exact(SNAPSHOT_BYTES)
        .filter_map(|snapshot| u32_in(snapshot, 0));
    let ends = starts.clone().skip(1).chain([map_count]);
    let mut offset_before = 0;
    let mut maps = starts.zip(ends).zip(snapshots.chunks_exact(SNAPSHOT_BYTES));
    maps.all(|((start, end), snapshot)| {
        let (Some(offset), Some(&entries)) = (u16_in(snapshot, 6), snapshot.get(10)) else {
            return false;
        };
        let is_further = offset >= offset_before && u64::from(offset) <= code_units;
        offset_before = offset;
        let behind = end
            .checked_sub(start)
            .and_then(|words| words.checked_sub(u32::from(entries)));
        is_further
            && behind.is_some_and(|behind| match gc64 {
                true => behind == BEHIND_GC64,
                false => BEHIND_GC32.contains(&behind),
            })
    })
}

/// The map of one snapshot: what is in which slot.
struct Map<'a> {
    memory: &'a dyn MemoryReader,
    layout: &'a Layout,
    ir: u64,
    entries: &'a [u8],
    behind: &'a [u8],
}

impl Map<'_> {
    /// Entries by slot.
    fn slots(&self) -> [u32; SLOTS] {
        let mut slots = [0; SLOTS];
        for entry in self.entries.chunks_exact(4) {
            let entry = u32_in(entry, 0).unwrap_or_default();
            if let Some(slot) = slots.get_mut(entry as usize >> 24) {
                *slot = entry;
            }
        }
        slots
    }

    /// A constant of 64 bits (GC64: also a reference).
    fn constant(&self, entry: u32) -> Option<u64> {
        let reference = entry & 0xffff;
        if reference == 0 || reference >= REF_BIAS {
            return None;
        }
        let behind = u64::from(reference).checked_add(1)?.checked_mul(8)?;
        self.memory
            .read_u64(Avma(self.ir.checked_add(behind)?))
            .ok()
    }

    /// A reference of 32 bits.
    fn reference(&self, entry: u32) -> Option<u64> {
        let reference = entry & 0xffff;
        if reference == 0 || reference >= REF_BIAS {
            return None;
        }
        let at = u64::from(reference).checked_mul(8)?;
        let reference = self.memory.read_u32(Avma(self.ir.checked_add(at)?)).ok()?;
        Some(u64::from(reference))
    }

    /// FR2: a frame has a slot with its function and one with its link. Where the bytecode goes on, and in which slot the
    /// innermost function begins, lies behind the map in one number.
    fn frames_of_two_slots(&self) -> Option<Vec<Inlined>> {
        let packed = u64_in(self.behind, 0)?;
        let mut pc = packed >> 8;
        let mut base = usize::try_from(packed & 0xff).ok()?.checked_add(2)?;
        let mut is_after_call = false;
        let slots = self.slots();
        let mut frames = Vec::new();
        while base > 2 && frames.len() < INLINED_MAX {
            let function = self.constant(*slots.get(base.checked_sub(2)?)?);
            let link = self.constant(*slots.get(base.checked_sub(1)?)?)?;
            let below = match link & 3 {
                0 => {
                    let instruction = super::stack::instruction_before(self.memory, link)?;
                    super::stack::distance_to_caller(self.layout, instruction)
                }
                _ => link & !7,
            };
            let is_vararg = link & 7 == 3;
            let is_continuation = link & 7 == 2;
            frames.push(Inlined {
                function: Some(function?),
                pc,
                is_after_call,
            });
            let below = usize::try_from(below / 8).ok()?;
            let outer = base.checked_sub(below)?;
            if is_vararg {
                // Once more the same frame, without its variable arguments; its link is what counts.
                let link = match outer > 2 {
                    true => self.constant(*slots.get(outer.checked_sub(1)?)?)?,
                    false => {
                        // It is the frame on the stack.
                        frames.pop();
                        frames.push(Inlined {
                            function: None,
                            pc,
                            is_after_call,
                        });
                        return Some(frames);
                    }
                };
                if link & 3 != 0 {
                    return None;
                }
                let instruction = super::stack::instruction_before(self.memory, link)?;
                let below = super::stack::distance_to_caller(self.layout, instruction) / 8;
                base = outer.checked_sub(usize::try_from(below).ok()?)?;
                pc = link;
            } else {
                pc = match (link & 3, is_continuation) {
                    (0, _) => link,
                    (_, true) => self
                        .constant(*slots.get(base.checked_sub(3)?)?)
                        .unwrap_or(0),
                    _ => 0,
                };
                base = outer;
            }
            is_after_call = true;
        }
        frames.push(Inlined {
            function: None,
            pc,
            is_after_call,
        });
        Some(frames)
    }

    /// FR1: a frame has one slot with its function; the links of all frames lie behind the map, the innermost first,
    /// after where the bytecode goes on.
    fn frames_of_one_slot(&self) -> Option<Vec<Inlined>> {
        let mut behind = self
            .behind
            .chunks_exact(4)
            .filter_map(|word| u32_in(word, 0));
        let slots = self.slots();
        let is_frame = |&slot: &usize| {
            slots
                .get(slot)
                .is_some_and(|entry| entry & SNAP_FRAME != 0 && entry & SNAP_CONT == 0)
        };
        let mut pc = u64::from(behind.next()?);
        let mut is_after_call = false;
        let mut frames = Vec::new();
        let mut slot = (1..SLOTS).rev().find(is_frame).unwrap_or(0);
        while slot > 0 && frames.len() < INLINED_MAX {
            let link = u64::from(behind.next()?);
            frames.push(Inlined {
                function: Some(self.reference(*slots.get(slot)?)?),
                pc,
                is_after_call,
            });
            let below = match link & 3 {
                0 => {
                    pc = link;
                    let instruction = super::stack::instruction_before(self.memory, link)?;
                    super::stack::distance_to_caller(self.layout, instruction)
                }
                2 if link & 7 == 2 => {
                    pc = u64::from(behind.next()?);
                    link & !7
                }
                _ => {
                    pc = 0;
                    link & !7
                }
            };
            slot = slot.checked_sub(usize::try_from(below / 8).ok()?)?;
            is_after_call = true;
        }
        frames.push(Inlined {
            function: None,
            pc,
            is_after_call,
        });
        Some(frames)
    }
}

/// The traces of one virtual machine.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// Where each lies in memory, and as it was read.
    by_number: FxHashMap<u32, (u64, Trace)>,
    /// The table they were read from, and its size.
    table: (u64, u32),
}

impl Traces {
    /// The trace that `pc` is in, or its exits where they lie behind it. `likely` is tried first: the one that is said to be
    /// executed.
    pub(super) fn find(
        &mut self,
        memory: &dyn MemoryReader,
        layout: &Layout,
        table: (u64, u32),
        likely: Option<u32>,
        pc: u64,
    ) -> Option<Trace> {
        if let Some(trace) = likely.and_then(|number| self.read(memory, layout, table, number))
            && trace.code.contains(&pc)
        {
            return Some(trace);
        }
        let known = self
            .by_number
            .values()
            .find(|(_, trace)| trace.code.contains(&pc));
        let known = known.map(|(_, trace)| trace.number);
        if let Some(trace) = known.and_then(|number| self.read(memory, layout, table, number))
            && trace.code.contains(&pc)
        {
            return Some(trace);
        }
        self.read_all(memory, layout, table);
        let found = self
            .by_number
            .values()
            .find(|(_, trace)| trace.code.contains(&pc));
        match found {
            Some((_, trace)) => Some(trace.clone()),
            None if layout.processor.exits_follow => self.with_exit_at(memory, pc),
            None => None,
        }
    }

    /// The trace whose exits lie behind its code, and `pc` among them.
    fn with_exit_at(&self, memory: &dyn MemoryReader, pc: u64) -> Option<Trace> {
        let before = self.by_number.values().map(|(_, trace)| trace);
        let last_before = before
            .filter(|trace| trace.code.end <= pc)
            .max_by_key(|trace| trace.code.end)?;
        (pc < last_before.exits(memory)?.end).then(|| last_before.clone())
    }

    /// Trace `number`, read anew: it may have been given to another.
    pub(super) fn read(
        &mut self,
        memory: &dyn MemoryReader,
        layout: &Layout,
        table: (u64, u32),
        number: u32,
    ) -> Option<Trace> {
        if number == 0 || number >= table.1 {
            return None;
        }
        let entry = table
            .0
            .checked_add(u64::from(number) * layout.reference_bytes())?;
        let at = layout.reference(memory, entry)?;
        let trace = Trace::read(memory, layout, at, number);
        match &trace {
            Some(trace) => self.by_number.insert(number, (at, trace.clone())),
            None => self.by_number.remove(&number),
        };
        trace
    }

    fn read_all(&mut self, memory: &dyn MemoryReader, layout: &Layout, table: (u64, u32)) {
        let count = table.1.min(TRACES_MAX);
        if self.table != table {
            self.by_number.clear();
            self.table = table;
        }
        let width = layout.reference_bytes();
        let Ok(bytes) = usize::try_from(u64::from(count) * width) else {
            return;
        };
        let mut entries = vec![0; bytes];
        if memory.read_exact(Avma(table.0), &mut entries).is_err() {
            return;
        }
        for number in 1..count {
            let at = usize::try_from(u64::from(number) * width)
                .ok()
                .and_then(|at| layout.reference_in(&entries, at))
                .unwrap_or(0);
            let is_known = self
                .by_number
                .get(&number)
                .is_some_and(|known| known.0 == at);
            if at == 0 {
                self.by_number.remove(&number);
            } else if !is_known && let Some(trace) = Trace::read(memory, layout, at, number) {
                self.by_number.insert(number, (at, trace));
            }
        }
    }
}
