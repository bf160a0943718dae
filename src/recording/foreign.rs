//! Files of other tools, told by how they begin: whoever gives one by mistake should read what it is.

use std::io::Read;

use flate2::read::GzDecoder;

/// So much of a file is looked at.
pub const START_BYTES: usize = 8 << 10;

/// What a file is that is no recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// In words: `a perf.data file (perf record)`.
    pub what: &'static str,
    /// What can be done with it, if there is anything.
    pub hint: Option<&'static str>,
}

/// Formats that begin with certain bytes.
const MAGICS: &[(&[u8], &str, Option<&str>)] = &[
    (
        b"PERFILE2",
        "a perf.data file (perf record)",
        Some("perf report or perf script reads it"),
    ),
    (
        b"PERFFILE",
        "a perf.data file (perf record) of an old version",
        None,
    ),
    (
        b"DTiJ",
        "a jitdump (names of code compiled at run time)",
        None,
    ),
    (
        b"JiTD",
        "a jitdump (names of code compiled at run time)",
        None,
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "a file compressed by zstd",
        Some("zstd -d unpacks it"),
    ),
    (
        b"\xfd7zXZ\0",
        "a file compressed by xz",
        Some("xz -d unpacks it"),
    ),
    (
        b"BZh",
        "a file compressed by bzip2",
        Some("bzip2 -d unpacks it"),
    ),
    (b"PK\x03\x04", "a zip archive", None),
    (b"JAVA PROFILE", "a heap dump of Java", None),
    (b"FLR\0", "a recording of Java's Flight Recorder", None),
    (b"MOJ", "a MOJO file (austin)", None),
    (b"# callgrind format", "a profile of callgrind", None),
    (b"SQLite format 3", "an SQLite database", None),
    (b"#!", "a script", None),
];

/// What begins with `start` (some kilobytes, or all there is), if that is known.
pub fn recognise(start: &[u8]) -> Option<Foreign> {
    let of_magic = MAGICS
        .iter()
        .find(|(magic, ..)| start.starts_with(magic))
        .map(|&(_, what, hint)| Foreign { what, hint });
    if of_magic.is_some() {
        return of_magic;
    }
    if start.starts_with(b"\x7fELF") {
        return Some(elf(start));
    }
    if start.starts_with(b"\x1f\x8b") {
        return Some(gzip(start));
    }
    // The last letter may be cut.
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(start.get(..error.valid_up_to())?).ok()?,
    };
    of_text(text)
}

fn elf(start: &[u8]) -> Foreign {
    // e_type, behind the 16 bytes of e_ident; ET_CORE is 4 (System V ABI, "ELF Header").
    let is_core = start.get(16..18) == Some(&[4, 0]);
    Foreign {
        what: match is_core {
            true => "a core file",
            false => "a program or library (ELF)",
        },
        hint: (!is_core).then_some("to record it: sampler record -- PROGRAM"),
    }
}

/// What is inside, as far as that can be told.
fn gzip(start: &[u8]) -> Foreign {
    let mut inside = Vec::new();
    let limit = u64::try_from(START_BYTES).unwrap_or(u64::MAX);
    // The start is cut, so that this ends in an error; what comes before it counts.
    let _cut = GzDecoder::new(start).take(limit).read_to_end(&mut inside);
    // Field 1 of a message in profile.proto, length-delimited: its sample types.
    if inside.first() == Some(&0x0a) {
        return Foreign {
            what: "a pprof profile",
            hint: Some("go tool pprof reads it"),
        };
    }
    if inside.get(257..262) == Some(b"ustar") {
        return Foreign {
            what: "a tar archive, perhaps a symbol pack",
            hint: Some("a pack is used by: sampler report --symbols PACK"),
        };
    }
    let text = String::from_utf8_lossy(&inside);
    of_text(&text)
        .filter(|foreign| foreign.what != TEXT)
        .unwrap_or(Foreign {
            what: "a file compressed by gzip",
            hint: Some("gzip -d unpacks it"),
        })
}

/// A text of which no more is known.
const TEXT: &str = "a text file";

