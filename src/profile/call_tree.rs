//! Self and total per function, and the tree of who called whom.
//!
//! Both look at one [`Weight`] at a time and merge frames that differ only in their line: what is told apart is the
//! function and its module. Nothing here recurses, because stacks of 10,000 frames are real.

use rustc_hash::FxHashMap;

use super::resolved::{ResolvedFrame, ResolvedProfile, Weight, WeightedStack};

/// What [`functions`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Functions<'a> {
    /// Highest self weight first, then highest total, then by name.
    pub rows: Vec<FunctionRow<'a>>,
    /// The weight of all stacks: what 100 % is.
    pub total: u64,
}

/// One function of a profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FunctionRow<'a> {
    /// The first frame of the profile that stands for this function; another may have another line.
    pub frame: &'a ResolvedFrame,
    /// The weight of the stacks in which it is innermost.
    pub self_weight: u64,
    /// The weight of the stacks it is in, each counted once however often it is in there.
    pub total: u64,
}

/// Adds up `weight` by function; those without any are left out.
pub fn functions(profile: &ResolvedProfile, weight: Weight) -> Functions<'_> {
    let ids = FunctionIds::new(&profile.frames);
    let mut sums = vec![FunctionSum::default(); ids.first_frames.len()];
    let mut total = 0u64;
    for (stack, ordinal) in weighed(profile, weight).zip(1u32..) {
        let value = stack.weights.get(weight);
        total = total.saturating_add(value);
        let mut innermost = None;
        for function in ids.of(stack) {
            let sum = &mut sums[function as usize];
            if sum.counted_in != ordinal {
                sum.counted_in = ordinal;
                sum.total = sum.total.saturating_add(value);
            }
            innermost = Some(function);
        }
        if let Some(function) = innermost {
            let sum = &mut sums[function as usize];
            sum.self_weight = sum.self_weight.saturating_add(value);
        }
    }
    let mut rows: Vec<FunctionRow<'_>> = ids
        .first_frames
        .iter()
        .zip(&sums)
        .filter(|(_, sum)| sum.total > 0)
        .filter_map(|(&frame, sum)| {
            Some(FunctionRow {
                frame: profile.frames.get(frame as usize)?,
                self_weight: sum.self_weight,
                total: sum.total,
            })
        })
        .collect();
    rows.sort_by(|a, b| {
        (b.self_weight, b.total)
            .cmp(&(a.self_weight, a.total))
            .then_with(|| a.frame.function.cmp(&b.frame.function))
            .then_with(|| a.frame.module.cmp(&b.frame.module))
    });
    Functions { rows, total }
}

#[derive(Clone, Debug, Default)]
struct FunctionSum {
    self_weight: u64,
    total: u64,
    /// The stack whose weight `total` holds already, from 1: recursion counts once.
    counted_in: u32,
}

/// A node of a [`CallTree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeNodeId(u32);

/// What a node of a [`CallTree`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TreeNodeKind {
    /// The whole profile.
    Root,
    /// A thread: its position in [`ResolvedProfile::threads`].
    Thread(u32),
    /// A function: the position in [`ResolvedProfile::frames`] of the first frame that stands for it.
    Function(u32),
}

/// A function as it was called from the functions above it.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeNode {
    /// What it stands for.
    pub kind: TreeNodeKind,
    /// The weight of the stacks that end here.
    pub self_weight: u64,
    /// The same, with all nodes below.
    pub total: u64,
    /// What called it; `None` for the root.
    pub parent: Option<TreeNodeId>,
    /// Its place in [`CallTree::children`].
    children: std::ops::Range<usize>,
}

/// How a [`CallTree`] is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTreeOptions {
    /// What is added up.
    pub weight: Weight,
    /// Whether each thread has a node of its own under the root.
    pub threads: bool,
}

/// All stacks of a profile as one tree, outermost functions at the top. Stacks without weight are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct CallTree {
    /// Parents before their children; the root is the first.
    nodes: Vec<TreeNode>,
    /// The children of one node lie together, highest total first.
    children: Vec<TreeNodeId>,
}

