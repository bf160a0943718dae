//! DWARF of which a part is in other files.

use proptest::prelude::*;
use sampler_tests_support::need;

use super::*;

const VERSIONS: [&str; 2] = ["-gdwarf-4", "-gdwarf-5"];

/// What two libraries have in common, so that `dwz` moves it. The lines of the calls are 5 and 4.
const COMMON_H: &str = "volatile extern int sink;
struct shelf { int items[4]; struct shelf *next; long count; unsigned char flags; };
struct shop { struct shelf shelves[3]; const char *name; double takings; };
static inline __attribute__((always_inline)) void inner(struct shop *shop) { sink = shop->shelves[1].items[2]; }
static inline __attribute__((always_inline)) void middle(struct shop *shop) { inner(shop); }
";

/// Builds two libraries that share `common.debug`; the path of one of them.
fn build_dwz(workshop: &Workshop, dwarf: &str, dwz_flags: &[&str]) -> PathBuf {
    fs::write(workshop.path("common.h"), COMMON_H).expect("it can be written");
    let flags = [
        "-O1",
        "-g",
        dwarf,
        "-shared",
        "-fPIC",
        "-Wl,--build-id=sha1",
    ];
    let [library, _] = ["a", "b"].map(|name| {
        let source = format!(
            "#include \"common.h\"\nvolatile int sink;\n__attribute__((noinline)) void outer(struct shop *shop) {{\n    \
             middle(shop);\n}}\nint only_{name}(int a) {{ return a + sink; }}\n"
        );
        workshop.build("gcc", &source, &format!("lib{name}.so.c"), &flags)
    });
    run(Command::new(need("dwz"))
        .args(dwz_flags)
        .args(["-m", "common.debug", "liba.so", "libb.so"])
        .current_dir(workshop.dir.path()));
    library
}

fn assert_named_through_dwz(symbols: &[Symbol]) {
    assert_eq!(functions(symbols), ["inner", "middle", "outer"]);
    let lines: Vec<Option<u32>> = symbols.iter().map(|symbol| symbol.line).collect();
    assert_eq!(lines, [Some(4), Some(5), Some(4)]);
    let dwz = (NameTable::Dwz, NameFile::Module);
    assert_eq!(
        sources(symbols),
        [dwz, dwz, (NameTable::Symtab, NameFile::Module)]
    );
}

#[test]
fn names_are_read_through_the_links_of_dwz() {
    for (dwarf, dwz_flags) in [
        (VERSIONS[0], &[][..]),
        (VERSIONS[1], &[]),
        (VERSIONS[1], &["--dwarf-5"]),
    ] {
        let workshop = Workshop::new();
        let path = build_dwz(&workshop, dwarf, dwz_flags);
        let outer = symbol(&path, "outer");
        let mut places = vec![
            "common.debug",
            ".dwz/common.debug",
            "debug/.dwz/common.debug",
        ];
        let by_build_id =
            with_elf(&workshop.path("common.debug"), |elf| elf.build_id()).map(|id| {
                let (first, rest) = hex(&id);
                format!("debug/.build-id/{first}/{rest}.debug")
            });
        places.extend(by_build_id.as_deref());
        for pair in places.windows(2) {
            let to = workshop.path(pair[1]);
            let mut symbolizer = workshop.symbolizer();
            let symbols = in_inner(&mut symbolizer, &module(&path), outer);
            assert_named_through_dwz(&symbols);
            assert!(symbolizer.notes().is_empty(), "{:?}", symbolizer.notes());
            fs::create_dir_all(to.parent().expect("a directory")).expect("it can be made");
            fs::rename(workshop.path(pair[0]), to).expect("it can be moved");
        }
        let last = workshop.path(places.last().expect("there are some"));
        let symbols = in_inner(&mut workshop.symbolizer(), &module(&path), outer);
        assert_named_through_dwz(&symbols);
        fs::remove_file(last).expect("it is there");
        let mut symbolizer = workshop.symbolizer();
        in_inner(&mut symbolizer, &module(&path), outer);
        let notes = symbolizer.notes();
        assert!(
            notes[0].ends_with("file common.debug was not found"),
            "{notes:?}"
        );
    }
}

