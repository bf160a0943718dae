//! The screen of `sampler top`, of 80 columns and 24 lines or more.

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span as TextSpan};
use ratatui::widgets::{Cell, Paragraph, Row, Table as TableWidget};

use super::screen::{Column, Screen, Table};
use super::totals::{NameRow, ThreadRow, Totals};
use crate::export::names::{fit, printable};
use crate::export::units;
use crate::profile::{Summary, Weight};

const KEYS: &str = "q quit  space pause  tab view  s sort  w time  / filter  r reset  ? keys";

const HELP: &[(&str, &str)] = &[
    ("q, Ctrl-C", "quit"),
    ("space, p", "pause: what is shown stays, sampling goes on"),
    ("tab, 1 2 3", "functions, threads, lines"),
    ("s", "sort by the next column"),
    (
        "w",
        "CPU time, wall-clock time, time asleep, time waiting for a CPU",
    ),
    (
        "/",
        "show only what holds the letters that follow; Esc drops them",
    ),
    ("r", "forget what was added up"),
    (
        "arrows, pages",
        "move through the rows; home: back to the first",
    ),
    ("?, h", "these keys"),
];

/// How wide the four columns of numbers are, with the spaces between all columns.
const NUMBERS_WIDTH: usize = 4 * 8 + 5;

/// Draws what `screen` shows of `now`, of the target that is called `title`; with where it is `served` to browsers.
pub fn draw(
    frame: &mut Frame<'_>,
    screen: &Screen,
    now: &Totals,
    title: &str,
    served: Option<&str>,
) {
    let totals = screen.paused.as_deref().unwrap_or(now);
    let rows = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(u16::from(served.is_some())),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ];
    let [first, second, url, third, middle, last] = Layout::vertical(rows).areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Line::styled(heading(totals, title), bold), first);
    frame.render_widget(Line::raw(costs(&totals.summary)), second);
    frame.render_widget(Line::raw(served.unwrap_or_default()), url);
    frame.render_widget(choices(screen, totals), third);
    match (screen.has_help, screen.table) {
        (true, _) => frame.render_widget(help(), middle),
        (false, Table::Threads) => draw_threads(frame, middle, screen, totals),
        (false, Table::Functions | Table::Lines) => draw_names(frame, middle, screen, totals),
    }
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    let keys = match (screen.is_typing, totals.is_over) {
        (true, _) => format!("filter: {}_  (Enter keeps it, Esc drops it)", screen.filter),
        (false, true) => format!("ended.  {KEYS}"),
        (false, false) => KEYS.to_owned(),
    };
    frame.render_widget(Paragraph::new(keys).style(reversed), last);
}

fn heading(totals: &Totals, title: &str) -> String {
    let summary = &totals.summary;
    let threads = match totals.threads.len() {
        1 => "1 thread".to_owned(),
        count => format!("{} threads", units::count(count as u64)),
    };
    format!(
        "{}  {threads}  {:.0} Hz  {}",
        printable(title),
        summary.rate_hz_achieved,
        units::time(summary.wall_ns),
    )
}

/// What the target uses, and what looking at it costs.
fn costs(summary: &Summary) -> String {
    let mut words = format!(
        "CPU {:.0} %  stopped {:.2} % of it  sampler {:.1} % of a CPU",
        units::percent(summary.cpu_ns, summary.wall_ns),
        units::percent(summary.target_stopped_ns, summary.cpu_ns),
        units::percent(summary.sampler_cpu_ns, summary.wall_ns),
    );
    let missed: u64 = summary.missed.values().sum();
    if missed > 0 {
        words += &format!("  missed {}", units::count(missed));
    }
    words
}

fn choices(screen: &Screen, totals: &Totals) -> Line<'static> {
    let name = |table, name| {
        let style = match screen.table == table {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        TextSpan::styled(name, style)
    };
    let mut spans = vec![
        name(Table::Functions, " functions "),
        name(Table::Threads, " threads "),
        name(Table::Lines, " lines "),
        TextSpan::raw(format!(
            "  {}, last {}",
            units::name(screen.weight),
            units::time(totals.interval_ns)
        )),
    ];
    if !screen.filter.is_empty() && !screen.is_typing {
        spans.push(TextSpan::raw(format!("  /{}", printable(&screen.filter))));
    }
    if screen.paused.is_some() {
        let bold = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
        spans.push(TextSpan::raw("  "));
        spans.push(TextSpan::styled("paused", bold));
    }
    Line::from(spans)
}

