//! Which files are taken for a module.

use std::sync::Arc;

use sampler_unwind::{ElfImage, ImageBytes};

use super::*;

#[test]
fn a_debug_link_is_followed_beside_the_file_and_into_its_directories() {
    for place in ["libinlined.so.debug", ".debug/libinlined.so.debug"] {
        let workshop = Workshop::new();
        let path = workshop.inlined();
        let outer = symbol(&path, "outer");
        workshop.split(&path, &workshop.path(place));
        let mut symbolizer = workshop.symbolizer();
        let symbols = in_inner(&mut symbolizer, &module(&path), outer);
        assert_inlined_with_lines(&symbols);
    }
}

#[test]
fn a_debug_link_is_followed_into_a_directory_of_debug_files() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let outer = symbol(&path, "outer");
    let real = path.canonicalize().expect("it exists");
    let place = format!("debug{}.debug", real.display());
    workshop.split(&path, &workshop.path(&place));
    let symbols = in_inner(&mut workshop.symbolizer(), &module(&path), outer);
    assert_inlined_with_lines(&symbols);
}

#[test]
fn without_build_ids_the_checksum_of_the_link_decides() {
    for is_changed in [false, true] {
        let workshop = Workshop::new();
        let flags = ["-O1", "-g", "-Wl,--build-id=none", "-shared", "-fPIC"];
        let path = workshop.build("gcc", INLINED_C, "libinlined.so.c", &flags);
        let outer = symbol(&path, "outer");
        let debug = workshop.path("libinlined.so.debug");
        workshop.split(&path, &debug);
        if is_changed {
            let mut bytes = fs::read(&debug).expect("it was made");
            bytes.push(0);
            fs::write(&debug, bytes).expect("it can be written");
        }
        let mut symbolizer = workshop.symbolizer();
        let file = module(&path);
        assert_eq!(file.build_id, None);
        let symbols = in_inner_or_none(&mut symbolizer, &file, outer);
        assert_eq!(symbols.len(), if is_changed { 1 } else { 3 });
        assert_eq!(
            symbolizer
                .notes()
                .iter()
                .any(|note| note.contains("checksum is")),
            is_changed
        );
    }
}

fn in_inner_or_none(
    symbolizer: &mut FileSymbolizer,
    file: &ModuleInfo,
    outer: (u64, u64),
) -> Vec<Symbol> {
    let addresses: Vec<u64> = (outer.0..outer.0 + outer.1).collect();
    let symbols = symbolizer.symbolize(file, &addresses);
    symbols.into_iter().max_by_key(Vec::len).unwrap_or_default()
}

#[test]
fn a_debug_file_is_found_by_build_id_even_when_the_file_is_gone() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let outer = symbol(&path, "outer");
    let file = module(&path);
    let (first, rest) = hex(file.build_id.as_ref().expect("it has a build ID"));
    let debug = workshop.path(&format!("debug/.build-id/{first}/{rest}.debug"));
    workshop.split(&path, &debug);
    // No link, only the place.
    run(Command::new("strip")
        .arg("--remove-section=.gnu_debuglink")
        .arg(&path));
    let symbols = in_inner(&mut workshop.symbolizer(), &file, outer);
    assert_inlined_with_lines(&symbols);
    fs::remove_file(&path).expect("it exists");
    let symbols = in_inner(&mut workshop.symbolizer(), &file, outer);
    assert_inlined_with_lines(&symbols);
}

#[test]
fn a_debug_file_with_another_build_id_is_refused() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let outer = symbol(&path, "outer");
    let file = module(&path);
    let (first, rest) = hex(file.build_id.as_ref().expect("it has a build ID"));
    let debug = workshop.path(&format!("debug/.build-id/{first}/{rest}.debug"));
    let other = workshop.build(
        "gcc",
        "int outer(void) { return 1; }",
        "other.c",
        &["-g", "-shared", "-Wl,--build-id=sha1"],
    );
    fs::create_dir_all(debug.parent().expect("a directory")).expect("it can be made");
    fs::copy(&other, &debug).expect("it can be copied");
    run(Command::new("strip").arg(&path));
    let mut symbolizer = workshop.symbolizer();
    let symbols = in_inner_or_none(&mut symbolizer, &file, outer);
    assert_eq!(functions(&symbols), ["outer"]);
    let notes = symbolizer.notes();
    assert!(notes[0].contains(": build ID is "), "{notes:?}");
    assert!(notes[0].ends_with(": not used"), "{notes:?}");
}

#[test]
fn a_file_that_changed_since_is_refused_and_said() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let (outer, _) = symbol(&path, "outer");
    let mut file = module(&path);
    let on_disk = file.build_id.replace(BuildId(vec![0xbb; 20])).expect("one");
    let mut symbolizer = workshop.symbolizer();
    assert_eq!(symbolizer.symbolize(&file, &[outer]), [Vec::new()]);
    let recorded = "bb".repeat(20);
    assert_eq!(
        symbolizer.notes(),
        [format!(
            "libinlined.so: build ID on disk is {on_disk}, recorded {recorded}: not used"
        )]
    );
}

#[test]
fn a_file_is_found_in_the_sysroot_first() {
    let workshop = Workshop::new();
    let built = workshop.inlined();
    let (outer, _) = symbol(&built, "outer");
    let root = workshop.path("root");
    fs::create_dir_all(root.join("no/such")).expect("it can be made");
    fs::rename(&built, root.join("no/such/libinlined.so")).expect("it can be moved");
    let mut file = module(&root.join("no/such/libinlined.so"));
    file.path = "/no/such/libinlined.so".to_owned();
    let paths = SymbolPaths {
        sysroot: Some(root),
        debug_dirs: Vec::new(),
    };
    let symbols = FileSymbolizer::new(paths).symbolize(&file, &[outer]);
    assert_eq!(functions(&symbols[0]).last(), Some(&"outer"));
    let mut without = FileSymbolizer::default();
    assert_eq!(without.symbolize(&file, &[outer]), [Vec::new()]);
    assert_eq!(
        without.notes(),
        ["libinlined.so: /no/such/libinlined.so not found"]
    );
}

#[test]
fn a_build_id_is_also_found_where_no_segment_has_it() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let mut bytes = fs::read(&path).expect("it was built");
    let count = usize::from(u16::from_le_bytes([bytes[0x38], bytes[0x39]]));
    // Elf64_Phdr, after the file header: p_type. PT_NOTE becomes PT_NULL.
    for header in bytes[64..64 + count * 56].chunks_mut(56) {
        if header[..4] == 4u32.to_le_bytes() {
            header[..4].fill(0);
        }
    }
    let build_id = Elf::parse(&bytes).expect("it is an ELF file").build_id();
    assert!(build_id.is_some());
    let image = ElfImage::parse(ImageBytes::new(Arc::new(bytes))).expect("it is one");
    assert_eq!(image.build_id(), build_id.as_ref());
}
