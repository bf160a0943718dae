//! The walk of one thread through LuaJIT.

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::calibrate::Vm;
use super::capture::Capture;
use super::layout::{Layout, Layouts};
use super::processor::Processor;
use super::proto::Protos;
use super::thread_walk::ThreadWalk;
use super::trace::{Trace, Traces};
use crate::address::Avma;
use crate::interpreter::{
    Function, Interpreter, Language, Lost, NativeFrame, Segments, ThreadContext, VolatileCopy,
    Walked,
};
use crate::memory::MemoryReader;
use crate::registers::Registers;
use crate::stack::Stack;

/// Virtual machines that are known in one process. A server that makes one for each request has ever new ones.
const VMS_MAX: usize = 32;

/// How far up the stack a C frame is looked for while no virtual machine is known, in words.
const SEARCH_WORDS_MAX: u64 = 4096;

/// Names of builtins that are kept.
pub(super) const BUILTINS_MAX: usize = 4096;

/// Exit stubs lie near the traces they are for: an area of machine code is 32 or 64 KiB large (`sizemcode`).
const CODE_AREA_BYTES: u64 = 64 << 10;

/// A native frame that is the interpreter's or a trace's own.
#[derive(Debug)]
pub(super) struct Marker {
    /// Its position in the native stack.
    pub(super) native: usize,
    /// The position of its C frame among those of the capture; `None` where there is none.
    pub(super) cframe: Option<usize>,
    /// The stack pointer there.
    sp: u64,
    /// What is known of the register in which builtins keep their base.
    pub(super) builtin_base: Option<u64>,
    /// The same of the one in which the interpreter keeps its position.
    pub(super) position: Option<u64>,
    /// The trace it is in, and where.
    pub(super) trace: Option<(Trace, u64)>,
    pub(super) is_return_address: bool,
}

/// LuaJIT in one process.
#[derive(Debug)]
pub(super) struct LuaJitProcess {
    /// What its virtual machines may look like.
    layouts: Layouts,
    interpreter: Range<Avma>,
    /// The image that it is in.
    image: Range<Avma>,
    vms: Vec<Vm>,
    pub(super) traces: Vec<Traces>,
    /// The virtual machine that ran last.
    last: usize,
    pub(super) capture: Capture,
    markers: Vec<Marker>,
    /// The innermost native frames in a row that are in the image, but not in the interpreter.
    pub(super) own: Range<usize>,
    pub(super) protos: Protos,
    /// Functions without a place in any file, by name; and by where their objects lie, those that were seen called.
    builtins: FxHashMap<String, Arc<Function>>,
    pub(super) natives: FxHashMap<u64, Arc<Function>>,
}

impl LuaJitProcess {
    /// The interpreter's code lies at `interpreter`, in `image`, and its virtual machines are like one of `layouts`.
    pub(super) fn new(layouts: Layouts, interpreter: Range<Avma>, image: Range<Avma>) -> Self {
        Self {
            layouts,
            interpreter,
            image,
            vms: Vec::new(),
            traces: Vec::new(),
            last: 0,
            capture: Capture::default(),
            markers: Vec::new(),
            own: 0..0,
            protos: Protos::default(),
            builtins: FxHashMap::default(),
            natives: FxHashMap::default(),
        }
    }

