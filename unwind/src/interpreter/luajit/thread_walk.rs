//! The frames of one thread, put together from its Lua threads' stacks, the trace it is on, and the C frames between.

use std::ops::Range;
use std::sync::Arc;

use super::capture::{CFrame, STATE_INTERPRETER};
use super::layout::Layout;
use super::names;
use super::processor::FETCH_BYTES_MAX;
use super::proto::{Callee, callee};
use super::stack::{Broken, Link, LuaThread, Pc, StackFrame, StackWalk, distance_to_caller};
use super::trace::Inlined;
use super::walk::{BUILTINS_MAX, LuaJitProcess, Marker};
use crate::address::Avma;
use crate::interpreter::{
    FunctionKind, InterpretedFrame, LinePrecision, Lost, Segments, ThreadContext,
};
use crate::memory::MemoryReader;

/// What a virtual machine does, as minus one less the number in `vmstate` (lj_obj.h, LJ_VMST_*).
const STATE_GC: i32 = !2;
const STATE_EXIT: i32 = !3;
const STATE_RECORD: i32 = !4;
const STATE_OPTIMIZE: i32 = !5;
const STATE_ASSEMBLE: i32 = !6;

/// One walk under way.
pub(super) struct ThreadWalk<'a> {
    pub(super) process: &'a mut LuaJitProcess,
    pub(super) layout: &'static Layout,
    pub(super) thread: &'a ThreadContext,
    pub(super) memory: &'a dyn MemoryReader,
    pub(super) markers: &'a [Marker],
    pub(super) native: usize,
    pub(super) lost: Option<(Lost, Option<usize>)>,
}

/// Where the innermost frame of a Lua thread is, and how that is known.
struct Start {
    base: u64,
    /// The innermost frames, where they are not on the stack; then the position in the first frame that is.
    inlined: Vec<Inlined>,
    /// Where that goes on in its bytecode.
    pc: Option<u64>,
    is_after_call: bool,
    precision: LinePrecision,
    kind: FunctionKind,
    /// The link of the call that is just being made, or returned from.
    called_before: Option<u64>,
    /// That call is over: only its callers are to be shown.
    is_over: bool,
}

/// A frame to be shown, before its function is named.
struct Found {
    function: u64,
    pc: Option<u64>,
    is_after_call: bool,
    precision: LinePrecision,
    kind: FunctionKind,
}

