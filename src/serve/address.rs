//! Where the server listens, as it is typed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

/// Where to listen: an address of this machine, or a name of one, and a port; 0 for any that is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeAddress {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

/// What was typed is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address is PORT, IP:PORT or localhost:PORT, such as 8080 or 127.0.0.1:0; before a command write `--serve -- CMD`"
)]
pub struct NotAnAddress;

impl ServeAddress {
    /// `8080`, `127.0.0.1`, `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`; without a host the loopback one.
    ///
    /// # Errors
    /// For anything else.
    pub fn parse(word: &str) -> Result<Self, NotAnAddress> {
        let ip = |ip, port| Self {
            host: Host::Ip(ip),
            port,
        };
        if let Some(port) = parse_port(word) {
            return Ok(ip(Ipv4Addr::LOCALHOST.into(), port));
        }
        if let Ok(address) = word.parse::<SocketAddr>() {
            return Ok(ip(address.ip(), address.port()));
        }
        if let Ok(address) = word.parse() {
            return Ok(ip(address, 0));
        }
        let (name, port) = word.rsplit_once(':').unwrap_or((word, "0"));
        let is_name = name.bytes().all(is_of_a_name) && name.bytes().any(is_letter);
        let is_known = word.contains(':') || name == "localhost";
        match parse_port(port) {
            Some(port) if is_name && is_known => Ok(Self {
                host: Host::Name(name.to_ascii_lowercase()),
                port,
            }),
            Some(_) | None => Err(NotAnAddress),
        }
    }

    /// The addresses that it stands for.
    ///
    /// # Errors
    /// When the name is not known here.
    pub(super) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.host {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name) => Ok((name.as_str(), self.port).to_socket_addrs()?.collect()),
        }
    }

    /// The name that was typed, by which it may be asked for.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Ip(_) => None,
            Host::Name(name) => Some(name),
        }
    }
}

impl std::fmt::Display for ServeAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

fn parse_port(word: &str) -> Option<u16> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| is_number)
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic()
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses() {
        for (typed, meant) in [
            ("8080", "127.0.0.1:8080"),
            ("0", "127.0.0.1:0"),
            ("127.0.0.1", "127.0.0.1:0"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("::1", "[::1]:0"),
            ("localhost", "localhost:0"),
            ("LocalHost:99", "localhost:99"),
            ("node-7.example:99", "node-7.example:99"),
        ] {
            let parsed = ServeAddress::parse(typed).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), Ok(meant), "{typed}");
        }
        for wrong in [
            "",
            ":",
            "65536",
            "-1",
            "+1",
            "./server",
            "server",
            "a/b:1",
            "a:b",
            "1.2.3.4.5:1",
            "::1:x",
        ] {
            assert_eq!(ServeAddress::parse(wrong), Err(NotAnAddress), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_said_is_read_again(ip in any::<IpAddr>(), port in any::<u16>()) {
            let address = ServeAddress { host: Host::Ip(ip), port };
            prop_assert_eq!(ServeAddress::parse(&address.to_string()), Ok(address));
        }
    }
}
