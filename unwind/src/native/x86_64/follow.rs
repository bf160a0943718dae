//! Follows code without call frame information to where it returns, and so learns how to unwind it.
//!
//! From the PC of a frame on, whatever path the code takes, it must put the stack pointer back to its return address
//! and the callee-saved registers back to their values before it returns. So the code is read forwards, with symbolic
//! registers ("what rsp was, plus 24"), until one path comes to a `ret`; nothing need be known about where the
//! function begins. That covers a prologue, a body and an epilogue alike.
//!
//! An instruction that is not understood makes the registers that it writes unknown, and ends the path if it writes
//! the stack pointer: what comes out is right or nothing, as far as the path is one that the code can take.

use std::ops::Range;

use rustc_hash::FxHashSet;

use super::decode::{Instruction, Map, decode};
use super::is_signal_trampoline;
use super::symbolic::{Flow, RBP, RSP, State, Value};
use crate::native::machine::{Code, Followed, INSTRUCTION_BYTES_MAX};
use crate::native::rule::Rule;

/// Instructions that are read at most, on all paths together.
const STEPS_MAX: usize = 4096;
/// Longer functions are not read in full.
const FUNCTION_BYTES_MAX: u64 = 1 << 16;
/// Branches that wait to be followed.
const PENDING_MAX: usize = 32;

/// Follows the code from `start` on to where it returns.
pub(crate) fn follow(code: &impl Code, start: u64) -> Followed {
    match explore(code, start, Until::Return) {
        Explored::Returned(rule) => Followed::Returns(rule),
        Explored::Ended { exits: true, .. } => Followed::Exits,
        Explored::Ended { .. } | Explored::Reached(_) => Followed::Unknown,
    }
}

/// The rule at `target` in the function whose first instruction is at `start`; `None` where the stack pointer's
/// distance is not fixed (alloca) or no path leads there.
pub(crate) fn rule_from_entry(code: &impl Code, start: u64, target: u64) -> Option<Rule> {
    match explore(code, start, Until::Address(target)) {
        Explored::Reached(state) => state.rule_from_entry(),
        _ => None,
    }
}

/// Whether no instruction in `function` moves the stack pointer by an amount that only running it tells (alloca).
///
/// All of it is read, not only what paths lead to: what is behind a jump table counts too.
pub(crate) fn has_fixed_stack(code: &impl Code, function: Range<u64>) -> bool {
    let mut at = function.start;
    while at < function.end {
        let Some((instruction, next)) =
            read(code, at).filter(|_| at - function.start < FUNCTION_BYTES_MAX)
        else {
            return false;
        };
        // With nothing but the stack pointer known, whatever else it is set from is unknown.
        let mut state = State::new();
        state.set(
            RBP,
            Value::Plus {
                register: RSP,
                offset: 0,
            },
        );
        state.execute(&instruction);
        if !matches!(state.get(RSP), Value::Plus { register: RSP, .. }) {
            return false;
        }
        at = next;
    }
    true
}

/// The rule for the body of the function at `start`, where its stack is deepest: for code that is reached through a
/// jump table, to which no path leads. A guess, which something else must confirm.
pub(crate) fn rule_of_body(code: &impl Code, start: u64) -> Option<Rule> {
    match explore(code, start, Until::Nothing) {
        Explored::Ended { body, .. } => body?.rule_from_entry(),
        Explored::Returned(_) | Explored::Reached(_) => None,
    }
}

/// The rule at `start` if nothing but an epilogue is left from there: pops, the stack pointer put back, and the return;
/// and rbp is the caller's already. Until then the tables are right, and know more than this code shows.
pub(crate) fn epilogue(code: &impl Code, start: u64) -> Option<Rule> {
    const INSTRUCTIONS_MAX: usize = 12;
    let mut state = State::new();
    let mut at = start;
    for _ in 0..INSTRUCTIONS_MAX {
        let (instruction, next) = read(code, at)?;
        let sets_sp = instruction.modrm.is_some_and(|modrm| modrm.reg == RSP);
        let adds_to_sp = instruction
            .modrm
            .is_some_and(|modrm| modrm.register == Some(RSP));
        let restores_rbp = matches!(instruction.opcode, 0x58..=0x5f | 0xc9)
            && (instruction.opcode & 7 | instruction.rex_b == RBP || instruction.opcode == 0xc9);
        let is_of_epilogue = instruction.map == Map::Primary
            && !restores_rbp
            && match instruction.opcode {
                0x58..=0x5f | 0xc3 => true,
                0x8b | 0x8d => sets_sp,
                0x89 | 0x81 | 0x83 => adds_to_sp,
                _ => false,
            };
        match state.execute(&instruction) {
            _ if !is_of_epilogue => return None,
            Flow::Next => at = next,
            Flow::Return => return state.rule(),
            _ => return None,
        }
    }
    None
}

