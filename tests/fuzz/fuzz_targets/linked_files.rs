//! Any bytes as a program, and as all the files that its debug information can name.
//!
//! Input: the length of the program as three bytes, the program, the other file.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use sampler::profile::ModuleInfo;
use sampler::symbols::{FileSymbolizer, SymbolPaths, Symbolize as _};

/// `linked_files_seeds` makes files that name these.
const OTHERS: [&str; 5] = ["app.dwp", "app.dwo", "app.debug", "common.debug", "a.dwo"];

fuzz_target!(|bytes: &[u8]| {
    let Some((&[a, b, c], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let length = u32::from_le_bytes([a, b, c, 0]) as usize;
    let Some((program, other)) = rest.split_at_checked(length) else {
        return;
    };
    let folder = tempfile::tempdir().expect("there is room for files");
    let path = folder.path().join("app");
    fs::write(&path, program).expect("there is room for files");
    for name in OTHERS {
        fs::write(folder.path().join(name), other).expect("there is room for files");
    }
    let module = ModuleInfo {
        path: path.to_string_lossy().into_owned(),
        build_id: None,
        image: None,
    };
    let addresses: Vec<u64> = (0x1000..0x1200).step_by(3).chain([0, u64::MAX]).collect();
    FileSymbolizer::new(SymbolPaths::default()).symbolize(&module, &addresses);
});
