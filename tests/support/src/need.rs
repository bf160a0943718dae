//! What must be on the machine. A test that cannot run fails, and says what to install.

use std::path::PathBuf;

/// The programs the tests use and the Debian package that brings each. `tests/run` installs the same ones
/// (`tests/tidy.rs` checks that).
pub const PACKAGES: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("callgrind_annotate", "valgrind"),
    ("chromium", "chromium"),
    ("dwp", "binutils"),
    ("dwz", "dwz"),
    ("g++", "g++"),
    ("gcc", "gcc"),
    ("gdb", "gdb"),
    ("git", "git"),
    ("go", "golang-go"),
    ("jsonschema", "python3-jsonschema"),
    ("lua5.1", "lua5.1"),
    ("lua5.2", "lua5.2"),
    ("lua5.3", "lua5.3"),
    ("lua5.4", "lua5.4"),
    ("luajit", "luajit2"),
    ("make", "make"),
    ("musl-gcc", "musl-tools"),
    ("nginx", "nginx-light"),
    ("node", "nodejs"),
    ("objcopy", "binutils"),
    ("openssl", "openssl"),
    ("perl", "perl"),
    ("python3", "python3"),
    ("redis-benchmark", "redis-tools"),
    ("redis-server", "redis-server"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("sqlite3", "sqlite3"),
    ("strace", "strace"),
    ("unshare", "util-linux"),
    ("wrk", "wrk"),
    ("xz", "xz-utils"),
];

/// The folders of the distribution's programs; a version manager's shims in `PATH` are other programs.
const FOLDERS: &[&str] = &["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// The path of a program of the distribution.
///
/// # Panics
/// When it is not there, with the line that installs it.
#[track_caller]
pub fn need(program: &str) -> PathBuf {
    if let Some(path) = in_folders(program) {
        return path;
    }
    let package = PACKAGES
        .iter()
        .find(|(name, _)| *name == program)
        .map_or(program, |(_, package)| package);
    panic!(
        "this test needs `{program}`: apt-get install -y --no-install-recommends {package} (or run tests/run as root)"
    );
}

/// The path of a program of the distribution, or else of one that is found in `PATH`; `None` if there is none. For what
/// a bench compares with, and does without.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    in_folders(program).or_else(|| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|path| path.is_file())
    })
}

fn in_folders(program: &str) -> Option<PathBuf> {
    FOLDERS
        .iter()
        .map(|folder| PathBuf::from(folder).join(program))
        .find(|path| path.exists())
}

/// For a test that must become another user.
///
/// # Panics
/// When we are not root.
#[track_caller]
pub fn need_root() {
    assert!(
        nix::unistd::Uid::effective().is_root(),
        "this test starts a program as another user, so it must run as root"
    );
}