/// The code at the entry point of a dynamic loader (glibc's `_start` and `_dl_start_user`): its calls come back, the
/// last of them made with rbp cleared, and it ends by a jump to the program's own entry point, in a register. `None`
/// where the code at `entry` is not so: what lies behind a call that does not come back is no part of it.
pub(crate) fn loader_start(code: &impl Code, entry: u64) -> Option<Range<u64>> {
    const INSTRUCTIONS_MAX: usize = 48;
    let mut state = State::new();
    let mut at = entry;
    let mut clears_rbp = false;
    for _ in 0..INSTRUCTIONS_MAX {
        let (instruction, next) = read(code, at)?;
        let is_jump_to_register = instruction.map == Map::Primary
            && instruction.opcode == 0xff
            && instruction
                .modrm
                .is_some_and(|modrm| modrm.reg & 7 == 4 && modrm.register.is_some());
        if is_jump_to_register {
            return clears_rbp.then_some(entry..next);
        }
        if state.execute(&instruction) != Flow::Next {
            return None;
        }
        clears_rbp |= state.get(RBP) == Value::Constant(0);
        at = next;
    }
    None
}

/// When to stop following paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// At the first that returns.
    Return,
    /// At this address.
    Address(u64),
    /// When all have ended.
    Nothing,
}

/// What came of all paths from one address. `body` is the state where the stack was deepest first,
/// if its depth was known everywhere.
enum Explored {
    Returned(Rule),
    /// The target.
    Reached(State),
    Ended {
        exits: bool,
        body: Option<State>,
    },
}

/// Follows all paths from `start` on.
fn explore(code: &impl Code, start: u64, until: Until) -> Explored {
    let mut seen = FxHashSet::default();
    let mut body = Some(State::new());
    let mut pending = vec![(start, State::new())];
    let mut exits = false;
    let mut steps = 0;
    while let Some((mut at, mut state)) = pending.pop() {
        // Each instruction is read once, on whatever path comes to it first, so loops end.
        while steps < STEPS_MAX && seen.insert(at) {
            if until == Until::Address(at) {
                return Explored::Reached(state);
            }
            body = body.and_then(|body| body.deeper(&state));
            steps += 1;
            let Some((instruction, next)) = read(code, at) else {
                break;
            };
            if let Some(helper) = helper_called(code, &instruction, next) {
                steps += helper.instructions;
                state.call_helper(helper.changed);
                at = next;
                continue;
            }
            match state.execute(&instruction) {
                Flow::Next => at = next,
                Flow::Jump => at = next.wrapping_add_signed(instruction.immediate),
                Flow::Branch => {
                    state.branch();
                    if pending.len() < PENDING_MAX {
                        let target = next.wrapping_add_signed(instruction.immediate);
                        pending.push((target, state.clone()));
                    }
                    at = next;
                }
                Flow::Return => match state.rule() {
                    Some(rule) if until == Until::Return => return Explored::Returned(rule),
                    _ => break,
                },
                Flow::Exit => {
                    exits |= state.is_straight();
                    break;
                }
                Flow::Stop => break,
            }
        }
    }
    Explored::Ended { exits, body }
}

/// A function that runs straight to its return.
struct Helper {
    /// The registers it does not leave as they are, as bits.
    changed: u16,
    instructions: usize,
}

/// The helper that `instruction`, before `next`, calls. Code written by hand relies on what its own helpers leave alone,
/// whatever other functions may do.
fn helper_called(code: &impl Code, instruction: &Instruction, next: u64) -> Option<Helper> {
    const INSTRUCTIONS_MAX: usize = 256;
    if instruction.map != Map::Primary || instruction.opcode != 0xe8 {
        return None;
    }
    let mut state = State::new();
    let mut at = next.wrapping_add_signed(instruction.immediate);
    for instructions in 1..=INSTRUCTIONS_MAX {
        let (instruction, next) = read(code, at)?;
        match state.execute(&instruction) {
            Flow::Next => at = next,
            Flow::Return => {
                return Some(Helper {
                    changed: state.changed(),
                    instructions,
                });
            }
            _ => return None,
        }
    }
    None
}

