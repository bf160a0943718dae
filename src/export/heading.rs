//! What stands over and under a table or a tree.

use std::io::{self, Write};

use super::names::{fit, printable};
use super::roots::process_label;
use super::{View, units};
use crate::profile::{End, FrameKind, ResolvedProfile, Weight, WeightedStack};

/// What is shown and whose it is: two lines.
pub(super) fn write_heading(
    profile: &ResolvedProfile,
    weight: Weight,
    total: u64,
    width: Option<usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    let summary = &profile.summary;
    let what = format!(
        "{}: {}{}, recorded for {} at {:.1} Hz",
        units::name(weight),
        units::weighed(weight, total),
        match weight {
            Weight::Samples => String::new(),
            _ => format!(" in {} samples", units::count(samples(profile))),
        } + &share(profile, weight, total),
        units::time(summary.wall_ns),
        summary.rate_hz_achieved,
    );
    writeln!(out, "{what}")?;
    let target = printable_fit(&target(profile), width);
    writeln!(out, "{target}")
}

/// How many samples are shown.
pub(super) fn samples(profile: &ResolvedProfile) -> u64 {
    match profile.whole {
        Some(_) => profile.total().samples,
        None => profile.summary.samples,
    }
}

/// What share of all is shown, where some was left out.
pub(super) fn share(profile: &ResolvedProfile, weight: Weight, total: u64) -> String {
    let Some(whole) = profile.whole else {
        return String::new();
    };
    let whole = whole.get(weight);
    format!(
        ", {:.1} % of {}",
        units::percent(total, whole),
        units::weighed(weight, whole)
    )
}

/// Whose profile it is: the process, or how many.
pub(super) fn target(profile: &ResolvedProfile) -> String {
    // Threads that ended unseen have an entry of their own, with no number.
    let threads = profile.threads.iter().filter(|thread| thread.tid != 0);
    let threads = match threads.count() {
        1 => "1 thread".into(),
        several => format!("{several} threads"),
    };
    let processes = profile.threads.iter().map(|thread| thread.process_index);
    let mut processes: Vec<u32> = processes.collect();
    processes.sort_unstable();
    processes.dedup();
    match (profile.threads.first(), processes.len()) {
        (Some(thread), 1) => format!("{}, {threads}", process_label(thread)),
        (_, processes) => format!("{processes} processes, {threads}"),
    }
}

/// What the reader must know beside the numbers, each a line.
pub(super) fn write_notes(
    profile: &ResolvedProfile,
    view: View,
    total: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let cut = cut_weight(profile, view.weight);
    if cut > 0 {
        writeln!(
            out,
            "note: {:.1} % is in stacks that do not reach their root: the callers missing there lack it in their total",
            units::percent(cut, total)
        )?;
    }
    for note in &profile.notes {
        writeln!(out, "note: {}", printable(note))?;
    }
    Ok(())
}

/// The weight of the stacks that do not reach their root.
fn cut_weight(profile: &ResolvedProfile, weight: Weight) -> u64 {
    profile
        .stacks
        .iter()
        .filter(|stack| stack.end != End::Complete && shows_code(profile, stack))
        .map(|stack| stack.weights.get(weight))
        .fold(0, u64::saturating_add)
}

/// Whether a stack is more than a remark of ours, such as `[no stack]`, of which nothing is missing.
fn shows_code(profile: &ResolvedProfile, stack: &WeightedStack) -> bool {
    let frame = |&frame: &u32| profile.frames.get(frame as usize);
    let mut frames = stack.frames.iter().filter_map(frame);
    frames.any(|frame| frame.kind != FrameKind::Note)
}

/// `text` made harmless, and cut to `width` where there is one.
pub(super) fn printable_fit(text: &str, width: Option<usize>) -> String {
    let text = printable(text);
    match width {
        Some(width) => fit(&text, width).into_owned(),
        None => text.into_owned(),
    }
}

/// What is said when there is nothing to show.
pub(super) fn write_nothing(
    profile: &ResolvedProfile,
    weight: Weight,
    out: &mut impl Write,
) -> io::Result<()> {
    if profile.stacks.is_empty() {
        writeln!(out, "The recording holds no samples.")
    } else {
        writeln!(
            out,
            "The recording holds nothing to show by this weight ({}); another --weight may.",
            units::name(weight)
        )
    }
}
