//! Finds `luaV_execute` where no symbol names it: by a text that it alone refers to, or a function that it alone calls.

use std::ops::Range;

use memchr::memmem;
use rustc_hash::FxHashMap;

use crate::address::Svma;
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::interpreter::jumps;
use crate::native::aarch64;

/// The loop has no fewer bytes, however it was compiled.
const BYTES_MIN: u64 = 4096;
/// The most code that is searched, in bytes.
const CODE_BYTES_MAX: usize = 256 << 20;

/// What the loop says when a `for` makes no sense; with the byte that ends it. Until 5.3, and from 5.4 on.
const TEXTS: [&[u8]; 2] = [b"'for' limit must be a number\0", b"'for' step is zero\0"];

/// `luaV_execute` of Lua 5.`minor`.
pub(super) fn by_text(image: &ElfImage, minor: u8) -> Option<Range<Svma>> {
    let text = match minor {
        ..=3 => TEXTS[0],
        4.. => TEXTS[1],
    };
    let text = address_of(image, text)?;
    let machine = image.machine();
    let functions = image.fde_ranges();
    let code: Vec<(Svma, &[u8])> = image
        .segments()
        .iter()
        .filter(|segment| segment.executable)
        .filter_map(|segment| {
            let start = segment.svma.start;
            let bytes = image.bytes_at(start)?;
            Some((start, bytes.get(..bytes.len().min(CODE_BYTES_MAX))?))
        })
        .collect();
    let size = |part: &Range<Svma>| part.end.0.saturating_sub(part.start.0);
    let mut part = code
        .iter()
        .flat_map(|(start, code)| references(machine, code, *start, text))
        .find_map(|at| function_at(&functions, at))?;
    // Compilers move what is executed rarely, as errors are, to a part of its own, to which the function jumps.
    if !image.is_at_entry(part.start) {
        part = most_lead_into(machine, &code, &functions, &part)?;
    }
    // From 5.4 on they may leave what prepares a `for` a function of its own, which the loop alone calls.
    if size(&part) < BYTES_MIN {
        part = most_lead_into(machine, &code, &functions, &part)?;
    }
    (size(&part) >= BYTES_MIN).then_some(part)
}

fn address_of(image: &ElfImage, text: &[u8]) -> Option<Svma> {
    image.segments().iter().find_map(|segment| {
        let start = segment.svma.start;
        let at = memmem::find(image.bytes_at(start)?, text)?;
        Some(Svma(start.0.checked_add(at as u64)?))
    })
}

/// Where `code`, which lies at `start`, has the address `of`.
fn references(
    machine: u16,
    code: &[u8],
    start: Svma,
    of: Svma,
) -> Box<dyn Iterator<Item = Svma> + '_> {
    match machine == Arch::AARCH64.elf_machine {
        true => Box::new(aarch64::references(code, start, of)),
        false => Box::new(references_of_x86(code, start, of)),
    }
}

/// As a distance from the instruction that it ends, or, in programs that are always loaded to the same place, as it is.
fn references_of_x86(code: &[u8], start: Svma, of: Svma) -> impl Iterator<Item = Svma> {
    (0u64..)
        .zip(code.windows(4))
        .filter_map(move |(at, window)| {
            let word = u32::from_le_bytes(*window.first_chunk()?);
            let at = start.0.wrapping_add(at);
            let distance = i64::from(word.cast_signed());
            let target = at.wrapping_add(4).wrapping_add_signed(distance);
            (target == of.0 || u64::from(word) == of.0).then_some(Svma(at))
        })
}

/// The stretch of code that `at` lies in.
fn function_at(functions: &[Range<Svma>], at: Svma) -> Option<Range<Svma>> {
    let after = functions.partition_point(|range| range.start <= at);
    let range = functions.get(after.checked_sub(1)?)?;
    range.contains(&at).then(|| range.clone())
}

/// The stretch of code from which most jumps and calls lead into `part`.
fn most_lead_into(
    machine: u16,
    code: &[(Svma, &[u8])],
    functions: &[Range<Svma>],
    part: &Range<Svma>,
) -> Option<Range<Svma>> {
    let mut counts = FxHashMap::<Svma, (u32, Range<Svma>)>::default();
    for (start, code) in code {
        let jumps = jumps::all(machine, code, *start);
        for (at, target) in jumps.chain(jumps::calls(machine, code, *start)) {
            if !part.contains(&target) || part.contains(&at) {
                continue;
            }
            if let Some(from) = function_at(functions, at) {
                counts.entry(from.start).or_insert((0, from)).0 += 1;
            }
        }
    }
    let most = counts.into_values().max_by_key(|(count, _)| *count)?;
    Some(most.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    const X86_64: u16 = Arch::X86_64.elf_machine;

    #[test]
    fn references_are_distances_or_addresses() {
        let mut code = vec![0x48, 0x8d, 0x35, 0xf9, 0x0f, 0, 0]; // lea rsi, [rip + 0xff9]
        code.extend([0xbe, 0x00, 0x20, 0x00, 0x00]); // mov esi, 0x2000
        let found: Vec<_> = references(X86_64, &code, Svma(0x1000), Svma(0x2000)).collect();
        assert_eq!(found, [Svma(0x1003), Svma(0x1008)]);
    }

    #[test]
    fn the_stretch_that_jumps_most_is_found() {
        let functions = [
            Svma(0x1000)..Svma(0x1010),
            Svma(0x1010)..Svma(0x1020),
            Svma(0x2000)..Svma(0x2010),
        ];
        let mut code = vec![0x90; 0x20];
        let mut jump = |at: usize, target: u32| {
            let from = 0x1000 + u32::try_from(at).unwrap() + 5;
            code[at] = 0xe9;
            code[at + 1..at + 5].copy_from_slice(&(target - from).to_le_bytes());
        };
        jump(0, 0x2000);
        jump(0x10, 0x2004);
        jump(0x18, 0x2008);
        let code = [(Svma(0x1000), code.as_slice())];
        let found = most_lead_into(X86_64, &code, &functions, &functions[2]);
        assert_eq!(found, Some(functions[1].clone()));
        assert_eq!(function_at(&functions, Svma(0x1020)), None);
    }
}
