//! Follows code without call frame information to where it returns, and so learns how to unwind it: as
//! [`crate::native::x86_64`] does, with far fewer forms to understand, because only some twenty instructions touch the
//! stack pointer, the registers that a call preserves, or the flow of control.

use rustc_hash::FxHashSet;

use super::symbolic::{Flow, State, flow};
use super::{INSTRUCTION_BYTES, branch_target, first, is_call, is_signal_trampoline};
use crate::native::machine::{Code, Followed, INSTRUCTION_BYTES_MAX};

/// Instructions that are read at most, on all paths together.
const STEPS_MAX: usize = 4096;
/// Branches that wait to be followed.
const PENDING_MAX: usize = 32;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::aarch64::Aarch64;
    use crate::native::aarch64::STACK_POINTER;
    use crate::native::aarch64::machine::SAVED;
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
