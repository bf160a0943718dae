//! Where names come from: the list of them, packs, servers, the cache.

use std::fs::{self, File, FileTimes};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sampler_tests_support::{Report, Sampler, Target, fixture, need, sampler};
use serde_json::Value;

/// A program of which the debug information is in a file of its own, recorded.
struct Split {
    sampler: Sampler,
    program: PathBuf,
    debug: PathBuf,
}

impl Split {
    #[track_caller]
    fn recorded() -> Self {
        let sampler = sampler!();
        let (program, debug) = (sampler.path("app"), sampler.path("app.debug"));
        let whole = fixture("shares");
        objcopy(&["--only-keep-debug"], &whole, &debug);
        let link = format!("--add-gnu-debuglink={}", debug.display());
        objcopy(&["--strip-all", &link], &whole, &program);
        let path = program.to_str().expect("our paths are text");
        sampler
            .run(&["record", "-r", "299", "--", path, "500"])
            .expect_code(0);
        Self {
            sampler,
            program,
            debug,
        }
    }

    /// What the program was is nowhere any more.
    fn replace(&self) {
        fs::remove_file(&self.debug).expect("it is there");
        fs::remove_file(&self.program).expect("it is there");
        fs::copy(fixture("recursion"), &self.program).expect("there is room");
    }

    #[track_caller]
    fn report(&self, options: &[&str]) -> Report {
        let mut words = vec!["report", "-f", "json"];
        words.extend(options);
        let done = self.sampler.run(&words);
        done.expect_code(0);
        Report::parse(&done.stdout)
    }
}

#[track_caller]
fn objcopy(options: &[&str], from: &Path, to: &Path) {
    let status = Command::new(need("objcopy"))
        .args(options)
        .args([from, to])
        .status();
    assert!(status.is_ok_and(|status| status.success()));
}

/// Whether the hot function has its name, and its line.
fn has_name_and_line(report: &Report) -> (bool, bool) {
    let mut frames = report.stacks.iter().flat_map(|stack| &stack.frames);
    let hot: Vec<_> = frames
        .by_ref()
        .filter(|frame| frame.function == "burns_sixty")
        .collect();
    let has_line = hot.iter().any(|frame| {
        let file = frame.file.as_deref().unwrap_or_default();
        file.ends_with("shares.c") && frame.line.is_some()
    });
    (!hot.is_empty(), has_line)
}

#[track_caller]
fn list(sampler: &Sampler, options: &[&str]) -> Value {
    let mut words = vec!["symbols", "--json"];
    words.extend(options);
    let done = sampler.run(&words);
    done.expect_code(0);
    serde_json::from_slice(&done.stdout).expect("it is JSON")
}

#[track_caller]
fn module<'v>(list: &'v Value, name: &str) -> &'v Value {
    let modules = list["modules"].as_array().expect("there are modules");
    let is_it = |module: &&Value| {
        module["path"]
            .as_str()
            .is_some_and(|path| path.ends_with(name))
    };
    modules
        .iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("{name} is missing from {list:#}"))
}

fn has_advice(module: &Value, words: &str) -> bool {
    let advice = module["advice"].as_array().expect("an array");
    advice
        .iter()
        .any(|line| line.as_str().is_some_and(|line| line.contains(words)))
}

#[test]
fn the_list_says_what_is_missing_and_how_to_get_it() {
    let split = Split::recorded();
    let whole = list(&split.sampler, &[]);
    let app = module(&whole, "/app");
    assert_eq!(app["unnamed_addresses"], 0);
    assert!(
        app["debug_file"]
            .as_str()
            .is_some_and(|path| path.ends_with("app.debug"))
    );
    assert_eq!(app["advice"], Value::Array(Vec::new()));
    assert!(
        app["names"][0]["from"]
            .as_str()
            .is_some_and(|from| from.contains("debug file"))
    );

    let libc = module(&whole, "/libc.so.6");
    if libc["debug_file"].is_null() {
        assert!(has_advice(libc, "apt install libc6-dbg"), "{libc:#}");
        assert!(has_advice(libc, "--debuginfod=https://"), "{libc:#}");
    }

    fs::remove_file(&split.debug).expect("it is there");
    let without = list(&split.sampler, &[]);
    let app = module(&without, "/app");
    assert!(app["unnamed_samples"].as_u64() > Some(0), "{app:#}");
    assert!(app["debug_file"].is_null());
    assert!(has_advice(app, "build it with -g"), "{app:#}");

    fs::remove_file(&split.program).expect("it is there");
    let text = split.sampler.run(&["symbols"]);
    text.expect_code(0);
    assert!(
        text.text()
            .contains("the file that ran is not here any more"),
        "{}",
        text.text()
    );
}

