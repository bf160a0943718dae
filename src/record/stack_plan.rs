//! How much of a thread's stack to copy.
//!
//! Copying costs the target about 0.09 µs a KiB, so no more than the live part is taken: from the stack pointer up to
//! where the outermost frame was found last time, or else to the end of the mapping.

use std::ops::Range;

use sampler_unwind::{Avma, Stack, StackEnd};

/// The most that is copied of one thread by default, in bytes: the whole live part of any usual stack.
pub const STACK_BYTES_MAX_DEFAULT: usize = 1 << 20;

/// How much is copied at first where the end of the stack is not near (a coroutine's stack on the heap), and of a
/// thread's own stack while it runs on another one (a signal handler's), in bytes.
const FIRST_BYTES: u64 = 64 << 10;

/// What is copied beyond the outermost frame's stack pointer: its return address and saved registers lie there.
const ROOT_FRAME_BYTES: u64 = 512;

/// Some bytes of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// The first byte.
    pub start: Avma,
    /// How many.
    pub bytes: usize,
}

/// What to copy of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CopyPlan {
    /// From the stack pointer (less the red zone) upwards.
    pub live: Span,
    /// The upper end of the thread's own stack, if the thread is on another one.
    pub home: Option<Span>,
}

/// The mappings that can hold a stack: readable, writable, by ascending address.
#[derive(Clone, Debug, Default)]
pub(super) struct StackMappings(Vec<Range<Avma>>);

impl StackMappings {
    /// `ranges` in any order.
    pub(super) fn new(mut ranges: Vec<Range<Avma>>) -> Self {
        ranges.sort_by_key(|range| range.start);
        Self(ranges)
    }

    /// The mapping that `avma` lies in.
    pub(super) fn find(&self, avma: Avma) -> Option<&Range<Avma>> {
        let after = self.0.partition_point(|range| range.start <= avma);
        self.0[..after].last().filter(|range| avma < range.end)
    }
}

/// What one thread's earlier stacks tell about how much to copy of the next.
#[derive(Clone, Debug)]
pub(super) struct StackPlan {
    /// The stack pointer of the outermost frame, when it was last found.
    root: Option<Avma>,
    /// The mapping of the thread's own stack.
    home: Option<Range<Avma>>,
    /// How much to copy where `root` does not tell; grows when a walk was cut.
    bytes: u64,
    bytes_max: u64,
}

impl StackPlan {
    /// Of a thread never seen; at most `bytes_max` will be copied.
    pub(super) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max as u64;
        Self {
            root: None,
            home: None,
            bytes: FIRST_BYTES.min(bytes_max),
            bytes_max,
        }
    }

    /// What to copy of the thread standing at `sp`. Reads nothing and allocates nothing: it is called while the
    /// thread stands still.
    pub(super) fn plan(&self, sp: Avma, red_zone_bytes: u64, mappings: &StackMappings) -> CopyPlan {
        let start = Avma(sp.0.saturating_sub(red_zone_bytes));
        let mapping = mappings.find(sp);
        let at_home = match (&self.home, mapping) {
            (Some(home), Some(mapping)) => {
                home.start.max(mapping.start) < home.end.min(mapping.end)
            }
            _ => true,
        };
        let to_end = mapping.map_or(self.bytes, |mapping| mapping.end.0.saturating_sub(start.0));
        let bytes = match self.root.filter(|root| at_home && *root >= sp) {
            Some(root) => (root.0 - start.0)
                .saturating_add(ROOT_FRAME_BYTES)
                .min(to_end),
            None if to_end <= self.bytes_max => to_end,
            None => self.bytes.min(to_end),
        };
        CopyPlan {
            live: Span {
                start,
                bytes: bytes_within(bytes, self.bytes_max),
            },
            home: if at_home { None } else { self.home_span() },
        }
    }

    fn home_span(&self) -> Option<Span> {
        let home = self.home.as_ref()?;
        // A root outside of it is that of another program, whose mappings are not known yet.
        let end = self
            .root
            .filter(|root| home.contains(root))
            .and_then(|root| root.checked_add(ROOT_FRAME_BYTES))
            .map_or(home.end, |root| root.min(home.end));
        let start = Avma(end.0.saturating_sub(self.bytes).max(home.start.0));
        Some(Span {
            start,
            bytes: bytes_within(end.0 - start.0, self.bytes_max),
        })
    }

    /// `within` lies on the thread's own stack, or straight above it: what is known before any stack was walked.
    pub(super) fn settle(&mut self, within: Avma, mappings: &StackMappings) {
        if self.home.is_none() {
            self.home = mappings.find(within).cloned();
        }
    }

    /// Learns from the stack that came out of the last plan.
    pub(super) fn learn(&mut self, stack: &Stack, mappings: &StackMappings) {
        match stack.end {
            StackEnd::Root => {
                self.root = stack.frames.last().map(|frame| frame.sp);
                if let Some(home) = self.root.and_then(|root| mappings.find(root)) {
                    self.home = Some(home.clone());
                }
            }
            StackEnd::Unreadable(_) => {
                self.root = None;
                self.bytes = (self.bytes * 4).min(self.bytes_max);
            }
            _ => {}
        }
    }
}

