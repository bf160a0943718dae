//! Control groups: who is in one. See [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Malformed, decimal, fields, of_process, processes, read_all};
use crate::Pid;

/// Folders that are looked into for one control group and those below it, at most.
const FOLDERS_MAX: usize = 1 << 16;

/// A control group with all those below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// Its folder; several where hierarchies of version 1 have one of the same name each.
    Folders(Vec<PathBuf>),
    /// Its path as it stands in /proc/PID/cgroup: no hierarchy is mounted where we could look.
    Path(PathBuf),
}

/// Who is in a control group now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The processes, in no particular order.
    pub pids: Vec<Pid>,
    /// How many folders that took to find out: some ten microseconds each.
    pub folders: usize,
}

impl Cgroup {
    /// The control group at `path`: a folder below a mounted hierarchy (`/sys/fs/cgroup/...`), or a path as it stands
    /// in /proc/PID/cgroup, with or without its first slash. `None` when there is none.
    pub fn find(path: &Path) -> Option<Self> {
        if is_cgroup(path) && path.is_absolute() {
            return Some(Self::Folders(vec![path.to_owned()]));
        }
        let below_root = path.strip_prefix("/").unwrap_or(path);
        let mounts = read_all("/proc/self/mounts").unwrap_or_default();
        let of_version = |version: &[u8]| -> Vec<PathBuf> {
            mount_points(&mounts, version)
                .map(|mount| mount.join(below_root))
                .filter(|folder| is_cgroup(folder))
                .collect()
        };
        for version in [&b"cgroup2"[..], b"cgroup"] {
            let folders = of_version(version);
            if !folders.is_empty() {
                return Some(Self::Folders(folders));
            }
        }
        let path = Path::new("/").join(below_root);
        let has_members = processes::list()
            .unwrap_or_default()
            .into_iter()
            .any(|pid| is_in(pid, &path));
        has_members.then_some(Self::Path(path))
    }

    /// Who is in it, read from its folders; `None` where it has none and [`is_in`] must be asked for every process.
    pub fn members(&self) -> Option<Members> {
        let Self::Folders(folders) = self else {
            return None;
        };
        let mut members = Members::default();
        let mut due = folders.clone();
        while let Some(folder) = due.pop().filter(|_| members.folders < FOLDERS_MAX) {
            members.folders += 1;
            // A group that has gone has no members; nor has one of threads alone (EOPNOTSUPP): its processes are listed
            // further up.
            let procs = fs::read(folder.join(PROCS)).unwrap_or_default();
            members.pids.extend(parse_procs(&procs));
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            due.extend(below.map(|entry| entry.path()));
        }
        members.pids.sort_unstable_by_key(|pid| pid.0);
        members.pids.dedup();
        Some(members)
    }
}

/// Whether process `pid` is, in any hierarchy, in the control group at `path` or below it. Not when it has ended.
pub fn is_in(pid: Pid, path: &Path) -> bool {
    read(pid).is_ok_and(|paths| paths.iter().any(|own| own.starts_with(path)))
}

/// The control groups that process `pid` is in: its path in each hierarchy, as seen from our own cgroup namespace.
///
/// # Errors
/// What the kernel answers, or [`Malformed`].
pub fn read(pid: Pid) -> io::Result<Vec<PathBuf>> {
    Ok(parse(&read_all(&of_process(pid, "cgroup"))?)?)
}

/// `HIERARCHY:CONTROLLERS:PATH`, a line each; names of controllers have no colon, paths may.
///
/// # Errors
/// When a line does not have that form.
pub fn parse(text: &[u8]) -> Result<Vec<PathBuf>, Malformed> {
    let lines = text.split(|&byte| byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut parts = line.splitn(3, |&byte| byte == b':');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(number), Some(_), Some(path)) if decimal::<u32>(number).is_some() => {
                    Ok(PathBuf::from(OsStr::from_bytes(path)))
                }
                _ => Err(Malformed {
                    file: "cgroup",
                    field: "line of a hierarchy",
                }),
            }
        })
        .collect()
}

