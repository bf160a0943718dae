//! What a function is called where it is called: functions have no names in Lua, their callers do (lj_debug_slotname).

use super::proto::{Proto, string};
use crate::memory::MemoryReader;

/// Opcodes of LuaJIT 2.1 (lj_bc.h).
pub(super) const MOV: u8 = 18;
const KNIL: u8 = 44;
pub(super) const UGET: u8 = 45;
pub(super) const GGET: u8 = 54;
pub(super) const TGETS: u8 = 57;
pub(super) const CALLM: u8 = 65;
pub(super) const CALL: u8 = 66;
pub(super) const CALLT: u8 = 68;
pub(super) const ITERC: u8 = 69;
pub(super) const ITERN: u8 = 70;

/// How far a value is followed back through the tables and variables that it comes from.
const STEPS_MAX: usize = 8;

/// Instructions that are looked at for one name.
const INSTRUCTIONS_MAX: u32 = 1 << 12;

/// What an instruction does with the slot in its field A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldA {
    /// Reads it, or it is no slot.
    Other,
    /// Writes it.
    Destination,
    /// May write it and all above it.
    Base,
}

/// The mode of field A of each opcode (BCDEF in lj_bc.h).
fn field_a(opcode: u8) -> FieldA {
    match opcode {
        12 | 13 | 18..=43 | UGET | 51..=54 | 56..=59 => FieldA::Destination,
        KNIL | 63 | 65..=73 | 77..=84 => FieldA::Base,
        _ => FieldA::Other,
    }
}

#[derive(Clone, Copy)]
struct Instruction(u32);

impl Instruction {
    fn opcode(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    fn a(self) -> u32 {
        self.0 >> 8 & 0xff
    }

    fn b(self) -> u32 {
        self.0 >> 24
    }

    fn c(self) -> u32 {
        self.0 >> 16 & 0xff
    }

    fn d(self) -> u32 {
        self.0 >> 16
    }
}

/// Whether an instruction calls what lies in its slot, and comes back: not so a tail call.
pub(super) fn is_call(instruction: u32) -> bool {
    matches!(
        Instruction(instruction).opcode(),
        CALLM | CALL | ITERC | ITERN
    )
}

/// What of a call is to be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// What it calls.
    Called,
    /// What it hands over first.
    FirstArgument,
}

/// The name of what the instruction at `position` of `caller` calls: `process`, `string.format`, `obj:method` as
/// `method`; or of its first argument.
pub(super) fn of_call(
    memory: &dyn MemoryReader,
    caller: &Proto,
    position: u32,
    which: Which,
) -> Option<String> {
    let call = Instruction(caller.instruction(position)?);
    let argument = call.a() + if caller.layout().gc64 { 2 } else { 1 };
    match call.opcode() {
        CALLM..=CALLT => {
            let slot = match which {
                Which::Called => call.a(),
                Which::FirstArgument => argument,
            };
            of_slot(memory, caller, position, slot, STEPS_MAX)
        }
        _ if which == Which::FirstArgument => None,
        ITERC | ITERN => of_slot(
            memory,
            caller,
            position,
            call.a().checked_sub(3)?,
            STEPS_MAX,
        )
        .or_else(|| Some("(for iterator)".to_owned())),
        _ => None,
    }
}

/// The name of what lies in `slot` before the instruction at `position`.
fn of_slot(
    memory: &dyn MemoryReader,
    proto: &Proto,
    mut position: u32,
    mut slot: u32,
    steps: usize,
) -> Option<String> {
    let steps = steps.checked_sub(1)?;
    if let Some(name) = local(proto, position, slot) {
        return Some(name);
    }
    let first = position.saturating_sub(INSTRUCTIONS_MAX);
    while position > first.max(1) {
        position -= 1;
        let instruction = Instruction(proto.instruction(position)?);
        let (opcode, a) = (instruction.opcode(), instruction.a());
        match field_a(opcode) {
            FieldA::Base if slot >= a && (opcode != KNIL || slot <= instruction.d()) => {
                return None;
            }
            FieldA::Destination if a == slot => {}
            _ => continue,
        }
        match opcode {
            MOV => {
                slot = instruction.d();
                if let Some(name) = local(proto, position, slot) {
                    return Some(name);
                }
            }
            GGET => return string(memory, proto.layout(), proto.constant(instruction.d())?),
            UGET => return upvalue(proto, instruction.d()),
            TGETS => {
                let field = string(memory, proto.layout(), proto.constant(instruction.c())?)?;
                let is_method = is_method_call(proto, position, instruction);
                let table = match is_method {
                    true => None,
                    false => of_slot(memory, proto, position, instruction.b(), steps),
                };
                return Some(match table {
                    Some(table) => format!("{table}.{field}"),
                    None => field,
                });
            }
            _ => return None,
        }
    }
    None
}

/// Whether a function is taken out of an object to be called with it: the object is moved into the slot of its first
/// argument just before.
fn is_method_call(proto: &Proto, position: u32, get: Instruction) -> bool {
    let before = position
        .checked_sub(1)
        .and_then(|before| proto.instruction(before))
        .map(Instruction);
    let argument = get.a() + if proto.layout().gc64 { 2 } else { 1 };
    before.is_some_and(|before| {
        before.opcode() == MOV && before.a() == argument && before.d() == get.b()
    })
}

/// The name of the local variable in `slot` at a position (lj_debug_varname). The list holds, for each variable, its name
/// or a number for a nameless one, and where it begins and ends, each from the one before.
fn local(proto: &Proto, position: u32, mut slot: u32) -> Option<String> {
    /// Numbers below this stand for names of the compiler's own, `(for index)` and its like; 0 ends the list.
    const OWN_NAMES: u8 = 7;
    let mut list = proto.variables()?;
    let mut start = 0u32;
    loop {
        let &first = list.first()?;
        let name = match first {
            0 => return None,
            1..OWN_NAMES => &list[..0],
            _ => list.split(|&byte| byte == 0).next()?,
        };
        let name_bytes = name.len() + 1;
        list = list.get(name_bytes..)?;
        start = start.checked_add(uleb128(&mut list)?)?;
        if start > position {
            return None;
        }
        let end = start.checked_add(uleb128(&mut list)?)?;
        if position < end {
            match slot.checked_sub(1) {
                Some(further) => slot = further,
                None if name.is_empty() => return None,
                None => return Some(String::from_utf8_lossy(name).into_owned()),
            }
        }
    }
}

/// The name of a variable of a function around this one.
fn upvalue(proto: &Proto, index: u32) -> Option<String> {
    let mut names = proto.upvalues()?.split(|&byte| byte == 0);
    let name = names.nth(usize::try_from(index).ok()?)?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// A number of seven bits a byte, lowest first; of up to 32 bits.
fn uleb128(list: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = list.split_first()?;
        *list = rest;
        number |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
