//! Which words are pointers to a `lua_State`.

use rustc_hash::FxHashMap;

use super::calls::STATE_BYTES;
use super::layout::{Calls, Layout, TAG, TAG_OF_THREAD};
use crate::address::Avma;
use crate::interpreter::VolatileCopy;
use crate::interpreter::stretches::Stretches;
use crate::memory::MemoryReader;

/// States that are remembered: coroutines under way.
const STATES_MAX: usize = 1 << 14;
/// States for which there is room from the beginning.
const STATES_RESERVED: usize = 256;
/// Words that are remembered to be none, and for how many samples: something else may come to lie there. A table of few
/// cache lines, as it is asked while a thread stands still.
const OTHERS_MAX: usize = 1 << 9;
const OTHERS_LAST: u32 = 16;
/// For how many samples after a state was met for the first time, or has ended, others are looked for while a thread
/// stands still. Most programs keep those that they have.
const NEW_LAST: u32 = 64;
/// How far from known states others are looked for while a thread stands still.
const NEAR_BYTES: u64 = 16 << 20;
/// Words that are looked into for one sample.
const PROBES_MAX: usize = 64;
/// The main thread is found in `global_State`, or is a part of it (5.5), within so many bytes.
const GLOBAL_BYTES: usize = 2048;
/// Probes for a `global_State`, each of all words in it.
const GLOBALS_PROBED_MAX: usize = 4;

/// Words that are looked into while a thread stands still: one call into the kernel.
const CANDIDATES_MAX: usize = 8;

/// What is known of one state.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its `global_State`.
    pub global: u64,
    /// Where its calls are expected.
    pub hints: Stretches,
}

/// The states of one process that were met.
#[derive(Debug)]
pub(super) struct States {
    known: FxHashMap<u64, Known>,
    others: Others,
    sample: u32,
    /// The sample at which a state was met for the first time, or had ended.
    changed: u32,
    globals: Vec<u64>,
    /// The lowest and the highest known one: nearly every other word lies outside.
    low: u64,
    high: u64,
    probes_left: usize,
    globals_left: usize,
}

impl Default for States {
    fn default() -> Self {
        Self {
            known: FxHashMap::with_capacity_and_hasher(STATES_RESERVED, Default::default()),
            others: Others::default(),
            sample: 0,
            changed: 0,
            globals: Vec::new(),
            low: u64::MAX,
            high: 0,
            probes_left: 0,
            globals_left: 0,
        }
    }
}

impl States {
    /// What is known of `word`, if it is a state that was met.
    pub(super) fn get(&self, word: u64) -> Option<&Known> {
        if word < self.low || word > self.high {
            return None;
        }
        self.known.get(&word)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, word: u64) -> Option<&mut Known> {
        self.known.get_mut(&word)
    }

    /// It has become something else.
    pub(super) fn forget(&mut self, word: u64) {
        self.known.remove(&word);
        self.changed = self.sample;
    }

    /// A new sample begins.
    pub(super) fn begin(&mut self) {
        self.probes_left = PROBES_MAX;
        self.globals_left = GLOBALS_PROBED_MAX;
        self.sample = self.sample.wrapping_add(1);
    }

    /// Whether `word` is a state, be it that it must be looked into.
    pub(super) fn is_state(
        &mut self,
        layout: &Layout,
        word: u64,
        memory: &dyn MemoryReader,
    ) -> bool {
        if self.get(word).is_some() {
            return true;
        }
        if self.probes_left == 0 || !self.may_be_state(word) {
            return false;
        }
        self.probes_left -= 1;
        match self.probe(layout, word, memory) {
            Some(global) => {
                self.remember(word, global);
                true
            }
            None => {
                self.others.insert(word, self.sample);
                false
            }
        }
    }

    /// Whether `word` may be a state that is not known.
    fn may_be_state(&self, word: u64) -> bool {
        is_pointer(word) && !self.others.holds(word, self.sample)
    }

    /// Whether states nobody has met are likely enough to be looked for while a thread stands still.
    pub(super) fn are_changing(&self) -> bool {
        self.sample.wrapping_sub(self.changed) <= NEW_LAST
    }

