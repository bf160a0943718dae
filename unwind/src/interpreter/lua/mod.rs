//! PUC Lua, 5.1 to 5.5, as a library or linked into a program.
//!
//! Nothing leads from the process to its Lua states: whoever embeds Lua keeps them. So they are looked for on the stacks
//! of threads that execute Lua, where `luaV_execute` and all around it hold one, and remembered. A state has the calls
//! under way in it (`calls.rs`), each with a closure, whose prototype has file and lines (`proto.rs`).
//!
//! `luaV_execute` executes a Lua function and the Lua functions that it calls; it is called again for what C code calls.
//! How far its innermost function has come it keeps in a register, and writes it down only where an error could be raised;
//! that register is looked for.
//!
//! Functions have no names in Lua; the instructions that call them do (`names.rs`, `opcodes.rs`).

mod calls;
mod detect;
mod execute;
#[cfg(test)]
mod header_tests;
#[cfg(any(test, fuzzing))]
pub(super) mod hostile;
#[cfg(test)]
mod hostile_tests;
mod layout;
mod names;
mod opcodes;
mod proto;
mod states;

use std::ops::Range;
use std::sync::Arc;

use self::calls::{Captured, RawCall};
use self::detect::Found;
use self::layout::{Calls, Layout};
use self::proto::Protos;
use self::states::{Candidates, States};
use super::{
    Function, FunctionKind, InterpretedFrame, Interpreter, Language, LinePrecision, Lost,
    NativeFrame, Runtime, RuntimeImage, Segments, ThreadContext, Unsupported, VolatileCopy, Walked,
};
use crate::address::Avma;
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::memory::MemoryReader;
use crate::modules::Module;
use crate::registers::Registers;
use crate::stack::Stack;

/// Activations of `luaV_execute` on one thread: Lua's own limit is 200.
const MARKERS_MAX: usize = 512;
/// How much of a thread's stack is searched for states while it stands still, in bytes.
const SEARCHED_BYTES_MAX: u64 = 64 << 10;
/// Registers that a call preserves, on whatever processor.
const CALLEE_SAVED_MAX: usize = Arch::AARCH64.callee_saved.len();
/// Words of a native frame that are looked at.
const FRAME_WORDS_MAX: usize = 64;

/// PUC Lua.
#[derive(Debug)]
pub(super) struct PucLua;

impl Runtime for PucLua {
    fn language(&self) -> Language {
        Language::Lua
    }

    fn detect(&self, image: &ElfImage) -> Option<Arc<dyn RuntimeImage>> {
        Some(Arc::new(PucLuaImage(detect::detect(image)?)))
    }
}

/// A binary that holds PUC Lua.
#[derive(Debug)]
struct PucLuaImage(Found);

impl RuntimeImage for PucLuaImage {
    fn version(&self) -> String {
        let version = self.0.version;
        format!("Lua 5.{}.{}", version.minor, version.release)
    }

    fn attach(
        &self,
        module: &Module,
        _memory: &dyn MemoryReader,
    ) -> Result<Box<dyn Interpreter>, Unsupported> {
        let refused = |reason: &str| Unsupported {
            version: self.version(),
            reason: reason.to_owned(),
        };
        let arch = Arch::of_machine(module.image.machine());
        let arch = arch.ok_or_else(|| refused("not on this processor"))?;
        let layout = Layout::of(self.0.version).ok_or_else(|| refused("only 5.1 to 5.5 are"))?;
        let execute = self.0.execute.as_ref();
        let execute = execute.ok_or_else(|| refused("luaV_execute was not found in it"))?;
        let avma = |svma| module.bias.avma(svma);
        let execute = avma(execute.start)..avma(execute.end);
        Ok(Box::new(PucLuaProcess::new(arch, layout, execute)))
    }
}

/// A native frame of `luaV_execute`.
#[derive(Clone, Copy, Debug)]
struct Marker {
    /// Its position in the native stack.
    index: usize,
    /// The callee-saved registers there, as far as they are known.
    registers: [Option<u64>; CALLEE_SAVED_MAX],
}

/// PUC Lua in one process.
#[derive(Debug)]
struct PucLuaProcess {
    arch: &'static Arch,
    layout: Layout,
    execute: Range<Avma>,
    states: States,
    protos: Protos,
    captured: Captured,
    tail_calls: Arc<Function>,
    /// Of the native walk under way, innermost first.
    markers: Vec<Marker>,
}

/// One activation of `luaV_execute`: positions among the calls of its state.
type Activation = Vec<usize>;