#[test]
fn a_pack_has_all_names_and_lines_when_the_program_is_gone() {
    let split = Split::recorded();
    let before = split.report(&[]);
    assert_eq!(has_name_and_line(&before), (true, true));
    let packed = split.sampler.run(&["symbols", "pack", "-o", "app.pack"]);
    packed.expect_code(0);
    split.replace();
    assert_eq!(has_name_and_line(&split.report(&[])), (false, false));
    let after = split.report(&["--symbols", "app.pack"]);
    let functions = |report: &Report| {
        let mut functions: Vec<_> = report
            .stacks
            .iter()
            .flat_map(|stack| &stack.frames)
            .map(|frame| (frame.function.clone(), frame.file.clone(), frame.line))
            .collect();
        functions.sort();
        functions
    };
    assert_eq!(functions(&after), functions(&before), "{:?}", after.notes);
    let listed = list(&split.sampler, &["--symbols", "app.pack"]);
    assert_eq!(module(&listed, "/app")["unnamed_addresses"], 0);
    // The code itself is not in it: less than the program, with the debug file of libc where that is installed.
    let bytes = |path: &Path| fs::metadata(path).expect("it is there").len();
    assert!(bytes(&split.sampler.path("app.pack")) < 16 << 20);
}

#[test]
fn a_pack_has_what_programs_share_too() {
    let sampler = sampler!();
    let [program, other, shared] = ["app", "other", "shared.debug"].map(|name| sampler.path(name));
    fs::copy(fixture("shares"), &program).expect("there is room");
    fs::copy(fixture("no_pie"), &other).expect("there is room");
    let moved = Command::new(need("dwz"))
        .arg("-m")
        .args([&shared, &program, &other])
        .output()
        .expect("dwz can be started");
    assert!(moved.status.success() && shared.exists(), "{moved:?}");
    let path = program.to_str().expect("our paths are text");
    sampler
        .run(&["record", "-r", "299", "--", path, "300"])
        .expect_code(0);
    sampler
        .run(&["symbols", "pack", "-o", "app.pack"])
        .expect_code(0);
    for file in [&program, &other, &shared] {
        fs::remove_file(file).expect("it is there");
    }
    let done = sampler.run(&["report", "-f", "json", "--symbols", "app.pack"]);
    done.expect_code(0);
    let report = Report::parse(&done.stdout);
    assert_eq!(
        has_name_and_line(&report),
        (true, true),
        "{:?}",
        report.notes
    );
}

#[test]
fn a_hostile_pack_is_refused() {
    let split = Split::recorded();
    let path = split.sampler.path("evil.pack");
    let file = File::create(&path).expect("the folder is ours");
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        file,
        flate2::Compression::fast(),
    ));
    for (name, content) in [("sampler-symbol-pack", "1\n"), ("root/../../../evil", "x")] {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        archive
            .append(&header, content.as_bytes())
            .expect("there is room");
    }
    archive
        .into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .expect("there is room");
    let done = split.sampler.run(&["report", "--symbols", "evil.pack"]);
    done.expect_error(1, &["evil.pack", "no symbol pack holds"]);
    fs::write(&path, "no archive at all").expect("the folder is ours");
    let done = split.sampler.run(&["report", "--symbols", "evil.pack"]);
    done.expect_error(1, &["cannot use the symbol pack"]);
}

/// A server of one debug file; how often it was asked.
fn serve(debug: &Path) -> (String, Arc<AtomicUsize>) {
    let content = fs::read(debug).expect("it is there");
    serve_by(move |request| {
        let is_right = request.starts_with("GET /buildid/") && request.contains("/debuginfo ");
        // Of other modules it has something else, which must not be taken for theirs.
        is_right.then(|| content.clone())
    })
}

