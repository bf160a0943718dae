//! Listens, and gives each connection a thread.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::address::ServeAddress;
use super::board::Board;
use super::connection;
use super::token::Token;

/// So many connections at most: a browser has one or two for each page.
pub(super) const CONNECTIONS_MAX: usize = 16;
/// A connection's thread needs little.
const STACK_BYTES: usize = 256 << 10;
/// After each connection nothing is accepted for so long: whoever makes them without end is not to cost more than a
/// hundred a second do.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// When the end is told, those who read it are waited for no longer than this to be waked.
const WAKE_WITHIN: Duration = Duration::from_millis(200);

/// An address that is ours, with nobody listening yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    gate: Gate,
}

/// Who may ask.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) token: Token,
    /// The name that the address was given by.
    pub(super) own_name: Option<String>,
}

impl Bound {
    /// Takes an address.
    ///
    /// # Errors
    /// When it is not there, or not free.
    pub fn bind(address: &ServeAddress) -> io::Result<Self> {
        let listener = TcpListener::bind(&*address.resolve()?)?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            gate: Gate {
                token: Token::random()?,
                own_name: address.name().map(str::to_owned),
            },
        })
    }

    /// Whether other machines may reach it.
    pub fn is_open_to_others(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback()
    }

    /// What to open in a browser of this machine.
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}/?token={}", self.gate.token.reveal())
    }

    /// Answers from now on, with what is on `board`.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn serve(self, board: Arc<Board>) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            gate: self.gate,
            board,
            open: Mutex::default(),
            closed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let listener = self.listener;
        let thread = thread::Builder::new()
            .name("serve".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || accept(&listener, &accepting))?;
        Ok(Server {
            address: self.address,
            shared,
            thread,
        })
    }
}

/// A server that answers.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// What all connections know.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) gate: Gate,
    pub(super) board: Arc<Board>,
    open: Mutex<Open>,
    closed: Condvar,
}

/// The connections that there are.
#[derive(Debug, Default)]
struct Open {
    streams: Vec<(u64, TcpStream)>,
    next: u64,
    is_closing: bool,
}

impl Server {
    /// Ends: those who watch are told what is on the board, for which they get so long, and nobody else is answered.
    pub fn close(self, within: Duration) {
        let until = Instant::now() + within;
        self.shared.board.end();
        self.shared.open().is_closing = true;
        // It waits for somebody to come.
        let is_waked = TcpStream::connect_timeout(&self.address, WAKE_WITHIN).is_ok();
        let mut open = self.shared.open();
        for (_, stream) in &open.streams {
            // Who has yet to ask for something is waited for no longer. Gone already, where that fails.
            let _gone = stream.shutdown(Shutdown::Read);
        }
        while !open.streams.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.closed.wait_timeout(open, left);
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        for (_, stream) in &open.streams {
            let _gone = stream.shutdown(Shutdown::Both);
        }
        drop(open);
        if is_waked {
            // A panic of it has been told by then.
            let _ended = self.thread.join();
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that there are.
struct Place {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.shared.open();
        open.streams.retain(|(id, _)| *id != self.id);
        self.shared.closed.notify_all();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let mut open = shared.open();
        if open.is_closing {
            return;
        }
        // A connection that failed before it was there; no descriptor left: it is tried again after the pause.
        let kept = stream.and_then(|stream| Ok((stream.try_clone()?, stream)));
        if let Ok((kept, stream)) = kept {
            if open.streams.len() >= CONNECTIONS_MAX {
                drop(open);
                connection::refuse_for_many(&stream);
            } else {
                let id = open.next;
                open.next += 1;
                open.streams.push((id, kept));
                drop(open);
                answer(stream, id, shared);
            }
        } else {
            drop(open);
        }
        thread::sleep(ACCEPT_PAUSE);
    }
}

fn answer(stream: TcpStream, id: u64, shared: &Arc<Shared>) {
    let place = Place {
        id,
        shared: Arc::clone(shared),
    };
    let thread = thread::Builder::new()
        .name("connection".to_owned())
        .stack_size(STACK_BYTES);
    let started = thread.spawn(move || {
        // Whoever asked is gone.
        if let Err(error) = connection::answer(&stream, &place.shared) {
            tracing::debug!("a connection ended: {error}");
        }
    });
    // Without a thread the connection is closed.
    if let Err(error) = started {
        tracing::warn!("cannot answer a connection: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};

    use super::*;

    /// More than any socket holds on its way, in bytes.
    const MUCH: usize = 32 << 20;

    fn serve() -> (Server, Arc<Board>, String) {
        let address = ServeAddress::parse("127.0.0.1:0").expect("an address");
        let bound = Bound::bind(&address).expect("a free port");
        assert!(!bound.is_open_to_others());
        let (_, token) = bound
            .url()
            .rsplit_once('=')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .expect("a token");
        let board = Arc::new(Board::default());
        (
            bound.serve(Arc::clone(&board)).expect("threads"),
            board,
            token,
        )
    }

    fn ask(server: &Server, what: &str) -> TcpStream {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        let request = format!("GET {what} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    }

    /// The name and the length of the data of the next event.
    fn next_event(reader: &mut impl std::io::BufRead) -> (String, usize) {
        let mut name = String::new();
        for line in reader.lines() {
            let line = line.expect("it goes on");
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, data.len());
            }
        }
        panic!("there is no further event");
    }

    #[test]
    fn who_reads_slowly_misses_what_is_in_between_and_holds_up_nobody() {
        let (server, board, token) = serve();
        let events = format!("/events?token={token}");
        let idle = ask(&server, &events);
        let mut slow = BufReader::new(ask(&server, &events));
        board.post("a".repeat(MUCH));
        // The first is being sent; what comes meanwhile waits for nobody.
        let mut line = String::new();
        while line != "event: profile\n" {
            line.clear();
            let read = slow.read_line(&mut line).expect("it is answered");
            assert!(read > 0, "it ended");
        }
        for length in 2..=9 {
            board.post("b".repeat(length));
        }
        let mut quick = BufReader::new(ask(&server, &events));
        assert_eq!(next_event(&mut quick), ("profile".to_owned(), 9));
        assert_eq!(next_event(&mut slow).1, MUCH);
        let ended = std::thread::spawn(move || {
            let newest = next_event(&mut slow);
            (newest, next_event(&mut slow).0, next_event(&mut quick).0)
        });
        // One of them never reads.
        server.close(Duration::from_secs(5));
        let (newest, slow_end, quick_end) = ended.join().expect("both are told");
        assert_eq!(newest, ("profile".to_owned(), 9));
        assert_eq!((slow_end.as_str(), quick_end.as_str()), ("ended", "ended"));
        drop(idle);
    }

    #[test]
    fn connections_are_few_and_nothing_listens_after_the_end() {
        let (server, _board, token) = serve();
        let silent: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| TcpStream::connect(server.address).expect("it listens"))
            .collect();
        let mut answer = String::new();
        let mut refused = TcpStream::connect(server.address).expect("it listens");
        refused.read_to_string(&mut answer).expect("it is told");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        drop(silent);
        // Those that left are no longer counted, sooner or later.
        let status = loop {
            let mut answer = String::new();
            // One that is refused may be cut off in the middle of it.
            let read = ask(&server, &format!("/nothing?token={token}")).read_to_string(&mut answer);
            if read.is_ok() && !answer.starts_with("HTTP/1.1 503 ") {
                break answer;
            }
        };
        assert!(status.starts_with("HTTP/1.1 404 "), "{status}");
        let address = server.address;
        server.close(Duration::from_secs(5));
        TcpStream::connect(address).expect_err("nobody listens");
    }
}
