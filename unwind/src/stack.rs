//! What a walk returns.

use crate::address::Avma;
use crate::memory::ReadError;

/// One activation of a function, before inlined functions are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The PC of the innermost frame and of one that a signal interrupted; for every other frame the return address.
    pub address: Avma,
    /// The stack pointer at `address`.
    pub sp: Avma,
    /// How `address` was found.
    pub origin: FrameOrigin,
}

impl Frame {
    /// Whether `address` is where a call will return to, rather than the instruction to be executed next.
    pub fn is_return_address(&self) -> bool {
        !matches!(
            self.origin,
            FrameOrigin::Registers | FrameOrigin::SignalFrame
        )
    }

    /// The address to look up: inside the call for a return address, because the call may be the last instruction
    /// of its function (noreturn) and the next byte belong to another.
    pub fn lookup_address(&self) -> Avma {
        Avma(
            self.address
                .0
                .wrapping_sub(u64::from(self.is_return_address())),
        )
    }
}

/// How the address of a frame was found, most trustworthy first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameOrigin {
    /// Read from the thread itself: the innermost frame.
    Registers,
    /// Saved by the kernel when a signal arrived: the context that the handler will go back to, and before it the
    /// trampoline (`__restore_rt`) to which the handler returns; two frames in a row.
    SignalFrame,
    /// `.eh_frame` of the inner frame's module.
    CallFrameInfo,
    /// `.debug_frame` of the inner frame's module or of its separate debug file.
    DebugFrame,
    /// The record that an interpreter keeps of who called its compiled code, or its code written in assembly.
    Interpreter,
    /// The table of functions that Go puts into each program (`.gopclntab`).
    GoTable,
    /// A PLT stub or another known instruction pattern without CFI.
    KnownCode,
    /// The inner function's prologue or epilogue, decoded.
    Prologue,
    /// The inner frame's frame pointer, validated.
    FramePointer,
    /// With a register that was unknown and was solved for: as `CallFrameInfo`, with the one frame pointer on the stack
    /// that fits the call; or as `Prologue`, with what a helper without call frame information has left alone.
    InferredRegister,
    /// The first word above the inner frame that is a return address; may be wrong.
    Scan,
}

impl FrameOrigin {
    /// How many origins there are.
    pub const COUNT: usize = FrameOrigin::Scan as usize + 1;
}

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackEnd {
    /// The outermost frame: the start of the program or of the thread. The only end of a complete stack.
    Root,
    /// The next frame lies in memory that could not be read, or was not copied.
    Unreadable(ReadError),
    /// Nothing tells how the code at this address finds its caller.
    NoUnwindInfo(Avma),
    /// Unwind information exists for this address and makes no sense.
    BadUnwindInfo(Avma),
    /// The rule for the code at `pc` needs a register that is not known (DWARF number).
    UnknownRegister {
        /// Where the walk stood.
        pc: Avma,
        /// Which register was missing.
        register: u16,
    },
    /// The return address found does not lie in code.
    NotCode(Avma),
    /// The code at this address goes on from another stack, and nothing on this one says where that is: Go's
    /// `systemstack`.
    OtherStack(Avma),
    /// The walk came back to where it had been.
    DidNotAdvance,
    /// More frames than allowed.
    DepthLimit,
}

impl StackEnd {
    /// Whether the stack reaches its outermost frame.
    pub fn is_complete(self) -> bool {
        self == StackEnd::Root
    }

    /// Whether the stack was cut by a limit of ours (what was copied, how deep we walk) rather than by missing
    /// information.
    pub fn is_truncated(self) -> bool {
        matches!(self, StackEnd::Unreadable(_) | StackEnd::DepthLimit)
    }
}

/// The frames of one thread, innermost first, and why there are no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why the walk ended.
    pub end: StackEnd,
}

impl Stack {
    /// A stack without frames; one value is kept and filled again by each walk.
    pub fn empty() -> Self {
        Self {
            frames: Vec::new(),
            end: StackEnd::DidNotAdvance,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_return_addresses_are_looked_up_one_byte_back() {
        let frame = |origin| Frame {
            address: Avma(0x10),
            sp: Avma(0),
            origin,
        };
        assert_eq!(frame(FrameOrigin::Registers).lookup_address(), Avma(0x10));
        assert_eq!(frame(FrameOrigin::SignalFrame).lookup_address(), Avma(0x10));
        assert_eq!(
            frame(FrameOrigin::CallFrameInfo).lookup_address(),
            Avma(0xf)
        );
    }
}
