//! Modules from the text of `/proc/self/maps`.

use std::collections::BTreeMap;
use std::sync::Arc;

use sampler_unwind::{Avma, ElfImage, FileOffset, ImageBytes, Module, Modules};

/// One line of a mapping list.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) executable: bool,
    pub(crate) offset: u64,
    pub(crate) path: String,
}

/// Parses a mapping list.
pub(crate) fn parse(text: &str) -> Vec<Line> {
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    text.lines()
        .map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (start, end) = fields[0].split_once('-').unwrap();
            Line {
                start: hex(start),
                end: hex(end),
                executable: fields[1].contains('x'),
                offset: hex(fields[2]),
                path: fields.get(5).copied().unwrap_or_default().to_owned(),
            }
        })
        .collect()
}

/// The modules of a mapping list; `vdso` are the bytes that lay at the vdso.
pub(crate) fn modules(lines: &[Line], vdso_bytes: &[u8]) -> Modules {
    modules_by(lines, |path| match path {
        "[vdso]" => vdso(vdso_bytes.to_vec()),
        path => ElfImage::parse(file(path)?).ok(),
    })
}

/// The image in a target's memory.
pub(crate) fn vdso(bytes: Vec<u8>) -> Option<ElfImage> {
    ElfImage::parse_memory(ImageBytes::new(Arc::new(bytes))).ok()
}

/// The bytes of a mapped file.
pub(crate) fn file(path: &str) -> Option<ImageBytes> {
    let bytes = path.starts_with('/').then(|| std::fs::read(path).ok())??;
    Some(ImageBytes::new(Arc::new(bytes)))
}

/// As [`modules`], with images from elsewhere.
pub(crate) fn modules_by(lines: &[Line], image: impl Fn(&str) -> Option<ElfImage>) -> Modules {
    let mut by_path = BTreeMap::<&str, Vec<&Line>>::new();
    for line in lines {
        by_path.entry(&line.path).or_default().push(line);
    }
    let modules = by_path.into_iter().filter_map(|(path, lines)| {
        let image = Arc::new(image(path)?);
        let line = lines.iter().find(|line| line.executable)?;
        let bias = image.bias_of_mapping(Avma(line.start), FileOffset(line.offset), true)?;
        let start = lines.iter().map(|line| line.start).min()?;
        let end = lines.iter().map(|line| line.end).max()?;
        Some(Module {
            avma: Avma(start)..Avma(end),
            bias,
            image,
        })
    });
    let executable = lines
        .iter()
        .filter(|line| line.executable)
        .map(|line| Avma(line.start)..Avma(line.end));
    Modules::new(modules.collect(), executable.collect())
}
