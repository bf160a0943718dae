//! A flame graph: SVG to click through in a browser, drawn by inferno.

use std::io::{self, Write};

use inferno::flamegraph::color::{BasicPalette, Color, PaletteMap};
use inferno::flamegraph::{self, Options, Palette, TextTruncateDirection};

use super::folded::Path;
use super::heading::{samples, share, target};
use super::names::{folded, printable};
use super::roots::with_roots;
use super::tree::{call_tree, name};
use super::{View, units};
use crate::profile::{CallTree, FrameKind, ResolvedProfile, TreeNode, TreeNodeId, Weight};

/// Frames further from the root are not drawn: a picture of 10,000 rows is more than browsers show, and than inferno
/// draws in a sitting. A frame in their place says so.
const DRAWN_DEPTH_MAX: usize = 400;
/// What stands for frames beyond [`DRAWN_DEPTH_MAX`].
const DEEPER: &str = "[deeper frames are not drawn]";
/// Frames below this share of the whole are not drawn: a fifth of a pixel on a wide screen. It bounds the picture by
/// its width, not by the number of stacks.
const DRAWN_PERCENT_MIN: f64 = 0.01;

/// Writes `profile` as a flame graph.
///
/// Times are given in whole microseconds; the widths are exact. A profile without weight is a picture that says so.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, view: View, out: &mut impl Write) -> io::Result<()> {
    let rooted = with_roots(profile, view);
    let tree = call_tree(&rooted, view);
    let total = tree.node(tree.root()).total;
    let title = title(profile, view.weight);
    if total == 0 {
        return write_nothing(&title, out);
    }
    let lines = lines(&rooted, &tree);
    let mut colors = colors(&rooted);
    let mut options = Options::default();
    options.title = title;
    options.subtitle = Some(subtitle(profile, view.weight, total));
    // inferno's own names for what a frame counts: it shows value times factor, and this.
    (options.factor, options.count_name) = match view.weight {
        Weight::Samples => (1.0, "samples".into()),
        _ => (1e-3, "µs".into()),
    };
    options.colors = Palette::Basic(match view.weight {
        Weight::OffCpu | Weight::RunQueue => BasicPalette::Blue,
        Weight::Cpu | Weight::Wall | Weight::Samples => BasicPalette::Hot,
    });
    options.palette_map = Some(&mut colors);
    // A function has the same color in every picture.
    options.deterministic = true;
    options.text_truncate_direction = TextTruncateDirection::Right;
    options.min_width = DRAWN_PERCENT_MIN;
    // inferno wants its lines sorted by their text, which would part `main` from its own callees where a `main::new`
    // comes in between. Told that time runs from left to right, it takes the lines as they are, backwards.
    options.flame_chart = true;
    flamegraph::from_lines(&mut options, lines.iter().rev().map(String::as_str), out)
}

fn title(profile: &ResolvedProfile, weight: Weight) -> String {
    format!("{}: {}", units::name(weight), printable(&target(profile)))
}

fn subtitle(profile: &ResolvedProfile, weight: Weight, total: u64) -> String {
    let summary = &profile.summary;
    let samples = match weight {
        Weight::Samples => String::new(),
        _ => format!(" in {} samples", units::count(samples(profile))),
    };
    format!(
        "{}{samples}{}, recorded for {} at {:.1} Hz",
        units::weighed(weight, total),
        share(profile, weight, total),
        units::time(summary.wall_ns),
        summary.rate_hz_achieved,
    )
}

/// The stacks that can be seen, as folded lines in the order they are drawn: by the names of the functions, so that
/// two pictures of one program are alike.
fn lines(rooted: &ResolvedProfile, tree: &CallTree) -> Vec<String> {
    let whole = tree.node(tree.root()).total;
    let is_seen = |node: &TreeNode| units::percent(node.total, whole) >= DRAWN_PERCENT_MIN;
    let mut lines = Vec::new();
    let mut path = Path::default();
    let mut due: Vec<(usize, TreeNodeId)> = vec![(0, tree.root())];
    while let Some((depth, id)) = due.pop() {
        let node = tree.node(id);
        if depth > 0 {
            path.replace_from(depth - 1, name(rooted, node));
        }
        if depth == DRAWN_DEPTH_MAX && node.self_weight < node.total {
            path.replace_from(depth, DEEPER);
            lines.push(line(&path, node.total - node.self_weight));
            path.replace_from(depth - 1, name(rooted, node));
            if node.self_weight > 0 {
                lines.push(line(&path, node.self_weight));
            }
            continue;
        }
        let mut children: Vec<TreeNodeId> = tree.children(id).to_vec();
        children.retain(|&child| is_seen(tree.node(child)));
        // What is too narrow to be drawn is left to its caller, as a gap above it.
        let drawn: u64 = children.iter().map(|&child| tree.node(child).total).sum();
        if depth > 0 && node.total > drawn {
            lines.push(line(&path, node.total - drawn));
        }
        children.sort_by(|&a, &b| {
            let (a, b) = (tree.node(a), tree.node(b));
            name(rooted, b).cmp(name(rooted, a))
        });
        due.extend(children.into_iter().map(|child| (depth + 1, child)));
    }
    lines
}

