//! What a sleeping system call is about, by its number and arguments. Numbers are those of x86_64
//! (arch/x86/entry/syscalls/syscall_64.tbl), as everywhere in a recording of that architecture.

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

const FUTEX: u32 = 202;
const POLL: u32 = 7;
const PPOLL: u32 = 271;

/// Calls that can sleep and whose first argument is a descriptor that says something. Not those that wait for many at
/// once, such as epoll_wait.
const ON_DESCRIPTOR: [u32; 35] = [
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
];

/// What `waiting` is about; `None` where the call says all that is known.
pub(super) fn subject(waiting: Waiting) -> Option<Subject> {
    /// FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME (include/uapi/linux/futex.h).
    const FUTEX_FLAGS: u64 = 128 | 256;
    /// FUTEX_WAIT and FUTEX_WAIT_BITSET.
    const FUTEX_WAITS: [u64; 2] = [0, 9];
    /// FUTEX_LOCK_PI and FUTEX_LOCK_PI2.
    const FUTEX_LOCKS: [u64; 2] = [6, 13];
    let [first, second, third, ..] = waiting.arguments;
    match waiting.number {
        FUTEX => {
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
        POLL | PPOLL => (second == 1).then_some(Subject::PollList(first)),
        number if ON_DESCRIPTOR.contains(&number) => {
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

    fn of(number: u32, arguments: [u64; 3]) -> Option<Subject> {
        let [first, second, third] = arguments;
        subject(Waiting {
            number,
            arguments: [first, second, third, 0, 0, 0],
        })
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
        assert!(ON_DESCRIPTOR.is_sorted());
        let names = ON_DESCRIPTOR.map(syscall_name);
        for (name, number) in [
            ("read", 0),
            ("sendfile", 8),
            ("getdents64", 22),
            ("pwritev2", 34),
        ] {
            assert_eq!(names[number], name);
        }
        assert_eq!(
            [FUTEX, POLL, PPOLL].map(syscall_name),
            ["futex", "poll", "ppoll"]
        );
    }
}
