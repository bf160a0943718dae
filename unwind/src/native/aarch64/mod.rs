//! What is known of aarch64 code and of the kernel's frames on it.
//!
//! Encodings: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter C4.

mod follow;
mod machine;
mod symbolic;

pub(crate) use machine::Aarch64;
use symbolic::{Flow, flow};

use crate::address::{Avma, Svma};
use crate::arch::Arch;
use crate::memory::{MemoryReader, ReadError};
use crate::registers::Registers;

/// Every instruction has this many bytes.
const INSTRUCTION_BYTES: usize = 4;

/// DWARF's numbers, which are the hardware's too.
const FRAME_POINTER: u16 = 29;
const LINK: u16 = 30;
const STACK_POINTER: u16 = 31;

/// `mov x8, 139` and `svc 0`: `rt_sigreturn`, to which the kernel lets a signal handler return: its own code in the vDSO
/// (arch/arm64/kernel/vdso/sigreturn.S), and that of C libraries. Debuggers know it by these instructions too.
const SIGRETURN: [u32; 2] = [0xd280_1168, SVC_0];

const SVC_0: u32 = 0xd400_0001;

/// The instruction that `code` begins with.
fn first(code: &[u8]) -> Option<u32> {
    code.first_chunk().copied().map(u32::from_le_bytes)
}

/// The instruction that `before` ends with.
fn last(before: &[u8]) -> Option<u32> {
    before.last_chunk().copied().map(u32::from_le_bytes)
}

/// Whether `instruction` is `bti`, with any operand: where an indirect jump may lead.
fn is_bti(instruction: u32) -> bool {
    instruction & !0xc0 == 0xd503_241f
}

fn is_signal_trampoline(code: &[u8]) -> bool {
    let second = code.get(INSTRUCTION_BYTES..).and_then(first);
    first(code) == Some(SIGRETURN[0]) && second == Some(SIGRETURN[1])
}

/// In `struct rt_sigframe` (arch/arm64/kernel/signal.c), which the kernel lays at the stack pointer for a handler: 128
/// bytes of siginfo, then the ucontext with 176 bytes before its `struct sigcontext` (arch/arm64/include/uapi/asm), in
/// which the address of a fault comes first, then x0 to x30, the stack pointer, and the PC.
const SIGFRAME_REGISTERS: u64 = 128 + 176 + 8;

fn interrupted<M: MemoryReader + ?Sized>(sp: Avma, memory: &M) -> Result<Registers, ReadError> {
    let mut registers = Registers::unknown(&Arch::AARCH64);
    let mut at = sp.0.wrapping_add(SIGFRAME_REGISTERS);
    for register in 0..=Arch::AARCH64.return_address {
        registers.set(register, memory.read_u64(Avma(at))?);
        at = at.wrapping_add(8);
    }
    Ok(registers)
}

/// Whether `instruction` is a call: `bl`, `blr`, or one of those that check the pointer they call (`blraa` and others).
fn is_call(instruction: u32) -> bool {
    is_direct_call(instruction)
        || instruction & 0xffff_fc1f == 0xd63f_0000
        || instruction & 0xfeff_f800 == 0xd63f_0800
}

fn is_direct_call(instruction: u32) -> bool {
    instruction & 0xfc00_0000 == 0x9400_0000
}

/// Where the `b` or `bl` at `svma` leads.
fn branch_target(svma: u64, instruction: u32) -> u64 {
    svma.wrapping_add_signed(signed(instruction, 0, 26) * 4)
}

fn direct_call_target(svma: Svma, before: &[u8]) -> Option<Svma> {
    let instruction = last(before).filter(|instruction| is_direct_call(*instruction))?;
    let at = svma.0.checked_sub(INSTRUCTION_BYTES as u64)?;
    Some(Svma(branch_target(at, instruction)))
}