    /// How likely `word` is a coroutine that nobody has met, of a global state that is known: coroutines lie where those
    /// before them lay. One that was something else a moment ago may be one all the same: programs with ever new
    /// coroutines use their memory again at once.
    pub(super) fn may_be_new(&self, word: u64) -> Option<Likelihood> {
        let is_near = (self.low.saturating_sub(NEAR_BYTES)..=self.high.saturating_add(NEAR_BYTES))
            .contains(&word);
        if !is_near || !is_pointer(word) || self.known.contains_key(&word) {
            return None;
        }
        Some(match self.others.holds(word, self.sample) {
            false => Likelihood::Likely,
            true => Likelihood::Doubtful,
        })
    }

    /// Takes in `word`, whose first words were copied while a thread stands still, if it is a state of a global state that
    /// is known. Allocates nothing while there is room.
    pub(super) fn take_in(&mut self, layout: &Layout, word: u64, copy: &VolatileCopy<'_>) -> bool {
        let at = |offset: u64| copy.word(Avma(word.wrapping_add(offset)));
        let is_thread = at(TAG).is_some_and(|head| head.to_le_bytes()[0] == TAG_OF_THREAD);
        let global = at(u64::from(layout.global));
        match global.filter(|global| is_thread && self.globals.contains(global)) {
            Some(global) if self.known.len() < self.known.capacity() => {
                self.remember(word, global);
                true
            }
            _ => {
                self.others.insert(word, self.sample);
                false
            }
        }
    }

    fn remember(&mut self, word: u64, global: u64) {
        if self.known.len() >= STATES_MAX {
            self.known.clear();
            (self.low, self.high) = (u64::MAX, 0);
        }
        self.low = self.low.min(word);
        self.high = self.high.max(word);
        let known = Known {
            global,
            hints: Stretches::default(),
        };
        self.known.insert(word, known);
        self.changed = self.sample;
        if !self.globals.contains(&global) && self.globals.len() < STATES_MAX {
            self.globals.push(global);
        }
    }

    /// The `global_State` of what is a state at `at`, if it is one.
    fn probe(&mut self, layout: &Layout, at: u64, memory: &dyn MemoryReader) -> Option<u64> {
        let global = global_of(layout, at, memory)?;
        if self.globals.contains(&global) {
            return Some(global);
        }
        self.globals_left = self.globals_left.checked_sub(1)?;
        has_main_thread(layout, global, memory).then_some(global)
    }
}

/// Words that were looked into and are no states, each with the sample at which that was so.
#[derive(Debug)]
struct Others(Box<[(u64, u32)]>);

impl Default for Others {
    fn default() -> Self {
        Self(vec![(0, 0); OTHERS_MAX].into())
    }
}

impl Others {
    fn place(word: u64) -> usize {
        // Multiplied by the golden ratio, as Fibonacci hashing does: the upper bits depend on all bits of the word.
        const BITS: u32 = OTHERS_MAX.trailing_zeros();
        (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS)) as usize
    }

    /// In the place of another one that has the same.
    fn insert(&mut self, word: u64, sample: u32) {
        if let Some(place) = self.0.get_mut(Self::place(word)) {
            *place = (word, sample);
        }
    }

    /// Whether `word` was none not long before `sample`.
    fn holds(&self, word: u64, sample: u32) -> bool {
        let place = self.0.get(Self::place(word));
        place
            .is_some_and(|&(other, seen)| other == word && sample.wrapping_sub(seen) <= OTHERS_LAST)
    }
}

/// `l_G` of what is tagged as a thread at `at`, and whose calls are where calls can be.
fn global_of(layout: &Layout, at: u64, memory: &dyn MemoryReader) -> Option<u64> {
    let mut head = [0; 96];
    memory.read_exact(Avma(at), &mut head).ok()?;
    let word = |offset: u32| {
        let word = head.get(offset as usize..)?.first_chunk()?;
        Some(u64::from_le_bytes(*word))
    };
    let base = match layout.calls {
        Calls::Array { base, .. } => word(base)?,
        Calls::List { .. } => 0x1000,
    };
    let is_thread = head.get(usize::try_from(TAG).ok()?) == Some(&TAG_OF_THREAD);
    let is_in_use = word(layout.call)? >= base && word(layout.stack)? >= 0x1000;
    let global = word(layout.global)?;
    (is_thread && is_in_use && global.is_multiple_of(8) && global >= 0x1000).then_some(global)
}

