//! What the kernel has accounted, turned into observations.

use sampler_platforms::linux::clock;

use super::super::thread::{Thread, rounded_ns};
use super::Recorder;
use crate::profile::{
    End, FrameKey, Missed, Observation, SampleSink, ThreadId, ThreadState, Weights,
};

impl<S: SampleSink> Recorder<'_, S> {
    /// Hands on an observation of a thread of a process.
    pub(super) fn emit(
        &mut self,
        index: usize,
        mut observation: Observation,
    ) -> Result<(), S::Error> {
        let process = &mut self.processes[index];
        let weights = &mut observation.weights;
        let cpu_ns = process.not_observed(weights.cpu_ns);
        if cpu_ns < weights.cpu_ns {
            // The accounts of another thread until now.
            weights.cpu_ns = cpu_ns;
            weights.run_queue_ns = weights.run_queue_ns.min(weights.wall_ns);
        }
        process.cpu.observe(weights.cpu_ns);
        self.emit_for_nobody(observation)
    }

    /// The same for what is not of a process's own accounts.
    pub(super) fn emit_for_nobody(&mut self, mut observation: Observation) -> Result<(), S::Error> {
        self.costs.cpu_ns += observation.weights.cpu_ns;
        observation.at_ns = rounded_ns(observation.at_ns).saturating_sub(self.began_ns);
        self.sink.observation(&observation)
    }

    pub(super) fn flush(&mut self) -> Result<(), S::Error> {
        for index in 0..self.processes.len() {
            for at in 0..self.processes[index].threads.len() {
                if let Some(held) = self.processes[index].threads[at].take_held() {
                    self.emit(index, held)?;
                }
            }
            if std::mem::take(&mut self.processes[index].threads_ended) {
                self.account_ended(index)?;
            }
        }
        let summary = self.summary();
        if self.sink.flush(&summary)? {
            for process in &mut self.processes {
                process.threads.iter_mut().for_each(Thread::forget_stack);
                process.end_rests();
            }
        }
        Ok(())
    }

    /// Turns what the kernel has accounted to a process and no observation shows yet into observations, so that the
    /// total is right.
    pub(super) fn close_accounts(&mut self, index: usize) -> Result<(), S::Error> {
        let no_stack = self.sink.stack(&[FrameKey::NoStack], End::Partial)?;
        for at in 0..self.processes[index].threads.len() {
            let process = &mut self.processes[index];
            let (thread, turn) = (&mut process.threads[at], &mut process.turns[at]);
            let now_ns = clock::monotonic_ns();
            let sched = thread.files.sched_stat().ok();
            // One that was left alone until now is asked a last time.
            let rest = &mut turn.rest;
            if rest.is_unproven() {
                let proof = sched.and_then(|sched| thread.holds_still(rest, now_ns, sched, 1));
                match proof {
                    Some((end, ticks)) => self.costs.reused(end, ticks),
                    None => self.costs.missed(Missed::LeftAlone, rest.in_vain().into()),
                }
            }
            let held = thread.take_held();
            let rest = sched.and_then(|sched| thread.unobserved(now_ns, sched, no_stack));
            for observation in held.into_iter().chain(rest) {
                self.emit(index, observation)?;
            }
        }
        self.account_ended(index)
    }

    /// Observes the CPU time of threads that ended since they were last looked at: what the process's clock shows
    /// beyond all that was observed of its threads.
    pub(super) fn account_ended(&mut self, index: usize) -> Result<(), S::Error> {
        let process = &mut self.processes[index];
        let cpu_ns = process.unobserved_cpu_ns();
        if cpu_ns == 0 {
            return Ok(());
        }
        let thread = process.ended_threads(self.sink)?;
        let observation = self.unseen(FrameKey::Ended, thread, cpu_ns)?;
        self.emit(index, observation)
    }

    /// CPU time that is known from accounts alone, under the only frame `key`.
    pub(super) fn unseen(
        &mut self,
        key: FrameKey,
        thread: ThreadId,
        cpu_ns: u64,
    ) -> Result<Observation, S::Error> {
        let stack = self.sink.stack(&[key], End::Partial)?;
        Ok(Observation {
            thread,
            at_ns: clock::monotonic_ns(),
            state: ThreadState::Unseen,
            stack,
            ticks: 0,
            weights: Weights {
                cpu_ns,
                ..Weights::default()
            },
        })
    }
}
