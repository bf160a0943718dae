//! Names of system calls.

use syscalls::x86_64::Sysno;

/// The name of an x86_64 system call, or its number.
pub fn syscall_name(number: u32) -> String {
    usize::try_from(number)
        .ok()
        .and_then(Sysno::new)
        .map_or_else(|| number.to_string(), |call| call.name().to_owned())
}
