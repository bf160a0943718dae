//! The system calls that return `EINTR` because of a ptrace stop although no handler ran.

/// By the numbers of the machine this is compiled for.
const NOT_RESTARTED: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    SYS_IO_PGETEVENTS,
    libc::SYS_io_uring_enter,
    // Sockets with SO_RCVTIMEO or SO_SNDTIMEO.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    // read(2) and write(2) of such a socket.
    libc::SYS_read,
    libc::SYS_write,
];

/// arch/x86/entry/syscalls/syscall_64.tbl; libc has no constant for it.
#[cfg(target_arch = "x86_64")]
const SYS_IO_PGETEVENTS: libc::c_long = 333;
/// include/uapi/asm-generic/unistd.h; libc has no constant for it.
#[cfg(target_arch = "aarch64")]
const SYS_IO_PGETEVENTS: libc::c_long = 292;

/// Whether the system call of this number is one of them.
pub(super) fn is_not_restarted(number: u32) -> bool {
    NOT_RESTARTED.contains(&libc::c_long::from(number))
}
