//! Compares walks with the returns that calls really made.

use sampler_unwind::{Avma, Frame, FrameOrigin, Registers, SliceMemory, Stack, StackEnd, Unwinder};

use super::steps::{Recording, Step};
use super::symbols::Symbols;

/// What came of all walks of one kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) steps: usize,
    /// Walks with a frame that is not true.
    pub(crate) wrong: usize,
    /// Walks that end before the outermost frame.
    pub(crate) short: usize,
}

fn addresses(frames: &[Frame]) -> impl Iterator<Item = u64> + Clone {
    frames.iter().skip(1).map(|frame| frame.address.0)
}

/// Walks all of `recording`, with all registers known or with only those a sleeping thread shows.
pub(crate) fn score(recording: &Recording, unwinder: &mut Unwinder, all_registers: bool) -> Score {
    let mut score = Score::default();
    let mut symbols = Symbols::default();
    let mut stack = Stack::empty();
    let mut outer: Option<Vec<u64>> = None;
    for step in recording.steps() {
        score.steps += 1;
        let outer = outer.get_or_insert_with(|| outer_frames(recording, &step));
        let truth: Vec<u64> = step.shadow.iter().chain(outer.iter()).copied().collect();
        let start = match all_registers {
            true => step.registers,
            false => {
                let (pc, sp) = (step.registers.pc().unwrap(), step.registers.sp().unwrap());
                Registers::at(step.registers.arch(), pc, sp)
            }
        };
        let memory = SliceMemory::new(Avma(step.stack_start), step.stack);
        unwinder.walk(&recording.modules, &start, &memory, &mut stack);
        let found = addresses(&stack.frames);
        let is_prefix = found
            .clone()
            .zip(&truth)
            .all(|(found, truth)| found == *truth)
            && found.clone().count() <= truth.len();
        let is_marked = stack
            .frames
            .iter()
            .any(|frame| frame.origin == FrameOrigin::Scan);
        let wrong = !is_prefix && (all_registers || !is_marked);
        let short = is_prefix && stack.end != StackEnd::Root;
        score.wrong += usize::from(wrong);
        score.short += usize::from(short);
        if wrong && score.wrong <= 6 || short && all_registers && score.short <= 6 {
            report(recording, &mut symbols, &step, &stack, &truth);
        }
    }
    score
}

/// The frames outside of where stepping began, which no call of the recording made.
fn outer_frames(recording: &Recording, first: &Step<'_>) -> Vec<u64> {
    let memory = SliceMemory::new(Avma(first.stack_start), first.stack);
    let mut stack = Stack::empty();
    Unwinder::new().walk(&recording.modules, &first.registers, &memory, &mut stack);
    assert_eq!(stack.end, StackEnd::Root, "{stack:#?}");
    addresses(&stack.frames).skip(first.shadow.len()).collect()
}

#[expect(
    clippy::print_stderr,
    reason = "what failed, for whoever reads the failed test"
)]
fn report(
    recording: &Recording,
    symbols: &mut Symbols,
    step: &Step<'_>,
    stack: &Stack,
    truth: &[u64],
) {
    let mut name = |address: u64| {
        let bias = recording
            .modules
            .find(Avma(address))
            .map_or(0, |module| module.bias.0);
        let name = symbols.name(&recording.modules, Avma(address));
        format!("{name} ({:#x})", address.wrapping_sub(bias))
    };
    eprintln!(
        "at {}, end {:?}",
        name(step.registers.pc().unwrap().0),
        stack.end
    );
    let found = stack
        .frames
        .iter()
        .skip(1)
        .map(Some)
        .chain(std::iter::repeat(None));
    for (frame, truth) in found.zip(truth.iter().take(6)) {
        let found = frame.map(|frame| (name(frame.address.0), frame.origin));
        eprintln!("   found {found:?}, truth {}", name(*truth));
    }
}
