//! /proc/PID/task/TID/schedstat: how long a thread has run, and how often it came to run.

use super::stat::{ProcState, state_and_cpu_ns};
use super::{Malformed, decimal, fields};

/// What the scheduler accounts for one thread since it began (Documentation/scheduler/sched-stats.rst).
///
/// All zeroes where the kernel was built without `CONFIG_SCHED_INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedStat {
    /// Nanoseconds on a CPU. Brought up to date at scheduler ticks and switches, not when read.
    pub cpu_ns: u64,
    /// Nanoseconds ready to run and waiting for a CPU.
    pub run_queue_ns: u64,
    /// How often it was given a CPU: unchanged for a blocked thread means that it has not run in between.
    pub timeslices: u64,
}

/// `CPU_NS RUN_QUEUE_NS TIMESLICES`.
///
/// # Errors
/// When it does not have this form.
pub fn parse(text: &[u8]) -> Result<SchedStat, Malformed> {
    let mut numbers = fields(text.trim_ascii_end()).map(decimal);
    let mut next = |field| {
        numbers.next().flatten().ok_or(Malformed {
            file: "schedstat",
            field,
        })
    };
    Ok(SchedStat {
        cpu_ns: next("CPU time")?,
        run_queue_ns: next("run queue time")?,
        timeslices: next("number of time slices")?,
    })
}

/// What stands in for it where the kernel does not count: of /proc/PID/task/TID, the texts of `stat` and `status`.
///
/// CPU time in the ticks of `stat`, and no time on the run queue. A thread has been given a CPU as often as it has lost
/// one, and once more while it runs.
///
/// # Errors
/// When one of them does not have the form of proc(5).
pub fn stand_in(stat: &[u8], status: &[u8]) -> Result<SchedStat, Malformed> {
    let (state, cpu_ns) = state_and_cpu_ns(stat)?;
    let switches = |key: &'static str| -> Result<u64, Malformed> {
        let mut lines = status.split(|&byte| byte == b'\n');
        let value = lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b":"));
        let count = value.and_then(|value| decimal(value.trim_ascii()));
        count.ok_or(Malformed {
            file: "status",
            field: key,
        })
    };
    let lost = switches("voluntary_ctxt_switches")?
        .saturating_add(switches("nonvoluntary_ctxt_switches")?);
    Ok(SchedStat {
        cpu_ns,
        run_queue_ns: 0,
        timeslices: lost.saturating_add(u64::from(state == ProcState::Running)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn less_than_three_numbers_are_refused() {
        assert_eq!(
            parse(b"1 2\n").map_err(|error| error.field),
            Err("number of time slices")
        );
        assert_eq!(parse(b"").map_err(|error| error.field), Err("CPU time"));
        assert_eq!(parse(b"0 0 0\n"), Ok(SchedStat::default()));
    }

    #[test]
    fn a_sleeper_has_lost_its_cpu_as_often_as_it_got_one() {
        let stat =
            |state| format!("7 (a) b) {state} 1 7 7 0 -1 0 0 0 0 0 25 5 0 0 20 0 1 0 99 0\n");
        let status = b"Name:\ta\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
        let counted = |state| stand_in(stat(state).as_bytes(), status).unwrap();
        assert_eq!(
            (counted("S").cpu_ns, counted("S").timeslices),
            (300_000_000, 42)
        );
        assert_eq!(counted("R").timeslices, 43);
        assert!(stand_in(stat("S").as_bytes(), b"Name:\ta\n").is_err());
        assert!(stand_in(b"7 (a) S 1", status).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted_or_refused(stat: Vec<u8>, status: Vec<u8>) {
            let _ = stand_in(&stat, &status);
        }

        #[test]
        fn says_what_the_kernel_said(cpu_ns: u64, run_queue_ns: u64, timeslices: u64) {
            let text = format!("{cpu_ns} {run_queue_ns} {timeslices}\n");
            prop_assert_eq!(parse(text.as_bytes()), Ok(SchedStat { cpu_ns, run_queue_ns, timeslices }));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
