//! Fixtures: built from `fixtures/programs/` when first needed, and kept under the target folder until source or
//! flags change.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use crate::need;

/// What builds a fixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tool {
    /// The distribution's C compiler.
    Gcc,
    /// Its C++ compiler.
    Gxx,
    /// The C compiler of musl-tools.
    MuslGcc,
    /// The Rust compiler the tests themselves are built with.
    Rustc,
    /// The Go compiler.
    Go,
}

impl Tool {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Gcc => "gcc",
            Self::Gxx => "g++",
            Self::MuslGcc => "musl-gcc",
            Self::Rustc => "rustc",
            Self::Go => "go",
        }
    }

    fn command(self) -> Command {
        match self {
            Self::Rustc => {
                Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            }
            Self::Go => {
                let mut command = Command::new(need(self.program()));
                command
                    .arg("build")
                    .env("CGO_ENABLED", "0")
                    .env("GOPROXY", "off")
                    .env("GOCACHE", fixtures_dir().join("go-cache"));
                command
            }
            _ => Command::new(need(self.program())),
        }
    }
}

/// How one fixture is made. Its line in `fixtures/README.md` names the same flags (`tests/tidy.rs` checks that).
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The fixture's name, and that of the file made.
    pub name: &'static str,
    /// The file in `fixtures/programs/`.
    pub source: &'static str,
    /// What builds it.
    pub tool: Tool,
    /// The flags, as they would be typed.
    pub flags: &'static str,
    /// Fixtures it is linked with, found beside it at run time.
    pub libraries: &'static [&'static str],
}

const fn recipe(
    name: &'static str,
    source: &'static str,
    tool: Tool,
    flags: &'static str,
) -> Recipe {
    Recipe {
        name,
        source,
        tool,
        flags,
        libraries: &[],
    }
}

