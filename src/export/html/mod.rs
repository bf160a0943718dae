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
    include_str!("page/live.js"),
    include_str!("page/app.js"),
);

/// Writes the page for `profile`, which shows `weight` at first.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, weight: Weight, out: &mut impl Write) -> io::Result<()> {
    write_page(&pack(profile, weight, COMPRESSION)?, None, out)
}

/// `profile` as the page reads it: compressed (1, quick, to 9, small) and in base64. It shows `weight` at first.
///
/// # Errors
/// When the profile has more names than a page can hold.
pub fn pack(profile: &ResolvedProfile, weight: Weight, compression: u32) -> io::Result<String> {
    let mut compressed = DeflateEncoder::new(Vec::new(), Compression::new(compression));
    payload::write(profile, weight, &mut compressed)?;
    Ok(BASE64.encode(compressed.finish()?))
}

/// Writes the page with a profile that was packed. Of one that is `served`, this is the state of that number, and the
/// page asks where it came from for those after it; that is all that it may load.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_page(packed: &str, served: Option<u64>, out: &mut impl Write) -> io::Result<()> {
    let (live, connect) = match served {
        Some(state) => (format!(" data-live=\"{state}\""), "; connect-src 'self'"),
        None => (String::new(), ""),
    };
    let (style_hash, script_hash) = (hash(STYLE), hash(SCRIPT));
    let parts = [
        ("{live}", live.as_str()),
        ("{style-hash}", &style_hash),
        ("{script-hash}", &script_hash),
        ("{connect}", connect),
        ("{style}", STYLE),
        ("{profile}", packed),
        ("{script}", SCRIPT),
    ];
    let mut rest = PAGE;
    for (mark, part) in parts {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        out.write_all(before.as_bytes())?;
        out.write_all(part.as_bytes())?;
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

/// For a file. Of 1 to 9: the next ones take several times as long for a few percent.
const COMPRESSION: u32 = 6;

/// As a Content-Security-Policy names what may be executed.
fn hash(text: &str) -> String {
    BASE64.encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests;
