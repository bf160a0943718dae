//! How a blocking wait ends at a deadline.
//!
//! A wait for a stop blocks in waitpid(2), which knows no time-out; a timer interrupts it with a signal. Measured on
//! two CPUs against the other ways (time from PTRACE_INTERRUPT to PTRACE_DETACH, p50, all on one CPU): a waitpid that
//! blocks 19.7 µs, with this timer armed 19.4 µs, `WNOHANG` and sigtimedwait(2) for SIGCHLD 21 to 25 µs, spinning for
//! 10 µs before that 30 µs. Across CPUs all of them drown in the time that the wake-up takes, which is why
//! [`super::stop`] spins there and needs this only when that was not long enough. Beside being slower,
//! SIGCHLD would have to be blocked in every thread of ours, or one that does not block it swallows it.
//!
//! The timer fires again and again from the deadline on, so that a signal which comes just before the wait begins is
//! not the last one.
//!
//! PTRACE_SEIZE and PTRACE_ATTACH can block too: while a thread of the process is in execve(2), which waits for all others to be gone.
//! One that we have seized is gone only when we have waited for it, so both would wait for ever (ptrace(2) does not say
//! so; `de_thread` in fs/exec.c, `ptrace_attach` in kernel/ptrace.c; seen on Linux 6.18). A signal interrupts the
//! call, but the kernel makes it again after the handler (ERESTARTNOINTR); so the handler steps over it.

use std::cell::{Cell, OnceCell};
use std::io;
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

/// How often the timer fires again after the deadline.
const REPEAT: Duration = Duration::from_millis(1);

/// Which of the real-time signals is ours, counted from SIGRTMIN.
const SIGNAL_INDEX: i32 = 3;

thread_local! {
    static TIMER: OnceCell<Option<Timer>> = const { OnceCell::new() };
    static IS_ARMED: Cell<bool> = const { Cell::new(false) };
}

/// Makes blocking calls of this thread, PTRACE_SEIZE among them, fail with `EINTR` once `after` has passed, until
/// [`disarm`]. `false` when the
/// kernel gives no such timer: then the caller must not block.
pub(super) fn arm(after: Duration) -> bool {
    let is_armed = with_timer(|timer| timer.set(after.max(Duration::from_nanos(1)), REPEAT));
    IS_ARMED.set(is_armed);
    is_armed
}

/// Undoes [`arm`], if there is anything to undo.
pub(super) fn disarm() {
    if IS_ARMED.replace(false) {
        with_timer(|timer| timer.set(Duration::ZERO, Duration::ZERO));
    }
}

fn with_timer(act: impl FnOnce(&Timer) -> bool) -> bool {
    // While the thread ends its timer may be gone already; then there is nothing to disarm.
    TIMER
        .try_with(|cell| {
            cell.get_or_init(|| Timer::new().ok())
                .as_ref()
                .is_some_and(act)
        })
        .unwrap_or(false)
}

/// A timer that sends a signal to the thread that made it.
#[derive(Debug)]
struct Timer(libc::timer_t);

impl Timer {
    fn new() -> io::Result<Self> {
        let signal = libc::SIGRTMIN() + SIGNAL_INDEX;
        install_handler(signal)?;
        unblock(signal)?;
        // SAFETY: sigevent is plain data for which zeroes are valid.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
        let mut timer = ptr::null_mut();
        // SAFETY: `event` and `timer` are ours for the length of the call. See timer_create(2).
        let answer =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if answer == 0 {
            Ok(Self(timer))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn set(&self, first: Duration, then: Duration) -> bool {
        let setting = libc::itimerspec {
            it_value: timespec(first),
            it_interval: timespec(then),
        };
        // SAFETY: `self.0` is a timer of this process, `setting` is only read, and the old setting is not asked for.
        unsafe { libc::timer_settime(self.0, 0, &raw const setting, ptr::null_mut()) == 0 }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: `self.0` is a timer of this process and is not used after this.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// `duration` as the kernel takes it. Longer than it can say is as long as it can say.
pub(super) fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: libc::c_long::from(duration.subsec_nanos().cast_signed()),
    }
}

/// A handler without SA_RESTART: it is there to interrupt.
fn install_handler(signal: i32) -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let answer = INSTALLED.get_or_init(|| {
        // SAFETY: sigaction is plain data for which zeroes are valid: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = interrupt as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler touches nothing but the registers that it returns to, so it may run at any point;
        // `action` is only read.
        match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(nix::errno::Errno::last_raw()),
        }
    });
    answer.map_err(io::Error::from_raw_os_error)
}

/// Runs where the timer has interrupted the thread, which goes on with the registers in `context`.
extern "C" fn interrupt(
    _signal: i32,
    _information: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid ucontext_t to a handler with SA_SIGINFO, and nobody else has it.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    step_over_seize(&mut context.uc_mcontext);
}

