//! Which functions of interpreted code the sink knows, by its numbers.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use sampler_unwind::interpreter::{Function, InterpretedFrame};

use crate::profile::{FrameKey, FunctionId, SampleSink};

/// More functions than this are not remembered; one that comes again is then told again.
const FUNCTIONS_MAX: usize = 1 << 16;

/// Functions that were told.
#[derive(Debug, Default)]
pub(super) struct FunctionIds {
    ids: FxHashMap<Arc<Function>, FunctionId>,
}

impl FunctionIds {
    /// The key of a frame; its function is told if it is new.
    ///
    /// # Errors
    /// When `sink` could not keep it.
    pub(super) fn key<S: SampleSink>(
        &mut self,
        frame: &InterpretedFrame,
        sink: &mut S,
    ) -> Result<FrameKey, S::Error> {
        let function = match self.ids.get(&frame.function) {
            Some(&id) => id,
            None => {
                let id = sink.function(&frame.function)?;
                if self.ids.len() >= FUNCTIONS_MAX {
                    self.ids.clear();
                }
                self.ids.insert(Arc::clone(&frame.function), id);
                id
            }
        };
        Ok(FrameKey::Interpreted {
            function,
            line: frame.line,
            precision: frame.precision,
            kind: frame.kind,
        })
    }
}
