//! Files that are none, or are damaged.

use proptest::prelude::*;

use super::*;
use crate::symbols::mini_debug_info;

#[test]
fn what_is_no_elf_file_is_said() {
    let workshop = Workshop::new();
    let path = workshop.path("garbage");
    fs::write(&path, "#!/bin/sh\n").expect("it can be written");
    let file = ModuleInfo {
        path: path.to_str().expect("UTF-8").to_owned(),
        build_id: None,
        image: None,
    };
    let mut symbolizer = workshop.symbolizer();
    assert_eq!(symbolizer.symbolize(&file, &[1]), [Vec::new()]);
    let notes = symbolizer.notes();
    assert!(notes[0].contains("not a valid ELF file"), "{notes:?}");
    // A directory, and names that are no path.
    for path in ["/", "[heap]", "", "//anon"] {
        let file = ModuleInfo {
            path: path.to_owned(),
            ..file.clone()
        };
        assert_eq!(symbolizer.symbolize(&file, &[1]), [Vec::new()]);
    }
}

#[test]
fn a_section_that_overstates_its_size_is_not_unpacked() {
    let workshop = Workshop::new();
    let flags = ["-O1", "-g", "-gz=zlib", "-shared", "-fPIC"];
    let path = workshop.build("gcc", INLINED_C, "libinlined.so.c", &flags);
    let (outer, _) = symbol(&path, "outer");
    let mut bytes = fs::read(&path).expect("it was built");
    let at = section_range(&path, b".debug_info").start;
    // Elf64_Chdr: type, reserved, size.
    bytes[at + 8..at + 16].copy_from_slice(&(1u64 << 46).to_le_bytes());
    fs::write(&path, bytes).expect("it can be written");
    let mut symbolizer = workshop.symbolizer();
    let symbols = symbolizer.symbolize(&module(&path), &[outer]);
    assert_eq!(functions(&symbols[0]), ["outer"]);
    let notes = symbolizer.notes();
    assert!(notes[0].contains(".debug_info states a size"), "{notes:?}");
}

/// Whatever is done to a file, all addresses get an answer.
#[test]
fn damaged_files_give_fewer_names_and_never_a_panic() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let whole = fs::read(&path).expect("it was built");
    let (outer, size) = symbol(&path, "outer");
    let addresses: Vec<u64> = (outer..outer + size)
        .step_by(3)
        .chain([0, u64::MAX])
        .collect();
    let damaged = workshop.path("damaged");
    let file = ModuleInfo {
        path: damaged.to_str().expect("UTF-8").to_owned(),
        build_id: None,
        image: None,
    };
    let length = whole.len();
    // Half of the changes are to DWARF, which is the smaller part of the file.
    let dwarf = [
        &b".debug_info"[..],
        b".debug_abbrev",
        b".debug_line",
        b".debug_str",
    ]
    .map(|name| section_range(&path, name));
    let place = prop_oneof![
        4 => 0..length,
        1 => dwarf[0].clone(),
        1 => dwarf[1].clone(),
        2 => dwarf[2].clone(),
        1 => dwarf[3].clone(),
    ];
    let changes = proptest::collection::vec((place, any::<u8>()), 0..20);
    let cut = prop_oneof![7 => Just(length), 1 => 0..length];
    proptest!(|(changes in changes, cut in cut)| {
        let mut bytes = whole.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut);
        fs::write(&damaged, &bytes).expect("it can be written");
        let symbols = FileSymbolizer::default().symbolize(&file, &addresses);
        prop_assert_eq!(symbols.len(), addresses.len());
        let image = ModuleInfo { image: Some(bytes), ..file.clone() };
        let symbols = FileSymbolizer::default().symbolize(&image, &addresses);
        prop_assert_eq!(symbols.len(), addresses.len());
    });
}

/// Without checksums, what is damaged is unpacked all the same.
#[test]
fn damaged_mini_debug_info_ends_in_a_result() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let packed = Command::new("xz")
        .args(["--check=none", "--stdout"])
        .arg(&path)
        .output();
    let packed = packed.expect("xz can be run, see tests/run").stdout;
    assert!(mini_debug_info::unpack(&packed).is_ok_and(|whole| Elf::parse(&whole).is_ok()));
    let length = packed.len();
    let changes = proptest::collection::vec((0..length, any::<u8>()), 0..6);
    let cut = prop_oneof![3 => Just(length), 1 => 0..length];
    proptest!(|(changes in changes, cut in cut)| {
        let mut bytes = packed.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut);
        if let Ok(unpacked) = mini_debug_info::unpack(&bytes) {
            let image = ModuleInfo { path: "[vdso]".to_owned(), build_id: None, image: Some(unpacked) };
            let symbols = FileSymbolizer::default().symbolize(&image, &[0x1000, u64::MAX]);
            prop_assert_eq!(symbols.len(), 2);
        }
    });
}
