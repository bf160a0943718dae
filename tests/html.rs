//! `sampler report -f html`: the page, in a real browser.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use sampler::profile::{
    End, FrameKey, ModuleInfo, Observation, ProcessInfo, SampleSink as _, Summary, ThreadInfo,
    ThreadState, Weights as Observed,
};
use sampler::recording::{RecordingInfo, Writer};
use sampler_tests_support::{Browser, Report, Sampler, Target, need, sampler};
use serde_json::Value;

const READY: &str = "window.report !== undefined";

/// The page of the recording in its usual place, opened.
#[track_caller]
fn open(browser: &mut Browser, sampler: &Sampler) {
    sampler.run(&["report", "-o", "report.html"]).expect_code(0);
    browser.open(&sampler.path("report.html"), READY);
}

/// Half a second of `threads64`: two busy threads with inlined C++ and lines, and 62 that sleep.
#[track_caller]
fn recorded() -> (Sampler, Report) {
    let sampler = sampler!();
    let mut target = Target::start("threads64", &[]);
    target.tell("\n");
    sampler
        .attach(target.pid(), &["-d", "500ms", "-r", "499"])
        .wait()
        .expect_code(0);
    let report = sampler.report();
    (sampler, report)
}

/// What the page says is the total of a weight, in the page's units: microseconds, or samples.
#[track_caller]
fn total(browser: &mut Browser, weight: &str) -> f64 {
    let button = format!("document.querySelector('[data-weight={weight}]').dataset.total");
    number(&browser.evaluate(&format!("Number({button})")))
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("a number, not {value}"))
}

#[track_caller]
fn words(browser: &mut Browser, expression: &str) -> String {
    let value = browser.evaluate(expression);
    value
        .as_str()
        .unwrap_or_else(|| panic!("{expression}: a text, not {value}"))
        .to_owned()
}

/// Where the box of a function is drawn, in the view that is seen.
#[track_caller]
fn place(browser: &mut Browser, function: &str) -> (f64, f64, f64) {
    let found = browser.evaluate(&format!(
        "(() => {{ const view = report.view; for (const row of view.rows) for (const {{ box }} of row) \
         if (box.parent && view.tree.name(box).includes('{function}')) {{ view.cursor = box; view.reveal(); \
         return view.placeOf(box); }} return null; }})()"
    ));
    assert!(found.is_object(), "{function} is not drawn");
    (
        number(&found["x"]),
        number(&found["y"]),
        number(&found["width"]),
    )
}

#[track_caller]
fn expect_no_fault(browser: &Browser, sampler: &Sampler) {
    assert_eq!(browser.faults(), [] as [String; 0]);
    let own = format!("file://{}", sampler.path("report.html").display());
    assert_eq!(browser.requests(), [own], "the page loads nothing");
}

#[test]
fn a_page_shows_what_the_report_holds_and_answers() {
    let (sampler, report) = recorded();
    let mut browser = Browser::start();
    open(&mut browser, &sampler);
    totals_are_those_of_the_json_report(&mut browser, &report);
    weights_change_what_is_shown(&mut browser);
    a_search_marks_what_it_finds(&mut browser);
    a_click_zooms_and_keys_go_back(&mut browser);
    threads_and_times_are_selected(&mut browser, &report);
    every_view_has_rows(&mut browser);
    lines_of_a_function_are_shown(&mut browser);
    it_is_as_dark_as_its_reader_likes(&mut browser);
    expect_no_fault(&browser, &sampler);
}

