//! Addresses that cannot be mixed up.
//!
//! There is no `From<u64>`: the conversion is the place to think about which kind of address a number is.

use std::fmt;

/// An address in the target process ("actual virtual memory address").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Avma(pub u64);

/// An address as an ELF file states it, before the loader has moved it ("stated virtual memory address").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Svma(pub u64);

/// A position in a file, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileOffset(pub u64);

/// What the loader added: `avma = svma + bias`, wrapping. Zero for an executable that is not position independent.
///
/// The bias is taken modulo 2^64, as the loader does, because a prelinked image can lie below the address it states.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LoadBias(pub u64);

impl Avma {
    /// The address `bytes` further up, or `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Avma> {
        self.0.checked_add(bytes).map(Avma)
    }

    /// The address `bytes` further down, or `None` below zero.
    pub fn checked_sub(self, bytes: u64) -> Option<Avma> {
        self.0.checked_sub(bytes).map(Avma)
    }
}

impl LoadBias {
    /// The address the file states for `avma`.
    pub fn svma(self, avma: Avma) -> Svma {
        Svma(avma.0.wrapping_sub(self.0))
    }

    /// Where `svma` lies in the process.
    pub fn avma(self, svma: Svma) -> Avma {
        Avma(svma.0.wrapping_add(self.0))
    }
}

macro_rules! hexadecimal {
    ($($kind:ident),*) => {$(
        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($kind), "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::LowerHex for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    )*};
}
hexadecimal!(Avma, Svma, FileOffset, LoadBias);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_goes_both_ways_and_wraps_as_the_loader_does() {
        let below = LoadBias(0u64.wrapping_sub(0x1000));
        assert_eq!(below.svma(Avma(0x3000)), Svma(0x4000));
        assert_eq!(below.avma(Svma(0x4000)), Avma(0x3000));
    }
}
