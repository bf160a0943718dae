//! The line that is shown while a report or an export is made, if that takes a while.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::export::units;
use crate::profile::ModuleInfo;
use crate::symbols::{Symbol, Symbolize};

/// How often the line is drawn at most, per second.
const DRAWS_PER_SECOND: u8 = 5;
/// What is done sooner shows no line.
const PATIENCE: Duration = Duration::from_millis(300);
/// How much is read between two looks at the clock.
const STEP_BYTES: u64 = 1 << 20;

/// A line on standard error that says what is being done. Nothing where that is not a terminal, and nothing for what is
/// done at once. Dropping it clears the line.
#[derive(Debug)]
pub struct Stages {
    bar: ProgressBar,
    began: Instant,
}

impl Stages {
    /// Shows nothing yet.
    pub fn start() -> Self {
        // Draws nothing where standard error is not a terminal.
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let style = ProgressStyle::with_template("{spinner} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        Self {
            bar: ProgressBar::with_draw_target(None, target).with_style(style),
            began: Instant::now(),
        }
    }

    /// Shows `what`, if it has taken long by now.
    pub fn at(&self, what: impl FnOnce() -> String) {
        if !self.bar.is_hidden() && self.began.elapsed() >= PATIENCE {
            self.bar.set_message(what());
            self.bar.tick();
        }
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A recording of `bytes`, if that is known, that shows how much of it has been read.
#[derive(Debug)]
pub struct ShownReader<'s, R> {
    input: R,
    bytes: Option<u64>,
    read: u64,
    shown: u64,
    stages: &'s Stages,
}

impl<'s, R> ShownReader<'s, R> {
    /// Reads `input`.
    pub fn new(input: R, bytes: Option<u64>, stages: &'s Stages) -> Self {
        Self {
            input,
            bytes,
            read: 0,
            shown: 0,
            stages,
        }
    }
}

impl<R: Read> Read for ShownReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.read += count as u64;
        if self.read - self.shown >= STEP_BYTES {
            self.shown = self.read;
            self.stages.at(|| match self.bytes.filter(|&all| all > 0) {
                Some(all) => format!("reading: {:.0} %", units::percent(self.read.min(all), all)),
                None => format!("reading: {}", units::bytes(self.read)),
            });
        }
        Ok(count)
    }
}

/// Names addresses, and shows whose.
#[derive(Debug)]
pub struct ShownSymbolizer<'s, T> {
    symbolizer: T,
    stages: &'s Stages,
}

impl<'s, T> ShownSymbolizer<'s, T> {
    /// Asks `symbolizer`.
    pub fn new(symbolizer: T, stages: &'s Stages) -> Self {
        Self { symbolizer, stages }
    }
}

impl<T: Symbolize> Symbolize for ShownSymbolizer<'_, T> {
    fn symbolize(&mut self, module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        self.stages.at(|| {
            let addresses = units::count(addresses.len() as u64);
            format!("naming {addresses} addresses of {}", module.path)
        });
        self.symbolizer.symbolize(module, addresses)
    }

    fn notes(&self) -> Vec<String> {
        self.symbolizer.notes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_there_is() {
        let stages = Stages::start();
        let bytes = vec![7; 3 << 20];
        let mut read = Vec::new();
        let mut reader = ShownReader::new(&*bytes, Some(1), &stages);
        reader.read_to_end(&mut read).expect("memory can be read");
        assert_eq!(read, bytes);
        assert_eq!(reader.shown, 3 << 20);
    }
}
