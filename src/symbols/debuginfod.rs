//! Debug files from a server, by build ID: the protocol of debuginfod(8), and the cache of its client.
//!
//! Only when a report is made, and only when it is asked for: a server learns what was profiled. What it sends is used
//! only if it is an ELF file with the build ID that was asked for.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sampler_unwind::BuildId;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// How long a server may keep silent, and all of them together for all files of a report.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const TIME_MAX_DEFAULT: Duration = Duration::from_secs(600);

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How large a debug file may be, in bytes. The largest that distributions have are some gigabytes.
const FILE_BYTES_MAX: u64 = 8 << 30;

/// How much is received at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How long it is remembered that no server has a file, unless the cache's own `cache_miss_s` says otherwise (as
/// debuginfod_find_debuginfo(3) has it).
const MISS_EXPIRES_S: u64 = 600;

/// Where the certificates are that a system trusts: Debian and its relatives, Fedora, openSUSE, Alpine.
const CERTIFICATE_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which servers are asked, and where what they sent is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebuginfodSettings {
    /// Their addresses, in the order in which they are asked: `https://debuginfod.elfutils.org`.
    pub urls: Vec<String>,
    /// The folder of the client that comes with elfutils, which has the same layout.
    pub cache: PathBuf,
    /// How long a server may keep silent.
    pub timeout: Duration,
    /// How long all of them may take for all files.
    pub time_max: Duration,
    /// A file with certificates to trust instead of the system's.
    pub certificates: Option<PathBuf>,
}

impl DebuginfodSettings {
    /// Asks `urls`, and keeps what comes in `cache`.
    pub fn new(urls: Vec<String>, cache: PathBuf) -> Self {
        Self {
            urls,
            cache,
            timeout: TIMEOUT_DEFAULT,
            time_max: TIME_MAX_DEFAULT,
            certificates: None,
        }
    }
}

/// Asks servers, for as long as all of them may take.
#[derive(Debug)]
pub(super) struct Debuginfod {
    cache: PathBuf,
    timeout: Duration,
    /// The servers that have not failed.
    servers: Vec<Server>,
    certificates: Option<PathBuf>,
    time_left: Duration,
}

#[derive(Debug)]
struct Server {
    url: String,
    agent: Option<Agent>,
}

/// Why there is no file from a server.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    /// It does not have it: no reason to ask it nothing more.
    #[error("it is not there")]
    NotFound,
    /// It cannot be asked.
    #[error("{0}")]
    Http(#[from] Box<ureq::Error>),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("what it sent is not the debug file that was asked for")]
    Garbage,
    #[error("all servers together have taken too long")]
    OutOfTime,
    #[error("not an address that begins with http:// or https://")]
    Scheme,
    #[error(
        "https needs a CPU with AES, AVX2, BMI, ADX and PCLMULQDQ instructions here; http:// works, and so does \
         `debuginfod-find debuginfo BUILDID`, whose cache is read"
    )]
    Cpu,
    #[error("no file with certificates of authorities was found; $SSL_CERT_FILE may name one")]
    NoCertificates,
}

impl Debuginfod {
    pub(super) fn new(settings: DebuginfodSettings) -> Self {
        let server = |url: String| Server {
            url: url.trim_end_matches('/').to_owned(),
            agent: None,
        };
        Self {
            cache: settings.cache,
            timeout: settings.timeout,
            servers: settings.urls.into_iter().map(server).collect(),
            certificates: settings.certificates,
            time_left: settings.time_max,
        }
    }