impl CallTree {
    /// The tree of `profile`.
    pub fn new(profile: &ResolvedProfile, options: CallTreeOptions) -> Self {
        let ids = FunctionIds::new(&profile.frames);
        let mut builder = TreeBuilder::default();
        for stack in weighed(profile, options.weight) {
            let thread = options.threads.then_some(Step::Thread(stack.thread));
            let functions = ids.of(stack).map(Step::Function);
            builder.add(
                thread.into_iter().chain(functions),
                stack.weights.get(options.weight),
            );
        }
        builder.finish(&ids)
    }

    /// The node of the whole profile.
    pub fn root(&self) -> TreeNodeId {
        TreeNodeId(0)
    }

    /// One node.
    pub fn node(&self, id: TreeNodeId) -> &TreeNode {
        &self.nodes[id.0 as usize]
    }

    /// The nodes below `id`, highest total first.
    pub fn children(&self, id: TreeNodeId) -> &[TreeNodeId] {
        &self.children[self.node(id).children.clone()]
    }

    /// All nodes as a reader of the tree meets them, each with how deep it lies under the root: a node, then its first
    /// child with all below it, then the next.
    pub fn walk(&self) -> impl Iterator<Item = (usize, TreeNodeId)> {
        let mut due = vec![(0, self.root())];
        std::iter::from_fn(move || {
            let (depth, id) = due.pop()?;
            let children = self.children(id).iter().rev();
            due.extend(children.map(|&child| (depth + 1, child)));
            Some((depth, id))
        })
    }
}

/// One step down from the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Root,
    Thread(u32),
    Function(u32),
}

struct TreeBuilder {
    /// Parent (the root's own is itself), step, self weight.
    nodes: Vec<(u32, Step, u64)>,
    ids: FxHashMap<(u32, Step), u32>,
    /// The way to the stack added last: the next one mostly begins alike.
    path: Vec<(Step, u32)>,
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self {
            nodes: vec![(0, Step::Root, 0)],
            ids: FxHashMap::default(),
            path: Vec::new(),
        }
    }
}

impl TreeBuilder {
    fn add(&mut self, steps: impl Iterator<Item = Step>, weight: u64) {
        let mut node = 0;
        let mut depth = 0;
        for step in steps {
            match self.path.get(depth) {
                Some(&(known, id)) if known == step => node = id,
                _ => {
                    self.path.truncate(depth);
                    node = self.child(node, step);
                    self.path.push((step, node));
                }
            }
            depth += 1;
        }
        self.path.truncate(depth);
        let self_weight = &mut self.nodes[node as usize].2;
        *self_weight = self_weight.saturating_add(weight);
    }

    fn child(&mut self, parent: u32, step: Step) -> u32 {
        let next = u32::try_from(self.nodes.len())
            .expect("a profile with as many distinct callers as ids would not fit in memory");
        let id = *self.ids.entry((parent, step)).or_insert(next);
        if id == next {
            self.nodes.push((parent, step, 0));
        }
        id
    }

    fn finish(self, ids: &FunctionIds) -> CallTree {
        let mut totals: Vec<u64> = self.nodes.iter().map(|node| node.2).collect();
        // Children have higher ids than their parents: from the end, each total is whole before it is passed on.
        for id in (1..self.nodes.len()).rev() {
            let parent = self.nodes[id].0 as usize;
            totals[parent] = totals[parent].saturating_add(totals[id]);
        }
        let mut children: Vec<TreeNodeId> = (0..)
            .map(TreeNodeId)
            .take(self.nodes.len())
            .skip(1)
            .collect();
        children.sort_unstable_by_key(|&TreeNodeId(id)| {
            let parent = self.nodes[id as usize].0;
            (parent, std::cmp::Reverse(totals[id as usize]), id)
        });
        let mut nodes: Vec<TreeNode> = (0u32..)
            .zip(&self.nodes)
            .zip(totals)
            .map(|((id, &(parent, step, self_weight)), total)| TreeNode {
                kind: ids.kind(step),
                self_weight,
                total,
                parent: (id != 0).then_some(TreeNodeId(parent)),
                children: 0..0,
            })
            .collect();
        let parent_of = |&TreeNodeId(id): &TreeNodeId| self.nodes[id as usize].0;
        let mut start = 0;
        for siblings in children.chunk_by(|a, b| parent_of(a) == parent_of(b)) {
            let end = start + siblings.len();
            if let Some(first) = siblings.first() {
                nodes[parent_of(first) as usize].children = start..end;
            }
            start = end;
        }
        CallTree { nodes, children }
    }
}