#[test]
fn another_file_than_dwz_linked_to_is_refused_and_said() {
    let workshop = Workshop::new();
    let path = build_dwz(&workshop, VERSIONS[1], &[]);
    let outer = symbol(&path, "outer");
    fs::copy(&path, workshop.path("common.debug")).expect("it can be copied");
    let mut symbolizer = workshop.symbolizer();
    let symbols = in_inner(&mut symbolizer, &module(&path), outer);
    assert!(!functions(&symbols).contains(&"inner"), "{symbols:?}");
    let notes = symbolizer.notes();
    assert!(
        notes[0].contains("common.debug is another than"),
        "{notes:?}"
    );
    // A pipe in its place is not waited for.
    fs::remove_file(workshop.path("common.debug")).expect("it is there");
    run(Command::new("mkfifo").arg(workshop.path("common.debug")));
    let mut symbolizer = workshop.symbolizer();
    in_inner(&mut symbolizer, &module(&path), outer);
    let notes = symbolizer.notes();
    assert!(notes[0].ends_with("was not found"), "{notes:?}");
}

fn build_split(workshop: &Workshop, dwarf: &str) -> PathBuf {
    let flags = ["-O1", "-g", dwarf, "-gsplit-dwarf", "-shared", "-fPIC"];
    workshop.build("gcc", INLINED_C, "libinlined.so.c", &flags)
}

#[track_caller]
fn assert_split(workshop: &Workshop, path: &Path, outer: (u64, u64), table: NameTable) {
    let mut symbolizer = workshop.symbolizer();
    let symbols = in_inner(&mut symbolizer, &module(path), outer);
    assert_inlined_with_lines(&symbols);
    let file = symbols[2].source.file;
    assert_eq!(
        sources(&symbols),
        [(table, file), (table, file), (NameTable::Symtab, file)]
    );
    assert!(symbolizer.notes().is_empty(), "{:?}", symbolizer.notes());
}

#[test]
fn split_dwarf_is_read_where_the_compiler_left_it_and_beside_the_program() {
    for dwarf in VERSIONS {
        let workshop = Workshop::new();
        let path = build_split(&workshop, dwarf);
        let outer = symbol(&path, "outer");
        assert_split(&workshop, &path, outer, NameTable::Dwo);
        // What is left of the DWARF can be in a separate debug file as well.
        let copy = workshop.path("copy/libinlined.so");
        fs::create_dir_all(workshop.path("copy")).expect("it can be made");
        fs::copy(&path, &copy).expect("it can be copied");
        workshop.split(&copy, &workshop.path("copy/libinlined.so.debug"));
        assert_split(&workshop, &copy, outer, NameTable::Dwo);
        let [was, now] =
            ["libinlined.so.dwo", "copy/libinlined.so.dwo"].map(|name| workshop.path(name));
        fs::rename(was, now).expect("it can be moved");
        assert_split(&workshop, &copy, outer, NameTable::Dwo);
    }
}

#[test]
fn a_pack_has_what_the_compiler_left_elsewhere() {
    for (dwarf, is_packaged) in [
        (VERSIONS[0], true),
        (VERSIONS[0], false),
        (VERSIONS[1], false),
    ] {
        let workshop = Workshop::new();
        let path = build_split(&workshop, dwarf);
        if is_packaged {
            package(&workshop, &path);
        }
        let outer = symbol(&path, "outer");
        let module = module(&path);
        let pack = workshop.path("app.pack");
        let out = fs::File::create(&pack).expect("it can be written");
        let mut symbolizer = workshop.symbolizer();
        let summary = symbolizer
            .pack(std::slice::from_ref(&module), out)
            .expect("it can be written");
        assert_eq!((summary.modules, summary.debug_files), (1, 1));
        assert!(summary.notes.is_empty(), "{:?}", summary.notes);
        for name in ["libinlined.so", "libinlined.so.dwo", "libinlined.so.dwp"] {
            let _absent = fs::remove_file(workshop.path(name));
        }
        let pack = SymbolPack::open(&pack).expect("it is a pack");
        let mut symbolizer = workshop.symbolizer().with_pack(pack);
        let symbols = in_inner(&mut symbolizer, &module, outer);
        assert_inlined_with_lines(&symbols);
        assert!(symbolizer.notes().is_empty(), "{:?}", symbolizer.notes());
    }
}

