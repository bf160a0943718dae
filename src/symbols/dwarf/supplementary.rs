//! The file that `dwz` moved to what several debug files have in common.
//!
//! Named by `.gnu_debugaltlink` (`dwz -m`), or by `.debug_sup` (`dwz -m --dwarf-5`; DWARF 5, section 7.3.6).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sampler_unwind::BuildId;

use crate::symbols::files::{ElfOnDisk, SymbolPaths};

/// What a file says about its supplementary file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link<'data> {
    name: &'data Path,
    /// The build ID, or in DWARF 5 the checksum, that both files state.
    id: &'data [u8],
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AltLink,
    DebugSup,
}

/// Why there is no supplementary file.
#[derive(Debug, thiserror::Error)]
pub(super) enum SupplementaryError {
    #[error("names are missing: the supplementary debug file {0} was not found")]
    Missing(PathBuf),
    #[error("names are missing: the supplementary debug file {0} is another than the link says")]
    Other(PathBuf),
    #[error("names are missing: its link to a supplementary debug file makes no sense")]
    Malformed,
}

/// The supplementary file of `file`; `None` where it names none.
///
/// # Errors
/// When it names one that cannot be had.
pub(super) fn find(
    file: &ElfOnDisk,
    paths: &SymbolPaths,
) -> Result<Option<ElfOnDisk>, SupplementaryError> {
    let Some(image) = file.image() else {
        return Ok(None);
    };
    let alt = image.section(".gnu_debugaltlink");
    let sup = image.section(".debug_sup");
    let link = match (&alt, &sup) {
        (Some(alt), _) => alt_link(alt),
        (None, Some(sup)) => match debug_sup(sup) {
            // This is a supplementary file itself.
            Some((true, _)) => return Ok(None),
            Some((false, link)) => Some(link),
            None => None,
        },
        (None, None) => return Ok(None),
    };
    let link = link.ok_or(SupplementaryError::Malformed)?;
    let mut refused = None;
    for path in candidates(file, paths, &link) {
        let Ok(found) = ElfOnDisk::open(&path, file.found) else {
            continue;
        };
        if belongs(&found, &link) {
            return Ok(Some(found));
        }
        refused.get_or_insert(path);
    }
    Err(match refused {
        Some(path) => SupplementaryError::Other(path),
        None => SupplementaryError::Missing(link.name.to_owned()),
    })
}

/// Where the file may be: where the link says, relative to the real file; by build ID; and by its name beside the file
/// or in the directories for debug files, in `.dwz` there, too.
fn candidates(file: &ElfOnDisk, paths: &SymbolPaths, link: &Link<'_>) -> Vec<PathBuf> {
    let real = file.path.canonicalize();
    let directories: Vec<&Path> = [real.as_deref().ok(), Some(file.path.as_path())]
        .into_iter()
        .flatten()
        .filter_map(Path::parent)
        .collect();
    let debug_dirs = paths.debug_dirs();
    let mut found = Vec::new();
    if link.name.is_absolute() {
        found.extend(paths.in_sysroot(link.name));
    }
    // An absolute name stays what it is.
    found.extend(
        directories
            .iter()
            .map(|directory| directory.join(link.name)),
    );
    if link.kind == Kind::AltLink {
        found.extend(paths.by_build_id(&BuildId(link.id.to_vec())));
    }
    if let Some(name) = link.name.file_name() {
        let debug_dirs = debug_dirs.iter().map(PathBuf::as_path);
        for directory in directories.iter().copied().chain(debug_dirs) {
            found.extend([directory.join(".dwz").join(name), directory.join(name)]);
        }
    }
    found
}

/// Whether `found` is the file that was made together with the one that links to it.
fn belongs(found: &ElfOnDisk, link: &Link<'_>) -> bool {
    match link.kind {
        Kind::AltLink => found.build_id().is_some_and(|id| id.0 == link.id),
        Kind::DebugSup => {
            let section = found.image().and_then(|image| image.section(".debug_sup"));
            section.is_some_and(|section| {
                debug_sup(&section).is_some_and(|(is_it, stated)| is_it && stated.id == link.id)
            })
        }
    }
}

/// `.gnu_debugaltlink`: a name, and the build ID.
fn alt_link(section: &[u8]) -> Option<Link<'_>> {
    let (name, id) = take_string(section)?;
    link(name, id, Kind::AltLink)
}

/// `.debug_sup`: version, whether this is the supplementary file, the name of the other one, length and bytes of a
/// checksum. A supplementary file has no name for another.
fn debug_sup(section: &[u8]) -> Option<(bool, Link<'_>)> {
    let (version, rest) = section.split_first_chunk::<2>()?;
    let (&is_supplementary, rest) = rest.split_first()?;
    let (name, rest) = take_string(rest)?;
    // The length is a LEB128 number; no checksum has 128 bytes.
    let (&length, rest) = rest.split_first()?;
    let id = rest.get(..usize::from(length)).filter(|_| length < 0x80)?;
    if u16::from_le_bytes(*version) != 5 {
        return None;
    }
    match is_supplementary {
        0 => Some((false, link(name, id, Kind::DebugSup)?)),
        1 => Some((
            true,
            Link {
                name: Path::new(""),
                id,
                kind: Kind::DebugSup,
            },
        )),
        _ => None,
    }
}

fn link<'data>(name: &'data [u8], id: &'data [u8], kind: Kind) -> Option<Link<'data>> {
    if name.is_empty() || id.is_empty() {
        return None;
    }
    Some(Link {
        name: Path::new(OsStr::from_bytes(name)),
        id,
        kind,
    })
}

fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.iter().position(|&byte| byte == 0)?;
    Some((bytes.get(..length)?, bytes.get(length + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn links_of_both_kinds_are_read() {
        let alt = alt_link(b"../.dwz/a.debug\0\x12\x34").expect("a link");
        assert_eq!(alt.name, Path::new("../.dwz/a.debug"));
        assert_eq!(alt.id, [0x12, 0x34]);
        let (is_it, sup) = debug_sup(b"\x05\0\0a.debug\0\x02\x12\x34").expect("a link");
        assert_eq!(
            (is_it, sup.name, sup.id),
            (false, Path::new("a.debug"), &[0x12, 0x34][..])
        );
        let (is_it, sup) = debug_sup(b"\x05\0\x01\0\x02\x12\x34").expect("a file");
        assert_eq!((is_it, sup.id), (true, &[0x12, 0x34][..]));
    }

    #[test]
    fn links_without_a_name_or_an_id_are_none() {
        for section in [&b""[..], b"\0", b"a", b"a\0", b"\0\x12"] {
            assert_eq!(alt_link(section), None);
        }
        for section in [
            &b"\x05\0\0a\0\x02\x12"[..],
            b"\x04\0\0a\0\x01\x12",
            b"\x05\0\x02a\0\x01\x12",
            b"\x05\0\0\0\x01\x12",
        ] {
            assert_eq!(debug_sup(section), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_link_or_none(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(link) = alt_link(&bytes) {
                prop_assert!(link.id.len() < bytes.len());
            }
            if let Some((_, link)) = debug_sup(&bytes) {
                prop_assert!(link.id.len() < bytes.len());
            }
        }
    }
}
