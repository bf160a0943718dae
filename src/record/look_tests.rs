//! What a look does to threads that are not as they were a moment ago: those that fell asleep, interruptibly or not,
//! between being found running and being stopped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::Command;

use sampler_platforms::Pid;
use sampler_platforms::linux::clock;
use sampler_tests_support::{Target, need};
use sampler_unwind::interpreter::{FunctionKind, Languages, NativeFrame};
use sampler_unwind::{MemoryReader, WalkGuide};

use super::super::images::Images;
use super::super::process::{Baseline, ProcessSettings, TargetProcess};
use super::*;
use crate::profile::ProfileBuilder;

const STACK_BYTES_MAX: usize = 64 << 10;

/// A fixture as the recorder holds it.
fn process_of(target: &Target, languages: Languages) -> TargetProcess {
    let sink = &mut ProfileBuilder::new();
    let now_ns = clock::monotonic_ns();
    let mut process = TargetProcess::new(
        Pid(target.pid()),
        None,
        Baseline::Now,
        ProcessSettings {
            stack_bytes_max: STACK_BYTES_MAX,
            max_overhead: None,
            languages,
            may_stop: true,
        },
        sink,
    )
    .unwrap();
    process.find_threads(now_ns, Baseline::Now, sink).unwrap();
    process
        .refresh_mappings(&mut Images::default(), sink)
        .unwrap();
    process
}

/// Looks at every thread that sleeps as if it had been found running: so does one that falls asleep under our hands.
/// Calls `asleep` with what came of it.
fn stop_sleepers(
    process: &mut TargetProcess,
    looker: &mut Looker,
    costs: &mut Costs,
    mut asleep: impl FnMut(Result<Seen, Unseen>),
) {
    let (view, interpreters, threads) = process.split();
    for thread in threads {
        let Ok(SyscallState::Blocked { .. }) = thread.files.syscall() else {
            continue;
        };
        if is_late(thread, 0, costs) {
            continue;
        }
        let sched = thread.files.sched_stat().unwrap();
        looker.wake();
        asleep(looker.look_at_running(view, interpreters, thread, sched, costs));
    }
}

#[test]
fn who_falls_asleep_under_our_hands_sees_no_eintr() {
    const ROUNDS: usize = 100;
    let target = Target::start("epoll_eintr", &[]);
    let mut process = process_of(&target, Languages::NONE);
    let mut looker = Looker::new(
        STACK_BYTES_MAX,
        PAUSE_MAX_DEFAULT,
        Duration::from_millis(200),
    );
    let mut costs = Costs::default();
    let mut blocked = 0;
    for _ in 0..ROUNDS {
        stop_sleepers(&mut process, &mut looker, &mut costs, |seen| {
            let is_asleep = |seen: &Seen| matches!(seen.kernel, Some(FrameKey::Blocked(_)));
            blocked += usize::from(seen.as_ref().is_ok_and(is_asleep));
        });
    }
    assert!(blocked > ROUNDS, "{blocked} sleepers stopped");
    let repaired = costs.summary(1, 1.0, Default::default()).repaired_syscalls;
    assert!(repaired > ROUNDS as u64, "{repaired} of {blocked} repaired");
    target.assert_free();
    let ended = target.wait();
    let lines = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("calls "));
    let interrupted: Vec<&str> = lines.filter(|line| !line.ends_with(" eintr 0")).collect();
    assert!(interrupted.is_empty(), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("calls io_getevents"),
        "{}",
        ended.stdout
    );
}

#[test]
fn who_falls_asleep_uninterruptibly_is_not_waited_for() {
    let mut target = Target::start("vforks", &[]);
    target.tell("\n");
    target.until_line(|line| line == "holding");
    let mut process = process_of(&target, Languages::NONE);
    let mut looker = Looker::new(STACK_BYTES_MAX, PAUSE_MAX_DEFAULT, Duration::from_millis(2));
    let mut costs = Costs::default();
    // It sleeps so until it is told otherwise; the others now and then.
    let is_held = |process: &mut TargetProcess| {
        let threads = process.split().2.iter_mut();
        threads
            .map(|thread| thread.lateness(0, 0))
            .any(|lateness| lateness == Lateness::Waiting)
    };
    while !is_held(&mut process) {
        stop_sleepers(&mut process, &mut looker, &mut costs, |_| {});
    }
    // Whoever waits for it would wait for ever; the others are looked at all the same.
    let mut running = 0;
    while running < 100 {
        let (view, interpreters, threads) = process.split();
        for thread in threads {
            let Ok(sched) = thread.files.sched_stat() else {
                continue;
            };
            looker.wake();
            if !is_late(thread, 0, &mut costs)
                && let Ok(seen) = looker.look(view, interpreters, thread, sched, &mut costs)
            {
                running += usize::from(seen.state == ThreadState::Running);
            }
        }
    }
    drop(process);
    target.tell("\n");
    while linux::release_strays() {
        std::thread::yield_now();
    }
    // All of its threads must run to their ends.
    let ended = target.wait();
    assert_eq!(ended.number_after("wrong"), 0, "{}", ended.stdout);
}

