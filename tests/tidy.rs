//! Checks of the repository itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampler_tests_support::{PACKAGES, RECIPES, need, repository};

/// Above this a file hides a second noun.
const LINES_MAX: usize = 700;

/// The files under version control, relative to the root.
fn tracked() -> Vec<PathBuf> {
    let output = Command::new(need("git"))
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(repository())
        .output()
        .expect("git is there");
    assert!(output.status.success(), "this is not a git checkout");
    let files: Vec<PathBuf> = output
        .stdout
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()))
        .filter(|path| repository().join(path).is_file())
        .collect();
    assert!(files.len() > 20, "the list of files is short: {files:?}");
    files
}

fn rust_files() -> Vec<(PathBuf, String)> {
    tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = read(&path);
            (path, text)
        })
        .collect()
}

fn read(path: &Path) -> String {
    let whole = repository().join(path);
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
}

/// The lines with their numbers, without what stands behind `//`.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .enumerate()
        .map(|(number, line)| (number + 1, line))
}

#[track_caller]
fn expect_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// The places whose line of code is found fault with.
fn lines_where(faulty: impl Fn(&Path, usize, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in code_lines(&text) {
            if faulty(&path, number, line) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    found
}

#[test]
fn unsafe_code_is_in_platforms_alone() {
    // In front of what it makes so; in halves, so that this file does not find itself.
    let uses =
        [" {", " fn ", " impl", " extern", " trait", "("].map(|what| ["un", "safe", what].concat());
    let found = lines_where(|path, _, line| {
        !path.starts_with("platforms") && uses.iter().any(|keyword| line.contains(keyword))
    });
    expect_none("unsafe code outside platforms", &found);
}

#[test]
fn nothing_is_left_to_do() {
    // In halves, so that this file does not find itself.
    let words = [["to", "do!"], ["unimple", "mented!"], ["db", "g!"]].map(|halves| halves.concat());
    let found = lines_where(|_, _, line| words.iter().any(|word| line.contains(word)));
    expect_none("unfinished code", &found);
}

#[test]
fn no_test_sleeps_or_is_ignored() {
    let sleep = ["thread::", "sleep"].concat();
    let ignore = ["#[", "ignore"].concat();
    // Where `mod tests` begins, which stands last in a source file.
    let tests_begin = |path: &Path| {
        read(path)
            .lines()
            .position(|line| line.trim_start().starts_with("mod tests"))
            .map_or(usize::MAX, |line| line + 1)
    };
    let found = lines_where(|path, number, line| {
        line.contains(&ignore)
            || (line.contains(&sleep)
                && (path.starts_with("tests")
                    || path.starts_with("platforms/tests")
                    || number > tests_begin(path)))
    });
    expect_none("tests that sleep for luck, or do not run", &found);
}

#[test]
fn every_module_says_why_it_exists() {
    let found: Vec<String> = rust_files()
        .iter()
        .filter(|(_, text)| !text.trim_start().starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    expect_none("files without module documentation", &found);
}

#[test]
fn no_file_is_too_long() {
    let found: Vec<String> = rust_files()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines >= LINES_MAX)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    expect_none("files too long", &found);
}

#[test]
fn every_fixture_has_its_line() {
    let readme = read(Path::new("fixtures/README.md"));
    let line_of = |start: &str| readme.lines().find(|line| line.starts_with(start));
    let mut found = Vec::new();
    for recipe in RECIPES {
        let flags = format!("`{}`", recipe.flags);
        let right = line_of(&format!("| `{}` ", recipe.name)).is_some_and(|line| {
            line.contains(&format!("| `{}` |", recipe.source))
                && line.contains(&format!("| {} ", recipe.tool.program()))
                && line.contains(&flags)
        });
        if !right {
            found.push(format!(
                "{}: {}, {} {flags}",
                recipe.name,
                recipe.source,
                recipe.tool.program()
            ));
        }
    }
    let sources = tracked()
        .into_iter()
        .filter(|path| path.starts_with("fixtures/programs") && !path.ends_with("fixture.h"));
    for source in sources {
        let name = source
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        if !RECIPES.iter().any(|recipe| recipe.source == name) {
            found.push(format!("{name}: no recipe builds it"));
        }
    }
    expect_none("fixtures without a true line in fixtures/README.md", &found);
}

#[test]
fn what_the_tests_need_is_what_is_installed() {
    let script = read(Path::new("tests/run"));
    let found: Vec<String> = PACKAGES
        .iter()
        .map(|(program, package)| format!("{program}:{package}"))
        .filter(|pair| !script.split_whitespace().any(|word| word == pair))
        .collect();
    expect_none("programs that tests/run does not look for", &found);
}

#[test]
fn the_changelog_has_a_place_for_what_comes() {
    let changelog = read(Path::new("CHANGELOG.md"));
    assert!(
        changelog
            .lines()
            .any(|line| line.starts_with("## ") && line.contains("Unreleased")),
        "CHANGELOG.md needs a section `## Unreleased`"
    );
}

#[test]
fn no_path_of_one_machine_is_named() {
    // In halves, so that this file does not find itself.
    let paths = [
        ("/ho", "me/"),
        ("/ro", "ot/"),
        ("/wo", "rk/"),
        ("/tmp", "/w/"),
    ]
    .map(|(one, two)| format!("{one}{two}"));
    let found: Vec<String> = tracked()
        .iter()
        .filter_map(|path| {
            Some((
                path,
                String::from_utf8(fs::read(repository().join(path)).ok()?).ok()?,
            ))
        })
        .flat_map(|(path, text)| {
            let paths = &paths;
            text.lines()
                .enumerate()
                .filter(|(_, line)| paths.iter().any(|machine| names_path(line, machine)))
                .map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect();
    expect_none("paths of one machine", &found);
}

/// Whether a line has this absolute path, rather than a relative one that contains the same words.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.}/".contains(c)))
}
