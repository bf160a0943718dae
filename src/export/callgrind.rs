//! callgrind's format (valgrind manual, "Callgrind Format Specification"): functions with their own cost by line and the
//! cost of their calls, for KCachegrind and callgrind_annotate. A recursion counts once in what it calls.

use std::collections::BTreeMap;
use std::io::{self, Write};

use rustc_hash::{FxHashMap, FxHashSet};

use super::names::printable;
use crate::profile::{ResolvedFrame, ResolvedProfile, Weight};

/// Writes `profile` by `weight`.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, weight: Weight, out: &mut impl Write) -> io::Result<()> {
    let (event, words) = event(weight);
    let mut costs = Costs::new(&profile.frames);
    let mut total = 0u64;
    for stack in &profile.stacks {
        let value = stack.weights.get(weight);
        if value > 0 {
            total = total.saturating_add(value);
            costs.add(&stack.frames, value, stack.weights.samples);
        }
    }
    writeln!(out, "# callgrind format\nversion: 1")?;
    writeln!(out, "creator: sampler {}", env!("CARGO_PKG_VERSION"))?;
    if let Some(thread) = profile.threads.first() {
        writeln!(
            out,
            "pid: {}\ncmd: {}",
            thread.pid,
            printable(&thread.process)
        )?;
    }
    writeln!(
        out,
        "positions: line\nevent: {event} : {words}\nevents: {event}"
    )?;
    writeln!(out, "summary: {total}")?;
    for (&function, of_function) in &costs.functions {
        costs.write_function(function, of_function, out)?;
    }
    writeln!(out, "\ntotals: {total}")
}

fn event(weight: Weight) -> (&'static str, &'static str) {
    match weight {
        Weight::Cpu => ("CPU_ns", "CPU time in nanoseconds"),
        Weight::Wall => ("Wall_ns", "Wall-clock time in nanoseconds"),
        Weight::OffCpu => ("OffCPU_ns", "Time asleep in nanoseconds"),
        Weight::RunQueue => ("RunQueue_ns", "Time waiting for a CPU in nanoseconds"),
        Weight::Samples => ("Samples", "Samples"),
    }
}

/// What a function costs by itself, by line, and in its calls: by line, callee and the callee's line.
#[derive(Default)]
struct OfFunction {
    own: BTreeMap<u32, u64>,
    calls: BTreeMap<(u32, u32, u32), Call>,
}

#[derive(Clone, Copy, Default)]
struct Call {
    cost: u64,
    samples: u64,
}

struct Costs<'a> {
    frames: &'a [ResolvedFrame],
    /// By frame, the function: the position of its first frame.
    function_of: Vec<u32>,
    functions: BTreeMap<u32, OfFunction>,
    /// The calls of the stack that is being added.
    counted: FxHashSet<(u32, u32)>,
}

impl<'a> Costs<'a> {
    fn new(frames: &'a [ResolvedFrame]) -> Self {
        let mut firsts = FxHashMap::default();
        let function_of = (0u32..)
            .zip(frames)
            .map(|(position, frame)| {
                let key = (&frame.function, &frame.module, &frame.file);
                *firsts.entry(key).or_insert(position)
            })
            .collect();
        Self {
            frames,
            function_of,
            functions: BTreeMap::new(),
            counted: FxHashSet::default(),
        }
    }

    /// The function of a frame, and its line.
    fn place(&self, frame: u32) -> (u32, u32) {
        let function = self.function_of.get(frame as usize).copied();
        let line = self.frames.get(frame as usize).and_then(|frame| frame.line);
        (function.unwrap_or(frame), line.unwrap_or(0))
    }

    fn add(&mut self, outermost_first: &[u32], value: u64, samples: u64) {
        self.counted.clear();
        for pair in outermost_first.windows(2) {
            let &[caller, callee] = pair else { continue };
            let ((caller, line), (callee, callee_line)) = (self.place(caller), self.place(callee));
            if self.counted.insert((caller, callee)) {
                let of_caller = self.functions.entry(caller).or_default();
                let call = of_caller
                    .calls
                    .entry((line, callee, callee_line))
                    .or_default();
                call.cost = call.cost.saturating_add(value);
                call.samples = call.samples.saturating_add(samples);
                // So that it has an entry, though it may have no cost of its own.
                self.functions.entry(callee).or_default();
            }
        }
        if let Some(&innermost) = outermost_first.last() {
            let (function, line) = self.place(innermost);
            let own = &mut self.functions.entry(function).or_default().own;
            let own = own.entry(line).or_default();
            *own = own.saturating_add(value);
        }
    }

    fn write_function(
        &self,
        function: u32,
        of_function: &OfFunction,
        out: &mut impl Write,
    ) -> io::Result<()> {
        writeln!(out)?;
        self.write_name("ob=", "fl=", "fn=", function, out)?;
        for (line, value) in &of_function.own {
            writeln!(out, "{line} {value}")?;
        }
        for (&(line, callee, callee_line), call) in &of_function.calls {
            self.write_name("cob=", "cfi=", "cfn=", callee, out)?;
            writeln!(out, "calls={} {callee_line}", call.samples.max(1))?;
            writeln!(out, "{line} {}", call.cost)?;
        }
        Ok(())
    }

    fn write_name(
        &self,
        object: &str,
        file: &str,
        name: &str,
        function: u32,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let Some(frame) = self.frames.get(function as usize) else {
            return Ok(());
        };
        let module = frame.module.as_deref().unwrap_or("[none]");
        let path = frame.file.as_deref().unwrap_or("???");
        writeln!(out, "{object}{}", printable(module))?;
        writeln!(out, "{file}{}", printable(path))?;
        writeln!(out, "{name}{}", printable(&frame.function))
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn functions_have_their_own_cost_and_that_of_their_calls() {
        let text = example::written(|out| write(&example::profile(), Weight::Cpu, out));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_recursion_counts_once() {
        let text = example::written(|out| write(&example::deep(10_000), Weight::Cpu, out));
        assert_eq!(text.matches("calls=").count(), 2, "{text}");
        assert_eq!(text.matches("\n7 10000000").count(), 3, "{text}");
    }
}
