//! Addresses as function and offset, and the code there.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use object::{Object, ObjectSymbol, SymbolKind};
use rustc_hash::FxHashMap;
use sampler_unwind::{ElfImage, Svma};

use crate::tally::{Place, Tally};

/// How far before an address decoding begins.
const DECODED_BEFORE_BYTES: u64 = 96;
/// Instructions that are shown, and how many of them before the address.
const SHOWN: usize = 10;
const SHOWN_BEFORE: usize = 5;

/// Names addresses by the symbols of their files; distribution programs have only those for the dynamic loader.
#[derive(Debug, Default)]
pub(crate) struct Names {
    symbols: FxHashMap<usize, Vec<(u64, String)>>,
}

impl Names {
    /// `file function+0x12 (0x3456)`.
    pub(crate) fn name(&mut self, tally: &Tally, place: Place) -> String {
        let svma = place.svma.0;
        let Some((index, module)) = place
            .module
            .and_then(|index| Some((index, tally.modules.get(index)?)))
        else {
            return format!("{svma:#x}");
        };
        let symbols = self.symbols.entry(index).or_insert_with(|| {
            module
                .image
                .as_ref()
                .map(|image| symbols_of(image))
                .unwrap_or_default()
        });
        let after = symbols.partition_point(|(start, _)| *start <= svma);
        let file = short_name(&module.name);
        match after.checked_sub(1).and_then(|index| symbols.get(index)) {
            Some((start, name)) => format!("{file} {name}+{:#x} ({svma:#x})", svma - start),
            None => format!("{file} ({svma:#x})"),
        }
    }
}

/// A path's last part.
pub(crate) fn short_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn symbols_of(image: &ElfImage) -> Vec<(u64, String)> {
    let Ok(file) = object::File::parse(&**image.bytes()) else {
        return Vec::new();
    };
    let mut symbols: Vec<(u64, String)> = file
        .symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text)
        .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_owned())))
        .collect();
    symbols.sort();
    symbols.dedup_by_key(|(address, _)| *address);
    symbols
}

/// The instructions around `svma`, which is marked. Where those before begin is not known; from far enough before,
/// decoding falls into step.
pub(crate) fn disassemble(image: &ElfImage, svma: Svma) -> Vec<String> {
    let instructions = (0..=DECODED_BEFORE_BYTES)
        .rev()
        .filter_map(|back| svma.0.checked_sub(back))
        .map(|start| instructions_from(image, start))
        .find(|instructions| position_of(instructions, svma).is_some())
        .unwrap_or_default();
    let marked = position_of(&instructions, svma).unwrap_or_default();
    let mut formatter = IntelFormatter::new();
    instructions
        .iter()
        .skip(marked.saturating_sub(SHOWN_BEFORE))
        .take(SHOWN)
        .map(|instruction| {
            let mut text = String::new();
            formatter.format(instruction, &mut text);
            let mark = if instruction.ip() == svma.0 { '>' } else { ' ' };
            format!("{mark} {:8x}  {text}", instruction.ip())
        })
        .collect()
}

fn position_of(instructions: &[iced_x86::Instruction], svma: Svma) -> Option<usize> {
    instructions
        .iter()
        .position(|instruction| instruction.ip() == svma.0)
}

fn instructions_from(image: &ElfImage, start: u64) -> Vec<iced_x86::Instruction> {
    let code = image.bytes_at(Svma(start)).unwrap_or_default();
    let code = &code[..code.len().min(200)];
    Decoder::with_ip(64, code, start, DecoderOptions::NONE)
        .into_iter()
        .take_while(|instruction| !instruction.is_invalid())
        .collect()
}