    fn layout(&self) -> Option<&'static Layout> {
        Some(self.vms.get(self.capture.vm?)?.layout)
    }

    /// The innermost C frame at or above `sp`.
    fn cframe_above(&self, sp: u64) -> Option<usize> {
        self.capture
            .cframes
            .iter()
            .position(|cframe| cframe.at >= sp)
    }

    /// Notes a frame that is in an image, but not in the interpreter.
    fn note_own(&mut self, index: usize, at: Avma) {
        if !self.markers.is_empty() || !self.image.contains(&at) {
            return;
        }
        if self.own.is_empty() {
            self.own = index..index;
        }
        if self.own.end == index {
            self.own.end = index + 1;
        }
    }

    /// The trace that machine code without a file at `pc` belongs to.
    fn trace_at(&mut self, memory: &dyn MemoryReader, pc: u64) -> Option<Trace> {
        let vm = self.capture.vm?;
        let layout = self.vms.get(vm)?.layout;
        let likely = u32::try_from(self.capture.roots.vmstate).ok();
        let table = self.capture.roots.traces?;
        self.traces
            .get_mut(vm)?
            .find(memory, layout, table, likely, pc)
    }

    /// The trace that has called the interpreter's code that is being executed, and where: a routine for what is too long to
    /// be compiled into each trace. On the stack there is nothing of it.
    fn trace_that_calls(
        &mut self,
        registers: &Registers,
        memory: &dyn MemoryReader,
    ) -> Option<(Trace, u64)> {
        let is_on_trace = self.capture.roots.vmstate >= 0;
        let processor = self.layout().filter(|_| is_on_trace)?.processor;
        let returns_to = processor.code_address(registers.get(processor.link?)?);
        let call = returns_to.wrapping_sub(1);
        if self.image.contains(&Avma(call)) {
            return None;
        }
        let trace = self.trace_at(memory, call)?;
        Some((trace, call))
    }

    /// Whether `pc` is close to the trace that is being executed: a stub by which it is left.
    fn is_exit_stub(&mut self, memory: &dyn MemoryReader, pc: u64) -> bool {
        let area = || {
            let vm = self.capture.vm?;
            let layout = self.vms.get(vm)?.layout;
            let number = u32::try_from(self.capture.roots.vmstate).ok()?;
            let table = self.capture.roots.traces?;
            let trace = self
                .traces
                .get_mut(vm)?
                .read(memory, layout, table, number)?;
            Some(trace.code)
        };
        let mut area = area;
        area().is_some_and(|code| code.start.abs_diff(pc) < CODE_AREA_BYTES)
    }

    /// Takes in the virtual machine of a thread found on the stack of an operating system's thread.
    fn take_in(&mut self, memory: &dyn MemoryReader, thread: u64) -> bool {
        let Some(vm) = Vm::of_thread(memory, self.layouts, thread) else {
            return false;
        };
        if self.vms.iter().any(|known| known.global == vm.global) {
            return true;
        }
        let mut vm = vm;
        let _none_yet = vm.find_traces(memory);
        if self.vms.len() >= VMS_MAX {
            self.vms.remove(0);
            self.traces.remove(0);
        }
        self.vms.push(vm);
        self.traces.push(Traces::default());
        self.last = self.vms.len() - 1;
        true
    }

    /// Finds the virtual machine for the next sample: from the C frames at which the interpreter was met, or from what
    /// looks like one above the stack pointer.
    fn bootstrap(&mut self, thread: &ThreadContext, memory: &dyn MemoryReader) {
        let places: Vec<u64> = self.markers.iter().map(|marker| marker.sp).collect();
        if self.take_in_any(memory, &places) {
            return;
        }
        let Some(sp) = thread.registers.sp() else {
            return;
        };
        let near = (0..SEARCH_WORDS_MAX).map_while(|word| {
            let at = Avma(sp.0.checked_next_multiple_of(8)?.checked_add(word * 8)?);
            thread.stack.contains(&at).then_some(at.0)
        });
        let near = near.filter(|&at| self.looks_like_cframe(thread, memory, at));
        let near: Vec<u64> = near.collect();
        let _none_found = self.take_in_any(memory, &near);
    }

    /// Takes in the virtual machine of the first of `places` at which there is a C frame.
    fn take_in_any(&mut self, memory: &dyn MemoryReader, places: &[u64]) -> bool {
        let layouts = self.layouts;
        let mut threads = places
            .iter()
            .flat_map(|&at| threads_of_cframe(layouts, memory, at));
        threads.any(|lua| self.take_in(memory, lua))
    }

    /// Whether the thread is in another virtual machine as well, inside the one that was captured; takes that in for
    /// the next sample. Gives the native frame at which it was met.
    fn meet_inside(&mut self, memory: &dyn MemoryReader) -> Option<usize> {
        let is_unknown = |marker: &&Marker| {
            let cframe = marker
                .cframe
                .and_then(|cframe| self.capture.cframes.get(cframe));
            marker.trace.is_none() && cframe.is_none_or(|cframe| cframe.at != marker.sp)
        };
        let marker = self.markers.iter().find(is_unknown)?;
        let (native, at) = (marker.native, marker.sp);
        for lua in threads_of_cframe(self.layouts, memory, at) {
            let is_new = Vm::of_thread(memory, self.layouts, lua)
                .is_some_and(|vm| self.vms.iter().all(|known| known.global != vm.global));
            if is_new && self.take_in(memory, lua) {
                return Some(native);
            }
        }
        None
    }

    /// Whether a C frame may lie at `at`, by what it says of the one outside it.
    fn looks_like_cframe(
        &self,
        thread: &ThreadContext,
        memory: &dyn MemoryReader,
        at: u64,
    ) -> bool {
        let word = |offset: u64| memory.read_u64(Avma(at.checked_add(offset)?)).ok();
        let Some(frame) = self.layouts.first().map(|layout| &layout.processor.cframe) else {
            return false;
        };
        let (Some(lua), Some(previous)) = (word(frame.thread), word(frame.prev)) else {
            return false;
        };
        let previous = previous & !3;
        let is_thread = lua != 0
            && lua.is_multiple_of(8)
            && lua >> 47 == 0
            && !thread.stack.contains(&Avma(lua));
        is_thread && (previous == 0 || previous > at && thread.stack.contains(&Avma(previous)))
    }
}

