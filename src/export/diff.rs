//! Two profiles compared: as a table, and as a flame graph that shows what has grown in red and what has shrunk in blue.

use std::io::{self, Write};

use inferno::differential;
use inferno::flamegraph::{self, Options};

use super::heading::printable_fit;
use super::{View, folded, units};
use crate::profile::{Change, Comparison, ResolvedProfile, Shares, Weight};

/// Frames further from the root are not drawn.
const DRAWN_DEPTH_MAX: usize = 400;
/// Frames below this share of the whole are not drawn, in percent.
const DRAWN_PERCENT_MIN: f64 = 0.01;

/// Writes what has grown and shrunk, the largest change first; rows at most `limit`, lines at most `width`.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_table(
    comparison: &Comparison,
    weight: Weight,
    limit: Option<usize>,
    width: Option<usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    for (name, whole) in [("before", comparison.before), ("after", comparison.after)] {
        writeln!(
            out,
            "{name:<7} {}: {} in {} samples",
            units::name(weight),
            units::weighed(weight, whole.total),
            units::count(whole.samples),
        )?;
    }
    writeln!(
        out,
        "\n{:>7}  {:>7}  {:>8} {:3}  {:>8} {:3}  function",
        "before", "after", "self", "", "total", ""
    )?;
    let limit = limit.unwrap_or(usize::MAX);
    let is_change = |row: &&Change| {
        let is = |shares: &Shares| shares.growth().abs() >= 0.000_05;
        is(&row.own) || is(&row.total)
    };
    let mut left_out = 0u64;
    for (shown, row) in comparison.rows.iter().filter(is_change).enumerate() {
        if shown >= limit {
            left_out += 1;
            continue;
        }
        let module = row.module.as_ref().map(|module| format!("  [{module}]"));
        let name = format!("{}{}", row.function, module.unwrap_or_default());
        let numbers = format!(
            "{:>6.2}%  {:>6.2}%  {:>+8.2} {:3}  {:>+8.2} {:3}  ",
            row.own.before * 100.0,
            row.own.after * 100.0,
            row.own.growth() * 100.0,
            row.own.significance.mark(),
            row.total.growth() * 100.0,
            row.total.significance.mark(),
        );
        let columns = width.map(|width| width.saturating_sub(numbers.len()).max(20));
        writeln!(out, "{numbers}{}", printable_fit(&name, columns))?;
    }
    if left_out > 0 {
        let left_out = units::count(left_out);
        writeln!(
            out,
            "{left_out} more have changed less (--limit 0 shows all)"
        )?;
    }
    writeln!(
        out,
        "\nself and total are changes in points of a hundred; by chance would be seen: * 1 in 20, ** 1 in 100, \
         *** 1 in 1000"
    )
}

/// Writes a line for each stack with what it weighed before and after, as `difffolded.pl` does; before is scaled to the
/// whole of after.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_folded(
    before: &ResolvedProfile,
    after: &ResolvedProfile,
    view: View,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut texts = [Vec::new(), Vec::new()];
    for (text, profile) in texts.iter_mut().zip([before, after]) {
        folded::write(profile, view, text)?;
    }
    let [before, after] = texts;
    let options = differential::Options {
        normalize: true,
        strip_hex: false,
    };
    let mut lines = Vec::new();
    differential::from_readers(options, &*before, &*after, &mut lines)?;
    // Its lines come in the order of a hash table.
    let text = String::from_utf8_lossy(&lines);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Writes a flame graph of `after`, with the change since `before` as color: red has grown, blue has shrunk.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_flamegraph(
    before: &ResolvedProfile,
    after: &ResolvedProfile,
    view: View,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut text = Vec::new();
    write_folded(before, after, view, &mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<String> = text.lines().map(drawn).collect();
    let mut options = Options::default();
    options.title = format!(
        "{}: red has grown, blue has shrunk",
        units::name(view.weight)
    );
    options.subtitle =
        Some("widths are those of after; colors compare shares of the whole".to_owned());
    (options.factor, options.count_name) = match view.weight {
        Weight::Samples => (1.0, "samples".into()),
        _ => (1e-3, "µs".into()),
    };
    options.min_width = DRAWN_PERCENT_MIN;
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out)
}

/// A line of `outer;inner 1 2` with no more frames than are drawn.
fn drawn(line: &str) -> String {
    let mut ends = line.match_indices(';').map(|(at, _)| at);
    match (ends.nth(DRAWN_DEPTH_MAX - 1), line.rsplitn(3, ' ').nth(2)) {
        (Some(end), Some(stack)) => {
            let (kept, counts) = (line.get(..end), line.get(stack.len()..));
            format!("{}{}", kept.unwrap_or_default(), counts.unwrap_or_default())
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::profile::compare;

    fn changed() -> ResolvedProfile {
        let mut profile = example::profile();
        for stack in &mut profile.stacks {
            stack.weights.cpu_ns *= 2;
        }
        profile.stacks[0].weights.cpu_ns /= 4;
        profile
    }

    #[test]
    fn the_table_tells_what_has_changed() {
        let comparison = compare(&example::profile(), &changed(), Weight::Cpu);
        let table =
            example::written(|out| write_table(&comparison, Weight::Cpu, Some(6), Some(100), out));
        insta::assert_snapshot!(table);
    }

    #[test]
    fn folded_stacks_have_two_values_of_equal_sum() {
        let (before, after) = (example::profile(), changed());
        let text = example::written(|out| write_folded(&before, &after, View::default(), out));
        let sums = text.lines().fold((0u64, 0u64), |(one, other), line| {
            let mut values = line.rsplit(' ').map(|value| value.parse().unwrap_or(0));
            let after = values.next().unwrap_or(0);
            (one + values.next().unwrap_or(0), other + after)
        });
        assert_eq!(sums.1, after.total().cpu_ns);
        let off = sums.0.abs_diff(sums.1);
        assert!(off < 100, "rounded: {sums:?}");
    }

    #[test]
    fn the_flame_graph_is_drawn_and_deep_stacks_are_cut() {
        let svg = example::written(|out| {
            write_flamegraph(&example::profile(), &changed(), View::default(), out)
        });
        assert!(svg.contains("<svg") && svg.contains("main::serve"), "{svg}");
        let deep = example::deep(10_000);
        let svg = example::written(|out| write_flamegraph(&deep, &deep, View::default(), out));
        let frames = svg.matches("<title>").count();
        assert!(
            (DRAWN_DEPTH_MAX..DRAWN_DEPTH_MAX + 3).contains(&frames),
            "{frames}"
        );
        assert_eq!(drawn("a;b c 1 2"), "a;b c 1 2");
    }
}
