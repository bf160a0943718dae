//! The bytes of a file on disk, mapped.

use std::fs::File;
use std::io;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps `file`.
    ///
    /// # Errors
    /// What mmap(2) answers; an empty file cannot be mapped.
    pub fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is read-only and private to this value. A file that is shortened under us raises
        // SIGBUS; programs and libraries in use are replaced by rename, not written, since shortening one kills every
        // process that runs it.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
