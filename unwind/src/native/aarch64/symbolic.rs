//! What instructions do to registers and to the stack, in terms of what they were before.

use super::machine::{NONE_SAVED, SAVED, rule};
use super::{LINK, STACK_POINTER, is_call, signed};
use crate::native::rule::{Rule, ShortSlot};
use crate::stack::FrameOrigin;

/// Words that a path may have stored.
const STORES_MAX: usize = 64;

/// The number that stands for the stack pointer in some places, and for a zero in others.
const SP: u8 = 31;

/// Where the number of a system call is.
const X8: u8 = 8;

/// `exit` and `exit_group` (include/uapi/asm-generic/unistd.h).
const EXITS: [u64; 2] = [93, 94];

/// Where control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    /// As `b` says.
    Jump,
    /// There, or on.
    Branch(i64),
    /// To the address in a register.
    Return(u8),
    Exit,
    Stop,
}

/// Where an instruction leads that does more than go on; `None` for a system call too.
pub(super) fn flow(instruction: u32) -> Option<Flow> {
    /// Where the linker's stubs and indirect tail calls have their target: with `bti`, nothing else may be jumped to.
    const TAIL_REGISTERS: [u8; 2] = [16, 17];
    let register = field(instruction, 5);
    Some(match instruction {
        // b
        _ if instruction >> 26 == 0b00_0101 => Flow::Jump,
        // b.cond, bc.cond
        _ if instruction >> 24 == 0x54 => Flow::Branch(signed(instruction, 5, 19) * 4),
        // cbz, cbnz
        _ if instruction & 0x7e00_0000 == 0x3400_0000 => {
            Flow::Branch(signed(instruction, 5, 19) * 4)
        }
        // tbz, tbnz
        _ if instruction & 0x7e00_0000 == 0x3600_0000 => {
            Flow::Branch(signed(instruction, 5, 14) * 4)
        }
        // ret
        _ if instruction & 0xffff_fc1f == 0xd65f_0000 => Flow::Return(register),
        // retaa, retab
        0xd65f_0bff | 0xd65f_0fff => Flow::Return(30),
        // br
        _ if instruction & 0xffff_fc1f == 0xd61f_0000 => match TAIL_REGISTERS.contains(&register) {
            true => Flow::Return(30),
            false => Flow::Stop,
        },
        // Other branches to registers (braa, eret), that are no calls.
        _ if instruction >> 25 == 0b110_1011 && !is_call(instruction) => Flow::Stop,
        // brk, hlt and other exceptions than svc; udf.
        _ if instruction >> 24 == 0xd4 && instruction & 0x1f != 1 => Flow::Stop,
        _ if instruction >> 16 == 0 => Flow::Stop,
        _ => return None,
    })
}

/// Five bits that number a register.
fn field(instruction: u32, low: u32) -> u8 {
    (instruction >> low).to_le_bytes()[0] & 31
}

/// A value in terms of the registers at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Unknown,
    Constant(u64),
    /// What `register` was, plus `offset`.
    Plus {
        register: u8,
        offset: i64,
    },
    /// The word that lay there.
    Word {
        register: u8,
        offset: i64,
    },
}

