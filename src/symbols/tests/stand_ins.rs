//! Names for what no table names.

use proptest::prelude::*;

use super::*;
use crate::symbols::plt::PltStubs;

fn names(symbolizer: &mut FileSymbolizer, path: &Path, addresses: &[u64]) -> Vec<Option<String>> {
    let symbols = symbolizer.symbolize(&module(path), addresses);
    symbols
        .into_iter()
        .map(|mut symbols| Some(symbols.pop()?.function))
        .collect()
}

#[test]
fn a_gap_in_a_stripped_file_is_called_after_where_its_function_starts() {
    let workshop = Workshop::new();
    let path = workshop.inlined();
    let (hidden, hidden_size) = symbol(&path, "hidden");
    let (exported, exported_size) = symbol(&path, "exported");
    run(Command::new("strip").arg(&path));
    let addresses = [
        exported,
        exported + exported_size - 1,
        hidden,
        hidden + hidden_size / 2,
        u64::MAX,
    ];
    let mut symbolizer = workshop.symbolizer();
    let exported = Some("exported".to_owned());
    let made_up = Some(format!("libinlined.so!fn_{hidden:x}"));
    let expected = [&exported, &exported, &made_up, &made_up, &None].map(Clone::clone);
    assert_eq!(names(&mut symbolizer, &path, &addresses), expected);
    let symbols = symbolizer.symbolize(&module(&path), &[hidden]);
    assert_eq!(sources(&symbols[0]), [(NameTable::Fde, NameFile::Module)]);
    // Without unwind tables nothing is known of the gap, and nothing is said.
    run(Command::new("objcopy")
        .args([
            "--remove-section=.eh_frame_hdr",
            "--remove-section=.eh_frame",
        ])
        .arg(&path));
    let expected = [&exported, &exported, &None, &None, &None].map(Clone::clone);
    let names = names(&mut workshop.symbolizer(), &path, &addresses);
    assert_eq!(names, expected);
}

const CALLS_C: &str = r#"#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    int (*by_address)(const char *) = argc > 1 ? puts : atoi;
    puts("called");
    return by_address(argv[0]) + atoi(argv[0]) + (getenv("X") != 0) + rand();
}
"#;

/// What objdump calls the stubs of `path`.
fn stubs_by_objdump(path: &Path) -> Vec<(u64, String)> {
    let output = Command::new("objdump").arg("-d").arg(path).output();
    let output = output.expect("objdump can be run, see tests/run");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .filter_map(|line| {
            let (address, name) = line.strip_suffix(">:")?.split_once(" <")?;
            let name = name.strip_suffix("@plt")?;
            let address = u64::from_str_radix(address, 16).ok()?;
            Some((address, format!("{name}@plt")))
        })
        .collect()
}

#[test]
fn stubs_are_called_after_the_function_that_they_call() {
    for flags in [
        &["-O1", "-g"][..],
        &["-O1", "-Wl,-z,now"],
        &["-O1", "-no-pie", "-Wl,-z,lazy"],
        &["-O1", "-fcf-protection=full", "-Wl,-z,ibtplt"],
        &["-O1", "-fcf-protection=full", "-Wl,-z,ibtplt", "-Wl,-z,now"],
    ] {
        let workshop = Workshop::new();
        let path = workshop.build("gcc", CALLS_C, "calls.c", flags);
        for is_stripped in [false, true] {
            if is_stripped {
                run(Command::new("strip").arg(&path));
            }
            let stubs = stubs_by_objdump(&path);
            let called = |name: &str| stubs.iter().any(|(_, stub)| stub == name);
            assert!(
                called("puts@plt") && called("rand@plt"),
                "{flags:?}: {stubs:?}"
            );
            for (address, name) in stubs {
                let found = names(&mut workshop.symbolizer(), &path, &[address, address + 5]);
                assert_eq!(
                    found,
                    [Some(name.clone()), Some(name)],
                    "{flags:?} {address:#x}"
                );
            }
        }
    }
}

#[test]
fn stubs_of_damaged_files_are_read_without_a_panic() {
    let workshop = Workshop::new();
    let path = workshop.build("gcc", CALLS_C, "calls.c", &["-O1", "-Wl,-z,lazy"]);
    let whole = fs::read(&path).expect("it was built");
    let sections = [
        &b".plt"[..],
        b".plt.got",
        b".rela.plt",
        b".rela.dyn",
        b".dynsym",
        b".dynstr",
    ];
    let mut places = sections.map(|name| section_range(&path, name)).to_vec();
    // Section headers come last in the file.
    places.push(whole.len() - 64 * 20..whole.len());
    let place = prop::sample::select(places).prop_flat_map(|range| range);
    let changes = prop::collection::vec((place, any::<u8>()), 1..20);
    let stubs = stubs_by_objdump(&path);
    proptest!(|(changes in changes)| {
        let mut bytes = whole.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Some(found) = Elf::parse(&bytes).ok().as_ref().and_then(PltStubs::find) {
            for address in stubs.iter().map(|(address, _)| *address).chain([0, u64::MAX]) {
                let name = found.name_at(address);
                prop_assert!(name.is_none_or(|name| name.ends_with("@plt")));
            }
        }
    });
}
