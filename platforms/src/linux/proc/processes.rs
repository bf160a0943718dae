//! Which processes there are, and how to learn cheaply that there are new ones.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::{decimal, fields, read_all};
use crate::Pid;

/// The processes that are visible to us, in no particular order. Costs about half a microsecond a process.
///
/// # Errors
/// What the kernel answers.
pub fn list() -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // Everything else in there has a name that is no number.
        if let Some(pid) = decimal(entry?.file_name().as_bytes()) {
            pids.push(Pid(pid));
        }
    }
    Ok(pids)
}

/// The number that was given last to a process or thread of our pid namespace; as long as it stays the same, none is
/// new. Numbers are given in ascending order and start again from below at the highest (`alloc_pid` in kernel/pid.c,
/// `loadavg_proc_show` in fs/proc/loadavg.c). A number given is not yet a process: it is listed some microseconds
/// later, or never where the fork fails after all.
///
/// `None` where the kernel does not say: gVisor shows zeros.
///
/// # Errors
/// What the kernel answers.
pub fn last_created() -> io::Result<Option<Pid>> {
    Ok(parse_last_created(&read_all("/proc/loadavg")?))
}

/// `0.20 0.18 0.12 1/80 11206`: the last field.
fn parse_last_created(loadavg: &[u8]) -> Option<Pid> {
    /// Where that stands.
    const FIELD: usize = 4;
    fields(loadavg.trim_ascii_end())
        .nth(FIELD)
        .and_then(decimal)
        .filter(|&number: &i32| number > 0)
        .map(Pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::{Target, own_pid};
    use proptest::prelude::*;

    #[test]
    fn we_are_among_the_processes() {
        assert!(list().unwrap().contains(&own_pid()));
    }

    #[test]
    fn a_new_process_is_told() {
        let before = last_created().unwrap();
        let target = Target::pausing();
        assert_ne!(last_created().unwrap(), before);
        assert!(list().unwrap().contains(&target.pid()));
    }

    #[test]
    fn where_it_is_not_known_it_is_not_told() {
        let parse = |text: &str| parse_last_created(text.as_bytes());
        assert_eq!(parse("0.20 0.18 0.12 1/80 11206\n"), Some(Pid(11_206)));
        assert_eq!(parse("0.00 0.00 0.00 0/0 0\n"), None);
        assert_eq!(parse("0.00 0.00 0.00 0/0\n"), None);
        assert_eq!(parse("0.00 0.00 0.00 0/0 -7\n"), None);
        assert_eq!(parse(""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_number_or_none(bytes: Vec<u8>) {
            prop_assert!(parse_last_created(&bytes).is_none_or(|pid| pid.0 > 0));
        }
    }
}
