//! Tests on programs that the compilers of this machine build.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::elf::Sym64;
use object::read::elf::Sym;
use proptest::prelude::*;
use sampler_unwind::BuildId;

use super::elf::{Elf, symbol_name};
use super::{FileSymbolizer, NameFile, NameTable, Symbol, SymbolPaths, Symbolize};
use crate::profile::ModuleInfo;

/// `outer` holds `middle`, which holds `inner`; the lines of the calls are 4 and 9. `hidden` is called from nowhere
/// else, so that its place between exported functions is a gap once it has lost its name.
const INLINED_C: &str = r#"volatile int sink;
static inline __attribute__((always_inline)) void inner(void) { sink = 1; }
static inline __attribute__((always_inline)) void middle(void) {
    inner();
}
__attribute__((noinline)) static int hidden(int a) { sink = a; __asm__ volatile(".skip 4000, 0x90"); return a * 3; }
__attribute__((noinline)) int exported(int a) { return hidden(a) + 1; }
__attribute__((noinline)) void outer(void) {
    middle();
}
int main(void) { outer(); return exported(sink); }
"#;

/// A directory with files that were built for one test.
struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes `source` to `name.extension` and compiles it to `name`.
    fn build(&self, compiler: &str, source: &str, file: &str, arguments: &[&str]) -> PathBuf {
        let source_path = self.path(file);
        fs::write(&source_path, source).expect("the source can be written");
        let out = source_path.with_extension("");
        let mut command = Command::new(compiler);
        command
            .args(arguments)
            .arg("-o")
            .arg(&out)
            .arg(&source_path);
        run(&mut command);
        out
    }

    fn inlined(&self) -> PathBuf {
        let flags = [
            "-O1",
            "-g",
            "-fno-ipa-icf",
            "-Wl,--build-id=sha1",
            "-shared",
            "-fPIC",
        ];
        self.build("gcc", INLINED_C, "libinlined.so.c", &flags)
    }

    /// Moves the debug information of `file` to `debug`, linked from it as the distributions do.
    fn split(&self, file: &Path, debug: &Path) {
        fs::create_dir_all(debug.parent().expect("it has a directory")).expect("it can be made");
        run(Command::new("objcopy")
            .arg("--only-keep-debug")
            .args([file, debug]));
        run(Command::new("objcopy").arg("--strip-all").arg(file));
        let link = format!("--add-gnu-debuglink={}", debug.display());
        run(Command::new("objcopy").arg(link).arg(file));
    }

    /// A symbolizer that looks for debug files in `debug` of this directory as well.
    fn symbolizer(&self) -> FileSymbolizer {
        FileSymbolizer::new(SymbolPaths {
            sysroot: None,
            debug_dirs: vec![self.path("debug")],
        })
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be run, see tests/run: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

fn with_elf<T>(path: &Path, read: impl FnOnce(&Elf<'_>) -> T) -> T {
    let bytes = fs::read(path).expect("it was built");
    read(&Elf::parse(&bytes).expect("it is an ELF file"))
}

fn module(path: &Path) -> ModuleInfo {
    ModuleInfo {
        path: path.to_str().expect("UTF-8").to_owned(),
        build_id: with_elf(path, |elf| elf.build_id()),
        image: None,
    }
}

/// Where the section `name` lies in the file.
fn section_range(path: &Path, name: &[u8]) -> Range<usize> {
    with_elf(path, |elf| {
        let data = elf.section_data(name).expect("it has the section");
        let start = data.as_ptr().addr() - elf.data.as_ptr().addr();
        start..start + data.len()
    })
}

/// Start and size of the symbol `name` in `path`.
fn symbol(path: &Path, name: &str) -> (u64, u64) {
    with_elf(path, |elf| {
        let table = elf.symbol_table().expect("it has symbols");
        table
            .iter()
            .find(|symbol| symbol_name(table.strings(), symbol.st_name(elf.endian)) == Some(name))
            .map(|symbol| (symbol.st_value(elf.endian), symbol.st_size(elf.endian)))
            .unwrap_or_else(|| panic!("{} has no symbol {name}", path.display()))
    })
}

fn functions(symbols: &[Symbol]) -> Vec<&str> {
    symbols
        .iter()
        .map(|symbol| symbol.function.as_str())
        .collect()
}

fn hex(build_id: &BuildId) -> (String, String) {
    let hex = build_id.to_string();
    (hex[..2].to_owned(), hex[2..].to_owned())
}

/// What is known of the address in `outer` that has the most functions: the one inlined from `inner`.
fn in_inner(symbolizer: &mut FileSymbolizer, file: &ModuleInfo, outer: (u64, u64)) -> Vec<Symbol> {
    let addresses: Vec<u64> = (outer.0..outer.0 + outer.1).collect();
    let symbols = symbolizer.symbolize(file, &addresses);
    for (address, symbols) in addresses.iter().zip(&symbols) {
        let outermost = symbols.last().map(|symbol| symbol.function.as_str());
        assert_eq!(outermost, Some("outer"), "at {address:#x}");
    }
    symbols
        .into_iter()
        .max_by_key(Vec::len)
        .expect("outer has code")
}

#[track_caller]
fn assert_inlined_with_lines(symbols: &[Symbol]) {
    assert_eq!(functions(symbols), ["inner", "middle", "outer"]);
    let lines: Vec<Option<u32>> = symbols.iter().map(|symbol| symbol.line).collect();
    assert_eq!(lines, [Some(2), Some(4), Some(9)]);
    let inlined: Vec<bool> = symbols.iter().map(|symbol| symbol.inlined).collect();
    assert_eq!(inlined, [true, true, false]);
    for symbol in symbols {
        let file = symbol.file.as_deref().unwrap_or_default();
        assert!(file.ends_with("/libinlined.so.c"), "{file}");
    }
}

#[test]
fn inlined_functions_come_innermost_first_with_lines() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let mut symbolizer = workshop.symbolizer();
    let symbols = in_inner(&mut symbolizer, &module(&path), symbol(&path, "outer"));
    assert_inlined_with_lines(&symbols);
    assert!(symbolizer.notes().is_empty(), "{:?}", symbolizer.notes());
}

#[test]
fn a_name_says_which_table_of_which_file_it_came_from() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let outer = symbol(&path, "outer");
    let sources = |symbols: Vec<Symbol>| -> Vec<(NameTable, NameFile)> {
        let sources = symbols.iter().map(|symbol| symbol.source);
        sources.map(|source| (source.table, source.file)).collect()
    };
    let whole = in_inner(&mut workshop.symbolizer(), &module(&path), outer);
    let (dwarf, symtab) = (NameTable::Dwarf, NameTable::Symtab);
    let all_in = |file| vec![(dwarf, file), (dwarf, file), (symtab, file)];
    assert_eq!(sources(whole), all_in(NameFile::Module));
    workshop.split(&path, &workshop.path("libinlined.so.debug"));
    let linked = in_inner(&mut workshop.symbolizer(), &module(&path), outer);
    assert_eq!(sources(linked), all_in(NameFile::DebugLink));
    fs::remove_file(workshop.path("libinlined.so.debug")).expect("it was made");
    let stripped = in_inner(&mut workshop.symbolizer(), &module(&path), outer);
    assert_eq!(sources(stripped), [(NameTable::Dynsym, NameFile::Module)]);
}

