//! Whom sockets are connected to.

use std::ffi::OsString;

use rustc_hash::FxHashMap;
use sampler_platforms::Pid;
use sampler_platforms::linux::clock;
use sampler_platforms::linux::proc::fd;
use sampler_platforms::linux::proc::net::{self, Endpoint};

use super::LOOKUP_PARTS;

/// How much is read of a list: some 7,000 connections.
const LIST_BYTES_MAX: u64 = 1 << 20;

/// A list is not read again sooner than this, in nanoseconds.
const AGE_NS_MIN: u64 = 200_000_000;

/// So many network namespaces are remembered.
const NAMESPACES_MAX: usize = 64;

/// What is listed, by network namespace.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    namespaces: FxHashMap<Pid, OsString>,
    lists: FxHashMap<OsString, List>,
    /// Until when no list is read: what the last one took is to be made up for.
    pause_ns: u64,
}

#[derive(Debug, Default)]
struct List {
    endpoints: FxHashMap<u64, Endpoint>,
    read_ns: Option<u64>,
}

impl Sockets {
    /// What the socket with this inode of process `pid` is, if it is listed. The list is read again for one that is not
    /// in it, as often as it may.
    pub(super) fn find(&mut self, pid: Pid, inode: u64, now_ns: u64) -> Option<&Endpoint> {
        if self.lists.len() >= NAMESPACES_MAX {
            self.lists.clear();
            self.namespaces.clear();
        }
        let namespace = match self.namespaces.get(&pid) {
            Some(known) => known.clone(),
            None => {
                let namespace = fd::network_namespace(pid).ok()?;
                self.namespaces.insert(pid, namespace.clone());
                namespace
            }
        };
        let list = self.lists.entry(namespace).or_default();
        let is_old = list
            .read_ns
            .is_none_or(|read_ns| now_ns.saturating_sub(read_ns) >= AGE_NS_MIN);
        if !list.endpoints.contains_key(&inode) && is_old && now_ns >= self.pause_ns {
            let began_ns = clock::monotonic_ns();
            let sockets = net::sockets(pid, LIST_BYTES_MAX).unwrap_or_default();
            let sockets = sockets.into_iter();
            list.endpoints = sockets.map(|socket| (socket.inode, socket.what)).collect();
            let done_ns = clock::monotonic_ns();
            list.read_ns = Some(done_ns);
            self.pause_ns = done_ns + (done_ns - began_ns).saturating_mul(LOOKUP_PARTS);
        }
        list.endpoints.get(&inode)
    }
}
