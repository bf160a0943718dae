//! The same program with its tables in other forms, or damaged: every walk is still right.

mod support;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection};
use sampler_unwind::{ElfImage, FrameOrigin, ImageBytes, Unwinder};
use support::programs::{build, directory, run_tool};
use support::score::score;
use support::steps::Recording;

fn image(bytes: Vec<u8>) -> ElfImage {
    ElfImage::parse(ImageBytes::new(Arc::new(bytes))).unwrap()
}

/// Walks every step of `program` with `image` in place of its file; gives how often frames came from `.debug_frame`.
#[track_caller]
fn check(program: &Path, image: impl Fn() -> ElfImage) -> u64 {
    let recording = Recording::of(program, program.parent().unwrap()).with_image(program, image);
    let mut unwinder = Unwinder::new();
    let found = score(&recording, &mut unwinder, true);
    assert!(found.steps > 100);
    assert_eq!(
        (found.wrong, found.short),
        (0, 0),
        "{:?}",
        unwinder.counts()
    );
    let counts = unwinder.counts();
    let by_tables =
        counts.found_by(FrameOrigin::CallFrameInfo) + counts.found_by(FrameOrigin::DebugFrame);
    let others = counts.frames - counts.walks - by_tables;
    assert_eq!(others, 0, "{counts:?}");
    counts.found_by(FrameOrigin::DebugFrame)
}

fn section(bytes: &[u8], name: &str) -> std::ops::Range<usize> {
    let file = object::File::parse(bytes).unwrap();
    let (start, size) = file.section_by_name(name).unwrap().file_range().unwrap();
    let start = usize::try_from(start).unwrap();
    start..start + usize::try_from(size).unwrap()
}

#[test]
fn without_section_headers() {
    let program = build("tables-sstrip", "gcc", "steps_shapes.c", &["-O2"]);
    check(&program, || {
        let mut bytes = std::fs::read(&program).unwrap();
        // e_shoff; e_shnum and e_shstrndx (ELF64 header).
        bytes[40..48].fill(0);
        bytes[60..64].fill(0);
        image(bytes)
    });
}

/// The image as the loader maps it: each segment at its address.
fn as_in_memory(bytes: &[u8]) -> Vec<u8> {
    let header = object::elf::FileHeader64::<Endianness>::parse(bytes).unwrap();
    let endian = header.endian().unwrap();
    let mut memory = Vec::new();
    for segment in header.program_headers(endian, bytes).unwrap() {
        if segment.p_type(endian) == object::elf::PT_LOAD {
            let start = usize::try_from(segment.p_vaddr(endian)).unwrap();
            let size = usize::try_from(segment.p_memsz(endian)).unwrap();
            let data = segment.data(endian, bytes).unwrap();
            memory.resize(memory.len().max(start + size), 0);
            memory[start..start + data.len()].copy_from_slice(data);
        }
    }
    memory
}

#[test]
fn read_from_memory() {
    let program = build(
        "tables-memory",
        "gcc",
        "steps_shapes.c",
        &["-O2", "-Wl,--build-id"],
    );
    let bytes = std::fs::read(&program).unwrap();
    let from_memory = || {
        let memory = as_in_memory(&bytes);
        ElfImage::parse_memory(ImageBytes::new(Arc::new(memory))).unwrap()
    };
    assert!(from_memory().build_id().is_some());
    assert_eq!(from_memory().build_id(), image(bytes.clone()).build_id());
    check(&program, from_memory);
}

#[test]
fn a_search_table_that_is_not_sorted_is_not_believed() {
    let program = build("tables-unsorted", "gcc", "steps_shapes.c", &["-O2"]);
    check(&program, || {
        let mut bytes = std::fs::read(&program).unwrap();
        let table = section(&bytes, ".eh_frame_hdr");
        // Version and encodings, pointer and count; then pairs of words.
        let pairs = &mut bytes[table.start + 12..table.end];
        let (first, last) = (0, pairs.len() / 8 - 1);
        for byte in 0..8 {
            pairs.swap(first * 8 + byte, last * 8 + byte);
        }
        image(bytes)
    });
}

#[test]
fn a_bad_entry_spoils_no_other() {
    let flags = ["-O2", "-Wl,--no-eh-frame-hdr"];
    let program = build("tables-bad-entry", "gcc", "steps_shapes.c", &flags);
    check(&program, || {
        let mut bytes = std::fs::read(&program).unwrap();
        let table = section(&bytes, ".eh_frame");
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        // The second entry is the first CIE's first FDE, of `_start`'s object or of the PLT: its CIE is made one that
        // lies before the table.
        let second = table.start + 4 + usize::try_from(word(table.start)).unwrap();
        bytes[second + 4..second + 8].copy_from_slice(&u32::MAX.to_le_bytes());
        image(bytes)
    });
}

const DEBUGGER_ONLY: [&str; 4] = [
    "-O2",
    "-g",
    "-fno-asynchronous-unwind-tables",
    "-fno-exceptions",
];

#[test]
fn compressed_tables_for_debuggers() {
    for (name, format) in [
        ("tables-none", "-gz=none"),
        ("tables-zlib", "-gz=zlib"),
        ("tables-zlib-gnu", "-gz=zlib-gnu"),
    ] {
        let flags = [&DEBUGGER_ONLY[..], &[format]].concat();
        let program = build(name, "gcc", "steps_shapes.c", &flags);
        assert!(check(&program, || image(std::fs::read(&program).unwrap())) > 1000);
    }
}

#[test]
fn tables_of_a_separate_debug_file() {
    let program = build("tables-separate", "gcc", "steps_shapes.c", &DEBUGGER_ONLY);
    let debug = directory("tables-separate").join("debug");
    let stripped = directory("tables-separate").join("stripped");
    run_tool(
        "objcopy",
        &[
            OsStr::new("--only-keep-debug"),
            program.as_os_str(),
            debug.as_os_str(),
        ],
    );
    run_tool(
        "objcopy",
        &[
            OsStr::new("--strip-debug"),
            program.as_os_str(),
            stripped.as_os_str(),
        ],
    );
    let debug = std::fs::read(debug).unwrap();
    let found = check(&program, || {
        image(std::fs::read(&stripped).unwrap()).with_debug_file(image(debug.clone()))
    });
    assert!(found > 1000);
}
