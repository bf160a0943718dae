//! What instructions do to registers and to the stack, in terms of what they were before.

use super::decode::{Instruction, Map, Memory};
use super::writes::written;
use crate::native::rule::{Rule, RuleKind, SAVED_MAX, Slot};
use crate::stack::FrameOrigin;

/// Words that a path may have stored.
const STORES_MAX: usize = 128;

pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;
pub(crate) const RBX: u8 = 3;
pub(crate) const RSP: u8 = 4;
pub(crate) const RBP: u8 = 5;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;
/// Numbers from here on stand for aligned stack pointers.
const ALIGNED: u8 = 16;
/// rbx, rbp, r12 to r15, in the order of [`crate::Arch::callee_saved`].
const CALLEE_SAVED: [u8; 6] = [RBX, RBP, 12, 13, 14, 15];
/// The registers that a call does not preserve.
const CALLER_SAVED: u16 = !(1 << RBX | 1 << RSP | 1 << RBP | 0xf000);

/// Where control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Jump,
    Branch,
    Return,
    Exit,
    Stop,
}

/// A value in terms of the registers at the start. Registers have hardware numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Unknown,
    Constant(i64),
    /// What `register` was, plus `offset`.
    Plus {
        register: u8,
        offset: i64,
    },
    /// The word that lay at `register` + `offset`, plus `plus`.
    Word {
        register: u8,
        offset: i64,
        plus: i64,
    },
    /// The word that lay where `Word` with these numbers says.
    WordAtWord {
        register: u8,
        offset: i64,
        plus: i64,
    },
}

