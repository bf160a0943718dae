//! /proc/PID/fd: what a descriptor of a process is.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{decimal, names, of_process};
use crate::Pid;

/// What an open descriptor refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Descriptor {
    /// A file, directory or device, by its path in the process's mount namespace.
    File {
        /// Without the kernel's ` (deleted)`.
        path: PathBuf,
        /// Whether no directory holds it under this name any more.
        deleted: bool,
    },
    /// A socket; /proc/PID/net has more under this number.
    Socket {
        /// Its inode.
        inode: u64,
    },
    /// A pipe; both ends have the same number.
    Pipe {
        /// Its inode.
        inode: u64,
    },
    /// eventfd(2).
    EventFd,
    /// epoll_create(2).
    Epoll,
    /// timerfd_create(2).
    TimerFd,
    /// signalfd(2).
    SignalFd,
    /// inotify_init(2).
    Inotify,
    /// io_uring_setup(2).
    IoUring,
    /// pidfd_open(2).
    PidFd,
    /// Another object without a file, by the kernel's name for it.
    Anonymous(String),
    /// What the kernel calls something that is none of the above.
    Other(OsString),
}

/// What descriptor `fd` of process `pid` is. Needs the right to trace the process.
///
/// # Errors
/// What the kernel answers; `ENOENT` when there is no such descriptor.
pub fn describe(pid: Pid, fd: i32) -> io::Result<Descriptor> {
    let target = fs::read_link(format!("{}/{fd}", of_process(pid, "fd")))?;
    Ok(parse(target.as_os_str()))
}

/// The descriptors of process `pid`: their numbers, at most `count_max` of them.
///
/// # Errors
/// What the kernel answers.
pub fn list(pid: Pid, count_max: usize) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(of_process(pid, "fd"))?.take(count_max);
    let numbers = entries.filter_map(|entry| decimal(entry.ok()?.file_name().as_bytes()));
    Ok(numbers.collect())
}

/// Whether descriptor `fd` of process `pid` was opened for reading, and for writing: the permissions of its link say
/// so (proc_pid_fd(5)).
///
/// # Errors
/// What the kernel answers; `ENOENT` when there is no such descriptor.
pub fn access(pid: Pid, fd: i32) -> io::Result<(bool, bool)> {
    let mode = fs::symlink_metadata(format!("{}/{fd}", of_process(pid, "fd")))?.mode();
    Ok((mode & 0o400 != 0, mode & 0o200 != 0))
}

/// What names the network namespace that process `pid` is in.
///
/// # Errors
/// What the kernel answers.
pub fn network_namespace(pid: Pid) -> io::Result<OsString> {
    Ok(fs::read_link(of_process(pid, "ns/net"))?.into_os_string())
}

/// What the target of a link in /proc/PID/fd says (proc_pid_fd(5)).
pub fn parse(target: &OsStr) -> Descriptor {
    let bytes = target.as_bytes();
    if bytes.starts_with(b"/") {
        let (path, deleted) = names::split_deleted(target);
        return Descriptor::File {
            path: PathBuf::from(path),
            deleted,
        };
    }
    if let Some(inode) = inode(bytes, b"socket:[") {
        return Descriptor::Socket { inode };
    }
    if let Some(inode) = inode(bytes, b"pipe:[") {
        return Descriptor::Pipe { inode };
    }
    if inode(bytes, b"pidfd:[").is_some() {
        // On a file system of its own since Linux 6.9.
        return Descriptor::PidFd;
    }
    match bytes.strip_prefix(b"anon_inode:") {
        Some(name) => anonymous(name),
        None => Descriptor::Other(target.to_owned()),
    }
}

fn inode(target: &[u8], prefix: &[u8]) -> Option<u64> {
    decimal(target.strip_prefix(prefix)?.strip_suffix(b"]")?)
}

/// Most names stand in brackets; `inotify` does not.
fn anonymous(name: &[u8]) -> Descriptor {
    let name = name.strip_prefix(b"[").unwrap_or(name);
    match name.strip_suffix(b"]").unwrap_or(name) {
        b"eventfd" => Descriptor::EventFd,
        b"eventpoll" => Descriptor::Epoll,
        b"timerfd" => Descriptor::TimerFd,
        b"signalfd" => Descriptor::SignalFd,
        b"inotify" => Descriptor::Inotify,
        b"io_uring" => Descriptor::IoUring,
        b"pidfd" => Descriptor::PidFd,
        other => Descriptor::Anonymous(String::from_utf8_lossy(other).into_owned()),
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                deleted: false,
            } => path.display().fmt(f),
            Self::File {
                path,
                deleted: true,
            } => write!(f, "{} (deleted)", path.display()),
            Self::Socket { inode } => write!(f, "socket {inode}"),
            Self::Pipe { inode } => write!(f, "pipe {inode}"),
            Self::EventFd => f.write_str("eventfd"),
            Self::Epoll => f.write_str("epoll"),
            Self::TimerFd => f.write_str("timerfd"),
            Self::SignalFd => f.write_str("signalfd"),
            Self::Inotify => f.write_str("inotify"),
            Self::IoUring => f.write_str("io_uring"),
            Self::PidFd => f.write_str("pidfd"),
            Self::Anonymous(name) => f.write_str(name),
            Self::Other(target) => Path::new(target).display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::own_pid;
    use proptest::prelude::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn our_own_descriptors_are_recognized() {
        let ours = |fd: &dyn AsRawFd| describe(own_pid(), fd.as_raw_fd()).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        assert!(matches!(ours(&reader), Descriptor::Pipe { .. }));
        assert_eq!(ours(&reader), ours(&writer));
        let access = |end: &dyn AsRawFd| access(own_pid(), end.as_raw_fd()).unwrap();
        assert_eq!(
            (access(&reader), access(&writer)),
            ((true, false), (false, true))
        );
        assert!(list(own_pid(), 4096).unwrap().contains(&reader.as_raw_fd()));
        assert_eq!(list(own_pid(), 1).unwrap().len(), 1);
        let (socket, _peer) = UnixStream::pair().unwrap();
        assert!(matches!(ours(&socket), Descriptor::Socket { .. }));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a file");
        let file = fs::File::create(&path).unwrap();
        let described = |deleted| Descriptor::File {
            path: path.clone(),
            deleted,
        };
        assert_eq!(ours(&file), described(false));
        fs::remove_file(&path).unwrap();
        assert_eq!(ours(&file), described(true));
        assert_eq!(
            describe(own_pid(), -1).map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
    }

    #[test]
    fn anonymous_objects_have_names() {
        let shown = |target: &str| parse(OsStr::new(target)).to_string();
        assert_eq!(shown("anon_inode:[eventpoll]"), "epoll");
        assert_eq!(shown("anon_inode:inotify"), "inotify");
        assert_eq!(shown("anon_inode:bpf-map"), "bpf-map");
        assert_eq!(shown("pidfd:[7]"), "pidfd");
        assert_eq!(shown("net:[4026531840]"), "net:[4026531840]");
    }

    proptest! {
        #[test]
        fn any_target_is_described(bytes: Vec<u8>) {
            let target = OsString::from_vec(bytes);
            let _ = parse(&target).to_string();
        }
    }
}