impl Interpreter for LuaJitProcess {
    fn capture(&mut self, thread: &ThreadContext, copy: &mut VolatileCopy<'_>) {
        self.capture
            .take(&self.vms, self.last, &self.interpreter, thread, copy);
        if let Some(vm) = self.capture.vm {
            self.last = vm;
        }
    }

    fn begin(&mut self, _thread: &ThreadContext, _memory: &dyn MemoryReader) {
        self.markers.clear();
        self.own = 0..0;
    }

    fn visit(
        &mut self,
        frame: NativeFrame<'_>,
        _thread: &ThreadContext,
        memory: &dyn MemoryReader,
    ) -> Option<Registers> {
        let registers = frame.registers;
        let (pc, sp) = (registers.pc()?.0, registers.sp()?.0);
        let lookup = pc.wrapping_sub(u64::from(frame.is_return_address));
        let is_interpreter = self.interpreter.contains(&Avma(lookup));
        let mut trace = None;
        if is_interpreter {
            if !frame.is_return_address {
                trace = self.trace_that_calls(registers, memory);
            }
        } else {
            if frame.is_in_image {
                self.note_own(frame.index, Avma(lookup));
                return None;
            }
            // Other runtimes compile as well (pcre): only what is known to be ours is, or must be.
            trace = self.trace_at(memory, lookup).map(|trace| (trace, lookup));
            let roots = &self.capture.roots;
            let must_be = self.capture.is_cut || roots.traces.is_none() && roots.vmstate >= 0;
            if trace.is_none() && !must_be && !self.is_exit_stub(memory, lookup) {
                return None;
            }
        }
        let processor = self.layouts.first()?.processor;
        let cframe = self.cframe_above(sp);
        self.markers.push(Marker {
            native: frame.index,
            cframe,
            sp,
            builtin_base: registers.get(processor.builtin_base),
            position: registers.get(processor.position),
            trace,
            is_return_address: frame.is_return_address,
        });
        let at = self.capture.cframes.get(cframe?)?.at;
        // What a sleeper's registers are is not known, and so not that by which the tables say where its frame is.
        let (cfa_register, _) = processor.cfa;
        if is_interpreter && at == sp && registers.get(cfa_register).is_some() {
            return None;
        }
        caller_of(self.layout()?.processor, memory, at)
    }

