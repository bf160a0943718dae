//! What the kernel tells about processes and threads in /proc, without stopping anything.
//!
//! Each file has a pure `parse` and a `read` or the like that does the I/O. See
//! [proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html).

pub mod cgroup;
pub mod fd;
pub mod maps;
pub mod names;
pub mod net;
pub mod processes;
pub mod schedstat;
pub mod stat;
pub mod status;
pub mod syscall;
pub mod task;

use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

use crate::{Pid, Tid};

/// More than any file here has: 1,000,000 mappings with long names.
const FILE_BYTES_MAX: u64 = 1 << 28;

/// A file of /proc that does not have its documented form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("/proc/PID/{file} has no valid {field}")]
pub struct Malformed {
    /// The file's name below /proc/PID.
    pub file: &'static str,
    /// What is missing or not as it should be.
    pub field: &'static str,
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, malformed)
    }
}

/// Whether reading something of a process failed because there is no such process or thread (any more).
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR)
    )
}

fn of_process(pid: Pid, file: &str) -> String {
    format!("/proc/{pid}/{file}")
}

fn of_thread(pid: Pid, tid: Tid, file: &str) -> String {
    format!("/proc/{pid}/task/{tid}/{file}")
}

fn read_all(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decimal<T: FromStr>(text: &[u8]) -> Option<T> {
    // `from_str` takes a sign, the kernel prints none of `+`.
    let text = std::str::from_utf8(text).ok()?;
    (!text.starts_with('+')).then(|| text.parse().ok())?
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    (!text.starts_with('+')).then(|| u64::from_str_radix(text, 16).ok())?
}

/// The parts of `text` between single spaces.
fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b' ')
}