impl PucLuaProcess {
    fn new(arch: &'static Arch, layout: Layout, execute: Range<Avma>) -> Self {
        Self {
            arch,
            layout,
            execute,
            states: States::default(),
            protos: Protos::default(),
            captured: Captured::default(),
            tail_calls: Arc::new(Function {
                language: Language::Lua,
                name: "[tail calls]".to_owned(),
                file: String::new(),
                first_line: 0,
            }),
            markers: Vec::with_capacity(MARKERS_MAX),
        }
    }

    /// Looks in `thread`'s stack, as it was copied, for states, and copies their calls.
    fn capture_all(&mut self, thread: &ThreadContext, copy: &mut VolatileCopy<'_>) {
        let mut new = Candidates::default();
        self.search(thread, copy, &mut new);
        let new = new.regions();
        copy.copy_all(new.as_ref());
        for (word, _) in new.as_ref() {
            if self.states.take_in(&self.layout, word.0, copy) {
                self.capture_if_known(word.0, copy);
            }
        }
    }

    /// Copies the calls of states that are known; others may be in `new`.
    fn search(
        &mut self,
        thread: &ThreadContext,
        copy: &mut VolatileCopy<'_>,
        new: &mut Candidates,
    ) {
        let are_changing = self.states.are_changing();
        let mut look_at = |process: &mut Self, word: u64, copy: &mut VolatileCopy<'_>| {
            process.capture_if_known(word, copy);
            if are_changing && let Some(likelihood) = process.states.may_be_new(word) {
                new.push(word, likelihood);
            }
        };
        let registers = &thread.registers;
        for register in registers.arch().callee_saved {
            look_at(self, registers.get(*register).unwrap_or(0), copy);
        }
        let stack = copy.stack();
        let start = thread.registers.sp().unwrap_or(thread.stack.start);
        let end = thread
            .stack
            .end
            .0
            .min(start.0.saturating_add(SEARCHED_BYTES_MAX));
        let mut at = start;
        while at.0 < end {
            let mut bytes = [0; 4096];
            let Ok(read) = stack.read(at, &mut bytes) else {
                return;
            };
            for word in bytes.get(..read).unwrap_or_default().as_chunks().0 {
                look_at(self, u64::from_le_bytes(*word), copy);
            }
            at = Avma(at.0.saturating_add((read as u64).max(8)));
        }
    }

    fn capture_if_known(&mut self, word: u64, copy: &mut VolatileCopy<'_>) {
        if let Some(known) = self.states.get(word) {
            let (global, hints) = (known.global, Some(&known.hints));
            let is_still = self
                .captured
                .add(&self.layout, Avma(word), global, hints, copy);
            if !is_still {
                self.states.forget(word);
            }
        }
    }

    /// What the native frame of `marker` holds: its registers, then its part of the stack.
    fn words_of(marker: &Marker, native: &Stack, memory: &dyn MemoryReader, words: &mut Vec<u64>) {
        words.clear();
        words.extend(marker.registers.iter().flatten());
        let sp_at = |index: usize| native.frames.get(index).map(|frame| frame.sp.0);
        let (Some(start), Some(end)) = (sp_at(marker.index), sp_at(marker.index + 1)) else {
            return;
        };
        let addresses = (start..end).step_by(8).take(FRAME_WORDS_MAX);
        words.extend(addresses.filter_map(|at| memory.read_u64(Avma(at)).ok()));
    }

    /// The state whose code runs in `marker`: one that the frame holds, and best one that is known to be where the frame
    /// is as well.
    fn state_of(&mut self, words: &[u64], memory: &dyn MemoryReader) -> Option<u64> {
        let layout = self.layout;
        let mut found = None;
        for &word in words {
            if !self.states.is_state(&layout, word, memory) {
                continue;
            }
            let captured = self.captured.of(Avma(word));
            let calls = captured.map(|state| self.captured.calls_of(state));
            let is_there = calls.is_some_and(|calls| {
                calls.iter().any(|call| match layout.calls {
                    Calls::Array { .. } => words.contains(&call.pc),
                    Calls::List { .. } => words.contains(&call.info.0),
                })
            });
            if is_there {
                return Some(word);
            }
            found = found.or(Some(word));
        }
        found
    }

    /// Puts the frames of `state`, which runs in `markers`, into `out`. `words` are those of the innermost of these.
    fn put(
        &mut self,
        state: u64,
        markers: &[Marker],
        words: &[Vec<u64>],
        memory: &dyn MemoryReader,
        out: &mut Segments,
    ) -> Result<(), Lost> {
        let captured = self.captured.of(Avma(state)).ok_or(Lost::NotFound)?;
        let (captured_lost, surprises) = (captured.lost, captured.surprises);
        let calls: Vec<RawCall> = self.captured.calls_of(captured).to_vec();
        if surprises > 0
            && let Some(known) = self.states.get_mut(state)
        {
            let infos = calls.iter().map(|call| call.info);
            known.hints.learn(infos, self.layout.call_bytes());
        }
        let layout = self.layout;
        let is_lua = |call: &RawCall| {
            let closure = call.closure;
            closure.is_some_and(|closure| !Captured::is_c_closure(&layout, closure, memory))
        };
        let activations = self.activations(&calls, words, is_lua);
        let first_marker = markers.len().saturating_sub(activations.len());
        // An activation that has only just begun, or is about to end, has no call, and is the innermost.
        let mut result = match first_marker {
            0 | 1 => Ok(()),
            _ => Err(Lost::Unmatched),
        };
        for (number, activation) in activations.iter().enumerate() {
            let from = out.frames.len();
            for &index in activation {
                let Some(call) = calls.get(index) else {
                    continue;
                };
                let innermost = (number == 0 && Some(&index) == activation.first())
                    .then(|| words.get(first_marker))
                    .flatten();
                let held = innermost.map_or(&[][..], Vec::as_slice);
                if index == 0 && self.is_in_transition(&calls, held) {
                    continue;
                }
                // What a call has taken the place of is not who has called it.
                let by = calls.get(index + 1);
                let by = by.filter(|by| !call.is_tail && !by.calls_unseen && is_lua(by));
                match self.frame(call, by, held, memory) {
                    Ok(frame) => {
                        out.frames.push(frame);
                        if call.is_tail {
                            out.frames.push(self.tail_calls());
                        }
                    }
                    // Being set up, or left: the place of the closure holds a result already.
                    Err(_) if index == 0 => {}
                    Err(lost) => result = Err(lost),
                }
            }
            let place = match markers.get(first_marker + number) {
                Some(marker) => marker.index..marker.index + 1,
                // Of a coroutine that was resumed only what it executes at once has an activation.
                None => {
                    let end = markers.last().map_or(0, |marker| marker.index + 1);
                    end..end
                }
            };
            if out.frames.len() > from {
                out.close(from, place);
            }
        }
        captured_lost.map_or(result, Err)
    }

    /// The activations of `luaV_execute` that execute `calls`, innermost first.
    fn activations(
        &self,
        calls: &[RawCall],
        words: &[Vec<u64>],
        is_lua: impl Fn(&RawCall) -> bool,
    ) -> Vec<Activation> {
        let mut activations = Vec::<Activation>::new();
        let mut is_open = false;
        let has_flags = matches!(self.layout.calls, Calls::List { .. });
        for (index, call) in calls.iter().enumerate() {
            if !is_lua(call) {
                is_open = false;
                continue;
            }
            // Without flags: a call that has an activation of its own is one whose place is in the native frame.
            let is_own = !has_flags
                && is_open
                && words
                    .get(activations.len())
                    .is_some_and(|words| words.contains(&call.pc))
                && words.len() > activations.len();
            match activations.last_mut() {
                Some(activation) if is_open && !is_own => activation.push(index),
                _ => activations.push(vec![index]),
            }
            is_open = !(has_flags && call.is_fresh);
        }
        activations
    }

    /// Whether the innermost of `calls` is only being set up: the native frame, which holds `words`, executes the one
    /// that has made it.
    fn is_in_transition(&self, calls: &[RawCall], words: &[u64]) -> bool {
        let is_held = |call: &RawCall| words.contains(&call.info.0);
        match (self.layout.calls, calls) {
            (Calls::List { .. }, [innermost, outer, ..]) => !is_held(innermost) && is_held(outer),
            _ => false,
        }
    }

    /// What stands for the functions that a call has taken the place of.
    fn tail_calls(&self) -> InterpretedFrame {
        InterpretedFrame {
            function: Arc::clone(&self.tail_calls),
            line: 0,
            precision: LinePrecision::Function,
            kind: FunctionKind::Pseudo,
        }
    }

    /// The frame of `call`, which the call `by` has made by one of its instructions. `words` are what the native frame
    /// holds that executes it, if no other call is inside.
    fn frame(
        &mut self,
        call: &RawCall,
        by: Option<&RawCall>,
        words: &[u64],
        memory: &dyn MemoryReader,
    ) -> Result<InterpretedFrame, Lost> {
        let proto = self.protos.of_call(&self.layout, call, by, memory)?;
        let registers = words.iter().take(self.arch.callee_saved.len());
        let pc = current(call.pc, registers, |pc| proto.holds(pc));
        let line = proto.line(pc);
        let function = Arc::clone(&proto.function);
        Ok(InterpretedFrame {
            line: line.unwrap_or(function.first_line),
            precision: match line {
                Some(_) => LinePrecision::Exact,
                None => LinePrecision::Function,
            },
            kind: FunctionKind::Interpreted,
            function,
        })
    }
}

