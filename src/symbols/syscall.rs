//! Names of system calls.

use syscalls::{aarch64, x86_64};

/// In a recording the numbers of aarch64's system calls have this bit, which none has by itself: so each number says of
/// which table it is, wherever the report is made.
const AARCH64: u32 = 1 << 16;

/// The number that stands in a recording for the system call with this number on this machine.
pub fn recorded_syscall(number: u32) -> u32 {
    if cfg!(target_arch = "aarch64") {
        number | AARCH64
    } else {
        number
    }
}

/// The name of the system call that has this number in a recording, or its number.
pub fn syscall_name(recorded: u32) -> String {
    const LAST_OF_AARCH64: u32 = 2 * AARCH64 - 1;
    let (number, name) = match recorded {
        AARCH64..=LAST_OF_AARCH64 => {
            let number = recorded - AARCH64;
            let known = aarch64::Sysno::new(number as usize);
            (number, known.map(|known| known.name()))
        }
        number => {
            let known = x86_64::Sysno::new(number as usize);
            (number, known.map(|known| known.name()))
        }
    };
    name.map_or_else(|| number.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_has_its_numbers() {
        assert_eq!(syscall_name(0), "read");
        assert_eq!(syscall_name(AARCH64 | 63), "read");
        assert_eq!(syscall_name(AARCH64 | 22), "epoll_pwait");
        assert_eq!([9999, AARCH64 | 9999].map(syscall_name), ["9999", "9999"]);
        assert_eq!(syscall_name(u32::MAX), u32::MAX.to_string());
    }
}
