//! A small decoder of x86_64 instructions: how long each is, and what it does to the stack and to control flow.
//!
//! Code without call frame information is mostly written by hand and full of vector instructions, so every encoding
//! must be measured right, but only a dozen forms need to be understood. Tables: Intel SDM volume 2, appendix A, and
//! AMD APM volume 3, appendix A.

use crate::native::machine::INSTRUCTION_BYTES_MAX;

/// Which table an operation is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    /// One byte.
    Primary,
    /// After `0F`.
    Secondary,
    /// After `0F 38`.
    Third38,
    /// After `0F 3A`.
    Third3a,
    /// A VEX, EVEX or XOP encoding, with the number of its table.
    Vector(u8),
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The hardware number of the base register; `None` for RIP or none.
    pub(crate) base: Option<u8>,
    pub(crate) is_indexed: bool,
    pub(crate) displacement: i32,
}

/// The ModRM byte, with the REX (or VEX, EVEX) bits that extend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModRm {
    /// The `reg` field: a register, or a part of the operation.
    pub(crate) reg: u8,
    /// The register operand, if it is not memory.
    pub(crate) register: Option<u8>,
    /// The memory operand, if it is not a register.
    pub(crate) memory: Option<Memory>,
}

/// One decoded instruction. Registers have their hardware numbers (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8...).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) bytes: usize,
    pub(crate) map: Map,
    pub(crate) opcode: u8,
    /// Whether there is a REX prefix, so that 4 to 7 are never ah, ch, dh and bh.
    pub(crate) has_rex: bool,
    /// Whether the operand has 64 bits (REX.W).
    pub(crate) is_wide: bool,
    /// Whether the operand has 16 bits (66).
    pub(crate) is_short: bool,
    /// The low bit of a register in the opcode byte or `rm` (REX.B, shifted).
    pub(crate) rex_b: u8,
    pub(crate) modrm: Option<ModRm>,
    /// Sign-extended; a relative jump's distance.
    pub(crate) immediate: i64,
    /// The register that VEX.vvvv names, which BMI instructions write or read.
    pub(crate) vvvv: Option<u8>,
}

/// How many bytes follow `modrm` as SIB and displacement; `sib` is the byte after it.
pub(crate) fn operand_bytes(modrm: u8, sib: Option<u8>) -> usize {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if has_sib && sib.is_some_and(|sib| sib & 7 == 5) => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    usize::from(has_sib) + displacement
}

/// Decodes the instruction at the start of `code`; `None` when it is none, is cut off, or is not known.
pub(crate) fn decode(code: &[u8]) -> Option<Instruction> {
    Decoder {
        code: code.get(..INSTRUCTION_BYTES_MAX).unwrap_or(code),
        at: 0,
    }
    .instruction()
}

/// What stands before the operation.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    rex: u8,
}

impl Prefixes {
    fn is_wide(self) -> bool {
        self.rex & 8 != 0
    }
}

/// The size of an immediate operand.
#[derive(Clone, Copy)]
enum Immediate {
    None,
    Byte,
    Word,
    /// 16 bits after prefix 66, else 32.
    Operand,
    /// 64 bits with REX.W, else as `Operand`.
    Full,
    /// A jump's distance, of 32 bits whatever the prefixes.
    Distance,
    /// An absolute address: 64 bits, or 32 after prefix 67.
    Address,
    /// `enter`: a word and a byte.
    WordByte,
}

struct Decoder<'a> {
    code: &'a [u8],
    at: usize,
}

