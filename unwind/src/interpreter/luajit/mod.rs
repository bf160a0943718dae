//! LuaJIT 2.1: OpenResty's fork and the original, with 64-bit references (GC64) and with 32-bit ones, as a program or
//! inside any library, stripped or not.
//!
//! Nothing is taken from symbols or debug information. The interpreter is one block of assembly with one entry in
//! `.eh_frame`, by which it is recognized; its state is found from the stack of a thread that is in it; and where the
//! fields of its structures lie, which differs from month to month, is found by looking for what must be in them.
//!
//! Sources of the facts: lj_obj.h (structures), lj_frame.h (frame links, C frames), vm_x64.dasc, vm_x86.dasc and
//! vm_arm64.dasc (which register holds what), lj_jit.h and lj_snap.c (traces and their snapshots), lj_bc.h (bytecode), lj_debug.c (what a
//! position in the bytecode is called) of LuaJIT 2.1.

mod calibrate;
mod capture;
mod detect;
#[cfg(test)]
mod frozen_tests;
mod functions;
#[cfg(test)]
mod header_tests;
mod layout;
#[cfg(any(test, fuzzing))]
pub(super) mod machine;
mod names;
mod processor;
mod proto;
mod stack;
#[cfg(test)]
mod tests;
mod thread_walk;
mod trace;
mod walk;

use std::ops::Range;
use std::sync::Arc;

use super::{Interpreter, Language, Runtime, RuntimeImage, Unsupported};
use crate::address::Svma;
use crate::elf::ElfImage;
use crate::memory::MemoryReader;
use crate::modules::Module;

use detect::Image;
pub(super) use proto::chunk_name;
use walk::LuaJitProcess;

/// LuaJIT.
#[derive(Debug)]
pub(super) struct LuaJit;

impl Runtime for LuaJit {
    fn language(&self) -> Language {
        Language::Lua
    }

    fn detect(&self, image: &ElfImage) -> Option<Arc<dyn RuntimeImage>> {
        Some(Arc::new(Image::find(image)?))
    }
}

impl RuntimeImage for Image {
    fn version(&self) -> String {
        self.version.clone()
    }

    fn code(&self) -> Option<Range<Svma>> {
        let (interpreter, _) = self.interpreter.as_ref()?;
        Some(interpreter.clone())
    }

    fn attach(
        &self,
        module: &Module,
        _memory: &dyn MemoryReader,
    ) -> Result<Box<dyn Interpreter>, Unsupported> {
        let refused = |reason: &str| Unsupported {
            version: self.version.clone(),
            reason: reason.to_owned(),
        };
        if !self.version.starts_with("LuaJIT 2.1") {
            return Err(refused("only LuaJIT 2.1 is"));
        }
        let interpreter = self.interpreter.as_ref();
        let (interpreter, layouts) =
            interpreter.ok_or_else(|| refused("it is on x86_64 and aarch64 alone"))?;
        let start = module.bias.avma(interpreter.start);
        let end = module.bias.avma(interpreter.end);
        Ok(Box::new(LuaJitProcess::new(
            layouts,
            start..end,
            module.avma.clone(),
        )))
    }
}
