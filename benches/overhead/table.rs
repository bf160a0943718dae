//! The table: all turns of one kind in a line.

use crate::turns::Turn;

/// What was seen in all turns of one kind.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    paces: Vec<f64>,
    rounds: f64,
    wall_ns: f64,
    stood_still: Vec<f64>,
    pauses_us: [Vec<f64>; 3],
    cpu_us_per_sample: Vec<f64>,
    cpu_share: Vec<f64>,
    rates_hz: Vec<f64>,
}

pub(crate) const FOOT: &str = "\
slower: the median window, the best tenth of the windows, all windows together; each against the turns without.
stood still, pauses: by the looker's own account (medians of all turns; max: the longest); the time stood still is that
of all threads added up. Of eu-stack and gdb a pause is how long the command ran, which is longer than the target stood.
CPU/look: CPU time of the sampler for one look at one thread, sleepers included; of peers for one sample, or for one
run of the command. The first 0.7 s of a recorder, in which it finds its threads, are no part of a turn; its CPU is that
of the turn (of peers, of their whole run). -: it does not tell.";

const COLUMNS: [&str; 13] = [
    "scenario",
    "Hz",
    "who",
    "slower: median",
    "best tenth",
    "all",
    "stood still",
    "pause p50 us",
    "p99 us",
    "max us",
    "CPU/look us",
    "CPU",
    "Hz made",
];

pub(crate) fn head() -> String {
    let lines = COLUMNS.map(|column| "-".repeat(column.len()));
    format!("{}\n{}", line(&COLUMNS.map(str::to_owned)), line(&lines))
}

/// In Markdown, as wide as the heads are.
fn line(cells: &[String]) -> String {
    const NAMES: [usize; 3] = [15, 4, 14];
    let widths = COLUMNS.iter().map(|column| column.len());
    let widths = NAMES.into_iter().chain(widths.skip(NAMES.len()));
    let cells = cells
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(column, (cell, width))| match NAMES.get(column) {
            Some(_) => format!(" {cell:<width$} |"),
            None => format!(" {cell:>width$} |"),
        });
    format!("|{}", cells.collect::<String>())
}

/// A line for somebody who cannot take a turn.
pub(crate) fn row_without_figures(scenario: &str, hz: u32, who: &str, why: &str) -> String {
    let names = [scenario.to_owned(), hz.to_string(), who.to_owned()];
    format!("{} {why} |", line(&names))
}

impl Turns {
    pub(crate) fn add(&mut self, turn: Turn) {
        let Turn {
            paces,
            rounds,
            wall_ns,
            told,
        } = turn;
        self.paces.extend(paces);
        self.rounds += rounds;
        self.wall_ns += wall_ns;
        self.stood_still.extend(told.stood_still);
        for (all, pause) in self
            .pauses_us
            .iter_mut()
            .zip(told.pauses_us.into_iter().flatten())
        {
            all.push(pause);
        }
        self.cpu_us_per_sample.extend(told.cpu_us_per_sample);
        self.cpu_share.extend(told.cpu_share);
        self.rates_hz.extend(told.rate_hz);
    }

    pub(crate) fn row(&mut self, scenario: &str, hz: u32, who: &str, without: &mut Self) -> String {
        let mut slower = |at| {
            let [with, without] =
                [&mut self.paces, &mut without.paces].map(|paces| quantile(paces, at));
            percent(
                with.zip(without)
                    .map(|(with, without)| 1.0 - with / without),
            )
        };
        let [median, best] = [0.5, 0.9].map(&mut slower);
        let all = 1.0 - (self.rounds / self.wall_ns) / (without.rounds / without.wall_ns);
        let [p50, p99, max] = &mut self.pauses_us;
        line(&[
            scenario.to_owned(),
            hz.to_string(),
            who.to_owned(),
            median,
            best,
            percent(Some(all)),
            percent(quantile(&mut self.stood_still, 0.5)),
            number(quantile(p50, 0.5)),
            number(quantile(p99, 0.5)),
            number(quantile(max, 1.0)),
            number(quantile(&mut self.cpu_us_per_sample, 0.5)),
            percent(quantile(&mut self.cpu_share, 0.5)),
            number(quantile(&mut self.rates_hz, 0.5)),
        ])
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// The value that the share `at` of all values is below.
pub(crate) fn quantile(values: &mut [f64], at: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into a short list"
    )]
    let index = (values.len() as f64 * at) as usize;
    values.get(index).or(values.last()).copied()
}