#[track_caller]
fn totals_are_those_of_the_json_report(browser: &mut Browser, report: &Report) {
    let sum = |of: fn(&sampler_tests_support::Weights) -> u64| {
        report
            .stacks
            .iter()
            .map(|stack| of(&stack.weights))
            .sum::<u64>()
    };
    let due = [
        ("cpu", sum(|weights| weights.cpu_ns) / 1000),
        ("wall", sum(|weights| weights.wall_ns) / 1000),
        ("off", sum(|weights| weights.off_cpu_ns) / 1000),
        ("queue", sum(|weights| weights.run_queue_ns) / 1000),
        ("samples", sum(|weights| weights.samples)),
    ];
    for (weight, due) in due {
        assert_eq!(total(browser, weight), due as f64, "{weight}");
    }
    // And of one function, by another way of adding up.
    let is_it =
        |name: &str| name.starts_with("unsigned int work::sort_noise<") && !name.contains("lambda");
    let busy = report.stacks.iter();
    let busy = busy.filter(|stack| stack.functions().iter().any(|name| is_it(name)));
    let busy: u64 = busy.map(|stack| stack.weights.cpu_ns / 1000).sum();
    let shown = number(&browser.evaluate(
        "(() => { const { profile, grouping } = report; const { total } = report.groupSumsOf('cpu'); \
         const isIt = (name) => name.startsWith('unsigned int work::sort_noise<') && !name.includes('lambda'); \
         return grouping.groups.filter(({ frame }) => isIt(profile.names[frame])) \
         .reduce((sum, { id }) => sum + total[id], 0); })()",
    ));
    assert!(
        busy > 0 && (shown - busy as f64).abs() <= 1e-3 * shown + 1e3,
        "{shown} µs of {busy}"
    );
}

#[track_caller]
fn weights_change_what_is_shown(browser: &mut Browser) {
    let root = "report.view.tree.root.value";
    let cpu = number(&browser.evaluate(root));
    assert_eq!(cpu, total(browser, "cpu"));
    browser.press("3", false);
    let off = number(&browser.evaluate(root));
    assert_eq!(off, total(browser, "off"));
    assert!(off > 5.0 * cpu, "62 threads sleep: {off} and {cpu}");
    let checked = "document.querySelector('#weights [aria-checked=true]').dataset.weight";
    assert_eq!(words(browser, checked), "off");
    browser.evaluate("document.querySelector('[data-weight=cpu]').click()");
    assert_eq!(number(&browser.evaluate(root)), cpu);
}

#[track_caller]
fn a_search_marks_what_it_finds(browser: &mut Browser) {
    browser.press("/", false);
    browser.type_text("sort_noise");
    let found = words(browser, "document.getElementById('found').textContent");
    assert!(found.ends_with(" %") && found != "0.0 %", "{found}");
    let marked = "[...report.matches(report.grouping)].filter((match) => match === 1).length";
    assert!(number(&browser.evaluate(marked)) >= 1.0);
    // On the canvas: the colour of what is found, in the middle of its box's row.
    let (x, y, _) = place(browser, "sort_noise");
    let colours = format!(
        "(() => {{ report.view.cursor = null; report.view.paint(); const {{ canvas }} = report.view; const bounds = canvas.getBoundingClientRect(); \
         const scale = canvas.width / bounds.width; const pixel = [...canvas.getContext('2d').getImageData( \
         ({x} - bounds.left) * scale, ({y} - bounds.top - 8) * scale + 1, 1, 1).data].slice(0, 3); \
         const probe = document.createElement('canvas').getContext('2d'); \
         probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--mark').trim(); \
         probe.fillRect(0, 0, 1, 1); \
         return pixel.join() + ' ' + [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).join(); }})()"
    );
    let colours = words(browser, &colours);
    let (drawn, mark) = colours.split_once(' ').expect("two colours");
    assert_eq!(drawn, mark);
    browser.press("Escape", false);
    assert_eq!(
        words(browser, "document.getElementById('found').textContent"),
        ""
    );
    assert!(
        browser
            .evaluate("report.matches(report.grouping)")
            .is_null()
    );
}

#[track_caller]
fn a_click_zooms_and_keys_go_back(browser: &mut Browser) {
    let (x, y, narrow) = place(browser, "sort_noise");
    browser.drag((x, y), (x, y));
    let focus = "report.view.focus.parent === null ? '' : report.view.tree.name(report.view.focus)";
    assert!(words(browser, focus).contains("sort_noise"));
    let (_, _, wide) = place(browser, "sort_noise");
    assert!(wide > narrow, "{wide} and {narrow}");
    let details = words(browser, "document.getElementById('details').textContent");
    assert!(details.contains("sort_noise"), "{details}");
    assert!(words(browser, "document.getElementById('crumbs').textContent").contains("sort_noise"));
    // In a flame graph callees stand above.
    let depth = "report.view.cursor.depth";
    let before = number(&browser.evaluate(depth));
    browser.press("ArrowUp", false);
    assert_eq!(number(&browser.evaluate(depth)), before + 1.0);
    browser.press("Enter", false);
    assert_eq!(
        number(&browser.evaluate("report.view.focus.depth")),
        before + 1.0
    );
    browser.press("Backspace", false);
    assert_eq!(number(&browser.evaluate("report.view.focus.depth")), before);
    browser.press("Home", false);
    assert_eq!(words(browser, focus), "");
}

