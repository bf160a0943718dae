//! The text of `perf script`: an entry for each sample, in the order of time, innermost frame first. What reads `perf
//! script` reads this: flame graph tools, speedscope, the Firefox Profiler. The period of an entry is its weight, in
//! nanoseconds, or a count of samples.

use std::io::{self, Write};

use super::moments::shares;
use super::names::printable;
use crate::profile::{ResolvedProfile, Weight};

/// Writes `profile` by `weight`.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, weight: Weight, out: &mut impl Write) -> io::Result<()> {
    let shares = shares(profile, weight, |value| value);
    let moments = profile.moments.iter().zip(&shares.of_moments);
    let ends_ns = profile.moments.iter().map(|moment| moment.at_ns).max();
    let unseen = shares.unseen.iter();
    let entries = moments
        .map(|(moment, &value)| (moment.stack, moment.at_ns, value))
        // What was accounted and not seen comes last.
        .chain(unseen.map(|&(stack, value)| (stack, ends_ns.unwrap_or(0), value)));
    for (stack, at_ns, value) in entries.filter(|(.., value)| *value > 0) {
        write_entry(profile, weight, stack, at_ns, value, out)?;
    }
    Ok(())
}

fn write_entry(
    profile: &ResolvedProfile,
    weight: Weight,
    stack: u32,
    at_ns: u64,
    value: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(stack) = profile.stacks.get(stack as usize) else {
        return Ok(());
    };
    if let Some(thread) = profile.threads.get(stack.thread as usize) {
        writeln!(
            out,
            "{} {}/{} {}.{:06}: {value} {}:",
            comm(&thread.name),
            thread.pid,
            // What stands for threads that nobody saw has no number.
            thread.tid.max(0),
            at_ns / 1_000_000_000,
            at_ns / 1_000 % 1_000_000,
            event(weight),
        )?;
    }
    for &position in stack.frames.iter().rev() {
        if let Some(frame) = profile.frames.get(position as usize) {
            let module = frame.module.as_deref().unwrap_or("[none]");
            writeln!(
                out,
                // Frames have no address any more; readers tell them apart by what is in its place.
                "\t{:16x} {} ({})",
                u64::from(position) + 1,
                plain(&frame.function),
                plain(module).replace(char::is_whitespace, "_"),
            )?;
        }
    }
    writeln!(out)
}

/// The name of a thread, in which readers find the number behind it.
fn comm(name: &str) -> String {
    plain(name).replace(char::is_whitespace, "_")
}

/// A name without the signs of ours that are not ASCII: there are readers that cut texts between the bytes of one.
fn plain(name: &str) -> String {
    printable(name).replace('→', "->").replace('\u{fffd}', "?")
}

fn event(weight: Weight) -> &'static str {
    match weight {
        Weight::Cpu => "cpu-clock",
        Weight::Wall => "wall-clock",
        Weight::OffCpu => "off-cpu",
        Weight::RunQueue => "run-queue",
        Weight::Samples => "samples",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use inferno::collapse::Collapse;
    use inferno::collapse::perf::Folder;

    use super::super::example;
    use super::*;

    #[test]
    fn flame_graph_tools_read_it_with_its_weights() {
        let profile = example::in_time();
        let text = example::written(|out| write(&profile, Weight::Cpu, out));
        let mut folded = Vec::new();
        let mut folder = Folder::default();
        folder
            .collapse(text.as_bytes(), &mut folded)
            .expect("it is understood");
        let folded = String::from_utf8(folded).expect("text");
        let stacks: BTreeMap<&str, u64> = folded
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(stack, value)| (stack, value.parse().expect("a number")))
            .collect();
        assert_eq!(
            stacks.values().sum::<u64>(),
            profile.total().cpu_ns,
            "{folded}"
        );
        let main = "server;_start;main;main::serve;[syscall: write]";
        assert_eq!(stacks.get(main), Some(&55_000_000), "{folded}");
    }

    #[test]
    fn an_entry_is_one_of_perf() {
        let profile = example::in_time();
        let text = example::written(|out| write(&profile, Weight::Samples, out));
        let first = text.lines().next();
        assert_eq!(first, Some("server 4711/4711 0.000000: 123 samples:"));
        assert!(text.contains("\nworker;_1 4711/4712 "), "{text}");
    }
}
