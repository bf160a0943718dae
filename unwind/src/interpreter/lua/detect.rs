//! Recognizes PUC Lua in an image.

use std::ops::Range;

use memchr::memmem;

use super::execute;
use super::layout::LuaVersion;
use crate::address::Svma;
use crate::elf::ElfImage;

/// What `lua_ident` has before the version: from 5.2 on, and in 5.1.
const VERSION_MARKS: [&[u8]; 2] = [b"$LuaVersion: Lua 5.", b"$Lua: Lua 5."];

/// How much larger than any other function of Lua its loop is at least, in percent.
const LARGER_PERCENT: u64 = 25;

/// Code of Lua alone is no larger than this: the program `lua` and the library have some 200 KiB.
const OWN_CODE_BYTES_MAX: u64 = 1 << 20;

/// Facts of a binary that holds PUC Lua.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub version: LuaVersion,
    /// `luaV_execute`, if it was found.
    pub execute: Option<Range<Svma>>,
}

/// What `image` holds; `None` for one without Lua.
pub(super) fn detect(image: &ElfImage) -> Option<Found> {
    let version = image.data_segments().find_map(version_in)?;
    let named = image.symbol("luaV_execute");
    let named = named.map(|symbol| symbol.svma..Svma(symbol.svma.0.saturating_add(symbol.bytes)));
    Some(Found {
        version,
        execute: named
            .or_else(|| execute::by_text(image, version.minor))
            .or_else(|| largest(&image.fde_ranges())),
    })
}

fn version_in(bytes: &[u8]) -> Option<LuaVersion> {
    VERSION_MARKS.iter().find_map(|mark| {
        let rest = bytes.get(memmem::find(bytes, mark)? + mark.len()..)?;
        let &[minor, b'.', release] = rest.first_chunk::<3>()? else {
            return None;
        };
        let digit = |digit: u8| digit.is_ascii_digit().then(|| digit - b'0');
        Some(LuaVersion {
            minor: digit(minor)?,
            release: digit(release)?,
        })
    })
}

/// Where there is no other code than Lua's, its loop is by far the largest function.
fn largest(functions: &[Range<Svma>]) -> Option<Range<Svma>> {
    let bytes = |range: &Range<Svma>| range.end.0.saturating_sub(range.start.0);
    let code = functions
        .last()?
        .end
        .0
        .saturating_sub(functions.first()?.start.0);
    let largest = functions.iter().max_by_key(|range| bytes(range))?;
    let others = functions.iter().filter(|range| *range != largest);
    let second = others.map(bytes).max().unwrap_or(0);
    let is_far_larger = bytes(largest) * 100 >= second * (100 + LARGER_PERCENT);
    (code <= OWN_CODE_BYTES_MAX && is_far_larger).then(|| largest.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_text_that_lua_carries() {
        let version = |minor, release| Some(LuaVersion { minor, release });
        assert_eq!(version_in(b"\0$Lua: Lua 5.1.5 Copyright"), version(1, 5));
        assert_eq!(version_in(b"x$LuaVersion: Lua 5.4.4  Copy"), version(4, 4));
        assert_eq!(version_in(b"$LuaVersion: Lua 5.x.1"), None);
        assert_eq!(version_in(b"LuaJIT 2.1"), None);
    }

    #[test]
    fn the_loop_is_far_larger_than_all_else() {
        let functions = |sizes: &[u64]| {
            let mut at = 0x1000;
            let range = sizes.iter().map(|size| {
                at += size;
                Svma(at - size)..Svma(at)
            });
            range.collect::<Vec<_>>()
        };
        assert_eq!(
            largest(&functions(&[100, 6000, 4090])),
            Some(Svma(0x1064)..Svma(0x27d4))
        );
        assert_eq!(largest(&functions(&[5000, 6000])), None);
        assert_eq!(largest(&functions(&[2_000_000, 6_000_000])), None);
        assert_eq!(largest(&[]), None);
    }
}
