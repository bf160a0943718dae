//! Numbers as the page reads them: one column after the other, each number seven bits a byte, lowest first (LEB128).

use std::io::{self, Write};

/// Writes the numbers of a column one after the other.
pub(super) fn write(column: impl IntoIterator<Item = u64>, out: &mut impl Write) -> io::Result<()> {
    let mut bytes = Vec::new();
    for number in column {
        push(number, &mut bytes);
    }
    out.write_all(&bytes)
}

fn push(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

/// The difference of two numbers, small ones of either sign being small. Numbers are below 2^62.
pub(super) fn difference(number: u64, before: u64) -> u64 {
    let difference = number.cast_signed() - before.cast_signed();
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_are_short() {
        let mut bytes = Vec::new();
        write([0, 127, 128, 300, u64::MAX], &mut bytes).expect("memory can be written");
        let mut expected = vec![0, 0x7f, 0x80, 1, 0xac, 2];
        expected.extend([0xff; 9]);
        expected.push(1);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn differences_of_either_sign_are_small() {
        assert_eq!(
            [(3, 3), (3, 4), (4, 3)].map(|(a, b)| difference(a, b)),
            [0, 1, 2]
        );
        assert_eq!(difference(0, 1 << 61), (1 << 62) - 1);
        assert_eq!(difference(1 << 61, 0), 1 << 62);
    }
}
