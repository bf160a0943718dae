//! Files that a process names by convention rather than by mapping them, such as `/tmp/perf-PID.map`.
//!
//! Whoever may write to the folder decides what is there: nothing but a regular file of the process's own user, or of
//! root, is opened, and no symbolic link is followed, which might lead out of the process's root.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
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

/// How many symbolic links lead to a file at most, as for the kernel (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// How deep a file lies at most.
const FOLDERS_MAX: usize = 256;

/// Finds the file at `path` as process `pid` sees it, without opening it: by a descriptor with O_PATH. Symbolic links
/// lead where they lead for the process, so that none leads out of its root: through /proc/PID/root alone the kernel
/// follows an absolute one from *our* root.
///
/// # Errors
/// What the kernel answers; `EISDIR` for a folder, `ELOOP` for too many links.
pub(super) fn find(pid: Pid, path: &Path) -> io::Result<File> {
    let mut folders = vec![File::from(open_root(pid)?)];
    let mut parts = parts_of(path.as_os_str());
    let mut links = 0;
    while let Some(part) = parts.pop() {
        if part == ".." {
            // The root is its own parent.
            folders.truncate((folders.len() - 1).max(1));
            continue;
        }
        let Some(folder) = folders.last() else { break };
        let found = File::from(open_below(folder, &part)?);
        if found.metadata()?.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::ELOOP.into());
            }
            let target = readlinkat(&found, "")?;
            if Path::new(&target).is_absolute() {
                folders.truncate(1);
            }
            parts.extend(parts_of(&target));
        } else if parts.is_empty() {
            return Ok(found);
        } else if folders.len() < FOLDERS_MAX {
            folders.push(found);
        } else {
            return Err(Errno::ENAMETOOLONG.into());
        }
    }
    Err(Errno::EISDIR.into())
}

/// The parts of a path, the last first.
fn parts_of(path: &OsStr) -> Vec<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    Path::new(path)
        .components()
        .rev()
        .filter_map(part)
        .collect()
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
    use crate::linux::testing::{Target, own_pid, wait_until};
    use std::ffi::CString;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::ffi::OsStrExt as _;

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

    /// What is found at `path` below `folder`.
    fn text_at(folder: &Path, path: &str) -> io::Result<String> {
        let found = find(own_pid(), &folder.join(path))?;
        fs::read_to_string(format!("/proc/self/fd/{}", found.as_raw_fd()))
    }

    #[test]
    fn links_lead_where_they_lead_for_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let link = |target: &Path, name: &str| {
            std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
        };
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/file"), "text").unwrap();
        link(Path::new("a"), "relative");
        link(&folder.path().join("a"), "absolute");
        link(Path::new("../file"), "a/b/up");
        link(Path::new("loop"), "loop");
        for path in [
            "a/file",
            "relative/file",
            "absolute/file",
            "relative/b/up",
            "a/b/../file",
        ] {
            assert_eq!(text_at(folder.path(), path).unwrap(), "text", "{path}");
        }
        let errno = |path: &str| text_at(folder.path(), path).unwrap_err().raw_os_error();
        assert_eq!(errno("loop"), Some(libc::ELOOP));
        assert_eq!(errno("absent"), Some(libc::ENOENT));
        assert_eq!(errno("a/file/x"), Some(libc::ENOTDIR));
        assert_eq!(errno("a/.."), Some(libc::EISDIR));
        let deep = "x/".repeat(FOLDERS_MAX + 9);
        assert_eq!(errno(&deep), Some(libc::ENOENT));
    }

    #[test]
    fn no_link_leads_out_of_the_root_of_the_process() {
        let is_root = nix::unistd::geteuid().is_root();
        assert!(
            is_root,
            "this test changes the root of a process, so it must run as root"
        );
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = outside.path().join("secret");
        fs::write(&secret, "outside").unwrap();
        std::os::unix::fs::symlink(&secret, root.path().join("absolute")).unwrap();
        let up = Path::new("../../../../../../../..").join(secret.strip_prefix("/").unwrap());
        std::os::unix::fs::symlink(&up, root.path().join("upwards")).unwrap();
        let path = CString::new(root.path().as_os_str().as_bytes()).unwrap();
        let target = Target::run(move |shared| {
            // SAFETY: the path is a string of C that lives for as long as the call.
            let changed = unsafe { libc::chroot(path.as_ptr()) };
            shared.set(0, 1 + u64::from(changed != 0));
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        });
        wait_until(|| target.shared().get(0) != 0);
        assert_eq!(target.shared().get(0), 1, "chroot failed");
        let text = |link: &str| -> io::Result<String> {
            let found = find(target.pid(), Path::new(link))?;
            fs::read_to_string(format!("/proc/self/fd/{}", found.as_raw_fd()))
        };
        for link in ["/absolute", "/upwards"] {
            let errno = text(link).unwrap_err().raw_os_error();
            assert_eq!(errno, Some(libc::ENOENT), "{link}");
        }
        // What they lead to inside is found.
        let inside = root.path().join(secret.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::write(&inside, "inside").unwrap();
        for link in ["/absolute", "/upwards"] {
            assert_eq!(text(link).unwrap(), "inside", "{link}");
        }
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
