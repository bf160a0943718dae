//! What stopping does to a living thread, and what it must not do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sampler_unwind::MemoryReader;

use super::proc::stat::{self, ProcState};
use super::testing::{
    EPOLL_WAIT, PAUSE, Shared, Target, own_pid, own_tid, raw, read_byte, wait_until,
};
use super::*;
use crate::{Pid, Tid};

/// Long enough for a machine that does a lot else.
const PATIENCE: Duration = Duration::from_secs(30);
/// Some of the tests run where the thread is on another CPU, and some where it is not.
const SPIN: Duration = Duration::from_micros(50);

fn stop_patiently(target: &Target) -> StoppedThread {
    stop(target.pid(), target.tid(), PATIENCE, SPIN).unwrap()
}

fn state(target: &Target) -> ProcState {
    stat::read(target.pid()).unwrap().state
}

fn tracer(pid: Pid) -> Option<Tid> {
    proc::status::read(pid).unwrap().tracer
}

#[test]
fn a_busy_thread_is_read_and_runs_on() {
    prepare_sampling_thread().unwrap();
    let target = Target::busy();
    let memory = ProcessMemory::new(target.pid());
    for _ in 0..100 {
        let stopped = stop_patiently(&target);
        let count = target.shared().get(0);
        assert_eq!(stopped.kind(), StopKind::Trap);
        let registers = stopped.registers().unwrap();
        assert_eq!(registers.syscall, None);
        assert_ne!(registers.thread_pointer, 0);
        let pc = registers.registers.pc().unwrap();
        let sp = registers.registers.sp().unwrap();
        let mapped = proc::maps::read(target.pid()).unwrap();
        let executable =
            |mapping: &proc::maps::Mapping| mapping.executable && mapping.range.contains(&pc);
        assert!(mapped.iter().any(executable));
        assert_eq!(memory.read(sp, &mut [0; 64]), Ok(64));
        assert_eq!(state(&target), ProcState::TracingStop);
        assert_eq!(tracer(target.pid()), Some(own_tid()));
        assert_eq!(target.shared().get(0), count, "it ran while it was stopped");
        let pause = stopped.detach().unwrap();
        assert!(pause > Duration::ZERO);
        assert_eq!(tracer(target.pid()), None);
        target.wait_for_progress(0);
    }
}

#[test]
fn a_panic_lets_the_thread_go() {
    let target = Target::busy();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _stopped = stop_patiently(&target);
        panic!("while the target stands still");
    }));
    assert!(panicked.is_err());
    target.wait_for_progress(0);
    assert_eq!(tracer(target.pid()), None);
}

#[test]
fn nobody_cannot_be_stopped() {
    let target = Target::ended_after_using_cpu();
    let (pid, tid) = (target.pid(), target.tid());
    assert!(matches!(
        stop(pid, tid, PATIENCE, SPIN),
        Err(StopFailure::Gone { tid: gone }) if gone == tid
    ));
    target.end();
    assert!(matches!(
        stop(pid, tid, PATIENCE, SPIN),
        Err(StopFailure::Gone { .. })
    ));
}

#[test]
fn we_cannot_stop_ourselves() {
    assert!(matches!(
        stop(own_pid(), own_tid(), PATIENCE, SPIN),
        Err(StopFailure::Denied {
            errno: Errno::EPERM,
            ..
        })
    ));
}

#[test]
fn another_tracer_is_named() {
    let target = Target::busy();
    std::thread::scope(|scope| {
        let (stopped_sender, stopped) = std::sync::mpsc::channel();
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let (pid, tid) = (target.pid(), target.tid());
        scope.spawn(move || {
            let stopped = stop(pid, tid, PATIENCE, SPIN).unwrap();
            stopped_sender.send(own_tid()).unwrap();
            finished.recv().unwrap();
            stopped.detach().unwrap();
        });
        let tracing = stopped.recv().unwrap();
        let Err(failure) = stop(pid, tid, PATIENCE, SPIN) else {
            panic!("stopped twice")
        };
        assert!(matches!(failure, StopFailure::AlreadyTraced { tracer, .. } if tracer == tracing));
        let denied = permission::why(target.pid(), tid, Errno::EPERM);
        assert!(
            matches!(denied, permission::DeniedBy::Tracer { tracer, name: Some(_) } if tracer == tracing)
        );
        finish.send(()).unwrap();
    });
    target.wait_for_progress(0);
}

