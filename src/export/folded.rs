//! A line per stack, as Brendan Gregg's flame graph tools read it: frames from the root on with `;` between them, a
//! space, and a whole number (nanoseconds, or a count for [`Weight::Samples`](crate::profile::Weight::Samples)).
//!
//! The format has no way to quote: a `;` in a name becomes `:`, and what cannot be printed the replacement character.

use std::io::{self, Write};

use super::View;
use super::names::folded;
use super::roots::with_roots;
use super::tree::{call_tree, name};
use crate::profile::ResolvedProfile;

/// Writes the stacks of `profile`, the heaviest callers first. Functions are told apart by name alone.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, view: View, out: &mut impl Write) -> io::Result<()> {
    let rooted = with_roots(profile, view);
    let tree = call_tree(&rooted, view);
    let mut path = Path::default();
    for (depth, id) in tree.walk() {
        let node = tree.node(id);
        if depth > 0 {
            path.replace_from(depth - 1, name(&rooted, node));
        }
        if node.self_weight > 0 && depth > 0 {
            writeln!(out, "{} {}", path.text(), node.self_weight)?;
        }
    }
    Ok(())
}

/// The names on the way from the root to a node, joined.
#[derive(Debug, Default)]
pub(super) struct Path {
    text: String,
    /// Where the text of each depth ends.
    ends: Vec<usize>,
}

impl Path {
    /// Makes `name` the frame at `depth` (from 0, at most one more than there are), and the last.
    pub(super) fn replace_from(&mut self, depth: usize, name: &str) {
        self.ends.truncate(depth);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
        if !self.ends.is_empty() {
            self.text.push(';');
        }
        self.text.push_str(&folded(name));
        self.ends.push(self.text.len());
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::profile::Weight;

    fn lines(profile: &ResolvedProfile, weight: Weight, threads: bool) -> String {
        example::written(|out| write(profile, View { weight, threads }, out))
    }

    #[test]
    fn by_cpu_time() {
        insta::assert_snapshot!(lines(&example::profile(), Weight::Cpu, false));
    }

    #[test]
    fn by_thread_and_samples() {
        insta::assert_snapshot!(lines(&example::profile(), Weight::Samples, true));
    }

    #[test]
    fn the_values_add_up_to_the_whole() {
        let profile = example::profile();
        for weight in [Weight::Cpu, Weight::Wall, Weight::OffCpu, Weight::Samples] {
            let all: u64 = profile
                .stacks
                .iter()
                .map(|stack| stack.weights.get(weight))
                .sum();
            let written: u64 = lines(&profile, weight, true)
                .lines()
                .map(|line| {
                    line.rsplit(' ')
                        .next()
                        .expect("a value")
                        .parse::<u64>()
                        .expect("a number")
                })
                .sum();
            assert_eq!(written, all);
        }
    }

    #[test]
    fn a_deep_stack_is_one_line() {
        let deep = lines(&example::deep(10_000), Weight::Cpu, false);
        assert_eq!(deep.matches(';').count(), 9_999);
    }

    #[test]
    fn nothing_is_no_line() {
        assert_eq!(lines(&ResolvedProfile::default(), Weight::Cpu, false), "");
    }
}
