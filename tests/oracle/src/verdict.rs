//! Whether a stack is true.

use sampler_unwind::{Frame, FrameOrigin, Stack};

/// What comes of comparing one stack with the truth, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// All frames, and the stack says that they are all.
    Exact,
    /// No frame is wrong, but some are missing, and the stack says that it was cut. (Or none are, and it says so.)
    Short,
    /// A frame is wrong, and the stack says that it may be: it was found by a scan.
    Guessed,
    /// A frame is wrong, or some are missing and the stack says that it is complete.
    Wrong,
}

impl Verdict {
    /// How many there are.
    pub(crate) const COUNT: usize = Verdict::Wrong as usize + 1;
}

/// A verdict and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// The index of the frame from which the caller was not found, or whose caller is wrong.
    pub(crate) failed_at: usize,
}

/// Compares `stack` with `truth`, the return addresses of the calls under way, innermost first.
pub(crate) fn judge(stack: &Stack, truth: &[u64]) -> Judged {
    let found = stack.frames.get(1..).unwrap_or_default();
    let right = found
        .iter()
        .zip(truth)
        .take_while(|(frame, truth)| frame.address.0 == **truth)
        .count();
    let verdict = if right < found.len() {
        match found.iter().take(right + 1).any(is_guess) {
            true => Verdict::Guessed,
            false => Verdict::Wrong,
        }
    } else {
        match (right == truth.len(), stack.end.is_complete()) {
            (true, true) => Verdict::Exact,
            (_, false) => Verdict::Short,
            (false, true) => Verdict::Wrong,
        }
    };
    Judged {
        verdict,
        failed_at: right,
    }
}

fn is_guess(frame: &Frame) -> bool {
    frame.origin == FrameOrigin::Scan
}

#[cfg(test)]
mod tests {
    use sampler_unwind::{Avma, StackEnd};

    use super::*;

    fn stack(frames: &[(u64, FrameOrigin)], end: StackEnd) -> Stack {
        let frame = |&(address, origin): &(u64, FrameOrigin)| Frame {
            address: Avma(address),
            sp: Avma(0),
            origin,
        };
        Stack {
            frames: frames.iter().map(frame).collect(),
            end,
        }
    }

    #[test]
    fn what_is_missing_is_no_error_unless_it_is_denied() {
        use FrameOrigin::{CallFrameInfo, Registers, Scan};
        use Verdict::{Exact, Guessed, Short, Wrong};
        let cut = StackEnd::NoUnwindInfo(Avma(0));
        let whole = [(9, Registers), (1, CallFrameInfo), (2, CallFrameInfo)];
        let guess = [(9, Registers), (1, Scan), (2, CallFrameInfo)];
        let cases = [
            (&whole[..], StackEnd::Root, &[1, 2][..], Exact, 2),
            (&whole[..], cut, &[1, 2], Short, 2),
            (&whole[..2], cut, &[1, 2], Short, 1),
            (&whole[..2], StackEnd::Root, &[1, 2], Wrong, 1),
            (&whole[..], StackEnd::Root, &[1, 3], Wrong, 1),
            (&whole[..], StackEnd::Root, &[1], Wrong, 1),
            (&guess[..], StackEnd::Root, &[1, 2], Exact, 2),
            (&guess[..], StackEnd::Root, &[3, 2], Guessed, 0),
            (&guess[..], StackEnd::Root, &[1, 3], Guessed, 1),
        ];
        for (frames, end, truth, verdict, failed_at) in cases {
            assert_eq!(
                judge(&stack(frames, end), truth),
                Judged { verdict, failed_at },
                "{frames:?} {truth:?}"
            );
        }
    }
}