#[track_caller]
fn threads_and_times_are_selected(browser: &mut Browser, report: &Report) {
    let by_thread = |tid: i32| -> u64 {
        let stacks = report.stacks.iter().filter(|stack| stack.thread.tid == tid);
        stacks.map(|stack| stack.weights.cpu_ns / 1000).sum()
    };
    let all = total(browser, "cpu");
    // The first lane is of the thread with the most CPU time.
    browser.evaluate("document.querySelector('#lane-names .lane').click()");
    browser.settle();
    let tid =
        number(&browser.evaluate("report.profile.threads[[...report.selection.threads][0]].tid"));
    let busiest = report
        .stacks
        .iter()
        .map(|stack| stack.thread.tid)
        .max_by_key(|tid| by_thread(*tid));
    assert_eq!(Some(tid), busiest.map(f64::from));
    let one = total(browser, "cpu");
    let due = busiest.map(by_thread).unwrap_or_default() as f64;
    assert!(
        one < all && (one - due).abs() < 1e-3 * due + 1e3,
        "{one} of {all}, not {due}"
    );
    browser.press("x", false);
    browser.settle();
    assert_eq!(total(browser, "cpu"), all);

    // A time is dragged over the overview, from the middle to the start: its halves add up.
    let bounds = "document.getElementById('overview').getBoundingClientRect().toJSON()";
    let bounds = browser.evaluate(bounds);
    let (left, width) = (number(&bounds["left"]), number(&bounds["width"]));
    let y = number(&bounds["top"]) + 20.0;
    browser.drag((left + width / 2.0, y), (left - 20.0, y));
    let until = number(&browser.evaluate("report.selection.until"));
    let parts = number(&browser.evaluate("report.profile.parts"));
    assert!(
        until > 0.3 * parts && until < 0.7 * parts,
        "{until} of {parts}"
    );
    assert_eq!(number(&browser.evaluate("report.selection.from")), 0.0);
    let first = total(browser, "wall");
    browser.evaluate("report.setTimes(report.selection.until, report.profile.parts)");
    browser.settle();
    let second = total(browser, "wall");
    browser.press("x", false);
    browser.settle();
    let whole = total(browser, "wall");
    assert!(
        first > 0.2 * whole && second > 0.2 * whole,
        "{first} and {second} of {whole}"
    );
    assert_eq!(first + second, whole);

    // By keys alone.
    browser.evaluate("document.getElementById('overview').focus()");
    browser.press("ArrowRight", false);
    browser.settle();
    let until = number(&browser.evaluate("report.selection.until"));
    assert!(until < parts, "{until} of {parts}");
    browser.press("ArrowRight", true);
    browser.settle();
    assert!(number(&browser.evaluate("report.selection.until")) > until);
    browser.press("Escape", false);
    browser.settle();
    assert_eq!(number(&browser.evaluate("report.selection.until")), parts);
}

#[track_caller]
fn every_view_has_rows(browser: &mut Browser) {
    for (key, tab) in [("i", "icicle"), ("b", "inverted")] {
        browser.press(key, false);
        assert_eq!(words(browser, "report.tab"), tab);
        assert!(
            number(&browser.evaluate("report.view.rows.length")) > 3.0,
            "{tab}"
        );
    }
    // Where the time goes stands first in an inverted graph: its boxes are the functions' own times.
    let inverted = number(
        &browser
            .evaluate("report.view.tree.root.children.reduce((sum, box) => sum + box.value, 0)"),
    );
    assert_eq!(inverted, total(browser, "cpu"));
    for (key, tab) in [("l", "functions"), ("r", "calls")] {
        browser.press(key, false);
        let rows =
            number(&browser.evaluate("report.view.body.querySelectorAll('.grid-row').length"));
        assert!(rows > 2.0, "{tab}: {rows}");
        browser.press("ArrowDown", false);
        assert_eq!(
            number(&browser.evaluate("report.view.cursor")),
            1.0,
            "{tab}"
        );
    }
    browser.press("c", false);
    let around = "report.view.callers.rows.length > 1 && report.view.callees.rows.length > 1";
    assert_eq!(browser.evaluate(around), true);
    browser.press("f", false);
    assert_eq!(words(browser, "report.tab"), "flame");
}