#[test]
fn addresses_come_back_in_the_order_asked_for() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let (outer, _) = symbol(&path, "outer");
    let (exported, _) = symbol(&path, "exported");
    let symbols = workshop
        .symbolizer()
        .symbolize(&module(&path), &[outer, exported, outer, u64::MAX, 0]);
    let outermost: Vec<Option<&str>> = symbols
        .iter()
        .map(|symbols| symbols.last().map(|symbol| symbol.function.as_str()))
        .collect();
    assert_eq!(
        outermost,
        [Some("outer"), Some("exported"), Some("outer"), None, None]
    );
}

#[test]
fn a_gap_in_a_stripped_file_has_no_name() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let (hidden, hidden_size) = symbol(&path, "hidden");
    let (exported, exported_size) = symbol(&path, "exported");
    run(Command::new("strip").arg(&path));
    let mut symbolizer = workshop.symbolizer();
    let addresses = [
        exported,
        exported + exported_size - 1,
        hidden,
        hidden + hidden_size / 2,
    ];
    let symbols = symbolizer.symbolize(&module(&path), &addresses);
    let names: Vec<Vec<&str>> = symbols.iter().map(|symbols| functions(symbols)).collect();
    assert_eq!(names, [vec!["exported"], vec!["exported"], vec![], vec![]]);
}

