//! What is known of x86_64 code and of the kernel's frames on it.

mod decode;
mod follow;
mod machine;
mod symbolic;
mod writes;

pub(crate) use machine::X86_64;

use super::rule::SAVED_MAX;
use crate::address::{Avma, Svma};
use crate::arch::Arch;
use crate::memory::{MemoryReader, ReadError};
use crate::registers::Registers;

/// Bytes before a return address that tell whether a call is there: the longest call without its prefixes.
const CALL_BYTES_MAX: usize = 7;

/// [`Arch::stack_pointer`], where a constant is wanted.
const STACK_POINTER: u16 = Arch::X86_64.stack_pointer;
/// The registers of [`Arch::callee_saved`], where a constant is wanted.
const CALLEE_SAVED: [u16; SAVED_MAX] = [3, 6, 12, 13, 14, 15];

/// Where an indirect jump may lead, with control-flow enforcement.
const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];

/// Where the kernel maps the three vsyscalls (arch/x86/include/uapi/asm/vsyscall.h). They are leaves.
const VSYSCALL: std::ops::Range<Avma> = Avma(0xffff_ffff_ff60_0000)..Avma(0xffff_ffff_ff60_1000);

/// `mov rax, 15; syscall`, in the form of glibc and of musl: `rt_sigreturn`, to which the kernel lets a signal handler
/// return. Debuggers know it by these bytes too, so they do not change.
const SIGRETURN: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],
];

/// Whether `code` is a signal trampoline.
fn is_signal_trampoline(code: &[u8]) -> bool {
    SIGRETURN.iter().any(|bytes| code.starts_with(bytes))
}

/// Whether `code` is the system call in a signal trampoline of which `before` are the bytes before it.
fn is_signal_trampoline_call(before: &[u8], code: &[u8]) -> bool {
    SIGRETURN.iter().any(|bytes| {
        let (load, call) = bytes.split_at(bytes.len() - 2);
        code.starts_with(call) && before.ends_with(load)
    })
}

/// `struct ucontext` and the `struct sigcontext` in it, as the kernel lays them on the stack for a handler
/// (arch/x86/include/uapi/asm/sigcontext.h, include/uapi/asm-generic/ucontext.h). The handler's return address lies
/// just below, so that a trampoline finds the context at its stack pointer.
const UCONTEXT_MCONTEXT: u64 = 40;
/// The DWARF numbers of the registers in the order of `struct sigcontext`: r8 to r15, then rdi, rsi, rbp, rbx, rdx,
/// rax, rcx, rsp, rip.
const SIGCONTEXT: [u16; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16];

/// The registers of the code that a signal interrupted, for a trampoline whose stack pointer is `sp`.
///
/// # Errors
/// When the context cannot be read.
fn interrupted<M: MemoryReader + ?Sized>(sp: Avma, memory: &M) -> Result<Registers, ReadError> {
    let mut registers = Registers::unknown(&Arch::X86_64);
    let mut at = sp.0.wrapping_add(UCONTEXT_MCONTEXT);
    for register in SIGCONTEXT {
        registers.set(register, memory.read_u64(Avma(at))?);
        at = at.wrapping_add(8);
    }
    Ok(registers)
}

/// Whether `code` begins as a program does: the ABI asks it to mark the outermost frame by a zero in rbp (System V ABI
/// AMD64 supplement, section 3.4.1).
fn clears_frame_pointer(code: &[u8]) -> bool {
    const XOR_EBP_EBP: &[u8] = &[0x31, 0xed];
    const XOR_RBP_RBP: &[u8] = &[0x48, 0x31, 0xed];
    let code = code.strip_prefix(ENDBR64).unwrap_or(code);
    code.starts_with(XOR_EBP_EBP) || code.starts_with(XOR_RBP_RBP)
}

/// Whether `before` ends with a call, i.e. whether the address after it can be a return address.
fn ends_with_call(before: &[u8]) -> bool {
    is_direct_call(before) || (2..=CALL_BYTES_MAX).any(|bytes| is_indirect_call(before, bytes))
}

