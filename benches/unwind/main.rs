//! What a frame costs to unwind, our walk beside framehop alone: `cargo bench --bench unwind`.
//!
//! Stacks of running programs are copied once, each with its registers. All walkers then walk the same copies in turns,
//! so that whatever else the machine does hits all alike, and the median of the rounds counts. *Warm* has walked the
//! same stacks before; *cold* begins with a new unwinder, or for framehop with a new cache, for every stack. Files are
//! mapped and parsed beforehand in both cases, and both read the stack from the same slice. A recording reads through
//! one more layer, which knows two regions and the process behind them, and costs some nanoseconds per frame.
//!
//! framehop alone answers another question than ours: it follows three registers, and where call frame information
//! fails it goes on by the frame pointer without a word. How many of the stacks are the same is said, too.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod adding;
mod capture;
mod framehop_alone;

use std::ffi::OsStr;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use sampler_platforms::linux::prepare_sampling_thread;
use sampler_tests_support::{Target, fixture, need};
use sampler_unwind::{Stack, StackEnd, Unwinder};

use capture::{Captured, Program};
use framehop_alone::FramehopAlone;

/// Stacks copied of each program, some ticks apart.
const STACKS: usize = 12;
/// How often each walker takes its turn; `SAMPLER_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 15;
/// How many frames a turn walks at least, so that the clock does not matter.
const FRAMES_PER_TURN: usize = 20_000;

/// How long `rust_hot` runs unless it is killed before: longer than this bench.
const RUST_HOT_MS: &str = "100000";

/// Twenty calls deep through the interpreter and its C functions.
const PYTHON: &str = "
def descend(left):
    if left:
        return max(map(descend, [left - 1]))
    print('ready', flush=True)
    while True:
        sorted(range(1000), key=str)
descend(20)";

/// Nanoseconds per frame.
#[derive(Clone, Copy, Debug, Default)]
struct Costs {
    warm: f64,
    fast_storey: f64,
    framehop: f64,
    cold: f64,
    framehop_cold: f64,
}