#[test]
fn a_symbol_without_a_size_reaches_to_the_next_one_where_all_symbols_are_known() {
    let workshop = Workshop::new();
    let source = r#"
        .text
        .globl sized, bare, last
        .type sized, @function
sized:  nop
inside: nop
        nop
        .size sized, . - sized
        .skip 16, 0x90
bare:   nop
        nop
        .type last, @function
last:   nop
        .size last, . - last
        .skip 16, 0x90
        .section .note.GNU-stack
"#;
    let flags = ["-shared", "-nostdlib"];
    let path = workshop.build("gcc", source, "asm.so.s", &flags);
    let [sized, inside, bare, last] =
        ["sized", "inside", "bare", "last"].map(|name| symbol(&path, name).0);
    let addresses = [
        sized,
        inside,
        sized + 2,
        sized + 3,
        bare,
        bare + 1,
        last,
        last + 1,
    ];
    let outermost = || -> Vec<Option<String>> {
        let symbols = workshop.symbolizer().symbolize(&module(&path), &addresses);
        let names = symbols
            .iter()
            .map(|symbols| Some(symbols.last()?.function.clone()));
        names.collect()
    };
    let expect = |names: [Option<&str>; 8]| names.map(|name| name.map(str::to_owned));
    let (in_sized, in_bare, in_last) = (Some("sized"), Some("bare"), Some("last"));
    // A label inside a function does not reach out of it.
    assert_eq!(
        outermost(),
        expect([
            in_sized, in_sized, in_sized, None, in_bare, in_bare, in_last, None
        ])
    );
    run(Command::new("strip").arg(&path));
    assert_eq!(
        outermost(),
        expect([
            in_sized, in_sized, in_sized, None, in_bare, None, in_last, None
        ])
    );
}

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
fn an_image_in_the_recording_needs_no_file() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let (exported, size) = symbol(&path, "exported");
    run(Command::new("strip").arg(&path));
    let image = ModuleInfo {
        path: "[vdso]".to_owned(),
        build_id: None,
        image: Some(fs::read(&path).expect("it was built")),
    };
    let mut symbolizer = FileSymbolizer::default();
    let symbols = symbolizer.symbolize(&image, &[exported, exported + size - 1, 1]);
    let names: Vec<Vec<&str>> = symbols.iter().map(|symbols| functions(symbols)).collect();
    assert_eq!(names, [vec!["exported"], vec!["exported"], vec![]]);
    assert!(symbolizer.notes().is_empty());
}

#[test]
fn the_vdso_of_this_machine_is_named_by_its_image() {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is there");
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = line
        .and_then(|line| line.split_once(' '))
        .expect("a vDSO")
        .0;
    let (start, end) = range.split_once('-').expect("a range");
    let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).expect("hex"));
    let mut image = vec![0; usize::try_from(end - start).expect("a small one")];
    let memory = fs::File::open("/proc/self/mem").expect("our own memory");
    memory
        .read_exact_at(&mut image, start)
        .expect("it is mapped");
    let (address, size) = {
        let elf = Elf::parse(&image).expect("the vDSO is an ELF file");
        let table = elf.dynamic_symbols().expect("it exports functions");
        let name = |symbol: &&Sym64<_>| symbol_name(table.strings(), symbol.st_name(elf.endian));
        let found = table
            .iter()
            .find(|symbol| name(symbol) == Some("__vdso_clock_gettime"))
            .expect("every vDSO has it");
        (found.st_value(elf.endian), found.st_size(elf.endian))
    };
    let vdso = ModuleInfo {
        path: "[vdso]".to_owned(),
        build_id: None,
        image: Some(image),
    };
    let mut symbolizer = FileSymbolizer::default();
    let symbols = symbolizer.symbolize(&vdso, &[address, address + size - 1]);
    // `clock_gettime` is the same code, and the name that people know.
    for symbols in symbols {
        assert_eq!(functions(&symbols), ["clock_gettime"]);
    }
    assert!(symbolizer.notes().is_empty(), "{:?}", symbolizer.notes());
}

