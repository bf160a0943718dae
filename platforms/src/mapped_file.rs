//! The bytes of a file on disk, mapped.

use std::fs::File;
use std::io;

use crate::truncation::{self, Guarded};

/// A whole file, mapped read-only.
///
/// Whoever may write to the file can shorten it meanwhile: what is gone then reads as zeros.
#[derive(Debug)]
pub struct MappedFile {
    // Dropped first: what lies there afterwards is not ours any more.
    _guarded: Guarded,
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps `file`.
    ///
    /// # Errors
    /// What mmap(2) answers; an empty file cannot be mapped, nor can too many at once.
    pub fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is read-only and private to this value. A file that is shortened under us raises SIGBUS,
        // which `truncation` turns into zeros. Bytes that change are read as they are: all that reads them takes them
        // for hostile.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        let guarded = truncation::guard(map.as_ptr() as usize, map.len())?;
        Ok(Self {
            _guarded: guarded,
            map,
        })
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
