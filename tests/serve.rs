//! `--serve`: the page while something is recorded or watched, over HTTP and in a real browser.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sampler_tests_support::{Browser, Done, Running, Sampler, Signal, Target, sampler};

/// Nothing that is asked for takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A sampler that serves.
struct Served {
    running: Running,
    messages: std::path::PathBuf,
    /// What to open.
    url: String,
    /// Where it listens.
    address: String,
    token: String,
}

impl Served {
    /// Starts it with these arguments, and waits until it says what to open.
    #[track_caller]
    fn start(sampler: &Sampler, arguments: &[&str]) -> Self {
        let messages = sampler.path("messages");
        let mut command: Command = sampler.command(arguments);
        command.stderr(File::create(&messages).expect("the folder is ours"));
        let running = sampler.start_command(&mut command);
        let said = || fs::read_to_string(&messages).unwrap_or_default();
        let url_of = |said: &str| -> Option<String> {
            let (url, _) = said.split_once("live at ")?.1.split_once('\n')?;
            Some(url.to_owned())
        };
        running.until_file(|| url_of(&said()).is_some());
        let url = url_of(&said()).expect("it was there");
        let (before, token) = url.split_once("/?token=").expect("a token");
        Self {
            running,
            messages,
            address: before.strip_prefix("http://").expect("a URL").to_owned(),
            token: token.to_owned(),
            url,
        }
    }

    /// Sends a request; the answer can be read from what is returned.
    #[track_caller]
    fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream
            .set_read_timeout(Some(LIMIT))
            .expect("it is a socket");
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    }

    /// The whole answer to a request.
    #[track_caller]
    fn answer(&self, request: &str) -> String {
        let mut answer = Vec::new();
        let read = self.send(request).read_to_end(&mut answer);
        // What was not read of a request that is too long cuts the connection off, after the answer.
        assert!(read.is_ok() || !answer.is_empty(), "{request}: {read:?}");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[track_caller]
    fn events(&self) -> Events {
        let request = format!(
            "GET /events?token={} HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.token, self.address
        );
        Events {
            lines: BufReader::new(self.send(&request)),
        }
    }

    #[track_caller]
    fn wait(self) -> (Done, String) {
        let done = self.running.wait();
        (
            done,
            fs::read_to_string(&self.messages).expect("it is ours"),
        )
    }
}

/// The server-sent events of a connection.
struct Events {
    lines: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Event {
    id: u64,
    name: String,
    data: String,
}

impl Events {
    #[track_caller]
    fn next(&mut self) -> Event {
        let mut event = Event {
            id: 0,
            name: String::new(),
            data: String::new(),
        };
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).expect("events come");
            assert!(read > 0, "the events ended without saying so");
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => event.id = id.parse().expect("a number"),
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => event.data = data.to_owned(),
                _ if line == "\n" && !event.name.is_empty() => return event,
                _ => {}
            }
        }
    }

    /// The samples of the next states, until one pleases or there are no more.
    #[track_caller]
    fn samples_until(&mut self, pleases: impl Fn(&[u64]) -> bool) -> Vec<u64> {
        let (mut samples, mut last) = (Vec::new(), 0);
        loop {
            let event = self.next();
            match event.name.as_str() {
                "profile" => samples.push(samples_of(&event.data)),
                "ended" => return samples,
                other => panic!("an event {other}"),
            }
            assert!(event.id > last, "{} after {last}", event.id);
            last = event.id;
            if pleases(&samples) {
                return samples;
            }
        }
    }
}

/// How many samples a packed profile says it has.
#[track_caller]
fn samples_of(packed: &str) -> u64 {
    let compressed = BASE64.decode(packed).expect("base64");
    let mut bytes = Vec::new();
    flate2::read::DeflateDecoder::new(&compressed[..])
        .read_to_end(&mut bytes)
        .expect("deflate");
    let (length, rest) = bytes.split_first_chunk().expect("a length");
    let head = &rest[..u32::from_le_bytes(*length) as usize];
    let head: serde_json::Value = serde_json::from_slice(head).expect("JSON");
    head["summary"]["samples"].as_u64().expect("a number")
}

