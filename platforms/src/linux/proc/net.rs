//! /proc/PID/net: whom the sockets of a network namespace are connected to.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{decimal, of_process};
use crate::Pid;

/// A socket that is listed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSocket {
    /// Its number: `socket:[INODE]` in /proc/PID/fd.
    pub inode: u64,
    /// What it is.
    pub what: Endpoint,
}

/// What a socket is, as far as is listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// One of the internet's protocols.
    Inet {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// Its own address.
        local: SocketAddr,
        /// Its peer's; `None` where it is not connected.
        remote: Option<SocketAddr>,
    },
    /// A local one that is bound to a name: a path, or `@` and a name without one.
    Unix {
        /// The name.
        path: String,
    },
}

/// The files there are, with what they list.
const FILES: [(&str, Option<&str>); 5] = [
    ("net/tcp", Some("tcp")),
    ("net/tcp6", Some("tcp")),
    ("net/unix", None),
    ("net/udp", Some("udp")),
    ("net/udp6", Some("udp")),
];

/// The sockets of the network namespace of `pid`, of each kind no more than fit into `bytes_max` bytes of its list.
///
/// # Errors
/// When none of the lists can be read.
pub fn sockets(pid: Pid, bytes_max: u64) -> io::Result<Vec<ListedSocket>> {
    let mut sockets = Vec::new();
    let mut failed = None;
    let mut is_any_read = false;
    for (file, protocol) in FILES {
        match read_start(&of_process(pid, file), bytes_max) {
            Ok(bytes) => {
                is_any_read = true;
                sockets.extend(match protocol {
                    Some(protocol) => parse_inet(&bytes, protocol),
                    None => parse_unix(&bytes),
                });
            }
            // A kernel may be built without IPv6.
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if !is_any_read => Err(error),
        _ => Ok(sockets),
    }
}

fn read_start(path: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What /proc/net/tcp and its like list (proc_pid_net(5)): `0: 0100007F:1F90 00000000:0000 0A … INODE …`. A line that is
/// none, such as the heading and a last one that is cut, is left out.
pub fn parse_inet(bytes: &[u8], protocol: &'static str) -> Vec<ListedSocket> {
    /// Where the inode stands.
    const INODE_FIELD: usize = 9;
    let parse = |line: &[u8]| {
        let mut fields = line
            .split(|&byte| byte == b' ')
            .filter(|field| !field.is_empty());
        let local = address(fields.nth(1)?)?;
        let remote = address(fields.next()?)?;
        let inode = decimal(fields.nth(INODE_FIELD - 3)?)?;
        Some(ListedSocket {
            inode,
            what: Endpoint::Inet {
                protocol,
                local,
                remote: Some(remote).filter(|remote| remote.port() != 0),
            },
        })
    };
    whole_lines(bytes).filter_map(parse).collect()
}

/// What /proc/net/unix lists: `0000000000000000: 00000002 00000000 00010000 0001 01 INODE PATH`. Those without a path are
/// left out.
pub fn parse_unix(bytes: &[u8]) -> Vec<ListedSocket> {
    /// Where the inode stands; the path, behind it, may have spaces.
    const INODE_FIELD: usize = 6;
    let parse = |line: &[u8]| {
        let mut parts = line.splitn(INODE_FIELD + 2, |&byte| byte == b' ');
        // The inode is padded to a width.
        let rest = parts.nth(INODE_FIELD)?;
        let tail = parts.next().unwrap_or_default();
        let (inode, path) = match rest.is_empty() {
            false => (rest, tail),
            true => {
                let tail = tail.trim_ascii_start();
                let end = tail.iter().position(|&byte| byte == b' ')?;
                (tail.get(..end)?, tail.get(end + 1..)?)
            }
        };
        if path.is_empty() {
            return None;
        }
        Some(ListedSocket {
            inode: decimal(inode)?,
            what: Endpoint::Unix {
                path: String::from_utf8_lossy(path).into_owned(),
            },
        })
    };
    whole_lines(bytes).filter_map(parse).collect()
}

fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = bytes.split_inclusive(|&byte| byte == b'\n');
    lines.filter_map(|line| line.strip_suffix(b"\n"))
}

/// `0100007F:1F90`: each group of 8 digits is a word as this machine stores it, the port is a number.
fn address(field: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(field).ok()?;
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = host.get(at..at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match host.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(8 * at)?);
            }
            // What is an IPv4 address inside is shown as one.
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inet {
                protocol,
                local,
                remote,
            } => write!(f, "{protocol} {}", remote.unwrap_or(*local)),
            Self::Unix { path } => write!(f, "unix {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;

    use super::super::fd::{self, Descriptor};
    use super::*;
    use crate::linux::testing::own_pid;

    const BYTES_MAX: u64 = 1 << 20;

    #[test]
    fn our_own_connection_is_listed_with_its_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let Ok(Descriptor::Socket { inode }) = fd::describe(own_pid(), stream.as_raw_fd()) else {
            panic!("a socket");
        };
        let sockets = sockets(own_pid(), BYTES_MAX).unwrap();
        let ours = sockets.iter().find(|socket| socket.inode == inode);
        let shown = ours.map(|socket| socket.what.to_string());
        assert_eq!(shown, Some(format!("tcp {address}")));
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let tcp = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 20213 1 0 100\n\
            \x20  1: 0100007F:B0E2 0500000A:1538 01 00000000:00000000 00:00000000 00000000  1000        0 30303 1 0 20\n\
            \x20  2: 0100007F:B0E2 0500000A:15";
        let shown: Vec<_> = parse_inet(tcp, "tcp")
            .into_iter()
            .map(|socket| (socket.inode, socket.what.to_string()))
            .collect();
        let expected = [(20213, "tcp 127.0.0.1:5432"), (30303, "tcp 10.0.0.5:5432")];
        assert_eq!(
            shown,
            expected.map(|(inode, what)| (inode, what.to_owned()))
        );
        let tcp6 = b" 0: 00000000000000000000000001000000:0050 0000000000000000FFFF00000500000A:1538 01 0:0 0:0 0 0 0 7 1\n";
        assert_eq!(
            parse_inet(tcp6, "tcp")[0].what.to_string(),
            "tcp 10.0.0.5:5432"
        );
        let unix = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 22334 /run/x y.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 22335\n\
            0000000000000000: 00000002 00000000 00010000 0001 01    71 @abstract\n";
        let shown: Vec<_> = parse_unix(unix)
            .into_iter()
            .map(|socket| (socket.inode, socket.what.to_string()))
            .collect();
        let expected = [(22334, "unix /run/x y.sock"), (71, "unix @abstract")];
        assert_eq!(
            shown,
            expected.map(|(inode, what)| (inode, what.to_owned()))
        );
    }

    proptest! {
        #[test]
        fn any_list_is_survived(bytes: Vec<u8>, text in "[0-9A-F: \n]{0,200}") {
            for list in [&bytes[..], text.as_bytes()] {
                let _ = parse_inet(list, "tcp");
                let _ = parse_unix(list);
            }
        }
    }
}