#[test]
fn a_thread_killed_while_it_stands_is_reported() {
    let target = Target::busy();
    let stopped = stop_patiently(&target);
    target.signal(libc::SIGKILL);
    wait_until(|| state(&target) == ProcState::Zombie);
    assert_eq!(stopped.registers().err(), Some(RegistersError::Killed));
    assert_eq!(stopped.detach(), Err(Errno::ESRCH));
    assert_eq!(strays::count(), 1);
    strays::release();
    assert_eq!(strays::count(), 0);
}

/// Whoever makes a process with CLONE_VFORK sleeps uninterruptibly until that ends: the one way to have such a sleep
/// at will.
fn uninterruptible(release: i32) -> Target {
    let target = Target::run(|shared| {
        let flags = libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: without CLONE_VM this is a fork; the child makes system calls only and ends by _exit.
        let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if child == 0 {
            // SAFETY: takes a number. Should its parent be killed, so is it.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            shared.set(1, 1);
            read_byte(release);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        loop {
            shared.increment(0);
        }
    });
    wait_until(|| target.shared().get(1) == 1 && state(&target) == ProcState::DiskSleep);
    target
}

#[test]
fn a_thread_that_does_not_stop_is_late_and_is_let_go_when_it_does() {
    let (reader, writer) = std::io::pipe().unwrap();
    let target = uninterruptible(raw(&reader));
    let Err(StopFailure::Late(mut late)) =
        stop(target.pid(), target.tid(), Duration::from_millis(2), SPIN)
    else {
        panic!("not late")
    };
    assert_eq!(late.tid(), target.tid());
    assert!(!late.poll());
    std::io::Write::write_all(&mut &writer, b"x").unwrap();
    wait_until(|| late.poll());
    assert_eq!(late.exit_status(), None);
    assert_eq!(tracer(target.pid()), None);
    target.wait_for_progress(0);
}

#[test]
fn a_forgotten_late_thread_is_let_go_too() {
    let (reader, writer) = std::io::pipe().unwrap();
    let target = uninterruptible(raw(&reader));
    let late = stop(target.pid(), target.tid(), Duration::ZERO, SPIN);
    assert!(matches!(late, Err(StopFailure::Late(_))));
    drop(late);
    assert_eq!(strays::count(), 1);
    std::io::Write::write_all(&mut &writer, b"x").unwrap();
    wait_until(|| {
        strays::release();
        strays::count() == 0
    });
    target.wait_for_progress(0);
}

#[test]
fn an_end_during_the_wait_is_handed_on() {
    let (reader, writer) = std::io::pipe().unwrap();
    let target = uninterruptible(raw(&reader));
    let Err(StopFailure::Late(mut late)) = stop(target.pid(), target.tid(), Duration::ZERO, SPIN)
    else {
        panic!("not late")
    };
    target.signal(libc::SIGKILL);
    wait_until(|| late.poll());
    assert_eq!(late.exit_status(), Some(libc::SIGKILL));
    drop(writer);
}

#[test]
fn a_thread_that_executes_another_program_is_not_left_stopped() {
    // Not the race itself, which cannot be had at will, but its end: a stop that nobody holds a guard for.
    let target = Target::busy();
    for is_interrupted in [true, false] {
        ptrace::seize(target.tid()).unwrap();
        if is_interrupted {
            ptrace::interrupt(target.tid()).unwrap();
        } // else it had another number by then
        strays::expect_renamed(target.pid(), Tid(i32::MAX));
        assert!(strays::are_there());
        wait_until(|| !strays::release());
        assert_eq!(tracer(target.pid()), None);
        target.wait_for_progress(0);
    }
}

#[test]
fn who_was_not_traced_when_it_executed_a_program_is_not_waited_for() {
    let target = Target::busy();
    strays::expect_renamed(target.pid(), target.tid());
    assert!(!strays::are_there());
    strays::expect_renamed(target.pid(), Tid(i32::MAX));
    assert!(!strays::release());
}

#[test]
fn a_process_that_is_stopped_by_a_signal_stays_so() {
    let target = Target::busy();
    target.signal(libc::SIGSTOP);
    wait_until(|| state(&target) == ProcState::Stopped);
    let count = target.shared().get(0);
    for _ in 0..10 {
        let stopped = stop_patiently(&target);
        assert_eq!(stopped.kind(), StopKind::GroupStop);
        assert!(stopped.registers().is_ok());
        drop(stopped);
        wait_until(|| state(&target) == ProcState::Stopped);
    }
    assert_eq!(target.shared().get(0), count);
    target.signal(libc::SIGCONT);
    target.wait_for_progress(0);
}

/// Counts what epoll_wait(2) on nothing returns: 0 calls, 1 the `EINTR`s.
fn waiting_in_epoll() -> Target {
    waiting_in_epoll_after(|| ())
}

fn waiting_in_epoll_after(prepare: impl FnOnce()) -> Target {
    let target = Target::run(|shared| {
        prepare();
        // SAFETY: makes a descriptor.
        let epoll = unsafe { libc::epoll_create1(0) };
        loop {
            shared.increment(0);
            // SAFETY: an empty event for which zeroes are valid.
            let mut event: libc::epoll_event = unsafe { std::mem::zeroed() };
            // SAFETY: there is room for one event.
            let answer = unsafe { libc::epoll_wait(epoll, &raw mut event, 1, -1) };
            if answer == -1 && Errno::last() == Errno::EINTR {
                shared.increment(1);
            }
        }
    });
    target.wait_until_blocked_in(EPOLL_WAIT);
    target
}

#[test]
fn a_repaired_epoll_wait_sees_no_eintr() {
    let target = waiting_in_epoll();
    let mut repaired = 0;
    for _ in 0..100 {
        let stopped = stop_patiently(&target);
        let registers = stopped.registers().unwrap();
        assert_eq!(registers.syscall.map(i64::from), Some(EPOLL_WAIT));
        // A thread that is just being woken from the last stop counts as blocked and has not run yet: nothing to do.
        repaired += u32::from(stopped.repair_interrupted_syscall(&registers).unwrap());
        stopped.detach().unwrap();
        target.wait_until_blocked_in(EPOLL_WAIT);
    }
    assert!(repaired > 0);
    assert_eq!((target.shared().get(0), target.shared().get(1)), (1, 0));
}

#[test]
fn an_epoll_wait_that_stops_too_late_sees_no_eintr_either() {
    let target = waiting_in_epoll();
    for _ in 0..100 {
        // Seized and asked to stop, and nobody has waited for it: it may have stopped by the time it is polled, or not.
        ptrace::seize(target.tid()).unwrap();
        ptrace::interrupt(target.tid()).unwrap();
        let mut late = late_stop::LateStop::new(strays::Stray::new(target.pid(), target.tid()));
        wait_until(|| late.poll());
        assert_eq!(tracer(target.pid()), None);
        target.wait_until_blocked_in(EPOLL_WAIT);
    }
    assert_eq!((target.shared().get(0), target.shared().get(1)), (1, 0));
}

#[test]
fn a_late_thread_that_nobody_holds_is_taken_back() {
    // As after execve(2) in a thread, which goes on under the number of its process's first thread.
    let target = Target::busy();
    ptrace::seize(target.tid()).unwrap();
    let Err(StopFailure::Late(mut late)) = stop(target.pid(), target.tid(), PATIENCE, SPIN) else {
        panic!("traced by us already, and seized once more")
    };
    ptrace::interrupt(target.tid()).unwrap();
    wait_until(|| late.poll());
    assert_eq!(tracer(target.pid()), None);
    target.wait_for_progress(0);
    drop(stop_patiently(&target));
}

#[test]
fn an_epoll_wait_that_is_not_repaired_sees_it() {
    let target = waiting_in_epoll();
    drop(stop_patiently(&target));
    wait_until(|| target.shared().get(1) == 1);
}

#[test]
fn a_handler_still_makes_a_repaired_call_return() {
    let target = waiting_in_epoll();
    let stopped = stop_patiently(&target);
    let registers = stopped.registers().unwrap();
    stopped.repair_interrupted_syscall(&registers).unwrap();
    // Without a handler it ends the target; that it is delivered is all that matters.
    target.signal(libc::SIGUSR1);
    stopped.detach().unwrap();
    wait_until(|| state(&target) == ProcState::Zombie);
}

#[cfg(target_arch = "x86_64")]
extern "C" fn do_nothing(_signal: i32) {}

/// Lets a thread go in epoll_wait(2), put back to before the instruction as is done on aarch64, with a signal that came
/// while it stood.
#[cfg(target_arch = "x86_64")]
fn put_back_with_signal(target: &Target, signal: Option<i32>) {
    use super::reentry::{Reentry, Repair, Repaired};
    const SYSCALL_BYTES: u64 = 2;
    let stopped = stop_patiently(target);
    let raw = stopped.registers().unwrap().raw;
    let before = registers::RawRegisters {
        orig_rax: u64::MAX,
        rax: EPOLL_WAIT.cast_unsigned(),
        rip: raw.rip - SYSCALL_BYTES,
        ..raw
    };
    let repair = Repair {
        registers: before,
        reentry: Some(Reentry::new(1 << (libc::SIGUSR1 - 1))),
    };
    let repaired = Repaired::default();
    repaired.repair(stopped.tid(), &repair).unwrap();
    if let Some(signal) = signal {
        target.signal(signal);
    }
    repaired.detach(stopped.tid(), stopped.kind()).unwrap();
    // Nothing is left for the guard to let go.
    std::mem::forget(stopped);
    deadline::disarm();
    assert_eq!(tracer(target.pid()), None);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_handler_that_comes_before_the_call_is_made_again_ends_it() {
    let target = waiting_in_epoll_after(|| {
        let handler = do_nothing as *const () as libc::sighandler_t;
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGUSR1, handler) };
    });
    let seen = || (target.shared().get(0), target.shared().get(1));
    for round in 1..=50 {
        target.wait_until_blocked_in(EPOLL_WAIT);
        put_back_with_signal(&target, None);
        target.wait_until_blocked_in(EPOLL_WAIT);
        // Without a handler it ends nothing.
        put_back_with_signal(&target, Some(libc::SIGWINCH));
        target.wait_until_blocked_in(EPOLL_WAIT);
        assert_eq!(seen(), (round, round - 1));
        put_back_with_signal(&target, Some(libc::SIGUSR1));
        wait_until(|| seen() == (round + 1, round));
    }
}