/// The instructions of `code`, which lies at `start`, and where each is.
fn instructions(code: &[u8], start: Svma) -> impl Iterator<Item = (u64, u32)> {
    let words = code.as_chunks().0.iter().copied().map(u32::from_le_bytes);
    let addresses =
        (0u64..).map(move |index| start.0.wrapping_add(index * INSTRUCTION_BYTES as u64));
    addresses.zip(words)
}

/// The jumps in `code`, which lies at `start`: where each stands, and where it leads.
pub(crate) fn jumps(code: &[u8], start: Svma) -> impl Iterator<Item = (Svma, Svma)> {
    instructions(code, start).filter_map(|(at, instruction)| {
        let target = match flow(instruction)? {
            Flow::Jump => branch_target(at, instruction),
            Flow::Branch(distance) => at.wrapping_add_signed(distance),
            _ => return None,
        };
        Some((Svma(at), Svma(target)))
    })
}

/// The direct calls in `code`, as [`jumps`] gives jumps.
pub(crate) fn calls(code: &[u8], start: Svma) -> impl Iterator<Item = (Svma, Svma)> {
    instructions(code, start)
        .filter(|(_, instruction)| is_direct_call(*instruction))
        .map(|(at, instruction)| (Svma(at), Svma(branch_target(at, instruction))))
}

/// Where `code`, which lies at `start`, makes the address `of`: by `adr`, or by `adrp` and an `add` to the same register not
/// far behind it.
pub(crate) fn references(code: &[u8], start: Svma, of: Svma) -> impl Iterator<Item = Svma> {
    /// Compilers put other instructions between.
    const BETWEEN_MAX: usize = 16;
    instructions(code, start).filter_map(move |(at, instruction)| {
        let register = instruction & 31;
        let is_made = match instruction & 0x9f00_0000 {
            0x1000_0000 => at.wrapping_add_signed(immediate_of_adr(instruction)) == of.0,
            0x9000_0000 if page_of_adrp(at, instruction) == of.0 & !0xfff => {
                let next = at
                    .wrapping_sub(start.0)
                    .wrapping_add(INSTRUCTION_BYTES as u64);
                let behind = usize::try_from(next)
                    .ok()
                    .and_then(|next| code.get(next..))?;
                // add x, register, low bits of the address
                let low = u32::try_from(of.0 & 0xfff).ok()?;
                let add = 0x9100_0000 | low << 10 | register << 5;
                let near = instructions(behind, start).take(BETWEEN_MAX);
                near.map(|(_, instruction)| instruction & !31)
                    .any(|instruction| instruction == add)
            }
            _ => false,
        };
        is_made.then_some(Svma(at))
    })
}

/// The number in an `adr` or `adrp`.
fn immediate_of_adr(instruction: u32) -> i64 {
    signed(instruction, 5, 19) << 2 | i64::from(instruction >> 29 & 3)
}

/// What the `adrp` at `at` makes.
fn page_of_adrp(at: u64, instruction: u32) -> u64 {
    (at & !0xfff).wrapping_add_signed(immediate_of_adr(instruction) << 12)
}

/// The slot of a PLT stub: `adrp x16, page`, then `ldr x17, [x16, n]`; before them there may be a `bti`.
fn plt_slot(svma: Svma, code: &[u8]) -> Option<Svma> {
    let has_bti = first(code).is_some_and(is_bti);
    let skipped = if has_bti { INSTRUCTION_BYTES } else { 0 };
    let page = first(code.get(skipped..)?)?;
    let load = first(code.get(skipped + INSTRUCTION_BYTES..)?)?;
    if page & 0x9f00_001f != 0x9000_0010 || load & 0xffc0_03ff != 0xf940_0211 {
        return None;
    }
    let page = page_of_adrp(svma.0.wrapping_add(skipped as u64), page);
    Some(Svma(page.wrapping_add(u64::from(load >> 10 & 0xfff) * 8)))
}

