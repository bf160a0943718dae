//! What a function is called where it is called: functions have no names in Lua, the instructions that call them do
//! (`ldebug.c`, funcnamefromcode).

use super::layout::{INSTRUCTION_BYTES, Layout};
use super::opcodes::{Instruction, Opcodes};
use super::proto::string;
use crate::address::Avma;
use crate::memory::MemoryReader;

/// How far a value is followed back through the tables and variables that it comes from.
const STEPS_MAX: usize = 8;
/// Instructions before the call that are looked at for one name.
const INSTRUCTIONS_MAX: u32 = 1 << 12;
/// Local variables of one function: the language allows 200 at a time.
const VARIABLES_MAX: u32 = 1 << 12;
/// The variable in which a function finds global ones, from 5.2 on.
const ENVIRONMENT: &str = "_ENV";
/// `sizeof(LocVar)` and `sizeof(TValue)`.
const VARIABLE_BYTES: u64 = 16;
const VALUE_BYTES: u64 = 16;

/// The name of what the instruction at `position` of the function with the prototype at `proto` calls: `process`,
/// `string.format`, `obj:method` as `method`, `__index`.
pub(super) fn of_call(
    layout: &Layout,
    proto: Avma,
    position: u32,
    memory: &dyn MemoryReader,
) -> Option<String> {
    let caller = Caller::read(layout, proto, position, memory)?;
    let opcodes = caller.opcodes;
    let instruction = caller.instruction(position)?;
    let opcode = opcodes.opcode(instruction);
    if opcode == opcodes.call || opcode == opcodes.tail_call {
        return caller.of_register(position, opcodes.a(instruction), STEPS_MAX);
    }
    if opcode == opcodes.for_call {
        return Some("(for iterator)".to_owned());
    }
    opcodes.metamethod(instruction).map(str::to_owned)
}

/// A function, and as much of its code as is looked at.
struct Caller<'a> {
    memory: &'a dyn MemoryReader,
    layout: &'a Layout,
    opcodes: &'static Opcodes,
    proto: Avma,
    /// The position of the first of `code`.
    first: u32,
    code: Vec<Instruction>,
}

impl<'a> Caller<'a> {
    /// With its code up to and with the instruction at `position`.
    fn read(
        layout: &'a Layout,
        proto: Avma,
        position: u32,
        memory: &'a dyn MemoryReader,
    ) -> Option<Self> {
        let first = position.saturating_sub(INSTRUCTIONS_MAX);
        let code = memory
            .read_u64(proto.checked_add(u64::from(layout.proto.code))?)
            .ok()?;
        let start = Avma(code).checked_add(u64::from(first) * INSTRUCTION_BYTES)?;
        let mut bytes = vec![0; usize::try_from(position - first + 1).ok()? * 4];
        memory.read_exact(start, &mut bytes).ok()?;
        let code = bytes.as_chunks().0.iter();
        Some(Self {
            memory,
            layout,
            opcodes: layout.opcodes,
            proto,
            first,
            code: code.map(|word| u32::from_le_bytes(*word)).collect(),
        })
    }

