//! Lines and inlined functions from DWARF.

use super::*;

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
    let whole = in_inner(&mut workshop.symbolizer(), &module(&path), outer);
    let (dwarf, symtab) = (NameTable::Dwarf, NameTable::Symtab);
    let all_in = |file| vec![(dwarf, file), (dwarf, file), (symtab, file)];
    assert_eq!(sources(&whole), all_in(NameFile::Module));
    workshop.split(&path, &workshop.path("libinlined.so.debug"));
    let linked = in_inner(&mut workshop.symbolizer(), &module(&path), outer);
    assert_eq!(sources(&linked), all_in(NameFile::DebugLink));
    fs::remove_file(workshop.path("libinlined.so.debug")).expect("it was made");
    let stripped = in_inner(&mut workshop.symbolizer(), &module(&path), outer);
    assert_eq!(sources(&stripped), [(NameTable::Dynsym, NameFile::Module)]);
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
fn dwarf_4_and_5_say_the_same() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        for more in ["-fno-debug-types-section", "-fdebug-types-section"] {
            let workshop = Workshop::new();
            let flags = ["-O1", version, more, "-shared", "-fPIC"];
            let path = workshop.build("gcc", INLINED_C, "libinlined.so.c", &flags);
            let outer = symbol(&path, "outer");
            let mut symbolizer = workshop.symbolizer();
            assert_inlined_with_lines(&in_inner(&mut symbolizer, &module(&path), outer));
            workshop.split(&path, &workshop.path("libinlined.so.debug"));
            assert_inlined_with_lines(&in_inner(&mut symbolizer, &module(&path), outer));
            assert!(symbolizer.notes().is_empty(), "{:?}", symbolizer.notes());
        }
    }
}
