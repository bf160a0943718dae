//! Takes letters out of `.eh_frame` that gimli 0.33 does not know.
//!
//! On aarch64 the augmentation of a CIE has a `B` where its functions sign return addresses with the second key, and a `G`
//! where they tag their stack (LLVM, libunwind/src/DwarfParser.hpp). Neither changes how a frame is unwound, but gimli refuses
//! the CIE, and so all of its functions.

use std::sync::Arc;

use super::ImageBytes;

/// Letters without data of their own.
const LETTERS: [u8; 2] = *b"BG";
/// The length, the CIE's mark, and the version come before the augmentation.
const AUGMENTATION_AT: usize = 9;
/// Augmentations are no longer: `zPLRSBG` and an end.
const AUGMENTATION_BYTES_MAX: usize = 16;

/// `section` without these letters; itself where there are none.
pub(super) fn without_letters(section: ImageBytes) -> ImageBytes {
    let mut patched: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some((end, augmentation)) = entry(&section, at) {
        let letters = augmentation
            .iter()
            .filter(|letter| LETTERS.contains(letter));
        if letters.count() > 0 {
            let bytes = patched.get_or_insert_with(|| section.to_vec());
            if let Some(rest) = bytes.get_mut(at + AUGMENTATION_AT..end) {
                take_out(rest);
            }
        }
        at = end;
    }
    patched.map_or(section, |bytes| ImageBytes::new(Arc::new(bytes)))
}

/// Where the entry at `at` ends, and its augmentation, if it is a CIE; `None` at the end of the section.
fn entry(section: &[u8], at: usize) -> Option<(usize, &[u8])> {
    /// What says that 64 bits of length follow; no linker writes so large a table.
    const LONG: u32 = 0xffff_ffff;
    let word = |at: usize| {
        let bytes = section.get(at..at.checked_add(4)?)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    };
    let length = word(at).filter(|&length| length != 0 && length != LONG)?;
    let end = at
        .checked_add(4)?
        .checked_add(usize::try_from(length).ok()?)?;
    let contents = section.get(at..end)?;
    let is_cie = word(at.checked_add(4)?)? == 0;
    let augmentation = contents
        .get(AUGMENTATION_AT..)
        .filter(|_| is_cie)
        .unwrap_or_default();
    let augmentation = augmentation
        .get(..AUGMENTATION_BYTES_MAX)
        .unwrap_or(augmentation);
    let letters = augmentation
        .iter()
        .position(|&letter| letter == 0)
        .unwrap_or(0);
    Some((end, augmentation.get(..letters).unwrap_or_default()))
}

/// Takes the letters out of the augmentation that `rest` of a CIE begins with; what is behind moves up, and instructions
/// that do nothing (DW_CFA_nop is 0) fill the end.
fn take_out(rest: &mut [u8]) {
    let mut is_augmentation = true;
    let is_kept = |byte: &u8| {
        is_augmentation &= *byte != 0;
        !(is_augmentation && LETTERS.contains(byte))
    };
    let kept: Vec<u8> = rest.iter().copied().filter(is_kept).collect();
    rest.fill(0);
    for (to, byte) in rest.iter_mut().zip(kept) {
        *to = byte;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(bytes: &[u8]) -> ImageBytes {
        ImageBytes::new(Arc::new(bytes.to_vec()))
    }

    #[test]
    fn a_cie_keeps_all_but_the_letters() {
        // Alignment factors 4 and -8, return address 30, one byte of encoding; DW_CFA_def_cfa sp, 0.
        let cie = |augmentation: &[u8], end: &[u8]| {
            let factors: &[u8] = &[4, 0x78, 30, 1, 0x1b, 12, 31, 0];
            let rest = [&[0, 0, 0, 0, 1][..], augmentation, &[0], factors, end].concat();
            let length = u32::try_from(rest.len()).unwrap();
            [&length.to_le_bytes()[..], &rest[..]].concat()
        };
        let fde = [8, 0, 0, 0, 0x20, 0, 0, 0, b'z', b'B', 0, 0];
        let end = [0; 4];
        let known = cie(b"zR", &[0]);
        let unknown = cie(b"zRB", &[]);
        let section = [&unknown[..], &fde[..], &known[..], &end[..]].concat();
        let expected = [&known[..], &fde[..], &known[..], &end[..]].concat();
        assert_eq!(&*without_letters(bytes(&section)), &expected[..]);
        assert_eq!(&*without_letters(bytes(&expected)), &expected[..]);
    }

    proptest! {
        #[test]
        fn any_bytes_keep_their_length(section: Vec<u8>) {
            prop_assert_eq!(without_letters(bytes(&section)).len(), section.len());
        }
    }
}
