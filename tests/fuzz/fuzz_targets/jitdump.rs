//! Any bytes as a jitdump.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampler::record::jit::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::jitdump(bytes));
