//! Makes states of a profile that grows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sampler_platforms::linux;

use super::board::Board;
use super::growing::Growing;
use super::pace::Pace;
use crate::export::html;
use crate::profile::{ModuleInfo, ProfileBuilder, Watcher, Weight};
use crate::record::Share;
use crate::report::{FrameFilter, filter, resolve};
use crate::symbols::{Symbol, Symbolize};

/// The quickest: a state goes over the loopback, and is thrown away a second later.
const COMPRESSION: u32 = 1;

/// What is made.
#[derive(Clone, Copy, Debug)]
pub struct MakerSettings {
    /// The weight that the page shows at first.
    pub weight: Weight,
    /// Which frames are shown.
    pub frames: FrameFilter,
    /// What the recording may cost.
    pub max_overhead: Share,
}

/// Posts states to a board, of a recording that is played to a [`Feed`](crate::profile::Feed) of it.
#[derive(Debug)]
pub struct Maker<S> {
    symbolizer: Timed<S>,
    settings: MakerSettings,
    board: Arc<Board>,
    pace: Pace,
    growing: Arc<Growing>,
}

impl<S: Symbolize> Maker<S> {
    /// Posts to `board`.
    pub fn new(symbolizer: S, settings: MakerSettings, board: Arc<Board>) -> Self {
        Self {
            symbolizer: Timed {
                inner: symbolizer,
                cpu: Duration::ZERO,
            },
            settings,
            board,
            pace: Pace::new(settings.max_overhead),
            growing: Arc::default(),
        }
    }

    /// The same, of another file that grows: while there is more in it than was played, no state is worth making.
    pub fn of(&mut self, growing: Arc<Growing>) {
        self.growing = growing;
    }

    /// Posts what `builder` holds, if somebody watches.
    pub fn make(&mut self, builder: &mut ProfileBuilder) {
        if !self.board.is_wanted() {
            return;
        }
        let began = Instant::now();
        let (cpu, naming) = (linux::thread_cpu_time_self(), self.symbolizer.cpu);
        let mut profile = resolve(builder.so_far(), &mut self.symbolizer);
        filter(&mut profile, self.settings.frames);
        match html::pack(&profile, self.settings.weight, COMPRESSION) {
            Ok(packed) => self.board.post(packed),
            Err(error) => tracing::warn!("no state for the page: {error}"),
        }
        let used = linux::thread_cpu_time_self().saturating_sub(cpu);
        // Names are looked up once, and would have to be anyhow: a large program would be paid off for minutes.
        let naming = self.symbolizer.cpu.saturating_sub(naming);
        self.pace.made(began, used.saturating_sub(naming));
    }
}

impl<S: Symbolize> Watcher for Maker<S> {
    fn flushed(&mut self, builder: &mut ProfileBuilder) {
        if self.pace.is_due(Instant::now()) && !self.growing.is_behind() {
            self.make(builder);
        }
    }
}

/// Knows how much CPU time was used for names.
#[derive(Debug)]
struct Timed<S> {
    inner: S,
    cpu: Duration,
}

impl<S: Symbolize> Symbolize for Timed<S> {
    fn symbolize(&mut self, module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        let before = linux::thread_cpu_time_self();
        let symbols = self.inner.symbolize(module, addresses);
        self.cpu += linux::thread_cpu_time_self().saturating_sub(before);
        symbols
    }

    fn notes(&self) -> Vec<String> {
        self.inner.notes()
    }
}
