//! A frozen target: one thread's registers, the mappings of its process, and some of its memory, as text.
//!
//! ```text
//! # a comment
//! register rip 0000000000401136
//! map 00401000-00402000 r-xp 00001000 00:00 0 /path/to/file
//! memory 00007ffd00000000 0123456789abcdef
//! ```

use std::path::Path;

use sampler_unwind::{
    Arch, Avma, ElfImage, MemoryReader, Modules, ReadError, Registers, SliceMemory,
};

use super::maps;

/// A frozen target.
pub(crate) struct Capture {
    pub(crate) registers: Registers,
    pub(crate) modules: Modules,
    pub(crate) memory: Pieces,
}

/// Copied pieces of memory, sorted by address.
#[derive(Default)]
pub(crate) struct Pieces(Vec<(u64, Vec<u8>)>);

impl MemoryReader for Pieces {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let after = self.0.partition_point(|(start, _)| *start <= at.0);
        let (start, bytes) = after
            .checked_sub(1)
            .map(|index| &self.0[index])
            .ok_or(ReadError::NotCopied(at))?;
        SliceMemory::new(Avma(*start), bytes).read(at, into)
    }
}

impl Capture {
    /// Reads the capture at `path`; its mappings name files of this machine.
    pub(crate) fn load(path: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(path).unwrap(), |path| {
            ElfImage::parse(maps::file(path)?).ok()
        })
    }

    /// Reads a capture; `image` gives the file of each mapping that has one.
    pub(crate) fn parse(text: &str, image: impl Fn(&str) -> Option<ElfImage>) -> Self {
        let is_arm = text.lines().any(|line| line.starts_with("register x29 "));
        let arch = if is_arm {
            &Arch::AARCH64
        } else {
            &Arch::X86_64
        };
        let mut registers = Registers::unknown(arch);
        let mut lines = Vec::new();
        let mut memory = Pieces::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(' ') {
                Some(("register", rest)) => {
                    let (name, value) = rest.split_once(' ').unwrap();
                    let number = (0u16..)
                        .zip(arch.register_names)
                        .find(|(_, known)| **known == name)
                        .unwrap()
                        .0;
                    registers.set(number, hex(value));
                }
                Some(("map", rest)) => lines.extend(maps::parse(rest)),
                Some(("memory", rest)) => {
                    let (start, bytes) = rest.split_once(' ').unwrap();
                    memory.0.push((hex(start), hex_bytes(bytes)));
                }
                _ => assert!(line.is_empty(), "{line}"),
            }
        }
        memory.0.sort();
        let vdso = lines
            .iter()
            .find(|line| line.path == "[vdso]")
            .map(|line| memory.copied(line.start, line.end));
        let modules = maps::modules_by(&lines, |path| match path {
            "[vdso]" => maps::vdso(vdso.clone()?),
            path => image(path),
        });
        Self {
            registers,
            modules,
            memory,
        }
    }
}

impl Pieces {
    fn copied(&self, start: u64, end: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        self.read_exact(Avma(start), &mut bytes).unwrap();
        bytes
    }
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap()
}

fn hex_bytes(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}
