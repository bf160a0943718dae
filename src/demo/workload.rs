//! The program that `sampler demo` profiles: it knows where its own time goes.

use std::hint::black_box;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sampler_platforms::linux::thread_cpu_time_self;

/// Steps of work in the smallest function in one round: a round takes some milliseconds.
const STEPS: u64 = 200_000;

/// The functions that share the CPU.
pub const FUNCTIONS: [&str; 3] = ["sixty_percent", "thirty_percent", "ten_percent"];

/// CPU time that the three functions measured of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// In the order of [`FUNCTIONS`].
    pub cpu: [Duration; 3],
}

impl Truth {
    /// In nanoseconds, separated by spaces.
    pub fn to_line(self) -> String {
        self.cpu.map(|cpu| cpu.as_nanos().to_string()).join(" ")
    }

    /// Reads what [`Truth::to_line`] wrote.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut numbers = line
            .split(' ')
            .map(|number| number.parse().ok().map(Duration::from_nanos));
        let mut next = || numbers.next().flatten();
        Some(Self {
            cpu: [next()?, next()?, next()?],
        })
    }

    /// What share of the three each has, in percent.
    pub fn shares_percent(self) -> [f64; 3] {
        let all: f64 = self.cpu.iter().map(Duration::as_secs_f64).sum();
        self.cpu
            .map(|cpu| 100.0 * cpu.as_secs_f64() / all.max(f64::MIN_POSITIVE))
    }
}

/// Works for `duration`, with one thread asleep on a lock and one reading a pipe, and tells where the time went.
///
/// # Errors
/// When the pipe or a thread could not be made.
pub fn run(duration: Duration) -> io::Result<Truth> {
    let lock = Mutex::new(());
    let held = lock.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut reader, writer) = io::pipe()?;
    thread::scope(|scope| {
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        spawn("lock-waiter").spawn_scoped(scope, || wait_for_lock(&lock))?;
        spawn("pipe-reader").spawn_scoped(scope, move || read_pipe(&mut reader))?;
        let truth = work(duration);
        drop(held);
        drop(writer);
        Ok(truth)
    })
}

fn work(duration: Duration) -> Truth {
    let began = Instant::now();
    let mut truth = Truth::default();
    let mut value = 1;
    while began.elapsed() < duration {
        for (function, cpu) in [sixty_percent, thirty_percent, ten_percent]
            .into_iter()
            .zip(&mut truth.cpu)
        {
            let before = thread_cpu_time_self();
            value = function(value);
            *cpu += thread_cpu_time_self().saturating_sub(before);
        }
    }
    black_box(value);
    truth
}

#[inline(never)]
fn sixty_percent(value: u64) -> u64 {
    steps(black_box(value), 6 * STEPS)
}

#[inline(never)]
fn thirty_percent(value: u64) -> u64 {
    steps(black_box(value), 3 * STEPS)
}

#[inline(never)]
fn ten_percent(value: u64) -> u64 {
    steps(black_box(value), STEPS)
}

#[inline(always)]
fn steps(mut value: u64, count: u64) -> u64 {
    for step in 0..count {
        value = black_box(
            value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(step),
        );
    }
    value
}

#[inline(never)]
fn wait_for_lock(lock: &Mutex<()>) {
    drop(lock.lock().unwrap_or_else(PoisonError::into_inner));
}

#[inline(never)]
fn read_pipe(reader: &mut io::PipeReader) {
    let mut byte = [0];
    // The end of the pipe is the end of the thread, however it comes.
    while matches!(reader.read(&mut byte), Ok(1)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_truth_is_near_what_the_names_say_and_survives_being_written() {
        let truth = run(Duration::from_millis(50)).unwrap();
        let [sixty, thirty, ten] = truth.shares_percent();
        assert!(sixty > thirty && thirty > ten, "{truth:?}");
        assert_eq!(Truth::from_line(&truth.to_line()), Some(truth));
        assert_eq!(Truth::from_line("1 2"), None);
    }
}