/// Every fixture there is.
pub const RECIPES: &[Recipe] = &[
    recipe("shares", "shares.c", Tool::Gcc, "-O2 -g"),
    recipe("static", "shares.c", Tool::Gcc, "-O2 -g -static"),
    recipe("static_pie", "shares.c", Tool::Gcc, "-O2 -g -static-pie"),
    recipe("no_pie", "shares.c", Tool::Gcc, "-O2 -g -no-pie -fno-pie"),
    recipe("stripped", "shares.c", Tool::Gcc, "-O2 -s"),
    recipe(
        "musl_static",
        "shares.c",
        Tool::MuslGcc,
        "-O2 -g -static -fasynchronous-unwind-tables",
    ),
    recipe("threads64", "threads64.cpp", Tool::Gxx, "-O2 -g -pthread"),
    recipe("epoll_eintr", "epoll_eintr.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe(
        "recursion",
        "recursion.c",
        Tool::Gcc,
        "-O1 -g -fomit-frame-pointer",
    ),
    recipe(
        "omit_frame_pointer",
        "omit_frame_pointer.c",
        Tool::Gcc,
        "-O2 -g -fomit-frame-pointer -fno-optimize-sibling-calls",
    ),
    recipe("signal_handler", "signal_handler.c", Tool::Gcc, "-O2 -g"),
    recipe("vdso", "vdso.c", Tool::Gcc, "-O2 -g"),
    Recipe {
        name: "plt",
        source: "plt.c",
        tool: Tool::Gcc,
        flags: "-O2 -g -fplt -Wl,-z,lazy",
        libraries: &["libplt_callee.so"],
    },
    recipe(
        "libplt_callee.so",
        "plt_callee.c",
        Tool::Gcc,
        "-O2 -g -fPIC -shared -Wl,-soname,libplt_callee.so",
    ),
    recipe("realign", "realign.c", Tool::Gcc, "-O2 -g"),
    recipe("sleepers", "sleepers.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe(
        "waits",
        "waits.c",
        Tool::Gcc,
        "-O2 -g -pthread -fno-optimize-sibling-calls",
    ),
    recipe("short_lived", "short_lived.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe("exec_midway", "exec_midway.c", Tool::Gcc, "-O2 -g"),
    recipe("exits", "exits.c", Tool::Gcc, "-O2 -g"),
    recipe("forks", "forks.c", Tool::Gcc, "-O2 -g"),
    recipe("families", "families.c", Tool::Gcc, "-O2 -g"),
    recipe("big_mapping", "big_mapping.c", Tool::Gcc, "-O2 -g"),
    recipe(
        "big_library.so",
        "big_library.c",
        Tool::Gcc,
        "-fPIC -shared",
    ),
    recipe("bursts", "bursts.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe("counts", "counts.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe("rt_signals", "rt_signals.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe("without", "without.c", Tool::Gcc, "-O2 -g"),
    recipe("stopped", "stopped.c", Tool::Gcc, "-O2 -g"),
    recipe("withdrawn", "withdrawn.c", Tool::Gcc, "-O2 -g"),
    recipe("filtered", "filtered.c", Tool::Gcc, "-O2 -g"),
    recipe("sixteen", "sixteen.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe("vforks", "vforks.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe(
        "thread_storm",
        "thread_storm.c",
        Tool::Gcc,
        "-O2 -g -pthread",
    ),
    recipe("main_exits", "main_exits.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe(
        "exec_in_thread",
        "exec_in_thread.c",
        Tool::Gcc,
        "-O2 -g -pthread",
    ),
    recipe("odd_calls", "odd_calls.c", Tool::Gcc, "-O2 -g -pthread"),
    recipe("throws", "throws.cpp", Tool::Gxx, "-O2 -g"),
    recipe("wrong_tables", "wrong_tables.c", Tool::Gcc, "-O2 -g"),
    recipe("jit", "jit.c", Tool::Gcc, "-O2 -g"),
    recipe(
        "rust_hot",
        "rust_hot.rs",
        Tool::Rustc,
        "-O -g --edition 2024",
    ),
    recipe(
        "rust_panics",
        "rust_panics.rs",
        Tool::Rustc,
        "-O -g --edition 2024",
    ),
    recipe("stacks", "stacks.c", Tool::Gcc, "-O2 -g"),
    recipe("stacks_static", "stacks.c", Tool::Gcc, "-O2 -g -static"),
    recipe(
        "stacks_static_pie",
        "stacks.c",
        Tool::Gcc,
        "-O2 -g -static-pie",
    ),
    recipe(
        "stacks_no_pie",
        "stacks.c",
        Tool::Gcc,
        "-O2 -g -no-pie -fno-pie",
    ),
    recipe(
        "stacks_no_header",
        "stacks.c",
        Tool::Gcc,
        "-O2 -g -Wl,--no-eh-frame-hdr",
    ),
    recipe(
        "stacks_debug_frame",
        "stacks.c",
        Tool::Gcc,
        "-O2 -g -fno-asynchronous-unwind-tables -fno-unwind-tables",
    ),
    recipe("stacks_stripped", "stacks.c", Tool::Gcc, "-O2 -s"),
    recipe(
        "stacks_thunks",
        "stacks.c",
        Tool::Gcc,
        "-O2 -g -mindirect-branch=thunk -mfunction-return=thunk -fcf-protection=none",
    ),
    recipe(
        "stacks_split",
        "stacks.c",
        Tool::Gcc,
        "-O2 -g -fsplit-stack",
    ),
    recipe(
        "stacks_checked",
        "stacks.c",
        Tool::Gcc,
        "-O2 -g -fsanitize=address",
    ),
    recipe("in_resolver", "moments.c", Tool::Gcc, "-O2 -g -DMOMENT=1"),
    recipe(
        "in_constructor",
        "moments.c",
        Tool::Gcc,
        "-O2 -g -DMOMENT=2",
    ),
    recipe("at_exit", "moments.c", Tool::Gcc, "-O2 -g -DMOMENT=3"),
    recipe("in_destructor", "moments.c", Tool::Gcc, "-O2 -g -DMOMENT=4"),
    recipe("at_thread_end", "moments.c", Tool::Gcc, "-O2 -g -DMOMENT=5"),
    recipe(
        "thread_that_jumped",
        "moments.c",
        Tool::Gcc,
        "-O2 -g -DMOMENT=6",
    ),
    recipe(
        "stacks_without_anything",
        "stacks.c",
        Tool::Gcc,
        "-O2 -s -fno-asynchronous-unwind-tables -fno-unwind-tables",
    ),
    recipe("stacks_musl", "stacks.c", Tool::MuslGcc, "-O2 -g"),
    recipe(
        "stacks_musl_static",
        "stacks.c",
        Tool::MuslGcc,
        "-O2 -g -static",
    ),
    recipe(
        "libodd_library.so",
        "odd_library.c",
        Tool::Gcc,
        "-O2 -fPIC -shared -fno-omit-frame-pointer -fno-asynchronous-unwind-tables -Wl,-soname,libodd_library.so",
    ),
    Recipe {
        name: "with_odd_library",
        source: "with_odd_library.c",
        tool: Tool::Gcc,
        flags: "-O2 -g -fomit-frame-pointer -fplt -Wl,-z,lazy",
        libraries: &["libodd_library.so"],
    },
    recipe("changes", "changes.c", Tool::Gcc, "-O2 -g"),
    recipe(
        "libfirst.so",
        "shelf.c",
        Tool::Gcc,
        "-O2 -g -fPIC -shared -DSHELF=first",
    ),
    recipe(
        "libsecond.so",
        "shelf.c",
        Tool::Gcc,
        "-O2 -g -fPIC -shared -DSHELF=second",
    ),
    recipe("in_flight", "in_flight.cpp", Tool::Gxx, "-O2 -g"),
    recipe("goroutines", "goroutines.go", Tool::Go, "-trimpath"),
    recipe(
        "goroutines_stripped",
        "goroutines.go",
        Tool::Go,
        "-trimpath -ldflags=-s",
    ),
    recipe(
        "thirty_two_bit",
        "thirty_two_bit.c",
        Tool::Gcc,
        "-m32 -O2 -nostdlib -static -ffreestanding",
    ),
];

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where built fixtures are kept: `fixtures` in cargo's target folder.
pub fn fixtures_dir() -> PathBuf {
    let this_test = std::env::current_exe().expect("a running program has a path");
    let target = this_test
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .map_or_else(|| repository().join("target"), Path::to_path_buf);
    target.join("fixtures")
}

/// The path of a fixture, built if it is not there yet.
///
/// # Panics
/// When there is no such fixture, its compiler is missing or does not take the source.
#[track_caller]
pub fn fixture(name: &str) -> PathBuf {
    let recipe = RECIPES
        .iter()
        .find(|recipe| recipe.name == name)
        .unwrap_or_else(|| panic!("no recipe for a fixture `{name}`"));
    let folder = fixtures_dir().join(format!("{name}-{:016x}", digest(recipe)));
    let built = folder.join(name);
    if built.exists() {
        return built;
    }
    fs::create_dir_all(fixtures_dir()).expect("the target folder can be written");
    let _lock = lock(name);
    // Another test may have built it while we waited.
    if !built.exists() {
        build(recipe, &folder);
    }
    built
}

/// Holds other tests back, in this process and in others, until dropped.
fn lock(name: &str) -> Flock<File> {
    let path = fixtures_dir().join(format!("{name}.lock"));
    let file = File::create(&path).expect("the target folder can be written");
    Flock::lock(file, FlockArg::LockExclusive).expect("a lock file can be locked")
}

/// What the built file depends on, as a number.
fn digest(recipe: &Recipe) -> u64 {
    let mut hasher = DefaultHasher::new();
    (recipe.tool, recipe.flags).hash(&mut hasher);
    for source in [recipe.source, "fixture.h"] {
        let path = programs().join(source);
        let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.hash(&mut hasher);
    }
    for library in recipe.libraries {
        fixture(library).hash(&mut hasher);
    }
    hasher.finish()
}

fn programs() -> PathBuf {
    repository().join("fixtures/programs")
}

/// Builds beside the place where it will be, and moves it there whole.
fn build(recipe: &Recipe, folder: &Path) {
    let partial = folder.with_extension("partial");
    let _absent = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).expect("the target folder can be written");
    let mut command = recipe.tool.command();
    command.args(recipe.flags.split_whitespace());
    if !matches!(recipe.tool, Tool::Rustc | Tool::Go) {
        command.args(["-Wall", "-Wextra", "-I"]).arg(programs());
    }
    command
        .arg("-o")
        .arg(partial.join(recipe.name))
        .arg(programs().join(recipe.source));
    for library in recipe.libraries {
        let from = fixture(library);
        fs::copy(&from, partial.join(library)).expect("a built library can be copied");
        command.arg(partial.join(library)).arg("-Wl,-rpath,$ORIGIN");
    }
    run(&mut command);
    fs::rename(&partial, folder).expect("the target folder can be written");
}

fn run(command: &mut Command) {
    let words: Vec<&OsStr> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect();
    let line = words.join(OsStr::new(" "));
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", line.display()));
    assert!(
        output.status.success(),
        "{} failed:\n{}",
        line.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}