#[test]
fn an_interpreter_s_capture_allocates_nothing() {
    const LUA: &str = "print('ready') io.stdout:flush()
        local function f(n) local s = 0 for i = 1, n do s = s + #tostring(i) end return s end
        while true do coroutine.wrap(function() return (f(99)) end)() pcall(f, 9) end";
    const PYTHON: &str = "print('ready', flush=True)
def f(n): return sum(len(str(i)) for i in range(n))
while True: f(99)";
    let programs = [
        ("luajit", "-e", LUA),
        ("lua5.4", "-e", LUA),
        ("python3", "-c", PYTHON),
    ];
    for (program, flag, text) in programs {
        let mut target = Target::spawn(Command::new(need(program)).args([flag, text]));
        target.until_ready();
        let mut process = process_of(&target, Languages::ALL);
        let mut looker = Looker::new(STACK_BYTES_MAX, PAUSE_MAX_DEFAULT, Duration::from_secs(1));
        let mut costs = Costs::default();
        let (view, interpreters, threads) = process.split();
        let thread = threads.first_mut().expect("it has a thread");
        let mut captured = 0;
        while captured < 20 {
            let sched = thread.files.sched_stat().unwrap();
            looker.wake();
            if is_late(thread, 0, &mut costs)
                || looker
                    .look(view, interpreters, thread, sched, &mut costs)
                    .is_err()
            {
                continue;
            }
            let walked = looker.looked().walked;
            if !walked.is_interpreted || walked.lost.is_some() {
                continue;
            }
            // The same once more, as if it stood still. What it has changed meanwhile is no matter: a capture believes
            // nothing.
            let registers = looker.context.registers;
            let until = Some(Instant::now() + Duration::from_secs(1));
            let used = allocation_counter::measure(|| {
                looker.capture(view, interpreters, thread, registers, until);
            });
            assert_eq!(used.count_total, 0, "{program}: {used:?}");
            captured += 1;
        }
    }
}

/// The memory of a live process, and what was read of it.
struct Noting<'a> {
    live: &'a dyn MemoryReader,
    read: RefCell<BTreeMap<u64, u8>>,
}

impl MemoryReader for Noting<'_> {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let bytes = self.live.read(at, into)?;
        let read = (at.0..).zip(into.iter().copied()).take(bytes);
        self.read.borrow_mut().extend(read);
        Ok(bytes)
    }
}

/// Has the interpreters asked about native frames, and notes these in the words of a capture.
struct NotingGuide<'a>(&'a mut dyn WalkGuide, &'a mut Vec<String>);

impl WalkGuide for NotingGuide<'_> {
    fn caller(&mut self, frame: NativeFrame<'_>) -> Option<Registers> {
        let (is_return_address, is_in_image) = (frame.is_return_address, frame.is_in_image);
        self.1.push(format!(
            "frame {} {is_return_address} {is_in_image}{}",
            frame.index,
            words_of(frame.registers)
        ));
        self.0.caller(frame)
    }
}

fn words_of(registers: &Registers) -> String {
    let names = (0u16..).zip(Arch::NATIVE.register_names);
    let known = names.filter_map(|(number, name)| Some((name, registers.get(number)?)));
    known
        .map(|(name, value)| format!(" {name}={value:x}"))
        .collect()
}

