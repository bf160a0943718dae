//! Any bytes as MiniDebugInfo, packed and unpacked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampler::symbols::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::mini_debug_info(bytes));
