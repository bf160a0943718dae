//! What is asked: the head of an HTTP/1 request (RFC 9112), as far as it matters here.

use std::net::IpAddr;

/// A head is no longer than this, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;
/// It has no more fields than these.
const FIELDS_MAX: usize = 64;

/// A request that can be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) is_get: bool,
    /// Without the query.
    pub(super) path: String,
    /// The host that it was sent to, as the client knows it, without the port.
    pub(super) host: String,
    /// `token=` of the query.
    pub(super) token: String,
    /// The last state that the client has: `Last-Event-ID`, or `after=` of the query.
    pub(super) after: u64,
}

/// What the bytes that have come so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The beginning of one.
    Incomplete,
    /// No request.
    Malformed,
    /// More than is read.
    TooLong,
    /// A whole one.
    Whole(Request),
}

/// Reads the bytes that have come so far.
pub(super) fn parse(bytes: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {
            understand(&request).map_or(Head::Malformed, Head::Whole)
        }
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => Head::Incomplete,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => Head::TooLong,
        Err(_) => Head::Malformed,
    }
}

fn understand(request: &httparse::Request<'_, '_>) -> Option<Request> {
    let field = |name: &str| {
        let mut values = request.headers.iter();
        let mut values = values
            .by_ref()
            .filter(|field| field.name.eq_ignore_ascii_case(name));
        let first = values.next().map(|field| std::str::from_utf8(field.value));
        // Which of two is meant, each reader would decide for itself.
        match (first, values.next()) {
            (None, _) => Some(None),
            (Some(Ok(value)), None) => Some(Some(value.trim())),
            (Some(_), _) => None,
        }
    };
    let target = request.path.filter(|target| target.starts_with('/'))?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let word = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|pair| pair.0 == name).map(|pair| pair.1)
    };
    // The field is of the last event that was received, the query of the page that was loaded before that.
    let after = field("last-event-id")?.or_else(|| word("after"));
    Some(Request {
        is_get: request.method == Some("GET"),
        path: path.to_owned(),
        host: without_port(field("host")??)?.to_ascii_lowercase(),
        token: word("token").unwrap_or_default().to_owned(),
        after: after.and_then(|id| id.parse().ok()).unwrap_or_default(),
    })
}

/// `name`, `name:port`, `[address]` or `[address]:port` (RFC 3986, 3.2.2): the name, or the address.
fn without_port(host: &str) -> Option<&str> {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port = port.strip_prefix(':').unwrap_or(port);
        return is_port(port).then_some(address);
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    is_port(port).then_some(name)
}

/// Whether a request that was sent to this host is for us. A page of elsewhere can have a name of its own stand for
/// our address, and then reads what it is answered; for that it needs a name, which it cannot choose to be `localhost`
/// or an address. With which port the request was sent does not matter: it may be forwarded.
pub(super) fn is_ours(host: &str, own_name: Option<&str>) -> bool {
    host == "localhost"
        || host.parse::<IpAddr>().is_ok()
        || own_name.is_some_and(|name| host == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(lines: &[&str]) -> Head {
        parse((lines.join("\r\n") + "\r\n\r\n").as_bytes())
    }

    fn whole(lines: &[&str]) -> Request {
        match head(lines) {
            Head::Whole(request) => request,
            other => panic!("{lines:?}: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_understood() {
        let request = whole(&[
            "GET /events?token=ab&after=7 HTTP/1.1",
            "Host: LOCALHOST:80",
            "X: y",
        ]);
        let expected = Request {
            is_get: true,
            path: "/events".to_owned(),
            host: "localhost".to_owned(),
            token: "ab".to_owned(),
            after: 7,
        };
        assert_eq!(request, expected);
        let again = whole(&[
            "GET /events?after=7 HTTP/1.1",
            "host: [::1]:80",
            "last-event-id: 9",
        ]);
        assert_eq!(
            (again.after, again.host.as_str(), again.token.as_str()),
            (9, "::1", "")
        );
        assert!(!whole(&["POST / HTTP/1.1", "Host: a"]).is_get);
    }

    #[test]
    fn what_is_none_is_refused() {
        for wrong in [
            &["GET / HTTP/1.1"][..],
            &["GET / HTTP/1.1", "Host: a", "Host: b"],
            &["GET / HTTP/1.1", "Host: a:b"],
            &["GET / HTTP/1.1", "Host: [::1"],
            &[
                "GET / HTTP/1.1",
                "Host: a",
                "Last-Event-ID: 1",
                "Last-Event-ID: 2",
            ],
            &["GET http://a/ HTTP/1.1", "Host: a"],
            &["GET * HTTP/1.1", "Host: a"],
            &["GET / HTTP/2.0", "Host: a"],
            &["hello"],
        ] {
            assert_eq!(head(wrong), Head::Malformed, "{wrong:?}");
        }
        let many: Vec<String> = (0..=FIELDS_MAX)
            .map(|number| format!("a{number}: b"))
            .collect();
        let mut lines = vec!["GET / HTTP/1.1"];
        lines.extend(many.iter().map(String::as_str));
        assert_eq!(head(&lines), Head::TooLong);
        let long = format!("GET /{}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse(long.as_bytes()), Head::TooLong);
    }

    #[test]
    fn no_name_leads_here_but_our_own() {
        for ours in ["localhost", "127.0.0.1", "10.0.0.7", "::1"] {
            assert!(is_ours(ours, None), "{ours}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "node7",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_ours(other, None), "{other}");
        }
        assert!(is_ours("node7", Some("node7")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_something(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            parse(&bytes);
        }

        #[test]
        fn any_head_is_something(
            target in "/?[ -~]{0,40}",
            fields in prop::collection::vec(("[a-zA-Z-]{0,16}|Host|Last-Event-ID", "[ -~]{0,30}"), 0..6),
        ) {
            let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            if let Head::Whole(request) = parse(format!("GET {target} HTTP/1.1\r\n{fields}\r\n").as_bytes()) {
                prop_assert!(request.path.starts_with('/') && !request.path.contains('?'));
                prop_assert!(is_ours(&request.host, Some(&request.host)));
            }
        }

        #[test]
        fn a_part_is_the_beginning_of_the_whole(at in 0usize..1000, token in "[0-9a-f]{32}", after in any::<u64>()) {
            let text = format!("GET /events?token={token}&after={after} HTTP/1.1\r\nHost: 127.0.0.1:9\r\nAccept: */*\r\n\r\n");
            let part = at.min(text.len());
            if part < text.len() {
                prop_assert_eq!(parse(&text.as_bytes()[..part]), Head::Incomplete);
            }
            let whole = Request {
                is_get: true,
                path: "/events".to_owned(),
                host: "127.0.0.1".to_owned(),
                token,
                after,
            };
            prop_assert_eq!(parse(text.as_bytes()), Head::Whole(whole));
        }
    }
}
