//! Files that a process names by convention rather than by mapping them, such as `/tmp/perf-PID.map`.
//!
//! Whoever may write to the folder decides what is there: nothing but a regular file of the process's own user, or of
//! root, is opened, and no symbolic link is followed, which might lead out of the process's root.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::proc::status;
use crate::Pid;

/// Why a file in a process's root was not opened.
#[derive(Debug, thiserror::Error)]
pub enum RootedFileError {
    /// Or it cannot be reached, or is named by a symbolic link.
    #[error("cannot open it")]
    Failed(#[from] io::Error),
    /// A FIFO, a device, a folder; it was not opened.
    #[error("it is not a regular file")]
    NotRegular,
    /// Its owner is neither the process's user nor root.
    #[error("it belongs to user {0}, and not to the process's")]
    NotItsOwn(u32),
}

/// Opens the regular file at `path` as process `pid` sees it, if it belongs to its user or to root.
///
/// It cannot block on a FIFO and makes no device do something.
///
/// # Errors
/// See [`RootedFileError`].
pub fn open(pid: Pid, path: &Path) -> Result<File, RootedFileError> {
    let mut found = File::from(open_root(pid)?);
    for part in path.components() {
        if let Component::Normal(name) = part {
            found = File::from(open_below(&found, name)?);
        }
    }
    check_owner(pid, &found)?;
    // O_PATH looks without opening: only now it is opened, and still the same.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    Ok(file)
}

/// Whether `file` is a regular one that belongs to the user of process `pid`, or to root.
///
/// # Errors
/// When it is not, or that cannot be told.
pub fn check_owner(pid: Pid, file: &File) -> Result<(), RootedFileError> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(RootedFileError::NotRegular);
    }
    let uids = status::read(pid)?.uids;
    let owner = metadata.uid();
    match [uids.real, uids.effective, uids.filesystem, 0].contains(&owner) {
        true => Ok(()),
        false => Err(RootedFileError::NotItsOwn(owner)),
    }
}

fn open_root(pid: Pid) -> io::Result<OwnedFd> {
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(format!("/proc/{pid}/root"))?;
    Ok(root.into())
}

fn open_below(folder: &File, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(folder, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::own_pid;
    use std::fs;
    use std::io::Read as _;

    #[test]
    fn a_file_of_our_own_is_opened_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("perf-1.map");
        fs::write(&path, "1000 10 f\n").unwrap();
        let mut text = String::new();
        open(own_pid(), &path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "1000 10 f\n");

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for other in [link.as_path(), &fifo, folder.path(), Path::new("/dev/null")] {
            assert!(
                matches!(open(own_pid(), other), Err(RootedFileError::NotRegular)),
                "{}",
                other.display()
            );
        }
        let absent = open(own_pid(), &folder.path().join("absent"));
        assert!(matches!(absent, Err(RootedFileError::Failed(_))));
    }

    #[test]
    fn a_folder_that_is_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("real")).unwrap();
        fs::write(folder.path().join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("tmp")).unwrap();
        assert!(open(own_pid(), &folder.path().join("real/file")).is_ok());
        assert!(open(own_pid(), &folder.path().join("tmp/file")).is_err());
    }
}