    fn instruction(&self, position: u32) -> Option<Instruction> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.code.get(index).copied()
    }

    /// The name of what is in `register` before the instruction at `position`.
    fn of_register(&self, position: u32, register: u32, steps: usize) -> Option<String> {
        let steps = steps.checked_sub(1)?;
        if let Some(name) = self.local(position, register) {
            return Some(name);
        }
        let position = self.last_written(position, register)?;
        let instruction = self.instruction(position)?;
        let ops = self.opcodes;
        let opcode = ops.opcode(instruction);
        let (b, c) = (ops.b(instruction), ops.c(instruction));
        if opcode == ops.copy {
            // What was computed further up is a temporary value without a name.
            return (b < ops.a(instruction))
                .then(|| self.of_register(position, b, steps))
                .flatten();
        }
        if opcode == ops.get_upvalue {
            return self.upvalue(b);
        }
        if Some(opcode) == ops.get_global {
            return self.constant(ops.bx(instruction));
        }
        if opcode == ops.method {
            return self.constant_or_register(position, instruction);
        }
        let (table, field) = if Some(opcode) == ops.get_of_upvalue {
            let field = self.key_of_upvalue(position, instruction)?;
            (self.upvalue(b), field)
        } else if opcode == ops.get {
            let field = match ops.constant_in(c) {
                Some(constant) => self.constant(constant)?,
                None => self.constant_of(position, c)?,
            };
            (self.of_register(position, b, steps), field)
        } else if Some(opcode) == ops.get_field {
            (self.of_register(position, b, steps), self.constant(c)?)
        } else {
            return None;
        };
        Some(match table {
            Some(table) if table != ENVIRONMENT => format!("{table}.{field}"),
            _ => field,
        })
    }

    /// The instruction before `position` that has put into `register` what is in it; `None` if that is not always the same
    /// one.
    fn last_written(&self, position: u32, register: u32) -> Option<u32> {
        let ops = self.opcodes;
        let mut written = None;
        // What stands before this is jumped over at times.
        let mut jumped_to = 0;
        for (at, &instruction) in (self.first..position).zip(&self.code) {
            if let Some(target) = ops.jump_target(instruction, at)
                && target <= position
            {
                jumped_to = jumped_to.max(target);
            }
            if ops.writes(instruction, register) {
                written = (at >= jumped_to).then_some(at);
            }
        }
        written
    }

    /// The key of a method: a constant, or in a register.
    fn constant_or_register(&self, position: u32, instruction: Instruction) -> Option<String> {
        let c = self.opcodes.c(instruction);
        match self.opcodes.constant_of_method(instruction) {
            Some(constant) => self.constant(constant),
            None => self.constant_of(position, c),
        }
    }

    /// The key with which a table in a variable of a function around this one is read.
    fn key_of_upvalue(&self, position: u32, instruction: Instruction) -> Option<String> {
        let c = self.opcodes.c(instruction);
        match self.opcodes.constant_in(c) {
            Some(constant) => self.constant(constant),
            None if self.opcodes.has_field_keys() => self.constant(c),
            None => self.constant_of(position, c),
        }
    }

    /// The constant that was loaded into `register`.
    fn constant_of(&self, position: u32, register: u32) -> Option<String> {
        let written = self.instruction(self.last_written(position, register)?)?;
        (self.opcodes.opcode(written) == self.opcodes.load_constant)
            .then(|| self.constant(self.opcodes.bx(written)))?
    }

    fn field(&self, offset: u32) -> Option<Avma> {
        let at = self.proto.checked_add(u64::from(offset))?;
        self.memory.read_u64(at).ok().map(Avma)
    }

    fn count(&self, offset: u32) -> Option<u32> {
        let at = self.proto.checked_add(u64::from(offset))?;
        self.memory.read_u32(at).ok()
    }

    /// Constant number `index`, if it is a string that may be a name.
    fn constant(&self, index: u32) -> Option<String> {
        let names = &self.layout.names;
        if index >= self.count(names.constant_count)? {
            return None;
        }
        let value = self
            .field(names.constants)?
            .checked_add(u64::from(index) * VALUE_BYTES)?;
        self.string_at(value)
    }

    fn string_at(&self, at: Avma) -> Option<String> {
        let text = Avma(self.memory.read_u64(at).ok()?);
        string(self.layout, text, self.memory).filter(|name| !name.is_empty())
    }

    /// The name of variable number `index` of the functions around this one.
    fn upvalue(&self, index: u32) -> Option<String> {
        let names = &self.layout.names;
        if index >= self.count(names.upvalue_count)? {
            return None;
        }
        let bytes = u64::from(index) * u64::from(names.upvalue_bytes);
        self.string_at(self.field(names.upvalues)?.checked_add(bytes)?)
    }

    /// The name of the local variable in `register` at a position (`lfunc.c`, luaF_getlocalname). They are in the order in
    /// which they begin: the position at which one does, and the one at which it ends.
    fn local(&self, position: u32, register: u32) -> Option<String> {
        let names = &self.layout.names;
        let count = self.count(names.variable_count)?.min(VARIABLES_MAX);
        let variables = self.field(names.variables)?;
        let mut bytes = vec![0; usize::try_from(u64::from(count) * VARIABLE_BYTES).ok()?];
        self.memory.read_exact(variables, &mut bytes).ok()?;
        let mut further = register;
        for variable in bytes.as_chunks::<16>().0 {
            let [name, range] = variable.as_chunks::<8>().0 else {
                return None;
            };
            let [start, end] = range.as_chunks::<4>().0 else {
                return None;
            };
            if u32::from_le_bytes(*start) > position {
                return None;
            }
            if position < u32::from_le_bytes(*end) {
                match further.checked_sub(1) {
                    Some(next) => further = next,
                    None => {
                        let name = Avma(u64::from_le_bytes(*name));
                        let name = string(self.layout, name, self.memory)?;
                        // Those of the compiler's own are in brackets.
                        return Some(name).filter(|name| !name.starts_with('('));
                    }
                }
            }
        }
        None
    }
}
