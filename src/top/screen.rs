//! What the user has chosen to see.

use std::cmp::Reverse;

use super::totals::{NameRow, Totals};
use crate::profile::Weight;

/// Which table is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// Functions.
    #[default]
    Functions,
    /// Threads.
    Threads,
    /// Lines.
    Lines,
}

/// What rows are sorted by, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Column {
    /// The share of the last interval where it is innermost.
    #[default]
    OwnLast,
    /// The share of the last interval where it is anywhere in the stack.
    BelowLast,
    /// The same since the beginning.
    OwnAll,
    /// The same since the beginning.
    BelowAll,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To end.
    Quit,
    /// To show what is shown now until asked again, or no longer.
    Pause,
    /// To show this table.
    Show(Table),
    /// To show the next table.
    NextTable,
    /// To sort by the next column.
    NextColumn,
    /// To weigh in the next way.
    NextWeight,
    /// To forget what was added up.
    Reset,
    /// To type a filter.
    Filter,
    /// To show the keys, or no longer.
    Help,
    /// A letter of the filter.
    Letter(char),
    /// The filter's last letter is wrong.
    Backspace,
    /// The filter is complete.
    Enter,
    /// The filter is not wanted.
    Escape,
    /// To move by so many rows.
    Scroll(isize),
    /// To go back to the first row.
    Home,
}

/// The choices.
#[derive(Clone, Debug, Default)]
pub struct Screen {
    /// Which table is shown.
    pub table: Table,
    /// By what it is sorted.
    pub column: Column,
    /// Which time is shown.
    pub weight: Weight,
    /// Rows whose name, place or thread does not hold this are left out, in whatever case.
    pub filter: String,
    /// Whether the filter is being typed.
    pub is_typing: bool,
    /// Whether the keys are shown.
    pub has_help: bool,
    /// Rows left out at the top.
    pub scrolled: usize,
    /// What is shown while nothing new is to be.
    pub paused: Option<Box<Totals>>,
}

/// The ways of weighing that are told apart here.
const WEIGHTS: [Weight; 4] = [Weight::Cpu, Weight::Wall, Weight::OffCpu, Weight::RunQueue];

const TABLES: [Table; 3] = [Table::Functions, Table::Threads, Table::Lines];

const COLUMNS: [Column; 4] = [
    Column::OwnLast,
    Column::BelowLast,
    Column::OwnAll,
    Column::BelowAll,
];

impl Screen {
    /// Does what a key asks for to what is shown; `now` is what there is. [`Action::Quit`] is the caller's.
    pub fn act(&mut self, action: Action, now: &mut Totals) {
        match action {
            Action::Quit => {}
            Action::Pause => {
                self.paused = match self.paused {
                    Some(_) => None,
                    None => Some(Box::new(now.clone())),
                };
            }
            Action::Show(table) => (self.table, self.scrolled) = (table, 0),
            Action::NextTable => {
                (self.table, self.scrolled) = (next(&TABLES, self.table), 0);
            }
            Action::NextColumn => self.column = next(&COLUMNS, self.column),
            Action::NextWeight => self.weight = next(&WEIGHTS, self.weight),
            Action::Reset => now.reset(),
            Action::Filter => self.is_typing = true,
            Action::Help => self.has_help = !self.has_help,
            Action::Letter(letter) => self.filter.push(letter),
            Action::Backspace => drop(self.filter.pop()),
            Action::Enter => self.is_typing = false,
            Action::Escape => {
                self.filter.clear();
                (self.is_typing, self.has_help, self.scrolled) = (false, false, 0);
            }
            Action::Scroll(rows) => self.scrolled = self.scrolled.saturating_add_signed(rows),
            Action::Home => self.scrolled = 0,
        }
    }

    /// Whether a row that is called so is shown.
    pub fn shows(&self, words: [&str; 2]) -> bool {
        let wanted = self.filter.to_lowercase();
        words
            .iter()
            .any(|word| word.to_lowercase().contains(&wanted))
    }