/// The field of `bits` bits at `low`, as a signed number.
fn signed(instruction: u32, low: u32, bits: u32) -> i64 {
    let shifted = instruction << (32 - bits - low);
    i64::from(shifted.cast_signed() >> (32 - bits))
}

/// Return addresses may be signed (PAuth): the signature is in the bits above those of user addresses, of which there are
/// 48 unless a program asks for more, with bit 55 as in the address (Arm ARM, D8.10). One in the kernel's half is none of
/// code that a walk may come to, and stays as it is.
#[inline]
pub(crate) fn without_signature(word: u64) -> u64 {
    const IS_KERNEL: u64 = 1 << 55;
    const USER_ADDRESS: u64 = (1 << 48) - 1;
    match word & IS_KERNEL {
        0 => word & USER_ADDRESS,
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOP: u32 = 0xd503_201f;

    fn bytes(instructions: &[u32]) -> Vec<u8> {
        instructions
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    #[test]
    fn calls_of_every_form_are_recognized() {
        // bl .+8; blr x1; blraaz x1; blrabz x1; blraa x1, x2; blrab x1, sp
        let calls = [
            0x9400_0002,
            0xd63f_0020,
            0xd63f_083f,
            0xd63f_0c3f,
            0xd73f_0822,
            0xd73f_0c3f,
        ];
        for call in calls {
            assert!(is_call(call), "{call:x}");
        }
        // b .+8; br x1; ret; retaa; svc 0; braa x1, x2
        let others = [
            0x1400_0002,
            0xd61f_0020,
            0xd65f_03c0,
            0xd65f_0bff,
            SVC_0,
            0xd71f_0822,
        ];
        for other in others {
            assert!(!is_call(other), "{other:x}");
        }
        let before = bytes(&[NOP, 0x97ff_ffff]);
        assert_eq!(
            direct_call_target(Svma(0x1008), &before),
            Some(Svma(0x1000))
        );
    }

    #[test]
    fn stubs_tell_the_slot_they_go_through() {
        // adrp x16, .+0x10000; ldr x17, [x16, 0xf90]
        let stub = [0x9000_0090, 0xf947_ca11];
        assert_eq!(plt_slot(Svma(0x1004), &bytes(&stub)), Some(Svma(0x11f90)));
        let with_bti = [0xd503_245f, 0x9000_0090, 0xf947_ca11];
        assert_eq!(
            plt_slot(Svma(0xffc), &bytes(&with_bti)),
            Some(Svma(0x11f90))
        );
        assert_eq!(
            plt_slot(Svma(0x1004), &bytes(&[0x9000_0091, 0xf947_ca11])),
            None
        );
    }

    #[test]
    fn addresses_are_made_in_one_step_or_in_two() {
        let code = bytes(&[
            0x1000_0041, // adr x1, .+8
            0xb000_0002, // adrp x2, the next page
            0xaa01_03e0, // mov x0, x1
            0x9100_2040, // add x0, x2, 8
        ]);
        let found = |of| references(&code, Svma(0x1000), Svma(of)).collect::<Vec<_>>();
        assert_eq!(found(0x1008), [Svma(0x1000)]);
        assert_eq!(found(0x2008), [Svma(0x1004)]);
        assert_eq!(found(0x2010), []);
    }

    #[test]
    fn trampolines_are_recognized() {
        assert!(is_signal_trampoline(&bytes(&SIGRETURN)));
        assert!(!is_signal_trampoline(&bytes(&[0xd280_1168, NOP])));
        assert!(!is_signal_trampoline(&bytes(&SIGRETURN[..1])));
    }

    #[test]
    fn signatures_are_taken_off_user_addresses_alone() {
        assert_eq!(without_signature(0x0048_aaaa_1234_5678), 0xaaaa_1234_5678);
        assert_eq!(
            without_signature(0xff00_0000_0040_1000 & !(1 << 55)),
            0x40_1000
        );
        assert_eq!(
            without_signature(0xffff_8000_0008_0000),
            0xffff_8000_0008_0000
        );
    }
}