fn help() -> Paragraph<'static> {
    let line = |(keys, what): &(&str, &str)| Line::raw(format!("  {keys:15}{what}"));
    Paragraph::new(HELP.iter().map(line).collect::<Vec<_>>())
}

fn draw_names(frame: &mut Frame<'_>, area: Rect, screen: &Screen, totals: &Totals) {
    let rows = screen.names(totals);
    let shown = visible(&rows, screen, area);
    // A third of the width for the place, as far as it is needed.
    let rest = usize::from(area.width).saturating_sub(NUMBERS_WIDTH);
    let place = shown.iter().map(|row| row.place.chars().count()).max();
    let place = place.unwrap_or_default().clamp(6, 6.max(rest / 3));
    let name = rest.saturating_sub(place);
    let cells = |row: &NameRow| {
        let weight = screen.weight;
        let (own, below) = (row.sums.own, row.sums.below);
        let share = |part: u64, whole: u64| format!("{:>8.2}", units::percent(part, whole));
        let last = totals.whole.last.get(weight);
        Row::new([
            share(own.last.get(weight), last),
            share(below.last.get(weight), last),
            format!("{:>8}", units::time(own.all.get(weight))),
            format!("{:>8}", units::time(below.all.get(weight))),
            fit(&printable(&row.name), name).into_owned(),
            fit(&printable(&row.place), place).into_owned(),
        ])
    };
    let widths = [8, 8, 8, 8, name, place]
        .map(|width| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
    let titles = [
        (Some(Column::OwnLast), "   self%"),
        (Some(Column::BelowLast), "  total%"),
        (Some(Column::OwnAll), "    self"),
        (Some(Column::BelowAll), "   total"),
        (None, "function"),
        (
            None,
            match screen.table {
                Table::Lines => "line",
                Table::Functions | Table::Threads => "module",
            },
        ),
    ];
    let table = TableWidget::new(shown.iter().map(cells), widths).header(header(&titles, screen));
    frame.render_widget(table, area);
}

/// The titles of columns; the one that is sorted by stands out.
fn header(titles: &[(Option<Column>, &'static str)], screen: &Screen) -> Row<'static> {
    let underlined = Style::new().add_modifier(Modifier::UNDERLINED);
    let sorted = underlined.add_modifier(Modifier::BOLD | Modifier::REVERSED);
    Row::new(titles.iter().map(|&(column, title)| {
        let is_sorted = column == Some(screen.column);
        Cell::from(title).style(if is_sorted { sorted } else { underlined })
    }))
}

fn draw_threads(frame: &mut Frame<'_>, area: Rect, screen: &Screen, totals: &Totals) {
    let rows = thread_rows(screen, totals);
    let shown = visible(&rows, screen, area);
    let place = usize::from(area.width).saturating_sub(8 + 16 + 7 + 7 + 9 + 5);
    let cells = |((_, tid), row): &((i32, i32), &ThreadRow)| {
        let last = row.sums.last;
        let percent = |part| format!("{:>6.1}", units::percent(part, totals.interval_ns));
        Row::new([
            format!("{tid:>8}"),
            fit(&printable(&row.name), 16).into_owned(),
            percent(last.cpu_ns),
            match row.is_asleep {
                true => "asleep".to_owned(),
                false => "running".to_owned(),
            },
            format!(
                "{:>8}",
                units::weighed(screen.weight, row.sums.all.get(screen.weight))
            ),
            fit(&printable(&row.place), place).into_owned(),
        ])
    };
    let widths = [8, 16, 6, 7, 9, place]
        .map(|width| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
    let titles = [
        (None, "  thread"),
        (None, "name"),
        (None, "  CPU%"),
        (None, "state"),
        (None, "    time"),
        (None, "mostly at"),
    ];
    let table = TableWidget::new(shown.iter().map(cells), widths).header(header(&titles, screen));
    frame.render_widget(table, area);
}

/// The threads that are shown, in order.
fn thread_rows<'a>(screen: &Screen, totals: &'a Totals) -> Vec<((i32, i32), &'a ThreadRow)> {
    let rows = totals.threads.iter().map(|(&ids, row)| (ids, row));
    let mut rows: Vec<_> = rows
        .filter(|(_, row)| screen.shows([&row.name, &row.place]))
        .collect();
    let key = |row: &ThreadRow| match screen.weight {
        Weight::Cpu => (row.sums.last.cpu_ns, row.sums.all.cpu_ns),
        weight => (row.sums.last.get(weight), row.sums.all.get(weight)),
    };
    rows.sort_by_key(|&(ids, row)| (Reverse(key(row)), ids));
    rows
}

/// As many of `rows` as there is room for under the titles, from where they are scrolled to.
fn visible<'a, T>(rows: &'a [T], screen: &Screen, area: Rect) -> &'a [T] {
    let room = usize::from(area.height.saturating_sub(1));
    let first = screen.scrolled.min(rows.len().saturating_sub(room));
    rows.get(first..rows.len().min(first + room))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::screen::Action;
    use super::super::totals::{LineName, Sums};
    use super::*;
    use crate::profile::StackWeights;

    fn totals() -> Totals {
        let weights = |cpu_ns| StackWeights {
            cpu_ns,
            wall_ns: 2 * cpu_ns,
            ..StackWeights::default()
        };
        let mut totals = Totals {
            interval_ns: 1_000_000_000,
            summary: Summary {
                wall_ns: 3_000_000_000,
                cpu_ns: 1_500_000_000,
                target_stopped_ns: 3_000_000,
                sampler_cpu_ns: 30_000_000,
                rate_hz_achieved: 98.7,
                ..Summary::default()
            },
            ..Totals::default()
        };
        totals.whole.last = weights(500_000_000);
        totals.whole.all = weights(1_500_000_000);
        for (name, own) in [("work", 400_000_000), ("evil\u{1b}[2Jname", 100_000_000)] {
            let mut sums = Sums::default();
            (sums.own.last, sums.own.all) = (weights(own), weights(3 * own));
            sums.below = sums.own;
            let function = (name.to_owned(), Some("libwork.so".to_owned()));
            totals.functions.insert(function, sums);
            let line = LineName {
                function: name.to_owned(),
                file: "work.c".to_owned(),
                line: 7,
            };
            totals.lines.insert(line, sums);
        }
        let mut thread = ThreadRow {
            process: "prog".to_owned(),
            name: "worker".to_owned(),
            place: "work < main".to_owned(),
            ..ThreadRow::default()
        };
        (thread.sums.last, thread.sums.all) = (weights(500_000_000), weights(1_500_000_000));
        totals.threads.insert((7, 8), thread);
        totals
    }

    fn shown(screen: &Screen, totals: &Totals) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal
            .draw(|frame| draw(frame, screen, totals, "7 (prog)", None))
            .unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn each_table_fits_a_small_terminal() {
        let (mut screen, mut totals) = (Screen::default(), totals());
        insta::assert_snapshot!("functions", shown(&screen, &totals));
        screen.act(Action::NextTable, &mut totals);
        insta::assert_snapshot!("threads", shown(&screen, &totals));
        screen.act(Action::NextTable, &mut totals);
        insta::assert_snapshot!("lines", shown(&screen, &totals));
        screen.act(Action::Help, &mut totals);
        insta::assert_snapshot!("help", shown(&screen, &totals));
    }

    #[test]
    fn what_was_chosen_is_told() {
        let (mut screen, mut totals) = (Screen::default(), totals());
        screen.act(Action::Pause, &mut totals);
        totals.is_over = true;
        screen.act(Action::Filter, &mut totals);
        screen.act(Action::Letter('w'), &mut totals);
        let text = shown(&screen, &totals);
        assert!(
            text.contains("paused") && text.contains("filter: w_"),
            "{text}"
        );
        screen.act(Action::Enter, &mut totals);
        screen.act(Action::Pause, &mut totals);
        let text = shown(&screen, &totals);
        assert!(text.contains("/w") && text.contains("ended."), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn no_terminal_is_too_small() {
        let (screen, totals) = (Screen::default(), totals());
        for (width, height) in [(1, 1), (10, 3), (20, 5)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal
                .draw(|frame| draw(frame, &screen, &totals, "7 (prog)", Some("url")))
                .unwrap();
        }
    }
}
