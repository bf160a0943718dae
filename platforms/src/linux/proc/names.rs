//! What processes and threads are called: /proc/PID/{comm,cmdline,exe}.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{of_process, of_thread, read_all};
use crate::{Pid, Tid};

/// The name of a thread, at most 15 bytes; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// What the kernel answers.
pub fn of_a_thread(pid: Pid, tid: Tid) -> io::Result<String> {
    Ok(name(&read_all(&of_thread(pid, tid, "comm"))?))
}

/// The name of a process, i.e. of its first thread.
///
/// # Errors
/// What the kernel answers.
pub fn of_a_process(pid: Pid) -> io::Result<String> {
    Ok(name(&read_all(&of_process(pid, "comm"))?))
}

/// The arguments a process was started with, program first. A process may overwrite them; a zombie or a kernel thread
/// has none.
///
/// # Errors
/// What the kernel answers.
pub fn command_line(pid: Pid) -> io::Result<Vec<OsString>> {
    Ok(arguments(&read_all(&of_process(pid, "cmdline"))?))
}

/// The path of the program that a process runs, in the process's own mount namespace, and whether the file has been
/// deleted or replaced since.
///
/// # Errors
/// What the kernel answers; `ENOENT` also for a kernel thread.
pub fn executable(pid: Pid) -> io::Result<(PathBuf, bool)> {
    let target = fs::read_link(of_process(pid, "exe"))?;
    let (path, deleted) = split_deleted(target.as_os_str());
    Ok((PathBuf::from(path), deleted))
}

/// Splits off what the kernel appends to the path of a file that no directory holds any more.
pub(super) fn split_deleted(path: &OsStr) -> (&OsStr, bool) {
    match path.as_bytes().strip_suffix(b" (deleted)") {
        Some(path) => (OsStr::from_bytes(path), true),
        None => (path, false),
    }
}

fn name(comm: &[u8]) -> String {
    let name = comm.strip_suffix(b"\n").unwrap_or(comm);
    String::from_utf8_lossy(name).into_owned()
}

/// Arguments end with a NUL each; a process that has overwritten them may have left out the last.
fn arguments(text: &[u8]) -> Vec<OsString> {
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|&byte| byte == 0)
        .map(|argument| OsString::from_vec(argument.to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::own_pid;
    use proptest::prelude::*;

    #[test]
    fn our_own_names_are_ours() {
        let arguments: Vec<_> = std::env::args_os().collect();
        assert_eq!(command_line(own_pid()).unwrap(), arguments);
        let (path, deleted) = executable(own_pid()).unwrap();
        assert_eq!(path, std::env::current_exe().unwrap());
        assert!(!deleted);
        let name = of_a_process(own_pid()).unwrap();
        assert_eq!(name, of_a_thread(own_pid(), Tid(own_pid().0)).unwrap());
        assert!(!name.ends_with('\n'));
    }

    #[test]
    fn a_deleted_program_keeps_its_path() {
        let (path, deleted) = split_deleted(OsStr::new("/opt/my app (deleted)"));
        assert_eq!((path, deleted), (OsStr::new("/opt/my app"), true));
    }

    proptest! {
        #[test]
        fn arguments_are_split_where_they_end(expected in prop::collection::vec("[a-z ]{0,5}", 1..5)) {
            prop_assume!(expected != [""]);
            let text: String = expected.iter().map(|argument| format!("{argument}\0")).collect();
            let expected: Vec<OsString> = expected.iter().map(OsString::from).collect();
            prop_assert_eq!(arguments(text.as_bytes()), expected);
        }

        #[test]
        fn any_bytes_are_names(bytes: Vec<u8>) {
            let _ = (name(&bytes), arguments(&bytes));
        }
    }
}
