//! Builds the C programs beside the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `programs/SOURCE` with `compiler` and `flags`, as `name`, and gives the path of the executable.
///
/// # Panics
/// When the compiler is missing, naming the package that has it, or when it fails.
pub(crate) fn build(name: &str, compiler: &str, source: &str, flags: &[&str]) -> PathBuf {
    let executable = directory(name).join("program");
    let status = Command::new(compiler)
        .args(["-o".as_ref(), executable.as_os_str()])
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/programs")
                .join(source),
        )
        .args(flags)
        .status()
        .unwrap_or_else(|error| {
            panic!("cannot run {compiler}: {error}; {}", install_line(compiler))
        });
    assert!(status.success(), "{compiler} failed on {source}");
    executable
}

/// A directory for this test's files, empty at first.
pub(crate) fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Runs `program` with `arguments` and checks that it succeeds.
pub(crate) fn run(program: &Path, arguments: &[&std::ffi::OsStr]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(
        status.success(),
        "{} ended with {status}",
        program.display()
    );
}

fn install_line(compiler: &str) -> String {
    let package = match compiler {
        "musl-gcc" => "musl-tools",
        other => other,
    };
    format!("install it with: apt-get install {package}")
}

/// Runs a tool of the system.
pub(crate) fn run_tool(tool: &str, arguments: &[&std::ffi::OsStr]) {
    let status = Command::new(tool).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("cannot run {tool}: {error}"));
    assert!(status.success(), "{tool} ended with {status}");
}
