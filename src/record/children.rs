//! CPU time of children that ended before they were seen, or after they were seen last.
//!
//! Whoever waits for a child is accounted all its CPU time, with that of the children it had waited for itself. What of
//! this was recorded of the children known is known, and the rest is what nobody saw.

use sampler_platforms::linux::proc::stat::Stat;

/// What a process was accounted of its children, and what of that is explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChildrenCpu {
    /// What it had been accounted when its recording began.
    before_ns: u64,
    /// What it had been accounted when it was last read.
    waited_ns: u64,
    /// All that children which ended, and their children, used: recorded, or before the recording.
    explained_ns: u64,
    /// What of the rest was turned into observations.
    unseen_ns: u64,
}

impl ChildrenCpu {
    /// For a process that was accounted `before_ns` when its recording began.
    pub(super) fn new(before_ns: u64) -> Self {
        Self {
            before_ns,
            waited_ns: before_ns,
            ..Self::default()
        }
    }

    /// Takes what it is accounted now. To be called before it is found out which children have ended: none of those
    /// counted here may be missing there.
    pub(super) fn read(&mut self, stat: &Stat) {
        self.waited_ns = self.waited_ns.max(stat.waited_cpu_ns());
    }

    /// A child has ended; it, and its children, used `used_ns` in all their life, as far as that is known.
    pub(super) fn explain(&mut self, used_ns: u64) {
        self.explained_ns = self.explained_ns.saturating_add(used_ns);
    }

    /// What is accounted and neither explained nor taken before; it is taken now.
    pub(super) fn take_unseen(&mut self) -> u64 {
        let known_ns = [self.before_ns, self.explained_ns, self.unseen_ns];
        let unseen_ns = known_ns
            .into_iter()
            .fold(self.waited_ns, u64::saturating_sub);
        self.unseen_ns += unseen_ns;
        unseen_ns
    }

    /// What its children used, as far as that is known: for its own parent, which is accounted it too.
    pub(super) fn known_ns(&self) -> u64 {
        self.before_ns
            .saturating_add(self.explained_ns)
            .saturating_add(self.unseen_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_NS: u64 = 10_000_000;

    /// A process that was accounted so many ticks of its children's time.
    fn stat(ticks: u64) -> Stat {
        let text = format!("7 (sh) S 1 7 7 0 -1 0 1 2 3 4 5 6 {ticks} 0 20 0 1 0 9");
        let text = [text, " 9".repeat(16), " 0 0 0 0\n".into()].concat();
        sampler_platforms::linux::proc::stat::parse(text.as_bytes()).expect("a line of /proc")
    }

    #[test]
    fn what_nobody_saw_is_told_once() {
        let mut children = ChildrenCpu::new(5 * TICK_NS);
        assert_eq!(children.take_unseen(), 0);
        children.read(&stat(25));
        children.explain(12 * TICK_NS);
        assert_eq!(children.take_unseen(), 8 * TICK_NS);
        assert_eq!(children.take_unseen(), 0);
        children.read(&stat(26));
        assert_eq!(children.take_unseen(), TICK_NS);
        assert_eq!(children.known_ns(), 26 * TICK_NS);
    }

    #[test]
    fn a_child_that_ended_and_was_not_waited_for_is_not_counted_twice() {
        let mut children = ChildrenCpu::default();
        // One was seen and is a zombie, another was not and has been waited for.
        children.explain(10 * TICK_NS);
        children.read(&stat(4));
        assert_eq!(children.take_unseen(), 0);
        children.read(&stat(14));
        assert_eq!(children.take_unseen(), 4 * TICK_NS);
    }
}
