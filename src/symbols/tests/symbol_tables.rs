//! Names from symbol tables.

use std::os::unix::fs::FileExt;

use object::elf::Sym64;

use super::*;

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
