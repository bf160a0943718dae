//! Reads what `programs/steps.h` writes.

use std::ffi::OsStr;
use std::path::Path;

use sampler_unwind::{Arch, ElfImage, Modules, Registers};

use super::{maps, programs};

/// A program's life in single steps.
pub(crate) struct Recording {
    pub(crate) modules: Modules,
    lines: Vec<maps::Line>,
    vdso: Vec<u8>,
    bytes: Vec<u8>,
}

/// One instruction about to be executed.
pub(crate) struct Step<'a> {
    pub(crate) registers: Registers,
    /// Where the calls under way will return to, innermost first, as far out as stepping began.
    pub(crate) shadow: Vec<u64>,
    pub(crate) stack_start: u64,
    pub(crate) stack: &'a [u8],
}

impl Recording {
    /// Runs `program`, which uses `steps.h`, and reads what it wrote to `directory`.
    pub(crate) fn of(program: &Path, directory: &Path) -> Self {
        let out = directory.join("out");
        std::fs::create_dir_all(&out).unwrap();
        programs::run(program, &[OsStr::new(&out)]);
        let lines = maps::parse(&std::fs::read_to_string(out.join("maps")).unwrap());
        let vdso = std::fs::read(out.join("vdso")).unwrap();
        Self {
            modules: maps::modules(&lines, &vdso),
            lines,
            vdso,
            bytes: std::fs::read(out.join("steps")).unwrap(),
        }
    }

    /// The same, with `image` in place of the file at `path`.
    pub(crate) fn with_image(mut self, path: &Path, image: impl Fn() -> ElfImage) -> Self {
        self.modules = maps::modules_by(&self.lines, |name| match name {
            "[vdso]" => maps::vdso(self.vdso.clone()),
            name if Path::new(name) == path => Some(image()),
            name => ElfImage::parse(maps::file(name)?).ok(),
        });
        self
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| {
                let mut word = || {
                    let (word, tail) = rest.split_first_chunk().unwrap();
                    rest = tail;
                    u64::from_le_bytes(*word)
                };
                let mut registers = Registers::unknown(&Arch::X86_64);
                (0..17).for_each(|register| registers.set(register, word()));
                let shadow = (0..word()).map(|_| word()).collect();
                let (stack_start, length) = (word(), word());
                let (stack, tail) = rest.split_at(usize::try_from(length).unwrap());
                rest = tail;
                Step {
                    registers,
                    shadow,
                    stack_start,
                    stack,
                }
            })
        })
    }
}