fn line(path: &Path, value: u64) -> String {
    format!("{} {value}", path.text())
}

/// The colors of frames that are no code of the target; inferno chooses the others.
fn colors(rooted: &ResolvedProfile) -> PaletteMap {
    const KERNEL: Color = Color {
        r: 240,
        g: 150,
        b: 60,
    };
    const BLOCKED: Color = Color {
        r: 110,
        g: 160,
        b: 220,
    };
    const NOTE: Color = Color {
        r: 200,
        g: 200,
        b: 200,
    };
    const CUT: Color = Color {
        r: 130,
        g: 130,
        b: 140,
    };
    const INTERPRETED: Color = Color {
        r: 120,
        g: 190,
        b: 110,
    };
    const COMPILED: Color = Color {
        r: 90,
        g: 170,
        b: 140,
    };
    const BUILTIN: Color = Color {
        r: 170,
        g: 205,
        b: 110,
    };
    const RUNTIME: Color = Color {
        r: 190,
        g: 150,
        b: 200,
    };
    let mut colors = PaletteMap::default();
    for frame in &rooted.frames {
        let color = match frame.kind {
            FrameKind::Native => continue,
            FrameKind::Interpreted => INTERPRETED,
            FrameKind::Compiled => COMPILED,
            FrameKind::Builtin => BUILTIN,
            FrameKind::Runtime => RUNTIME,
            FrameKind::Kernel => KERNEL,
            FrameKind::Blocked => BLOCKED,
            FrameKind::Note => NOTE,
        };
        colors.insert(folded(&frame.function), color);
    }
    colors.insert(DEEPER, CUT);
    colors
}

/// inferno refuses to draw nothing.
fn write_nothing(title: &str, out: &mut impl Write) -> io::Result<()> {
    let mut escaped = String::with_capacity(title.len());
    for letter in title.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            other => escaped.push(other),
        }
    }
    writeln!(
        out,
        "<?xml version=\"1.0\" standalone=\"no\"?>\n\
         <svg version=\"1.1\" width=\"1200\" height=\"80\" xmlns=\"http://www.w3.org/2000/svg\">\n\
         <text x=\"600\" y=\"30\" text-anchor=\"middle\" font-family=\"monospace\" font-size=\"17\">{escaped}</text>\n\
         <text x=\"600\" y=\"60\" text-anchor=\"middle\" font-family=\"monospace\" font-size=\"12\">\
         The recording holds none of it.</text>\n\
         </svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn svg(profile: &ResolvedProfile, weight: Weight, threads: bool) -> String {
        example::written(|out| write(profile, View { weight, threads }, out))
    }

    /// What the frames of a picture say when they are pointed at, from the bottom up.
    fn frames(svg: &str) -> Vec<&str> {
        svg.split("<title>")
            .skip(1)
            .filter_map(|rest| rest.split("</title>").next())
            .collect()
    }

    #[test]
    fn the_frames_are_those_of_the_profile() {
        insta::assert_snapshot!(frames(&svg(&example::profile(), Weight::Cpu, false)).join("\n"));
    }

    #[test]
    fn threads_and_other_weights() {
        insta::assert_snapshot!(frames(&svg(&example::profile(), Weight::OffCpu, true)).join("\n"));
        let samples = svg(&example::two_processes(), Weight::Samples, true);
        insta::assert_snapshot!(frames(&samples).join("\n"));
    }

    #[test]
    fn the_title_says_what_is_shown() {
        let svg = svg(&example::profile(), Weight::Cpu, false);
        assert!(svg.contains("CPU time: ./server --port 80 (4711), 2 threads"));
        assert!(svg.contains("2.08 s in 505 samples, recorded for 3.00 s at 97.6 Hz"));
    }

    #[test]
    fn a_function_whose_name_begins_like_another_stays_whole() {
        let svg = svg(&example::profile(), Weight::Cpu, false);
        let mains = frames(&svg)
            .into_iter()
            .filter(|frame| frame.starts_with("main ("));
        assert_eq!(mains.count(), 1);
    }

    #[test]
    fn a_deep_stack_is_drawn_up_to_a_frame_that_says_so() {
        let svg = svg(&example::deep(10_000), Weight::Cpu, false);
        let frames = frames(&svg);
        // All of them, "all" below, and the remark above.
        assert_eq!(frames.len(), DRAWN_DEPTH_MAX + 2);
        assert!(svg.contains("[deeper frames are not drawn]"));
        let exact = self::svg(&example::deep(DRAWN_DEPTH_MAX), Weight::Cpu, false);
        assert!(!exact.contains("not drawn"));
    }

    #[test]
    fn nothing_is_a_picture_that_says_so() {
        let mut profile = example::profile();
        profile.threads[0].process = "<&>".into();
        let svg = svg(&profile, Weight::RunQueue, false);
        assert!(svg.contains("&lt;&amp;>") && svg.contains("holds none"));
    }
}
