//! Looks at threads where not everything can be had of them: they may not be stopped, or read, or not while they sleep.

use std::time::Instant;

use sampler_platforms::linux::abilities::Rung;
use sampler_platforms::linux::proc::schedstat::SchedStat;
use sampler_platforms::linux::proc::stat::ProcState;
use sampler_unwind::interpreter::Interpreters;
use sampler_unwind::{Arch, Registers};

use super::{Looker, ProcessView, Seen, Unseen, is_stopped, unseen};
use crate::profile::{FrameKey, Missed, ThreadState};
use crate::record::costs::Costs;
use crate::record::thread::Thread;

impl Looker {
    /// Looks at a thread that cannot be read as it sleeps: it is stopped, or only its state is told.
    pub(super) fn look_at_hidden(
        &mut self,
        process: ProcessView<'_>,
        interpreters: &mut Interpreters,
        thread: &mut Thread,
        before: SchedStat,
        costs: &mut Costs,
    ) -> Result<Seen, Unseen> {
        /// A thread is given a CPU to stop, and another time to fall asleep again.
        const TIMESLICES_OF_A_STOP: u64 = 2;
        if process.rung != Rung::Stops || is_stopped(process.pid, thread.tid) {
            return self.look_from_afar(thread, before);
        }
        if thread.has_not_run_since_let_go(before) {
            return Err(Unseen::Missed(Missed::NotScheduled));
        }
        let mut seen = self.look_at_running(process, interpreters, thread, before, costs)?;
        if seen.state == ThreadState::Blocked {
            // By the next look it sleeps again. If that is all that it has done, this stack holds still.
            seen.sched.timeslices = before.timeslices.saturating_add(TIMESLICES_OF_A_STOP);
        }
        Ok(seen)
    }

    /// Looks at a running thread without stopping it: what interpreters can read of it while it runs on, which may be
    /// from different moments. Nothing is known of its machine code.
    pub(super) fn look_unstopped(
        &mut self,
        process: ProcessView<'_>,
        interpreters: &mut Interpreters,
        thread: &mut Thread,
        sched: SchedStat,
        costs: &mut Costs,
    ) -> Result<Seen, Unseen> {
        interpreters.meet_all(process.modules, process.memory);
        self.context.namespace_tid = thread.namespace_tid();
        self.copy.clear();
        let registers = Registers::unknown(Arch::NATIVE);
        let until = Some(Instant::now() + self.pause_max);
        self.capture(process, interpreters, thread, registers, until);
        thread.expected.learn(&self.volatile);
        self.walk_again(process, interpreters, thread);
        costs.read_unstopped();
        Ok(from_afar(ThreadState::Running, FrameKey::NotStopped, sched))
    }

    /// Looks at what everybody is told of a thread.
    pub(super) fn look_from_afar(
        &mut self,
        thread: &mut Thread,
        sched: SchedStat,
    ) -> Result<Seen, Unseen> {
        let state = thread.files.state().map_err(unseen)?;
        let (state, kernel) = match state {
            ProcState::Running => (ThreadState::Running, FrameKey::NotStopped),
            ProcState::Stopped | ProcState::TracingStop => {
                (ThreadState::Stopped, FrameKey::Stopped)
            }
            ProcState::Zombie | ProcState::Dead => return Err(Unseen::Ended),
            _ => (ThreadState::Blocked, FrameKey::Asleep),
        };
        self.looked.clear();
        Ok(from_afar(state, kernel, sched))
    }
}

/// A thread of which no machine code was seen.
fn from_afar(state: ThreadState, kernel: FrameKey, sched: SchedStat) -> Seen {
    Seen {
        state,
        kernel: Some(kernel),
        waiting: None,
        was_waiting_for_cpu: false,
        sched,
    }
}
