//! The verdicts, for people and for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::names::{Names, disassemble, short_name};
use crate::session::Outcome;
use crate::tally::{Counts, Example, Fault, ModuleTally, Tally};
use crate::verdict::Verdict;

/// The figures of one file, or of a whole program.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Its path; empty for the whole program.
    pub(crate) module: String,
    /// Comparisons.
    pub(crate) compared: u64,
    /// Stacks that were right and whole.
    pub(crate) exact: u64,
    /// That were cut, and said so.
    pub(crate) short: u64,
    /// That were wrong from a frame on which said that it may be.
    pub(crate) guessed: u64,
    /// That were wrong, and did not say so.
    pub(crate) wrong: u64,
    /// Distinct addresses at which was compared.
    pub(crate) addresses: u64,
    /// Of which at least one stack was not exact.
    pub(crate) addresses_missed: u64,
}

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// Instructions that the program executed.
    pub(crate) instructions: u64,
    /// Walks from all registers.
    pub(crate) running: Shares,
    /// Walks from what a sleeper shows, at system calls.
    pub(crate) asleep: Shares,
}

/// The figures of all walks of one kind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Shares {
    /// Instructions whose turn it was on a stack that is not followed.
    pub(crate) unjudged: u64,
    /// Of the whole program.
    pub(crate) all: Figures,
    /// By file, in which most was compared first.
    pub(crate) modules: Vec<Figures>,
    /// The frames from which a walk went wrong, the worst first.
    pub(crate) faults: Vec<FaultFigures>,
}

/// How often walks went wrong from one frame on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FaultFigures {
    /// File, function and offset.
    pub(crate) at: String,
    /// See [`Figures`].
    pub(crate) short: u64,
    /// See [`Figures`].
    pub(crate) guessed: u64,
    /// See [`Figures`].
    pub(crate) wrong: u64,
}

impl Figures {
    fn add(&mut self, counts: &Counts) {
        let of = |verdict: Verdict| counts[verdict as usize];
        self.compared += counts.iter().sum::<u64>();
        self.exact += of(Verdict::Exact);
        self.short += of(Verdict::Short);
        self.guessed += of(Verdict::Guessed);
        self.wrong += of(Verdict::Wrong);
        self.addresses += 1;
        self.addresses_missed += u64::from(counts.iter().sum::<u64>() != of(Verdict::Exact));
    }

    fn of(module: &ModuleTally) -> Self {
        let mut figures = Self {
            module: module.name.clone(),
            ..Self::default()
        };
        module
            .addresses
            .values()
            .for_each(|counts| figures.add(counts));
        figures
    }

    fn line(&self) -> String {
        format!(
            "{:>11} {:>9} {:>8} {:>8} {:>8} {:>9} {:>7} {:>9}",
            self.compared,
            percent(self.exact, self.compared),
            self.short,
            self.guessed,
            self.wrong,
            self.addresses,
            self.addresses_missed,
            percent(self.addresses - self.addresses_missed, self.addresses),
        )
    }
}

impl Summary {
    /// Adds up `outcome`.
    pub(crate) fn new(outcome: &Outcome) -> Self {
        Self {
            instructions: outcome.instructions,
            running: Shares::new(&outcome.running),
            asleep: Shares::new(&outcome.asleep),
        }
    }
}

impl Shares {
    fn new(tally: &Tally) -> Self {
        let mut names = Names::default();
        let mut all = Figures::default();
        let addresses = tally.modules.iter().flat_map(|module| &module.addresses);
        addresses.for_each(|(_, counts)| all.add(counts));
        let mut modules: Vec<Figures> = tally
            .modules
            .iter()
            .filter(|module| !module.addresses.is_empty())
            .map(Figures::of)
            .collect();
        modules.sort_by_key(|figures| std::cmp::Reverse(figures.compared));
        Self {
            unjudged: tally.unjudged,
            all,
            modules,
            faults: worst_first(tally)
                .into_iter()
                .map(|(fault, counts, _)| FaultFigures::of(tally, &mut names, fault, counts))
                .collect(),
        }
    }
}