    fn walk(
        &mut self,
        thread: &ThreadContext,
        native: &Stack,
        memory: &dyn MemoryReader,
        out: &mut Segments,
    ) -> Walked {
        let Some(layout) = self.layout() else {
            let is_here = !self.markers.is_empty();
            let is_in_unknown_code = matches!(native.frames.last(), Some(frame) if !native.end.is_complete() && frame.address.0 != 0);
            let is_cut = self.capture.is_cut;
            if !is_cut && (is_here || is_in_unknown_code && self.vms.is_empty()) {
                self.bootstrap(thread, memory);
            }
            return match self.markers.first() {
                Some(marker) => Walked::Lost {
                    reason: if is_cut {
                        Lost::TooDeep
                    } else {
                        Lost::NotFound
                    },
                    at: Some(marker.native),
                },
                None => Walked::NotHere,
            };
        };
        if let Some(vm) = self.capture.vm.and_then(|vm| self.vms.get_mut(vm)) {
            // For the next sample.
            let _none_yet = vm.find_traces(memory);
        }
        if let Some(at) = self.meet_inside(memory) {
            return Walked::Lost {
                reason: Lost::NotFound,
                at: Some(at),
            };
        }
        let markers = std::mem::take(&mut self.markers);
        let cframes = std::mem::take(&mut self.capture.cframes);
        let mut walk = ThreadWalk {
            process: self,
            layout,
            thread,
            memory,
            markers: &markers,
            native: native.frames.len(),
            lost: None,
        };
        walk.run(&cframes, out);
        let lost = walk.lost;
        let unmatched = markers.iter().find(|marker| marker.cframe.is_none());
        let walked = match (lost, unmatched) {
            (Some((reason, at)), _) => Walked::Lost { reason, at },
            (None, Some(marker)) => Walked::Lost {
                reason: Lost::Unmatched,
                at: Some(marker.native),
            },
            (None, None) => Walked::Whole,
        };
        self.markers = markers;
        self.capture.cframes = cframes;
        walked
    }
}

/// What the C frame at `at` would name as its Lua thread, by one or another of `layouts`.
fn threads_of_cframe(layouts: Layouts, memory: &dyn MemoryReader, at: u64) -> Vec<u64> {
    let thread = |layout: &&Layout| {
        let at = at.checked_add(layout.processor.cframe.thread)?;
        layout.reference(memory, at)
    };
    let mut threads: Vec<u64> = layouts.iter().filter_map(thread).collect();
    threads.dedup();
    threads
}

/// The registers of whoever has entered the interpreter at the C frame at `at`.
fn caller_of(processor: &Processor, memory: &dyn MemoryReader, at: u64) -> Option<Registers> {
    let frame = &processor.cframe;
    let word = |offset: u64| memory.read_u64(Avma(at.checked_add(offset)?)).ok();
    let mut caller = Registers::at(
        processor.arch,
        Avma(processor.code_address(word(frame.return_address)?)),
        Avma(at.checked_add(frame.bytes)?),
    );
    for &(register, offset) in frame.saved {
        if let Some(value) = word(offset) {
            caller.set(register, value);
        }
    }
    Some(caller)
}

impl LuaJitProcess {
    /// A function without a place in any file.
    pub(super) fn builtin(&mut self, name: &str) -> Arc<Function> {
        if let Some(known) = self.builtins.get(name) {
            return Arc::clone(known);
        }
        if self.builtins.len() >= BUILTINS_MAX {
            self.builtins.clear();
        }
        let function = Arc::new(Function {
            language: Language::Lua,
            name: name.to_owned(),
            file: String::new(),
            first_line: 0,
        });
        self.builtins.insert(name.to_owned(), Arc::clone(&function));
        function
    }
}
