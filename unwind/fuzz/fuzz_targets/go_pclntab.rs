//! Any bytes as Go's table of functions, and as its inline trees.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampler_unwind::{GoFunctions, Svma};

fuzz_target!(|bytes: &[u8]| {
    let Some(functions) = GoFunctions::parse(bytes, Some(Svma(0x1000))) else {
        return;
    };
    let functions = functions.with_inline_trees(bytes);
    for svma in (0x1000..0x1100).map(Svma) {
        if let Some(function) = functions.find(svma) {
            let _ = functions.sp_delta(&function, svma);
            let _ = functions.calls(&function, svma);
        }
    }
});
