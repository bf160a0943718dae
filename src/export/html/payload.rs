//! What the page shows, as it reads it (`page/profile.js`): the length of a JSON text as u32, little-endian; that
//! text, with all names; then columns of numbers, in this order:
//!
//! - frames: function, module + 1, file + 1 (positions in `strings`; 0: none), line, kind, language + 1, inlined
//! - nodes, in preorder: how far back the caller's node is (0: none), frame (difference to the node before)
//! - slices, by thread, part and node: thread (difference to the slice before), part (difference), node (difference),
//!   lock held, then wall, off-CPU and run-queue time in `unit_us` microseconds, CPU time (difference to what the
//!   others leave of wall time), samples
//!
//! A slice is what one stack of one thread stands for in one part of the recording. All slices together are the
//! profile: their sums are its totals.

use std::io::{self, Write};

use rustc_hash::{FxHashMap, FxHashSet};
use sampler_unwind::interpreter::Language;

use super::super::names::printable;
use super::columns::{self, difference};
use crate::profile::{
    FrameKind, ResolvedFrame, ResolvedProfile, StackWeights, Summary, ThreadId, TimeSlice, Weight,
    WeightedStack,
};

/// Writes it.
pub(super) fn write(
    profile: &ResolvedProfile,
    weight: Weight,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut strings = Strings::default();
    let tree = Tree::of(profile);
    let frames = frame_columns(&tree.frames, &mut strings);
    let slices = slices(profile, &tree.nodes_of_stacks);
    let head = Head {
        version: env!("CARGO_PKG_VERSION"),
        weight: weight_name(weight),
        part_ns: profile
            .timeline
            .as_ref()
            .map_or(0, |timeline| timeline.part_ns()),
        parts: profile
            .timeline
            .as_ref()
            .map_or(1, |timeline| timeline.parts().max(1)),
        unit_us: unit_us(slices.len()),
        summary: (&profile.summary).into(),
        notes: profile
            .notes
            .iter()
            .map(|note| printable(note).into_owned())
            .collect(),
        threads: threads(profile),
        kinds: KINDS.map(|(_, name)| name),
        languages: languages(&tree.frames),
        frames: tree.frames.len(),
        nodes: tree.nodes.len(),
        slices: slices.len(),
        strings: strings.list,
    };
    let head = serde_json::to_vec(&head)?;
    let head_bytes = u32::try_from(head.len()).map_err(io::Error::other)?;
    out.write_all(&head_bytes.to_le_bytes())?;
    out.write_all(&head)?;
    for column in frames {
        columns::write(column, out)?;
    }
    write_nodes(&tree.nodes, out)?;
    write_slices(&slices, out)
}

#[derive(serde::Serialize)]
struct Head<'a> {
    version: &'a str,
    weight: &'a str,
    part_ns: u64,
    parts: u32,
    unit_us: u64,
    summary: SummaryWords,
    notes: Vec<String>,
    threads: Vec<Thread>,
    kinds: [&'a str; KINDS.len()],
    languages: Vec<&'a str>,
    frames: usize,
    nodes: usize,
    slices: usize,
    strings: Vec<String>,
}

#[derive(serde::Serialize)]
struct Thread {
    process: u32,
    pid: i32,
    tid: i32,
    name: String,
    command: String,
    command_line: String,
}

/// What the page says of how the recording was made.
#[derive(serde::Serialize)]
struct SummaryWords {
    samples: u64,
    wall_ns: u64,
    cpu_ns: u64,
    rate_hz: f64,
    rate_hz_requested: f64,
    complete_ratio: f64,
    missed: u64,
    stops: u64,
    pause_p50_ns: u64,
    pause_max_ns: u64,
    thread_stopped: f64,
    sampler_cpu_ns: u64,
}

impl From<&Summary> for SummaryWords {
    fn from(summary: &Summary) -> Self {
        Self {
            samples: summary.samples,
            wall_ns: summary.wall_ns,
            cpu_ns: summary.cpu_ns,
            rate_hz: summary.rate_hz_achieved,
            rate_hz_requested: summary.rate_hz_requested,
            complete_ratio: summary.complete_ratio,
            missed: summary
                .missed
                .values()
                .fold(0, |sum, count| sum.saturating_add(*count)),
            stops: summary.stops,
            pause_p50_ns: summary.pause_ns.p50,
            pause_max_ns: summary.pause_ns.max,
            thread_stopped: summary.overhead.thread_stopped,
            sampler_cpu_ns: summary.sampler_cpu_ns,
        }
    }
}