impl Value {
    fn add(self, addend: i64) -> Self {
        match self {
            Value::Plus { register, offset } => Value::Plus {
                register,
                offset: offset.wrapping_add(addend),
            },
            Value::Word {
                register,
                offset,
                plus,
            } => Value::Word {
                register,
                offset,
                plus: plus.wrapping_add(addend),
            },
            Value::Constant(value) => Value::Constant(value.wrapping_add(addend)),
            Value::Unknown | Value::WordAtWord { .. } => Value::Unknown,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct State {
    registers: [Value; 16],
    /// What this path has stored, by address.
    stores: Vec<(Value, Value)>,
    /// How often the stack pointer was aligned.
    alignments: u8,
    /// Whether there was no call and no branch.
    is_straight: bool,
}

impl State {
    pub(super) fn new() -> Self {
        let mut registers = [Value::Unknown; 16];
        for (number, register) in (0..).zip(&mut registers) {
            *register = Value::Plus {
                register: number,
                offset: 0,
            };
        }
        Self {
            registers,
            stores: Vec::new(),
            alignments: 0,
            is_straight: true,
        }
    }

    pub(super) fn get(&self, register: u8) -> Value {
        self.registers
            .get(usize::from(register))
            .copied()
            .unwrap_or(Value::Unknown)
    }

    pub(super) fn set(&mut self, register: u8, value: Value) {
        if let Some(slot) = self.registers.get_mut(usize::from(register)) {
            *slot = value;
        }
    }

    fn forget(&mut self, registers: u16) {
        for (number, register) in self.registers.iter_mut().enumerate() {
            if registers & 1 << number != 0 {
                *register = Value::Unknown;
            }
        }
    }

    fn load(&self, address: Value) -> Value {
        if let Some((_, value)) = self.stores.iter().rev().find(|(at, _)| *at == address) {
            return *value;
        }
        match address {
            // Below the stack pointer lies nothing that would be read again.
            Value::Plus {
                register: RSP,
                offset: ..0,
            } => Value::Unknown,
            Value::Plus {
                register: ALIGNED..,
                ..
            } => Value::Unknown,
            Value::Plus { register, offset } => Value::Word {
                register,
                offset,
                plus: 0,
            },
            Value::Word {
                register,
                offset,
                plus,
            } => Value::WordAtWord {
                register,
                offset,
                plus,
            },
            _ => Value::Unknown,
        }
    }

    /// Ends the path when there are more stores than are kept.
    fn store(&mut self, address: Value, value: Value) -> Flow {
        if matches!(address, Value::Plus { .. } | Value::Word { .. }) {
            self.stores.retain(|(at, _)| *at != address);
            self.stores.push((address, value));
            if self.stores.len() > STORES_MAX {
                return Flow::Stop;
            }
        }
        Flow::Next
    }

    fn push(&mut self, value: Value) -> Flow {
        let sp = self.get(RSP).add(-8);
        self.set(RSP, sp);
        self.store(sp, value)
    }

    fn pop(&mut self) -> Value {
        let sp = self.get(RSP);
        self.set(RSP, sp.add(8));
        self.load(sp)
    }

    fn address_of(&self, memory: Memory) -> Value {
        match memory.base {
            Some(base) if !memory.is_indexed => self.get(base).add(i64::from(memory.displacement)),
            _ => Value::Unknown,
        }
    }

    /// The value of the `r/m` operand, of 64 bits.
    fn operand(&self, instruction: &Instruction) -> Value {
        match instruction.modrm {
            Some(modrm) => match (modrm.register, modrm.memory) {
                (Some(register), _) => self.get(register),
                (None, Some(memory)) => self.load(self.address_of(memory)),
                (None, None) => Value::Unknown,
            },
            None => Value::Unknown,
        }
    }

    pub(super) fn execute(&mut self, instruction: &Instruction) -> Flow {
        match instruction.map {
            Map::Primary => self.execute_primary(instruction),
            Map::Secondary => match instruction.opcode {
                0x80..=0x8f => Flow::Branch,
                0x05 => self.system_call(),
                // ud2, ud1, ud0; what only a kernel or a hypervisor executes.
                0x0b
                | 0xb9
                | 0xff
                | 0x06..=0x09
                | 0x20..=0x23
                | 0x30
                | 0x34..=0x37
                | 0x78
                | 0x79 => Flow::Stop,
                _ => self.execute_other(instruction),
            },
            _ => self.execute_other(instruction),
        }
    }

    fn execute_primary(&mut self, instruction: &Instruction) -> Flow {
        let in_opcode = instruction.opcode & 7 | instruction.rex_b;
        match instruction.opcode {
            0x50..=0x57 if !instruction.is_short => self.push(self.get(in_opcode)),
            0x58..=0x5f if !instruction.is_short => {
                let value = self.pop();
                self.set(in_opcode, value);
                Flow::Next
            }
            0x68 | 0x6a => self.push(Value::Constant(instruction.immediate)),
            0x70..=0x7f | 0xe3 => Flow::Branch,
            0xe0..=0xe2 => {
                self.forget(1 << RCX);
                Flow::Branch
            }
            0x89 | 0x8b | 0x8d if instruction.is_wide => self.move_wide(instruction),
            0x81 | 0x83 if instruction.is_wide => self.arithmetic(instruction),
            0x31 | 0x33 if is_zeroing(instruction) => {
                self.set(
                    instruction.modrm.map_or(RAX, |modrm| modrm.reg),
                    Value::Constant(0),
                );
                Flow::Next
            }
            0xb0 if instruction.rex_b == 0 => {
                let value = match self.get(RAX) {
                    Value::Constant(value) => {
                        Value::Constant(value & !0xff | instruction.immediate & 0xff)
                    }
                    _ => Value::Unknown,
                };
                self.set(RAX, value);
                Flow::Next
            }
            0xb8..=0xbf if !instruction.is_short => {
                self.assign(in_opcode, Value::Constant(instruction.immediate))
            }
            0xc7 => match instruction.modrm.and_then(|modrm| modrm.register) {
                // xbegin
                Some(_) if instruction.modrm.is_some_and(|modrm| modrm.reg & 7 != 0) => Flow::Stop,
                Some(register) => self.assign(register, Value::Constant(instruction.immediate)),
                None => self.execute_other(instruction),
            },
            0xc2 | 0xc3 => Flow::Return,
            0xc9 => {
                let flow = self.assign(RSP, self.get(RBP));
                let value = self.pop();
                self.set(RBP, value);
                flow
            }
            0xe8 => {
                self.call();
                Flow::Next
            }
            0xe9 | 0xeb => Flow::Jump,
            0xff => self.group_ff(instruction),
            // enter; int3, int, iret, far returns; hlt
            0xc8 | 0xca..=0xcf | 0xf1 | 0xf4 => Flow::Stop,
            _ => self.execute_other(instruction),
        }
    }

    /// `mov` and `lea` of 64 bits.
    fn move_wide(&mut self, instruction: &Instruction) -> Flow {
        let Some(modrm) = instruction.modrm else {
            return Flow::Stop;
        };
        match (instruction.opcode, modrm.register, modrm.memory) {
            (0x89, Some(register), _) => self.assign(register, self.get(modrm.reg)),
            (0x89, None, Some(memory)) => self.store(self.address_of(memory), self.get(modrm.reg)),
            (0x8b, ..) => self.assign(modrm.reg, self.operand(instruction)),
            (_, _, Some(memory)) => self.assign(modrm.reg, self.address_of(memory)),
            _ => Flow::Stop,
        }
    }

    /// `add`, `sub` and their group with an immediate, of 64 bits.
    fn arithmetic(&mut self, instruction: &Instruction) -> Flow {
        let Some(modrm) = instruction.modrm else {
            return Flow::Stop;
        };
        let Some(register) = modrm.register else {
            return self.execute_other(instruction);
        };
        let value = match modrm.reg & 7 {
            0 => self.get(register).add(instruction.immediate),
            5 => self.get(register).add(instruction.immediate.wrapping_neg()),
            4 if register == RSP => self.align(),
            7 => return Flow::Next,
            _ => Value::Unknown,
        };
        self.assign(register, value)
    }

    fn group_ff(&mut self, instruction: &Instruction) -> Flow {
        let Some(modrm) = instruction.modrm else {
            return Flow::Stop;
        };
        match modrm.reg & 7 {
            2 => {
                self.call();
                Flow::Next
            }
            // Through a pointer at a fixed place: a tail call, with the return address on top. Otherwise a table of
            // a `switch`, and the other paths must tell.
            4 => match modrm.memory {
                Some(memory) if memory.base.is_none() && !memory.is_indexed => Flow::Return,
                _ => Flow::Stop,
            },
            6 => self.push(self.operand(instruction)),
            0 | 1 => self.execute_other(instruction),
            _ => Flow::Stop,
        }
    }

    /// Takes note that the path could have gone another way.
    pub(super) fn branch(&mut self) {
        self.is_straight = false;
    }

    fn call(&mut self) {
        self.is_straight = false;
        self.forget(CALLER_SAVED);
    }

    /// As after a call of code that changes only `registers`, which are bits.
    pub(super) fn call_helper(&mut self, registers: u16) {
        self.is_straight = false;
        self.forget(registers);
    }

    /// The registers that do not hold what they held where the path began, as bits.
    pub(super) fn changed(&self) -> u16 {
        (0..16u8)
            .zip(&self.registers)
            .filter(|&(register, value)| {
                *value
                    != Value::Plus {
                        register,
                        offset: 0,
                    }
            })
            .fold(0, |bits, (register, _)| bits | 1 << register)
    }

    /// Whether the path has come here without a call and without a branch.
    pub(super) fn is_straight(&self) -> bool {
        self.is_straight
    }

    fn system_call(&mut self) -> Flow {
        const EXIT: Value = Value::Constant(60);
        const EXIT_GROUP: Value = Value::Constant(231);
        match self.get(RAX) {
            EXIT | EXIT_GROUP => Flow::Exit,
            _ => {
                self.forget(1 << RAX | 1 << RCX | 1 << 11);
                Flow::Next
            }
        }
    }

    fn execute_other(&mut self, instruction: &Instruction) -> Flow {
        let written = written(instruction);
        self.forget(written);
        if written & 1 << RSP != 0 {
            Flow::Stop
        } else {
            Flow::Next
        }
    }

    /// Sets `register`. A stack pointer of unknown value leads nowhere.
    fn assign(&mut self, register: u8, value: Value) -> Flow {
        self.set(register, value);
        match value {
            Value::Plus { .. } | Value::Word { .. } => Flow::Next,
            _ if register == RSP => Flow::Stop,
            _ => Flow::Next,
        }
    }

    /// The stack pointer rounded down to some alignment: a value of its own, with which nothing before compares.
    fn align(&mut self) -> Value {
        self.alignments = self.alignments.saturating_add(1);
        Value::Plus {
            register: ALIGNED.saturating_add(self.alignments),
            offset: 0,
        }
    }

    /// How many bytes the stack has grown, if that is known.
    pub(super) fn depth(&self) -> Option<i64> {
        match self.get(RSP) {
            Value::Plus {
                register: RSP,
                offset: offset @ ..=0,
            } => Some(-offset),
            _ => None,
        }
    }

    /// The one of both whose stack is deeper; `None` if that of `other` is of unknown depth.
    pub(super) fn deeper(self, other: &State) -> Option<State> {
        let depth = other.depth()?;
        Some(if self.depth() < Some(depth) {
            other.clone()
        } else {
            self
        })
    }

    /// The rule for here, if the path started at the first instruction of a function: there the return address was on
    /// top.
    pub(super) fn rule_from_entry(&self) -> Option<Rule> {
        let cfa = i32::try_from(self.depth()?.checked_add(8)?).ok()?;
        let mut saved = [Slot::SAME; SAVED_MAX];
        for (slot, register) in saved.iter_mut().zip(CALLEE_SAVED) {
            let original = Value::Plus {
                register,
                offset: 0,
            };
            if self.get(register) == original {
                continue;
            }
            let stored = self.stores.iter().find_map(|(at, value)| match at {
                Value::Plus {
                    register: RSP,
                    offset,
                } if *value == original => Some(*offset),
                _ => None,
            });
            *slot = stored
                .and_then(|offset| Slot::at(offset.checked_sub(8)?))
                .unwrap_or(Slot::LOST);
        }
        let rule = Rule::simple(dwarf_number(RSP), cfa, FrameOrigin::Prologue);
        Some(rule.with_saved(saved))
    }

    /// The rule for the start of the path, now that it returns.
    pub(super) fn rule(&self) -> Option<Rule> {
        let sp = self.get(RSP);
        let origin = FrameOrigin::Prologue;
        let (rule, base) = match sp {
            // A return address below the start's stack pointer would be the path's own.
            Value::Plus {
                register: RSP,
                offset: ..0,
            } => return None,
            Value::Plus {
                register: ALIGNED..,
                ..
            } => return None,
            Value::Plus { register, offset } => {
                let cfa = offset.checked_add(8)?;
                let rule = Rule::simple(dwarf_number(register), i32::try_from(cfa).ok()?, origin);
                (rule, cfa)
            }
            Value::Word {
                register,
                offset,
                plus,
            } => {
                let (offset, slot) = (i32::try_from(offset).ok()?, Slot::at(plus)?);
                let number = dwarf_number(register);
                (Rule::new(RuleKind::Memory, number, offset, slot, origin), 0)
            }
            _ => return None,
        };
        let saved = CALLEE_SAVED.map(|register| saved_slot(sp, base, register, self.get(register)));
        Some(rule.with_saved(saved))
    }
}

/// Where `value`, which callee-saved `register` has at the return, lies from the CFA, which is `base` from what the
/// stack pointer `sp` is relative to.
fn saved_slot(sp: Value, base: i64, register: u8, value: Value) -> Slot {
    let offset = match (sp, value) {
        (
            _,
            Value::Plus {
                register: of,
                offset: 0,
            },
        ) if of == register => return Slot::SAME,
        (
            Value::Plus { register: sp, .. },
            Value::Word {
                register,
                offset,
                plus: 0,
            },
        ) if sp == register => offset.wrapping_sub(base),
        (
            Value::Word {
                register: sp,
                offset: sp_at,
                ..
            },
            Value::WordAtWord {
                register,
                offset,
                plus,
            },
        ) if sp == register && sp_at == offset => plus,
        _ => return Slot::LOST,
    };
    Slot::at(offset).unwrap_or(Slot::LOST)
}

/// Whether the instruction is `xor r, r` of one register with itself.
fn is_zeroing(instruction: &Instruction) -> bool {
    instruction
        .modrm
        .is_some_and(|modrm| modrm.register == Some(modrm.reg) && modrm.reg != RSP)
}

/// The DWARF number of a register given by its hardware number.
pub(crate) fn dwarf_number(register: u8) -> u16 {
    match register {
        RCX => 2,
        RDX => 1,
        RSP => 7,
        RBP => 6,
        RSI => 4,
        RDI => 5,
        other => u16::from(other),
    }
}
