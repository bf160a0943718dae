//! What a sleeping system call is about, by its number and arguments.

use super::super::look::Waiting;

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// A word in memory.
    Futex {
        /// Where it is.
        address: u64,
        /// What was in it when the thread fell asleep; of a lock with priority inheritance the kernel's mark of waiters.
        expected: u32,
    },
    /// A descriptor.
    Descriptor(i32),
    /// A list of one descriptor, at an address.
    PollList(u64),
}

/// FUTEX_WAITERS (include/uapi/linux/futex.h).
pub(super) const WAITERS: u32 = 0x8000_0000;

/// The numbers of an architecture's calls.
struct Numbers {
    futex: u32,
    polls: &'static [u32],
    /// Calls that can sleep and whose first argument is a descriptor that says something. Not those that wait for many
    /// at once, such as epoll_wait.
    on_descriptor: &'static [u32],
}

/// arch/x86/entry/syscalls/syscall_64.tbl.
const X86_64: Numbers = Numbers {
    futex: 202,
    polls: &[7, 271],
    on_descriptor: &[
        0,   // read
        1,   // write
        3,   // close
        16,  // ioctl
        17,  // pread64
        18,  // pwrite64
        19,  // readv
        20,  // writev
        40,  // sendfile
        42,  // connect
        43,  // accept
        44,  // sendto
        45,  // recvfrom
        46,  // sendmsg
        47,  // recvmsg
        72,  // fcntl
        73,  // flock
        74,  // fsync
        75,  // fdatasync
        77,  // ftruncate
        78,  // getdents
        187, // readahead
        217, // getdents64
        275, // splice
        277, // sync_file_range
        285, // fallocate
        288, // accept4
        295, // preadv
        296, // pwritev
        299, // recvmmsg
        306, // syncfs
        307, // sendmmsg
        326, // copy_file_range
        327, // preadv2
        328, // pwritev2
    ],
};

/// include/uapi/asm-generic/unistd.h.
const AARCH64: Numbers = Numbers {
    futex: 98,
    polls: &[73],
    on_descriptor: &[
        25,  // fcntl
        29,  // ioctl
        32,  // flock
        46,  // ftruncate
        47,  // fallocate
        57,  // close
        61,  // getdents64
        63,  // read
        64,  // write
        65,  // readv
        66,  // writev
        67,  // pread64
        68,  // pwrite64
        69,  // preadv
        70,  // pwritev
        71,  // sendfile
        76,  // splice
        82,  // fsync
        83,  // fdatasync
        84,  // sync_file_range
        202, // accept
        203, // connect
        206, // sendto
        207, // recvfrom
        211, // sendmsg
        212, // recvmsg
        213, // readahead
        242, // accept4
        243, // recvmmsg
        267, // syncfs
        269, // sendmmsg
        285, // copy_file_range
        286, // preadv2
        287, // pwritev2
    ],
};

/// Those of the machine this is compiled for.
const HERE: &Numbers = if cfg!(target_arch = "aarch64") {
    &AARCH64
} else {
    &X86_64
};

/// What `waiting` is about; `None` where the call says all that is known.
pub(super) fn subject(waiting: Waiting) -> Option<Subject> {
    subject_by(HERE, waiting)
}

fn subject_by(numbers: &Numbers, waiting: Waiting) -> Option<Subject> {
    /// FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME (include/uapi/linux/futex.h).
    const FUTEX_FLAGS: u64 = 128 | 256;
    /// FUTEX_WAIT and FUTEX_WAIT_BITSET.
    const FUTEX_WAITS: [u64; 2] = [0, 9];
    /// FUTEX_LOCK_PI and FUTEX_LOCK_PI2.
    const FUTEX_LOCKS: [u64; 2] = [6, 13];
    let [first, second, third, ..] = waiting.arguments;
    match waiting.number {
        number if number == numbers.futex => {
            let operation = second & 0xffff_ffff & !FUTEX_FLAGS;
            let expected = match operation {
                _ if FUTEX_WAITS.contains(&operation) => low(third),
                _ if FUTEX_LOCKS.contains(&operation) => WAITERS,
                _ => return None,
            };
            Some(Subject::Futex {
                address: first,
                expected,
            })
        }
        number if numbers.polls.contains(&number) => {
            (second == 1).then_some(Subject::PollList(first))
        }
        number if numbers.on_descriptor.contains(&number) => {
            Some(Subject::Descriptor(low(first).cast_signed()))
        }
        _ => None,
    }
}

/// The kernel takes the lower half of an argument that is an int.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half is not part of the argument"
)]
fn low(argument: u64) -> u32 {
    argument as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::syscall_name;

    const FUTEX: u32 = X86_64.futex;
    const POLL: u32 = 7;

    fn of(number: u32, arguments: [u64; 3]) -> Option<Subject> {
        let [first, second, third] = arguments;
        let arguments = [first, second, third, 0, 0, 0];
        subject_by(&X86_64, Waiting { number, arguments })
    }

    #[test]
    fn arguments_tell_what_a_call_is_about() {
        assert_eq!(of(0, [7, 0x1000, 1]), Some(Subject::Descriptor(7)));
        assert_eq!(
            of(0, [0xffff_ffff_ffff_fff6, 0, 0]),
            Some(Subject::Descriptor(-10))
        );
        let futex = |operation| of(FUTEX, [0x7f00, operation, 2]);
        let waits = |expected| {
            Some(Subject::Futex {
                address: 0x7f00,
                expected,
            })
        };
        assert_eq!([futex(0), futex(128), futex(128 | 256 | 9)], [waits(2); 3]);
        assert_eq!([futex(6), futex(128 | 13)], [waits(WAITERS); 2]);
        assert_eq!(futex(1), None, "it wakes others");
        assert_eq!(of(POLL, [0x10, 1, 5]), Some(Subject::PollList(0x10)));
        assert_eq!(of(POLL, [0x10, 2, 5]), None);
        assert_eq!(of(35, [1, 2, 3]), None, "nanosleep");
        assert_eq!(of(232, [1, 2, 3]), None, "epoll_wait");
    }

    #[test]
    fn the_numbers_are_those_of_their_names() {
        // What aarch64's numbers have in a recording.
        const AARCH64_BIT: u32 = 1 << 16;
        let names = |numbers: &[u32], bit| -> Vec<String> {
            assert!(numbers.is_sorted());
            let names = numbers.iter().map(|number| syscall_name(number | bit));
            names.collect()
        };
        let on_x86_64 = names(X86_64.on_descriptor, 0);
        for (name, position) in [
            ("read", 0),
            ("sendfile", 8),
            ("getdents64", 22),
            ("pwritev2", 34),
        ] {
            assert_eq!(on_x86_64[position], name);
        }
        let mut others = names(AARCH64.on_descriptor, AARCH64_BIT);
        others.push("getdents".to_owned());
        others.sort();
        let mut same = on_x86_64;
        same.sort();
        assert_eq!(others, same);
        let futexes = [X86_64.futex, AARCH64.futex | AARCH64_BIT];
        assert_eq!(futexes.map(syscall_name), ["futex", "futex"]);
        assert_eq!(names(X86_64.polls, 0), ["poll", "ppoll"]);
        assert_eq!(names(AARCH64.polls, AARCH64_BIT), ["ppoll"]);
    }
}