#[test]
fn a_pack_says_which_files_of_the_compiler_are_missing() {
    let workshop = Workshop::new();
    let path = build_split(&workshop, VERSIONS[1]);
    fs::remove_file(workshop.path("libinlined.so.dwo")).expect("it is there");
    let summary = workshop
        .symbolizer()
        .pack(&[module(&path)], std::io::sink());
    let notes = summary.expect("a sink takes all").notes;
    assert!(
        notes[0].contains("1 units whose .dwo files are not there"),
        "{notes:?}"
    );
}

/// What was asked for while a file was missing is asked for again: such answers are kept nowhere.
#[test]
fn a_dwo_that_comes_back_is_read_although_there_is_a_cache() {
    let workshop = Workshop::new();
    let path = build_split(&workshop, VERSIONS[1]);
    let outer = symbol(&path, "outer");
    let [dwo, elsewhere] = ["libinlined.so.dwo", "elsewhere"].map(|name| workshop.path(name));
    let cache = SymbolCache::new(workshop.path("cache"));
    let ask = || {
        let mut symbolizer = workshop.symbolizer().with_cache(Some(cache.clone()));
        in_inner(&mut symbolizer, &module(&path), outer)
    };
    fs::rename(&dwo, &elsewhere).expect("it can be moved");
    assert_eq!(functions(&ask()), ["outer"]);
    fs::rename(&elsewhere, &dwo).expect("it can be moved");
    assert_inlined_with_lines(&ask());
    // By now it is known, and true of this program for ever.
    fs::remove_file(&dwo).expect("it is there");
    assert_inlined_with_lines(&ask());
}

#[test]
fn a_missing_or_foreign_dwo_leaves_the_lines_and_is_said() {
    for dwarf in VERSIONS {
        let workshop = Workshop::new();
        let path = build_split(&workshop, dwarf);
        let outer = symbol(&path, "outer");
        let dwo = workshop.path("libinlined.so.dwo");
        let other = Workshop::new();
        let source = "int other;\n".to_owned() + INLINED_C;
        let flags = ["-O1", "-g", dwarf, "-gsplit-dwarf", "-shared", "-fPIC"];
        other.build("gcc", &source, "libinlined.so.c", &flags);
        fs::copy(other.path("libinlined.so.dwo"), &dwo).expect("it can be copied");
        for _ in 0..2 {
            let mut symbolizer = workshop.symbolizer();
            let symbols = in_inner(&mut symbolizer, &module(&path), outer);
            assert_eq!(functions(&symbols), ["outer"]);
            assert!(symbols[0].line.is_some());
            let notes = symbolizer.notes();
            let expected = format!(
                "libinlined.so: no inlined functions from 1 units whose .dwo files are not there, such as {}",
                dwo.display()
            );
            assert_eq!(notes, [expected]);
            if dwo.exists() {
                fs::remove_file(&dwo).expect("it is there");
            }
        }
    }
}

/// Puts the `.dwo` of the library into a package.
fn package(workshop: &Workshop, path: &Path) {
    let package = workshop.path("libinlined.so.dwp");
    run(Command::new(need("dwp"))
        .arg("-e")
        .args([path, Path::new("-o"), &package]));
    fs::remove_file(workshop.path("libinlined.so.dwo")).expect("it is there");
}

#[test]
fn a_package_of_split_dwarf_is_read() {
    let workshop = Workshop::new();
    let path = build_split(&workshop, VERSIONS[0]);
    let outer = symbol(&path, "outer");
    package(&workshop, &path);
    assert_split(&workshop, &path, outer, NameTable::Dwp);
    // It has the program's name, also when the rest of the DWARF is in a debug file.
    workshop.split(&path, &workshop.path(".debug/libinlined.so.debug"));
    assert_split(&workshop, &path, outer, NameTable::Dwp);
}

