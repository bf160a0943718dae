//! The shadow stack: where the calls under way will return to, from the calls that were really executed.
//!
//! A call puts a return address into a slot on the stack, and that call is over as soon as the stack pointer is above
//! the slot, by whatever way: `ret`, `pop` of a thunk that only wanted to know where it is, `longjmp`, or unwinding.
//! So returns need not be told from other instructions. One exception: a function may pop its return address into a
//! register and push it again later, as glibc's `vfork` does around its system call.

use std::ops::Range;

use crate::instructions::INSTRUCTION_BYTES_MAX;

/// One call, or one signal, that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it will return to.
    pub(crate) returns_to: u64,
    /// For a call, where on the stack that stands. For a signal, the stack pointer that it interrupted.
    slot: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Call,
    /// What a signal interrupted. Its handler may run on another stack.
    Interrupted {
        on_other_stack: bool,
    },
}

/// The calls of one thread.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// Outermost first.
    entries: Vec<Entry>,
    /// The innermost call while its return address is in a register, and where the code stood last.
    popped: Option<(Entry, u64)>,
    /// The stack that the program began on.
    home: Range<u64>,
}

impl Shadow {
    /// Of a program that has not made a call; its stack is `home`.
    pub(crate) fn new(home: Range<u64>) -> Self {
        Self {
            entries: Vec::new(),
            popped: None,
            home,
        }
    }

    /// Whether the thread is on a stack that the shadow follows: the one it began on, or a handler's.
    pub(crate) fn is_followed(&self, sp: u64) -> bool {
        self.home.contains(&sp) || self.handler_elsewhere().is_some()
    }

    /// An instruction has left the stack pointer at `sp` and leads to `pc`; `is_pop` says whether it was one that pops a
    /// register.
    pub(crate) fn moved_to(&mut self, pc: u64, sp: u64, is_pop: bool) {
        if self.home.contains(&sp)
            && let Some(left) = self.handler_elsewhere()
        {
            self.entries.truncate(left);
        }
        if !self.is_followed(sp) {
            return;
        }
        let bottom = self.handler_elsewhere().map_or(0, |handler| handler + 1);
        let last = self.entries.last().copied();
        while self.entries.len() > bottom
            && self.entries.last().is_some_and(|entry| entry.slot < sp)
        {
            self.entries.pop();
        }
        let taken = last.filter(|entry| is_pop && entry.slot.wrapping_add(8) == sp);
        let before = self.popped.or(taken.map(|entry| (entry, pc)));
        self.popped = before.filter(|(entry, last_pc)| {
            let goes_straight_on = pc.wrapping_sub(*last_pc) <= INSTRUCTION_BYTES_MAX as u64;
            sp == entry.slot.wrapping_add(8) && goes_straight_on
        });
        if let Some((entry, _)) = before.filter(|(entry, _)| sp == entry.slot) {
            self.entries.push(entry);
        }
        if let Some((_, last_pc)) = &mut self.popped {
            *last_pc = pc;
        }
    }

    /// A call has put `returns_to` at `sp`, where the stack pointer is now.
    pub(crate) fn called(&mut self, returns_to: u64, sp: u64) {
        if self.is_followed(sp) {
            self.entries.push(Entry {
                returns_to,
                slot: sp,
                kind: Kind::Call,
            });
        }
    }

    /// The kernel has started a handler, whose stack pointer is `sp` and which will return to `trampoline`; it had
    /// interrupted the instruction at `pc`.
    pub(crate) fn interrupted(&mut self, pc: u64, interrupted_sp: u64, trampoline: u64, sp: u64) {
        let on_other_stack = self.home.contains(&interrupted_sp) && !self.home.contains(&sp);
        self.entries.push(Entry {
            returns_to: pc,
            slot: interrupted_sp,
            kind: Kind::Interrupted { on_other_stack },
        });
        self.called(trampoline, sp);
    }

    /// `rt_sigreturn` has gone back to what the last signal interrupted.
    pub(crate) fn returned_from_handler(&mut self) {
        let last = self
            .entries
            .iter()
            .rposition(|entry| entry.kind != Kind::Call);
        self.entries.truncate(last.unwrap_or_default());
    }

    /// The return addresses, innermost first. `word` reads the stack: a program may have put another address into the
    /// slot of a call, and goes there.
    pub(crate) fn returns(&self, word: impl Fn(u64) -> Option<u64>) -> impl Iterator<Item = u64> {
        let popped = self.popped.map(|(entry, _)| entry.returns_to);
        let others = self
            .entries
            .iter()
            .rev()
            .map(move |entry| match entry.kind {
                Kind::Call => word(entry.slot).unwrap_or(entry.returns_to),
                Kind::Interrupted { .. } => entry.returns_to,
            });
        popped.into_iter().chain(others)
    }