    /// The rows of functions or lines that are shown, in order.
    pub fn names(&self, totals: &Totals) -> Vec<NameRow> {
        let mut rows = match self.table {
            Table::Lines => totals.line_rows(),
            Table::Functions | Table::Threads => totals.function_rows(),
        };
        rows.retain(|row| self.shows([&row.name, &row.place]));
        // Those without any weight since the beginning are of no interest.
        rows.retain(|row| row.sums.below.all.get(self.weight) > 0);
        rows.sort_by(|a, b| {
            let order = |row: &NameRow| {
                let own = (row.sums.own.last, row.sums.own.all);
                let below = (row.sums.below.last, row.sums.below.all);
                let [own_last, own_all, below_last, below_all] =
                    [own.0, own.1, below.0, below.1].map(|weights| weights.get(self.weight));
                Reverse(match self.column {
                    Column::OwnLast => [own_last, below_last, own_all],
                    Column::BelowLast => [below_last, own_last, below_all],
                    Column::OwnAll => [own_all, below_all, own_last],
                    Column::BelowAll => [below_all, own_all, below_last],
                })
            };
            let names = (&a.name, &a.place).cmp(&(&b.name, &b.place));
            order(a).cmp(&order(b)).then(names)
        });
        rows
    }
}

/// What comes after `current`, around and around.
fn next<T: Copy + PartialEq>(all: &[T], current: T) -> T {
    let mut around = all
        .iter()
        .copied()
        .cycle()
        .skip_while(|&one| one != current);
    around.nth(1).unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use super::super::totals::{Span, Sums};
    use super::*;
    use crate::profile::StackWeights;

    fn span(last: u64, all: u64) -> Span {
        let cpu = |cpu_ns| StackWeights {
            cpu_ns,
            ..StackWeights::default()
        };
        Span {
            last: cpu(last),
            all: cpu(all),
        }
    }

    fn totals() -> Totals {
        let mut totals = Totals::default();
        for (name, own, below) in [
            ("one", span(5, 6), span(5, 90)),
            ("two", span(1, 50), span(9, 60)),
            ("three", span(0, 0), span(0, 0)),
        ] {
            let mut sums = Sums::default();
            (sums.own, sums.below) = (own, below);
            let name = (name.to_owned(), Some("libx.so".to_owned()));
            totals.functions.insert(name, sums);
        }
        totals
    }

    fn names(screen: &Screen, totals: &Totals) -> String {
        let rows = screen.names(totals);
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn rows_are_sorted_by_each_column_in_turn() {
        let (mut screen, mut totals) = (Screen::default(), totals());
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(names(&screen, &totals));
            screen.act(Action::NextColumn, &mut totals);
        }
        assert_eq!(
            seen,
            ["one two", "two one", "two one", "one two", "one two"]
        );
        screen.act(Action::NextWeight, &mut totals);
        assert_eq!(screen.weight, Weight::Wall);
        assert_eq!(names(&screen, &totals), "");
    }

    #[test]
    fn a_filter_is_typed_and_taken_back() {
        let (mut screen, mut totals) = (Screen::default(), totals());
        screen.act(Action::Filter, &mut totals);
        for letter in "TWx".chars() {
            screen.act(Action::Letter(letter), &mut totals);
        }
        assert_eq!(names(&screen, &totals), "");
        screen.act(Action::Backspace, &mut totals);
        screen.act(Action::Enter, &mut totals);
        assert!(!screen.is_typing);
        assert_eq!(names(&screen, &totals), "two");
        screen.act(Action::Escape, &mut totals);
        assert_eq!(names(&screen, &totals), "one two");
    }

    #[test]
    fn a_pause_keeps_what_there_was() {
        let (mut screen, mut totals) = (Screen::default(), totals());
        screen.act(Action::Pause, &mut totals);
        screen.act(Action::Reset, &mut totals);
        assert_eq!(names(&screen, &totals), "");
        let kept = screen.paused.as_deref().cloned().unwrap_or_default();
        assert_eq!(names(&screen, &kept), "one two");
        screen.act(Action::Pause, &mut totals);
        assert!(screen.paused.is_none());
    }

    #[test]
    fn tables_and_rows_are_moved_through() {
        let (mut screen, mut totals) = (Screen::default(), totals());
        screen.act(Action::Scroll(-3), &mut totals);
        assert_eq!(screen.scrolled, 0);
        screen.act(Action::Scroll(3), &mut totals);
        assert_eq!(screen.scrolled, 3);
        screen.act(Action::NextTable, &mut totals);
        assert_eq!((screen.table, screen.scrolled), (Table::Threads, 0));
        screen.act(Action::NextTable, &mut totals);
        screen.act(Action::NextTable, &mut totals);
        assert_eq!(screen.table, Table::Functions);
    }
}
