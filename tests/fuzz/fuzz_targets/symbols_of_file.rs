//! Any bytes as the file of a module: its symbol tables, its debug information, and the files that it names.
#![no_main]

use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use sampler::profile::ModuleInfo;
use sampler::symbols::{FileSymbolizer, SymbolPaths, Symbolize as _};

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("there is room for files");
    file.write_all(bytes).expect("there is room for files");
    let module = ModuleInfo {
        path: file.path().to_string_lossy().into_owned(),
        build_id: None,
        image: None,
    };
    FileSymbolizer::new(SymbolPaths::default()).symbolize(&module, &[0, 0x1000, 0x1234, u64::MAX]);
});