    /// The position of the outermost handler that runs on a stack of its own.
    fn handler_elsewhere(&self) -> Option<usize> {
        self.entries.iter().position(|entry| {
            entry.kind
                == Kind::Interrupted {
                    on_other_stack: true,
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0x8010;

    fn shadow_of(calls: &[(u64, u64)]) -> Shadow {
        let mut shadow = Shadow::new(0x1000..TOP);
        for &(returns_to, sp) in calls {
            shadow.moved_to(0, sp, false);
            shadow.called(returns_to, sp);
        }
        shadow
    }

    fn returns(shadow: &Shadow) -> Vec<u64> {
        shadow.returns(|_| None).collect()
    }

    #[test]
    fn a_call_is_over_when_its_slot_is_below_the_stack_pointer() {
        let mut shadow = shadow_of(&[(1, 0x7ff8), (2, 0x7f00), (3, 0x7e00)]);
        assert_eq!(returns(&shadow), [3, 2, 1]);
        shadow.moved_to(0, 0x7e00, false);
        assert_eq!(returns(&shadow), [3, 2, 1]);
        shadow.moved_to(0, 0x7e08, false);
        assert_eq!(returns(&shadow), [2, 1]);
        shadow.moved_to(0, 0x7f80, false); // longjmp to the outermost
        assert_eq!(returns(&shadow), [1]);
    }

    #[test]
    fn a_return_address_may_be_in_a_register_for_a_while() {
        let mut shadow = shadow_of(&[(0x101, 0x7ff8), (0x102, 0x7f00)]);
        shadow.moved_to(0x10, 0x7f08, true);
        assert_eq!(returns(&shadow), [0x102, 0x101]);
        shadow.moved_to(0x15, 0x7f08, false);
        assert_eq!(returns(&shadow), [0x102, 0x101]);
        shadow.moved_to(0x16, 0x7f00, false);
        assert_eq!(returns(&shadow), [0x102, 0x101]);
        shadow.moved_to(0x102, 0x7f08, false);
        assert_eq!(returns(&shadow), [0x101]);
        // Or it is jumped away from there.
        shadow.moved_to(0x20, 0x8000, true);
        assert_eq!(returns(&shadow), [0x101]);
        shadow.moved_to(0x180, 0x8000, false);
        assert_eq!(returns(&shadow), [] as [u64; 0]);
    }

    #[test]
    fn the_slot_tells_where_a_call_will_really_go() {
        let shadow = shadow_of(&[(1, 0x7ff8), (2, 0x7f00)]);
        let word = |slot| Some(if slot == 0x7f00 { 9 } else { 1 });
        assert_eq!(shadow.returns(word).collect::<Vec<_>>(), [9, 1]);
    }

    #[test]
    fn a_handler_goes_back_to_what_it_interrupted() {
        let mut shadow = shadow_of(&[(1, 0x7ff8)]);
        shadow.interrupted(0x40, 0x7fe0, 5, 0x7c00);
        assert_eq!(returns(&shadow), [5, 0x40, 1]);
        shadow.moved_to(0, 0x7c08, false);
        assert_eq!(returns(&shadow), [0x40, 1]);
        shadow.returned_from_handler();
        shadow.moved_to(0, 0x7fe0, false);
        assert_eq!(returns(&shadow), [1]);
    }

    #[test]
    fn a_handler_on_another_stack_leaves_the_first_as_it_is() {
        for handler in [0x200, 0x9000] {
            let mut shadow = shadow_of(&[(1, 0x7ff8)]);
            shadow.interrupted(0x40, 0x7fe0, 5, handler);
            shadow.moved_to(0, handler - 8, false);
            shadow.called(6, handler - 8);
            assert!(shadow.is_followed(handler));
            assert_eq!(returns(&shadow), [6, 5, 0x40, 1]);
            shadow.moved_to(0, 0x7fe0, false); // siglongjmp, or rt_sigreturn
            assert_eq!(returns(&shadow), [1]);
        }
    }

    #[test]
    fn a_stack_of_the_programs_own_is_not_followed() {
        let mut shadow = shadow_of(&[(1, 0x7ff8)]);
        shadow.moved_to(0, 0x9000, false);
        shadow.called(2, 0x8ff8);
        assert!(!shadow.is_followed(0x8ff8));
        shadow.moved_to(0, 0x7f00, false);
        assert_eq!(returns(&shadow), [1]);
    }
}
