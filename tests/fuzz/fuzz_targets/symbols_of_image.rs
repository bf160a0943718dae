//! Any bytes as an image that a recording holds: its symbol tables, and what they name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampler::profile::ModuleInfo;
use sampler::symbols::{FileSymbolizer, SymbolPaths, Symbolize as _};

fuzz_target!(|bytes: &[u8]| {
    let module = ModuleInfo {
        path: "[vdso]".to_owned(),
        build_id: None,
        image: Some(bytes.to_vec()),
    };
    FileSymbolizer::new(SymbolPaths::default()).symbolize(&module, &[0, 0x1000, 0x1234, u64::MAX]);
});
