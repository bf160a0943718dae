//! Interpreters of other versions than the distribution has.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{fixtures_dir, repository};
use crate::need::need;

/// The programs whose names begin with `name` that `tests/more-runtimes` has got; none where nobody has called it.
pub fn more_runtimes(name: &str) -> Vec<PathBuf> {
    let folder = fixtures_dir().with_file_name("runtimes").join("bin");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(name))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The folders with the sources of each version of PUC Lua that the crate `lua-src` brings, with the version: `5.4.9`.
///
/// # Panics
/// When the crate is not there.
pub fn lua_sources() -> Vec<(String, PathBuf)> {
    let metadata = Command::new(env!("CARGO"))
        // Packages for other systems are not here.
        .args(["metadata", "--offline", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).expect("cargo tells in JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "lua-src")
        .and_then(|package| package["manifest_path"].as_str())
        .expect("lua-src is a dependency");
    let entries = std::fs::read_dir(Path::new(manifest).with_file_name("")).expect("it has files");
    let versions = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((name.strip_prefix("lua-")?.to_owned(), entry.path()))
    });
    let mut versions: Vec<_> = versions.collect();
    versions.sort();
    versions
}

/// A program that executes the Lua script it is given, whichever version it is built with.
pub const EMBEDS_LUA: &str = r#"
#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>
int main(int argc, char **argv) {
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    return argc > 1 && luaL_loadfile(L, argv[1]) == 0 ? lua_pcall(L, 0, 0, 0) : 1;
}
"#;

/// That program with the Lua of `version`, built from its source when it is first needed: for what no Debian has yet.
///
/// # Panics
/// When it cannot be built.
pub fn lua_built(version: &str) -> PathBuf {
    let sources = lua_sources();
    let source = sources.iter().find(|(known, _)| known.starts_with(version));
    let (version, folder) = source.expect("lua-src has this version");
    let program = fixtures_dir().join(format!("lua-{version}"));
    if program.exists() {
        return program;
    }
    std::fs::create_dir_all(fixtures_dir()).expect("the folder is ours");
    let files = std::fs::read_dir(folder).expect("it has files").flatten();
    let files = files
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"));
    let main = program.with_extension("c");
    std::fs::write(&main, EMBEDS_LUA).expect("the folder is ours");
    // Under another name first: a build that was interrupted is none.
    let building = program.with_extension("new");
    let mut gcc = Command::new(need("gcc"));
    gcc.args(["-O2", "-w", "-DLUA_USE_POSIX", "-o"])
        .arg(&building);
    gcc.arg("-I")
        .arg(folder)
        .arg(main)
        .args(files)
        .args(["-lm", "-Wl,-E"]);
    assert!(gcc.status().expect("gcc runs").success());
    std::fs::rename(&building, &program).expect("the folder is ours");
    program
}
