//! Any memory as CPython's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampler_unwind::interpreter::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::cpython(bytes));