fn weight_name(weight: Weight) -> &'static str {
    match weight {
        Weight::Cpu => "cpu",
        Weight::Wall => "wall",
        Weight::OffCpu => "off",
        Weight::RunQueue => "queue",
        Weight::Samples => "samples",
    }
}

fn threads(profile: &ResolvedProfile) -> Vec<Thread> {
    let threads = profile.threads.iter().map(|thread| Thread {
        process: thread.process_index,
        pid: thread.pid,
        tid: thread.tid,
        name: printable(&thread.name).into_owned(),
        command: printable(&thread.command).into_owned(),
        command_line: printable(&thread.process).into_owned(),
    });
    threads.collect()
}

/// The kinds of frames, by the number that the page gets.
const KINDS: [(FrameKind, &str); 8] = [
    (FrameKind::Native, "native"),
    (FrameKind::Kernel, "kernel"),
    (FrameKind::Interpreted, "interpreted"),
    (FrameKind::Compiled, "compiled"),
    (FrameKind::Builtin, "builtin"),
    (FrameKind::Runtime, "runtime"),
    (FrameKind::Blocked, "blocked"),
    (FrameKind::Note, "note"),
];

fn languages(frames: &[ResolvedFrame]) -> Vec<&'static str> {
    let mut found: Vec<&str> = frames
        .iter()
        .filter_map(|frame| frame.language.map(Language::name))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Texts, each once.
#[derive(Default)]
struct Strings {
    list: Vec<String>,
    positions: FxHashMap<String, u64>,
}

impl Strings {
    fn add(&mut self, text: &str) -> u64 {
        let text = printable(text);
        if let Some(&position) = self.positions.get(text.as_ref()) {
            return position;
        }
        let position = self.list.len() as u64;
        self.list.push(text.clone().into_owned());
        self.positions.insert(text.into_owned(), position);
        position
    }

    /// Its position + 1; 0 for none.
    fn add_option(&mut self, text: Option<&str>) -> u64 {
        text.map_or(0, |text| self.add(text) + 1)
    }
}

fn frame_columns(frames: &[ResolvedFrame], strings: &mut Strings) -> [Vec<u64>; 7] {
    let languages = languages(frames);
    let mut columns: [Vec<u64>; 7] = Default::default();
    for frame in frames {
        let kind = KINDS.iter().position(|(kind, _)| *kind == frame.kind);
        let language = frame.language.map(Language::name);
        let language = languages.iter().position(|known| Some(*known) == language);
        let row = [
            strings.add(&frame.function),
            strings.add_option(frame.module.as_deref()),
            strings.add_option(frame.file.as_deref()),
            frame.line.map_or(0, u64::from),
            kind.unwrap_or_default() as u64,
            language.map_or(0, |language| language as u64 + 1),
            u64::from(frame.inlined),
        ];
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    columns
}

/// A frame below its caller.
#[derive(Clone, Copy)]
struct Node {
    /// How far back its caller is; 0 for an outermost frame.
    caller_back: u32,
    frame: u32,
}

/// All stacks of a profile as one tree, in preorder: the frames below a node follow it.
struct Tree {
    /// Those of the profile, then one for each process by name where there are several.
    frames: Vec<ResolvedFrame>,
    nodes: Vec<Node>,
    /// The innermost node of each stack of the profile; `None` for a stack without frames.
    nodes_of_stacks: Vec<Option<u32>>,
}

impl Tree {
    fn of(profile: &ResolvedProfile) -> Self {
        let (frames, roots) = with_processes(profile);
        let root = |stack: &WeightedStack| roots.get(stack.thread as usize).copied().flatten();
        let mut order: Vec<(Option<u32>, &WeightedStack, usize)> = (0..)
            .zip(&profile.stacks)
            .map(|(at, stack)| (root(stack), stack, at))
            .collect();
        order.sort_by(|a, b| (a.0, &a.1.frames).cmp(&(b.0, &b.1.frames)));
        let mut tree = Self {
            frames,
            nodes: Vec::new(),
            nodes_of_stacks: vec![None; profile.stacks.len()],
        };
        // The frames of the stack before, each with its node.
        let mut path: Vec<(u32, u32)> = Vec::new();
        for (root, stack, at) in order {
            let frames = root.into_iter().chain(stack.frames.iter().copied());
            let mut depth = 0;
            for frame in frames {
                if path.get(depth).is_none_or(|&(known, _)| known != frame) {
                    path.truncate(depth);
                    let caller = path.last().map(|&(_, node)| node);
                    path.push((frame, tree.add(caller, frame)));
                }
                depth += 1;
            }
            let innermost = depth.checked_sub(1).and_then(|last| path.get(last));
            tree.nodes_of_stacks[at] = innermost.map(|&(_, node)| node);
        }
        tree
    }

    fn add(&mut self, caller: Option<u32>, frame: u32) -> u32 {
        // A table with more nodes would not fit in memory.
        let node = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Node {
            caller_back: caller.map_or(0, |caller| node - caller),
            frame,
        });
        node
    }
}

