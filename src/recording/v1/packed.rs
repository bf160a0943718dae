//! Numbers in as many bytes as they need, with their lengths apart.
//!
//! A varint spends an eighth of its bits on its length, which is nearly always the same within a column: beside each
//! other the lengths compress to almost nothing.
//!
//! The length of a number is four bits: 0 to 8 for so many bytes, little-endian; 9 to 15 for 1 to 7 bytes of a number
//! whose negative (modulo 2^64) it is. The first of two numbers has the lower half of a byte.
//!
//! If all are whole thousands, as nanoseconds of a recorder that keeps microseconds are, the thousandth parts are kept:
//! that saves a byte of each.

use super::records::Column;

const SIGN: u8 = 8;

/// What all numbers are divided by if they can be.
const UNIT: u64 = 1000;

/// Numbers to be written.
#[derive(Debug, Default)]
pub(super) struct Packed {
    count: usize,
    /// One of them is not a multiple of [`UNIT`].
    is_odd: bool,
    lengths: Vec<u8>,
    bytes: Vec<u8>,
}

impl Packed {
    pub(super) fn push(&mut self, number: u64) {
        let (magnitude, sign) = signed(number);
        if self.is_odd {
            self.push_signed(magnitude, sign);
        } else if magnitude.is_multiple_of(UNIT) {
            self.push_signed(magnitude / UNIT, sign);
        } else {
            self.write_out();
            self.push_signed(magnitude, sign);
        }
    }

    /// Puts whole numbers in the place of thousandth parts.
    fn write_out(&mut self) {
        let parts = std::mem::take(self);
        self.is_odd = true;
        let mut reader = PackedReader::new(parts.column());
        for _ in 0..parts.count {
            let (magnitude, sign) = signed(reader.next().unwrap_or_default());
            self.push_signed(magnitude, sign);
        }
    }

    fn push_signed(&mut self, magnitude: u64, sign: u8) {
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
            is_in_thousands: !self.is_odd,
            lengths: &self.lengths,
            bytes: &self.bytes,
        }
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.is_odd = false;
        self.lengths.clear();
        self.bytes.clear();
    }
}

/// The number or, if that is shorter, its negative and the sign.
fn signed(number: u64) -> (u64, u8) {
    let negated = number.wrapping_neg();
    if negated < number && bytes_of(negated) < 8 {
        (negated, SIGN)
    } else {
        (number, 0)
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

    /// The next number; `None` where its length or its bytes are missing, or it is beyond 2^64.
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
        let mut magnitude = u64::from_le_bytes(magnitude);
        self.column.bytes = rest;
        self.position += 1;
        if self.column.is_in_thousands {
            magnitude = magnitude.checked_mul(UNIT)?;
        }
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

    #[test]
    fn whole_thousands_take_less_until_there_is_one_that_is_none() {
        let mut packed = Packed::default();
        let thousands = [10_000_000, 0, 2_000u64.wrapping_neg()];
        thousands.iter().for_each(|&number| packed.push(number));
        assert!(packed.column().is_in_thousands);
        assert_eq!(packed.bytes, [0x10, 0x27, 2]);
        packed.push(7);
        assert!(!packed.column().is_in_thousands);
        let mut reader = PackedReader::new(packed.column());
        for number in thousands.into_iter().chain([7]) {
            assert_eq!(reader.next(), Some(number));
        }
        assert!(reader.is_at_end());
    }

    #[test]
    fn thousands_beyond_64_bits_are_refused() {
        let column = Column {
            is_in_thousands: true,
            lengths: &[8],
            bytes: &[0xff; 8],
        };
        assert_eq!(PackedReader::new(column).next(), None);
    }

    proptest! {
        #[test]
        fn any_numbers_come_back(
            numbers in prop::collection::vec((any::<u64>(), 0..64u32, any::<bool>()), 0..50),
            odd_from in 0..50usize,
        ) {
            let numbers = numbers.into_iter().enumerate().map(|(at, (number, shift, negate))| {
                let number = number >> shift;
                let number = if at < odd_from { number - number % UNIT } else { number };
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
