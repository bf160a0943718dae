//! Recognizes LuaJIT in an image.

use std::ops::Range;

use memchr::memmem;

use super::layout::{LAYOUTS, Layouts};
use crate::address::Svma;
use crate::elf::ElfImage;

/// What the text that names the version begins with.
const VERSION_MARK: &[u8] = b"LuaJIT 2.";

/// The version is no longer than this, in bytes.
const VERSION_BYTES_MAX: usize = 48;

/// The block of assembly that is the interpreter: 16 KiB in 2022, larger with more instructions.
const INTERPRETER_BYTES: Range<u64> = 8 << 10..64 << 10;

/// What is known of an image with LuaJIT in it.
#[derive(Debug)]
pub(super) struct Image {
    /// `LuaJIT 2.1.1700008891`.
    pub(super) version: String,
    /// Where the interpreter is, and what its virtual machines may look like; that of an unknown processor is not looked
    /// for.
    pub(super) interpreter: Option<(Range<Svma>, Layouts)>,
}

impl Image {
    pub(super) fn find(image: &ElfImage) -> Option<Self> {
        let version = image.data_segments().find_map(version_in)?;
        let processor = |layouts: &Layouts| Some(layouts.first()?.processor);
        let is_here = |layouts: &&Layouts| {
            processor(layouts).is_some_and(|known| known.arch.elf_machine == image.machine())
        };
        let here = LAYOUTS.iter().filter(is_here);
        if here.clone().next().is_none() {
            return Some(Self {
                version,
                interpreter: None,
            });
        }
        let is_large = |range: &Range<Svma>| {
            INTERPRETER_BYTES.contains(&(range.end.0.saturating_sub(range.start.0)))
        };
        let mut large = image.fde_ranges().into_iter().filter(is_large);
        let interpreter = large.find_map(|range| {
            let cfa = image.cfa_at(range.start)?;
            let of_it = |layouts: &&Layouts| processor(layouts).is_some_and(|it| it.cfa == cfa);
            let layouts = here.clone().find(of_it)?;
            Some((range, *layouts))
        })?;
        Some(Self {
            version,
            interpreter: Some(interpreter),
        })
    }
}

/// The text that begins with [`VERSION_MARK`], if it is the name of a version rather than part of a sentence.
fn version_in(bytes: &[u8]) -> Option<String> {
    let mut starts = memmem::find_iter(bytes, VERSION_MARK);
    let start = starts.find(|&start| {
        start
            .checked_sub(1)
            .is_none_or(|before| bytes.get(before) == Some(&0))
    })?;
    let text = bytes.get(start..)?;
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b" .-+".contains(byte);
    let version = text
        .iter()
        .take(VERSION_BYTES_MAX)
        .take_while(|byte| is_part(byte));
    let version: String = version.map(|&byte| char::from(byte)).collect();
    Some(
        version
            .split(" -")
            .next()
            .unwrap_or_default()
            .trim_end()
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_ends_where_its_copyright_begins() {
        let text = b"\0LuaJIT 2.1.1700008891 -- Copyright (C) 2005-2023 Mike Pall.\0";
        assert_eq!(version_in(text).as_deref(), Some("LuaJIT 2.1.1700008891"));
        assert_eq!(
            version_in(b"LuaJIT 2.1.0-beta3\0x").as_deref(),
            Some("LuaJIT 2.1.0-beta3")
        );
        assert_eq!(version_in(b"LuaJIT"), None);
        let text = b"such as LuaJIT 2.0.1\0LuaJIT 2.1.5\0";
        assert_eq!(version_in(text).as_deref(), Some("LuaJIT 2.1.5"));
    }
}
