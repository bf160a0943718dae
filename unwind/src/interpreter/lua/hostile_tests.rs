//! Whatever memory holds: a walk ends, within its bounds, and does not panic.

use proptest::prelude::*;

use super::hostile::{START, WORDS, walk_any};

const WORD_COUNT: usize = 512;

/// Words most of which are pointers into themselves, tags, or lengths.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..WORDS).prop_map(|index| START + index * 8),
        4 => prop_oneof![Just(8u64), Just(0x46), Just(9), Just(10), Just(4)],
        2 => 0u64..64,
        1 => any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn any_memory_is_walked_to_an_end(
        words in prop::collection::vec(word(), WORD_COUNT),
        minor in 1u8..=5,
        states in prop::collection::vec(0..WORDS - 32, 1..4),
        native in prop::collection::vec(0..WORDS, 1..8),
    ) {
        walk_any(words, minor, &states, &native);
    }
}
