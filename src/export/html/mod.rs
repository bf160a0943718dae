//! One HTML file with everything in it: flame graphs, tables and a timeline to click through, opened from disk without
//! a network. docs/html.md says what is on the page.
//!
//! The page is that of `page/`, put together when this is compiled, and the same for every profile. What it shows is in
//! `payload`, compressed and in base64: nothing that a target chose stands in the page as text, so that no name can
//! become markup. The page may execute its own script and nothing else, and load nothing (its Content-Security-Policy).

mod columns;
mod payload;

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use sha2::{Digest as _, Sha256};

use crate::profile::{ResolvedProfile, Weight};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script: the files share their names, and each uses what stands before it.
const SCRIPT: &str = concat!(
    include_str!("page/format.js"),
    include_str!("page/profile.js"),
    include_str!("page/tree.js"),
    include_str!("page/flame.js"),
    include_str!("page/timeline.js"),
    include_str!("page/tables.js"),
    include_str!("page/details.js"),
    include_str!("page/app.js"),
);

/// Writes the page for `profile`, which shows `weight` at first.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, weight: Weight, out: &mut impl Write) -> io::Result<()> {
    let mut compressed = DeflateEncoder::new(Vec::new(), Compression::new(COMPRESSION));
    payload::write(profile, weight, &mut compressed)?;
    let compressed = compressed.finish()?;
    let parts = [
        ("{style-hash}", hash(STYLE)),
        ("{script-hash}", hash(SCRIPT)),
        ("{style}", STYLE.to_owned()),
        ("{profile}", BASE64.encode(compressed)),
        ("{script}", SCRIPT.to_owned()),
    ];
    let mut rest = PAGE;
    for (mark, part) in &parts {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        out.write_all(before.as_bytes())?;
        out.write_all(part.as_bytes())?;
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

/// Of 1 to 9: the next ones take several times as long for a few percent.
const COMPRESSION: u32 = 6;

/// As a Content-Security-Policy names what may be executed.
fn hash(text: &str) -> String {
    BASE64.encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests;