/// If the thread is about to ask for PTRACE_SEIZE or PTRACE_ATTACH, for the first time or once more, it goes on as if the kernel had
/// answered `EINTR`. One that has been answered is behind the instruction, and keeps its answer.
#[cfg(target_arch = "x86_64")]
fn step_over_seize(context: &mut libc::mcontext_t) {
    let registers = &mut context.gregs;
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let is = |register: i32, value: i64| registers[register.cast_unsigned() as usize] == value;
    let asks_for = |request| is(libc::REG_RDI, i64::from(request));
    let is_seize = is(libc::REG_RAX, libc::SYS_ptrace)
        && (asks_for(libc::PTRACE_SEIZE) || asks_for(libc::PTRACE_ATTACH));
    let pc = registers[libc::REG_RIP.cast_unsigned() as usize].cast_unsigned();
    let Ok(pc) = usize::try_from(pc) else { return };
    let at = ptr::with_exposed_provenance::<[u8; 2]>(pc);
    // SAFETY: the thread was executing there, so at least one byte is mapped, and code does not end with it.
    if is_seize && unsafe { at.read_unaligned() } == SYSCALL {
        registers[libc::REG_RIP.cast_unsigned() as usize] += 2;
        registers[libc::REG_RAX.cast_unsigned() as usize] = -i64::from(libc::EINTR);
    }
}

/// As on x86_64; the number of the call is in x8, its first argument in x0.
#[cfg(target_arch = "aarch64")]
fn step_over_seize(context: &mut libc::mcontext_t) {
    const SVC_0: u32 = 0xd400_0001;
    const INSTRUCTION_BYTES: u64 = 4;
    let is = |register: usize, value: i64| context.regs[register].cast_signed() == value;
    let asks_for = |request| is(0, i64::from(request));
    let is_seize =
        is(8, libc::SYS_ptrace) && (asks_for(libc::PTRACE_SEIZE) || asks_for(libc::PTRACE_ATTACH));
    let Ok(pc) = usize::try_from(context.pc) else {
        return;
    };
    let at = ptr::with_exposed_provenance::<u32>(pc);
    // SAFETY: the thread was executing the instruction there, which is aligned and has four bytes.
    if is_seize && unsafe { at.read() } == SVC_0 {
        context.pc += INSTRUCTION_BYTES;
        context.regs[0] = (-i64::from(libc::EINTR)).cast_unsigned();
    }
}

fn unblock(signal: i32) -> io::Result<()> {
    // SAFETY: sigset_t is plain data for which zeroes are valid.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is ours for the length of the call.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: `set` is an initialized set and ours for the length of the call.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: `set` is only read, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::os::fd::AsRawFd;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn only_the_call_that_would_be_made_again_is_stepped_over() {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        let after = |number: i64, request: libc::c_uint, code: [u8; 2]| {
            // SAFETY: mcontext_t is plain data for which zeroes are valid.
            let mut context: libc::mcontext_t = unsafe { mem::zeroed() };
            let registers = &mut context.gregs;
            let pc = i64::try_from(code.as_ptr().expose_provenance()).unwrap();
            registers[libc::REG_RIP.cast_unsigned() as usize] = pc;
            registers[libc::REG_RAX.cast_unsigned() as usize] = number;
            registers[libc::REG_RDI.cast_unsigned() as usize] = i64::from(request);
            step_over_seize(&mut context);
            let registers = &context.gregs;
            let answer = registers[libc::REG_RAX.cast_unsigned() as usize];
            (
                registers[libc::REG_RIP.cast_unsigned() as usize] - pc,
                answer,
            )
        };
        let eintr = -i64::from(libc::EINTR);
        let ptrace = libc::SYS_ptrace;
        assert_eq!(after(ptrace, libc::PTRACE_SEIZE, SYSCALL), (2, eintr));
        assert_eq!(after(ptrace, libc::PTRACE_ATTACH, SYSCALL), (2, eintr));
        assert_eq!(after(ptrace, libc::PTRACE_DETACH, SYSCALL), (0, ptrace));
        assert_eq!(after(0, libc::PTRACE_SEIZE, SYSCALL), (0, 0));
        // Behind the instruction, with an answer that looks like the number.
        assert_eq!(after(ptrace, libc::PTRACE_SEIZE, [0x48, 0x3d]), (0, ptrace));
    }

    #[test]
    fn interrupts_a_blocking_call_and_stops_doing_so() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut byte = [0u8];
        assert!(arm(Duration::from_millis(1)));
        // SAFETY: reads one byte into `byte`.
        let answer = unsafe { libc::read(reader.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
        assert_eq!(Errno::result(answer), Err(Errno::EINTR));
        disarm();
        io::Write::write_all(&mut writer, b"x").unwrap();
        // SAFETY: reads one byte into `byte`.
        let answer = unsafe { libc::read(reader.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
        assert_eq!(Errno::result(answer), Ok(1));
    }
}
