//! Sums by function, line and thread: of the last interval, and of all.

use rustc_hash::FxHashMap;

use crate::profile::{FrameKind, ResolvedProfile, StackWeights, Summary, WeightedStack};

/// What has been added up so far.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// By function.
    pub functions: FxHashMap<(String, Option<String>), Sums>,
    /// By line.
    pub lines: FxHashMap<LineName, Sums>,
    /// By number of process and thread.
    pub threads: FxHashMap<(i32, i32), ThreadRow>,
    /// All together; `own` and `below` are the same.
    pub whole: Span,
    /// How long the last interval was, in nanoseconds of the recording.
    pub interval_ns: u64,
    /// What the recording has cost.
    pub summary: Summary,
    /// Whether the recording is over.
    pub is_over: bool,
}

/// A line of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineName {
    /// The function.
    pub function: String,
    /// The last part of its source file's name.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// Something in the last interval, and since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// In the last interval.
    pub last: StackWeights,
    /// Since the beginning, or since it was reset.
    pub all: StackWeights,
}

/// What a function or line stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Where it is innermost.
    pub own: Span,
    /// Where it is anywhere in the stack, counted once.
    pub below: Span,
    /// The stack it was counted in last.
    counted: u64,
}

/// A row that has a name.
#[derive(Clone, Debug, PartialEq)]
pub struct NameRow {
    /// What it is called.
    pub name: String,
    /// The module of a function, the source line of a line.
    pub place: String,
    /// What it stands for.
    pub sums: Sums,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ThreadRow {
    /// The name of its process.
    pub process: String,
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub sums: Span,
    /// Where it spent most of the last interval: its innermost function, and what that was called by.
    pub place: String,
    /// Whether it slept there.
    pub is_asleep: bool,
}

impl Totals {
    /// Adds what was seen in an interval that ended when the recording was `summary.wall_ns` long.
    pub fn add(&mut self, profile: &ResolvedProfile) {
        let summary = profile.summary.clone();
        self.interval_ns = summary.wall_ns.saturating_sub(self.summary.wall_ns);
        self.summary = summary;
        self.begin();
        for (number, stack) in (1..).zip(&profile.stacks) {
            self.whole.add(&stack.weights);
            self.add_frames(profile, stack, number);
        }
        self.add_threads(profile);
    }

    /// Starts again.
    pub fn reset(&mut self) {
        let summary = self.summary.clone();
        *self = Self {
            summary,
            is_over: self.is_over,
            ..Self::default()
        };
    }

    /// Functions, with their modules.
    pub fn function_rows(&self) -> Vec<NameRow> {
        let row = |(name, sums): (&(String, Option<String>), &Sums)| NameRow {
            name: name.0.clone(),
            place: name.1.clone().unwrap_or_default(),
            sums: *sums,
        };
        self.functions.iter().map(row).collect()
    }

    /// Lines, with their places.
    pub fn line_rows(&self) -> Vec<NameRow> {
        let row = |(name, sums): (&LineName, &Sums)| NameRow {
            name: name.function.clone(),
            place: format!("{}:{}", name.file, name.line),
            sums: *sums,
        };
        self.lines.iter().map(row).collect()
    }

    fn begin(&mut self) {
        self.whole.last = StackWeights::default();
        for sums in self.functions.values_mut().chain(self.lines.values_mut()) {
            sums.begin();
        }
        // A thread that has ended is told of for one interval more.
        self.threads
            .retain(|_, thread| thread.sums.last != StackWeights::default());
        for thread in self.threads.values_mut() {
            thread.sums.last = StackWeights::default();
        }
    }

    fn add_frames(&mut self, profile: &ResolvedProfile, stack: &WeightedStack, number: u64) {
        let innermost = stack.frames.len().saturating_sub(1);
        for (depth, &frame) in stack.frames.iter().enumerate() {
            let Some(frame) = profile.frames.get(frame as usize) else {
                continue;
            };
            let is_own = depth == innermost;
            let name = (frame.function.clone(), frame.module.clone());
            let sums = self.functions.entry(name).or_default();
            sums.add(&stack.weights, is_own, number);
            if let (Some(file), Some(line)) = (&frame.file, frame.line) {
                let name = LineName {
                    function: frame.function.clone(),
                    file: file.rsplit('/').next().unwrap_or(file).to_owned(),
                    line,
                };
                let sums = self.lines.entry(name).or_default();
                sums.add(&stack.weights, is_own, number);
            }
        }
    }

