//! Adds up what each second brought, for the screen.

use std::sync::{Arc, Mutex, PoisonError};

use super::totals::Totals;
use crate::profile::{ProfileBuilder, Watcher};
use crate::report::{FrameFilter, filter, resolve};
use crate::symbols::Symbolize;

/// Has the names looked up at every flush, and the sums ready for whoever shows them.
#[derive(Debug)]
pub struct Watch<S> {
    symbolizer: S,
    frames: FrameFilter,
    totals: Arc<Mutex<Totals>>,
}

impl<S: Symbolize> Watch<S> {
    /// Adds up in `totals`, of what `frames` lets through.
    pub fn new(symbolizer: S, frames: FrameFilter, totals: Arc<Mutex<Totals>>) -> Self {
        Self {
            symbolizer,
            frames,
            totals,
        }
    }
}

impl<S: Symbolize> Watcher for Watch<S> {
    fn flushed(&mut self, builder: &mut ProfileBuilder) {
        let mut profile = resolve(builder.interval(), &mut self.symbolizer);
        filter(&mut profile, self.frames);
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(&profile);
    }
}