/// Whether what is at `global` names a main thread, or holds it, which names it in turn.
fn has_main_thread(layout: &Layout, global: u64, memory: &dyn MemoryReader) -> bool {
    let mut bytes = [0; GLOBAL_BYTES];
    let read = memory.read(Avma(global), &mut bytes).unwrap_or(0);
    let words = bytes.get(..read).unwrap_or_default().as_chunks::<8>().0;
    let names = |at: u64| global_of(layout, at, memory) == Some(global);
    let inside = (0..)
        .zip(words)
        .filter(|(_, word)| u64::from_le_bytes(**word) == global)
        .filter_map(|(index, _): (u64, _)| {
            (global + index * 8).checked_sub(u64::from(layout.global))
        });
    let mut named = words.iter().map(|word| u64::from_le_bytes(*word));
    inside.into_iter().any(names) || named.any(|word| is_pointer(word) && names(word))
}

/// Addresses of programs have at most 48 bits (aarch64; on x86_64 47).
fn is_pointer(word: u64) -> bool {
    word.is_multiple_of(8) && word >= 0x1000 && word >> 48 == 0
}

/// How likely a word is a state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Likelihood {
    /// It was looked into not long ago, and was none.
    Doubtful,
    /// Nothing speaks against it.
    Likely,
}

/// Words that may be states nobody has met, and as much of each as is copied of a state.
#[derive(Default)]
pub(super) struct Candidates {
    likely: Words,
    doubtful: Words,
}

impl Candidates {
    /// Where they would be, and how much of each is copied: the likely ones, and doubtful ones where there is room.
    pub(super) fn regions(mut self) -> impl AsRef<[(Avma, usize)]> {
        for &word in self.doubtful.as_ref() {
            self.likely.push(word);
        }
        self.likely
    }

    pub(super) fn push(&mut self, word: u64, likelihood: Likelihood) {
        let words = match likelihood {
            Likelihood::Likely => &mut self.likely,
            Likelihood::Doubtful => &mut self.doubtful,
        };
        words.push((Avma(word), STATE_BYTES));
    }
}

/// Up to [`CANDIDATES_MAX`] different ones, those that came first.
#[derive(Default)]
struct Words {
    words: [(Avma, usize); CANDIDATES_MAX],
    count: usize,
}

impl AsRef<[(Avma, usize)]> for Words {
    fn as_ref(&self) -> &[(Avma, usize)] {
        self.words.get(..self.count).unwrap_or_default()
    }
}

impl Words {
    fn push(&mut self, word: (Avma, usize)) {
        let is_there = self.count == CANDIDATES_MAX || self.as_ref().contains(&word);
        if !is_there && let Some(place) = self.words.get_mut(self.count) {
            *place = word;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CANDIDATES_MAX, Candidates, Likelihood, States};

    fn words(candidates: Candidates) -> Vec<u64> {
        let regions = candidates.regions();
        regions.as_ref().iter().map(|(at, _)| at.0).collect()
    }

    #[test]
    fn what_was_no_state_a_moment_ago_is_looked_into_where_there_is_room() {
        let mut candidates = Candidates::default();
        for word in [8, 16, 8, 24] {
            candidates.push(word, Likelihood::Doubtful);
        }
        candidates.push(32, Likelihood::Likely);
        assert_eq!(words(candidates), [32, 8, 16, 24]);

        let mut candidates = Candidates::default();
        candidates.push(8, Likelihood::Doubtful);
        for word in (100..).take(CANDIDATES_MAX + 1) {
            candidates.push(word, Likelihood::Likely);
        }
        let likely: Vec<u64> = (100..).take(CANDIDATES_MAX).collect();
        assert_eq!(words(candidates), likely);
    }

    #[test]
    fn memory_that_is_used_again_may_hold_a_state() {
        let mut states = States::default();
        states.begin();
        states.remember(0x10_0000, 0x20_0000);
        states.others.insert(0x10_0100, states.sample);
        assert_eq!(states.may_be_new(0x10_0000), None, "it is known");
        assert_eq!(states.may_be_new(0x10_0001), None, "no pointer");
        assert_eq!(states.may_be_new(0x7f00_0000_0000), None, "far away");
        assert_eq!(states.may_be_new(0x10_0100), Some(Likelihood::Doubtful));
        assert_eq!(states.may_be_new(0x10_0200), Some(Likelihood::Likely));
    }
}
