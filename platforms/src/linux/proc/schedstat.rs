//! /proc/PID/task/TID/schedstat: how long a thread has run, and how often it came to run.

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

    proptest! {
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
