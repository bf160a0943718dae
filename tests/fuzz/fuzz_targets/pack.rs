//! Any bytes as the archive in a symbol pack.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampler::symbols::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::pack(bytes));