/// Which frames are the same function.
struct FunctionIds {
    /// By frame.
    functions: Vec<u32>,
    /// By function.
    first_frames: Vec<u32>,
}

impl FunctionIds {
    fn new(frames: &[ResolvedFrame]) -> Self {
        let mut ids = FxHashMap::default();
        let mut first_frames = Vec::new();
        let functions = (0u32..)
            .zip(frames)
            .map(|(position, frame)| {
                let key = (frame.function.as_str(), frame.module.as_deref());
                *ids.entry(key).or_insert_with(|| {
                    first_frames.push(position);
                    first_frames.len() - 1
                })
            })
            // There are no more functions than frames, and those have positions of 32 bits.
            .map(|function| u32::try_from(function).unwrap_or(u32::MAX))
            .collect();
        Self {
            functions,
            first_frames,
        }
    }

    /// The functions of `stack`, outermost first.
    fn of<'a>(&'a self, stack: &'a WeightedStack) -> impl Iterator<Item = u32> + 'a {
        stack
            .frames
            .iter()
            .filter_map(|&frame| self.functions.get(frame as usize).copied())
    }

    fn kind(&self, step: Step) -> TreeNodeKind {
        match step {
            Step::Root => TreeNodeKind::Root,
            Step::Thread(thread) => TreeNodeKind::Thread(thread),
            Step::Function(function) => {
                TreeNodeKind::Function(self.first_frames[function as usize])
            }
        }
    }
}

