//! Who called whom, as indented text.

use std::io::{self, Write};

use super::heading::{printable_fit, write_heading, write_notes, write_nothing};
use super::roots::with_roots;
use super::{View, units};
use crate::profile::{CallTree, CallTreeOptions, ResolvedProfile, TreeNode, TreeNodeKind};

/// Deeper calls are not indented further, but say how deep they are: a recursion of 10,000 frames would else be
/// written with 100 MB of spaces.
const INDENTED_DEPTH_MAX: usize = 48;
/// A name keeps at least so many columns, however narrow the terminal.
const NAME_COLUMNS_MIN: usize = 24;
/// The two shares and the time, with the gaps behind them.
const NUMBER_COLUMNS: usize = 9 + 9 + 12;

/// How a tree is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TreeOptions {
    /// Lines at most; `None` for all.
    pub limit: Option<usize>,
    /// Calls below this share of the whole are left out, 0 to 100.
    pub threshold_percent: f64,
    /// The columns of the terminal; `None` when it goes elsewhere, and no name is cut.
    pub width: Option<usize>,
}

/// Writes the calls of `profile`, callers above callees, the heaviest first.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(
    profile: &ResolvedProfile,
    view: View,
    options: TreeOptions,
    out: &mut impl Write,
) -> io::Result<()> {
    let rooted = with_roots(profile, view);
    let tree = call_tree(&rooted, view);
    let total = tree.node(tree.root()).total;
    write_heading(profile, view.weight, total, options.width, out)?;
    writeln!(out)?;
    if total == 0 {
        write_nothing(profile, view.weight, out)?;
    } else {
        writeln!(
            out,
            "{:>7}  {:>7}  {:>10}  function",
            "total %", "self %", "total"
        )?;
    }
    let mut shown = 0;
    let (mut below_threshold, mut beyond_limit) = (0u64, 0u64);
    // The root of the tree is the heading.
    for (depth, id) in tree.walk().skip(1) {
        let node = tree.node(id);
        // Calls weigh no more than their callers, so that nothing is shown without its caller.
        if units::percent(node.total, total) < options.threshold_percent {
            below_threshold += 1;
        } else if options.limit.is_some_and(|limit| shown >= limit) {
            beyond_limit += 1;
        } else {
            shown += 1;
            let caller = node.parent.map(|parent| tree.node(parent));
            let line = Line {
                profile: &rooted,
                view,
                node,
                caller,
                depth: depth - 1,
            };
            line.write(total, options.width, out)?;
        }
    }
    if beyond_limit > 0 {
        writeln!(
            out,
            "{:>30}... {} more lines",
            "",
            units::count(beyond_limit)
        )?;
    }
    if below_threshold > 0 {
        writeln!(
            out,
            "{:>30}... {} calls below {} % (--threshold 0 shows all)",
            "",
            units::count(below_threshold),
            options.threshold_percent
        )?;
    }
    writeln!(out)?;
    write_notes(profile, view, total, out)
}

/// The tree of a profile whose roots are already there as frames.
pub(super) fn call_tree(rooted: &ResolvedProfile, view: View) -> CallTree {
    let options = CallTreeOptions {
        weight: view.weight,
        threads: false,
    };
    CallTree::new(rooted, options)
}

/// The name of a node of [`call_tree`].
pub(super) fn name<'a>(rooted: &'a ResolvedProfile, node: &TreeNode) -> &'a str {
    match node.kind {
        TreeNodeKind::Function(frame) => rooted
            .frames
            .get(frame as usize)
            .map_or("", |frame| &frame.function),
        TreeNodeKind::Thread(thread) => rooted
            .threads
            .get(thread as usize)
            .map_or("", |thread| &thread.name),
        TreeNodeKind::Root => "all",
    }
}

struct Line<'a> {
    profile: &'a ResolvedProfile,
    view: View,
    node: &'a TreeNode,
    caller: Option<&'a TreeNode>,
    /// From 0.
    depth: usize,
}

impl Line<'_> {
    fn write(&self, total: u64, width: Option<usize>, out: &mut impl Write) -> io::Result<()> {
        let indent = 2 * self.depth.min(INDENTED_DEPTH_MAX);
        let deeper = match self.depth.checked_sub(INDENTED_DEPTH_MAX) {
            None | Some(0) => String::new(),
            Some(_) => format!("({}) ", self.depth),
        };
        let name = format!("{deeper}{}{}", name(self.profile, self.node), self.module());
        let columns = width.map(|width| {
            width
                .saturating_sub(NUMBER_COLUMNS + indent)
                .max(NAME_COLUMNS_MIN)
        });
        writeln!(
            out,
            "{:>7.2}  {:>7.2}  {:>10}  {:indent$}{}",
            units::percent(self.node.total, total),
            units::percent(self.node.self_weight, total),
            units::weighed(self.view.weight, self.node.total),
            "",
            printable_fit(&name, columns),
        )
    }

    /// The module, where it is another than the caller's.
    fn module(&self) -> String {
        let module = module_of(self.profile, self.node);
        let same = self
            .caller
            .is_some_and(|caller| module == module_of(self.profile, caller));
        match module {
            Some(module) if !same => format!("  [{module}]"),
            _ => String::new(),
        }
    }
}

fn module_of<'a>(profile: &'a ResolvedProfile, node: &TreeNode) -> Option<&'a str> {
    let TreeNodeKind::Function(frame) = node.kind else {
        return None;
    };
    profile.frames.get(frame as usize)?.module.as_deref()
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::profile::Weight;

    fn tree(profile: &ResolvedProfile, view: View, options: TreeOptions) -> String {
        example::written(|out| write(profile, view, options, out))
    }

    #[test]
    fn of_all_threads_together() {
        let all = tree(&example::profile(), View::default(), TreeOptions::default());
        insta::assert_snapshot!(all);
    }

    #[test]
    fn of_each_thread_by_wall_time() {
        let view = View {
            weight: Weight::Wall,
            threads: true,
        };
        let options = TreeOptions {
            limit: Some(8),
            threshold_percent: 1.0,
            width: Some(100),
        };
        insta::assert_snapshot!(tree(&example::profile(), view, options));
    }

    #[test]
    fn of_several_processes() {
        let view = View {
            threads: true,
            ..View::default()
        };
        let two = tree(&example::two_processes(), view, TreeOptions::default());
        insta::assert_snapshot!(two);
    }

    #[test]
    fn ten_thousand_calls_deep() {
        let deep = tree(
            &example::deep(10_000),
            View::default(),
            TreeOptions::default(),
        );
        assert_eq!(
            deep.lines().filter(|line| line.contains("fall")).count(),
            9_999
        );
        assert!(deep.len() < 3_000_000, "{}", deep.len());
        assert!(deep.contains("(9999) fall"), "the depth is said");
    }

    #[test]
    fn of_nothing() {
        let nothing = tree(
            &ResolvedProfile::default(),
            View::default(),
            TreeOptions::default(),
        );
        assert!(nothing.contains("holds no samples"), "{nothing}");
    }
}
