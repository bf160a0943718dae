//! MiniDebugInfo: a `.symtab` of the functions that `.dynsym` lacks, as a compressed ELF file inside the stripped one.
//!
//! Fedora and its relatives ship all programs with one (GDB manual, "MiniDebugInfo").

use std::io::{self, Read};

use super::elf::Elf;

/// The unpacked file may be this large; the largest ones seen in distributions have a few megabytes.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;
/// Memory for the decoder. xz asks for 8 MiB at its default level and 64 MiB at its highest.
const DECODER_KIB_MAX: u32 = 128 << 10;

/// The ELF file inside `.gnu_debugdata`; `None` where there is no such section.
///
/// # Errors
/// When the section is no xz stream, a damaged one, or one that needs too much memory.
pub(super) fn mini_debug_info(elf: &Elf<'_>) -> Option<io::Result<Vec<u8>>> {
    elf.section_data(b".gnu_debugdata").map(unpack)
}

pub(super) fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    lzma_rust2::XzReader::new_mem_limit(packed, false, DECODER_KIB_MAX)
        .take(UNPACKED_BYTES_MAX)
        .read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_end_in_a_result(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46".to_vec();
            stream.extend(bytes);
            prop_assert!(unpack(&stream).is_err());
        }
    }
}