/// The frames of a profile, and one for each process by its name where there are several; and which of these each
/// thread has.
fn with_processes(profile: &ResolvedProfile) -> (Vec<ResolvedFrame>, Vec<Option<u32>>) {
    let mut frames = profile.frames.clone();
    let processes: FxHashSet<u32> = profile
        .threads
        .iter()
        .map(|thread| thread.process_index)
        .collect();
    if processes.len() <= 1 {
        return (frames, vec![None; profile.threads.len()]);
    }
    let mut known: FxHashMap<&str, u32> = FxHashMap::default();
    let roots = profile.threads.iter().map(|thread| {
        Some(*known.entry(&thread.command).or_insert_with(|| {
            frames.push(ResolvedFrame {
                function: format!("{} [process]", thread.command),
                module: None,
                file: None,
                line: None,
                line_precision: None,
                inlined: false,
                kind: FrameKind::Note,
                language: None,
            });
            u32::try_from(frames.len() - 1).unwrap_or(u32::MAX)
        }))
    });
    let roots = roots.collect();
    (frames, roots)
}

fn write_nodes(nodes: &[Node], out: &mut impl Write) -> io::Result<()> {
    columns::write(nodes.iter().map(|node| u64::from(node.caller_back)), out)?;
    let mut before = 0;
    let frames = nodes.iter().map(|node| {
        let frame = u64::from(node.frame);
        let change = difference(frame, before);
        before = frame;
        change
    });
    columns::write(frames, out)
}

/// What one stack of one thread stands for in one part of the recording.
#[derive(Clone, Copy)]
struct Slice {
    thread: u32,
    part: u32,
    node: u32,
    holds_lock: bool,
    weights: StackWeights,
}

/// All slices: by thread, part and node.
fn slices(profile: &ResolvedProfile, nodes: &[Option<u32>]) -> Vec<Slice> {
    let mut slices = Vec::new();
    for (stack, node) in profile.stacks.iter().zip(nodes) {
        let Some(node) = *node else {
            continue;
        };
        for (part, weights) in parts_of(profile, stack) {
            slices.push(Slice {
                thread: stack.thread,
                part,
                node,
                holds_lock: stack.holds_lock,
                weights,
            });
        }
    }
    let key = |slice: &Slice| (slice.thread, slice.part, slice.node, slice.holds_lock);
    slices.sort_by_key(key);
    slices.dedup_by(|next, kept| {
        let is_same = key(next) == key(kept);
        if is_same {
            kept.weights += next.weights;
        }
        is_same
    });
    slices
}

/// The weights of a stack, by part of the recording.
fn parts_of(profile: &ResolvedProfile, stack: &WeightedStack) -> Vec<(u32, StackWeights)> {
    let timeline = profile.timeline.as_ref();
    let observed = timeline.map_or(&[][..], |timeline| {
        timeline.slices(ThreadId(stack.thread), stack.recorded)
    });
    if observed.is_empty() {
        return vec![(0, stack.weights)];
    }
    let mut parts: Vec<_> = observed
        .iter()
        .map(|slice| (slice.part, StackWeights::default()))
        .collect();
    for of in FIELDS {
        // What was charged to a stack at which nothing of it was observed is there as long as the stack was.
        let bases = [of, WALL, SAMPLES]
            .into_iter()
            .map(|base| column(observed, base));
        let bases = bases
            .into_iter()
            .find(|bases| bases.iter().any(|&base| base > 0));
        let bases = bases.unwrap_or_else(|| vec![1; observed.len()]);
        let mut total = stack.weights;
        let shares = shares(*of(&mut total), &bases);
        for ((_, weights), share) in parts.iter_mut().zip(shares) {
            *of(weights) = share;
        }
    }
    parts.retain(|(_, weights)| *weights != StackWeights::default());
    parts
}