#[track_caller]
fn lines_of_a_function_are_shown(browser: &mut Browser) {
    browser.press("l", false);
    browser.press("/", false);
    browser.type_text("/^unsigned int work::sort_noise/");
    browser.evaluate("report.view.body.querySelector('.grid-row').click()");
    browser.settle();
    let details = words(browser, "document.getElementById('details').textContent");
    assert!(details.contains("threads64.cpp:"), "{details}");
    browser.evaluate("report.setBy('line')");
    let names = words(
        browser,
        "[...report.view.body.querySelectorAll('.fn')].map((name) => name.textContent).join()",
    );
    assert!(names.contains("threads64.cpp:"), "{names}");
    browser.evaluate("report.setBy('function'); report.search('')");
    browser.press("f", false);
}

#[track_caller]
fn it_is_as_dark_as_its_reader_likes(browser: &mut Browser) {
    let background = "getComputedStyle(document.body).backgroundColor";
    browser.prefer_dark(false);
    let light = words(browser, background);
    browser.prefer_dark(true);
    let dark = words(browser, background);
    assert_ne!(light, dark);
    browser.evaluate("document.getElementById('theme').click()");
    assert_eq!(words(browser, background), light);
    browser.prefer_dark(false);
}

/// A program whose names are all markup.
const HOSTILE: &str = r#"
import ctypes, sys
def spin():
    total = 0
    while True:
        total += 1
markup = '</script><img src=x onerror="window.harmed=1">'
spin.__code__ = spin.__code__.replace(co_name=markup, co_filename='/tmp/<svg onload=window.harmed=1>.py')
if hasattr(spin.__code__, 'co_qualname'):
    spin.__code__ = spin.__code__.replace(co_qualname=markup)
ctypes.CDLL(None).prctl(15, b'<img src=x>', 0, 0, 0)
print('ready', flush=True)
spin()
"#;

#[test]
fn names_never_become_markup() {
    let sampler = sampler!();
    let program = sampler.path("<b>&amp;.py");
    fs::write(&program, HOSTILE).expect("its folder is ours");
    let mut command = Command::new(need("python3"));
    let target = Target::start_command(
        command
            .arg("-B")
            .arg(&program)
            .arg("</title><script>window.harmed=1</script>"),
    );
    sampler
        .attach(target.pid(), &["-d", "300ms", "-r", "499"])
        .wait()
        .expect_code(0);
    let mut browser = Browser::start();
    open(&mut browser, &sampler);
    for key in ["l", "r", "c", "i", "b", "f"] {
        browser.press(key, false);
    }
    browser.press("l", false);
    browser.press("ArrowDown", false);
    browser.press("Home", false);
    browser.evaluate("document.getElementById('about-open').click()");
    browser.settle();
    let names = words(
        &mut browser,
        "[...report.view.body.querySelectorAll('.fn')].map((name) => name.textContent).join('\\n')",
    );
    assert!(names.contains("</script><img src=x onerror="), "{names}");
    let title = words(&mut browser, "document.title");
    assert!(title.contains("</title><script>"), "{title}");
    assert!(browser.evaluate("window.harmed ?? null").is_null());
    assert_eq!(
        number(&browser.evaluate("document.querySelectorAll('img, svg, b > script').length")),
        0.0
    );
    expect_no_fault(&browser, &sampler);
}

const LOOKS: usize = 1_000_000;
const BUSY_THREADS: usize = 16;
const STACKS: usize = 20_000;
const FRAMES_MAX: usize = 40;
const PLACES: u64 = 6_000;
const PERIOD_NS: u64 = 10_101_010;
const PAGE_BYTES_MAX: u64 = 5_000_000;