/// The stacks that have any of `weight`.
fn weighed(profile: &ResolvedProfile, weight: Weight) -> impl Iterator<Item = &WeightedStack> {
    profile
        .stacks
        .iter()
        .filter(move |stack| stack.weights.get(weight) > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::resolved::{FrameKind, StackWeights};
    use super::super::stacks::{End, StackId};
    use super::*;

    fn frame(function: &str, module: &str, line: u32) -> ResolvedFrame {
        ResolvedFrame {
            function: function.into(),
            module: Some(module.into()),
            file: Some("a.c".into()),
            line: Some(line),
            line_precision: None,
            inlined: false,
            kind: FrameKind::Native,
            language: None,
        }
    }

    /// Each stack: thread, frames outermost first, CPU ns.
    fn profile(frames: Vec<ResolvedFrame>, stacks: &[(u32, &[u32], u64)]) -> ResolvedProfile {
        ResolvedProfile {
            frames,
            stacks: stacks
                .iter()
                .map(|&(thread, frames, cpu_ns)| WeightedStack {
                    recorded: StackId(0),
                    frames: frames.to_vec(),
                    thread,
                    end: End::Complete,
                    holds_lock: false,
                    weights: StackWeights {
                        cpu_ns,
                        ..StackWeights::default()
                    },
                })
                .collect(),
            ..ResolvedProfile::default()
        }
    }

    /// main (0, 1: another line of it), walk (2), free of two modules (3, 4).
    fn frames() -> Vec<ResolvedFrame> {
        vec![
            frame("main", "app", 1),
            frame("main", "app", 2),
            frame("walk", "app", 3),
            frame("free", "libc", 4),
            frame("free", "jemalloc", 5),
        ]
    }

    #[test]
    fn recursion_counts_once_and_lines_are_merged() {
        let profile = profile(
            frames(),
            &[
                (0, &[0, 2, 2, 2], 10),
                (0, &[1, 2, 3], 5),
                (1, &[1, 4], 3),
                (1, &[0], 0),
            ],
        );
        let functions = functions(&profile, Weight::Cpu);
        let rows: Vec<_> = functions
            .rows
            .iter()
            .map(|row| {
                let module = row.frame.module.as_deref().unwrap_or_default();
                (
                    row.frame.function.as_str(),
                    module,
                    row.self_weight,
                    row.total,
                )
            })
            .collect();
        assert_eq!(functions.total, 18);
        assert_eq!(
            rows,
            [
                ("walk", "app", 10, 15),
                ("free", "libc", 5, 5),
                ("free", "jemalloc", 3, 3),
                ("main", "app", 0, 18),
            ]
        );
    }

    fn lines(profile: &ResolvedProfile, tree: &CallTree) -> Vec<String> {
        tree.walk()
            .map(|(depth, id)| {
                let node = tree.node(id);
                let name = match node.kind {
                    TreeNodeKind::Root => "all".to_owned(),
                    TreeNodeKind::Thread(thread) => format!("thread {thread}"),
                    TreeNodeKind::Function(frame) => {
                        profile.frames[frame as usize].function.clone()
                    }
                };
                format!(
                    "{}{name} {} {}",
                    "-".repeat(depth),
                    node.self_weight,
                    node.total
                )
            })
            .collect()
    }

    #[test]
    fn a_tree_merges_callers_and_puts_the_heaviest_first() {
        let profile = profile(
            frames(),
            &[
                (0, &[0, 3], 1),
                (1, &[1, 2, 2], 7),
                (0, &[0, 2], 2),
                (0, &[0], 1),
            ],
        );
        let tree = CallTree::new(&profile, CallTreeOptions::default());
        assert_eq!(
            lines(&profile, &tree),
            [
                "all 0 11",
                "-main 1 11",
                "--walk 2 9",
                "---walk 7 7",
                "--free 1 1"
            ]
        );
        let by_thread = CallTreeOptions {
            threads: true,
            ..CallTreeOptions::default()
        };
        let tree = CallTree::new(&profile, by_thread);
        assert_eq!(
            lines(&profile, &tree),
            [
                "all 0 11",
                "-thread 1 0 7",
                "--main 0 7",
                "---walk 0 7",
                "----walk 7 7",
                "-thread 0 0 4",
                "--main 1 4",
                "---walk 2 2",
                "---free 1 1"
            ]
        );
    }

    #[test]
    fn a_weight_that_no_stack_has_leaves_only_the_root() {
        let profile = profile(frames(), &[(0, &[0], 5)]);
        let off_cpu = CallTreeOptions {
            weight: Weight::OffCpu,
            threads: true,
        };
        let tree = CallTree::new(&profile, off_cpu);
        assert_eq!(lines(&profile, &tree), ["all 0 0"]);
        assert_eq!(functions(&profile, Weight::OffCpu).rows, []);
    }

    #[test]
    fn very_deep_stacks_do_not_recurse() {
        let deep = vec![2; 100_000];
        let profile = profile(frames(), &[(0, &deep, 4), (0, &deep[..50_000], 3)]);
        let tree = CallTree::new(&profile, CallTreeOptions::default());
        assert_eq!(tree.walk().count(), 100_001);
        assert_eq!(functions(&profile, Weight::Cpu).rows[0].total, 7);
    }

    proptest! {
        #[test]
        fn the_root_holds_everything_and_children_never_more_than_their_parent(
            stacks in prop::collection::vec(
                (0..3u32, prop::collection::vec(0..5u32, 0..6), 0..100u64), 0..30),
            threads: bool,
        ) {
            let borrowed: Vec<_> = stacks
                .iter()
                .map(|(thread, frames, cpu)| (*thread, frames.as_slice(), *cpu))
                .collect();
            let profile = profile(frames(), &borrowed);
            let tree = CallTree::new(&profile, CallTreeOptions { weight: Weight::Cpu, threads });
            let all: u64 = stacks.iter().map(|stack| stack.2).sum();
            prop_assert_eq!(tree.node(tree.root()).total, all);
            prop_assert_eq!(functions(&profile, Weight::Cpu).total, all);
            for (_, id) in tree.walk() {
                let children = tree.children(id).iter().map(|&child| tree.node(child));
                let below: u64 = children.clone().map(|child| child.total).sum();
                let node = tree.node(id);
                prop_assert_eq!(node.total, node.self_weight + below);
                prop_assert!(children.clone().is_sorted_by(|a, b| a.total >= b.total));
                prop_assert!(children.clone().all(|child| child.parent == Some(id)));
            }
        }
    }
}
