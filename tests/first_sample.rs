//! The first sample does not wait for the files of a big program to be read. How long it takes is measured by
//! `benches/first_sample.rs`; here is what makes it short.

use std::fs;

use sampler_tests_support::{Running, Target, fixture, sampler};

/// Copies of the 20 MB library that the big program maps.
const COPIES: u64 = 5;

/// How much of the files whose path contains `name` process `pid` has mapped, and how much of that it has touched (or
/// the kernel for it, around what it touched).
fn mapped_and_touched(pid: i32, name: &str) -> (u64, u64) {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("sampler is there");
    let mut is_wanted = false;
    let (mut mapped, mut touched) = (0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, kilobytes) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let bytes = || kilobytes.parse::<u64>().expect("sizes are numbers") * 1024;
        match first {
            "Size:" if is_wanted => mapped += bytes(),
            "Rss:" if is_wanted => touched += bytes(),
            // `7f12...-7f13... r--p 00000000 fe:00 1234  /path`
            range if range.contains('-') => is_wanted = line.contains(name),
            _ => {}
        }
    }
    (mapped, touched)
}

/// What the sampler has read by read(2) and the like so far, in bytes.
fn read_so_far(sampler: &Running) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", sampler.pid())).expect("sampler is there");
    sampler_tests_support::number_after(&io, "rchar:")
}

#[test]
fn big_files_are_mapped_and_hardly_read() {
    let library = fixture("big_library.so");
    let library_bytes = fs::metadata(&library).expect("it was built").len();
    let library = library.to_str().expect("our paths are text");
    let target = Target::start("big_mapping", &[library, &COPIES.to_string()]);
    let sampler = sampler!();

    let running = sampler.attach(target.pid(), &[]);
    // With the header alone it is shorter: the first chunk of samples is there.
    running.until_recorded(1024);
    let read = read_so_far(&running);
    let (mapped, touched) = mapped_and_touched(running.pid(), "big_library.so");
    running.interrupt().expect_code(0);

    let all = COPIES * library_bytes;
    assert!(mapped >= all, "{mapped} bytes of {all} are mapped");
    // One page of a file brings in up to 64 KiB around it, where that is in the page cache (fault-around).
    assert!(touched < all / 10, "{touched} bytes of {all} were touched");
    assert!(read < all / 20, "{read} bytes were read, of {all} in files");
    let peak = sampler.report().summary.sampler_peak_rss_bytes;
    assert!(peak < all / 2, "a peak of {peak} bytes for {all} in files");
}
