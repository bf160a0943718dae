//! Whatever memory holds: a walk ends, within its bounds, and does not panic.

use proptest::prelude::*;

use super::hostile::{START, WORDS, walk_any};

const WORD_COUNT: usize = 512;

/// Words most of which are pointers into themselves, or what a number of a thread or a length may be.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..WORDS).prop_map(|index| START + index * 8),
        1 => (0..WORDS * 8).prop_map(|offset| START + offset),
        2 => 0u64..8,
        1 => any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn any_memory_is_walked_to_an_end(
        words in prop::collection::vec(word(), WORD_COUNT),
        minor in 8u8..=12,
        native in prop::collection::vec(0..WORDS, 0..8),
    ) {
        walk_any(&words, minor, &native);
    }
}