/// The index of a package of one unit with the number `id`: DWARF 5, section 7.3.5.3.
fn index(id: u64, sections: &[(u32, u32)]) -> Vec<u8> {
    let count = u32::try_from(sections.len()).expect("few");
    let mut bytes: Vec<u8> = [5, count, 1, 2]
        .iter()
        .flat_map(|word: &u32| word.to_le_bytes())
        .collect();
    let slot = id & 1;
    for at in 0..2 {
        bytes.extend(if at == slot { id } else { 0 }.to_le_bytes());
    }
    for at in 0..2 {
        bytes.extend(u32::from(at == slot).to_le_bytes());
    }
    let words = sections.iter().map(|(id, _)| *id);
    let words = words.chain(sections.iter().map(|_| 0));
    for word in words.chain(sections.iter().map(|(_, size)| *size)) {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// Puts the `.dwo` of DWARF 5 into a package: `dwp` of binutils 2.40 ends in a segmentation fault.
fn pack(workshop: &Workshop) -> PathBuf {
    let [dwo, package, index_file] =
        ["libinlined.so.dwo", "libinlined.so.dwp", "index"].map(|name| workshop.path(name));
    let (id, sections) = with_elf(&dwo, |elf| {
        let size = |name: &[u8]| elf.section_data(name).map_or(0, <[u8]>::len);
        // DW_SECT_INFO, ABBREV, LINE, STR_OFFSETS, RNGLISTS; and the unit's number after its header of 12 bytes.
        let sections = [
            (1, &b".debug_info.dwo"[..]),
            (3, b".debug_abbrev.dwo"),
            (4, b".debug_line.dwo"),
            (6, b".debug_str_offsets.dwo"),
            (8, b".debug_rnglists.dwo"),
        ]
        .map(|(id, name)| (id, u32::try_from(size(name)).expect("small")));
        let info = elf.section_data(b".debug_info.dwo").expect("it has one");
        let id = info[12..20].try_into().expect("eight bytes");
        (u64::from_le_bytes(id), sections)
    });
    let sections: Vec<_> = sections.into_iter().filter(|(_, size)| *size > 0).collect();
    fs::write(&index_file, index(id, &sections)).expect("it can be written");
    let add = format!(".debug_cu_index={}", index_file.display());
    run(Command::new("objcopy")
        .arg("--add-section")
        .arg(add)
        .args([&dwo, &package]));
    fs::remove_file(&dwo).expect("it is there");
    package
}

#[test]
fn a_package_of_dwarf_5_is_read() {
    let workshop = Workshop::new();
    let path = build_split(&workshop, VERSIONS[1]);
    pack(&workshop);
    assert_split(&workshop, &path, symbol(&path, "outer"), NameTable::Dwp);
}

#[test]
fn damaged_split_dwarf_gives_fewer_names_and_never_a_panic() {
    for is_packed in [false, true] {
        let workshop = Workshop::new();
        let path = build_split(&workshop, VERSIONS[1]);
        let other = match is_packed {
            true => pack(&workshop),
            false => workshop.path("libinlined.so.dwo"),
        };
        damage(&workshop, &path, &other);
    }
}

#[test]
fn damaged_dwz_files_give_fewer_names_and_never_a_panic() {
    let workshop = Workshop::new();
    let path = build_dwz(&workshop, VERSIONS[1], &["--dwarf-5"]);
    damage(&workshop, &path, &workshop.path("common.debug"));
}

/// Looks names up while DWARF of the program at `path`, and anything of the `other` file that it needs, is damaged.
fn damage(workshop: &Workshop, path: &Path, other: &Path) {
    let (start, size) = symbol(path, "outer");
    let addresses: Vec<u64> = (start..start + size)
        .step_by(3)
        .chain([0, u64::MAX])
        .collect();
    let files = [path, other];
    let whole = files.map(|file| fs::read(file).expect("it was built"));
    let info = section_range(path, b".debug_info");
    let line = section_range(path, b".debug_line");
    let here = prop_oneof![info, line].prop_map(|at| (0, at));
    let place = prop_oneof![here, (0..whole[1].len()).prop_map(|at| (1, at))];
    let changes = prop::collection::vec((place, any::<u8>()), 1..12);
    let file = module(path);
    let config = ProptestConfig::with_cases(64);
    proptest!(config, |(changes in changes)| {
        let mut bytes = whole.clone();
        for ((file, at), byte) in changes {
            bytes[file][at] = byte;
        }
        for (file, bytes) in files.iter().zip(&bytes) {
            fs::write(file, bytes).expect("it can be written");
        }
        let symbols = workshop.symbolizer().symbolize(&file, &addresses);
        prop_assert_eq!(symbols.len(), addresses.len());
    });
}