/// A thread of LuaJIT that spins, as a capture for the tests of `unwind`: where its code lies, its registers, the
/// native frames, all memory that was read for the walk, and the frames that came out.
fn capture_of_luajit(mode: &str, script: &str) -> (String, Vec<(FunctionKind, u32)>) {
    let mut luajit = Command::new(need("luajit"));
    // Nothing of this machine is to be in it.
    luajit
        .env_clear()
        .current_dir(sampler_tests_support::repository());
    let script = format!("fixtures/lua/{script}");
    let mut target = Target::spawn(luajit.args([mode, &script, "spin"]));
    target.until_ready();
    target.until_it_ran();
    let mut process = process_of(&target, Languages::ALL);
    let mut looker = Looker::new(STACK_BYTES_MAX, PAUSE_MAX_DEFAULT, Duration::from_secs(1));
    let mut costs = Costs::default();
    let (view, interpreters, threads) = process.split();
    let thread = threads.first_mut().expect("it has a thread");
    // Until its state is known.
    let mut is_known = false;
    while !is_known {
        let sched = thread.files.sched_stat().unwrap();
        looker.wake();
        let looked = looker.look(view, interpreters, thread, sched, &mut costs);
        let walked = looker.looked().walked;
        is_known = looked.is_ok() && walked.is_interpreted && walked.lost.is_none();
    }
    while linux::release_strays() {
        std::thread::yield_now();
    }
    let stopped = linux::stop(
        view.pid,
        thread.tid,
        Duration::from_secs(10),
        Duration::ZERO,
    )
    .expect("it stops within seconds");
    let registers = stopped.registers().unwrap();
    let sp = registers.registers.sp().unwrap();
    let stack_end = view.stacks.find(sp).expect("it is on a stack").end;
    let context = ThreadContext {
        tid: target.pid(),
        namespace_tid: target.pid(),
        registers: registers.registers,
        thread_pointer: Some(registers.thread_pointer),
        stack: Avma(sp.0 - 128)..stack_end,
        is_running: true,
    };
    // Once to find its state with nothing known, and once more to walk it.
    let memory = Noting {
        live: view.memory,
        read: RefCell::default(),
    };
    let mut fresh = Interpreters::of(Languages::ALL);
    let (mut unwinder, mut stack) = (Unwinder::new(), Stack::empty());
    let mut segments = Segments::default();
    let mut lines = Vec::new();
    fresh.meet(&looker.looked().stack, view.modules, view.memory);
    for _ in 0..2 {
        lines.clear();
        looker.volatile.clear();
        let mut copy = VolatileCopy::new(&mut looker.volatile, &memory, &memory);
        fresh.capture(&context, &mut copy);
        {
            let mut guide = fresh.guide(&context, &memory);
            let mut guide = NotingGuide(&mut guide, &mut lines);
            let start = &context.registers;
            unwinder.walk_with_guide(view.modules, start, view.memory, &mut guide, &mut stack);
        }
        let walked = fresh.walk(&context, &stack, &memory, &mut segments);
        assert!(walked.is_interpreted);
    }
    drop(stopped);
    let (module, code) = view
        .modules
        .iter()
        .find_map(|module| {
            let mut runtimes = module.image.runtimes().iter();
            let code = runtimes.find_map(|(_, image)| image.code())?;
            Some((module, code))
        })
        .expect("it is LuaJIT");
    let [start, end] = [code.start, code.end].map(|svma| module.bias.avma(svma).0);
    let mut text = format!("interpreter {start:x} {end:x}\n");
    text += &format!("image {:x} {:x}\n", module.avma.start.0, module.avma.end.0);
    text += &format!("stack {:x} {:x}\n", context.stack.start.0, stack_end.0);
    text += &format!("registers{}\n", words_of(&context.registers));
    text += &lines
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    let mut at_end = None;
    for (&at, byte) in memory.read.borrow().iter() {
        if at_end != Some(at) {
            text += &format!("\nmemory {at:x} ");
        }
        text += &format!("{byte:02x}");
        at_end = at.checked_add(1);
    }
    text.push('\n');
    let mut found = Vec::new();
    for frame in &segments.frames {
        let function = &frame.function;
        let file = function.file.rsplit('/').next().unwrap_or_default();
        text += &format!(
            "found {:?} {} {file}:{} {:?}\n",
            frame.kind, frame.line, function.first_line, function.name
        );
        found.push((frame.kind, frame.line));
    }
    (text, found)
}

/// `SAMPLER_KEEP_CAPTURES=FOLDER` keeps them, for `fixtures/captures/`.
#[test]
fn a_capture_of_luajit_has_the_frames_that_it_prints() {
    /// But for the innermost one, which spins two lines further down.
    const PRINTED: [u32; 14] = [7, 12, 18, 24, 31, 28, 39, 46, 45, 54, 53, 63, 71, 75];
    let (text, found) = capture_of_luajit("-joff", "stop.lua");
    let lua = found
        .iter()
        .filter(|(kind, _)| *kind == FunctionKind::Interpreted);
    let lines: Vec<u32> = lua.map(|&(_, line)| line).collect();
    assert_eq!(lines, PRINTED);
    keep("luajit-interpreted", &text);
    // Which of the two it is in depends on the moment.
    let tries = (0..100).map(|_| capture_of_luajit("-jon", "inlined.lua"));
    let is_inlined = |found: &[(FunctionKind, u32)]| {
        use FunctionKind::{Compiled, Inlined, Interpreted};
        matches!(found, [(Inlined, 2..=5), (Compiled, 11), (Interpreted, 14)])
    };
    let mut inlined = tries.filter(|(_, found)| is_inlined(found));
    let (text, _) = inlined
        .next()
        .expect("it is in the inner function at times");
    keep("luajit-compiled", &text);
}

fn keep(name: &str, text: &str) {
    if let Some(folder) = std::env::var_os("SAMPLER_KEEP_CAPTURES") {
        let path = std::path::Path::new(&folder).join(format!("{name}.capture"));
        std::fs::write(path, text).expect("the folder is there");
    }
}
