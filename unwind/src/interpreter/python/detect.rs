//! Which CPython an ELF image holds, and where in it.

use std::ops::Range;

use super::debug_offsets::{self, Unsupported};
use super::layout::{Layout, PythonVersion};
use crate::address::Svma;
use crate::elf::ElfImage;
use crate::interpreter::jumps;

/// Pieces of the evaluation loop that are looked for. Compilers make one, and one of what is hardly ever executed.
const LOOP_PARTS_MAX: usize = 8;

/// Facts of a binary that holds CPython.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its version, if it could be found out.
    pub version: Option<PythonVersion>,
    /// Its layout, or why there is none.
    pub layout: Result<Layout, Unsupported>,
    /// `_PyRuntime`: where all state begins.
    pub runtime: Svma,
    /// `_PyEval_EvalFrameDefault`, all parts of it.
    pub eval: Vec<Range<Svma>>,
    /// `PyCode_Type`.
    pub code_type: Option<Svma>,
}

/// What `image` holds; `None` for one without CPython.
pub(super) fn detect(image: &ElfImage) -> Option<Found> {
    let [runtime, version, eval, code_type] = image.symbols([
        "_PyRuntime",
        "Py_Version",
        "_PyEval_EvalFrameDefault",
        "PyCode_Type",
    ]);
    let section = || image.section_range(".PyRuntime").map(|range| range.start);
    // 2.7 and 3.6 have no such thing, and their state is spread over symbols.
    let runtime = runtime.map(|symbol| symbol.svma).or_else(section)?;
    let eval = eval.map(|symbol| symbol.svma..Svma(symbol.svma.0.saturating_add(symbol.bytes)));
    let described = image.bytes_at(runtime).and_then(debug_offsets::parse);
    let (version, layout) = match described {
        Some(stated) => (stated.version, stated.layout),
        None => {
            let version = version
                .and_then(|symbol| hex_version(image, symbol.svma))
                .or_else(|| version_in_strings(image));
            (version, layout_of(version))
        }
    };
    Some(Found {
        version,
        layout,
        runtime,
        eval: eval.map_or_else(Vec::new, |eval| with_other_parts(image, eval)),
        code_type: code_type.map(|symbol| symbol.svma),
    })
}

fn layout_of(version: Option<PythonVersion>) -> Result<Layout, Unsupported> {
    let version = version.ok_or(Unsupported::UnknownVersion)?;
    let layout = Layout::of(version).ok_or(Unsupported::Version)?;
    Ok(*layout)
}

/// `Py_Version` (3.11): the value of `PY_VERSION_HEX`.
fn hex_version(image: &ElfImage, at: Svma) -> Option<PythonVersion> {
    let hex = image.bytes_at(at)?.first_chunk()?;
    PythonVersion::from_hex(u32::from_le_bytes(*hex))
}

/// Before 3.11: the name of the folder with the modules, `python3.9`, a string that ends with it.
fn version_in_strings(image: &ElfImage) -> Option<PythonVersion> {
    const NAME: &[u8] = b"python3.";
    let digits = |rest: &[u8]| -> Option<u8> {
        let end = rest.iter().take(3).position(|byte| *byte == 0)?;
        std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
    };
    image.data_segments().find_map(|bytes| {
        let mut rest = bytes;
        while let Some(at) = find(rest, NAME) {
            rest = rest.get(at + NAME.len()..)?;
            if let Some(minor) = digits(rest) {
                return Some(PythonVersion { minor, micro: None });
            }
        }
        None
    })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// `main`, and the stretches to which it jumps that are no functions of their own: compilers move there what is executed
/// rarely (`.cold`). They have an entry in the unwind tables that begins in the middle of a function, with registers saved.
fn with_other_parts(image: &ElfImage, main: Range<Svma>) -> Vec<Range<Svma>> {
    let mut parts = vec![main.clone()];
    let bytes = usize::try_from(main.end.0 - main.start.0).unwrap_or(0);
    let code = image
        .bytes_at(main.start)
        .and_then(|code| code.get(..bytes));
    let Some(code) = code else {
        return parts;
    };
    let functions = image.fde_ranges();
    // What merely looks like a jump hardly ever leads to where an unusual entry of the unwind tables begins.
    for (_, target) in jumps::leaving(image.machine(), code, main.start) {
        let after = functions.partition_point(|range| range.start <= target);
        let Some(range) = after.checked_sub(1).and_then(|index| functions.get(index)) else {
            continue;
        };
        let is_new =
            range.contains(&target) && !parts.iter().any(|part| part.contains(&range.start));
        if is_new && !image.is_at_entry(range.start) && parts.len() < LOOP_PARTS_MAX {
            parts.push(range.clone());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::test_images::{elf, image};

    #[test]
    fn the_version_is_in_a_string_that_ends_with_it() {
        let strings = b"python3.x\0../lib/python3.9.zip\0lib/python3.10\0";
        // A readable segment of the whole file.
        let bytes = elf(&[(1, 4, 0, 0, 0x1000)], strings);
        let version = version_in_strings(&image(bytes)).unwrap();
        assert_eq!((version.minor, version.micro), (10, None));
        assert_eq!(
            version_in_strings(&image(elf(&[(1, 4, 0, 0, 0x1000)], b"python3.\0"))),
            None
        );
    }

    #[test]
    fn an_image_without_python_is_none() {
        assert_eq!(detect(&image(elf(&[], &[]))), None);
    }
}