impl Decoder<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.code.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.code.get(self.at).copied()
    }

    fn instruction(&mut self) -> Option<Instruction> {
        let mut prefixes = Prefixes::default();
        // Bounded by the length of the longest instruction.
        let opcode = loop {
            let byte = self.next()?;
            match byte {
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3 => {}
                0x40..=0x4f => {}
                opcode => break opcode,
            }
            // REX counts only as the last prefix.
            prefixes.rex = if byte & 0xf0 == 0x40 { byte } else { 0 };
        };
        match opcode {
            0x0f => self.secondary(prefixes),
            0xc4 | 0xc5 | 0x62 => self.vector(opcode),
            // XOP: `pop r/m` has a zero where XOP has its table number, which is 8 or more.
            0x8f if self.peek()? & 0x1f >= 8 => self.vector(opcode),
            opcode => self.primary(opcode, prefixes),
        }
    }

    fn primary(&mut self, opcode: u8, prefixes: Prefixes) -> Option<Instruction> {
        let (has_modrm, immediate) = primary_form(opcode)?;
        let modrm = if has_modrm { Some(self.peek()?) } else { None };
        // `test` is the one operation of these groups with an immediate.
        let immediate = match (opcode, modrm) {
            (0xf6, Some(modrm)) if modrm >> 3 & 7 < 2 => Immediate::Byte,
            (0xf7, Some(modrm)) if modrm >> 3 & 7 < 2 => Immediate::Operand,
            _ => immediate,
        };
        self.finish(Map::Primary, opcode, prefixes, has_modrm, immediate)
    }

    fn secondary(&mut self, prefixes: Prefixes) -> Option<Instruction> {
        match self.next()? {
            0x38 => {
                let opcode = self.next()?;
                self.finish(Map::Third38, opcode, prefixes, true, Immediate::None)
            }
            0x3a => {
                let opcode = self.next()?;
                self.finish(Map::Third3a, opcode, prefixes, true, Immediate::Byte)
            }
            opcode => {
                let (has_modrm, immediate) = secondary_form(opcode)?;
                self.finish(Map::Secondary, opcode, prefixes, has_modrm, immediate)
            }
        }
    }

    /// VEX (`C5`, `C4`), EVEX (`62`) and XOP (`8F`).
    fn vector(&mut self, escape: u8) -> Option<Instruction> {
        let first = self.next()?;
        let mut prefixes = Prefixes::default();
        let rex_of = |byte: u8| !byte >> 5 & 7;
        let (table, vvvv) = match escape {
            0xc5 => {
                prefixes.rex = 0x40 | (!first >> 7) << 2;
                (1, !first >> 3 & 15)
            }
            0xc4 | 0x8f => {
                let second = self.next()?;
                prefixes.rex = 0x40 | rex_of(first) | second >> 7 << 3;
                (first & 0x1f, !second >> 3 & 15)
            }
            _ => {
                let second = self.next()?;
                self.next()?;
                prefixes.rex = 0x40 | rex_of(first) | second >> 7 << 3;
                // Table 4 holds APX's extended forms of old instructions, with immediates of their own.
                (first & 7, !second >> 3 & 15)
            }
        };
        let opcode = self.next()?;
        let (has_modrm, immediate) = vector_form(escape, table, opcode)?;
        let mut instruction =
            self.finish(Map::Vector(table), opcode, prefixes, has_modrm, immediate)?;
        instruction.vvvv = Some(vvvv);
        Some(instruction)
    }

    fn finish(
        &mut self,
        map: Map,
        opcode: u8,
        prefixes: Prefixes,
        has_modrm: bool,
        immediate: Immediate,
    ) -> Option<Instruction> {
        let modrm = if has_modrm {
            Some(self.modrm(prefixes)?)
        } else {
            None
        };
        let immediate = self.immediate(immediate, prefixes)?;
        Some(Instruction {
            bytes: self.at,
            map,
            opcode,
            has_rex: prefixes.rex != 0,
            is_wide: prefixes.is_wide(),
            is_short: prefixes.operand_size,
            rex_b: (prefixes.rex & 1) << 3,
            modrm,
            immediate,
            vvvv: None,
        })
    }

    fn modrm(&mut self, prefixes: Prefixes) -> Option<ModRm> {
        let modrm = self.next()?;
        let reg = (modrm >> 3 & 7) | (prefixes.rex & 4) << 1;
        let rm = (modrm & 7) | (prefixes.rex & 1) << 3;
        if modrm >> 6 == 3 {
            return Some(ModRm {
                reg,
                register: Some(rm),
                memory: None,
            });
        }
        let rest = operand_bytes(modrm, self.peek());
        let has_sib = modrm & 7 == 4;
        let sib = if has_sib { Some(self.next()?) } else { None };
        let displacement_bytes = rest - usize::from(has_sib);
        let displacement = self.signed(displacement_bytes)?;
        let base = match sib {
            Some(sib) => {
                (modrm >> 6 != 0 || sib & 7 != 5).then_some((sib & 7) | (prefixes.rex & 1) << 3)
            }
            None => (modrm >> 6 != 0 || modrm & 7 != 5).then_some(rm),
        };
        Some(ModRm {
            reg,
            register: None,
            memory: Some(Memory {
                base,
                is_indexed: sib.is_some_and(|sib| (sib >> 3 & 7) | (prefixes.rex & 2) << 2 != 4),
                displacement: i32::try_from(displacement).ok()?,
            }),
        })
    }

    fn immediate(&mut self, immediate: Immediate, prefixes: Prefixes) -> Option<i64> {
        let operand = if prefixes.operand_size && !prefixes.is_wide() {
            2
        } else {
            4
        };
        let bytes = match immediate {
            Immediate::None => 0,
            Immediate::Byte => 1,
            Immediate::Word => 2,
            Immediate::Operand => operand,
            Immediate::Full if prefixes.is_wide() => 8,
            Immediate::Full => operand,
            Immediate::Distance => 4,
            Immediate::Address if prefixes.address_size => 4,
            Immediate::Address => 8,
            Immediate::WordByte => 3,
        };
        self.signed(bytes)
    }

    /// The next `bytes` bytes, at most eight, as a little-endian number with sign.
    fn signed(&mut self, bytes: usize) -> Option<i64> {
        let end = self.at.checked_add(bytes)?;
        let taken = self.code.get(self.at..end)?;
        self.at = end;
        let is_negative = taken.last().is_some_and(|last| last & 0x80 != 0);
        let mut word = if is_negative { [0xff; 8] } else { [0; 8] };
        word.get_mut(..bytes)?.copy_from_slice(taken);
        Some(i64::from_le_bytes(word))
    }
}

