//! A real browser without a window: Debian's chromium, told what to do in its own protocol (DevTools) over a pipe.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::fixtures_dir;
use crate::need::need;
use crate::target::pid_of;
use crate::watchdog::Watchdog;

/// As wide and as high as a page is.
const WINDOW: (u32, u32) = (1400, 900);

/// The protocol goes through descriptors 3 and 4: here they are those that a child can be given without ado.
const PIPED: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// A browser with one page, and no network to any host but 127.0.0.1; killed on drop.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    watchdog: Option<Watchdog>,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    session: String,
    last_id: u64,
    faults: Vec<String>,
    requests: Vec<String>,
    /// Its own: nothing is left of another run.
    _folder: TempDir,
}

impl Browser {
    /// Starts it, with an empty page.
    ///
    /// # Panics
    /// When it cannot be started; as all here, when it does not answer as it should.
    #[track_caller]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let mut child = Command::new("/bin/sh")
            .args(["-c", PIPED])
            .arg(need("chromium"))
            .args([
                "--remote-debugging-pipe",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ])
            .arg(format!("--window-size={},{}", WINDOW.0, WINDOW.1))
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let watchdog = Watchdog::watch(pid_of(&child));
        let from = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut browser = Self {
            to: child.stdin.take(),
            child,
            watchdog: Some(watchdog),
            from,
            session: String::new(),
            last_id: 0,
            faults: Vec::new(),
            requests: Vec::new(),
            _folder: folder,
        };
        browser.attach();
        browser
    }

    #[track_caller]
    fn attach(&mut self) {
        let made = self.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let options = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", &options);
        text(&attached["sessionId"]).clone_into(&mut self.session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), &json!({}));
        }
        let (width, height) = WINDOW;
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Opens a file and waits until it is loaded and `ready`, an expression of its script, is true.
    #[track_caller]
    pub fn open(&mut self, path: &Path, ready: &str) {
        self.open_with(path, "", ready);
    }

    /// The same, with what stands behind the path: `?query#fragment`.
    #[track_caller]
    pub fn open_with(&mut self, path: &Path, behind: &str, ready: &str) {
        self.open_url(&format!("file://{}{behind}", path.display()), ready);
    }

    /// The same of what is at this URL, of a file or a server of this machine.
    #[track_caller]
    pub fn open_url(&mut self, url: &str, ready: &str) {
        self.requests.clear();
        self.call("Page.navigate", &json!({ "url": url }));
        let wait = format!(
            "new Promise((done) => {{ const look = () => location.protocol !== 'about:' && ({ready}) \
             ? done(true) : setTimeout(look, 10); look(); }})"
        );
        let options = json!({ "expression": wait, "awaitPromise": true });
        // The page that was there before may still answer, and be gone before it has.
        while self.exchange("Runtime.evaluate", &options).is_err() {}
    }

    /// What an expression is in the page, as JSON; a promise is waited for.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let options =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut done = self.call("Runtime.evaluate", &options);
        assert!(
            done.get("exceptionDetails").is_none(),
            "{expression}: {}",
            done["exceptionDetails"]
        );
        done["result"]["value"].take()
    }

    /// Waits until the page has drawn what was asked of it before.
    #[track_caller]
    pub fn settle(&mut self) {
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))");
    }

    /// Presses a key and lets it go, as `KeyboardEvent.key` names it; `shift` is held down meanwhile.
    #[track_caller]
    pub fn press(&mut self, key: &str, shift: bool) {
        let text = if key.len() == 1 { key } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let options = json!({ "type": kind, "key": key, "text": text, "modifiers": if shift { 8 } else { 0 } });
            self.call("Input.dispatchKeyEvent", &options);
        }
        self.settle();
    }

    /// Types a text into what has the focus.
    #[track_caller]
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
        self.settle();
    }

    /// Presses the mouse at one place, and lets it go at another; a click where they are the same.
    #[track_caller]
    pub fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        let steps = [
            ("mouseMoved", from, 0),
            ("mousePressed", from, 1),
            ("mouseMoved", to, 1),
            ("mouseReleased", to, 0),
        ];
        for (kind, (x, y), buttons) in steps {
            let button = if kind == "mouseMoved" && buttons == 0 {
                "none"
            } else {
                "left"
            };
            let options = json!({ "type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", &options);
        }
        self.settle();
    }

    /// Has the page think that its reader likes it dark, or light.
    #[track_caller]
    pub fn prefer_dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        );
        self.settle();
    }

    /// What the page had to complain about: uncaught exceptions, errors in the console, violations of its own policy.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// What it has loaded since it was opened, itself first.
    pub fn requests(&self) -> &[String] {
        &self.requests
    }

    #[track_caller]
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.exchange(method, parameters)
            .unwrap_or_else(|error| panic!("{method} {parameters}: {error}"))
    }

    /// Has the browser do something: what it answers, or why it does not.
    #[track_caller]
    fn exchange(&mut self, method: &str, parameters: &Value) -> Result<Value, Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let to = self.to.as_mut().expect("it is open");
        to.write_all(&bytes).expect("the browser listens");
        loop {
            let mut answer = self.read();
            if answer["id"] != id {
                self.note(&answer);
            } else if answer.get("error").is_some() {
                return Err(answer["error"].take());
            } else {
                return Ok(answer["result"].take());
            }
        }
    }

    #[track_caller]
    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from
            .read_until(0, &mut bytes)
            .expect("the browser can be read");
        assert_eq!(
            bytes.pop(),
            Some(0),
            "the browser has ended: does `chromium --headless --no-sandbox` start here?"
        );
        serde_json::from_slice(&bytes).expect("the browser speaks JSON")
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match text(&event["method"]) {
            "Runtime.exceptionThrown" => {
                self.faults.push(parameters["exceptionDetails"].to_string())
            }
            "Runtime.consoleAPICalled" if parameters["type"] == "error" => {
                self.faults.push(parameters["args"].to_string());
            }
            // It would wait for an answer for ever.
            "Page.javascriptDialogOpening" => panic!("the page says: {}", parameters["message"]),
            "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                self.faults.push(parameters["entry"].to_string());
            }
            "Network.requestWillBeSent" => self
                .requests
                .push(text(&parameters["request"]["url"]).to_owned()),
            _ => {}
        }
    }
}

/// The page of speedscope, as it is published.
///
/// # Panics
/// When it is not there, with what gets it.
#[track_caller]
pub fn need_speedscope() -> PathBuf {
    let page = fixtures_dir().join("speedscope-1.25.0/dist/release/index.html");
    assert!(
        page.exists(),
        "this test needs {}, from npm's speedscope@1.25.0: run tests/run",
        page.display()
    );
    page
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when nobody talks to it any more, and with it whoever holds the other end.
        self.to = None;
        let _gone = self.from.read_to_end(&mut Vec::new());
        self.watchdog = None;
        let _reaped = self.child.wait();
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
