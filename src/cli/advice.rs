//! What to do about names that are missing: the exact command, as far as this machine tells.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::profile::ModuleInfo;
use crate::report::ModuleOverview;

/// The server that collects those of many distributions.
const COMMON_SERVER: &str = "https://debuginfod.elfutils.org";

/// What this machine's distribution has to offer.
#[derive(Debug)]
pub struct Distribution {
    /// Its ID and those of its relatives, the nearest first.
    ids: Vec<String>,
}

impl Distribution {
    /// The one that this machine runs.
    pub fn here() -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok());
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(os_release: &str) -> Self {
        let value = |key: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim_matches('"').to_owned()
        };
        let (own, relatives) = (value("ID="), value("ID_LIKE="));
        let ids = own.split_whitespace().chain(relatives.split_whitespace());
        Self {
            ids: ids.map(str::to_owned).collect(),
        }
    }

    fn is(&self, id: &str) -> bool {
        self.ids.iter().any(|own| own == id)
    }

    /// The command that installs debug symbols for `package`.
    fn install(&self, package: &str) -> String {
        match package {
            "libc6" => "apt install libc6-dbg".to_owned(),
            _ => format!("apt install {package}-dbgsym"),
        }
    }
}

/// What would get names and lines of `module`, each a line; empty when all that there can be is here.
pub fn advice(module: &ModuleOverview, distribution: &Distribution) -> Vec<String> {
    let ModuleOverview {
        module: info,
        sources,
        ..
    } = module;
    // What debug information does not name nothing else does.
    if !info.path.starts_with('/') || sources.has_debug_info {
        return Vec::new();
    }
    let mut lines = Vec::new();
    if sources.main.is_none() && sources.debug.is_none() {
        lines.push(
            "the file that ran is not here any more: make the report where it is, or `sampler symbols pack` there"
                .to_owned(),
        );
    }
    let package = match distribution.is("debian") {
        true => owner(Path::new(&info.path)),
        false => None,
    };
    if let Some(package) = &package {
        lines.push(distribution.install(package));
    }
    if info.build_id.is_some() {
        lines.push(format!("sampler report --debuginfod={COMMON_SERVER}"));
    }
    if package.is_none() {
        lines.push(build_it(info));
    }
    lines
}

fn build_it(module: &ModuleInfo) -> String {
    match module.build_id {
        Some(_) => "if it is your own program: build it with -g, and do not strip it".to_owned(),
        None => "if it is your own program: build it with -g -Wl,--build-id, and do not strip it"
            .to_owned(),
    }
}

/// The Debian package that brought the file at `path`.
fn owner(path: &Path) -> Option<String> {
    // Packages from before /bin and /lib became links to those below /usr are asked by their old names.
    let merged = Path::new("/usr").join(path.strip_prefix("/").ok()?);
    let unmerged = path.strip_prefix("/usr").ok();
    let unmerged = unmerged.map(|rest| Path::new("/").join(rest));
    [Some(path.to_owned()), unmerged, Some(merged)]
        .into_iter()
        .flatten()
        .find_map(|path| {
            let output = Command::new("dpkg-query")
                .arg("--search")
                .arg(path)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output()
                .ok()?;
            package_in(&String::from_utf8_lossy(&output.stdout))
        })
}

/// `libc6:amd64: /usr/lib/x86_64-linux-gnu/libc.so.6`.
fn package_in(answer: &str) -> Option<String> {
    let line = answer
        .lines()
        .find(|line| !line.starts_with("diversion "))?;
    let (packages, _) = line.split_once(": ")?;
    let first = packages.split(", ").next()?;
    let name = first.split(':').next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::Seen;
    use crate::symbols::ModuleSources;

    #[test]
    fn a_derivative_is_advised_as_its_own_kind() {
        let distribution = Distribution::parse("NAME=\"x\"\nID=ubuntu\nID_LIKE=debian\n");
        assert!(distribution.is("debian"));
    }

    #[test]
    fn what_is_missing_is_advised_and_nothing_else() {
        let debian = Distribution::parse("ID=debian");
        assert_eq!(debian.install("libc6"), "apt install libc6-dbg");
        assert_eq!(debian.install("libzstd1"), "apt install libzstd1-dbgsym");
        let module = |has_debug_info| ModuleOverview {
            module: ModuleInfo {
                path: "/no/such/program".to_owned(),
                build_id: None,
                image: None,
            },
            sources: ModuleSources {
                has_debug_info,
                ..ModuleSources::default()
            },
            seen: Seen::default(),
            names: BTreeMap::new(),
            with_line: 0,
        };
        assert!(advice(&module(true), &debian).is_empty());
        let lines = advice(&module(false), &debian);
        assert!(
            lines.len() == 2 && lines[0].contains("not here any more"),
            "{lines:?}"
        );
        assert!(lines[1].contains("-g -Wl,--build-id"), "{lines:?}");
    }

    #[test]
    fn packages_are_taken_from_what_dpkg_says() {
        assert_eq!(
            package_in("libc6:amd64: /usr/lib/x86_64-linux-gnu/libc.so.6\n").as_deref(),
            Some("libc6")
        );
        assert_eq!(
            package_in("diversion by a from: /bin/sh\ndash, bash: /bin/sh\n").as_deref(),
            Some("dash")
        );
        assert_eq!(package_in(""), None);
    }
}