type Field = fn(&mut StackWeights) -> &mut u64;
const WALL: Field = |weights| &mut weights.wall_ns;
const OFF_CPU: Field = |weights| &mut weights.off_cpu_ns;
const RUN_QUEUE: Field = |weights| &mut weights.run_queue_ns;
const CPU: Field = |weights| &mut weights.cpu_ns;
const SAMPLES: Field = |weights| &mut weights.samples;
const FIELDS: [Field; 5] = [WALL, OFF_CPU, RUN_QUEUE, CPU, SAMPLES];

fn column(slices: &[TimeSlice], of: Field) -> Vec<u64> {
    let column = slices.iter().map(|slice| {
        let mut weights = slice.weights;
        *of(&mut weights)
    });
    column.collect()
}

/// `total` in proportion to `bases`, of which one is not 0, in whole numbers that add up to it.
fn shares(total: u64, bases: &[u64]) -> Vec<u64> {
    let sum: u128 = bases.iter().map(|&base| u128::from(base)).sum();
    let (mut passed, mut given) = (0u128, 0u64);
    let shares = bases.iter().map(|&base| {
        passed += u128::from(base);
        // At most the total, because no more than the sum has passed.
        let due = u128::from(total) * passed / sum.max(1);
        let due = u64::try_from(due).unwrap_or(total);
        let share = due - given;
        given = due;
        share
    });
    shares.collect()
}

/// In which unit the times of so many slices are given, in microseconds: of many, none is long, and the finer digits of
/// each would take most of the room.
fn unit_us(slices: usize) -> u64 {
    const FEW: usize = 1 << 16;
    const MANY: usize = 1 << 18;
    if slices <= FEW {
        1
    } else if slices <= MANY {
        10
    } else {
        1_000
    }
}

fn write_slices(slices: &[Slice], out: &mut impl Write) -> io::Result<()> {
    let mut before = [0; 3];
    let mut ids: [Vec<u64>; 3] = Default::default();
    for slice in slices {
        let now = [slice.thread, slice.part, slice.node].map(u64::from);
        for ((column, now), before) in ids.iter_mut().zip(now).zip(&mut before) {
            column.push(difference(now, *before));
            *before = now;
        }
    }
    for column in ids {
        columns::write(column, out)?;
    }
    columns::write(slices.iter().map(|slice| u64::from(slice.holds_lock)), out)?;
    let unit_ns = unit_us(slices.len()) * 1_000;
    let wall = whole(slices, WALL, unit_ns);
    let off_cpu = whole(slices, OFF_CPU, unit_ns);
    let run_queue = whole(slices, RUN_QUEUE, unit_ns);
    let mut cpu = whole(slices, CPU, unit_ns);
    for (at, cpu) in cpu.iter_mut().enumerate() {
        let left = wall[at]
            .saturating_sub(off_cpu[at])
            .saturating_sub(run_queue[at]);
        *cpu = difference(*cpu, left);
    }
    for column in [wall, off_cpu, run_queue, cpu, whole(slices, SAMPLES, 1)] {
        columns::write(column, out)?;
    }
    Ok(())
}

/// A weight in whole units. What is left over of one slice is given to the next: the sum is right.
fn whole(slices: &[Slice], of: Field, unit: u64) -> Vec<u64> {
    let mut rest = 0u64;
    let whole = slices.iter().map(|slice| {
        let mut weights = slice.weights;
        rest = rest.saturating_add(*of(&mut weights));
        let whole = rest / unit;
        rest %= unit;
        // Decades: what is more is forged, and would not be a number to a script.
        whole.min(1 << 52)
    });
    whole.collect()
}
