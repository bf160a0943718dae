//! Which frames of a profile are shown.

use sampler_unwind::interpreter::Languages;

use crate::profile::{FrameKind, ResolvedFrame, ResolvedProfile};

/// What to show besides what is always shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFilter {
    /// Interpreted code of these languages.
    pub languages: Languages,
    /// Machine code, in stacks with interpreted code as well.
    pub native: bool,
    /// Only stacks whose threads held the lock of their interpreter (CPython's GIL).
    pub only_lock_holders: bool,
}

/// Leaves frames out of all stacks. Of one of which no interpreted code is shown, native frames always are.
pub fn filter(profile: &mut ResolvedProfile, filter: FrameFilter) {
    if filter.only_lock_holders {
        profile.retain_stacks(|stack| stack.holds_lock);
    }
    if filter.native && filter.languages == Languages::ALL {
        return;
    }
    let frames = &profile.frames;
    let is_shown = |frame: &ResolvedFrame| {
        frame
            .language
            .is_none_or(|language| filter.languages.contains(language))
    };
    for stack in &mut profile.stacks {
        let frame = |position: u32| frames.get(position as usize);
        stack
            .frames
            .retain(|&position| frame(position).is_some_and(is_shown));
        let is_interpreted =
            |&position: &u32| frame(position).is_some_and(|frame| frame.language.is_some());
        if !filter.native && stack.frames.iter().any(is_interpreted) {
            stack.frames.retain(|&position| {
                frame(position).is_some_and(|frame| frame.kind != FrameKind::Native)
            });
        }
    }
}