#[track_caller]
fn samples_of_page(page: &str) -> u64 {
    let (_, rest) = page.split_once("id=\"profile\">").expect("a profile");
    samples_of(rest.split_once('<').expect("its end").0)
}

fn grows(samples: &[u64]) -> bool {
    samples.first() < samples.last()
}

#[test]
fn only_who_has_the_token_and_asks_for_us_is_answered() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let served = Served::start(&sampler, &["record", "-p", &target.pid_text(), "--serve"]);
    let (token, host) = (served.token.clone(), format!("Host: {}", served.address));
    assert!(
        served.address.starts_with("127.0.0.1:"),
        "{}",
        served.address
    );
    assert_eq!(token.len(), 32);
    let wrong = format!("{:x}{}", u8::from(!token.starts_with('1')), &token[1..]);
    let right = format!("/?token={token}");
    let long = "x".repeat(20_000);
    for (line, fields, due) in [
        (format!("GET {right} HTTP/1.1"), host.as_str(), 200),
        // Through a forwarded port.
        (format!("GET {right} HTTP/1.1"), "Host: localhost:8080", 200),
        (
            format!("GET /?a=b&token={token} HTTP/1.1"),
            host.as_str(),
            200,
        ),
        ("GET / HTTP/1.1".to_owned(), host.as_str(), 403),
        ("GET /events HTTP/1.1".to_owned(), host.as_str(), 403),
        (format!("GET /?token={wrong} HTTP/1.1"), host.as_str(), 403),
        (format!("GET /?token={token}0 HTTP/1.1"), host.as_str(), 403),
        (
            format!("GET /events?token={wrong} HTTP/1.1"),
            host.as_str(),
            403,
        ),
        ("GET /favicon.ico HTTP/1.1".to_owned(), host.as_str(), 403),
        // A name of elsewhere that leads to this address.
        (
            format!("GET {right} HTTP/1.1"),
            "Host: rebound.example",
            403,
        ),
        (format!("GET {right} HTTP/1.1"), "X: y", 400),
        (
            format!("GET /nothing?token={token} HTTP/1.1"),
            host.as_str(),
            404,
        ),
        (format!("POST {right} HTTP/1.1"), host.as_str(), 405),
        (
            format!("GET /?token={token}&{long} HTTP/1.1"),
            host.as_str(),
            431,
        ),
        ("hello".to_owned(), host.as_str(), 400),
    ] {
        let answer = served.answer(&format!("{line}\r\n{fields}\r\n\r\n"));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {due} ")),
            "{line} {fields}: {answer:.300}"
        );
        let lower = answer.to_ascii_lowercase();
        assert!(!lower.contains("access-control"), "{answer:.500}");
        assert_eq!(due == 200, lower.contains("id=\"profile\">"), "{line}");
        assert!(lower.contains("cache-control: no-store"), "{answer:.500}");
    }
    served.running.signal(Signal::SIGTERM);
    served.wait().0.expect_code(0);
    target.assert_free();
}

#[test]
fn states_come_to_all_who_watch_until_the_recording_ends() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let served = Served::start(
        &sampler,
        &["record", "-p", &target.pid_text(), "--serve", "127.0.0.1:0"],
    );
    let (mut one, mut other) = (served.events(), served.events());
    // A third takes nothing of what it is told.
    let _idle = served.events();
    for events in [&mut one, &mut other] {
        let samples = events.samples_until(grows);
        assert!(grows(&samples), "{samples:?}");
    }
    let request = format!(
        "GET /?token={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        served.token
    );
    let page = served.answer(&request);
    assert!(samples_of_page(&page) > 0);
    assert!(page.contains("connect-src 'self'"));
    let address = served.address.clone();
    served.running.signal(Signal::SIGTERM);
    let last = [&mut one, &mut other].map(|events| events.samples_until(|_| false).last().copied());
    served.wait().0.expect_code(0);
    TcpStream::connect(address).expect_err("it listens no longer");
    let recorded = sampler.report().summary.samples;
    for last in last {
        assert!(
            last.is_none_or(|samples| samples <= recorded),
            "{last:?} of {recorded}"
        );
    }
    target.assert_free();
}