    fn add_threads(&mut self, profile: &ResolvedProfile) {
        // The stack at which each was longest.
        let mut longest: FxHashMap<u32, &WeightedStack> = FxHashMap::default();
        for stack in &profile.stacks {
            let Some(thread) = profile.threads.get(stack.thread as usize) else {
                continue;
            };
            let row = self.threads.entry((thread.pid, thread.tid)).or_default();
            row.process.clone_from(&thread.command);
            row.name.clone_from(&thread.name);
            row.sums.add(&stack.weights);
            let longest = longest.entry(stack.thread).or_insert(stack);
            if stack.weights.wall_ns > longest.weights.wall_ns {
                *longest = stack;
            }
        }
        for (thread, stack) in longest {
            let Some(thread) = profile.threads.get(thread as usize) else {
                continue;
            };
            if let Some(row) = self.threads.get_mut(&(thread.pid, thread.tid)) {
                (row.place, row.is_asleep) = place_of(profile, stack);
            }
        }
    }
}

/// The innermost function of `stack` and its caller, and whether it sleeps there.
fn place_of(profile: &ResolvedProfile, stack: &WeightedStack) -> (String, bool) {
    let frames = stack.frames.iter().rev();
    let mut frames = frames.filter_map(|&frame| profile.frames.get(frame as usize));
    let Some(innermost) = frames.next() else {
        return (String::new(), false);
    };
    let is_asleep = innermost.kind == FrameKind::Blocked;
    match frames.next() {
        Some(caller) => (
            format!("{} < {}", innermost.function, caller.function),
            is_asleep,
        ),
        None => (innermost.function.clone(), is_asleep),
    }
}

impl Span {
    fn add(&mut self, weights: &StackWeights) {
        self.last += *weights;
        self.all += *weights;
    }
}

impl Sums {
    fn begin(&mut self) {
        self.own.last = StackWeights::default();
        self.below.last = StackWeights::default();
        self.counted = 0;
    }

    /// Counts the stack of this `number`, from 1, in which it is.
    fn add(&mut self, weights: &StackWeights, is_own: bool, number: u64) {
        if is_own {
            self.own.add(weights);
        }
        if std::mem::replace(&mut self.counted, number) != number {
            self.below.add(weights);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{End, ResolvedFrame, ResolvedThread, StackId};

    fn frame(function: &str, line: u32, kind: FrameKind) -> ResolvedFrame {
        ResolvedFrame {
            function: function.to_owned(),
            module: Some("prog".to_owned()),
            file: Some(format!("/src/{function}.c")),
            line: Some(line),
            line_precision: None,
            inlined: false,
            kind,
            language: None,
        }
    }

    fn stack(frames: &[u32], cpu_ns: u64, wall_ns: u64) -> WeightedStack {
        WeightedStack {
            recorded: StackId(0),
            frames: frames.to_vec(),
            thread: 0,
            end: End::Complete,
            holds_lock: false,
            weights: StackWeights {
                cpu_ns,
                wall_ns,
                ..StackWeights::default()
            },
        }
    }

    fn profile(stacks: Vec<WeightedStack>, wall_ns: u64) -> ResolvedProfile {
        ResolvedProfile {
            frames: vec![
                frame("main", 1, FrameKind::Native),
                frame("work", 5, FrameKind::Native),
                frame("work", 6, FrameKind::Native),
                frame("[read]", 0, FrameKind::Blocked),
            ],
            stacks,
            threads: vec![ResolvedThread {
                process_index: 0,
                pid: 7,
                parent: None,
                process: "prog -x".to_owned(),
                command: "prog".to_owned(),
                tid: 8,
                name: "worker".to_owned(),
            }],
            summary: Summary {
                wall_ns,
                ..Summary::default()
            },
            ..ResolvedProfile::default()
        }
    }

    #[test]
    fn an_interval_is_told_from_all_there_was() {
        let mut totals = Totals::default();
        totals.add(&profile(vec![stack(&[0, 1, 2], 30, 100)], 1_000));
        totals.add(&profile(
            vec![stack(&[0, 1], 20, 10), stack(&[0], 1, 2)],
            2_500,
        ));
        let function = |name: &str| totals.functions[&(name.to_owned(), Some("prog".to_owned()))];
        let cpu = |span: Span| (span.last.cpu_ns, span.all.cpu_ns);
        assert_eq!(cpu(function("work").own), (20, 50));
        // Recursion counts once.
        assert_eq!(cpu(function("work").below), (20, 50));
        assert_eq!(cpu(function("main").own), (1, 1));
        assert_eq!(cpu(function("main").below), (21, 51));
        assert_eq!(cpu(totals.whole), (21, 51));
        assert_eq!(totals.interval_ns, 1_500);
        let mut lines = totals.line_rows();
        lines.sort_by(|a, b| a.place.cmp(&b.place));
        let lines: Vec<_> = lines
            .iter()
            .map(|row| (row.place.as_str(), cpu(row.sums.own)))
            .collect();
        let expected = [
            ("main.c:1", (1, 1)),
            ("work.c:5", (20, 20)),
            ("work.c:6", (0, 30)),
        ];
        assert_eq!(lines, expected);
        totals.reset();
        assert!(totals.functions.is_empty());
        assert_eq!(totals.summary.wall_ns, 2_500);
    }

    #[test]
    fn a_thread_is_where_it_was_longest_and_leaves_after_its_end() {
        let mut totals = Totals::default();
        totals.add(&profile(
            vec![stack(&[0, 1], 5, 5), stack(&[0, 3], 0, 90)],
            100,
        ));
        let thread = &totals.threads[&(7, 8)];
        assert_eq!(thread.place, "[read] < main");
        assert!(thread.is_asleep);
        assert_eq!((thread.sums.last.cpu_ns, thread.sums.last.wall_ns), (5, 95));
        totals.add(&profile(Vec::new(), 200));
        assert_eq!(totals.threads.len(), 1);
        totals.add(&profile(Vec::new(), 300));
        assert!(totals.threads.is_empty());
    }
}
