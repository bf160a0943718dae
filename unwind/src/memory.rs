//! The one way in which anything here reads a target's memory.

use crate::address::Avma;

/// Reads memory of a target: a live process, a copy of some of it, or a capture.
///
/// What is read is hostile input. No implementation panics or reads more than asked, whatever the address.
pub trait MemoryReader {
    /// Fills as much of `into` as is readable without a gap from `at` on, and says how many bytes that was.
    ///
    /// # Errors
    /// When not even the first byte can be read. `Ok(0)` only for an empty `into`.
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError>;

    /// Fills all of `into`.
    ///
    /// # Errors
    /// [`ReadError`] at the first byte that could not be read.
    fn read_exact(&self, at: Avma, into: &mut [u8]) -> Result<(), ReadError> {
        let mut done = 0;
        while done < into.len() {
            let next = at.checked_add(done as u64).ok_or(ReadError::Unmapped(at))?;
            match self.read(next, &mut into[done..])? {
                0 => return Err(ReadError::Unmapped(next)),
                bytes => done += bytes,
            }
        }
        Ok(())
    }

    /// The eight bytes at `at` as a little-endian number.
    ///
    /// # Errors
    /// As [`MemoryReader::read_exact`].
    fn read_u64(&self, at: Avma) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read_exact(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The four bytes at `at` as a little-endian number.
    ///
    /// # Errors
    /// As [`MemoryReader::read_exact`].
    fn read_u32(&self, at: Avma) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.read_exact(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Fills each of `regions` as far as it can be read without a gap from its start on, and says in `copied` how many
    /// bytes that were. A live process is asked for several at once.
    fn read_each(&self, regions: &mut [(Avma, &mut [u8])], copied: &mut [usize]) {
        for ((at, into), copied) in regions.iter_mut().zip(copied) {
            *copied = self.read(*at, into).unwrap_or(0);
        }
    }
}

impl<M: MemoryReader + ?Sized> MemoryReader for &M {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        (**self).read(at, into)
    }

    fn read_each(&self, regions: &mut [(Avma, &mut [u8])], copied: &mut [usize]) {
        (**self).read_each(regions, copied);
    }
}

/// Why memory of the target could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ReadError {
    /// Nothing is mapped there, or it may not be read.
    #[error("nothing is mapped at {0}")]
    Unmapped(Avma),
    /// The memory exists but is not part of what was copied.
    #[error("memory at {0} was not copied")]
    NotCopied(Avma),
    /// The kernel does not let us read this process.
    #[error("reading memory at {0} was denied")]
    Denied(Avma),
    /// The process has ended.
    #[error("the process ended before memory at {0} could be read")]
    Gone(Avma),
}

/// One copied piece of a target's memory.
#[derive(Clone, Copy, Debug)]
pub struct SliceMemory<'a> {
    start: Avma,
    bytes: &'a [u8],
}

impl<'a> SliceMemory<'a> {
    /// `bytes` as they lay at `start`.
    pub fn new(start: Avma, bytes: &'a [u8]) -> Self {
        Self { start, bytes }
    }
}

impl MemoryReader for SliceMemory<'_> {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let not_copied = ReadError::NotCopied(at);
        let skip = at.0.checked_sub(self.start.0).ok_or(not_copied)?;
        let skip = usize::try_from(skip).map_err(|_| not_copied)?;
        let available = self
            .bytes
            .get(skip..)
            .filter(|bytes| !bytes.is_empty())
            .ok_or(not_copied)?;
        let bytes = available.len().min(into.len());
        into[..bytes].copy_from_slice(&available[..bytes]);
        Ok(bytes)
    }

    #[inline]
    fn read_u64(&self, at: Avma) -> Result<u64, ReadError> {
        let skip = at.0.wrapping_sub(self.start.0);
        usize::try_from(skip)
            .ok()
            .and_then(|skip| self.bytes.get(skip..)?.first_chunk::<8>())
            .map(|word| u64::from_le_bytes(*word))
            .ok_or(ReadError::NotCopied(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_reads_only_what_it_holds() {
        let memory = SliceMemory::new(Avma(0x1000), &[1, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(memory.read_u64(Avma(0x1000)), Ok(1));
        assert_eq!(
            memory.read_u64(Avma(0x1002)),
            Err(ReadError::NotCopied(Avma(0x1002)))
        );
        assert_eq!(
            memory.read_u64(Avma(0xfff)),
            Err(ReadError::NotCopied(Avma(0xfff)))
        );
        assert_eq!(memory.read(Avma(0x1008), &mut [0; 4]), Ok(1));
        assert_eq!(
            memory.read(Avma(0x1009), &mut [0; 4]),
            Err(ReadError::NotCopied(Avma(0x1009)))
        );
        assert_eq!(
            memory.read_exact(Avma(u64::MAX), &mut [0; 4]),
            Err(ReadError::NotCopied(Avma(u64::MAX)))
        );
    }
}
