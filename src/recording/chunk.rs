//! Chunks: the pieces a recording is appended in, each checked and compressed by itself.
//!
//! length u32, kind u8, CRC-32 u32 (of length, kind and content), then `length` bytes of content: the size before
//! compression u32, and one LZ4 block. Numbers are little-endian.

use std::io::{self, Read};

use super::limits::CHUNK_BYTES_MAX;

/// Length, kind and CRC.
const CHUNK_HEADER_BYTES: usize = 9;

/// Bytes of a chunk's content as stored: what LZ4 adds to [`CHUNK_BYTES_MAX`] it cannot compress is less than 1/255.
const STORED_BYTES_MAX: usize = CHUNK_BYTES_MAX + (1 << 20);

/// How much an LZ4 block can grow at most: each byte of it adds at most 255 to the length of a match.
const LZ4_RATIO_MAX: usize = 255;

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ChunkKind {
    /// What is known when a recording starts. The first chunk, and only that.
    Start = 1,
    /// Records.
    Records = 2,
    /// Nothing: the recording was ended properly. The last chunk.
    End = 3,
}

impl ChunkKind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Start, Self::Records, Self::End]
            .into_iter()
            .find(|&kind| kind as u8 == number)
    }
}

/// Where a recording stops to be readable, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {offset}: {what}")]
pub struct Damage {
    /// Where the chunk begins that could not be read; all before it was read.
    pub offset: u64,
    /// What is wrong with it.
    pub what: DamageKind,
}

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    /// The recording ends inside it.
    #[error("the last chunk is cut short")]
    Truncated,
    /// It claims to be larger than chunks can be.
    #[error("a chunk of an impossible length")]
    Length,
    /// Its checksum is not that of its bytes.
    #[error("a chunk whose checksum does not fit")]
    Checksum,
    /// It is of no known kind, or not of the kind that belongs there.
    #[error("a chunk of an unexpected kind ({0})")]
    Kind(u8),
    /// It cannot be decompressed.
    #[error("a chunk that cannot be decompressed")]
    Compression,
    /// A record in it makes no sense; the records before that one were read.
    #[error("a record that makes no sense ({0})")]
    Record(&'static str),
    /// There is something behind the end.
    #[error("more bytes after the end of the recording")]
    AfterEnd,
    /// The system could not read it.
    #[error("cannot be read ({0})")]
    Unreadable(io::ErrorKind),
}

/// A chunk of `kind` that holds `content`, which is at most [`CHUNK_BYTES_MAX`] long.
pub(super) fn encode(kind: ChunkKind, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK_HEADER_BYTES];
    bytes.extend(lz4_flex::block::compress_prepend_size(content));
    let length = u32::try_from(bytes.len() - CHUNK_HEADER_BYTES)
        .expect("content is bounded far below 2^32, and LZ4 adds less than one percent");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4] = kind as u8;
    let crc = checksum(&bytes[..5], &bytes[CHUNK_HEADER_BYTES..]);
    bytes[5..CHUNK_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn checksum(length_and_kind: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length_and_kind);
    hasher.update(content);
    hasher.finalize()
}

/// Reads chunk after chunk.
#[derive(Debug)]
pub(super) struct Chunks<R> {
    input: R,
    /// Where the next chunk begins.
    offset: u64,
    /// Where the current chunk began.
    current: u64,
    stored: Vec<u8>,
    content: Vec<u8>,
}

impl<R: Read> Chunks<R> {
    /// Reads chunks from `input`, which stands `offset` bytes behind the start of the recording.
    pub(super) fn new(input: R, offset: u64) -> Self {
        Self {
            input,
            offset,
            current: offset,
            stored: Vec::new(),
            content: Vec::new(),
        }
    }

    /// The damage `what` to the chunk returned last.
    pub(super) fn damage(&self, what: DamageKind) -> Damage {
        Damage {
            offset: self.current,
            what,
        }
    }

    /// The next chunk; its content is [`Chunks::content`]. `None` where the recording ends.
    pub(super) fn next(&mut self) -> Result<Option<ChunkKind>, Damage> {
        self.current = self.offset;
        self.read_chunk().map_err(|what| self.damage(what))
    }

