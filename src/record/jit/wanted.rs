//! The addresses that are to be named.

use std::ops::Range;

use rustc_hash::FxHashSet;

/// How many addresses of one process are named at most. Programs are sampled at some thousands.
const ADDRESSES_MAX: usize = 1 << 16;

/// Addresses of one process at which code without a file was seen.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    seen: FxHashSet<u64>,
    /// The same when they were last put in order.
    sorted: Vec<u64>,
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Adds one, unless there are too many.
    pub(super) fn add(&mut self, address: u64) {
        if self.seen.len() < ADDRESSES_MAX {
            self.seen.insert(address);
        }
    }

    /// Lets [`Wanted::any_in`] see what was added.
    pub(super) fn sort(&mut self) {
        if self.sorted.len() != self.seen.len() {
            self.sorted.clear();
            self.sorted.extend(&self.seen);
            self.sorted.sort_unstable();
        }
    }

    /// Whether one of them is in `range`.
    pub(super) fn any_in(&self, range: Range<u64>) -> bool {
        let first = self
            .sorted
            .partition_point(|&address| address < range.start);
        self.sorted
            .get(first)
            .is_some_and(|address| range.contains(address))
    }
}
