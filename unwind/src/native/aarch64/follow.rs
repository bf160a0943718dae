//! Follows code without call frame information to where it returns, and so learns how to unwind it: as
//! [`crate::native::x86_64`] does, with far fewer forms to understand, because only some twenty instructions touch the
//! stack pointer, the registers that a call preserves, or the flow of control.

use rustc_hash::FxHashSet;

use super::machine::{NONE_SAVED, SAVED, rule};
use super::{
    INSTRUCTION_BYTES, LINK, STACK_POINTER, branch_target, first, is_call, is_signal_trampoline,
    signed,
};
use crate::native::machine::{Code, Followed, INSTRUCTION_BYTES_MAX};
use crate::native::rule::{Rule, ShortSlot};
use crate::stack::FrameOrigin;

/// Instructions that are read at most, on all paths together.
const STEPS_MAX: usize = 4096;
/// Branches that wait to be followed.
const PENDING_MAX: usize = 32;
/// Words that a path may have stored.
const STORES_MAX: usize = 64;

/// The number that stands for the stack pointer in some places, and for a zero in others.
const SP: u8 = 31;
/// Where the number of a system call is.
const X8: u8 = 8;
/// `exit` and `exit_group` (include/uapi/asm-generic/unistd.h).
const EXITS: [u64; 2] = [93, 94];

/// Follows the code from `start` on to where it returns.
pub(super) fn follow(code: &impl Code, start: u64) -> Followed {
    let mut seen = FxHashSet::default();
    let mut pending = vec![(start, State::new())];
    let mut steps = 0;
    let mut exits = false;
    while let Some((mut at, mut state)) = pending.pop() {
        // Each instruction is read once, on whatever path comes to it first, so loops end.
        while steps < STEPS_MAX && seen.insert(at) {
            steps += 1;
            let Some(instruction) = read(code, at) else {
                break;
            };
            let next = at.wrapping_add(INSTRUCTION_BYTES as u64);
            match state.execute(instruction) {
                Flow::Next => at = next,
                Flow::Jump => at = branch_target(at, instruction),
                Flow::Branch(distance) => {
                    state.is_straight = false;
                    if pending.len() < PENDING_MAX {
                        pending.push((at.wrapping_add_signed(distance), state.clone()));
                    }
                    at = next;
                }
                Flow::Return(register) => match state.rule(register) {
                    Some(rule) => return Followed::Returns(rule),
                    None => break,
                },
                Flow::Exit => {
                    exits |= state.is_straight;
                    break;
                }
                Flow::Stop => break,
            }
        }
    }
    match exits {
        true => Followed::Exits,
        false => Followed::Unknown,
    }
}

/// Whether `pc` is in the code at `entry`, where a program or the dynamic loader starts, that has no caller: up to the
/// jump with which the loader (glibc's `_start`, by `br`) or a C library (musl's, by `b`) leaves it, or else up to and
/// behind its first call, which does not return.
pub(super) fn is_program_start(code: &impl Code, entry: u64, pc: u64) -> bool {
    const INSTRUCTIONS_MAX: u64 = 48;
    let upto = |last: u64| (entry..=last).contains(&pc);
    let mut behind_call = None;
    for index in 0..INSTRUCTIONS_MAX {
        let at = entry.saturating_add(index * INSTRUCTION_BYTES as u64);
        let Some(instruction) = read(code, at) else {
            break;
        };
        if is_call(instruction) {
            behind_call = behind_call.or(Some(at.saturating_add(INSTRUCTION_BYTES as u64)));
        }
        match flow(instruction) {
            Some(Flow::Jump | Flow::Stop) => return upto(at),
            Some(Flow::Return(_)) => break,
            _ => {}
        }
    }
    behind_call.is_some_and(upto)
}

fn read(code: &impl Code, at: u64) -> Option<u32> {
    let mut bytes = [0; INSTRUCTION_BYTES_MAX];
    let available = code.fetch(at, &mut bytes);
    let bytes = bytes.get(..available)?;
    first(bytes).filter(|_| !is_signal_trampoline(bytes))
}

