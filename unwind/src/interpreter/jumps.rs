//! Jumps in machine code, found without decoding it.

use crate::address::Svma;

/// The jumps in `code`, which lies at `start`, that leave it: where each stands, and where it leads. What merely looks like a
/// jump is among them, and leads anywhere.
pub(super) fn leaving(code: &[u8], start: Svma) -> impl Iterator<Item = (Svma, Svma)> {
    let end = start.0.saturating_add(code.len() as u64);
    all(code, start).filter(move |(_, target)| !(start.0..end).contains(&target.0))
}

/// All jumps in `code`, with a distance of 32 bits.
pub(super) fn all(code: &[u8], start: Svma) -> impl Iterator<Item = (Svma, Svma)> {
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

/// All calls in `code`, as [`all`] gives jumps.
pub(super) fn calls(code: &[u8], start: Svma) -> impl Iterator<Item = (Svma, Svma)> {
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

    #[test]
    fn jumps_that_leave_are_found() {
        let mut code = vec![0x90; 4];
        code.extend([0x0f, 0x84, 0xf6, 0xff, 0xff, 0xff]); // to the start
        code.extend([0xe9, 0xf0, 0xff, 0x00, 0x00]); // 0xfff0 further
        code.push(0xc3);
        let start = Svma(0x1000);
        let jump = (Svma(0x100a), Svma(0x1000 + 15 + 0xfff0));
        assert_eq!(leaving(&code, start).collect::<Vec<_>>(), [jump]);
        let both = [(Svma(0x1004), start), jump];
        assert_eq!(all(&code, start).collect::<Vec<_>>(), both);
        let call = [0x90, 0xe8, 0x0a, 0x00, 0x00, 0x00];
        let found: Vec<_> = calls(&call, start).collect();
        assert_eq!(found, [(Svma(0x1001), Svma(0x1010))]);
    }
}