/// How far the innermost function has come: what its activation keeps in a register, if that is only one, else `saved`,
/// what was written down last.
fn current<'a>(
    saved: u64,
    registers: impl Iterator<Item = &'a u64>,
    is_pc: impl Fn(u64) -> bool,
) -> u64 {
    let mut found = registers.copied().filter(|word| is_pc(*word));
    let first = found.next();
    match (first, found.any(|other| Some(other) != first)) {
        (Some(pc), false) => pc,
        _ => saved,
    }
}

/// One that was captured: `part` says where what has a name lay in it.
#[cfg(test)]
pub(super) fn frozen(
    (minor, release): (u8, u8),
    part: impl Fn(&str) -> Option<Range<Avma>>,
) -> Option<Box<dyn Interpreter>> {
    let layout = Layout::of(layout::LuaVersion { minor, release })?;
    let execute = part("luaV_execute")?;
    Some(Box::new(PucLuaProcess::new(&Arch::X86_64, layout, execute)))
}

impl Interpreter for PucLuaProcess {
    fn capture(&mut self, thread: &ThreadContext, copy: &mut VolatileCopy<'_>) {
        self.captured.clear();
        self.capture_all(thread, copy);
    }

    fn begin(&mut self, _thread: &ThreadContext, _memory: &dyn MemoryReader) {
        self.markers.clear();
        self.states.begin();
    }

