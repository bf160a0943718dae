//! Functions with their own and their total time, for the terminal.

use std::cmp::Reverse;
use std::io::{self, Write};

use super::heading::{printable_fit, write_heading, write_notes, write_nothing};
use super::names::columns;
use super::roots::{process_label, thread_label};
use super::{View, units};
use crate::profile::{FunctionRow, Functions, ResolvedProfile, Weight, WeightedStack, functions};

/// The function column is at least so wide, however narrow the terminal.
const FUNCTION_COLUMNS_MIN: usize = 20;
/// Without a terminal long names push the module aside instead of widening the column for all.
const FUNCTION_COLUMNS_UNFITTED_MAX: usize = 60;
/// The module column takes at most so much of a terminal.
const MODULE_COLUMNS_MAX: usize = 28;
/// `self %`, `total %` and the time, with the gaps behind them.
const NUMBER_COLUMNS: usize = 8 + 9 + 12 + 2;

/// How a table is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// Rows at most; `None` for all.
    pub limit: Option<usize>,
    /// The columns of the terminal; `None` when it goes elsewhere, and no name is cut.
    pub width: Option<usize>,
}

/// Writes the functions of `profile`, the one with the most time of its own first; with [`View::threads`] those of each
/// thread by itself, the thread with the most time first. Percentages are of the whole in either case.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(
    profile: &ResolvedProfile,
    view: View,
    options: TableOptions,
    out: &mut impl Write,
) -> io::Result<()> {
    let functions = functions(profile, view.weight);
    write_heading(profile, view.weight, functions.total, options.width, out)?;
    if functions.rows.is_empty() {
        writeln!(out)?;
        write_nothing(profile, view.weight, out)?;
    } else if view.threads {
        write_threads(profile, view.weight, functions.total, options, out)?;
    } else {
        write_functions(&functions, functions.total, view.weight, options, out)?;
    }
    writeln!(out)?;
    write_notes(profile, view, functions.total, out)
}

/// A table for each thread that has any of `weight`.
fn write_threads(
    profile: &ResolvedProfile,
    weight: Weight,
    whole: u64,
    options: TableOptions,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut by_thread = vec![Vec::new(); profile.threads.len()];
    for stack in &profile.stacks {
        if let Some(stacks) = by_thread.get_mut(stack.thread as usize) {
            stacks.push(stack.clone());
        }
    }
    let mut part = ResolvedProfile {
        frames: profile.frames.clone(),
        ..ResolvedProfile::default()
    };
    let total = |stacks: &[WeightedStack]| -> u64 {
        let weights = stacks.iter().map(|stack| stack.weights.get(weight));
        weights.fold(0, u64::saturating_add)
    };
    let mut threads: Vec<_> = profile.threads.iter().zip(by_thread).collect();
    threads.sort_by_key(|(_, stacks)| Reverse(total(stacks)));
    let first = profile.threads.first().map(|thread| thread.process_index);
    let mut processes = profile.threads.iter().map(|thread| thread.process_index);
    let is_of_several_processes = processes.any(|process| Some(process) != first);
    for (thread, stacks) in threads {
        part.stacks = stacks;
        let functions = functions(&part, weight);
        if functions.total > 0 {
            let mut label = thread_label(thread);
            if is_of_several_processes {
                label += &format!(" of {}", process_label(thread));
            }
            let label = printable_fit(&label, options.width);
            writeln!(
                out,
                "\n{label}: {}",
                units::weighed(weight, functions.total)
            )?;
            write_functions(&functions, whole, weight, options, out)?;
        }
    }
    Ok(())
}

