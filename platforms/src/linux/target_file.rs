//! The file that a process has mapped, which is not always the one that now has its name.
//!
//! A mapping's path is one in the process's mount namespace, and the file may have been deleted or replaced since (an
//! upgrade). So the file is opened through /proc, and taken only if it is the one that is mapped.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::proc::maps::Mapping;
use super::rooted_file;
use crate::Pid;

/// The file behind a mapping, open for reading.
#[derive(Debug)]
pub struct TargetFile {
    /// A regular file.
    pub file: File,
    /// How sure it is that this is the mapped file.
    pub identity: Identity,
}

/// How a file was recognized as the mapped one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The kernel's own link to the mapped file, or device and inode are those of the mapping.
    Certain,
    /// Only the inode is. File systems in layers (overlayfs, btrfs) show one device in stat(2) and another in maps.
    /// The caller should compare something of the contents, such as the build ID with the one in memory.
    InodeOnly,
}

/// Why the file behind a mapping could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TargetFileError {
    /// The mapping is of anonymous memory, or of the kernel's.
    #[error("the mapping has no file")]
    NoFile,
    /// The process has ended, or no file can be reached by any name.
    #[error("{} is not there (any more)", path.display())]
    NotFound {
        /// The path in the process's mount namespace.
        path: PathBuf,
    },
    /// There is a file under this name, and it is not the one that is mapped.
    #[error("{} has been replaced since it was mapped", path.display())]
    Replaced {
        /// The path in the process's mount namespace.
        path: PathBuf,
    },
    /// A device, or the like; it was not opened.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// The path in the process's mount namespace.
        path: PathBuf,
    },
    /// The kernel refused, or something else went wrong.
    #[error("cannot open {}", path.display())]
    Failed {
        /// The path in the process's mount namespace.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Opens the file behind `mapping` of process `pid`, through the first of these that gives it:
/// `/proc/PID/map_files` (the very file, even if deleted; needs CAP_CHECKPOINT_RESTORE, or CAP_SYS_ADMIN before Linux
/// 5.9), its path in the process's root, and `/proc/PID/exe`.
///
/// Nothing but a regular file is ever opened, so it cannot block on a FIFO or make a device do something.
///
/// # Errors
/// See [`TargetFileError`]: what the path gave, because that is what its reader can see for himself.
pub fn open(pid: Pid, mapping: &Mapping) -> Result<TargetFile, TargetFileError> {
    let path = mapping.path().ok_or(TargetFileError::NoFile)?;
    let (start, end) = (mapping.range.start.0, mapping.range.end.0);
    let link = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
    // Another file may be mapped in that place by now.
    if let Ok(file) = open_if(link.as_ref(), |_| Some(Identity::Certain))
        && is_named_as(&file.file, mapping)
    {
        return Ok(file);
    }
    let by_path = rooted_file::find(pid, path).map_err(Refusal::from);
    let by_path = by_path.and_then(|found| open_found(&found, |file| identity(file, mapping)));
    by_path.or_else(|refusal| {
        let executable = format!("/proc/{pid}/exe");
        open_if(executable.as_ref(), |file| identity(file, mapping))
            .map_err(|_| refusal.about(path))
    })
}

/// Whether the kernel calls `file` as it does what `mapping` maps: `/proc/self/fd` and `/proc/PID/maps` show names in the
/// same way, those of other mount namespaces too. The directories can have been renamed since.
fn is_named_as(file: &File, mapping: &Mapping) -> bool {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let last = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        name.strip_suffix(b" (deleted)").unwrap_or(name).to_vec()
    };
    match (std::fs::read_link(link), mapping.name.as_deref()) {
        (Ok(found), Some(name)) => last(&found) == last(name),
        // What cannot be asked is as it was said.
        _ => true,
    }
}

/// Opens `path` for reading if it is a regular file.
///
/// # Errors
/// What the kernel said; [`io::ErrorKind::InvalidInput`] for a device, a pipe or the like, which is not opened.
pub fn open_regular(path: &Path) -> io::Result<File> {
    regular(open_if(path, |_| Some(Identity::Certain)))
}

/// Opens the file at `path`, absolute in the mount namespace of process `pid`, for reading if it is a regular one. No
/// link leads out of the process's root.
///
/// # Errors
/// As for [`open_regular`].
pub fn open_regular_of(pid: Pid, path: &Path) -> io::Result<File> {
    let found = rooted_file::find(pid, path)?;
    regular(open_found(&found, |_| Some(Identity::Certain)))
}

fn regular(opened: Result<TargetFile, Refusal>) -> io::Result<File> {
    match opened {
        Ok(opened) => Ok(opened.file),
        Err(Refusal::Failed(error)) => Err(error),
        Err(Refusal::NotRegular | Refusal::Replaced) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

enum Refusal {
    Replaced,
    NotRegular,
    Failed(io::Error),
}

impl Refusal {
    fn about(self, path: &Path) -> TargetFileError {
        let path = path.to_owned();
        match self {
            Self::Replaced => TargetFileError::Replaced { path },
            Self::NotRegular => TargetFileError::NotRegular { path },
            Self::Failed(source) => match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH) => {
                    TargetFileError::NotFound { path }
                }
                _ => TargetFileError::Failed { path, source },
            },
        }
    }
}