impl Value {
    fn add(self, addend: i64) -> Self {
        match self {
            Value::Plus { register, offset } => Value::Plus {
                register,
                offset: offset.wrapping_add(addend),
            },
            Value::Constant(value) => Value::Constant(value.wrapping_add_signed(addend)),
            Value::Unknown | Value::Word { .. } => Value::Unknown,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct State {
    /// x0 to x30, and the stack pointer.
    registers: [Value; 32],
    /// What this path has stored, by address.
    stores: Vec<(Value, Value)>,
    /// Whether there was no call and no branch.
    pub(super) is_straight: bool,
}

impl State {
    pub(super) fn new() -> Self {
        let mut registers = [Value::Unknown; 32];
        for (register, value) in (0..).zip(&mut registers) {
            let offset = 0;
            *value = Value::Plus { register, offset };
        }
        Self {
            registers,
            stores: Vec::new(),
            is_straight: true,
        }
    }

    /// A register, or the stack pointer.
    fn get(&self, register: u8) -> Value {
        let value = self.registers.get(usize::from(register));
        value.copied().unwrap_or(Value::Unknown)
    }

    fn set(&mut self, register: u8, value: Value) {
        if let Some(slot) = self.registers.get_mut(usize::from(register)) {
            *slot = value;
        }
    }

    /// A register, or a zero.
    fn get_or_zero(&self, register: u8) -> Value {
        match register {
            SP => Value::Constant(0),
            register => self.get(register),
        }
    }

    /// A register, unless it is the one that is always zero.
    fn set_unless_zero(&mut self, register: u8, value: Value) {
        if register != SP {
            self.set(register, value);
        }
    }

    fn load(&self, address: Value) -> Value {
        if let Some((_, value)) = self.stores.iter().rev().find(|(at, _)| *at == address) {
            return *value;
        }
        match address {
            // Below the stack pointer lies nothing that would be read again.
            Value::Plus {
                register: SP,
                offset: ..0,
            } => Value::Unknown,
            Value::Plus { register, offset } => Value::Word { register, offset },
            _ => Value::Unknown,
        }
    }

    /// Only what goes to a known address is remembered: the stack is not written to by others' pointers.
    fn store(&mut self, address: Value, value: Value) {
        if matches!(address, Value::Plus { .. }) && self.stores.len() < STORES_MAX {
            self.stores.push((address, value));
        }
    }

    pub(super) fn execute(&mut self, instruction: u32) -> Flow {
        if let Some(flow) = flow(instruction) {
            return flow;
        }
        if is_call(instruction) {
            return self.call();
        }
        // svc
        if instruction & 0xffe0_001f == 0xd400_0001 {
            if matches!(self.get(X8), Value::Constant(number) if EXITS.contains(&number)) {
                return Flow::Exit;
            }
            self.set(0, Value::Unknown);
            return Flow::Next;
        }
        match instruction >> 25 & 0b1111 {
            0b1000 | 0b1001 => self.immediate(instruction),
            0b0101 | 0b1101 => self.by_register(instruction),
            0b0100 | 0b0110 | 0b1100 | 0b1110 => self.memory(instruction),
            0b0111 | 0b1111 => self.vector(instruction),
            // Barriers, hints, and system registers, of which `mrs` reads one.
            0b1010 | 0b1011 => {
                if instruction >> 20 == 0xd53 {
                    self.set_unless_zero(field(instruction, 0), Value::Unknown);
                }
            }
            // SVE: `addvl` and `addpl` move the stack pointer by what only the processor knows.
            _ => {
                let register = field(instruction, 0);
                let adds_to_register = instruction & 0xffa0_f800 == 0x0420_5000;
                if adds_to_register || register != SP {
                    self.set(register, Value::Unknown);
                }
            }
        }
        match self.get(SP) {
            Value::Plus { .. } => Flow::Next,
            _ => Flow::Stop,
        }
    }

    /// What a call does not preserve is unknown after it.
    fn call(&mut self) -> Flow {
        const PRESERVED: std::ops::RangeInclusive<u8> = 19..=29;
        self.is_straight = false;
        for register in (0..SP).filter(|register| !PRESERVED.contains(register)) {
            self.set(register, Value::Unknown);
        }
        Flow::Next
    }

    /// Data processing with an immediate operand.
    fn immediate(&mut self, instruction: u32) {
        let (to, from) = (field(instruction, 0), field(instruction, 5));
        let is_wide = instruction >> 31 == 1;
        let sets_flags = instruction >> 29 & 1 == 1;
        match instruction >> 23 & 0b11_1111 {
            // add, sub
            0b10_0010 => {
                let shift = (instruction >> 22 & 1) * 12;
                let operand = i64::from((instruction >> 10 & 0xfff) << shift);
                let subtracts = instruction >> 30 & 1 == 1;
                let sum = self
                    .get(from)
                    .add(if subtracts { -operand } else { operand });
                let value = if is_wide { sum } else { Value::Unknown };
                if sets_flags {
                    self.set_unless_zero(to, value);
                } else {
                    self.set(to, value);
                }
            }
            // movn, movz, movk
            0b10_0101 => {
                let shift = (instruction >> 21 & 3) * 16;
                let bits = u64::from(instruction >> 5 & 0xffff) << shift;
                let value = match (instruction >> 29 & 3, self.get_or_zero(to)) {
                    (2, _) => Value::Constant(bits),
                    (0, _) if is_wide => Value::Constant(!bits),
                    (3, Value::Constant(old)) => Value::Constant(old & !(0xffff << shift) | bits),
                    _ => Value::Unknown,
                };
                self.set_unless_zero(to, value);
            }
            // and, orr, eor; ands has no stack pointer
            0b10_0100 if instruction >> 29 & 3 != 3 => self.set(to, Value::Unknown),
            _ => self.set_unless_zero(to, Value::Unknown),
        }
    }

    /// Data processing with register operands.
    fn by_register(&mut self, instruction: u32) {
        let (to, from) = (field(instruction, 0), field(instruction, 5));
        let operand = field(instruction, 16);
        match instruction {
            // mov: orr with a zero
            _ if instruction & 0xffe0_ffe0 == 0xaa00_03e0 => {
                self.set_unless_zero(to, self.get_or_zero(operand));
            }
            // add and sub of an extended register: those that may name the stack pointer
            _ if instruction & 0x1fe0_0000 == 0x0b20_0000 => {
                let is_plain = instruction & 0xa000_fc00 == 0x8000_6000;
                let value = match self.get_or_zero(operand) {
                    Value::Constant(value) if is_plain => {
                        let subtracts = instruction >> 30 & 1 == 1;
                        let value = value.cast_signed();
                        let addend = if subtracts {
                            value.wrapping_neg()
                        } else {
                            value
                        };
                        self.get(from).add(addend)
                    }
                    _ => Value::Unknown,
                };
                match instruction >> 29 & 1 {
                    0 => self.set(to, value),
                    _ => self.set_unless_zero(to, value),
                }
            }
            _ => self.set_unless_zero(to, Value::Unknown),
        }
    }

    fn memory(&mut self, instruction: u32) {
        let (to, base) = (field(instruction, 0), field(instruction, 5));
        let is_vector = instruction >> 26 & 1 == 1;
        match instruction {
            // Pairs.
            _ if instruction & 0x3a00_0000 == 0x2800_0000 => self.pair(instruction),
            // ldr of a constant near by
            _ if instruction & 0x3b00_0000 == 0x1800_0000 => {
                if !is_vector {
                    self.set_unless_zero(to, Value::Unknown);
                }
            }
            // A single register.
            _ if instruction & 0x3a00_0000 == 0x3800_0000 => self.single(instruction),
            // Vectors with a stride, which may move their base.
            _ if is_vector => self.set(base, Value::Unknown),
            // Exclusive and ordered ones, tags, and the like: a status, and one or two registers.
            _ => {
                for low in [0, 10, 16] {
                    self.set_unless_zero(field(instruction, low), Value::Unknown);
                }
            }
        }
    }

    /// The address that an instruction uses, and the base register's new value.
    fn address(&self, base: u8, offset: i64, mode: Mode) -> (Value, Option<Value>) {
        let (before, after) = (self.get(base), self.get(base).add(offset));
        match mode {
            Mode::Offset => (after, None),
            Mode::Before => (after, Some(after)),
            Mode::After => (before, Some(after)),
        }
    }

    fn pair(&mut self, instruction: u32) {
        let (first, base) = (field(instruction, 0), field(instruction, 5));
        let second = field(instruction, 10);
        let size = instruction >> 30;
        let is_vector = instruction >> 26 & 1 == 1;
        let scale = match is_vector {
            true => 4 << size,
            false => 4 << (size >> 1),
        };
        let mode = match instruction >> 23 & 3 {
            1 => Mode::After,
            3 => Mode::Before,
            _ => Mode::Offset,
        };
        let offset = signed(instruction, 15, 7) * scale;
        let (address, moved) = self.address(base, offset, mode);
        let loads = instruction >> 22 & 1 == 1;
        if !is_vector {
            let is_word = size == 2;
            for (register, address) in [(first, address), (second, address.add(8))] {
                if loads {
                    let value = if is_word {
                        self.load(address)
                    } else {
                        Value::Unknown
                    };
                    self.set_unless_zero(register, value);
                } else if is_word {
                    self.store(address, self.get_or_zero(register));
                }
            }
        }
        if let Some(moved) = moved {
            self.set(base, moved);
        }
    }

    fn single(&mut self, instruction: u32) {
        let (register, base) = (field(instruction, 0), field(instruction, 5));
        let is_vector = instruction >> 26 & 1 == 1;
        let size = instruction >> 30;
        let operation = instruction >> 22 & 3;
        let (mode, offset) = match (instruction >> 24 & 1, instruction >> 21 & 1) {
            (1, _) => (
                Some(Mode::Offset),
                i64::from(instruction >> 10 & 0xfff) << size,
            ),
            (_, 0) => {
                let mode = match instruction >> 10 & 3 {
                    1 => Mode::After,
                    3 => Mode::Before,
                    _ => Mode::Offset,
                };
                (Some(mode), signed(instruction, 12, 9))
            }
            // An offset in a register, an atomic operation, or a checked pointer.
            _ => (None, 0),
        };
        let (address, moved) = match mode {
            Some(mode) => self.address(base, offset, mode),
            None => (Value::Unknown, None),
        };
        let is_word = size == 3 && mode.is_some();
        if !is_vector {
            match operation {
                0 if is_word => self.store(address, self.get_or_zero(register)),
                0 if mode.is_some() => {}
                1 if is_word => self.set_unless_zero(register, self.load(address)),
                _ => self.set_unless_zero(register, Value::Unknown),
            }
        }
        if let Some(moved) = moved {
            self.set(base, moved);
        }
    }

    /// Of floating point and vectors only what moves to general registers: conversions, `fmov`, `umov`, `smov`.
    fn vector(&mut self, instruction: u32) {
        let converts =
            instruction & 0x5f20_fc00 == 0x1e20_0000 || instruction & 0x5f20_0000 == 0x1e00_0000;
        let moves_element = matches!(instruction & 0xbfe0_fc00, 0x0e00_3c00 | 0x0e00_2c00);
        if converts || moves_element {
            self.set_unless_zero(field(instruction, 0), Value::Unknown);
        }
    }

    /// The rule for where this path started, if it now goes to the address in `target`, which must be its return address.
    pub(super) fn rule(&self, target: u8) -> Option<Rule> {
        let Value::Plus {
            register: base,
            offset,
        } = self.get(SP)
        else {
            return None;
        };
        let is_kept = u16::from(base) == STACK_POINTER || SAVED.contains(&u16::from(base));
        let offset = i32::try_from(offset).ok().filter(|_| is_kept)?;
        let slot = |register: u16, value: Value| match value {
            Value::Plus {
                register: same,
                offset: 0,
            } if u16::from(same) == register => Some(ShortSlot::SAME),
            Value::Word {
                register: from,
                offset: at,
            } if from == base => ShortSlot::at(at.checked_sub(i64::from(offset))?),
            _ => None,
        };
        let mut saved = NONE_SAVED;
        for (kept, register) in saved.iter_mut().zip(SAVED) {
            let number = u8::try_from(register).ok()?;
            let lost = || ShortSlot::LOST;
            *kept = match register {
                LINK => slot(LINK, self.get(target))?,
                _ => slot(register, self.get(number)).unwrap_or_else(lost),
            };
        }
        Some(rule(u16::from(base), offset, saved, FrameOrigin::Prologue))
    }
}

/// When a base register is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Offset,
    Before,
    After,
}
