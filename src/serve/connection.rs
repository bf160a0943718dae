//! Answers one connection: one request, after which it is closed.

use std::io::{self, Read as _, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::board::News;
use super::request::{HEAD_BYTES_MAX, Head, Request, is_ours, parse};
use super::server::{Gate, Shared};
use crate::export::html;

/// A request must have come by then.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Who takes not a byte for so long is gone.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// The page waits so long for something to be in it.
const FIRST_STATE_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether somebody still listens.
const LOOK: Duration = Duration::from_secs(1);
/// How often somebody is told that there is nothing new, in looks: who is between may close what is silent.
const LOOKS_SILENT: u32 = 10;
/// When a browser that has lost its connection tries again, in milliseconds.
const RETRY_MS: u32 = 1000;

/// Why something is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Malformed,
    TooLong,
    OtherHost,
    NoToken,
    NotFound,
    NotGet,
    TooMany,
}

impl Refusal {
    /// The status line (RFC 9110, 15), and what a person reads.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("400 Bad Request", "this is no request that is understood"),
            Self::TooLong => (
                "431 Request Header Fields Too Large",
                "the request is too long",
            ),
            Self::OtherHost => (
                "403 Forbidden",
                "ask for localhost, or for an address: no other name leads here",
            ),
            Self::NoToken => (
                "403 Forbidden",
                "the token is missing or wrong: open the whole address that sampler printed",
            ),
            Self::NotFound => ("404 Not Found", "there is nothing of this name"),
            Self::NotGet => (
                "405 Method Not Allowed\r\nAllow: GET",
                "there is nothing to do but to look",
            ),
            Self::TooMany => (
                "503 Service Unavailable\r\nRetry-After: 5",
                "too many are connected",
            ),
        }
    }
}

/// What all answers say: kept by nobody, shown in no other page, and where it came from told to nobody. Nothing is
/// allowed to pages of elsewhere (no CORS).
const FIELDS: &str = "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
    Cross-Origin-Opener-Policy: same-origin\r\nX-Frame-Options: DENY\r\n";

/// Reads a request, and answers it.
pub(super) fn answer(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_WITHIN))?;
    stream.set_nodelay(true)?;
    let request = match read_head(stream)? {
        Head::Whole(request) => request,
        Head::TooLong => return refuse(stream, Refusal::TooLong),
        // It ended too soon.
        Head::Malformed | Head::Incomplete => return refuse(stream, Refusal::Malformed),
    };
    if let Err(refusal) = check(&request, &shared.gate) {
        return refuse(stream, refusal);
    }
    match request.path.as_str() {
        "/" => stream.write_all(&page(shared)?),
        "/events" => tell_events(stream, shared, request.after),
        _ => refuse(stream, Refusal::NotFound),
    }
}

/// Says that there are too many; who does not listen is not waited for.
pub(super) fn refuse_for_many(stream: &TcpStream) {
    if stream.set_nonblocking(true).is_ok() {
        let _unheard = refuse(stream, Refusal::TooMany);
    }
}

fn check(request: &Request, gate: &Gate) -> Result<(), Refusal> {
    if !is_ours(&request.host, gate.own_name.as_deref()) {
        Err(Refusal::OtherHost)
    } else if !gate.token.is(&request.token) {
        Err(Refusal::NoToken)
    } else if !request.is_get {
        Err(Refusal::NotGet)
    } else {
        Ok(())
    }
}

/// Reads the head of a request, within its time and its length.
fn read_head(mut stream: &TcpStream) -> io::Result<Head> {
    let until = Instant::now() + HEAD_WITHIN;
    let mut bytes = [0; HEAD_BYTES_MAX];
    let mut length = 0;
    loop {
        let head = parse(&bytes[..length]);
        if head != Head::Incomplete {
            return Ok(head);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[length..]) {
            Ok(0) => return Ok(head),
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn refuse(mut stream: &TcpStream, refusal: Refusal) -> io::Result<()> {
    let (status, words) = refusal.words();
    let length = words.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status}\r\n{FIELDS}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{words}\n"
    );
    stream.write_all(answer.as_bytes())
}

/// The page, with the newest state in it; there is none yet where the recording has only begun.
fn page(shared: &Shared) -> io::Result<Vec<u8>> {
    shared.board.announce();
    let mut page = Vec::new();
    match shared.board.news(0, FIRST_STATE_WITHIN) {
        News::State(state) => html::write_page(&state.packed, Some(state.id), &mut page)?,
        News::Over | News::None => {
            let nothing = html::pack(&Default::default(), Default::default(), 1)?;
            html::write_page(&nothing, Some(0), &mut page)?;
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\n{FIELDS}Content-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
        page.len()
    );
    page.splice(0..0, head.into_bytes());
    Ok(page)
}

/// Tells each state after the one of number `known`, for as long as somebody listens. The next one is asked for when
/// the last has been taken: of those in between nothing is kept.
fn tell_events(mut stream: &TcpStream, shared: &Shared, mut known: u64) -> io::Result<()> {
    let _viewer = shared.board.watch();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\n{FIELDS}Content-Type: text/event-stream\r\n\r\nretry: {RETRY_MS}\n\n"
    )?;
    let mut silent = 0;
    loop {
        match shared.board.news(known, LOOK) {
            News::State(state) => {
                write_event(stream, state.id, "profile", &state.packed)?;
                (known, silent) = (state.id, 0);
            }
            News::Over => return write_event(stream, known, "ended", ""),
            // At the end nothing more is read of anybody, who is told that first.
            News::None if has_left(stream)? => {
                if matches!(shared.board.news(known, Duration::ZERO), News::None) {
                    return Ok(());
                }
            }
            News::None => {
                silent += 1;
                if silent % LOOKS_SILENT == 0 {
                    stream.write_all(b":\n\n")?;
                }
            }
        }
    }
}

/// An event as a page's EventSource reads it; `data` is a single line.
fn write_event(mut stream: &TcpStream, id: u64, event: &str, data: &str) -> io::Result<()> {
    write!(stream, "id: {id}\nevent: {event}\ndata: ")?;
    stream.write_all(data.as_bytes())?;
    stream.write_all(b"\n\n")
}

/// Whether the other end has closed the connection.
fn has_left(stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    match peeked {
        Ok(bytes) => Ok(bytes == 0),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(false),
            _ => Err(error),
        },
    }
}