/// The file of a control group that lists its processes.
const PROCS: &str = "cgroup.procs";

fn is_cgroup(folder: &Path) -> bool {
    folder.join(PROCS).is_file()
}

/// A number a line; 0 for a process that our pid namespace does not show.
fn parse_procs(text: &[u8]) -> impl Iterator<Item = Pid> {
    let lines = text.split(|&byte| byte == b'\n');
    lines
        .filter_map(decimal)
        .filter(|&number: &i32| number > 0)
        .map(Pid)
}

/// Where file systems of this kind are mounted. A mount point with a blank in its name is not understood.
fn mount_points(mounts: &[u8], kind: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = mounts.split(|&byte| byte == b'\n');
    lines.filter_map(move |line| {
        let mut fields = fields(line);
        let (_device, point, own_kind) = (fields.next()?, fields.next()?, fields.next()?);
        (own_kind == kind).then(|| PathBuf::from(OsStr::from_bytes(point)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::own_pid;
    use proptest::prelude::*;

    #[test]
    fn both_versions_are_understood() {
        let text = b"12:cpu,cpuacct:/a\n1:name=systemd:/user.slice/x:y\n0::/\n";
        let paths = ["/a", "/user.slice/x:y", "/"].map(PathBuf::from);
        assert_eq!(parse(text).unwrap(), paths);
        assert_eq!(parse(b"").unwrap(), Vec::<PathBuf>::new());
        for wrong in [&b"x::/"[..], b"0:/", b"0", b":"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn we_are_in_our_own_and_in_no_other() {
        let own = read(own_pid()).unwrap();
        assert!(!own.is_empty());
        for path in own {
            assert!(is_in(own_pid(), &path), "{}", path.display());
            assert!(!is_in(own_pid(), &path.join("no-such-group")));
        }
        assert_eq!(Cgroup::find(Path::new("/no-such-group")), None);
        assert_eq!(
            Cgroup::find(Path::new("/sys/fs/cgroup/no-such-group")),
            None
        );
    }

    #[test]
    fn a_path_ends_where_a_name_ends() {
        let own = Path::new("/a/bc");
        assert!(own.starts_with("/a") && own.starts_with("/a/bc") && own.starts_with("/"));
        assert!(!own.starts_with("/a/b"));
    }

    #[test]
    fn who_is_in_a_group_is_in_those_above_it() {
        let folder = std::env::temp_dir().join(format!("sampler-cgroup-{}", own_pid()));
        let below = folder.join("one/two");
        fs::create_dir_all(&below).unwrap();
        fs::write(folder.join(PROCS), "7\n0\n").unwrap();
        fs::write(folder.join("one").join(PROCS), "").unwrap();
        fs::write(below.join(PROCS), "9\n8\n7\n").unwrap();
        let found = Cgroup::find(&folder);
        let members = found.as_ref().and_then(Cgroup::members);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, Some(Cgroup::Folders(vec![folder])));
        let expected = Members {
            pids: [7, 8, 9].map(Pid).to_vec(),
            folders: 3,
        };
        assert_eq!(members, Some(expected));
    }

    #[test]
    fn mounts_are_told_apart_by_version() {
        let mounts = b"cgroup /sys/fs/cgroup/pids cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nx\n";
        let points = |kind| mount_points(mounts, kind).collect::<Vec<_>>();
        assert_eq!(points(b"cgroup"), [Path::new("/sys/fs/cgroup/pids")]);
        assert_eq!(points(b"cgroup2"), [Path::new("/sys/fs/cgroup/unified")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = (parse(&bytes), parse_procs(&bytes).count(), mount_points(&bytes, b"cgroup").count());
        }

        #[test]
        fn paths_come_back_as_the_kernel_wrote_them(paths in prop::collection::vec("/[a-z:. @-]{0,12}", 0..5)) {
            let text: String = paths.iter().map(|path| format!("3:cpu:{path}\n")).collect();
            let expected: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            prop_assert_eq!(parse(text.as_bytes()), Ok(expected));
        }
    }
}
