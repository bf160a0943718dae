//! Interpreters of other versions than the distribution has.

use std::path::PathBuf;

use crate::fixture::fixtures_dir;

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