fn main() {
    let rounds = std::env::var("SAMPLER_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    // Without it waiting for a stop polls; the copies are the same.
    let _without_timer = prepare_sampling_thread();
    println!(
        "{:<20} {:>15} {:>9} {:>6} | {:>8} {:>8} {:>8} {:>6} | {:>8} {:>8} {:>6}",
        "ns per frame",
        "frames",
        "complete",
        "same",
        "warm",
        "fast",
        "framehop",
        "ratio",
        "cold",
        "framehop",
        "ratio"
    );
    for (name, target) in targets() {
        let program = Program::of(target.pid());
        let stacks: Vec<Captured> = (0..STACKS)
            .map(|_| {
                target.until_it_ran();
                program.capture()
            })
            .collect();
        bench(name, &program, &stacks, rounds);
    }
    adding::adding(rounds);
}

fn targets() -> Vec<(&'static str, Target)> {
    let mut python =
        Target::spawn(Command::new(need("python3")).args([OsStr::new("-c"), OsStr::new(PYTHON)]));
    python.until_ready();
    let mut rust = Target::spawn(Command::new(fixture("rust_hot")).arg(RUST_HOT_MS));
    rust.tell("\n");
    vec![
        (
            "omit_frame_pointer",
            Target::start("omit_frame_pointer", &[]),
        ),
        ("signal_handler", Target::start("signal_handler", &[])),
        ("rust_hot", rust),
        ("python3", python),
        ("recursion", Target::start("recursion", &[])),
    ]
}

fn bench(name: &str, program: &Program, stacks: &[Captured], rounds: usize) {
    let framehop = FramehopAlone::new(&program.modules);
    let found = Found::of(program, stacks, &framehop);
    let costs = measure(program, stacks, &framehop, &found, rounds);
    println!(
        "{name:<20} {:>7}/{:>7} {:>6}/{:<2} {:>3}/{:<2} | {:>8.1} {:>8.1} {:>8.1} {:>6.2} | {:>8.1} {:>8.1} {:>6.2}",
        found.ours,
        found.framehop,
        found.complete,
        stacks.len(),
        found.same,
        stacks.len(),
        costs.warm,
        costs.fast_storey,
        costs.framehop,
        costs.warm / costs.framehop,
        costs.cold,
        costs.framehop_cold,
        costs.cold / costs.framehop_cold,
    );
}

/// What the walkers find, over all stacks.
struct Found {
    /// Frames found by our walk, and by framehop.
    ours: usize,
    framehop: usize,
    /// Stacks that our walk follows to their root.
    complete: usize,
    /// Stacks in which both find the same addresses.
    same: usize,
}

impl Found {
    fn of(program: &Program, stacks: &[Captured], framehop: &FramehopAlone) -> Self {
        let mut found = Self {
            ours: 0,
            framehop: 0,
            complete: 0,
            same: 0,
        };
        let mut unwinder = Unwinder::new();
        let mut cache = FramehopAlone::cache();
        let mut stack = Stack::empty();
        for captured in stacks {
            let memory = captured.stack();
            unwinder.walk(&program.modules, &captured.registers, &memory, &mut stack);
            let ours: Vec<u64> = stack.frames.iter().map(|frame| frame.address.0).collect();
            let mut theirs = Vec::new();
            framehop.walk(captured, &mut cache, |address| theirs.push(address));
            found.ours += ours.len();
            found.framehop += theirs.len();
            found.complete += usize::from(stack.end == StackEnd::Root);
            found.same += usize::from(ours == theirs);
        }
        found
    }
}

fn measure(
    program: &Program,
    stacks: &[Captured],
    framehop: &FramehopAlone,
    found: &Found,
    rounds: usize,
) -> Costs {
    let mut warm = Unwinder::new();
    let mut fast = Unwinder::new().with_fast_storey(true);
    let mut cache = FramehopAlone::cache();
    let mut stack = Stack::empty();
    let mut turns: [Vec<f64>; 5] = Default::default();
    for _ in 0..rounds {
        let costs = [
            per_frame(found.ours, || {
                walk_all(program, stacks, &mut stack, |walk| walk(&mut warm));
            }),
            per_frame(found.ours, || {
                walk_all(program, stacks, &mut stack, |walk| walk(&mut fast));
            }),
            per_frame(found.framehop, || {
                for captured in stacks {
                    framehop.walk(captured, &mut cache, |address| {
                        black_box(address);
                    });
                }
            }),
            per_frame(found.ours, || {
                walk_all(program, stacks, &mut stack, |walk| {
                    walk(&mut Unwinder::new())
                });
            }),
            per_frame(found.framehop, || {
                for captured in stacks {
                    framehop.walk(captured, &mut FramehopAlone::cache(), |address| {
                        black_box(address);
                    });
                }
            }),
        ];
        for (turns, cost) in turns.iter_mut().zip(costs) {
            turns.push(cost);
        }
    }
    let [warm, fast_storey, framehop, cold, framehop_cold] = turns.map(median);
    Costs {
        warm,
        fast_storey,
        framehop,
        cold,
        framehop_cold,
    }
}

/// Walks every stack with the unwinder that `with` hands in.
fn walk_all(
    program: &Program,
    stacks: &[Captured],
    stack: &mut Stack,
    mut with: impl FnMut(&mut dyn FnMut(&mut Unwinder)),
) {
    for captured in stacks {
        let memory = captured.stack();
        with(&mut |unwinder| {
            unwinder.walk(&program.modules, &captured.registers, &memory, stack);
        });
        black_box(&*stack);
    }
}

/// Nanoseconds per frame of `walk_all`, which finds `frames` frames.
fn per_frame(frames: usize, mut walk_all: impl FnMut()) -> f64 {
    let times = FRAMES_PER_TURN.div_ceil(frames.max(1));
    let start = Instant::now();
    for _ in 0..times {
        walk_all();
    }
    // Exact up to 2^53 frames.
    start.elapsed().div_duration_f64(Duration::from_nanos(1)) / (times * frames.max(1)) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