/// Whether a one-byte operation has a ModRM byte, and its immediate; `None` for what is invalid in 64-bit code.
fn primary_form(opcode: u8) -> Option<(bool, Immediate)> {
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => (true, Immediate::None),
            4 => (false, Immediate::Byte),
            5 => (false, Immediate::Operand),
            _ => return None,
        },
        0x50..=0x5f | 0x6c..=0x6f | 0x90..=0x99 | 0x9b..=0x9f => (false, Immediate::None),
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xf6 | 0xf7 | 0xfe | 0xff => {
            (true, Immediate::None)
        }
        0x68 | 0xa9 => (false, Immediate::Operand),
        0x69 | 0x81 | 0xc7 => (true, Immediate::Operand),
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe7 | 0xeb => {
            (false, Immediate::Byte)
        }
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => (true, Immediate::Byte),
        0xa0..=0xa3 => (false, Immediate::Address),
        0xa4..=0xa7
        | 0xaa..=0xaf
        | 0xc3
        | 0xc9
        | 0xcb
        | 0xcc
        | 0xcf
        | 0xd7
        | 0xec..=0xef
        | 0xf1
        | 0xf4
        | 0xf5
        | 0xf8..=0xfd => (false, Immediate::None),
        0xb8..=0xbf => (false, Immediate::Full),
        0xc2 | 0xca => (false, Immediate::Word),
        0xc8 => (false, Immediate::WordByte),
        0xe8 | 0xe9 => (false, Immediate::Distance),
        _ => return None,
    })
}

/// As [`primary_form`], after `0F`. Moves to and from control registers are refused: they do not obey ModRM's mode.
fn secondary_form(opcode: u8) -> Option<(bool, Immediate)> {
    Some(match opcode {
        0x04
        | 0x0a
        | 0x0c
        | 0x20..=0x27
        | 0x36
        | 0x39
        | 0x3b..=0x3f
        | 0x7a
        | 0x7b
        | 0xa6
        | 0xa7 => {
            return None;
        }
        0x05..=0x09
        | 0x0b
        | 0x0e
        | 0x30..=0x37
        | 0x77
        | 0xa0..=0xa2
        | 0xa8..=0xaa
        | 0xc8..=0xcf => (false, Immediate::None),
        0x80..=0x8f => (false, Immediate::Distance),
        0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => (true, Immediate::Byte),
        _ => (true, Immediate::None),
    })
}

