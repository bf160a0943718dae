//! /proc/PID/maps: what lies where in a process.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use sampler_unwind::{Avma, FileOffset};

use super::{Malformed, decimal, hexadecimal, of_process, read_all};
use crate::Pid;

/// One line of /proc/PID/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it lies.
    pub range: Range<Avma>,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether code in it can be executed.
    pub executable: bool,
    /// Whether writes reach the file and other processes.
    pub shared: bool,
    /// Where in the file it begins. Zero without a file.
    pub offset: FileOffset,
    /// The file system's device, as the kernel's superblock has it; stat(2) may say otherwise (overlayfs, btrfs).
    pub device: Device,
    /// The file's inode; zero without a file.
    pub inode: u64,
    /// The file's path in the mount namespace of the process, or a name such as `[heap]`, `[vdso]`, `[anon:...]`.
    ///
    /// A newline in a path is written as `\012` by the kernel and is a newline again here; so is a literal `\012`,
    /// because the kernel does not escape backslashes.
    pub name: Option<PathBuf>,
    /// Whether the kernel says that no directory holds the file under this name any more. A file that is really
    /// called `x (deleted)` is told apart by opening it alone.
    pub deleted: bool,
}

/// The two halves of a device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl Mapping {
    /// The path, when this is a mapping of a file (also of a deleted one or a memfd) rather than of the kernel's or
    /// of anonymous memory.
    pub fn path(&self) -> Option<&Path> {
        self.name
            .as_deref()
            .filter(|name| self.inode != 0 && name.has_root())
    }
}

/// What lies where in process `pid`, by ascending address.
///
/// # Errors
/// What the kernel answers (`EACCES` for a process of somebody else), or [`Malformed`]. A zombie has no mappings, and
/// a process may exit between two reads: an empty or cut list is no error.
pub fn read(pid: Pid) -> io::Result<Vec<Mapping>> {
    let bytes = read_all(&of_process(pid, "maps"))?;
    Ok(parse(&bytes)?)
}

/// All lines of /proc/PID/maps.
///
/// # Errors
/// At the first line that does not have the form of proc(5).
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>, Malformed> {
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(parse_line)
        .collect()
}

/// `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE   NAME`, without the newline.
///
/// # Errors
/// When it does not have this form.
pub fn parse_line(line: &[u8]) -> Result<Mapping, Malformed> {
    let mut rest = line;
    let range = range(field(&mut rest)).ok_or(malformed("address range"))?;
    let [r, w, x, p] = *field(&mut rest) else {
        return Err(malformed("permissions"));
    };
    let offset = hexadecimal(field(&mut rest)).ok_or(malformed("offset"))?;
    let device = device(field(&mut rest)).ok_or(malformed("device"))?;
    let inode = decimal(field(&mut rest)).ok_or(malformed("inode"))?;
    let (name, deleted) = name(rest);
    Ok(Mapping {
        range,
        readable: r == b'r',
        writable: w == b'w',
        executable: x == b'x',
        shared: p == b's',
        offset: FileOffset(offset),
        device,
        inode,
        name,
        deleted,
    })
}

/// Takes what comes before the next space from `rest`.
fn field<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let mut parts = rest.splitn(2, |&byte| byte == b' ');
    let field = parts.next().unwrap_or_default();
    *rest = parts.next().unwrap_or_default();
    field
}

fn range(text: &[u8]) -> Option<Range<Avma>> {
    let (start, end) = split_at(text, b'-')?;
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    (start <= end).then_some(Avma(start)..Avma(end))
}

fn device(text: &[u8]) -> Option<Device> {
    let (major, minor) = split_at(text, b':')?;
    Some(Device {
        major: u32::try_from(hexadecimal(major)?).ok()?,
        minor: u32::try_from(hexadecimal(minor)?).ok()?,
    })
}

fn split_at(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|&byte| byte == separator)?;
    Some((text.get(..position)?, text.get(position + 1..)?))
}

fn name(padded: &[u8]) -> (Option<PathBuf>, bool) {
    let name = padded.trim_ascii_start();
    let (name, deleted) = match name.strip_suffix(b" (deleted)") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let name = (!name.is_empty()).then(|| PathBuf::from(OsString::from_vec(unescape(name))));
    (name, deleted)
}

/// Undoes what the kernel does to a newline (`seq_file_path` in fs/seq_file.c, fs/proc/task_mmu.c).
fn unescape(name: &[u8]) -> Vec<u8> {
    const NEWLINE: &[u8] = br"\012";
    let mut unescaped = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, others)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(NEWLINE) {
            unescaped.push(b'\n');
            rest = after;
        } else {
            unescaped.push(first);
            rest = others;
        }
    }
    unescaped
}