/// A server of what `answer` has for the first line of a request; how often it was asked.
fn serve_by(
    mut answer: impl FnMut(&str) -> Option<Vec<u8>> + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let url = format!(
        "http://{}",
        listener.local_addr().expect("it has an address")
    );
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let Ok(reading) = stream.try_clone() else {
                continue;
            };
            let lines: Vec<String> = BufReader::new(reading)
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            count.fetch_add(1, Ordering::SeqCst);
            let request = lines.first().cloned().unwrap_or_default();
            let (status, content) = match answer(&request) {
                Some(content) => ("200 OK", content),
                None => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                content.len()
            );
            let _gone = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&content));
        }
    });
    (url, asked)
}

#[track_caller]
fn report_with(split: &Split, options: &[&str], environment: &[(&str, &str)]) -> Report {
    let mut words = vec!["report", "-f", "json"];
    words.extend(options);
    let mut command = split.sampler.command(words);
    command
        .env("DEBUGINFOD_CACHE_PATH", split.sampler.path("debuginfod"))
        .env("NO_PROXY", "127.0.0.1")
        .envs(environment.iter().copied());
    let done = split.sampler.start_command(&mut command).wait();
    done.expect_code(0);
    Report::parse(&done.stdout)
}

#[test]
fn a_server_is_asked_only_when_it_is_wanted_and_its_answer_is_kept() {
    let split = Split::recorded();
    let (url, asked) = serve(&split.debug);
    fs::remove_file(&split.debug).expect("it is there");
    let listed = list(&split.sampler, &[]);
    let build_id = module(&listed, "/app")["build_id"]
        .as_str()
        .expect("it has one")
        .to_owned();
    let unasked = report_with(&split, &[], &[("DEBUGINFOD_URLS", &url)]);
    assert_eq!(has_name_and_line(&unasked), (false, false));
    assert_eq!(asked.load(Ordering::SeqCst), 0);

    let report = report_with(&split, &["--debuginfod"], &[("DEBUGINFOD_URLS", &url)]);
    assert_eq!(
        has_name_and_line(&report),
        (true, true),
        "{:?}",
        report.notes
    );
    assert!(asked.load(Ordering::SeqCst) > 0);
    let kept = split
        .sampler
        .path("debuginfod")
        .join(build_id)
        .join("debuginfo");
    assert!(kept.exists());
    // Nobody is there any more.
    let again = report_with(&split, &["--debuginfod=http://127.0.0.1:1"], &[]);
    assert_eq!(has_name_and_line(&again), (true, true), "{:?}", again.notes);
}

/// The server is asked once the program has been opened and mapped.
#[test]
fn a_file_that_is_cut_off_while_it_is_read_ends_no_report() {
    let split = Split::recorded();
    fs::remove_file(&split.debug).expect("it is there");
    let build_id = module(&list(&split.sampler, &["--no-symbol-cache"]), "/app")["build_id"]
        .as_str()
        .expect("it has one")
        .to_owned();
    let program = split.program.clone();
    let (url, asked) = serve_by(move |request| {
        if request.contains(&build_id) {
            let file = File::options().write(true).open(&program);
            file.and_then(|file| file.set_len(100))
                .expect("nobody runs it any more");
        }
        None
    });
    let report = report_with(&split, &[&format!("--debuginfod={url}")], &[]);
    assert!(asked.load(Ordering::SeqCst) > 0);
    let is_told = |note: &String| note.starts_with("app: a file became shorter");
    assert!(report.notes.iter().any(is_told), "{:?}", report.notes);
    // What is left of it is no ELF file, whether it is asked again or a cache remembers.
    let again = report_with(&split, &[], &[]);
    assert_eq!(has_name_and_line(&again), (false, false));
}

#[test]
fn a_server_that_does_not_answer_holds_nobody_up() {
    let split = Split::recorded();
    fs::remove_file(&split.debug).expect("it is there");
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it has an address");
    let option = format!("--debuginfod=http://{address}");
    let report = report_with(&split, &[&option], &[("DEBUGINFOD_TIMEOUT", "1")]);
    assert_eq!(has_name_and_line(&report), (false, false));
    let told = report
        .notes
        .iter()
        .filter(|note| note.contains("not asked again"));
    assert_eq!(told.count(), 1, "{:?}", report.notes);
    let done = split
        .sampler
        .run(&["report", "--debuginfod=https://127.0.0.1:1", "-n", "1"]);
    done.expect_code(0);
}