    /// The debug file of `build_id`: from the cache, or from the first server that has it. `is_right` says whether a
    /// file is what was asked for. What went wrong is added to `notes`; a server that fails is not asked again.
    pub(super) fn find(
        &mut self,
        build_id: &BuildId,
        is_right: impl Fn(&Path) -> bool,
        notes: &mut Vec<String>,
    ) -> Option<PathBuf> {
        let hex = build_id.to_string();
        if hex.len() < 4 || hex.len() > 128 {
            return None;
        }
        let path = self.cache.join(&hex).join("debuginfo");
        if let Ok(file) = fs::symlink_metadata(&path) {
            if file.len() > 0 && is_right(&path) {
                return Some(path);
            }
            if file.len() == 0 && self.is_recent(file.mtime()) {
                return None;
            }
        }
        let mut all_say_no = !self.servers.is_empty();
        let mut number = 0;
        while let Some(server) = self.servers.get_mut(number) {
            let began = Instant::now();
            let fetched = server.fetch(
                &hex,
                &path,
                self.timeout,
                self.time_left,
                self.certificates.as_deref(),
                &is_right,
            );
            self.time_left = self.time_left.saturating_sub(began.elapsed());
            match fetched {
                Ok(()) => return Some(path),
                Err(FetchError::NotFound) => number += 1,
                Err(error) => {
                    all_say_no = false;
                    let server = self.servers.remove(number);
                    notes.push(format!(
                        "debuginfod: {}: {error}; not asked again",
                        server.url
                    ));
                }
            }
        }
        if all_say_no {
            // Without it all are asked again the next time.
            let _unremembered = remember_miss(&path);
        }
        None
    }

    fn is_recent(&self, written_unix_s: i64) -> bool {
        let expires_s = fs::read_to_string(self.cache.join("cache_miss_s"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(MISS_EXPIRES_S);
        let now_s = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let age_s = u64::try_from(written_unix_s)
            .ok()
            .and_then(|written_s| now_s.checked_sub(written_s));
        age_s.is_some_and(|age_s| age_s < expires_s)
    }
}

impl Server {
    /// Brings the file to `path`, in one piece or not at all.
    fn fetch(
        &mut self,
        hex: &str,
        path: &Path,
        timeout: Duration,
        time_left: Duration,
        certificates: Option<&Path>,
        is_right: impl Fn(&Path) -> bool,
    ) -> Result<(), FetchError> {
        if time_left.is_zero() {
            return Err(FetchError::OutOfTime);
        }
        let agent = match self.agent.take() {
            Some(agent) => agent,
            None => agent(&self.url, timeout, certificates)?,
        };
        let agent = self.agent.insert(agent);
        let response = agent
            .get(format!("{}/buildid/{hex}/debuginfo", self.url))
            .config()
            .timeout_global(Some(time_left))
            .build()
            .call()
            .map_err(Box::new)?;
        match response.status().as_u16() {
            200 => {}
            404 => return Err(FetchError::NotFound),
            status => return Err(FetchError::Status(status)),
        }
        let folder = path.parent().unwrap_or(path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let body = response.into_body();
        let mut body = body.into_with_config().limit(FILE_BYTES_MAX).reader();
        copy(&mut body, file.as_file_mut())?;
        if !is_right(file.path()) {
            return Err(FetchError::Garbage);
        }
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

fn copy(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            length => to.write_all(piece.get(..length).unwrap_or_default())?,
        }
    }
}

/// An empty file, as the client of elfutils makes it.
fn remember_miss(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    tempfile::NamedTempFile::new_in(folder)?.persist(path)?;
    Ok(())
}

fn agent(url: &str, timeout: Duration, certificates: Option<&Path>) -> Result<Agent, FetchError> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("sampler/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(timeout.min(CONNECT_MAX)))
        .timeout_connect(Some(timeout.min(CONNECT_MAX)))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(timeout))
        .timeout_per_write(Some(timeout));
    let config = match url.split_once("://") {
        Some(("http", _)) => config,
        Some(("https", _)) => config.https_only(true).tls_config(tls(certificates)?),
        _ => return Err(FetchError::Scheme),
    };
    Ok(config.build().new_agent())
}

fn tls(certificates: Option<&Path>) -> Result<TlsConfig, FetchError> {
    if !can_do_tls() {
        return Err(FetchError::Cpu);
    }
    let own = certificates.into_iter();
    let text = own
        .chain(CERTIFICATE_FILES.iter().map(Path::new))
        .find_map(|path| fs::read(path).ok())
        .ok_or(FetchError::NoCertificates)?;
    let roots: Vec<Certificate<'static>> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) | Err(_) => None,
        })
        .collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(rustls_graviola::default_provider().into())
        .root_certs(RootCerts::from(roots))
        .build())
}

/// What graviola 0.4 requires of a CPU; it panics on others.
#[cfg(target_arch = "x86_64")]
fn can_do_tls() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("adx")
        && is_x86_feature_detected!("avx")
        && is_x86_feature_detected!("avx2")
}

