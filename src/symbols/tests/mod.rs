//! Tests on programs that the compilers of this machine build.

mod damage;
mod debug_files;
mod go;
mod lines;
mod linked_dwarf;
mod stand_ins;
mod symbol_tables;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::read::elf::Sym;
use sampler_unwind::BuildId;

use super::elf::{Elf, symbol_name};
use super::{
    FileSymbolizer, NameFile, NameTable, Symbol, SymbolCache, SymbolPack, SymbolPaths, Symbolize,
};
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

/// Which table of which file each name came from.
fn sources(symbols: &[Symbol]) -> Vec<(NameTable, NameFile)> {
    let sources = symbols.iter().map(|symbol| symbol.source);
    sources.map(|source| (source.table, source.file)).collect()
}