/// Texts with a word that only they have; the first that fits.
const WORDS: &[(&str, &str, Option<&str>)] = &[
    (
        "\"sampler-profile\"",
        "a report of sampler as JSON",
        Some("the recording it was made from is needed"),
    ),
    (
        "speedscope.app/file-format-schema",
        "a profile of speedscope (py-spy and others write them)",
        Some("www.speedscope.app shows it"),
    ),
    (
        "\"preprocessedProfileVersion\"",
        "a profile of the Firefox Profiler (samply and others write them)",
        Some("profiler.firefox.com shows it"),
    ),
    (
        "\"traceEvents\"",
        "a trace for Chrome or Perfetto",
        Some("ui.perfetto.dev shows it"),
    ),
    (
        "\"nodes\"",
        "a CPU profile of V8 (Node.js, Chrome)",
        Some("Chrome's developer tools show it"),
    ),
];

fn of_text(text: &str) -> Option<Foreign> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let of = |what, hint| Some(Foreign { what, hint });
    if text.starts_with('{') {
        let word = WORDS.iter().find(|(word, ..)| text.contains(word));
        return match word {
            Some(&(_, what, hint)) => of(what, hint),
            None => of("a JSON file", None),
        };
    }
    if text.starts_with("[{") {
        return of("a JSON file, perhaps a trace for Chrome", None);
    }
    if text.starts_with("<?xml") || text.starts_with("<svg") {
        return of("an SVG or XML file", Some("a browser shows it"));
    }
    let start = text.get(..15).unwrap_or(text).to_ascii_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        return of("a web page", Some("a browser shows it"));
    }
    let lines: Vec<&str> = text.lines().take(3).collect();
    let has_frames = lines.first().is_some_and(|line| line.contains(';'));
    if has_frames && lines.iter().all(|line| ends_in_a_number(line)) {
        return of("folded stacks", Some("flame graph tools read them"));
    }
    let is_text = !text.is_empty() && !text.contains('\0');
    if is_text && (text.contains("cycles") || text.contains("cpu-clock")) {
        return of("the text of perf script", Some("flame graph tools read it"));
    }
    if is_text {
        return of(TEXT, None);
    }
    None
}

/// As a line of folded stacks does: `outer;inner 12`.
fn ends_in_a_number(line: &str) -> bool {
    line.rsplit_once(' ').is_some_and(|(_, count)| {
        !count.is_empty() && count.chars().all(|digit| digit.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).expect("memory can be written");
        encoder.finish().expect("memory can be written")
    }

    #[test]
    fn files_of_other_tools_are_named() {
        let core = [b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".as_slice(), &[4, 0]].concat();
        let program = [b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".as_slice(), &[3, 0]].concat();
        let cases: [(&[u8], &str); 14] = [
            (b"PERFILE2\x68\0", "perf.data"),
            (&core, "core file"),
            (&program, "ELF"),
            (&compressed(b"\x0a\x04\x08\x01\x10\x02"), "pprof"),
            (
                &compressed(b"{\"meta\":{\"preprocessedProfileVersion\":57}}"),
                "Firefox",
            ),
            (&compressed(b"anything"), "gzip"),
            (
                b"{\"$schema\": \"https://www.speedscope.app/file-format-schema.json\"}",
                "speedscope",
            ),
            (b"{\"format\":\"sampler-profile\"}", "report of sampler"),
            (b"{\"traceEvents\":[]}", "Chrome"),
            (b"{}", "JSON"),
            (b"words of somebody", "text"),
            (b"main;work 12\nmain;rest 3\n", "folded"),
            (b"<?xml version=\"1.0\"?><svg>", "SVG"),
            (
                b"x 1 2.3: 7 cycles:u:\n\t  55d main (/bin/x)",
                "perf script",
            ),
        ];
        for (start, word) in cases {
            let what = recognise(start).map(|foreign| foreign.what);
            assert!(
                what.is_some_and(|what| what.contains(word)),
                "{word}: {what:?}"
            );
        }
        assert_eq!(recognise(b""), None);
        assert_eq!(recognise(b"\0\x01\x02\xff"), None);
    }

    proptest! {
        #[test]
        fn any_start_is_survived(bytes: Vec<u8>, magic in 0..MAGICS.len()) {
            let _ = recognise(&bytes);
            let _ = recognise(&[MAGICS[magic].0, &bytes].concat());
            let _ = recognise(&[b"\x1f\x8b\x08\0".as_slice(), &bytes].concat());
        }
    }
}
