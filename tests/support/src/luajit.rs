//! LuaJIT as it is built from its sources, of versions that no distribution has; and what tests of several share.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::{Report, fixtures_dir, need, repository};

/// A LuaJIT, and how it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaJit {
    /// The folder below `fixtures/luajit/` that names its sources.
    pub sources: &'static str,
    /// Whether its references have 64 bits.
    pub gc64: bool,
}

impl LuaJit {
    /// Those that are built for tests: the original of 2026 with both kinds of references, and OpenResty's of 2020,
    /// whose traces do not say where their snapshots hold.
    pub const ALL: [LuaJit; 3] = [
        LuaJit {
            sources: "2026",
            gc64: true,
        },
        LuaJit {
            sources: "2026",
            gc64: false,
        },
        LuaJit {
            sources: "2020-openresty",
            gc64: true,
        },
    ];

    /// The folder with its headers and `libluajit.a`, built if it is not there yet: in half a minute.
    ///
    /// # Panics
    /// When its sources are not there, or do not build.
    #[track_caller]
    pub fn built(self) -> PathBuf {
        let width = if self.gc64 { "gc64" } else { "gc32" };
        let folder = fixtures_dir().join(format!("luajit-{}-{width}", self.sources));
        fs::create_dir_all(&folder).expect("the target folder is ours");
        let lock = File::create(folder.join("lock")).expect("the target folder is ours");
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error);
        let source = folder.join("src");
        if source.join("libluajit.a").exists() {
            return source;
        }
        let sources = sources(self.sources);
        run(Command::new("cp")
            .args(["-r", "--no-preserve=mode"])
            .arg(sources.join("luajit2/."))
            .arg(&folder));
        // Where its version is a date, that comes from its repository, which is not here.
        let version = sources.join("luajit_relver.txt");
        if version.exists() {
            fs::copy(version, folder.join(".relver")).expect("the target folder is ours");
        }
        let options = if self.gc64 {
            "-fPIC"
        } else {
            "-fPIC -DLUAJIT_DISABLE_GC64"
        };
        run(Command::new(need("make"))
            .current_dir(&source)
            .args(["-s", "-j2", "BUILDMODE=static", "libluajit.a"])
            .arg(format!("XCFLAGS={options}"))
            // Not the flags of the cargo that runs the tests.
            .env_remove("MAKEFLAGS"));
        source
    }
}

/// Where the package lies that the package in `fixtures/luajit/NAME` depends on.
#[track_caller]
fn sources(name: &str) -> PathBuf {
    let manifest = repository()
        .join("fixtures/luajit")
        .join(name)
        .join("Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .arg("--manifest-path")
        .arg(&manifest)
        .output()
        .expect("cargo is there");
    let metadata: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    let packages = metadata.as_ref().and_then(|all| all["packages"].as_array());
    let package = packages
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "luajit-src");
    let path = package.and_then(|package| package["manifest_path"].as_str());
    path.and_then(|path| Path::new(path).parent()).map_or_else(
        || {
            panic!(
                "this test needs the sources of LuaJIT: cargo fetch --locked --manifest-path {} (or run tests/run)",
                manifest.display()
            )
        },
        Path::to_path_buf,
    )
}

#[track_caller]
fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?}: {status:?}"
    );
}

/// The folder with `lupa`, a module for the distribution's python3 that holds LuaJIT 2.0 and 2.1 and PUC Lua, each in a
/// library of its own.
///
/// # Panics
/// When it is not there, with the line that installs it.
#[track_caller]
pub fn need_lupa() -> PathBuf {
    let folder = fixtures_dir().join("lupa");
    assert!(
        folder.join("lupa").exists(),
        "this test needs `lupa`: /usr/bin/python3 -m pip install --no-deps --target {} lupa==2.8 (or run tests/run)",
        folder.display()
    );
    folder
}

/// The stacks of `fixtures/lua/alternate.lua` that were found and cannot have been, outermost function first.
pub fn never_were(report: &Report) -> BTreeSet<String> {
    /// Who is called by whom.
    const VIA: [(&str, &str); 3] = [("via_a", "a"), ("via_b", "b"), ("via_c", "c")];
    let stacks = report.stacks.iter().map(|stack| {
        let frames = stack.frames.iter();
        let names: Vec<&str> = frames
            .filter(|frame| matches!(frame.kind.as_str(), "interpreted" | "compiled"))
            .filter_map(|frame| frame.function.split(' ').next())
            // Whoever called it, and so what it is called, was gone when that was asked.
            .map(|name| match name {
                "alternate.lua:4" => "leaf",
                "alternate.lua:10" => "via_a",
                "alternate.lua:11" => "via_b",
                "alternate.lua:12" => "via_c",
                name => name,
            })
            // The function of the coroutine has no name, or that of the variable through which it is called.
            .filter(|name| !name.starts_with("alternate.lua") && *name != "co")
            .collect();
        names
    });
    let is_possible = |names: &Vec<&str>| match names.as_slice() {
        [] | ["main"] => true,
        ["main", caller] => VIA.iter().any(|(_, own)| own == caller),
        ["main", caller, via] | ["main", caller, via, "leaf"] => VIA.contains(&(via, caller)),
        _ => false,
    };
    stacks
        .filter(|names| !is_possible(names))
        .map(|names| names.join(" > "))
        .collect()
}
