//! Rights: those that are not needed are put down, and files belong to who asked for them.
//!
//! Capabilities are a thread's (capabilities(7)); threads that are started later have those of the thread that starts
//! them. They are put down before there are others, and after a command of the user's was started, which keeps all.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};

use nix::errno::Errno;
use nix::unistd::geteuid;

/// Bits of capabilities (linux/capability.h).
const CAP_CHOWN: u64 = 1 << 0;
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_FOWNER: u64 = 1 << 3;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;

/// What looking at a process takes: tracing it and reading its memory; reading files that are not ours, those that it
/// has mapped; and following the kernel's own links to those (`/proc/PID/map_files`, Linux 5.9).
const NEEDED: u64 = CAP_SYS_PTRACE | CAP_DAC_READ_SEARCH | CAP_CHECKPOINT_RESTORE;

/// What writing files takes in folders of others: kept in reserve, in force only inside [`with_rights_to_write`].
const FOR_WRITING: u64 = CAP_CHOWN | CAP_DAC_OVERRIDE | CAP_FOWNER;

/// Three sets of capabilities of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capabilities {
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

/// `struct __user_cap_header_struct` and two `struct __user_cap_data_struct` (linux/capability.h).
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits.
const VERSION: u32 = 0x2008_0522;

impl Capabilities {
    fn of_this_thread() -> Result<Self, Errno> {
        let mut header = Header {
            version: VERSION,
            pid: 0,
        };
        let mut halves = [Half::default(); 2];
        // SAFETY: for version 3 the kernel writes two halves, which are there, and nothing else. See capget(2).
        let answer =
            unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
        Errno::result(answer)?;
        let [low, high] = halves;
        let whole = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        Ok(Self {
            effective: whole(low.effective, high.effective),
            permitted: whole(low.permitted, high.permitted),
            inheritable: whole(low.inheritable, high.inheritable),
        })
    }

    fn put_in_force(self) -> Result<(), Errno> {
        let mut header = Header {
            version: VERSION,
            pid: 0,
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of a number"
        )]
        let half = |shift: u32| Half {
            effective: (self.effective >> shift) as u32,
            permitted: (self.permitted >> shift) as u32,
            inheritable: (self.inheritable >> shift) as u32,
        };
        let halves = [half(0), half(32)];
        // SAFETY: for version 3 the kernel reads two halves, which are there. See capset(2).
        let answer = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
        Errno::result(answer).map(drop)
    }
}

/// Puts down all capabilities of the calling thread but those that looking at processes takes; those for writing output
/// files stay in reserve. To be called while there are no other threads.
///
/// Says which are in force now, by their bits.
///
/// # Errors
/// What capget(2) or capset(2) answers.
pub fn put_down_what_is_not_needed() -> io::Result<u64> {
    let now = Capabilities::of_this_thread()?;
    let less = Capabilities {
        effective: now.effective & NEEDED,
        permitted: now.permitted & (NEEDED | FOR_WRITING),
        inheritable: 0,
    };
    if less != now {
        less.put_in_force()?;
    }
    Ok(less.effective)
}

/// Runs `write` with the capabilities that writing files in folders of others takes, as far as the calling thread has
/// them in reserve.
pub fn with_rights_to_write<T>(write: impl FnOnce() -> T) -> T {
    let raised = Capabilities::of_this_thread().ok().and_then(|before| {
        let more = Capabilities {
            effective: before.effective | before.permitted & FOR_WRITING,
            ..before
        };
        // Without them some files cannot be written, which is told then.
        (more != before && more.put_in_force().is_ok()).then(|| Reserve(before))
    });
    let written = write();
    drop(raised);
    written
}

/// Puts capabilities back into reserve.
struct Reserve(Capabilities);

impl Drop for Reserve {
    fn drop(&mut self) {
        // Taking less is never refused.
        let _taken = self.0.put_in_force();
    }
}

/// Flags of open(2) for a file of ours that anybody could have put something in the place of: a link is not followed,
/// a FIFO not waited for.
pub const NO_LINK_NOR_WAITING: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Owner {
    /// Who asked by sudo(8), if we run as root for somebody else: `SUDO_UID` and `SUDO_GID`.
    pub fn behind_sudo(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let number = |name: &str| variable(name)?.to_str()?.parse().ok();
        let owner = Self {
            uid: number("SUDO_UID")?,
            gid: number("SUDO_GID")?,
        };
        (owner.uid != 0).then_some(owner)
    }

    /// Gives `file` to this owner, if it is a regular file that has one name only and is ours: another could be a link
    /// that somebody has laid to a file of root's.
    ///
    /// # Errors
    /// What fchown(2) answers.
    pub fn take(self, file: &File) -> io::Result<()> {
        let found = file.metadata()?;
        let is_new = found.is_file() && found.nlink() == 1 && found.uid() == geteuid().as_raw();
        match is_new {
            true => fchown(file, Some(self.uid), Some(self.gid)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Capabilities are a thread's, so that a thread can try.
    fn in_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    #[test]
    fn what_is_not_needed_is_put_down_and_what_is_for_writing_comes_back() {
        in_a_thread(|| {
            let before = Capabilities::of_this_thread().unwrap();
            let left = put_down_what_is_not_needed().unwrap();
            assert_eq!(left, before.effective & NEEDED);
            let now = Capabilities::of_this_thread().unwrap();
            assert_eq!(now.effective, left);
            assert_eq!(now.permitted, before.permitted & (NEEDED | FOR_WRITING));
            let inside = with_rights_to_write(|| Capabilities::of_this_thread().unwrap());
            assert_eq!(inside.effective, left | before.permitted & FOR_WRITING);
            assert_eq!(Capabilities::of_this_thread().unwrap(), now);
        });
    }

    #[test]
    fn who_is_behind_sudo_is_known_to_root_alone() {
        let behind = |set: &[(&str, &str)]| {
            Owner::behind_sudo(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            })
        };
        let owner = Owner {
            uid: 1000,
            gid: 100,
        };
        let expected = geteuid().is_root().then_some(owner);
        assert_eq!(
            behind(&[("SUDO_UID", "1000"), ("SUDO_GID", "100")]),
            expected
        );
        for set in [
            &[("SUDO_UID", "0"), ("SUDO_GID", "0")][..],
            &[("SUDO_UID", "1000")],
            &[("SUDO_UID", "-1"), ("SUDO_GID", "1")],
            &[],
        ] {
            assert_eq!(behind(set), None, "{set:?}");
        }
    }

    #[test]
    fn a_file_with_another_name_is_not_given_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        let before = file.metadata().unwrap().uid();
        let somebody = Owner {
            uid: 1000,
            gid: 1000,
        };
        fs::hard_link(&path, folder.path().join("other")).unwrap();
        somebody.take(&file).unwrap();
        assert_eq!(file.metadata().unwrap().uid(), before);
        fs::remove_file(folder.path().join("other")).unwrap();
        if geteuid().is_root() {
            somebody.take(&file).unwrap();
            assert_eq!(file.metadata().unwrap().uid(), 1000);
        }
    }
}
