//! Any memory as LuaJIT's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampler_unwind::interpreter::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::luajit(bytes));