#[test]
fn mini_debug_info_names_what_is_not_exported() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let (hidden, _) = symbol(&path, "hidden");
    let file = module(&path);
    let mini = workshop.path("mini");
    run(Command::new("objcopy")
        .args(["--strip-debug", "--only-keep-debug"])
        .args([&path, &mini]));
    run(Command::new("xz").arg(&mini));
    run(Command::new("strip").arg(&path));
    let section = format!(".gnu_debugdata={}.xz", mini.display());
    run(Command::new("objcopy")
        .args(["--add-section", &section])
        .arg(&path));
    let mut symbolizer = workshop.symbolizer();
    let symbols = symbolizer.symbolize(&file, &[hidden]);
    assert_eq!(
        functions(&symbols[0]),
        ["hidden"],
        "{:?}",
        symbolizer.notes()
    );
}

#[test]
fn compressed_debug_information_is_read() {
    let workshop = Workshop::new();
    let flags = ["-O1", "-g", "-gz=zlib", "-shared", "-fPIC"];
    let path = workshop.build("gcc", INLINED_C, "libinlined.so.c", &flags);
    let symbols = in_inner(
        &mut workshop.symbolizer(),
        &module(&path),
        symbol(&path, "outer"),
    );
    assert_inlined_with_lines(&symbols);
}

#[test]
fn cpp_templates_and_cold_parts_are_named_in_full() {
    let workshop = Workshop::new();
    let source = r#"#include <stdexcept>
namespace shop {
template <typename T> struct Shelf { __attribute__((noinline)) T put(T item) { return item * 3; } };
template struct Shelf<int>;
__attribute__((noinline)) int sell(Shelf<int> &shelf, int item) {
    if (item < 0) throw std::runtime_error("negative");
    return shelf.put(item); }
}
int main(int argc, char **) { shop::Shelf<int> shelf; return shop::sell(shelf, argc); }
"#;
    let path = workshop.build("g++", source, "shelf.cc", &["-O2", "-g"]);
    let addresses = [
        "_ZN4shop5ShelfIiE3putEi",
        "_ZN4shop4sellERNS_5ShelfIiEEi",
        "_ZN4shop4sellERNS_5ShelfIiEEi.cold",
    ]
    .map(|mangled| symbol(&path, mangled).0);
    let symbols = workshop.symbolizer().symbolize(&module(&path), &addresses);
    let outermost: Vec<(&str, Option<u32>)> = symbols
        .iter()
        .filter_map(|symbols| Some((symbols.last()?.function.as_str(), symbols.last()?.line)))
        .collect();
    assert_eq!(
        outermost,
        [
            ("shop::Shelf<int>::put(int)", Some(3)),
            ("shop::sell(shop::Shelf<int>&, int)", Some(6)),
            ("shop::sell(shop::Shelf<int>&, int) [clone .cold]", Some(5)),
        ]
    );
}

#[test]
fn rust_names_have_no_hash_in_either_mangling() {
    for mangling in [None, Some("-Csymbol-mangling-version=v0")] {
        let workshop = Workshop::new();
        let source = r#"mod shop { #[inline(always)] pub fn add(a: u64) -> u64 { std::hint::black_box(a) + 1 }
#[inline(never)] pub fn sell<T: Into<u64>>(item: T) -> u64 { add(item.into()) } }
fn main() { std::process::exit(shop::sell(7u32) as i32 & 1) }
"#;
        let flags: Vec<&str> = ["-O", "-g", "--edition=2021"]
            .into_iter()
            .chain(mangling)
            .collect();
        let path = workshop.build("rustc", source, "shop.rs", &flags);
        let sell = with_elf(&path, |elf| {
            let table = elf.symbol_table().expect("it has symbols");
            let (start, end) = table
                .iter()
                .find(|symbol| {
                    let name = symbol_name(table.strings(), symbol.st_name(elf.endian));
                    name.is_some_and(|name| name.contains("4shop4sell"))
                })
                .map(|symbol| (symbol.st_value(elf.endian), symbol.st_size(elf.endian)))
                .expect("sell is a function");
            (start..start + end).collect::<Vec<u64>>()
        });
        let symbols = workshop.symbolizer().symbolize(&module(&path), &sell);
        let deepest = symbols
            .iter()
            .find(|symbols| functions(symbols).contains(&"shop::shop::add"))
            .expect("add is inlined");
        let last = deepest.last().expect("a function");
        assert!(last.function.starts_with("shop::shop::sell"), "{last:?}");
        assert!(!last.function.contains("17h"), "{last:?}");
        assert_eq!(last.line, Some(2));
    }
}

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