/// Ten minutes of sixteen busy threads in a large program: most of the time in few of many stacks.
fn write_million(path: &Path) -> sampler::profile::StackWeights {
    let mut random = fastrand::Rng::with_seed(7);
    let file = BufWriter::new(File::create(path).expect("its folder is ours"));
    let mut writer = Writer::create(file, &RecordingInfo::default()).expect("it can be begun");
    let process = ProcessInfo {
        birth: None,
        pid: 1,
        command_line: "busy".to_owned(),
        executable: "/busy".to_owned(),
    };
    let process = writer.process(&process).expect("a process");
    let threads: Vec<_> = (1i32..)
        .take(BUSY_THREADS)
        .map(|tid| {
            let name = format!("worker-{tid}");
            writer
                .thread(&ThreadInfo { process, tid, name })
                .expect("a thread")
        })
        .collect();
    let module = ModuleInfo {
        path: "/of nobody/libbusy.so".to_owned(),
        build_id: None,
        image: None,
    };
    let module = writer.module(&module).expect("a module");
    let place = |address: u64| FrameKey::Code {
        module: Some(module),
        address: address * 24,
        is_return_address: true,
        origin: sampler_unwind::FrameOrigin::CallFrameInfo,
    };
    let mut stacks: Vec<Vec<FrameKey>> = vec![vec![place(1)]];
    while stacks.len() < STACKS {
        let mut stack = stacks[random.usize(..stacks.len())].clone();
        stack.truncate(random.usize(1..FRAMES_MAX));
        let deeper = random.usize(stack.len()..FRAMES_MAX) + 1;
        while stack.len() < deeper {
            stack.push(place(random.u64(..PLACES)));
        }
        stacks.push(stack);
    }
    let mut total = sampler::profile::StackWeights::default();
    for look in 0..LOOKS {
        let (tick, thread) = (look / BUSY_THREADS + 1, look % BUSY_THREADS);
        // The lower, the more often.
        let rank = (0..2).fold(random.usize(..STACKS), |bound, _| random.usize(..=bound));
        let weights = Observed {
            cpu_ns: PERIOD_NS - random.u64(..1_000_000),
            wall_ns: PERIOD_NS,
            run_queue_ns: random.u64(..1_000) * 1_000,
        };
        let observation = Observation {
            thread: threads[thread],
            at_ns: tick as u64 * PERIOD_NS + thread as u64 * 30_000,
            state: ThreadState::Running,
            // Numbers of stacks are void after some flushes.
            stack: writer.stack(&stacks[rank], End::Complete).expect("a stack"),
            ticks: 1,
            weights,
        };
        writer.observation(&observation).expect("an observation");
        total.cpu_ns += weights.cpu_ns;
        total.samples += 1;
        if look % (BUSY_THREADS * 99) == 0 {
            writer
                .flush(&Summary::default())
                .expect("it can be written");
        }
    }
    let summary = Summary {
        samples: LOOKS as u64,
        wall_ns: (LOOKS / BUSY_THREADS) as u64 * PERIOD_NS,
        ..Summary::default()
    };
    writer
        .finish(&summary)
        .expect("it can be ended")
        .flush()
        .expect("it can be written");
    total
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "how large and how quick it was belongs in a test's output"
)]
fn a_million_samples_are_a_small_page() {
    let sampler = sampler!();
    let due = write_million(&sampler.path("sampler.data"));
    let mut browser = Browser::start();
    open(&mut browser, &sampler);
    let bytes = fs::metadata(sampler.path("report.html"))
        .expect("it is there")
        .len();
    assert!(bytes < PAGE_BYTES_MAX, "{bytes} bytes");
    assert_eq!(total(&mut browser, "samples"), due.samples as f64);
    let cpu = total(&mut browser, "cpu");
    // Times of so many are in milliseconds, and of the sum no more than one is lost.
    assert!(
        (cpu - due.cpu_ns as f64 / 1e3).abs() <= 1001.0,
        "{cpu} µs of {due:?}"
    );
    // The time that a click takes is the browser's and the machine's: what it does is bounded by what fits on a screen.
    let drawn =
        number(&browser.evaluate("report.view.rows.reduce((sum, row) => sum + row.length, 0)"));
    let nodes = number(&browser.evaluate("report.profile.frames.length"));
    assert!(drawn < 60_000.0 && nodes > drawn, "{drawn} of {nodes}");
    let took = browser.evaluate(
        "(() => { const start = performance.now(); const { view } = report; const [box] = view.tree.children(view.tree.root); \
         view.choose(box); view.zoom(box); const zoomed = performance.now(); report.setWeight('wall'); \
         return [zoomed - start, performance.now() - zoomed].map(Math.round).join(' and '); })()",
    );
    println!("{bytes} bytes, {nodes} nodes; a click and another weight took {took} ms");
    expect_no_fault(&browser, &sampler);
}