/// The instruction at `at`, and the address of the next.
fn read(code: &impl Code, at: u64) -> Option<(Instruction, u64)> {
    let mut bytes = [0; INSTRUCTION_BYTES_MAX];
    let available = code.fetch(at, &mut bytes);
    let bytes = bytes.get(..available)?;
    if is_signal_trampoline(bytes) {
        return None;
    }
    let instruction = decode(bytes)?;
    Some((instruction, at.checked_add(instruction.bytes as u64)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Code for &[u8] {
        fn fetch(&self, at: u64, into: &mut [u8; INSTRUCTION_BYTES_MAX]) -> usize {
            let code = usize::try_from(at).ok().and_then(|at| self.get(at..));
            let code = code.unwrap_or_default();
            let bytes = code.len().min(into.len());
            into[..bytes].copy_from_slice(&code[..bytes]);
            bytes
        }
    }

    #[test]
    fn a_loader_starts_up_to_the_jump_into_the_program() {
        let loader: &[&[u8]] = &[
            &[0x48, 0x89, 0xe7],             // mov rdi, rsp
            &[0xe8, 0, 0, 0, 0],             // call _dl_start
            &[0x49, 0x89, 0xc4],             // mov r12, rax
            &[0x48, 0x8b, 0x14, 0x24],       // mov rdx, [rsp]
            &[0x49, 0x89, 0xe5],             // mov r13, rsp
            &[0x48, 0x83, 0xe4, 0xf0],       // and rsp, -16
            &[0x49, 0x8d, 0x4c, 0xd5, 0x10], // lea rcx, [r13+rdx*8+16]
            &[0x31, 0xed],                   // xor ebp, ebp
            &[0xe8, 0, 0, 0, 0],             // call _dl_init
            &[0x4c, 0x89, 0xec],             // mov rsp, r13
            &[0x41, 0xff, 0xe4],             // jmp r12
        ];
        let code = loader.concat();
        let bytes = code.len() as u64;
        assert_eq!(loader_start(&&code[..], 0), Some(0..bytes));
        let with_a_branch = [&code[..8], &[0x74, 0], &code[8..]].concat();
        assert_eq!(loader_start(&&with_a_branch[..], 0), None);
    }

    #[test]
    fn what_lies_behind_the_call_that_starts_a_program_is_not_its_start() {
        let hlt: &[u8] = &[0x31, 0xed, 0x48, 0x89, 0xe7, 0xe8, 0, 0, 0, 0, 0xf4];
        assert_eq!(loader_start(&hlt, 0), None);
        let next_function: &[u8] = &[0x31, 0xed, 0xe8, 0, 0, 0, 0, 0x53, 0x5b, 0xc3];
        assert_eq!(loader_start(&next_function, 0), None);
    }

    #[test]
    fn an_epilogue_is_asked_only_when_rbp_is_the_callers() {
        // pop rbx; pop r10; pop rbp; lea rsp, [r10-8]; ret
        let code: &[u8] = &[0x5b, 0x41, 0x5a, 0x5d, 0x49, 0x8d, 0x62, 0xf8, 0xc3];
        assert_eq!(epilogue(&code, 0), None);
        assert_eq!(epilogue(&code, 3), None);
        assert!(epilogue(&code, 4).is_some_and(|rule| rule.register() == 10));
    }

    #[test]
    fn what_a_helper_leaves_alone_is_known_after_its_call() {
        let keeps_stack_in_rcx = |helper: &[u8]| {
            // call 0x20; mov rsp, rcx; ret
            let mut code = vec![0xe8, 0x1b, 0, 0, 0, 0x48, 0x89, 0xcc, 0xc3];
            code.resize(0x20, 0xcc);
            code.extend(helper);
            follow(&&code[..], 0)
        };
        const RCX: u16 = 2; // DWARF's number
        let lea_rax = [0x48, 0x8d, 0x47, 0x01, 0xc3];
        let followed = keeps_stack_in_rcx(&lea_rax);
        assert!(matches!(followed, Followed::Returns(rule) if rule.register() == RCX));
        let xor_ecx = [0x31, 0xc9, 0xc3];
        assert_eq!(keeps_stack_in_rcx(&xor_ecx), Followed::Unknown);
        let with_a_branch = [0x74, 0x00, 0xc3];
        assert_eq!(keeps_stack_in_rcx(&with_a_branch), Followed::Unknown);
    }
}