#[test]
fn names_are_kept_for_the_next_report_as_long_as_the_files_are_the_same() {
    let sampler = sampler!();
    let program = sampler.path("app");
    fs::copy(fixture("shares"), &program).expect("there is room");
    let path = program.to_str().expect("our paths are text");
    sampler
        .run(&["record", "-r", "299", "--", path, "300"])
        .expect_code(0);
    let table = |options: &[&str]| {
        let words: Vec<&str> = ["report"].iter().chain(options).copied().collect();
        let done = sampler.run(&words);
        done.expect_code(0);
        done.text()
    };
    let first = table(&[]);
    assert!(first.contains("burns_sixty"), "{first}");
    assert_eq!(table(&[]), first);

    // Another name in the file, and nobody can tell that it has changed.
    let changed = fs::metadata(&program)
        .and_then(|file| file.modified())
        .expect("it is there");
    let bytes = fs::read(&program).expect("it is there");
    let file = File::options()
        .write(true)
        .open(&program)
        .expect("it is ours");
    let name = b"burns_sixty";
    for at in 0..bytes.len() - name.len() {
        if bytes[at..].starts_with(name) {
            file.write_all_at(b"churn", at as u64).expect("it is ours");
        }
    }
    file.set_times(FileTimes::new().set_modified(changed))
        .expect("it is ours");
    assert_eq!(table(&[]), first);
    assert!(table(&["--no-symbol-cache"]).contains("churn_sixty"));

    // What is damaged is looked up again.
    let mut damaged = 0;
    let folders = fs::read_dir(sampler.path("cache/sampler/symbols")).expect("there is a cache");
    for folder in folders {
        for file in fs::read_dir(folder.expect("a folder").path()).expect("a folder") {
            fs::write(file.expect("a file").path(), "damaged").expect("it is ours");
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    assert!(table(&[]).contains("churn_sixty"));
    fs::remove_dir_all(sampler.path("cache")).expect("it is safe to delete");
    assert!(table(&["--no-symbol-cache"]).contains("churn_sixty"));
    assert!(!sampler.path("cache").exists());
}

/// Serves one file over TLS, whatever is asked for; says on which port.
const TLS_SERVER: &str = r#"
import http.server, ssl, sys
content = open(sys.argv[1], "rb").read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *arguments):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
print("port", server.server_port, flush=True)
server.serve_forever()
"#;

#[test]
fn a_server_is_asked_over_tls_if_its_certificate_is_trusted() {
    let split = Split::recorded();
    let path = |name: &str| {
        let path = split.sampler.path(name);
        path.to_str().expect("our paths are text").to_owned()
    };
    let (key, certificate, debug) = (
        path("key.pem"),
        path("certificate.pem"),
        path("app.debug.kept"),
    );
    fs::rename(&split.debug, &debug).expect("the folder is ours");
    let made = Command::new(need("openssl"))
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .expect("openssl can be started");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let mut server = Command::new(need("python3"));
    server.args(["-c", TLS_SERVER, &debug, &certificate, &key]);
    let mut server = Target::spawn(&mut server);
    server.until_ready();
    let line = server.until_line(|line| line.starts_with("port "));
    let port = line.trim_start_matches("port ").trim();
    let option = format!("--debuginfod=https://127.0.0.1:{port}");

    let distrusted = report_with(&split, &[&option], &[("SSL_CERT_FILE", "/dev/null")]);
    assert_eq!(has_name_and_line(&distrusted), (false, false));
    let is_told = |note: &String| note.contains("not asked again");
    assert!(
        distrusted.notes.iter().any(is_told),
        "{:?}",
        distrusted.notes
    );
    let trusted = report_with(&split, &[&option], &[("SSL_CERT_FILE", &certificate)]);
    assert_eq!(
        has_name_and_line(&trusted),
        (true, true),
        "{:?}",
        trusted.notes
    );
}
