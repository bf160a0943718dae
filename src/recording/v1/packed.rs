//! Numbers in as many bytes as they need, with their lengths apart.
//!
//! A varint spends an eighth of its bits on its length, which is nearly always the same within a column: beside each
//! other the lengths compress to almost nothing.
//!
//! The length of a number is four bits: 0 to 8 for so many bytes, little-endian; 9 to 15 for 1 to 7 bytes of a number
//! whose negative (modulo 2^64) it is. The first of two numbers has the lower half of a byte.

use super::records::Column;

const SIGN: u8 = 8;

/// Numbers to be written.
#[derive(Debug, Default)]
pub(super) struct Packed {
    count: usize,
    lengths: Vec<u8>,
    bytes: Vec<u8>,
}

impl Packed {
    pub(super) fn push(&mut self, number: u64) {
        let negated = number.wrapping_neg();
        let (magnitude, sign) = if negated < number && bytes_of(negated) < 8 {
            (negated, SIGN)
        } else {
            (number, 0)
        };
        let length = bytes_of(magnitude);
        self.bytes
            .extend(&magnitude.to_le_bytes()[..usize::from(length)]);
        let code = length + sign;
        match self.lengths.last_mut() {
            Some(last) if !self.count.is_multiple_of(2) => *last |= code << 4,
            _ => self.lengths.push(code),
        }
        self.count += 1;
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.lengths.len() + self.bytes.len()
    }

    pub(super) fn column(&self) -> Column<'_> {
        Column {
            lengths: &self.lengths,
            bytes: &self.bytes,
        }
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.lengths.clear();
        self.bytes.clear();
    }
}

/// How many bytes `number` has without leading zeros.
fn bytes_of(number: u64) -> u8 {
    (0..8u8)
        .find(|&bytes| number >> (8 * bytes) == 0)
        .unwrap_or(8)
}

/// Numbers to be read.
#[derive(Debug)]
pub(super) struct PackedReader<'a> {
    column: Column<'a>,
    position: usize,
}

impl<'a> PackedReader<'a> {
    pub(super) fn new(column: Column<'a>) -> Self {
        Self {
            column,
            position: 0,
        }
    }

    /// The next number; `None` where its length or its bytes are missing.
    pub(super) fn next(&mut self) -> Option<u64> {
        let codes = self.column.lengths.get(self.position / 2)?;
        let code = if self.position.is_multiple_of(2) {
            codes & 0xf
        } else {
            codes >> 4
        };
        let is_negated = code > SIGN;
        let length = usize::from(if is_negated { code - SIGN } else { code });
        let (bytes, rest) = self.column.bytes.split_at_checked(length)?;
        let mut magnitude = [0; 8];
        magnitude.get_mut(..length)?.copy_from_slice(bytes);
        let magnitude = u64::from_le_bytes(magnitude);
        self.column.bytes = rest;
        self.position += 1;
        Some(if is_negated {
            magnitude.wrapping_neg()
        } else {
            magnitude
        })
    }

    /// Whether all bytes were read, and not more lengths are there than numbers.
    pub(super) fn is_at_end(&self) -> bool {
        self.column.bytes.is_empty() && self.column.lengths.len() == self.position.div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_take_the_bytes_they_need() {
        let mut packed = Packed::default();
        for number in [0, 1, 0x1234, 1u64.wrapping_neg(), u64::MAX / 2] {
            packed.push(number);
        }
        assert_eq!(packed.lengths, [0x10, 0x92, 0x08]);
        assert_eq!(packed.bytes[..4], [1, 0x34, 0x12, 1]);
        assert_eq!(packed.bytes.len(), 4 + 8);
    }

    proptest! {
        #[test]
        fn any_numbers_come_back(
            numbers in prop::collection::vec((any::<u64>(), 0..64u32, any::<bool>()), 0..50),
        ) {
            let numbers = numbers.into_iter().map(|(number, shift, negate)| {
                let number = number >> shift;
                if negate { number.wrapping_neg() } else { number }
            });
            let mut packed = Packed::default();
            numbers.clone().for_each(|number| packed.push(number));
            let mut reader = PackedReader::new(packed.column());
            for number in numbers {
                prop_assert_eq!(reader.next(), Some(number));
            }
            prop_assert!(reader.is_at_end());
        }
    }
}