fn is_direct_call(before: &[u8]) -> bool {
    before.len() >= 5 && before.get(before.len() - 5) == Some(&0xe8)
}

/// Whether the last `bytes` bytes of `before` are `FF /2` with an operand of just that length.
fn is_indirect_call(before: &[u8], bytes: usize) -> bool {
    let Some(instruction) = before
        .len()
        .checked_sub(bytes)
        .and_then(|at| before.get(at..))
    else {
        return false;
    };
    let [0xff, modrm, operand @ ..] = instruction else {
        return false;
    };
    modrm >> 3 & 7 == 2 && decode::operand_bytes(*modrm, operand.first().copied()) == operand.len()
}

/// Where the direct call leads after which `svma` is the return address; `before` are the bytes before `svma`.
fn direct_call_target(svma: Svma, before: &[u8]) -> Option<Svma> {
    if !is_direct_call(before) {
        return None;
    }
    svma_plus(svma, before.last_chunk().copied())
}

/// The slot that `call [rip + x]` reads its target from, after which `svma` is the return address.
fn call_slot(svma: Svma, before: &[u8]) -> Option<Svma> {
    let is_call_through_slot = matches!(before.last_chunk::<6>()?, [0xff, 0x15, ..]);
    is_call_through_slot.then(|| svma_plus(svma, before.last_chunk().copied()))?
}

/// The slot that the PLT stub with the bytes `code` at `svma` reads its target from.
fn plt_slot(svma: Svma, code: &[u8]) -> Option<Svma> {
    let jump = code.strip_prefix(ENDBR64).unwrap_or(code);
    let jump = jump
        .strip_prefix(&[0xf2])
        .or(jump.strip_prefix(&[0x3e]))
        .unwrap_or(jump);
    let [0xff, 0x25, rest @ ..] = jump else {
        return None;
    };
    let instructions = (code.len() - rest.len() + size_of::<i32>()) as u64;
    svma_plus(
        Svma(svma.0.wrapping_add(instructions)),
        rest.first_chunk().copied(),
    )
}

fn svma_plus(svma: Svma, displacement: Option<[u8; 4]>) -> Option<Svma> {
    let displacement = i32::from_le_bytes(displacement?);
    Some(Svma(svma.0.wrapping_add_signed(i64::from(displacement))))
}

/// How far above the stack pointer the CFA is, for the first instructions of PLT stubs, which lld and others write
/// without call frame information.
fn plt_cfa_offset(before: &[u8], code: &[u8]) -> Option<i32> {
    let code = code.strip_prefix(ENDBR64).unwrap_or(code);
    let is_push_word = |code: &[u8]| matches!(code, [0x68, ..]);
    let is_push_got = |code: &[u8]| matches!(code, [0xff, 0x35, ..]);
    let last = |bytes: usize| {
        before
            .len()
            .checked_sub(bytes)
            .and_then(|at| before.get(at..))
    };
    if is_jump_through_got(code) {
        // The second instruction of the first stub: link map and relocation number have been pushed.
        let pushed = last(6).is_some_and(is_push_got);
        return Some(if pushed { 24 } else { 8 });
    }
    if is_push_got(code) && code.get(6..).is_some_and(is_jump_through_got) {
        return Some(16);
    }
    if is_push_word(code) && code.get(5..).is_some_and(is_jump) {
        return Some(8);
    }
    (is_jump(code) && last(5).is_some_and(is_push_word)).then_some(16)
}

/// `jmp [rip + x]`, also with the `bnd` or `notrack` prefix.
fn is_jump_through_got(code: &[u8]) -> bool {
    matches!(code, [0xff, 0x25, ..] | [0xf2 | 0x3e, 0xff, 0x25, ..])
}