    /// The content of the chunk returned last, decompressed.
    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    /// Whether there is nothing behind the chunk returned last.
    pub(super) fn at_end(&mut self) -> Result<bool, Damage> {
        let read = read_full(&mut self.input, &mut [0])
            .map_err(|error| self.damage(DamageKind::Unreadable(error.kind())))?;
        Ok(read == 0)
    }

    fn read_chunk(&mut self) -> Result<Option<ChunkKind>, DamageKind> {
        let unreadable = |error: io::Error| DamageKind::Unreadable(error.kind());
        let mut header = [0; CHUNK_HEADER_BYTES];
        match read_full(&mut self.input, &mut header).map_err(unreadable)? {
            0 => return Ok(None),
            CHUNK_HEADER_BYTES => {}
            _ => return Err(DamageKind::Truncated),
        }
        let [l0, l1, l2, l3, kind, c0, c1, c2, c3] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > STORED_BYTES_MAX {
            return Err(DamageKind::Length);
        }
        self.stored.clear();
        let read = (&mut self.input)
            .take(u64::from(length))
            .read_to_end(&mut self.stored)
            .map_err(unreadable)?;
        if read < length as usize {
            return Err(DamageKind::Truncated);
        }
        if checksum(&header[..5], &self.stored) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(DamageKind::Checksum);
        }
        let kind = ChunkKind::from_number(kind).ok_or(DamageKind::Kind(kind))?;
        self.decompress()?;
        self.offset += CHUNK_HEADER_BYTES as u64 + u64::from(length);
        Ok(Some(kind))
    }

    fn decompress(&mut self) -> Result<(), DamageKind> {
        let (size, block) = lz4_flex::block::uncompressed_size(&self.stored)
            .map_err(|_| DamageKind::Compression)?;
        if size > CHUNK_BYTES_MAX || size / LZ4_RATIO_MAX > block.len() {
            return Err(DamageKind::Compression);
        }
        self.content.resize(size, 0);
        match lz4_flex::block::decompress_into(block, &mut self.content) {
            Ok(written) if written == size => Ok(()),
            _ => Err(DamageKind::Compression),
        }
    }
}

/// Fills `buffer` as far as `input` goes; how many bytes that were.
pub(super) fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(bytes: &[u8]) -> Result<Option<ChunkKind>, Damage> {
        Chunks::new(bytes, 12).next()
    }

    fn damaged(what: DamageKind) -> Result<Option<ChunkKind>, Damage> {
        Err(Damage { offset: 12, what })
    }

    #[test]
    fn a_chunk_comes_back_as_it_was() {
        let content = b"record record record record record".as_slice();
        let bytes = [
            encode(ChunkKind::Records, content),
            encode(ChunkKind::End, b""),
        ]
        .concat();
        let mut chunks = Chunks::new(bytes.as_slice(), 0);
        assert_eq!(chunks.next(), Ok(Some(ChunkKind::Records)));
        assert_eq!(chunks.content(), content);
        assert_eq!(chunks.at_end(), Ok(false));
        let mut chunks = Chunks::new(bytes.as_slice(), 0);
        assert_eq!(chunks.next(), Ok(Some(ChunkKind::Records)));
        assert_eq!(chunks.next(), Ok(Some(ChunkKind::End)));
        assert_eq!(chunks.content(), b"");
        assert_eq!(chunks.next(), Ok(None));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(ChunkKind::Records, b"some records and some more records");
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                assert!(next(&flipped).is_err(), "byte {position} bit {bit}");
            }
        }
    }

    #[test]
    fn a_chunk_that_claims_too_much_is_refused_before_memory_is_taken() {
        let mut bytes = encode(ChunkKind::Records, b"records");
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(next(&bytes), damaged(DamageKind::Length));

        // A block of few bytes that claims to hold 16 MiB, with a checksum that fits.
        let mut bytes = encode(ChunkKind::Records, b"records");
        bytes[9..13].copy_from_slice(&(16u32 << 20).to_le_bytes());
        let crc = checksum(&bytes[..5], &bytes[9..]);
        bytes[5..9].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(next(&bytes), damaged(DamageKind::Compression));
    }

    #[test]
    fn a_kind_from_the_future_is_refused() {
        let mut bytes = encode(ChunkKind::Records, b"records");
        bytes[4] = 77;
        let crc = checksum(&bytes[..5], &bytes[9..]);
        bytes[5..9].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(next(&bytes), damaged(DamageKind::Kind(77)));
    }
}
