//! Remembers the rule of each address, by image: it outlives dlopen and is shared between processes.

use super::rule::{Rule, RuleKind};
use crate::address::Svma;
use crate::elf::ImageId;

/// The first size of a cache, in sets of two rules.
const SETS_MIN: usize = 1 << 11;
/// The largest: 2^17 rules in 4 MiB.
const SETS_MAX: usize = 1 << 16;

/// Images whose rules are kept.
const IMAGES_MAX: u32 = (1 << 30) - 1;

/// What is asked about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum AddressKind {
    /// The rule for the next instruction to be executed.
    Interrupted,
    /// The rule for a return address.
    Return,
    /// The rule from the stack pointer alone, for the next instruction to be executed.
    InterruptedByStack,
    /// The rule from the stack pointer alone, for a return address.
    ReturnByStack,
}

/// What a rule is kept under: an image, an address in it, and what is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    svma: Svma,
    /// Image and kind of address; never 0.
    tag: u32,
}

impl Key {
    /// `None` for an image beyond [`IMAGES_MAX`].
    #[inline]
    pub(crate) fn new(image: ImageId, svma: Svma, kind: AddressKind) -> Option<Self> {
        (image.0 < IMAGES_MAX).then_some(Self {
            svma,
            tag: (image.0 + 1) << 2 | kind as u32,
        })
    }

    fn hash(self) -> u64 {
        // Multiplication by the golden ratio spreads neighbouring addresses into the upper bits.
        (self.svma.0 ^ u64::from(self.tag) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    // The key's parts one by one: as a structure it would be padded.
    svma: Svma,
    tag: u32,
    rule: Rule,
}

const EMPTY: Entry = Entry {
    svma: Svma(0),
    tag: 0,
    rule: Rule::of(RuleKind::NoCode),
};

impl Entry {
    fn is_empty(&self) -> bool {
        self.tag == 0
    }

    fn is_of(&self, key: Key) -> bool {
        self.svma == key.svma && self.tag == key.tag
    }

    fn key(&self) -> Key {
        Key {
            svma: self.svma,
            tag: self.tag,
        }
    }
}

/// Two rules of the same hash; one line of the processor's cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Set([Entry; 2]);

/// A two-way set-associative cache: bounded, one line of memory per look-up.
#[derive(Debug)]
pub(crate) struct RuleCache {
    sets: Vec<Set>,
    /// `64 - log2(sets)`.
    shift: u32,
    /// Rules thrown out for another since the cache last grew.
    evicted: usize,
}

impl Default for RuleCache {
    fn default() -> Self {
        Self::with_sets(SETS_MIN)
    }
}

impl RuleCache {
    fn with_sets(sets: usize) -> Self {
        Self {
            sets: vec![Set([EMPTY; 2]); sets],
            shift: u64::BITS - sets.trailing_zeros(),
            evicted: 0,
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.sets.fill(Set([EMPTY; 2]));
        self.evicted = 0;
    }

    /// The rule kept under `key`.
    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&Rule> {
        let Set([first, second]) = self.sets.get(self.set_of(key))?;
        if first.is_of(key) {
            Some(&first.rule)
        } else if second.is_of(key) {
            Some(&second.rule)
        } else {
            None
        }
    }

    /// Keeps `rule`, throwing out the older of two that share its place.
    pub(crate) fn insert(&mut self, key: Key, rule: Rule) {
        if self.evicted > self.sets.len() / 2 && self.sets.len() < SETS_MAX {
            self.grow();
        }
        self.put(Entry {
            svma: key.svma,
            tag: key.tag,
            rule,
        });
    }

    fn put(&mut self, entry: Entry) {
        let index = self.set_of(entry.key());
        if let Some(Set([first, second])) = self.sets.get_mut(index) {
            self.evicted += usize::from(!second.is_empty());
            *second = *first;
            *first = entry;
        }
    }

    fn grow(&mut self) {
        let mut larger = Self::with_sets(self.sets.len() * 2);
        for Set(entries) in &self.sets {
            for entry in entries.iter().rev().filter(|entry| !entry.is_empty()) {
                larger.put(*entry);
            }
        }
        larger.evicted = 0;
        *self = larger;
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper bits of the hash that are left after the shift number the sets"
    )]
    fn set_of(&self, key: Key) -> usize {
        (key.hash() >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::FrameOrigin;

    #[test]
    fn an_entry_is_half_a_line() {
        assert_eq!((size_of::<Entry>(), size_of::<Set>()), (32, 64));
    }

    #[test]
    fn keeps_what_was_put_in_and_grows_up_to_its_bound() {
        let mut cache = RuleCache::default();
        let key =
            |number: u64| Key::new(ImageId(3), Svma(number * 7), AddressKind::Interrupted).unwrap();
        for number in 0..300_000u32 {
            let rule = Rule::simple(7, i32::try_from(number).unwrap(), FrameOrigin::KnownCode);
            cache.insert(key(u64::from(number)), rule);
            assert_eq!(cache.get(key(u64::from(number))), Some(&rule));
        }
        assert_eq!(cache.sets.len(), SETS_MAX);
        assert_eq!(
            cache.get(Key::new(ImageId(3), Svma(7), AddressKind::Return).unwrap()),
            None
        );
        assert_eq!(
            cache.get(Key::new(ImageId(4), Svma(7), AddressKind::Interrupted).unwrap()),
            None
        );
        cache.clear();
        assert_eq!(cache.get(key(299_999)), None);
    }
}
