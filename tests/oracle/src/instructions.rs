//! What an instruction will do, as far as the shadow stack is concerned.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use rustc_hash::FxHashMap;
use sampler_unwind::{Avma, MemoryReader};

/// The longest instruction (Intel SDM, volume 2, section 2.3.11).
pub(crate) const INSTRUCTION_BYTES_MAX: usize = 15;

/// What an instruction will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Calls; the return address is this.
    Call {
        /// The address after it.
        next: u64,
    },
    /// Takes a word from the stack into a register: a return address too, which may be put back.
    Pop,
    /// `syscall`; a sleeper shows the address after it.
    SystemCall {
        /// The address after it.
        next: u64,
    },
    /// A string instruction with a repeat prefix: each turn is a step, at the same address.
    Repeat,
    /// Anything else.
    Other,
}

/// Decodes instructions once. What lies in no file is decoded anew each time: it may be changed.
#[derive(Debug, Default)]
pub(crate) struct Instructions {
    known: FxHashMap<u64, Action>,
}

impl Instructions {
    /// What the instruction at `pc` will do. `is_constant` says whether the code there stays as it is.
    pub(crate) fn action(
        &mut self,
        pc: u64,
        is_constant: bool,
        memory: &impl MemoryReader,
    ) -> Action {
        if let Some(action) = self.known.get(&pc).filter(|_| is_constant) {
            return *action;
        }
        let mut code = [0; INSTRUCTION_BYTES_MAX];
        let bytes = memory.read(Avma(pc), &mut code).unwrap_or(0);
        let action = decode(pc, &code[..bytes]);
        if is_constant {
            self.known.insert(pc, action);
        }
        action
    }

    /// Other code may lie anywhere now.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }
}

fn decode(pc: u64, code: &[u8]) -> Action {
    let mut decoder = Decoder::with_ip(64, code, pc, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let next = instruction.next_ip();
    match instruction.flow_control() {
        FlowControl::Call if instruction.mnemonic() == Mnemonic::Syscall => {
            Action::SystemCall { next }
        }
        // Only asks where it is; what it puts on the stack is popped at once.
        FlowControl::Call
            if instruction.near_branch_target() == next && is_pop(&decoder.decode()) =>
        {
            Action::Other
        }
        FlowControl::Call | FlowControl::IndirectCall => Action::Call { next },
        _ if is_pop(&instruction) => Action::Pop,
        _ if instruction.has_rep_prefix() || instruction.has_repne_prefix() => Action::Repeat,
        _ => Action::Other,
    }
}

fn is_pop(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Pop && instruction.op0_kind() == OpKind::Register
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_what_is_like_them() {
        let cases: [(&[u8], Action); 12] = [
            (&[0xe8, 1, 0, 0, 0], Action::Call { next: 0x105 }),
            (&[0xe8, 0, 0, 0, 0, 0x58], Action::Other),
            (&[0xe8, 0, 0, 0, 0, 0x53], Action::Call { next: 0x105 }),
            (&[0x5f], Action::Pop),
            (&[0x8f, 0x00], Action::Other),
            (&[0xff, 0xd0], Action::Call { next: 0x102 }),
            (&[0xf2, 0x41, 0xff, 0xd3], Action::Call { next: 0x104 }),
            (&[0x0f, 0x05], Action::SystemCall { next: 0x102 }),
            (&[0xf3, 0xa4], Action::Repeat),
            (&[0xc3], Action::Other),
            (&[0xff, 0xe0], Action::Other),
            (&[], Action::Other),
        ];
        for (code, action) in cases {
            assert_eq!(decode(0x100, code), action, "{code:x?}");
        }
    }
}