#[test]
fn a_few_samples_without_stops_are_seen_as_well() {
    let sampler = sampler!();
    // It sleeps: what runs cannot be seen without.
    let target = Target::start("threads64", &[]);
    let arguments = [
        "record",
        "-p",
        &target.pid_text(),
        "--no-stop",
        "-r",
        "2",
        // The page takes what time is left on the machine.
        "-d",
        "10s",
        "-o",
        "short.html",
        "--serve",
    ];
    let served = Served::start(&sampler, &arguments);
    let samples = served.events().samples_until(|_| false);
    assert!(samples.last().is_some_and(|&last| last > 0), "{samples:?}");
    served.wait().0.expect_code(0);
    let page = fs::read_to_string(sampler.path("short.html")).expect("the report is there");
    // The report itself asks nobody.
    assert!(samples_of_page(&page) > 0 && !page.contains("connect-src 'self'"));
}

#[test]
fn files_that_follow_each_other_are_shown_one_after_the_other() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let pid = target.pid_text();
    let served = Served::start(
        &sampler,
        &[
            "record", "-p", &pid, "-r", "199", "--rotate", "2s", "--serve",
        ],
    );
    let begins_anew = |samples: &[u64]| samples.windows(2).any(|pair| pair[1] < pair[0]);
    let samples = served.events().samples_until(begins_anew);
    assert!(begins_anew(&samples), "{samples:?}");
    served.running.signal(Signal::SIGINT);
    served.wait().0.expect_code(0);
}

#[test]
fn top_needs_no_terminal_then_and_ends_with_its_target() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let arguments = [
        "top",
        "-p",
        &target.pid_text(),
        "--max-overhead",
        "off",
        "--serve",
        "0.0.0.0:0",
    ];
    let served = Served::start(&sampler, &arguments);
    assert!(
        served.address.starts_with("127.0.0.1:"),
        "{}",
        served.address
    );
    let mut events = served.events();
    let samples = events.samples_until(grows);
    assert!(grows(&samples), "{samples:?}");
    target.end();
    events.samples_until(|_| false);
    let (done, messages) = served.wait();
    done.expect_code(0);
    assert!(
        messages.contains("warning: other machines can reach it"),
        "{messages}"
    );
}

#[test]
fn what_cannot_be_served_is_said_before_anything_is_begun() {
    let sampler = sampler!();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken
        .local_addr()
        .map(|address| (taken, address))
        .expect("it has one");
    let address = taken.1.to_string();
    let done = sampler.run(&["record", "--serve", &address, "--", "touch", "begun"]);
    done.expect_error(125, &["cannot listen on", &address]);
    assert!(!sampler.path("begun").exists() && !sampler.path("sampler.data.partial").exists());
    let stdout = sampler.run(&["record", "--serve=0", "-o", "-", "--", "true"]);
    stdout.expect_code(2);
    assert!(
        stdout.stderr.contains("--serve needs a file"),
        "{}",
        stdout.stderr
    );
    let command = sampler.run(&["record", "--serve", "./program"]);
    command.expect_code(2);
    assert!(
        command.stderr.contains("--serve -- CMD"),
        "{}",
        command.stderr
    );
}

