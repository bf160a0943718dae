//! Any segments, laid into a native stack: none of their frames is left out, and no native one comes twice.
//!
//! Input: how many native frames; then for each segment its first native frame, how many it stands for, and how many
//! frames it has.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sampler_unwind::interpreter::{
    Function, FunctionKind, InterpretedFrame, Language, LinePrecision, Segments,
};
use sampler_unwind::{MergedFrame, merge};

fuzz_target!(|bytes: &[u8]| {
    let Some((&native, rest)) = bytes.split_first() else {
        return;
    };
    let frame = InterpretedFrame {
        function: Arc::new(Function {
            language: Language::Lua,
            name: String::new(),
            file: String::new(),
            first_line: 0,
        }),
        line: 0,
        precision: LinePrecision::Exact,
        kind: FunctionKind::Interpreted,
    };
    let mut segments = Segments::default();
    for segment in rest.chunks_exact(3) {
        let [start, length, frames] = [segment[0], segment[1], segment[2] % 8].map(usize::from);
        let from = segments.frames.len();
        segments.frames.resize(from + frames, frame.clone());
        segments.close(from, start..start + length);
    }
    let mut out = Vec::new();
    merge(usize::from(native), &mut segments, &mut out);
    let interpreted = |frame: &&MergedFrame| matches!(frame, MergedFrame::Interpreted(_));
    assert_eq!(out.iter().filter(interpreted).count(), segments.frames.len());
    assert!(out.iter().filter(|frame| !interpreted(frame)).is_sorted());
    let length = out.len();
    out.sort();
    out.dedup();
    assert_eq!(out.len(), length);
});