impl ThreadWalk<'_> {
    fn lose(&mut self, reason: Lost, at: Option<usize>) {
        self.lost.get_or_insert((reason, at));
    }

    /// All frames of the thread whose C frames are `cframes`.
    pub(super) fn run(&mut self, cframes: &[CFrame], out: &mut Segments) {
        let mut first = 0;
        while let Some(cframe) = cframes.get(first) {
            let same = cframes
                .iter()
                .skip(first)
                .take_while(|other| other.thread == cframe.thread)
                .count();
            let of_thread = cframes.get(first..first + same).unwrap_or_default();
            self.walk_thread(first, of_thread, out);
            first += same;
        }
    }

    /// The native frames that the C frame at position `cframe` stands for.
    fn native_of(&self, cframe: usize) -> Range<usize> {
        let of_cframe = self
            .markers
            .iter()
            .filter(|marker| marker.cframe == Some(cframe))
            .map(|marker| marker.native);
        match (of_cframe.clone().min(), of_cframe.max()) {
            (Some(first), Some(last)) => first..last + 1,
            // Not met by the native walk: inside the next one that was, or where that ended.
            _ => {
                let further = self
                    .markers
                    .iter()
                    .find(|marker| marker.cframe > Some(cframe));
                let at = further.map_or(self.native, |marker| marker.native);
                at..at
            }
        }
    }

    /// All frames of one Lua thread, whose C frames are `cframes`, the first of them at position `first`.
    fn walk_thread(&mut self, first: usize, cframes: &[CFrame], out: &mut Segments) {
        let Some(innermost) = cframes.first() else {
            return;
        };
        let at = Some(self.native_of(first).start);
        if !self.process.capture.copied.contains(&innermost.thread) {
            // What its stack holds by now is not what it held.
            return self.lose(Lost::TooDeep, at);
        }
        let Some(lua) = LuaThread::read(self.memory, self.layout, innermost.thread) else {
            return self.lose(Lost::Unreadable, at);
        };
        let mut from = out.frames.len();
        if first == 0 && lua.at == self.process.capture.roots.current {
            out.frames.extend(self.pseudo_frame());
            // What C code has called of the virtual machine is inside that.
            let own = self.process.own.clone();
            let marker = self.markers.first().map_or(0, |marker| marker.native);
            if out.frames.len() > from && !own.is_empty() && own.end < marker {
                out.close(from, own.end..own.end);
                from = out.frames.len();
            }
        }
        let start = self.start(first, lua, innermost);
        let mut found: Vec<(Found, usize)> = Vec::new();
        let inlined = start.inlined.iter().filter_map(|inlined| {
            let found = Found {
                function: inlined.function?,
                pc: Some(inlined.pc),
                is_after_call: inlined.is_after_call,
                precision: start.precision,
                kind: FunctionKind::Inlined,
            };
            Some((found, 0))
        });
        found.extend(inlined);
        let walk = StackWalk::new(
            self.memory,
            self.layout,
            lua,
            cframes,
            start.base,
            Pc::Innermost,
        );
        let mut walk = walk.called_before(start.called_before, start.is_over);
        let broken = loop {
            match walk.next() {
                Ok(Some((frame, cframe))) => {
                    found.push((found_on_stack(&walk, frame, cframe, &start), cframe));
                }
                Ok(None) => break None,
                Err(broken) => break Some(broken),
            }
        };
        if let Some(broken) = broken {
            let reason = match broken {
                Broken::Unreadable => Lost::Unreadable,
                Broken::Inconsistent => Lost::Inconsistent,
                Broken::TooDeep => Lost::TooDeep,
            };
            self.lose(reason, at);
        }
        let mut cframe = 0;
        for (position, (frame, of_cframe)) in found.iter().enumerate() {
            while cframe < *of_cframe && cframe < cframes.len() {
                let native = self.native_of(first + cframe);
                out.close(from, native);
                from = out.frames.len();
                cframe += 1;
            }
            let callers = found.get(position + 1..).unwrap_or_default();
            match self.name(frame, callers) {
                Ok(frame) => out.frames.extend(frame),
                Err(reason) => self.lose(reason, at),
            }
        }
        while cframe < cframes.len() {
            let native = self.native_of(first + cframe);
            out.close(from, native);
            from = out.frames.len();
            cframe += 1;
        }
    }

    /// What the virtual machine is busy with other than Lua code.
    fn pseudo_frame(&mut self) -> Option<InterpretedFrame> {
        let name = match self.process.capture.roots.vmstate {
            STATE_GC => "[gc]",
            STATE_EXIT => "[jit: exit]",
            STATE_RECORD => "[jit: record]",
            STATE_OPTIMIZE => "[jit: optimize]",
            STATE_ASSEMBLE => "[jit: assemble]",
            _ => return None,
        };
        Some(InterpretedFrame {
            function: self.process.builtin(name),
            line: 0,
            precision: LinePrecision::Function,
            kind: FunctionKind::Pseudo,
        })
    }

    /// Where the innermost frame of `lua` is.
    fn start(&mut self, first: usize, lua: LuaThread, cframe: &CFrame) -> Start {
        let processor = self.layout.processor;
        let saved_pc = || match self.layout.gc64 {
            true => self
                .memory
                .read_u64(Avma(cframe.at.wrapping_add(processor.cframe.pc)))
                .ok(),
            false => self
                .memory
                .read_u32(Avma(cframe.at.wrapping_add(processor.cframe.pc)))
                .ok()
                .map(u64::from),
        };
        let on_stack = Start {
            base: lua.base,
            inlined: Vec::new(),
            pc: saved_pc(),
            is_after_call: true,
            precision: LinePrecision::Exact,
            kind: FunctionKind::Interpreted,
            called_before: None,
            is_over: false,
        };
        if first != 0 || lua.at != self.process.capture.roots.current {
            return on_stack;
        }
        let marker = self
            .markers
            .iter()
            .find(|marker| marker.cframe == Some(first));
        let state = self.process.capture.roots.vmstate;
        let is_trace = marker.is_some_and(|marker| marker.trace.is_some());
        // On the way into one the interpreter says so a little too early, on aarch64, and on the way out too late.
        let is_entered = lua.can_be_base(self.process.capture.roots.jit_base);
        if state >= 0 && is_entered || is_trace {
            return self.start_on_trace(marker, lua, on_stack);
        }
        let is_interpreter = state == STATE_INTERPRETER || state >= 0;
        let is_base = |base: &u64| self.is_base(lua, *base);
        let registers = &self.thread.registers;
        match marker {
            // In the interpreter itself: it has base and position in registers.
            Some(marker) if marker.native == 0 && !marker.is_return_address && is_interpreter => {
                match registers.get(processor.base).filter(is_base) {
                    Some(base) => {
                        let pc = registers.get(processor.position);
                        Start {
                            base,
                            pc,
                            is_after_call: !self.is_before_fetch(),
                            called_before: pc.filter(|&pc| self.is_its_link(lua, base, pc)),
                            ..on_stack
                        }
                    }
                    // Its result lies where the function was.
                    None => match self.link_of_returning(lua) {
                        Some((base, link)) => Start {
                            base,
                            called_before: Some(link),
                            is_over: true,
                            ..on_stack
                        },
                        // On the way back from C code that a builtin has called.
                        None => self.start_in_builtin(marker, lua, on_stack),
                    },
                }
            }
            // Builtins written in assembly keep their own base in a register while they call C code.
            Some(marker) if is_interpreter => self.start_in_builtin(marker, lua, on_stack),
            _ => on_stack,
        }
    }

    /// Whether `pc` is not a position in the function whose slots begin at `base`, but its link: a call is just being
    /// made, or is being returned from. The link may not have been written yet.
    fn is_its_link(&mut self, lua: LuaThread, base: u64, pc: u64) -> bool {
        match (Link { raw: pc }).is_distance() {
            // As pcall has it; C code that calls Lua has such a number there before it has a new base.
            true => !self.has_caller(lua, base),
            false => self.is_of_caller(base, pc),
        }
    }

    /// Whether `pc`, the position that is executed, is of the caller of the function whose slots begin at `base`: a call is
    /// just being made, and its link may not have been written, or is being returned from.
    fn is_of_caller(&mut self, base: u64, pc: u64) -> bool {
        let (memory, layout) = (self.memory, self.layout);
        let at = base.wrapping_sub(8);
        let function = super::stack::function(memory, layout, at);
        let called = function.and_then(|function| callee(memory, layout, function));
        let is_own = match called {
            Some(Callee::Lua { bytecode }) => {
                let proto = self.process.protos.get(memory, layout, bytecode);
                let position = pc.checked_sub(4).zip(proto);
                position.is_some_and(|(pc, proto)| proto.position(pc).is_some())
            }
            Some(Callee::Native { .. }) => false,
            None => return false,
        };
        let instruction = super::stack::instruction_before(memory, pc);
        !is_own && instruction.is_some_and(names::is_call)
    }

    /// The base of the function that is just returning, and its link: both are in registers still, while its slots
    /// may have been written over.
    fn link_of_returning(&self, lua: LuaThread) -> Option<(u64, u64)> {
        let (registers, processor) = (&self.thread.registers, self.layout.processor);
        let (base, link) = (
            registers.get(processor.base)?,
            registers.get(processor.position)?,
        );
        let is_call = |pc| {
            super::stack::instruction_before(self.memory, pc).filter(|&call| names::is_call(call))
        };
        let is_link = match (Link { raw: link }).is_distance() {
            true => true,
            false => {
                let caller = base.checked_sub(distance_to_caller(self.layout, is_call(link)?))?;
                self.is_base(lua, caller)
            }
        };
        (is_link && lua.can_be_base(base)).then_some((base, link))
    }

    /// Whether `pc` is a position in the function whose slots begin at `base`.
    fn is_in_function(&mut self, base: u64, pc: u64) -> bool {
        let (memory, layout) = (self.memory, self.layout);
        let function = super::stack::function(memory, layout, base.wrapping_sub(8));
        match function.and_then(|function| callee(memory, layout, function)) {
            Some(Callee::Lua { bytecode }) => {
                let proto = self.process.protos.get(memory, layout, bytecode);
                // Behind its last instruction it can be no more than returned to.
                proto.is_some_and(|proto| {
                    proto.position(pc.wrapping_sub(4)).is_some() || proto.position(pc).is_some()
                })
            }
            _ => false,
        }
    }

    /// Whether the thread stands where the next instruction is about to be fetched: a jump has been made already, so that
    /// it is the one to be fetched that counts, and not the one before it.
    fn is_before_fetch(&self) -> bool {
        let processor = self.layout.processor;
        let Some(pc) = self.thread.registers.pc() else {
            return false;
        };
        let mut code = [0; FETCH_BYTES_MAX];
        let code = code.get_mut(..processor.fetch_bytes).unwrap_or_default();
        let read = self.memory.read(pc, code).unwrap_or(0);
        let code = code.get(..read).unwrap_or_default();
        code.windows(processor.past_fetched.len())
            .any(|at| at == processor.past_fetched)
    }

    /// Whether the slots of a function begin at `base`.
    fn is_base(&self, lua: LuaThread, base: u64) -> bool {
        let at = base.wrapping_sub(8);
        lua.can_be_base(base)
            && super::stack::function(self.memory, self.layout, at)
                .is_some_and(|function| callee(self.memory, self.layout, function).is_some())
    }

    /// Where C code was called that needs no saved state: by builtins, or by instructions (the length of a table). They
    /// keep their base in a register meanwhile, and what the Lua thread says of it is of an earlier call.
    fn start_in_builtin(&mut self, marker: &Marker, lua: LuaThread, on_stack: Start) -> Start {
        let own = marker
            .builtin_base
            .filter(|&base| self.is_base(lua, base) && self.has_caller(lua, base));
        let Some(base) = own else {
            return on_stack;
        };
        match marker.position.filter(|&pc| !self.is_of_caller(base, pc)) {
            Some(pc) => Start {
                base,
                pc: Some(pc),
                ..on_stack
            },
            None => Start { base, ..on_stack },
        }
    }

    /// Whether the frame whose slots begin at `base` has been called by another frame of `lua`.
    fn has_caller(&self, lua: LuaThread, base: u64) -> bool {
        let (memory, layout) = (self.memory, self.layout);
        let Some(link) = super::stack::link(memory, layout, base.wrapping_sub(8)) else {
            return false;
        };
        let distance = match link.is_lua() {
            true => match super::stack::instruction_before(memory, link.raw) {
                Some(call) if names::is_call(call) => distance_to_caller(layout, call),
                _ => return false,
            },
            false => link.distance(),
        };
        let caller = base.wrapping_sub(distance);
        distance > 0 && (self.is_base(lua, caller) || link.is_c() && caller > lua.stack)
    }

    fn start_on_trace(
        &mut self,
        marker: Option<&Marker>,
        lua: LuaThread,
        on_stack: Start,
    ) -> Start {
        let (vm, roots) = (self.process.capture.vm, self.process.capture.roots);
        // Nothing unless a trace is executed; at its first instructions the state does not say so yet.
        let base = match lua.can_be_base(roots.jit_base) {
            true => roots.jit_base,
            false => lua.base,
        };
        let trace = marker.and_then(|marker| marker.trace.as_ref());
        let frames = trace.and_then(|(trace, pc)| trace.frames_at(self.memory, self.layout, *pc));
        // Where one trace goes on in another, the base is that of the other for some instructions.
        let frames = frames.filter(|frames| {
            let outermost = frames.last();
            outermost.is_some_and(|frame| frame.pc == 0 || self.is_in_function(base, frame.pc))
        });
        if let Some(mut inlined) = frames
            && let Some(outermost) = inlined.pop()
        {
            return Start {
                base,
                pc: Some(outermost.pc),
                is_after_call: outermost.is_after_call,
                inlined,
                precision: LinePrecision::Block,
                kind: FunctionKind::Compiled,
                called_before: None,
                is_over: false,
            };
        }
        // On the way into a trace or out of it: where it begins is all that is known.
        let number = u32::try_from(roots.vmstate).ok();
        let table = roots.traces;
        let start_pc = trace.map(|(trace, _)| trace.start_pc).or_else(|| {
            let traces = self.process.traces.get_mut(vm?)?;
            let trace = traces.read(self.memory, self.layout, table?, number?)?;
            Some(trace.start_pc)
        });
        Start {
            base,
            pc: start_pc,
            is_after_call: false,
            precision: LinePrecision::Function,
            kind: FunctionKind::Compiled,
            ..on_stack
        }
    }

    /// The frame as it is shown, called by `callers`; none for C code without a name, which is among the native frames.
    ///
    /// # Errors
    /// When its function is no longer what it was.
    fn name(
        &mut self,
        found: &Found,
        callers: &[(Found, usize)],
    ) -> Result<Option<InterpretedFrame>, Lost> {
        let called = callee(self.memory, self.layout, found.function).ok_or(Lost::Changed)?;
        match called {
            Callee::Native { is_fast } => Ok(self.name_native(found.function, is_fast, callers)),
            Callee::Lua { bytecode } => self.name_lua(found, bytecode, callers).map(Some),
        }
    }

    fn name_native(
        &mut self,
        function: u64,
        is_fast: bool,
        callers: &[(Found, usize)],
    ) -> Option<InterpretedFrame> {
        let known = self.process.natives.get(&function).map(Arc::clone);
        let function = match known {
            Some(known) => known,
            None => match self.name_by_callers(callers) {
                Some(name) => {
                    let named = self.process.builtin(&name);
                    if self.process.natives.len() >= BUILTINS_MAX {
                        self.process.natives.clear();
                    }
                    self.process.natives.insert(function, Arc::clone(&named));
                    named
                }
                None if is_fast => self.process.builtin("[builtin]"),
                None => return None,
            },
        };
        Some(InterpretedFrame {
            function,
            line: 0,
            precision: LinePrecision::Function,
            kind: FunctionKind::Builtin,
        })
    }

    fn name_lua(
        &mut self,
        found: &Found,
        bytecode: u64,
        callers: &[(Found, usize)],
    ) -> Result<InterpretedFrame, Lost> {
        let (memory, layout) = (self.memory, self.layout);
        let proto = self.process.protos.get(memory, layout, bytecode);
        let is_named = proto.ok_or(Lost::Changed)?.is_named;
        let name = match is_named {
            true => None,
            false => self.name_by_callers(callers),
        };
        let proto = self.process.protos.get(memory, layout, bytecode);
        let proto = proto.ok_or(Lost::Changed)?;
        if let Some(name) = name {
            proto.give_name(name);
        }
        let position = found.pc.and_then(|pc| {
            let back = if found.is_after_call { 4 } else { 0 };
            proto.position(pc.checked_sub(back)?)
        });
        let line = position.and_then(|position| proto.line(position));
        let is_known = line.is_some() && found.precision != LinePrecision::Function;
        Ok(InterpretedFrame {
            function: Arc::clone(&proto.function),
            line: line.unwrap_or(proto.function.first_line),
            precision: match is_known {
                true => found.precision,
                false => LinePrecision::Function,
            },
            kind: found.kind,
        })
    }

    /// What the innermost of `callers` calls the function that it has called. A function that is called protected has the
    /// name of the argument that it is.
    fn name_by_callers(&mut self, callers: &[(Found, usize)]) -> Option<String> {
        let (caller, _) = callers.first()?;
        match callee(self.memory, self.layout, caller.function)? {
            Callee::Lua { bytecode } => self.name_by_call(caller, bytecode, names::Which::Called),
            Callee::Native { .. } => {
                let (outer, _) = callers.get(1)?;
                let Callee::Lua { bytecode } = callee(self.memory, self.layout, outer.function)?
                else {
                    return None;
                };
                let called = self.name_by_call(outer, bytecode, names::Which::Called)?;
                let is_protected = matches!(called.as_str(), "pcall" | "xpcall");
                is_protected
                    .then(|| self.name_by_call(outer, bytecode, names::Which::FirstArgument))?
            }
        }
    }

    fn name_by_call(
        &mut self,
        caller: &Found,
        bytecode: u64,
        which: names::Which,
    ) -> Option<String> {
        let pc = caller.pc.filter(|_| caller.is_after_call)?;
        let proto = self
            .process
            .protos
            .get(self.memory, self.layout, bytecode)?;
        let position = proto.position(pc.checked_sub(4)?)?;
        names::of_call(self.memory, proto, position, which)
    }
}

/// A frame on the stack, with what is known of its position.
fn found_on_stack(walk: &StackWalk<'_>, frame: StackFrame, cframe: usize, start: &Start) -> Found {
    let (pc, is_after_call, precision, kind) = match frame.pc {
        Pc::Innermost => (start.pc, start.is_after_call, start.precision, start.kind),
        Pc::Known(pc) => (
            Some(pc),
            true,
            LinePrecision::Exact,
            FunctionKind::Interpreted,
        ),
        Pc::InCFrame => (
            walk.pc_in(cframe),
            true,
            LinePrecision::Exact,
            FunctionKind::Interpreted,
        ),
    };
    Found {
        function: frame.function,
        pc,
        is_after_call,
        precision,
        kind,
    }
}
