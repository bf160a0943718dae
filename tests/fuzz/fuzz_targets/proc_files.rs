//! Any bytes as the files of /proc.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use libfuzzer_sys::fuzz_target;
use sampler_platforms::linux::proc::{cgroup, fd, maps, schedstat, stat, status, syscall};

fuzz_target!(|bytes: &[u8]| {
    let _ = cgroup::parse(bytes);
    let _ = fd::parse(OsStr::from_bytes(bytes));
    let _ = maps::parse(bytes);
    let _ = schedstat::parse(bytes);
    let _ = stat::parse(bytes);
    let _ = status::parse(bytes);
    let _ = syscall::parse(bytes);
});