#[test]
fn a_futex_wait_needs_no_repair() {
    let target = Target::pausing();
    let stopped = stop_patiently(&target);
    let registers = stopped.registers().unwrap();
    assert_eq!(registers.syscall.map(i64::from), Some(PAUSE));
    assert!(registers.interrupted_syscall);
    assert_eq!(stopped.repair_interrupted_syscall(&registers), Ok(false));
}

/// Where the target's signal handler counts.
static PAYLOADS: OnceLock<Shared> = OnceLock::new();

extern "C" fn add_payload(
    _signal: i32,
    information: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid siginfo_t to a handler with SA_SIGINFO.
    let information = unsafe { &*information };
    // SAFETY: the signal was sent by sigqueue, so it has a value.
    let value = unsafe { information.si_value() }.sival_ptr.addr() as u64;
    if let Some(shared) = PAYLOADS.get() {
        shared.set(1, shared.get(1) + value);
        shared.increment(2);
    }
}

#[test]
fn no_signal_is_lost_or_changed() {
    const SIGNALS: usize = 2000;
    let target = Target::run(|shared| {
        let _first = PAYLOADS.set(shared);
        // SAFETY: zeroes are valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = add_payload as *const () as usize;
        // SAFETY: the handler touches shared numbers only.
        unsafe { libc::sigaction(libc::SIGRTMAX(), &raw const action, ptr::null_mut()) };
        loop {
            shared.increment(0);
        }
    });
    target.wait_for_progress(0);
    let mut sum = 0;
    for number in 1..=SIGNALS {
        let value = libc::sigval {
            sival_ptr: ptr::without_provenance_mut(number),
        };
        // SAFETY: the value is a number, for the target as well. The child has not been reaped.
        let answer = unsafe { libc::sigqueue(target.pid().0, libc::SIGRTMAX(), value) };
        assert_eq!(answer, 0);
        sum += number as u64;
        stop_patiently(&target).detach().unwrap();
    }
    wait_until(|| target.shared().get(2) == SIGNALS as u64);
    assert_eq!(target.shared().get(1), sum);
}