/// `jmp x`, also with the `bnd` prefix.
fn is_jump(code: &[u8]) -> bool {
    matches!(code, [0xe9, ..] | [0xf2, 0xe9, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_stubs_tell_the_slot_they_go_through() {
        assert_eq!(
            call_slot(Svma(0x106), &[0xff, 0x15, 0xfa, 0, 0, 0]),
            Some(Svma(0x200))
        );
        assert_eq!(call_slot(Svma(0x106), &[0xff, 0x14, 0xfa, 0, 0, 0]), None);
        assert_eq!(
            plt_slot(Svma(0x100), &[0xff, 0x25, 0xfa, 0, 0, 0]),
            Some(Svma(0x200))
        );
        let with_prefixes = [
            0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0xf5, 0, 0, 0, 0x90,
        ];
        assert_eq!(plt_slot(Svma(0x100), &with_prefixes), Some(Svma(0x200)));
        assert_eq!(plt_slot(Svma(0x100), &[0xe9, 0, 0, 0, 0]), None);
    }

    #[test]
    fn the_constants_are_those_of_the_table() {
        let arch = Arch::X86_64;
        assert_eq!(CALLEE_SAVED, arch.callee_saved);
    }

    #[test]
    fn calls_of_every_form_are_recognized() {
        let calls: [&[u8]; 9] = [
            &[0xe8, 1, 2, 3, 4],
            &[0xff, 0xd0],
            &[0x41, 0xff, 0xd4],
            &[0xff, 0x10],
            &[0xff, 0x50, 8],
            &[0xff, 0x14, 0xc3],
            &[0xff, 0x54, 0x24, 8],
            &[0xff, 0x15, 1, 2, 3, 4],
            &[0xff, 0x94, 0xc3, 1, 2, 3, 4],
        ];
        for call in calls {
            assert!(ends_with_call(call), "{call:x?}");
        }
        let others: [&[u8]; 6] = [
            &[],
            &[0xe8, 1, 2, 3],
            &[0xff, 0xe0],
            &[0xff, 0x15, 1, 2],
            &[0xff, 0x14],
            &[0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90],
        ];
        for other in others {
            assert!(!ends_with_call(other), "{other:x?}");
        }
        assert_eq!(
            direct_call_target(Svma(0x1005), &[0xe8, 0xfb, 0xff, 0xff, 0xff]),
            Some(Svma(0x1000))
        );
    }

    #[test]
    fn programs_begin_by_clearing_the_frame_pointer() {
        assert!(clears_frame_pointer(&[0xf3, 0x0f, 0x1e, 0xfa, 0x31, 0xed]));
        assert!(clears_frame_pointer(&[0x48, 0x31, 0xed, 0x48]));
        assert!(!clears_frame_pointer(&[0x31, 0xc0]));
    }

    #[test]
    fn trampolines_are_recognized_at_both_instructions() {
        let glibc = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
        assert!(is_signal_trampoline(&glibc));
        assert!(is_signal_trampoline_call(&glibc[..7], &glibc[7..]));
        assert!(!is_signal_trampoline(&glibc[1..]));
        assert!(!is_signal_trampoline_call(&glibc[..6], &glibc[7..]));
    }

    #[test]
    fn plt_stubs_are_known_at_each_instruction() {
        let stub = [0xff, 0x25, 1, 2, 3, 4, 0x68, 1, 0, 0, 0, 0xe9, 0, 0, 0, 0];
        assert_eq!(plt_cfa_offset(&[], &stub), Some(8));
        assert_eq!(plt_cfa_offset(&stub[..6], &stub[6..]), Some(8));
        assert_eq!(plt_cfa_offset(&stub[..11], &stub[11..]), Some(16));
        let first = [0xff, 0x35, 1, 2, 3, 4, 0xff, 0x25, 1, 2, 3, 4];
        assert_eq!(plt_cfa_offset(&[], &first), Some(16));
        assert_eq!(plt_cfa_offset(&first[..6], &first[6..]), Some(24));
        assert_eq!(plt_cfa_offset(&[], &[0x90]), None);
    }
}