#[test]
fn the_page_changes_by_itself_and_keeps_what_was_chosen() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let served = Served::start(&sampler, &["record", "-p", &target.pid_text(), "--serve"]);
    let mut browser = Browser::start();
    const SAMPLES: &str = "report.profile.head.summary.samples";
    // The first state may hold a sample or two.
    const FIND: &str = "((box) => { const { tree } = report.view; \
         const find = (box) => tree.children(box).reduce((found, child) => found ?? \
         (tree.name(child).includes('sixty') ? child : find(child)), null); return find(box); })";
    browser.open_url(
        &served.url,
        &format!(
            "window.report !== undefined && {SAMPLES} > 0 && {FIND}(report.view.tree.root) !== null"
        ),
    );
    browser.press("2", false);
    browser.press("/", false);
    browser.type_text("sixty");
    browser.press("Enter", false);
    browser.evaluate(&format!(
        "(() => {{ const {{ view }} = report; view.choose({FIND}(view.tree.root)); \
         view.zoom(view.cursor); }})()"
    ));
    browser.evaluate("document.querySelector('#lane-names .lane').click()");
    browser.settle();
    const CHOSEN: &str = "[report.weight, report.tab, document.getElementById('search').value, \
         report.view.tree.name(report.view.focus), report.view.tree.name(report.view.cursor), \
         report.grouping.groups[report.group].key, report.profile.threads[[...report.selection.threads][0]].tid, \
         report.selection.from].join('|')";
    let chosen = browser.evaluate(CHOSEN);
    assert!(
        chosen.as_str().is_some_and(
            |chosen| chosen.starts_with("wall|flame|sixty|burns_sixty|burns_sixty|burns_sixty")
        ),
        "{chosen}"
    );
    let newer = |than: &str| {
        format!(
            "new Promise((done) => {{ const before = {than}; const look = () => {SAMPLES} > before ? done(true) \
             : setTimeout(look, 20); look(); }})"
        )
    };
    browser.evaluate(&newer(SAMPLES));
    browser.settle();
    assert_eq!(browser.evaluate(CHOSEN), chosen);
    let selected = "report.selection.until === report.profile.parts && report.sums.sum > 0";
    assert_eq!(browser.evaluate(selected), true);
    let mark = "document.getElementById('live').textContent";
    assert_eq!(browser.evaluate(mark), "live");
    // Paused, what comes is kept until it is wanted.
    browser.evaluate("document.activeElement.blur()");
    browser.press("p", false);
    assert_eq!(browser.evaluate(mark), "paused");
    let paused = browser.evaluate(&format!(
        "new Promise((done) => {{ const before = {SAMPLES}; const look = () => report.live.next !== null \
         ? done([before, {SAMPLES}].join()) : setTimeout(look, 20); look(); }})"
    ));
    let (before, after) = paused
        .as_str()
        .and_then(|two| two.split_once(','))
        .expect("two numbers");
    assert_eq!(before, after);
    browser.press("p", false);
    browser.evaluate(&newer(before));
    served.running.signal(Signal::SIGINT);
    browser.evaluate(
        "new Promise((done) => { const look = () => report.live.state === 'ended' ? done(true) : setTimeout(look, 20); look(); })",
    );
    assert_eq!(browser.evaluate(mark), "ended");
    // The last state stays.
    assert_eq!(browser.evaluate(CHOSEN), chosen);
    let url = served.url.clone();
    served.wait().0.expect_code(0);
    assert_eq!(browser.faults(), [] as [String; 0]);
    let events = url.replace("/?", "/events?");
    for request in browser.requests() {
        assert!(*request == url || request.starts_with(&events), "{request}");
    }
}

/// One that took Ctrl-Z would stop the sampler while a thread of the target is held.
#[test]
fn only_who_samples_takes_what_stops_programs() {
    const SIGTSTP: u64 = 1 << (20 - 1); // signal(7)
    for (command, sampling) in [("record", "sampler"), ("top", "sampling")] {
        let sampler = sampler!();
        let target = Target::start("shares", &[]);
        let served = Served::start(&sampler, &[command, "-p", &target.pid_text(), "--serve"]);
        // Then all are there.
        let mut events = served.events();
        assert_eq!(events.next().name, "profile");
        let tasks = fs::read_dir(format!("/proc/{}/task", served.running.pid()));
        let mut names = Vec::new();
        for task in tasks.expect("it runs") {
            let status = fs::read_to_string(task.expect("a thread").path().join("status"));
            let status = status.expect("threads stay");
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.expect("it is there").trim().to_owned()
            };
            let blocked = u64::from_str_radix(&field("SigBlk:"), 16).expect("a number");
            let name = field("Name:");
            assert!(
                name == sampling || blocked & SIGTSTP != 0,
                "{command}: {name} blocks {blocked:x}"
            );
            names.push(name);
        }
        for there in [sampling, "writer", "page", "serve", "connection"] {
            assert!(names.iter().any(|name| name == there), "{names:?}");
        }
    }
}
