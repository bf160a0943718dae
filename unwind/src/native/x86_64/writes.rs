//! Which general registers an instruction may write. Too many is safe, too few is not.

use super::decode::{Instruction, Map};
use super::symbolic::{RAX, RBX, RCX, RDI, RDX, RSI};

/// A bit for each register, by hardware number.
pub(crate) fn written(instruction: &Instruction) -> u16 {
    let operands = Operands::of(instruction);
    match instruction.map {
        Map::Primary => primary(instruction.opcode, &operands),
        Map::Secondary => secondary(instruction.opcode, &operands),
        Map::Third38 => match instruction.opcode {
            0xf0..=0xff => operands.reg,
            _ => 0,
        },
        Map::Third3a => match instruction.opcode {
            0x14..=0x17 => operands.rm,
            // pcmpestri and pcmpistri count in ecx.
            0x61 | 0x63 => C,
            _ => 0,
        },
        Map::Vector(table) => vector(table, instruction.opcode, &operands),
    }
}

/// The registers that the fields of an instruction name, each as a bit.
struct Operands {
    reg: u16,
    rm: u16,
    in_opcode: u16,
    vvvv: u16,
    /// The `reg` field as a part of the operation.
    operation: u8,
}

impl Operands {
    fn of(instruction: &Instruction) -> Self {
        let bit = |register: u8| 1u16 << (register & 15);
        // Without REX, numbers 4 to 7 of byte operands are ah, ch, dh and bh; both meanings are taken.
        let is_byte = match (instruction.map, instruction.opcode) {
            (Map::Primary, 0xb0..=0xb7) => true,
            (Map::Primary, 0x50..=0x5f | 0x8c | 0x8e | 0x90..=0x97 | 0xb8..=0xbf) => false,
            (Map::Primary, opcode) => opcode & 1 == 0,
            (Map::Secondary, 0x90..=0x9f | 0xb0 | 0xb6 | 0xbe | 0xc0) => true,
            _ => false,
        };
        let either = |register: u8| {
            if is_byte && (5..8).contains(&register) {
                bit(register) | bit(register - 4)
            } else if is_byte && register == 4 && !instruction.has_rex {
                bit(RAX)
            } else {
                bit(register)
            }
        };
        let modrm = instruction.modrm;
        Self {
            // `movzx` and the like have a full register here.
            reg: modrm.map_or(0, |modrm| match instruction.map {
                Map::Secondary => either(modrm.reg) | bit(modrm.reg),
                _ => either(modrm.reg),
            }),
            rm: modrm.and_then(|modrm| modrm.register).map_or(0, either),
            in_opcode: either(instruction.opcode & 7 | instruction.rex_b),
            vvvv: instruction.vvvv.map_or(0, bit),
            operation: modrm.map_or(0, |modrm| modrm.reg & 7),
        }
    }
}

const A: u16 = 1 << RAX;
const C: u16 = 1 << RCX;
const D: u16 = 1 << RDX;
const B: u16 = 1 << RBX;
const STRING: u16 = 1 << RSI | 1 << RDI | C | A;

fn primary(opcode: u8, operands: &Operands) -> u16 {
    match opcode {
        // cmp
        0x38..=0x3d => 0,
        0x00..=0x3f => match opcode & 7 {
            0 | 1 => operands.rm,
            2 | 3 => operands.reg,
            _ => A,
        },
        0x50..=0x5f => operands.in_opcode | 1 << super::symbolic::RSP,
        0x63 | 0x69 | 0x6b | 0x8a | 0x8b | 0x8d => operands.reg,
        0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf => STRING | D,
        0x80..=0x83 => {
            if operands.operation == 7 {
                0
            } else {
                operands.rm
            }
        }
        // test
        0x84 | 0x85 | 0xa8 | 0xa9 => 0,
        0x86 | 0x87 => operands.reg | operands.rm,
        0x88 | 0x89 | 0x8c | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xfe | 0xff => operands.rm,
        0x8f | 0x9c | 0x9d => operands.rm | 1 << super::symbolic::RSP,
        // nop, unless REX names another register.
        0x90 if operands.in_opcode == A => 0,
        0x90..=0x97 => operands.in_opcode | A,
        0xb0..=0xbf => operands.in_opcode,
        0xf6 | 0xf7 => match operands.operation {
            0 | 1 => 0,
            2 | 3 => operands.rm,
            _ => A | D,
        },
        // x87, of which fnstsw writes ax.
        0xd8..=0xdf => A,
        // Flags.
        0xf5 | 0xf8..=0xfd => 0,
        _ => A | D | operands.reg | operands.rm,
    }
}

fn secondary(opcode: u8, operands: &Operands) -> u16 {
    match opcode {
        0x02
        | 0x03
        | 0x2c
        | 0x2d
        | 0x40..=0x4f
        | 0x50
        | 0xaf
        | 0xb2
        | 0xb4..=0xb8
        | 0xbc..=0xbf
        | 0xc5
        | 0xd7 => operands.reg,
        0x00
        | 0x01
        | 0x20
        | 0x21
        | 0x7e
        | 0x90..=0x9f
        | 0xa4
        | 0xa5
        | 0xab..=0xad
        | 0xb3
        | 0xbb
        | 0xae => operands.rm | A | D | C,
        // rdssp; otherwise a hint, such as endbr64.
        0x1e if operands.operation == 1 => operands.rm,
        0xba if operands.operation == 4 => 0,
        0xba => operands.rm,
        0xb0 | 0xb1 => operands.rm | A,
        0xc0 | 0xc1 => operands.rm | operands.reg,
        0xc7 => operands.rm | A | D,
        0xc8..=0xcf => operands.in_opcode,
        0xa2 => A | B | C | D,
        0x05..=0x09 | 0x30..=0x37 => A | B | C | D | 1 << 11,
        0xa0 | 0xa1 | 0xa8 | 0xa9 => 1 << super::symbolic::RSP,
        // Vector instructions and hints.
        _ => 0,
    }
}

fn vector(table: u8, opcode: u8, operands: &Operands) -> u16 {
    match (table, opcode) {
        (1 | 5, 0x2c | 0x2d | 0x78 | 0x79) | (1, 0x50 | 0x93 | 0xc5 | 0xd7) | (3, 0xf0) => {
            operands.reg
        }
        (1 | 5, 0x7e) | (3, 0x14..=0x17) => operands.rm,
        (3, 0x61 | 0x63) => C,
        (2, 0xe0..=0xff) | (9 | 10, _) => operands.reg | operands.rm | operands.vvvv,
        _ => 0,
    }
}