/// As above: graviola 0.4, `low/aarch64/cpu.rs`.
#[cfg(target_arch = "aarch64")]
fn can_do_tls() -> bool {
    use std::arch::is_aarch64_feature_detected;
    is_aarch64_feature_detected!("neon")
        && is_aarch64_feature_detected!("aes")
        && is_aarch64_feature_detected!("pmull")
        && is_aarch64_feature_detected!("sha2")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What a server does with each request.
    #[derive(Clone, Copy)]
    enum Does {
        Sends(&'static str),
        KeepsSilent,
        /// A promise of more than comes.
        Trickles,
    }

    /// Serves on a port of its own for as long as the test runs; how many requests came.
    fn serve(does: Does) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for line in lines.map_while(Result::ok) {
                    if line.is_empty() {
                        break;
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                match does {
                    Does::Sends(response) => stream.write_all(response.as_bytes()).unwrap(),
                    Does::KeepsSilent => kept.push(stream),
                    Does::Trickles => {
                        stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nright")
                            .unwrap();
                        kept.push(stream);
                    }
                }
            }
        });
        (url, requests)
    }

    const FOUND: Does =
        Does::Sends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nright");
    const GARBAGE: Does =
        Does::Sends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwrong");
    const NOT_FOUND: Does =
        Does::Sends("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");

    fn client(urls: &[&str], cache: &Path) -> Debuginfod {
        let urls = urls.iter().map(|&url| url.to_owned()).collect();
        Debuginfod::new(DebuginfodSettings {
            timeout: Duration::from_millis(300),
            ..DebuginfodSettings::new(urls, cache.to_owned())
        })
    }

    fn is_right(path: &Path) -> bool {
        fs::read(path).is_ok_and(|bytes| bytes == b"right")
    }

    fn find(client: &mut Debuginfod) -> (Option<PathBuf>, Vec<String>) {
        let mut notes = Vec::new();
        let found = client.find(&BuildId(vec![0xab; 20]), is_right, &mut notes);
        (found, notes)
    }

    #[test]
    fn what_a_server_has_is_kept_where_elfutils_keeps_it() {
        let cache = tempfile::tempdir().unwrap();
        let ((no, _), (yes, asked)) = (serve(NOT_FOUND), serve(FOUND));
        let path = cache.path().join("ab".repeat(20)).join("debuginfo");
        for _ in 0..2 {
            let (found, notes) = find(&mut client(&[&no, &yes], cache.path()));
            assert_eq!((found.as_deref(), notes.len()), (Some(path.as_path()), 0));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(is_right(&path));
    }

    #[test]
    fn what_nobody_has_is_asked_again_only_later() {
        let cache = tempfile::tempdir().unwrap();
        let (url, asked) = serve(NOT_FOUND);
        for _ in 0..2 {
            assert_eq!(find(&mut client(&[&url], cache.path())), (None, Vec::new()));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        fs::write(cache.path().join("cache_miss_s"), "0\n").unwrap();
        assert_eq!(find(&mut client(&[&url], cache.path())).0, None);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_server_that_is_slow_or_lies_is_asked_once() {
        for does in [Does::KeepsSilent, Does::Trickles, GARBAGE] {
            let cache = tempfile::tempdir().unwrap();
            let (url, asked) = serve(does);
            let mut client = client(&[&url], cache.path());
            let (found, notes) = find(&mut client);
            assert_eq!(found, None);
            assert!(
                notes.len() == 1 && notes[0].contains("not asked again"),
                "{notes:?}"
            );
            assert_eq!(find(&mut client), (None, Vec::new()));
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            let folder = cache.path().join("ab".repeat(20));
            let left = fs::read_dir(folder).map_or(0, Iterator::count);
            assert_eq!(left, 0, "nothing of it is kept");
        }
    }

    #[test]
    fn an_address_that_is_none_is_told() {
        let cache = tempfile::tempdir().unwrap();
        let (found, notes) = find(&mut client(
            &["ftp://x", "http://127.0.0.1:1"],
            cache.path(),
        ));
        assert_eq!((found, notes.len()), (None, 2));
        assert!(notes[0].contains("http://"), "{notes:?}");
    }
}