fn bytes_within(bytes: u64, bytes_max: u64) -> usize {
    usize::try_from(bytes.min(bytes_max)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use sampler_unwind::{Frame, FrameOrigin, ReadError};

    use super::*;

    const HOME: Range<Avma> = Avma(0x10_0000)..Avma(0x12_0000);
    const OTHER: Range<Avma> = Avma(0x50_0000)..Avma(0x51_0000);
    const HEAP: Range<Avma> = Avma(0x1000_0000)..Avma(0x2000_0000);

    fn mappings() -> StackMappings {
        StackMappings::new(vec![HEAP, HOME, OTHER])
    }

    fn ended(end: StackEnd, outermost_sp: u64) -> Stack {
        let frame = Frame {
            address: Avma(1),
            sp: Avma(outermost_sp),
            origin: FrameOrigin::CallFrameInfo,
        };
        Stack {
            frames: vec![frame],
            end,
        }
    }

    fn live(plan: &StackPlan, sp: u64) -> (u64, usize) {
        let span = plan.plan(Avma(sp), 128, &mappings()).live;
        (span.start.0, span.bytes)
    }

    #[test]
    fn a_root_below_the_thread_s_own_stack_is_another_program_s() {
        let mut plan = StackPlan::new(STACK_BYTES_MAX_DEFAULT);
        plan.settle(HOME.start, &mappings());
        // The stack that execve made lies where nothing was known to be.
        plan.learn(&ended(StackEnd::Root, 0x4_0000), &mappings());
        let CopyPlan { home, .. } = plan.plan(OTHER.start, 128, &mappings());
        let home = home.expect("it stands on another stack");
        assert_eq!(home.start.0 + home.bytes as u64, HOME.end.0);
    }

    #[test]
    fn at_first_the_whole_live_part_is_copied_if_it_is_not_huge() {
        let plan = StackPlan::new(1 << 20);
        assert_eq!(live(&plan, 0x11_f000), (0x11_ef80, 0x1080));
        assert_eq!(
            live(&plan, 0x1800_0000).1,
            64 << 10,
            "a heap's end is no stack's base"
        );
    }

    #[test]
    fn then_no_more_than_up_to_the_outermost_frame() {
        let mut plan = StackPlan::new(1 << 20);
        plan.learn(&ended(StackEnd::Root, 0x11_f800), &mappings());
        assert_eq!(live(&plan, 0x11_f000), (0x11_ef80, 0x880 + 512));
    }

    #[test]
    fn a_cut_stack_asks_for_more_next_time_up_to_the_bound() {
        let mut plan = StackPlan::new(1 << 20);
        let cut = ended(StackEnd::Unreadable(ReadError::NotCopied(Avma(1))), 0);
        plan.learn(&cut, &mappings());
        assert_eq!(live(&plan, 0x1800_0000).1, 256 << 10);
        for _ in 0..10 {
            plan.learn(&cut, &mappings());
        }
        assert_eq!(live(&plan, 0x1800_0000).1, 1 << 20);
    }

    #[test]
    fn on_a_signal_stack_the_end_of_the_own_stack_is_copied_too() {
        let mut plan = StackPlan::new(1 << 20);
        plan.settle(HOME.start, &mappings());
        let home = plan.plan(Avma(0x50_8000), 128, &mappings()).home.unwrap();
        assert_eq!((home.start.0, home.bytes), (0x11_0000, 0x1_0000));
        plan.learn(&ended(StackEnd::Root, 0x11_f800), &mappings());
        let home = plan.plan(Avma(0x50_8000), 128, &mappings()).home.unwrap();
        assert_eq!(home.start.0 + home.bytes as u64, 0x11_f800 + 512);
    }

    #[test]
    fn the_own_stack_is_known_by_what_lies_above_it() {
        let mut plan = StackPlan::new(1 << 20);
        plan.settle(Avma(0x11_fff0), &mappings());
        assert!(plan.plan(Avma(0x50_8000), 128, &mappings()).home.is_some());
        plan.settle(Avma(0x50_fff0), &mappings());
        assert!(
            plan.plan(Avma(0x11_8000), 128, &mappings()).home.is_none(),
            "the first is kept"
        );
    }

    #[test]
    fn nonsense_is_survived() {
        let plan = StackPlan::new(4096);
        for sp in [0, 1, u64::MAX, 0x11_ffff] {
            assert!(live(&plan, sp).1 <= 4096);
        }
    }
}
