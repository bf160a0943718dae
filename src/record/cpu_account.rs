//! What the kernel's CPU clock of a process shows, beside what was observed of its threads.

use sampler_platforms::Pid;
use sampler_platforms::linux::{self, clock};

use super::habits::Unexplained;

/// Reading the CPU clock of a process with many threads takes no more than one part in this many of a CPU.
const CLOCK_PARTS: u64 = 600;

/// The CPU time of a process, all times in nanoseconds.
#[derive(Debug)]
pub(super) struct CpuAccount {
    pid: Pid,
    /// Its clock when the recording of it began.
    before: u64,
    /// The same when it was last read: once its parent has reaped it there is none.
    read: u64,
    /// The same when [`CpuAccount::read_if_due`] said last how much was used.
    told: u64,
    /// When it is read next.
    due: u64,
    /// When it was read last.
    read_at: u64,
    /// Whether that was since it was asked last whether there is something unexplained.
    is_fresh: bool,
    /// Turned into observations so far.
    observed: u64,
    unexplained: Unexplained,
}

impl CpuAccount {
    /// Of `pid`, all of whose CPU time counts.
    pub(super) fn from_start(pid: Pid) -> Self {
        Self {
            pid,
            before: 0,
            read: 0,
            told: 0,
            due: 0,
            read_at: 0,
            is_fresh: false,
            observed: 0,
            unexplained: Unexplained::default(),
        }
    }

    /// Of `pid`, whose CPU time counts from now on.
    pub(super) fn from_now(pid: Pid) -> Self {
        let mut account = Self::from_start(pid);
        account.begin();
        account
    }

    /// What was used until now does not count.
    pub(super) fn begin(&mut self) {
        self.read();
        self.before = self.read;
        self.told = self.read;
    }

    /// Reads the clock, unless that takes long (the kernel adds up all threads): at most one part in [`CLOCK_PARTS`] of
    /// the time goes into it. Says how much was used since it said so last.
    pub(super) fn read_if_due(&mut self, now_ns: u64) -> u64 {
        if now_ns < self.due {
            return 0;
        }
        let began_ns = clock::monotonic_ns();
        self.is_fresh = true;
        self.read();
        self.read_at = clock::monotonic_ns();
        let took_ns = self.read_at.saturating_sub(began_ns);
        self.due = now_ns.saturating_add(took_ns.saturating_mul(CLOCK_PARTS));
        let told_before = std::mem::replace(&mut self.told, self.read);
        self.read.saturating_sub(told_before)
    }

    /// When the clock was read last by [`CpuAccount::read_if_due`].
    pub(super) fn read_at_ns(&self) -> u64 {
        self.read_at
    }

    /// Reads the clock, if there is one still: when the process has ended and somebody else's child it was, the last
    /// reading is the last that is known of threads that were never seen. Says whether there is.
    pub(super) fn read(&mut self) -> bool {
        let time = linux::process_cpu_time(self.pid);
        if let Ok(time) = &time {
            self.read = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        }
        time.is_ok()
    }

    /// So much has been turned into observations.
    pub(super) fn observe(&mut self, cpu_ns: u64) {
        self.observed = self.observed.saturating_add(cpu_ns);
    }

    /// What the last reading shows beyond all observations.
    pub(super) fn unobserved_ns(&self) -> u64 {
        self.read
            .saturating_sub(self.before)
            .saturating_sub(self.observed)
    }

    /// Whether the process has come to use more than was seen, so that a thread which is left alone may have woken up.
    /// `explained_ns` is known to be of threads that were not looked at; threads may have used `unsure_ns` between the
    /// reading of the clock and their look.
    pub(super) fn has_unexplained(&mut self, explained_ns: u64, unsure_ns: u64) -> bool {
        let unexplained_ns = self.unobserved_ns().saturating_sub(explained_ns);
        std::mem::take(&mut self.is_fresh) && self.unexplained.has_grown(unexplained_ns, unsure_ns)
    }

    /// How much of `thread_ns`, which the accounts of its only thread show beyond what was observed of it, has not been
    /// observed of any.
    ///
    /// All of it, unless another thread than the first has executed a program: that one has taken over the first one's
    /// number, with accounts of its own (execve(2), "Multithreaded processes"; `de_thread` in fs/exec.c).
    pub(super) fn not_observed_of(&mut self, thread_ns: u64) -> u64 {
        // As it was read last the clock never shows too much.
        if thread_ns <= self.unobserved_ns() || !self.read() {
            return thread_ns;
        }
        thread_ns.min(self.unobserved_ns())
    }

    /// All that is known to have been used, before the recording too.
    pub(super) fn known_ns(&self) -> u64 {
        self.before.saturating_add(self.observed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_thread_used_is_not_observed_again() {
        let mut account = CpuAccount::from_now(Pid(std::process::id().cast_signed()));
        let mut x = 1_u64;
        while account.read == account.before {
            x = std::hint::black_box(x.wrapping_mul(3));
            account.read();
        }
        let used_ns = account.unobserved_ns();
        assert_eq!(account.not_observed_of(used_ns), used_ns);
        account.observe(used_ns);
        // The accounts of a thread that were observed under another number.
        let again_ns = account.not_observed_of(u64::MAX / 2);
        assert_eq!(account.unobserved_ns(), again_ns);
        assert!(again_ns < u64::MAX / 2);
        assert!(account.known_ns() >= account.before + used_ns);
    }

    #[test]
    fn nothing_more_is_known_of_who_is_gone() {
        // Beyond PID_MAX_LIMIT.
        let mut account = CpuAccount::from_start(Pid(1 << 22));
        assert_eq!(account.read_if_due(1), 0);
        assert_eq!(account.not_observed_of(5), 5);
        assert_eq!(account.known_ns(), 0);
    }
}