/// Opens `path` for reading if it is a regular file that `identify` recognizes.
fn open_if(
    path: &Path,
    identify: impl FnOnce(&Metadata) -> Option<Identity>,
) -> Result<TargetFile, Refusal> {
    // O_PATH looks without opening: no device driver hears of it.
    let found = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    open_found(&found, identify)
}

/// Opens what was found, if it is a regular file that `identify` recognizes.
fn open_found(
    found: &File,
    identify: impl FnOnce(&Metadata) -> Option<Identity>,
) -> Result<TargetFile, Refusal> {
    let metadata = found.metadata()?;
    if !metadata.is_file() {
        return Err(Refusal::NotRegular);
    }
    let identity = identify(&metadata).ok_or(Refusal::Replaced)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    Ok(TargetFile { file, identity })
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

fn identity(file: &Metadata, mapping: &Mapping) -> Option<Identity> {
    let device = libc::makedev(mapping.device.major, mapping.device.minor);
    if file.ino() != mapping.inode || file.len() == 0 {
        None
    } else if file.dev() == device {
        Some(Identity::Certain)
    } else {
        Some(Identity::InodeOnly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::proc::maps::{self, Device};
    use crate::linux::testing::own_pid;
    use std::fs;
    use std::os::unix::fs::FileExt;

    fn mapping_of(path: &Path) -> Mapping {
        maps::read(own_pid())
            .unwrap()
            .into_iter()
            .find(|mapping| mapping.path() == Some(path))
            .unwrap()
    }

    /// A range that no process has mapped, so that `map_files` cannot help.
    fn without_link(mapping: Mapping) -> Mapping {
        Mapping {
            range: sampler_unwind::Avma(0x1000)..sampler_unwind::Avma(0x2000),
            ..mapping
        }
    }

    #[test]
    fn our_own_program_is_found_by_link_and_by_path() {
        let path = std::env::current_exe().unwrap();
        let mapping = mapping_of(&path);
        for mapping in [mapping.clone(), without_link(mapping)] {
            let found = open(own_pid(), &mapping).unwrap();
            let mut magic = [0; 4];
            found.file.read_exact_at(&mut magic, 0).unwrap();
            assert_eq!(&magic, b"\x7fELF");
        }
    }

    #[test]
    fn what_lies_there_now_is_not_taken_for_what_did() {
        let path = std::env::current_exe().unwrap();
        let library = maps::read(own_pid()).unwrap().into_iter().find(|mapping| {
            let name = mapping.path().and_then(Path::file_name);
            name.is_some_and(|name| name.as_bytes().starts_with(b"libc.so"))
        });
        let library = library.unwrap();
        assert!(open(own_pid(), &library).is_ok());
        // The kernel's link leads to the library; the path, and our program, to what has not that number.
        let another = Mapping {
            name: Some(path),
            ..library
        };
        assert!(open(own_pid(), &another).is_err());
    }

    #[test]
    fn our_own_program_is_found_without_its_name() {
        let mapping = without_link(mapping_of(&std::env::current_exe().unwrap()));
        let renamed = Mapping {
            name: Some("/no/such/file".into()),
            ..mapping
        };
        assert!(open(own_pid(), &renamed).is_ok());
    }

    #[test]
    fn another_file_of_the_same_name_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("libx.so");
        fs::write(&path, "old").unwrap();
        let file = fs::metadata(&path).unwrap();
        let mapping = Mapping {
            name: Some(path.clone()),
            inode: file.ino(),
            device: Device {
                major: libc::major(file.dev()),
                minor: libc::minor(file.dev()),
            },
            ..without_link(mapping_of(&std::env::current_exe().unwrap()))
        };
        let found = open(own_pid(), &mapping).unwrap();
        assert_eq!(found.identity, Identity::Certain);
        let elsewhere = Mapping {
            device: Device {
                major: 0,
                minor: 12345,
            },
            ..mapping.clone()
        };
        let found = open(own_pid(), &elsewhere).unwrap();
        assert_eq!(found.identity, Identity::InodeOnly);
        fs::write(directory.path().join("new"), "new").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert!(matches!(
            open(own_pid(), &mapping),
            Err(TargetFileError::Replaced { .. })
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            open(own_pid(), &mapping),
            Err(TargetFileError::NotFound { .. })
        ));
    }

    #[test]
    fn a_fifo_or_device_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mapping = without_link(mapping_of(&std::env::current_exe().unwrap()));
        for path in [path, "/dev/null".into(), directory.path().into()] {
            let mapping = Mapping {
                name: Some(path),
                inode: 1,
                ..mapping.clone()
            };
            assert!(matches!(
                open(own_pid(), &mapping),
                Err(TargetFileError::NotRegular { .. })
            ));
        }
    }

    #[test]
    fn memory_without_a_file_has_none() {
        let heap = Mapping {
            name: Some("[heap]".into()),
            inode: 0,
            ..mapping_of(&std::env::current_exe().unwrap())
        };
        assert!(matches!(
            open(own_pid(), &heap),
            Err(TargetFileError::NoFile)
        ));
    }
}
