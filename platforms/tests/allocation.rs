//! While a target stands still nothing is allocated, nor where it is looked at again and again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::{Child, Command};
use std::time::Duration;

use sampler_platforms::linux::proc::task::ThreadFiles;
use sampler_platforms::linux::{ProcessMemory, prepare_sampling_thread, process_cpu_time, stop};
use sampler_platforms::{Pid, Tid};
use sampler_unwind::{Avma, MemoryReader};

/// The system's allocator, counting per thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A shell that counts for ever.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let script = "while :; do :; done";
        Self(Command::new("sh").args(["-c", script]).spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid(self.0.id().cast_signed())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_look_at_a_thread_allocates_nothing() {
    let target = Busy::start();
    let memory = ProcessMemory::new(target.pid());
    let mut files = ThreadFiles::new(target.pid(), Tid(target.pid().0));
    prepare_sampling_thread().unwrap();
    look(&target, &mut files, &memory);
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        look(&target, &mut files, &memory);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

fn look(target: &Busy, files: &mut ThreadFiles, memory: &ProcessMemory) {
    let mut stack = [0; 4096];
    let mut red_zone = [0; 128];
    process_cpu_time(target.pid()).unwrap();
    files.sched_stat().unwrap();
    files.syscall().unwrap();
    let stopped = stop(
        target.pid(),
        files.tid(),
        Duration::from_secs(30),
        Duration::from_micros(100),
    )
    .unwrap();
    let registers = stopped.registers().unwrap();
    stopped.repair_interrupted_syscall(&registers).unwrap();
    let sp = registers.registers.sp().unwrap();
    let below = Avma(sp.0 - 128);
    memory
        .read_regions([(below, &mut red_zone), (sp, &mut stack)])
        .unwrap();
    memory.read(sp, &mut stack).unwrap();
    stopped.detach().unwrap();
}
