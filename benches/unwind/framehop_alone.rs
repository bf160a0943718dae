//! framehop as a profiler uses it that has nothing else.

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Unwinder as _};
use object::{Object as _, ObjectSection as _};
use sampler_unwind::{Arch, Avma, MemoryReader as _, Module, Modules};

use crate::capture::Captured;

/// framehop with the modules of one program, code included: it decodes prologues and epilogues.
pub(crate) struct FramehopAlone {
    unwinder: UnwinderX86_64<Vec<u8>>,
}

impl FramehopAlone {
    pub(crate) fn new(modules: &Modules) -> Self {
        let mut unwinder = UnwinderX86_64::new();
        for module in modules.iter() {
            if let Some(module) = framehop_module(module) {
                unwinder.add_module(module);
            }
        }
        Self { unwinder }
    }

    /// Where it keeps the rules it has decided.
    pub(crate) fn cache() -> CacheX86_64 {
        CacheX86_64::new()
    }

    /// Gives `each` the address of each frame it finds, innermost first.
    pub(crate) fn walk(
        &self,
        captured: &Captured,
        cache: &mut CacheX86_64,
        mut each: impl FnMut(u64),
    ) {
        let stack = captured.stack();
        let register = |number| captured.registers.get(number).unwrap_or_default();
        let arch = &Arch::X86_64;
        let pc = register(arch.return_address);
        let start = UnwindRegsX86_64::new(
            pc,
            register(arch.stack_pointer),
            register(arch.frame_pointer),
        );
        let mut read = |at| stack.read_u64(Avma(at)).map_err(|_| ());
        let mut frames = self.unwinder.iter_frames(pc, start, cache, &mut read);
        while let Ok(Some(frame)) = frames.next() {
            each(frame.address());
        }
    }
}

fn framehop_module(module: &Module) -> Option<framehop::Module<Vec<u8>>> {
    let file = object::File::parse(&**module.image.bytes()).ok()?;
    let range = |name| {
        let section = file.section_by_name(name)?;
        Some(section.address()..section.address().checked_add(section.size())?)
    };
    let bytes = |name| Some(file.section_by_name(name)?.data().ok()?.to_vec());
    Some(framehop::Module::new(
        String::new(),
        module.avma.start.0..module.avma.end.0,
        module.avma.start.0,
        ExplicitModuleSectionInfo {
            base_svma: module.svma(module.avma.start).0,
            text_svma: range(".text"),
            text: bytes(".text"),
            got_svma: range(".got"),
            eh_frame_svma: range(".eh_frame"),
            eh_frame: bytes(".eh_frame"),
            eh_frame_hdr_svma: range(".eh_frame_hdr"),
            eh_frame_hdr: bytes(".eh_frame_hdr"),
            ..ExplicitModuleSectionInfo::default()
        },
    ))
}