/// As [`primary_form`], for VEX, EVEX and XOP.
fn vector_form(escape: u8, table: u8, opcode: u8) -> Option<(bool, Immediate)> {
    Some(match (escape, table) {
        (0xc4 | 0xc5, 1) if opcode == 0x77 => (false, Immediate::None),
        (0xc4 | 0xc5 | 0x62, 1) => match opcode {
            0x70..=0x73 | 0xc2 | 0xc4..=0xc6 => (true, Immediate::Byte),
            _ => (true, Immediate::None),
        },
        (0xc4 | 0x62, 2) | (0x62, 5 | 6) | (0x8f, 9) => (true, Immediate::None),
        (0xc4 | 0x62, 3) | (0x8f, 8) => (true, Immediate::Byte),
        (0x8f, 10) => (true, Immediate::Operand),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register};
    use proptest::prelude::*;

    use super::super::symbolic::{Flow, State};
    use super::super::writes::written;
    use super::*;

    /// The machine code of this test and of the C library under it.
    fn real_code() -> Vec<Vec<u8>> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let code: Vec<_> = maps
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields[1].contains('x') && fields.len() == 6)
            .filter_map(|fields| {
                let (start, end) = fields[0].split_once('-')?;
                let hex = |text| usize::from_str_radix(text, 16).ok();
                let offset = hex(fields[2])?;
                let bytes = std::fs::read(fields[5]).ok()?;
                let end = offset + hex(end)? - hex(start)?;
                Some(bytes[offset..end.min(bytes.len())].to_vec())
            })
            .collect();
        assert!(code.len() >= 2, "{maps}");
        code
    }

    fn general_register(register: Register) -> Option<u16> {
        let full = register.full_register();
        register
            .is_gpr()
            .then(|| 1 << (full as usize - Register::RAX as usize))
    }

    /// The general registers that `iced` says are written.
    fn written_by(
        factory: &mut InstructionInfoFactory,
        instruction: &iced_x86::Instruction,
    ) -> u16 {
        factory
            .info(instruction)
            .used_registers()
            .iter()
            .filter(|used| {
                !matches!(
                    used.access(),
                    OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
                )
            })
            .filter_map(|used| general_register(used.register()))
            .fold(0, |mask, bit| mask | bit)
    }

    #[test]
    fn real_code_is_measured_as_by_a_full_decoder() {
        let mut count = 0;
        for code in real_code() {
            let mut decoder = Decoder::new(64, &code, DecoderOptions::NONE);
            while decoder.can_decode() {
                let at = decoder.position();
                let expected = decoder.decode();
                if expected.is_invalid() {
                    continue;
                }
                let found = decode(&code[at..]).map(|found| found.bytes);
                let bytes = &code[at..at + expected.len()];
                assert_eq!(
                    found,
                    Some(expected.len()),
                    "{bytes:02x?} {:?}",
                    expected.code()
                );
                count += 1;
            }
        }
        assert!(count > 100_000, "{count}");
    }

    #[test]
    fn no_write_to_a_register_is_overlooked_in_real_code() {
        let mut overlooked = std::collections::BTreeSet::new();
        let mut factory = InstructionInfoFactory::new();
        for code in real_code() {
            let mut decoder = Decoder::new(64, &code, DecoderOptions::NONE);
            while decoder.can_decode() {
                let at = decoder.position();
                let expected = decoder.decode();
                if !expected.is_invalid() {
                    overlooked.extend(overlooked_write(&mut factory, &expected, &code[at..]));
                }
            }
        }
        assert!(overlooked.is_empty(), "{overlooked:#?}");
    }

    /// The name of the instruction, if it writes a register and we would go on as if it had not.
    fn overlooked_write(
        factory: &mut InstructionInfoFactory,
        expected: &iced_x86::Instruction,
        code: &[u8],
    ) -> Option<String> {
        let instruction = decode(code)?;
        // The stack pointer is what it was when a call returns.
        if matches!(instruction.opcode, 0xe8 | 0xff) && instruction.map == Map::Primary {
            return None;
        }
        let missed = written_by(factory, expected) & !written(&instruction);
        // Understood rather than looked up: then the registers are no longer what they were, or the path ends.
        let mut state = State::new();
        let flow = state.execute(&instruction);
        let unchanged = State::new();
        let overlooked = (0u8..16)
            .filter(|register| missed & 1 << register != 0)
            .any(|register| state.get(register) == unchanged.get(register));
        let goes_on = matches!(flow, Flow::Next | Flow::Branch);
        (goes_on && overlooked).then(|| format!("{:?}", expected.code()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn what_both_decode_they_measure_alike(code in prop::array::uniform16(any::<u8>())) {
            let mut decoder = Decoder::new(64, &code, DecoderOptions::NONE);
            let expected = decoder.decode();
            if let Some(found) = decode(&code).filter(|_| !expected.is_invalid()) {
                prop_assert_eq!(found.bytes, expected.len(), "{:?}", expected.code());
                let mut factory = InstructionInfoFactory::new();
                prop_assert_eq!(overlooked_write(&mut factory, &expected, &code), None);
            }
        }
    }
}
