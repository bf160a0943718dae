//! Any bytes as an ELF file, and as an image in memory.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sampler_unwind::{Avma, ElfImage, FileOffset, ImageBytes, Svma};

fuzz_target!(|bytes: &[u8]| {
    for parse in [ElfImage::parse, ElfImage::parse_memory] {
        let Ok(image) = parse(ImageBytes::new(Arc::new(bytes.to_vec()))) else {
            continue;
        };
        let _ = image.build_id();
        for segment in image.segments() {
            let _ = image.bytes_at(segment.svma.start);
            let _ = image.bytes_at(Svma(segment.svma.end.0.wrapping_sub(1)));
            let _ = image.bias_of_mapping(Avma(0x1000), segment.file.start, true);
        }
        let _ = image.bias_of_mapping(Avma(0), FileOffset(u64::MAX), false);
    }
});