    fn visit(
        &mut self,
        frame: NativeFrame<'_>,
        _thread: &ThreadContext,
        _memory: &dyn MemoryReader,
    ) -> Option<Registers> {
        let pc = frame.registers.pc()?.0;
        let looked_up = Avma(pc.wrapping_sub(u64::from(frame.is_return_address)));
        if self.execute.contains(&looked_up) && self.markers.len() < MARKERS_MAX {
            let mut registers = [None; CALLEE_SAVED_MAX];
            let saved = frame.registers.arch().callee_saved.iter();
            for (into, register) in registers.iter_mut().zip(saved) {
                *into = frame.registers.get(*register);
            }
            self.markers.push(Marker {
                index: frame.index,
                registers,
            });
        }
        None
    }

    fn walk(
        &mut self,
        _thread: &ThreadContext,
        native: &Stack,
        memory: &dyn MemoryReader,
        out: &mut Segments,
    ) -> Walked {
        let markers = std::mem::take(&mut self.markers);
        let walked = self.walk_markers(&markers, native, memory, out);
        self.markers = markers;
        walked
    }
}

impl PucLuaProcess {
    fn walk_markers(
        &mut self,
        markers: &[Marker],
        native: &Stack,
        memory: &dyn MemoryReader,
        out: &mut Segments,
    ) -> Walked {
        if markers.is_empty() {
            return Walked::NotHere;
        }
        let mut words = vec![Vec::new(); markers.len()];
        let mut states = Vec::with_capacity(markers.len());
        for (marker, words) in markers.iter().zip(&mut words) {
            Self::words_of(marker, native, memory, words);
            states.push(self.state_of(words, memory));
        }
        let mut lost = None;
        let mut from = 0;
        // One state after the other: coroutines run inside those that have resumed them.
        while let Some(state) = states.get(from) {
            let same = states
                .iter()
                .skip(from)
                .take_while(|other| *other == state)
                .count();
            let to = from + same;
            let (markers, words) = (&markers[from..to], &words[from..to]);
            let put = match state {
                Some(state) => self.put(*state, markers, words, memory, out),
                None => Err(Lost::NotFound),
            };
            if let Err(reason) = put {
                lost = lost.or(Some((reason, markers.first().map(|marker| marker.index))));
            }
            from = to;
        }
        match lost {
            Some((reason, at)) => Walked::Lost { reason, at },
            None => Walked::Whole,
        }
    }
}