/// The heaviest of `functions`, in parts of `whole`.
fn write_functions(
    functions: &Functions<'_>,
    whole: u64,
    weight: Weight,
    options: TableOptions,
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out)?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let shown = functions.rows.get(..limit).unwrap_or(&functions.rows);
    write_rows(shown, whole, weight, options.width, out)?;
    let more = functions.rows.len() - shown.len();
    if more > 0 {
        let rest: u64 = functions.rows[shown.len()..]
            .iter()
            .map(|row| row.self_weight)
            .sum();
        writeln!(
            out,
            "{:>7.2}  in {} more functions (--limit 0 shows all)",
            units::percent(rest, whole),
            units::count(u64::try_from(more).unwrap_or(u64::MAX)),
        )?;
    }
    Ok(())
}

fn write_rows(
    rows: &[FunctionRow<'_>],
    total: u64,
    weight: Weight,
    width: Option<usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    let layout = Layout::new(rows, width);
    writeln!(
        out,
        "{:>7}  {:>7}  {:>10}  {:<function$}  module",
        "self %",
        "total %",
        "self",
        "function",
        function = layout.function,
    )?;
    for row in rows {
        let line = format!(
            "{:>7.2}  {:>7.2}  {:>10}  {:<function$}  {}",
            units::percent(row.self_weight, total),
            units::percent(row.total, total),
            units::weighed(weight, row.self_weight),
            printable_fit(&row.frame.function, layout.fitted_function()),
            module(row, layout.module),
            function = layout.function,
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn module(row: &FunctionRow<'_>, width: Option<usize>) -> String {
    let module = row.frame.module.as_deref();
    module.map_or_else(String::new, |module| printable_fit(module, width))
}

/// How wide the columns with names are.
struct Layout {
    function: usize,
    /// `None` where no name is cut.
    module: Option<usize>,
}

impl Layout {
    fn new(rows: &[FunctionRow<'_>], width: Option<usize>) -> Self {
        let widest =
            |texts: &mut dyn Iterator<Item = &str>| texts.map(columns).max().unwrap_or_default();
        let function = widest(&mut rows.iter().map(|row| row.frame.function.as_str()))
            .max(columns("function"));
        let Some(width) = width else {
            return Self {
                function: function.min(FUNCTION_COLUMNS_UNFITTED_MAX),
                module: None,
            };
        };
        let module = widest(&mut rows.iter().filter_map(|row| row.frame.module.as_deref()))
            .clamp(columns("module"), MODULE_COLUMNS_MAX);
        let left = width.saturating_sub(NUMBER_COLUMNS + 2 + module);
        Self {
            function: function.min(left.max(FUNCTION_COLUMNS_MIN)),
            module: Some(module),
        }
    }

    fn fitted_function(&self) -> Option<usize> {
        self.module.map(|_| self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn table(profile: &ResolvedProfile, weight: Weight, options: TableOptions) -> String {
        let view = View {
            weight,
            threads: false,
        };
        example::written(|out| write(profile, view, options, out))
    }

    #[test]
    fn on_no_terminal() {
        let options = TableOptions::default();
        insta::assert_snapshot!(table(&example::profile(), Weight::Cpu, options));
    }

    #[test]
    fn on_a_terminal_of_80_columns() {
        let options = TableOptions {
            limit: Some(5),
            width: Some(80),
        };
        let table = table(&example::profile(), Weight::Cpu, options);
        let heading_and_rows = table.lines().filter(|line| !line.starts_with("note: "));
        for line in heading_and_rows {
            assert!(columns(line) <= 80, "{line}");
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn by_samples() {
        let options = TableOptions::default();
        insta::assert_snapshot!(table(&example::profile(), Weight::Samples, options));
    }

    #[test]
    fn of_nothing() {
        let options = TableOptions::default();
        let nothing = table(&ResolvedProfile::default(), Weight::Cpu, options);
        assert!(nothing.contains("holds no samples"), "{nothing}");
        let other = table(&example::profile(), Weight::RunQueue, options);
        assert!(other.contains("another --weight may"), "{other}");
    }

    #[test]
    fn a_terminal_without_room_is_survived() {
        let options = TableOptions {
            limit: None,
            width: Some(0),
        };
        assert!(table(&example::profile(), Weight::Cpu, options).contains("module"));
    }
}