/// Where control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
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
fn flow(instruction: u32) -> Option<Flow> {
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
struct State {
    /// x0 to x30, and the stack pointer.
    registers: [Value; 32],
    /// What this path has stored, by address.
    stores: Vec<(Value, Value)>,
    /// Whether there was no call and no branch.
    is_straight: bool,
}

impl State {
    fn new() -> Self {
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

    fn execute(&mut self, instruction: u32) -> Flow {
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
    fn rule(&self, target: u8) -> Option<Rule> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::aarch64::Aarch64;
    use crate::native::machine::Machine;

    struct Words<'a>(&'a [u32]);

    impl Code for Words<'_> {
        fn fetch(&self, at: u64, into: &mut [u8; INSTRUCTION_BYTES_MAX]) -> usize {
            let words = usize::try_from(at / 4).ok().and_then(|at| self.0.get(at..));
            let words = words
                .unwrap_or_default()
                .iter()
                .take(INSTRUCTION_BYTES_MAX / 4);
            let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
            into[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        }
    }

    /// The register and offset of the CFA, and where the frame pointer and the return address lie from there.
    fn found(code: &[u32], start: u64) -> Option<(u16, i32, Option<i64>, Option<i64>)> {
        match follow(&Words(code), start) {
            Followed::Returns(rule) => Some((
                rule.register(),
                rule.offset(),
                rule.short_saved()[10].long().offset(),
                Aarch64::return_slot(&rule),
            )),
            Followed::Exits | Followed::Unknown => None,
        }
    }

    #[test]
    fn a_frame_is_known_at_each_of_its_instructions() {
        let code = [
            0xa9be_7bfd, // stp x29, x30, [sp, -32]!
            0x9100_03fd, // mov x29, sp
            0xf900_0bf3, // str x19, [sp, 16]
            0x9400_0010, // bl
            0xf940_0bf3, // ldr x19, [sp, 16]
            0xa8c2_7bfd, // ldp x29, x30, [sp], 32
            0xd65f_03c0, // ret
        ];
        for start in [0, 24] {
            assert_eq!(found(&code, start), Some((31, 0, None, None)), "{start}");
        }
        for start in [4, 8, 12, 16, 20] {
            let frame = Some((31, 32, Some(-32), Some(-24)));
            assert_eq!(found(&code, start), frame, "{start}");
        }
        let Followed::Returns(rule) = follow(&Words(&code), 12) else {
            panic!("no rule");
        };
        assert_eq!(rule.short_saved()[0].long().offset(), Some(-16));
    }

    #[test]
    fn the_stack_pointer_is_put_back_from_the_frame_pointer_or_by_a_large_constant() {
        let by_frame_pointer = [
            0x9400_0010, // bl
            0x9100_03bf, // mov sp, x29
            0xa8c3_7bfd, // ldp x29, x30, [sp], 48
            0xd65f_0bff, // retaa
        ];
        let expected = Some((29, 48, Some(-48), Some(-40)));
        assert_eq!(found(&by_frame_pointer, 0), expected);
        let by_constant = [
            0xf940_03fe, // ldr x30, [sp]
            0xd282_020c, // mov x12, 0x1010
            0x8b2c_63ff, // add sp, sp, x12
            0xd65f_03c0, // ret
        ];
        // Too far below the CFA for a slot of a byte.
        assert_eq!(found(&by_constant, 0), None);
        let of_a_leaf = [0xd282_020c, 0x8b2c_63ff, 0xd65f_03c0];
        assert_eq!(found(&of_a_leaf, 0), Some((31, 0x1010, None, None)));
        let aligned = [
            0x927c_ec1f, // and sp, x0, -16
            0xd65f_03c0, // ret
        ];
        assert_eq!(found(&aligned, 0), None);
    }

    #[test]
    fn branches_are_followed_and_loops_end() {
        let code = [
            0xb400_0060, // cbz x0, .+12
            0xd100_0400, // sub x0, x0, 1
            0x17ff_fffe, // b .-8
            0xa8c1_7bfd, // ldp x29, x30, [sp], 16
            0xd65f_03c0, // ret
        ];
        assert_eq!(found(&code, 0), Some((31, 16, Some(-16), Some(-8))));
        assert_eq!(follow(&Words(&[0x1400_0000]), 0), Followed::Unknown);
    }

    #[test]
    fn what_ends_the_thread_is_told_apart() {
        let exits = [
            0xd280_0ba8, // mov x8, 93
            0xd400_0001, // svc 0
        ];
        assert_eq!(follow(&Words(&exits), 0), Followed::Exits);
        let calls_on = [0xd280_0808, 0xd400_0001, 0xd65f_03c0];
        assert_eq!(found(&calls_on, 0), Some((31, 0, None, None)));
    }

    #[test]
    fn a_stub_is_a_leaf() {
        // adrp x16, .; ldr x17, [x16, 8]; add x16, x16, 8; br x17
        let stub = [0x9000_0010, 0xf940_0611, 0x9100_2210, 0xd61f_0220];
        for start in [0, 4, 8, 12] {
            assert_eq!(found(&stub, start), Some((31, 0, None, None)));
        }
        assert_eq!(found(&[0xd61f_0000], 0), None);
    }

    #[test]
    fn a_program_starts_up_to_where_it_leaves_its_first_code() {
        // The loader: mov x0, sp; bl; mov x21, x0; br x21; and what lies behind it.
        let loader = [
            0x9100_03e0,
            0x9400_0010,
            0xaa00_03f5,
            0xd61f_02a0,
            0xd503_201f,
        ];
        let starts = |code: &[u32], pc| is_program_start(&Words(code), 0, pc);
        assert_eq!(
            [0, 8, 12, 16].map(|pc| starts(&loader, pc)),
            [true, true, true, false]
        );
        // A program whose call does not return.
        let program = [0x9100_03e0, 0x9400_0010, 0xd503_201f, 0xd65f_03c0];
        assert_eq!(
            [0, 8, 12].map(|pc| starts(&program, pc)),
            [true, true, false]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_code_is_followed_to_an_end(code in proptest::collection::vec(proptest::prelude::any::<u32>(), 0..64)) {
            if let Followed::Returns(rule) = follow(&Words(&code), 0) {
                let base = rule.register();
                proptest::prop_assert!(base == STACK_POINTER || SAVED.contains(&base));
            }
        }
    }
}
