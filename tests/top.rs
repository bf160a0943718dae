//! `sampler top`, in a terminal of its own.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use sampler_tests_support::{Target, sampler};

/// How long something may take to be shown.
const LIMIT: Duration = Duration::from_secs(60);

/// A terminal of 80 by 24 with a program in it, made by script(1).
struct InTerminal {
    script: Child,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    written: Vec<u8>,
}

impl InTerminal {
    fn start(mut script: Command) -> Self {
        let mut script = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script can be started");
        let mut stdout = script.stdout.take().expect("it is a pipe");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            script,
            output,
            screen: vt100::Parser::default(),
            written: Vec::new(),
        }
    }

    fn contents(&self) -> String {
        self.screen.screen().contents()
    }

    fn until(&mut self, what: &str, pleases: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let contents = self.contents();
            if pleases(&contents) {
                return contents;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => {
                    self.screen.process(&bytes);
                    self.written.extend(bytes);
                }
                Err(_) => panic!("{what} is not shown:\n{contents}"),
            }
        }
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().expect("it is a pipe");
        stdin.write_all(keys.as_bytes()).expect("script reads on");
        stdin.flush().expect("script reads on");
    }

    /// Waits for the end; all that was written, and whether it ended well.
    fn wait(mut self) -> (String, bool) {
        while let Ok(bytes) = self.output.recv_timeout(LIMIT) {
            self.written.extend(bytes);
        }
        let status = self.script.wait().expect("it is our child");
        let written = String::from_utf8_lossy(&self.written).into_owned();
        (written, status.success())
    }
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        // Gone already where all went well.
        let _gone = self.script.kill();
        let _status = self.script.wait();
    }
}

#[test]
fn functions_threads_and_lines_are_shown_and_the_terminal_is_given_back() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let program = sampler.command(["top", "-p", &target.pid_text()]);
    let words: Vec<String> = std::iter::once(program.get_program())
        .chain(program.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command"]);
    script.arg(format!("stty cols 80 rows 24; exec {}", words.join(" ")));
    script.arg("/dev/null").env("TERM", "xterm-256color");
    sampler.prepare(&mut script);
    let mut terminal = InTerminal::start(script);

    // The function that takes the most is first.
    let hottest = |screen: &str| {
        let first = screen.lines().nth(4).unwrap_or_default().to_owned();
        first.contains("sixty")
    };
    terminal.until("the hottest function", hottest);
    terminal.press("2");
    let threads = terminal.until("the thread", |screen| screen.contains("mostly at"));
    assert!(threads.contains(&target.pid_text()), "{threads}");
    terminal.press("3");
    terminal.until("a line", |screen| screen.contains("shares.c:"));
    terminal.press("1/thirty\r");
    let filtered = terminal.until("the filter", |screen| {
        screen.contains("/thirty") && !screen.contains("sixty")
    });
    assert!(filtered.contains("thirty"), "{filtered}");
    terminal.press(" ");
    terminal.until("the pause", |screen| screen.contains("paused"));
    terminal.press("q");
    let (written, is_success) = terminal.wait();
    assert!(is_success);
    // The terminal's other screen is left, and the cursor shown.
    for restored in ["\x1b[?1049l", "\x1b[?25h"] {
        assert!(written.contains(restored), "{written:?}");
    }
    target.assert_free();
}

#[test]
fn a_terminal_is_needed() {
    let sampler = sampler!();
    let target = Target::start("shares", &[]);
    let done = sampler.run(&["top", "-p", &target.pid_text()]);
    done.expect_error(1, &["needs a terminal", "sampler record"]);
    sampler.run(&["top"]).expect_code(2);
}
