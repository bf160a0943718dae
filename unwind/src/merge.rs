//! Lays interpreted frames into a native stack.
//!
//! Native frames that the interpreter called keep their places inside; the interpreter's own frames, which stand for
//! the code it executes, are replaced by that code; native frames outside follow. No frame that was found is left out,
//! whatever the segments say: where two claim the same native frames, both are put there.

use crate::interpreter::Segments;

/// A frame of a merged stack, innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MergedFrame {
    /// A native one, by its position in the native stack.
    Native(usize),
    /// An interpreted one, by its position in [`Segments::frames`].
    Interpreted(usize),
}

/// Puts the merged stack of `native` native frames and of `segments` into `out`, innermost first, replacing what was
/// there. Sorts the segments.
pub fn merge(native: usize, segments: &mut Segments, out: &mut Vec<MergedFrame>) {
    out.clear();
    // Stable: of two at the same place the one that was found first is the inner one.
    segments
        .segments
        .sort_by_key(|segment| segment.native.start);
    let mut next = 0;
    for segment in &segments.segments {
        let start = segment.native.start.min(native);
        out.extend((next..start).map(MergedFrame::Native));
        out.extend(segment.frames.clone().map(MergedFrame::Interpreted));
        next = next.max(start).max(segment.native.end.min(native));
    }
    out.extend((next..native).map(MergedFrame::Native));
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::interpreter::{Function, FunctionKind, InterpretedFrame, Language, LinePrecision};

    fn segments(of: &[(Range<usize>, usize)]) -> Segments {
        let function = Arc::new(Function {
            language: Language::Lua,
            name: "f".into(),
            file: "a.lua".into(),
            first_line: 1,
        });
        let mut segments = Segments::default();
        for (native, frames) in of {
            let from = segments.frames.len();
            segments.frames.resize(
                from + frames,
                InterpretedFrame {
                    function: Arc::clone(&function),
                    line: 1,
                    precision: LinePrecision::Exact,
                    kind: FunctionKind::Interpreted,
                },
            );
            segments.close(from, native.clone());
        }
        segments
    }

    fn merged(native: usize, of: &[(Range<usize>, usize)]) -> String {
        let mut out = Vec::new();
        merge(native, &mut segments(of), &mut out);
        let words = out.iter().map(|frame| match frame {
            MergedFrame::Native(at) => format!("n{at}"),
            MergedFrame::Interpreted(at) => format!("i{at}"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn markers_are_replaced_and_all_else_keeps_its_place() {
        assert_eq!(merged(3, &[]), "n0 n1 n2");
        assert_eq!(merged(4, &[(1..2, 2)]), "n0 i0 i1 n2 n3");
        assert_eq!(merged(5, &[(3..4, 1), (0..1, 2)]), "i1 i2 n1 n2 i0 n4");
        assert_eq!(merged(2, &[(2..2, 1)]), "n0 n1 i0");
        assert_eq!(merged(2, &[(0..0, 1)]), "i0 n0 n1");
    }

    #[test]
    fn segments_that_claim_the_same_frames_are_all_shown() {
        assert_eq!(merged(4, &[(1..3, 1), (1..2, 1)]), "n0 i0 i1 n3");
        assert_eq!(merged(2, &[(7..9, 1)]), "n0 n1 i0");
    }

    proptest! {
        #[test]
        fn no_interpreted_frame_is_left_out_and_no_native_one_comes_twice(
            native in 0usize..12,
            of in prop::collection::vec(((0usize..14, 0usize..4), 0usize..4), 0..6),
        ) {
            let of: Vec<_> = of.into_iter().map(|((start, len), frames)| (start..start + len, frames)).collect();
            let mut segments = segments(&of);
            let mut out = Vec::new();
            merge(native, &mut segments, &mut out);
            let mut sorted = out.clone();
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), out.len());
            let interpreted = out.iter().filter(|frame| matches!(frame, MergedFrame::Interpreted(_)));
            prop_assert_eq!(interpreted.count(), segments.frames.len());
            let natives = out.iter().filter(|frame| matches!(frame, MergedFrame::Native(_)));
            prop_assert!(natives.is_sorted());
        }
    }
}
