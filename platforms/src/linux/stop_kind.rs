//! What a wait status means, decoded once.

/// Why a seized thread has stopped, or how it has ended.
///
/// Signals stay numbers: nix's `Signal` has no real-time signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// PTRACE_INTERRUPT arrived, or the SIGSTOP of PTRACE_ATTACH: the stop that samples are taken in.
    Trap,
    /// A signal is about to be delivered. The thread must be resumed with it, or it never sees it.
    SignalDelivery(i32),
    /// At the beginning or the end of a system call, up to which it was let run.
    Syscall,
    /// The process is stopped (Ctrl-Z). A detached thread stays stopped.
    GroupStop,
    /// Another ptrace event, `PTRACE_EVENT_*`. None is asked for here.
    Event(i32),
    /// The thread has ended, with this exit code. Of a child of ours this was the report of its end.
    Exited {
        /// What it gave to exit(2), 0 to 255.
        code: i32,
    },
    /// A signal has ended the thread.
    Killed {
        /// Its number.
        signal: i32,
        /// Whether a core was dumped.
        core_dumped: bool,
    },
}

impl StopKind {
    /// What the status that waitpid(2) reported about a *seized* thread says.
    ///
    /// Source: ptrace(2), "Stopped states". PTRACE_EVENT_STOP with a stopping signal is a group-stop, with SIGTRAP the
    /// answer to PTRACE_INTERRUPT.
    pub fn decode(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            return Self::Exited {
                code: libc::WEXITSTATUS(status),
            };
        }
        if libc::WIFSIGNALED(status) {
            return Self::Killed {
                signal: libc::WTERMSIG(status),
                core_dumped: libc::WCOREDUMP(status),
            };
        }
        let signal = libc::WSTOPSIG(status);
        match status >> 16 {
            0 if signal == SYSCALL_STOP => Self::Syscall,
            0 => Self::SignalDelivery(signal),
            libc::PTRACE_EVENT_STOP if is_stopping(signal) => Self::GroupStop,
            libc::PTRACE_EVENT_STOP => Self::Trap,
            event => Self::Event(event),
        }
    }

    /// The signal to let the thread go with, or zero.
    pub fn held_back_signal(self) -> i32 {
        match self {
            Self::SignalDelivery(signal) => signal,
            Self::Trap
            | Self::Syscall
            | Self::GroupStop
            | Self::Event(_)
            | Self::Exited { .. }
            | Self::Killed { .. } => 0,
        }
    }

    /// For a thread that has ended, the status as waitpid(2) reports it.
    pub fn exit_status(self) -> Option<i32> {
        const CORE_DUMPED: i32 = 0x80;
        match self {
            Self::Exited { code } => Some((code & 0xff) << 8),
            Self::Killed {
                signal,
                core_dumped,
            } => Some(signal | if core_dumped { CORE_DUMPED } else { 0 }),
            Self::Trap
            | Self::SignalDelivery(_)
            | Self::Syscall
            | Self::GroupStop
            | Self::Event(_) => None,
        }
    }
}

/// What a stop at a system call has in the place of a signal, with PTRACE_O_TRACESYSGOOD.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

fn is_stopping(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(signal: i32, event: i32) -> i32 {
        event << 16 | signal << 8 | 0x7f
    }

    #[test]
    fn tells_the_stops_apart() {
        use StopKind::*;
        let event_stop = libc::PTRACE_EVENT_STOP;
        assert_eq!(StopKind::decode(stopped(libc::SIGTRAP, event_stop)), Trap);
        for signal in [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
            assert_eq!(StopKind::decode(stopped(signal, event_stop)), GroupStop);
            assert_eq!(StopKind::decode(stopped(signal, 0)), SignalDelivery(signal));
        }
        assert_eq!(StopKind::decode(stopped(64, 0)), SignalDelivery(64));
        assert_eq!(StopKind::decode(stopped(0x85, 0)), Syscall);
        assert_eq!(Syscall.held_back_signal(), 0);
        assert_eq!(
            StopKind::decode(stopped(libc::SIGTRAP, libc::PTRACE_EVENT_EXEC)),
            Event(libc::PTRACE_EVENT_EXEC)
        );
    }

    #[test]
    fn an_end_keeps_its_status() {
        for status in [0, 0x0300, 0xff00, libc::SIGKILL, libc::SIGSEGV | 0x80] {
            assert_eq!(StopKind::decode(status).exit_status(), Some(status));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_status_decodes(status: i32) {
            let _ = StopKind::decode(status).held_back_signal();
        }
    }
}
