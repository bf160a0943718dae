//! Names from Go's own table, in programs that a Go compiler made.

use std::sync::Arc;

use proptest::prelude::*;
use sampler_tests_support::need;
use sampler_unwind::{ElfImage, ImageBytes};

use super::*;
use crate::symbols::go;

/// `price` is inlined into `tag` and that into `sell`; the lines of the calls are 9 and 18.
const SHOP_GO: &str = r#"package main

var sink int

func price(item int) int {
	return item*3 + sink
}
func tag(item int) int {
	return price(item) + 1
}
type Shelf[T any] struct{ items []T }
//go:noinline
func (s *Shelf[T]) Put(item T) int { s.items = append(s.items, item); return len(s.items) }

//go:noinline
func sell(item int) int {
	for i := 0; i < item; i++ {
		sink += tag(i)
	}
	return sink
}
func main() { shelf := &Shelf[int]{}; println(sell(shelf.Put(7))) }
"#;

fn build(workshop: &Workshop, name: &str, flags: &[&str]) -> PathBuf {
    let source = workshop.path("shop.go");
    fs::write(&source, SHOP_GO).expect("it can be written");
    let out = workshop.path(name);
    // Kept between runs: the first build for position independent code compiles Go's runtime.
    let tests = std::env::current_exe().expect("this test");
    let cache = tests.with_file_name("go-build-cache");
    run(Command::new(need("go"))
        .env("GOCACHE", cache)
        .env("GOFLAGS", "")
        .env("GOPROXY", "off")
        .env("GO111MODULE", "off")
        .env("CGO_ENABLED", "0")
        .arg("build")
        .args(flags)
        .arg("-o")
        .args([&out, &source]));
    out
}

/// Forgets the section headers of `path`, as packers do.
fn forget_sections(path: &Path) {
    let mut bytes = fs::read(path).expect("it was built");
    // Elf64_Ehdr: e_shoff; e_shnum and e_shstrndx.
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    fs::write(path, bytes).expect("it can be written");
}

/// Leaves it to the relocations where the text starts, as other linkers than Go's do.
fn forget_text_start(path: &Path) {
    let at = section_range(path, b".data.rel.ro.gopclntab").start + 24;
    let mut bytes = fs::read(path).expect("it was built");
    bytes[at..at + 8].fill(0);
    fs::write(path, bytes).expect("it can be written");
}

#[track_caller]
fn check(workshop: &Workshop, path: &Path, sell: (u64, u64), put: u64) {
    let file = ModuleInfo {
        build_id: None,
        ..module(path)
    };
    let mut symbolizer = workshop.symbolizer();
    let addresses: Vec<u64> = (sell.0..sell.0 + sell.1).collect();
    let symbols = symbolizer.symbolize(&file, &addresses);
    for symbols in &symbols {
        assert_eq!(functions(symbols).last(), Some(&"main.sell"));
    }
    let deepest = symbols.iter().max_by_key(|symbols| symbols.len());
    let deepest = deepest.expect("it has code");
    assert_eq!(functions(deepest), ["main.price", "main.tag", "main.sell"]);
    let lines: Vec<Option<u32>> = deepest.iter().map(|symbol| symbol.line).collect();
    assert_eq!(lines, [Some(6), Some(9), Some(18)]);
    let inlined: Vec<bool> = deepest.iter().map(|symbol| symbol.inlined).collect();
    assert_eq!(inlined, [true, true, false]);
    assert_eq!(
        sources(deepest),
        [(NameTable::Pclntab, NameFile::Module); 3]
    );
    for symbol in deepest {
        let file = symbol.file.as_deref().unwrap_or_default();
        assert!(file.ends_with("/shop.go"), "{file}");
    }
    let put = symbolizer.symbolize(&file, &[put]);
    assert_eq!(functions(&put[0]), ["main.(*Shelf[...]).Put"]);
    assert!(symbolizer.notes().is_empty(), "{:?}", symbolizer.notes());
}

#[test]
fn go_programs_are_named_by_their_own_table_whatever_was_stripped() {
    let workshop = Workshop::new();
    for mode in ["-buildmode=exe", "-buildmode=pie"] {
        let whole = build(&workshop, "whole", &[mode]);
        let sell = symbol(&whole, "main.sell");
        let (put, _) = symbol(&whole, "main.(*Shelf[go.shape.int_0]).Put");
        check(&workshop, &whole, sell, put);
        let without = build(&workshop, "without", &[mode, "-ldflags=-s -w"]);
        check(&workshop, &without, sell, put);
        if mode == "-buildmode=pie" {
            forget_text_start(&whole);
            check(&workshop, &whole, sell, put);
        }
        run(Command::new("strip").arg(&whole));
        check(&workshop, &whole, sell, put);
        forget_sections(&whole);
        check(&workshop, &whole, sell, put);
    }
}

#[test]
fn damaged_go_programs_are_read_without_a_panic() {
    let workshop = Workshop::new();
    let path = build(&workshop, "whole", &["-buildmode=pie"]);
    let (start, size) = symbol(&path, "main.sell");
    let addresses: Vec<u64> = (start..start + size)
        .step_by(5)
        .chain([0, u64::MAX])
        .collect();
    let whole = fs::read(&path).expect("it was built");
    let table = section_range(&path, b".data.rel.ro.gopclntab");
    let places = vec![
        0..0x400,
        section_range(&path, b".dynamic"),
        table.start..table.start + 0x80,
        table.clone(),
        whole.len() - 0x800..whole.len(),
    ];
    let place = prop::sample::select(places).prop_flat_map(|range| range);
    let changes = prop::collection::vec((place, any::<u8>()), 1..12);
    let config = ProptestConfig::with_cases(64);
    proptest!(config, |(changes in changes, without_sections: bool)| {
        let mut bytes = whole.clone();
        if without_sections {
            bytes[0x28..0x30].fill(0);
            bytes[0x3c..0x40].fill(0);
        }
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(image) = ElfImage::parse(ImageBytes::new(Arc::new(bytes)))
            && let Some(answer) = go::look_up(&image, NameFile::Module, &addresses)
        {
            prop_assert_eq!(answer.functions.len(), addresses.len());
        }
    });
}
