//! Any bytes as a recording.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampler::profile::ProfileBuilder;
use sampler::recording;

fuzz_target!(|bytes: &[u8]| {
    let mut builder = ProfileBuilder::new();
    let _ = recording::read(bytes, &mut builder);
    let _ = builder.finish();
});