#[test]
fn a_signal_held_back_is_delivered_with_its_payload() {
    // The delivery stop itself: made by hand, because the trap of an interrupt comes before any signal.
    let target = Target::pausing();
    ptrace::seize(target.tid()).unwrap();
    target.signal(libc::SIGUSR2);
    let kind = ptrace::wait(target.tid(), 0).unwrap().unwrap();
    assert_eq!(kind, StopKind::SignalDelivery(libc::SIGUSR2));
    let stopped = StoppedThread::new(target.pid(), target.tid(), kind, Instant::now());
    stopped.detach().unwrap();
    wait_until(|| state(&target) == ProcState::Zombie);
}

/// The smallest 32-bit program: an ELF header, a program header, and a jump to itself.
fn thirty_two_bit_program() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    const SIZE: u32 = HEADERS + 2;
    fn halves(values: &[u16]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }
    fn words(values: &[u32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }
    [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        // e_type ET_EXEC, e_machine EM_386.
        halves(&[2, 3]),
        // e_version, e_entry, e_phoff, e_shoff, e_flags.
        words(&[1, BASE + HEADERS, 52, 0, 0]),
        // Sizes and counts.
        halves(&[52, 32, 1, 0, 0, 0]),
        // PT_LOAD of the whole file, readable and executable.
        words(&[1, 0, BASE, BASE, SIZE, SIZE, 5, 0x1000]),
        vec![0xeb, 0xfe],
    ]
    .concat()
}

