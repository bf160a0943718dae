//! How long a running thread stands still for one sample, beside the shortest cycle of system calls that could do it:
//! `cargo bench -p sampler-platforms --bench pause`.
//!
//! Both are done in turn on the same thread, so that whatever else the machine does hits both alike. The bare cycle is
//! what a C program would do: SEIZE, INTERRUPT, wait, GETREGSET, one process_vm_readv, DETACH, no deadline, no check.
//! Ours is what `sampler record` does while a thread stands still. The time is taken around the whole of it, on this
//! side: the thread itself stands still for a little less.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::io;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid as NixPid;
use sampler_platforms::linux::{ProcessMemory, prepare_sampling_thread, stop};
use sampler_platforms::{Pid, Tid};
use sampler_tests_support::{STACK_BYTES, bare_cycle};
use sampler_unwind::Avma;

/// The part below the stack pointer that a leaf function may use (System V ABI for x86_64, 3.2.2).
const RED_ZONE_BYTES: u64 = 128;
/// Cycles of each kind per placement.
const CYCLES: usize = 3000;
/// The thread must get to run between two stops.
const BETWEEN: Duration = Duration::from_micros(500);
/// A stop that takes longer has hit something else.
const WITHIN: Duration = Duration::from_secs(1);
/// As `sampler record` does where the thread is on another CPU.
const SPIN: Duration = Duration::from_micros(150);

fn main() -> io::Result<()> {
    if std::env::args().any(|argument| argument == "spin") {
        deep(STACK_BYTES / 1024);
        return Ok(());
    }
    prepare_sampling_thread()?;
    let target = Spinning::start()?;
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "µs", "bare p50", "p99", "ours p50", "p99", "ratio"
    );
    measure("wherever the scheduler puts them", &target, SPIN)?;
    if std::thread::available_parallelism()?.get() > 1 {
        target.pin(0)?;
        pin(NixPid::from_raw(0), 1)?;
        measure("on another CPU than the thread's", &target, SPIN)?;
        pin(NixPid::from_raw(0), 0)?;
        measure("on the thread's own CPU", &target, Duration::ZERO)?;
    }
    Ok(())
}

fn measure(placement: &str, target: &Spinning, spin: Duration) -> io::Result<()> {
    let memory = ProcessMemory::new(Pid(target.pid()));
    let mut stack = vec![0; STACK_BYTES];
    let mut bare = Vec::with_capacity(CYCLES);
    let mut ours = Vec::with_capacity(CYCLES);
    for _ in 0..CYCLES {
        std::thread::sleep(BETWEEN);
        bare.push(bare_cycle(target.pid(), &mut stack)?);
        std::thread::sleep(BETWEEN);
        ours.push(our_cycle(target.pid(), &memory, &mut stack, spin)?);
    }
    let (bare, ours) = (Pauses::of(bare), Pauses::of(ours));
    println!(
        "{placement:<34} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>7.2}",
        micros(bare.p50),
        micros(bare.p99),
        micros(ours.p50),
        micros(ours.p99),
        ours.p50.div_duration_f64(bare.p50)
    );
    Ok(())
}

fn our_cycle(
    pid: i32,
    memory: &ProcessMemory,
    stack: &mut [u8],
    spin: Duration,
) -> io::Result<Duration> {
    let start = Instant::now();
    let stopped = stop(Pid(pid), Tid(pid), WITHIN, spin)
        .map_err(|failure| io::Error::other(failure.to_string()))?;
    let registers = stopped.registers().map_err(io::Error::other)?;
    let sp = registers.registers.sp().unwrap_or_default();
    let read = memory.read_regions([(Avma(sp.0.saturating_sub(RED_ZONE_BYTES)), stack)]);
    let repaired = stopped.repair_interrupted_syscall(&registers);
    drop(stopped);
    let pause = start.elapsed();
    black_box(read.map_err(io::Error::other)?);
    repaired.map_err(io::Error::other)?;
    Ok(pause)
}

/// What was measured, sorted.
struct Pauses {
    p50: Duration,
    p99: Duration,
}

impl Pauses {
    fn of(mut pauses: Vec<Duration>) -> Self {
        pauses.sort();
        let at = |percent: usize| pauses.get(pauses.len() * percent / 100);
        Self {
            p50: at(50).copied().unwrap_or_default(),
            p99: at(99).copied().unwrap_or_default(),
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A process that spins, with some stack below it; killed on drop.
struct Spinning(Child);

impl Spinning {
    fn start() -> io::Result<Self> {
        let child = Command::new(std::env::current_exe()?).arg("spin").spawn()?;
        Ok(Self(child))
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn pin(&self, cpu: usize) -> io::Result<()> {
        pin(NixPid::from_raw(self.pid()), cpu)
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn pin(pid: NixPid, cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(pid, &cpus)?)
}

/// Uses a kilobyte of stack per level, and spins at the bottom for as long as its parent lives.
fn deep(levels: usize) {
    let used = black_box([0_u8; 1024]);
    if levels == 0 {
        let parent = std::os::unix::process::parent_id();
        while std::os::unix::process::parent_id() == parent {
            (0..10_000_000_u64).for_each(|number| {
                black_box(number);
            });
        }
    } else {
        deep(levels - 1);
    }
    black_box(used);
}
