//! Where names of functions come from, as the command line and the environment say.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::symbols::{DebuginfodSettings, FileSymbolizer, SymbolCache, SymbolPack, SymbolPaths};

/// Where names of functions come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolOptions {
    /// Directories with separate debug files, besides the usual ones.
    pub debug_dirs: Vec<PathBuf>,
    /// Whether inlined functions are frames of their own.
    pub inline: bool,
    /// A symbol pack.
    pub pack: Option<PathBuf>,
    /// Servers to be asked; an empty list for those of the environment, `None` for none.
    pub debuginfod: Option<Vec<String>>,
    /// Whether names of earlier reports are used and kept.
    pub cache: bool,
}

impl SymbolOptions {
    /// What gives addresses their names.
    ///
    /// # Errors
    /// When the pack cannot be used, or no server is named.
    pub fn symbolizer(&self) -> anyhow::Result<FileSymbolizer> {
        let paths = SymbolPaths {
            debug_dirs: self.debug_dirs.clone(),
            ..SymbolPaths::default()
        };
        let variable = |name: &str| env::var_os(name);
        let debuginfod = match &self.debuginfod {
            Some(urls) => Some(debuginfod(urls, variable)?),
            None => None,
        };
        let cache = cache_folder(variable)
            .filter(|_| self.cache)
            .map(|folder| SymbolCache::new(folder.join("sampler")));
        let symbolizer = FileSymbolizer::new(paths)
            .with_inlined(self.inline)
            .with_cache(cache)
            .with_debuginfod(debuginfod);
        let Some(path) = &self.pack else {
            return Ok(symbolizer);
        };
        let pack = SymbolPack::open(path)
            .with_context(|| format!("cannot use the symbol pack {}", path.display()))?;
        Ok(symbolizer.with_pack(pack))
    }
}

/// `$XDG_CACHE_HOME`, which must be absolute (XDG Base Directory Specification), else `~/.cache`.
fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(variable(name)?);
        path.is_absolute().then_some(path)
    };
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
}

/// What the client of elfutils does with the same variables (debuginfod-client-config(7)).
fn debuginfod(
    urls: &[String],
    variable: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<DebuginfodSettings> {
    let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
    let urls: Vec<String> = match urls {
        [] => {
            let urls = text("DEBUGINFOD_URLS").unwrap_or_default();
            // Words for the client of elfutils on signatures may be among them.
            let urls = urls
                .split_whitespace()
                .filter(|url| !url.starts_with("ima:"));
            urls.map(str::to_owned).collect()
        }
        urls => urls.to_vec(),
    };
    if urls.is_empty() {
        bail!("no server to ask: give --debuginfod=URL or set $DEBUGINFOD_URLS");
    }
    let cache = match variable("DEBUGINFOD_CACHE_PATH") {
        Some(path) => PathBuf::from(path),
        None => cache_folder(&variable)
            .context("no place to keep what a server sends: set $DEBUGINFOD_CACHE_PATH")?
            .join("debuginfod_client"),
    };
    let mut settings = DebuginfodSettings::new(urls, cache);
    let seconds = |name: &str| {
        let seconds = text(name)?
            .trim()
            .parse()
            .ok()
            .filter(|&seconds| seconds > 0)?;
        Some(Duration::from_secs(seconds))
    };
    settings.timeout = seconds("DEBUGINFOD_TIMEOUT").unwrap_or(settings.timeout);
    settings.time_max = seconds("DEBUGINFOD_MAXTIME").unwrap_or(settings.time_max);
    settings.certificates = variable("SSL_CERT_FILE").map(PathBuf::from);
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(urls: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<DebuginfodSettings> {
        let urls: Vec<String> = urls.iter().map(|&url| url.to_owned()).collect();
        debuginfod(&urls, |name| {
            let value = environment.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn servers_and_cache_are_those_of_elfutils() {
        let named = settings(
            &[],
            &[
                ("DEBUGINFOD_URLS", "ima:permissive https://a http://b"),
                ("HOME", "/h"),
            ],
        )
        .unwrap();
        assert_eq!(named.urls, ["https://a", "http://b"]);
        assert_eq!(named.cache, PathBuf::from("/h/.cache/debuginfod_client"));
        let other = [
            ("DEBUGINFOD_URLS", "https://a"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/h"),
            ("DEBUGINFOD_TIMEOUT", "7"),
        ];
        let given = settings(&["http://c"], &other).unwrap();
        assert_eq!(given.urls, ["http://c"]);
        assert_eq!(given.cache, PathBuf::from("/x/debuginfod_client"));
        assert_eq!(given.timeout, Duration::from_secs(7));
        let own = settings(
            &["http://c"],
            &[("DEBUGINFOD_CACHE_PATH", "/d"), ("HOME", "/h")],
        )
        .unwrap();
        assert_eq!(own.cache, PathBuf::from("/d"));
        assert!(settings(&[], &[("HOME", "/h")]).is_err());
        assert!(settings(&["http://c"], &[("HOME", "relative")]).is_err());
    }
}
