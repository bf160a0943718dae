//! Any bytes as files that name code: what the fuzz targets call. Only there when those are built.

use super::file::read_any;
use crate::profile::JitSource;

/// Addresses that are easily come upon.
const ADDRESSES: [u64; 4] = [0, 0x10, 0x1000, 0x7fff_0000_0000];

/// Reads `bytes` as a perf map; the first two say how much of it is there at first.
pub fn perf_map(bytes: &[u8]) {
    read(bytes, JitSource::PerfMap);
}

/// Reads `bytes` as a jitdump, likewise.
pub fn jitdump(bytes: &[u8]) {
    read(bytes, JitSource::JitDump);
}

fn read(bytes: &[u8], source: JitSource) {
    if let Some((first, bytes)) = bytes.split_first_chunk() {
        let first = usize::from(u16::from_le_bytes(*first));
        read_any(bytes, first, source, &ADDRESSES);
    }
}