impl FaultFigures {
    fn of(tally: &Tally, names: &mut Names, fault: &Fault, counts: &Counts) -> Self {
        let [_, short, guessed, wrong] = *counts;
        Self {
            at: names.name(tally, fault.at),
            short,
            guessed,
            wrong,
        }
    }
}

/// All faults, those that spoilt most stacks first.
fn worst_first(tally: &Tally) -> Vec<(&Fault, &Counts, &Example)> {
    let mut faults: Vec<_> = tally
        .faults
        .iter()
        .map(|(fault, (counts, example))| (fault, counts, example))
        .collect();
    faults
        .sort_by_key(|(fault, counts, _)| (std::cmp::Reverse(counts.iter().sum::<u64>()), **fault));
    faults
}

/// Writes the tables by file, and after each the `worst` frames at fault with the code there.
///
/// # Errors
/// When `out` cannot be written.
pub(crate) fn write(
    out: &mut impl Write,
    summary: &Summary,
    outcome: &Outcome,
    worst: usize,
) -> io::Result<()> {
    writeln!(out, "{} instructions executed", summary.instructions)?;
    write_shares(out, "running", &summary.running)?;
    write_faults(out, &outcome.running, worst)?;
    writeln!(out)?;
    write_shares(out, "asleep", &summary.asleep)?;
    write_faults(out, &outcome.asleep, worst)
}

fn write_shares(out: &mut impl Write, title: &str, shares: &Shares) -> io::Result<()> {
    writeln!(
        out,
        "{title:24} {:>11} {:>9} {:>8} {:>8} {:>8} {:>9} {:>7} {:>9}",
        "compared", "exact", "short", "guessed", "wrong", "addresses", "missed", "exact"
    )?;
    for figures in shares.modules.iter().chain([&shares.all]) {
        let name = match figures.module.as_str() {
            "" => "all",
            path => short_name(path),
        };
        writeln!(out, "{name:24} {}", figures.line())?;
    }
    if shares.unjudged > 0 {
        writeln!(out, "{} on a stack that is not followed", shares.unjudged)?;
    }
    Ok(())
}

fn write_faults(out: &mut impl Write, tally: &Tally, worst: usize) -> io::Result<()> {
    let mut names = Names::default();
    for (fault, counts, example) in worst_first(tally).into_iter().take(worst) {
        write_fault(out, tally, &mut names, fault, counts)?;
        let mut name = |place| names.name(tally, place);
        writeln!(out, "    from   {}", name(example.pc))?;
        match example.truth {
            Some(truth) => writeln!(out, "    caller {}", name(truth))?,
            None => writeln!(out, "    has no caller")?,
        }
        match example.found {
            Some((found, origin)) => writeln!(out, "    found  {} by {origin:?}", name(found))?,
            None => writeln!(out, "    found  none: {:?}", example.end)?,
        }
    }
    Ok(())
}

fn write_fault(
    out: &mut impl Write,
    tally: &Tally,
    names: &mut Names,
    fault: &Fault,
    counts: &Counts,
) -> io::Result<()> {
    let FaultFigures {
        at,
        short,
        guessed,
        wrong,
    } = FaultFigures::of(tally, names, fault, counts);
    let role = match fault.is_innermost {
        true => "at",
        false => "returning to",
    };
    writeln!(
        out,
        "\n{role} {at}: {short} short, {guessed} guessed, {wrong} wrong"
    )?;
    let module = fault.at.module.and_then(|index| tally.modules.get(index));
    if let Some(image) = module.and_then(|module| module.image.as_ref()) {
        for line in disassemble(image, fault.at.svma) {
            writeln!(out, "      {line}")?;
        }
    }
    Ok(())
}

/// With three decimals, cut rather than rounded: 100 % means all.
fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "-".to_owned(),
        (part, whole) => {
            let thousandths = u128::from(part) * 100_000 / u128::from(whole);
            format!("{}.{:03} %", thousandths / 1000, thousandths % 1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_is_a_hundred_percent() {
        assert_eq!(percent(1, 1), "100.000 %");
        assert_eq!(percent(9_999_999, 10_000_000), "99.999 %");
        assert_eq!(percent(0, 0), "-");
    }
}