fn malformed(field: &'static str) -> Malformed {
    Malformed {
        file: "maps",
        field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    const ODD: &[u8] = include_bytes!("../../../../fixtures/proc/maps-odd-names");

    #[test]
    fn our_own_code_is_mapped() {
        let mappings = read(Pid(std::process::id().cast_signed())).unwrap();
        let here = Avma(our_own_code_is_mapped as fn() as usize as u64);
        let mapping = mappings
            .iter()
            .find(|mapping| mapping.range.contains(&here))
            .unwrap();
        assert!(mapping.executable && !mapping.writable && !mapping.deleted);
        assert_eq!(mapping.path(), std::env::current_exe().ok().as_deref());
        assert!(mappings.is_sorted_by_key(|mapping| mapping.range.start));
    }

    #[test]
    fn odd_names_are_understood() {
        let mappings = parse(ODD).unwrap();
        let named: Vec<_> = mappings
            .iter()
            .map(|mapping| {
                let name = mapping.name.as_ref().and_then(|name| name.to_str());
                (name, mapping.deleted, mapping.path().is_some())
            })
            .collect();
        let expected = [
            (Some("/usr/bin/dbus daemon"), false, true),
            (Some("/opt/app/libx.so"), true, true),
            (Some("/tmp/two\nlines"), false, true),
            (Some("/memfd:jit code"), true, true),
            (Some("/SYSV00000000"), true, true),
            (Some("[heap]"), false, false),
            (Some("[anon:glibc: malloc arena]"), false, false),
            (Some("anon_inode:[io_uring]"), false, false),
            (None, false, false),
            (Some("[vsyscall]"), false, false),
        ];
        assert_eq!(named, expected);
        assert_eq!(
            mappings.last().map(|vsyscall| vsyscall.range.end),
            Some(Avma(0xffff_ffff_ff60_1000))
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let field_of = |line: &str| parse_line(line.as_bytes()).map_err(|error| error.field);
        assert_eq!(field_of("nonsense"), Err("address range"));
        assert_eq!(field_of("2-1 r-xp 0 0:0 0"), Err("address range"));
        assert_eq!(field_of("1-2 r-x 0 0:0 0"), Err("permissions"));
        assert_eq!(field_of("1-2 r-xp"), Err("offset"));
        assert_eq!(field_of("1-2 r-xp 0 00 0"), Err("device"));
        assert_eq!(field_of("1-2 r-xp 0 0:0 x"), Err("inode"));
    }

    fn line_of(mapping: &Mapping) -> String {
        let flag = |set, letter| if set { letter } else { '-' };
        let mut line = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
            mapping.range.start.0,
            mapping.range.end.0,
            flag(mapping.readable, 'r'),
            flag(mapping.writable, 'w'),
            flag(mapping.executable, 'x'),
            if mapping.shared { 's' } else { 'p' },
            mapping.offset.0,
            mapping.device.major,
            mapping.device.minor,
            mapping.inode,
        );
        if let Some(name) = &mapping.name {
            let escaped = name.to_str().unwrap().replace('\n', "\\012");
            write!(
                line,
                "{:1$}{escaped}",
                "",
                73usize.saturating_sub(line.len())
            )
            .unwrap();
        }
        if mapping.deleted {
            line.push_str(" (deleted)");
        }
        line
    }

    prop_compose! {
        fn any_mapping()(
            bounds in any::<(u64, u64)>(),
            [readable, writable, executable, shared] in any::<[bool; 4]>(),
            offset in any::<u64>(),
            (major, minor) in any::<(u32, u32)>(),
            inode in any::<u64>(),
            path in prop::option::of("/[a-z \n.]{0,20}[a-z]"),
            deleted in any::<bool>(),
        ) -> Mapping {
            Mapping {
                range: Avma(bounds.0.min(bounds.1))..Avma(bounds.0.max(bounds.1)),
                readable, writable, executable, shared,
                offset: FileOffset(offset),
                device: Device { major, minor },
                inode,
                deleted: deleted && path.is_some(),
                name: path.map(PathBuf::from),
            }
        }
    }

    proptest! {
        #[test]
        fn a_line_says_what_the_mapping_was(mapping in any_mapping()) {
            prop_assert_eq!(parse_line(line_of(&mapping).as_bytes()), Ok(mapping));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_damaged_line_is_parsed_or_refused(mapping in any_mapping(), at: prop::sample::Index, byte: u8) {
            let mut line = line_of(&mapping).into_bytes();
            let at = at.index(line.len());
            line[at] = byte;
            let _ = parse(&line);
        }
    }
}
