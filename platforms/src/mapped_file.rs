//! The bytes of a file on disk, mapped.

use std::fs::File;
use std::io;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps `file`. Should it become shorter, what it no longer has reads as zeros.
    ///
    /// # Errors
    /// What mmap(2) answers; an empty file cannot be mapped.
    pub fn map(file: &File) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        crate::linux::shortened_file::outlive()?;
        // SAFETY: the mapping is read-only and private to this value, and readable for its whole length, which stays,
        // whatever becomes of the file. Its bytes change when somebody writes to the file; all who read them take
        // them for a stranger's.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
