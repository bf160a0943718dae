//! Jumps in machine code, found without decoding it.

use crate::address::Svma;
use crate::arch::Arch;
use crate::native::aarch64;

/// Where each of some jumps stands, and where it leads.
type Jumps<'a> = Box<dyn Iterator<Item = (Svma, Svma)> + 'a>;

/// The jumps in `code`, which is for processors of kind `machine` and lies at `start`, that leave it. What merely looks like
/// a jump is among them, and leads anywhere.
pub(super) fn leaving(
    machine: u16,
    code: &[u8],
    start: Svma,
) -> impl Iterator<Item = (Svma, Svma)> {
    let end = start.0.saturating_add(code.len() as u64);
    all(machine, code, start).filter(move |(_, target)| !(start.0..end).contains(&target.0))
}

/// All jumps in `code`; on x86_64 those with a distance of 32 bits.
pub(super) fn all(machine: u16, code: &[u8], start: Svma) -> Jumps<'_> {
    match machine == Arch::AARCH64.elf_machine {
        true => Box::new(aarch64::jumps(code, start)),
        false => Box::new(jumps_of_x86(code, start)),
    }
}

/// All calls in `code`, as [`all`] gives jumps.
pub(super) fn calls(machine: u16, code: &[u8], start: Svma) -> Jumps<'_> {
    match machine == Arch::AARCH64.elf_machine {
        true => Box::new(aarch64::calls(code, start)),
        false => Box::new(calls_of_x86(code, start)),
    }
}

fn jumps_of_x86(code: &[u8], start: Svma) -> impl Iterator<Item = (Svma, Svma)> {
    (0u64..)
        .zip(code.windows(6))
        .filter_map(move |(at, window)| {
            let (length, displacement) = match *window {
                [0xe9, a, b, c, d, _] => (5, [a, b, c, d]),
                [0x0f, 0x80..=0x8f, a, b, c, d] => (6, [a, b, c, d]),
                _ => return None,
            };
            let displacement = i64::from(i32::from_le_bytes(displacement));
            let at = start.0.checked_add(at)?;
            let target = at.checked_add(length)?.checked_add_signed(displacement)?;
            Some((Svma(at), Svma(target)))
        })
}

fn calls_of_x86(code: &[u8], start: Svma) -> impl Iterator<Item = (Svma, Svma)> {
    const BYTES: u64 = 5;
    (0u64..)
        .zip(code.windows(5))
        .filter_map(move |(at, window)| {
            let [0xe8, a, b, c, d] = *window else {
                return None;
            };
            let displacement = i64::from(i32::from_le_bytes([a, b, c, d]));
            let at = start.0.checked_add(at)?;
            let target = at.checked_add(BYTES)?.checked_add_signed(displacement)?;
            Some((Svma(at), Svma(target)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: u16 = Arch::X86_64.elf_machine;

    #[test]
    fn jumps_that_leave_are_found() {
        let mut code = vec![0x90; 4];
        code.extend([0x0f, 0x84, 0xf6, 0xff, 0xff, 0xff]); // to the start
        code.extend([0xe9, 0xf0, 0xff, 0x00, 0x00]); // 0xfff0 further
        code.push(0xc3);
        let start = Svma(0x1000);
        let jump = (Svma(0x100a), Svma(0x1000 + 15 + 0xfff0));
        assert_eq!(leaving(X86_64, &code, start).collect::<Vec<_>>(), [jump]);
        let both = [(Svma(0x1004), start), jump];
        assert_eq!(all(X86_64, &code, start).collect::<Vec<_>>(), both);
        let call = [0x90, 0xe8, 0x0a, 0x00, 0x00, 0x00];
        let found: Vec<_> = calls(X86_64, &call, start).collect();
        assert_eq!(found, [(Svma(0x1001), Svma(0x1010))]);
    }

    #[test]
    fn jumps_and_calls_of_aarch64_are_found() {
        let machine = Arch::AARCH64.elf_machine;
        // nop; b .+0x100; b.eq .-8; bl .+8
        let words: [u32; 4] = [0xd503_201f, 0x1400_0040, 0x54ff_ffc0, 0x9400_0002];
        let code: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let start = Svma(0x1000);
        let far = (Svma(0x1004), Svma(0x1104));
        assert_eq!(leaving(machine, &code, start).collect::<Vec<_>>(), [far]);
        let both = [far, (Svma(0x1008), start)];
        assert_eq!(all(machine, &code, start).collect::<Vec<_>>(), both);
        let call = [(Svma(0x100c), Svma(0x1014))];
        assert_eq!(calls(machine, &code, start).collect::<Vec<_>>(), call);
    }
}
