//! The line that `sampler record` shows while it works.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::export::units;

/// How often the line is drawn at most, per second.
const DRAWS_PER_SECOND: u8 = 5;

/// A line on standard error: samples, achieved rate, time. Nothing where standard error is not a terminal.
///
/// It draws only when [`Progress::update`] is called; there is no thread behind it. Dropping it clears the line.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    duration: Option<Duration>,
}

impl Progress {
    /// Starts with nothing recorded, of `duration` when it is known. `quiet` shows nothing at all.
    pub fn start(duration: Option<Duration>, quiet: bool) -> Self {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            // Draws nothing where standard error is not a terminal.
            ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)
        };
        Self::on(target, duration)
    }

    fn on(target: ProgressDrawTarget, duration: Option<Duration>) -> Self {
        let length = duration.map(milliseconds);
        let template = match duration {
            Some(_) => "[{bar:24}] {msg}",
            None => "{spinner} {msg}",
        };
        // The templates are ours, and a test reads them both.
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(length, target).with_style(style);
        Self { bar, duration }
    }

    /// Shows how far the recording is: `samples` taken in `ticks` during `elapsed`.
    pub fn update(&self, samples: u64, ticks: u64, elapsed: Duration) {
        if self.bar.is_hidden() {
            return;
        }
        match self.duration {
            Some(duration) => self.bar.set_position(milliseconds(elapsed.min(duration))),
            None => self.bar.tick(),
        }
        self.bar
            .set_message(message(samples, ticks, elapsed, self.duration));
    }

    /// Prints `line` above, so that the two do not mix; without a line to show, plainly to standard error.
    pub fn warn(&self, line: &str) {
        self.bar.suspend(|| {
            // Where standard error cannot be written, there is nobody to tell.
            let _unheard = writeln!(io::stderr(), "{line}");
        });
    }

    /// Clears the line: the summary takes its place.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn message(samples: u64, ticks: u64, elapsed: Duration, duration: Option<Duration>) -> String {
    let of = duration.map_or_else(String::new, |duration| {
        format!(" of {:.1} s", duration.as_secs_f64())
    });
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 {
        format!(", {:.1} Hz", units::ratio(ticks, 1) / seconds)
    } else {
        String::new()
    };
    format!(
        "{seconds:.1} s{of}: {} samples{rate}",
        units::count(samples)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is() {
        let elapsed = Duration::from_millis(1500);
        assert_eq!(
            message(12_345, 150, elapsed, Some(Duration::from_secs(10))),
            "1.5 s of 10.0 s: 12,345 samples, 100.0 Hz"
        );
        assert_eq!(message(3, 3, Duration::ZERO, None), "0.0 s: 3 samples");
    }

    #[test]
    fn the_templates_are_understood() {
        for template in ["[{bar:24}] {msg}", "{spinner} {msg}"] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }

    #[test]
    fn nothing_is_drawn_without_a_terminal() {
        let progress = Progress::start(Some(Duration::from_secs(1)), true);
        assert!(progress.bar.is_hidden());
        progress.update(1, 1, Duration::from_secs(2));
        progress.finish();
    }
}