#[test]
fn a_32_bit_program_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("loop32");
    std::fs::write(&path, thirty_two_bit_program()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&path, mode).unwrap();
    let mut started = spawn::launch(path.as_os_str(), &[], spawn::ChildStdout::Inherited);
    // Targets of other tests, forked while the file was being written, have it open for a moment.
    wait_until(|| {
        let is_busy = matches!(&started, Err(spawn::LaunchError::Other { source, .. })
            if source.kind() == std::io::ErrorKind::ExecutableFileBusy);
        if is_busy {
            started = spawn::launch(path.as_os_str(), &[], spawn::ChildStdout::Inherited);
        }
        !is_busy
    });
    let launched = started
        .expect("this test needs a kernel that runs 32-bit programs (CONFIG_IA32_EMULATION)");
    let pid = launched.pid();
    assert!(matches!(
        check_target(pid),
        Err(TargetError::ThirtyTwoBit { .. })
    ));
    let stopped = stop(pid, Tid(pid.0), PATIENCE, SPIN).unwrap();
    assert_eq!(
        stopped.registers().err(),
        Some(RegistersError::ThirtyTwoBit)
    );
    stopped.detach().unwrap();
    // SAFETY: kill touches no memory; the child has not been reaped, so the number is its own.
    unsafe { libc::kill(pid.0, libc::SIGKILL) };
    launched.reap().unwrap();
}
