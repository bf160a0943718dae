//! Reads a recording of any version.

use std::error::Error;
use std::io::{self, BufReader, Read};

use super::chunk::{ChunkKind, Chunks, Damage, DamageKind, read_full};
use super::v1::{Replay, ReplayError};
use super::{HEADER_BYTES, MAGIC, RecordingInfo, VERSION};
use crate::profile::{SampleSink, Summary};

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadOutcome {
    /// What was known when the recording started.
    pub info: RecordingInfo,
    /// What it held and had cost when it was last flushed; `None` when it ended before that.
    pub summary: Option<Summary>,
    /// Whether the recording was ended properly: what killed the sampler leaves it without an end.
    pub complete: bool,
    /// Where reading had to stop; all that lies before was read.
    pub damage: Option<Damage>,
}

/// Why nothing could be read, or not all of it be kept.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E: Error + 'static> {
    /// The system could not read its first bytes.
    #[error("cannot read the recording")]
    Io(#[source] io::Error),
    /// There is not one byte.
    #[error("the recording is empty")]
    Empty,
    /// It begins in another way than recordings do.
    #[error("not a recording of sampler")]
    NotARecording,
    /// A version that this reader does not know.
    #[error(
        "the recording has format version {found}, and this sampler reads up to version {VERSION}"
    )]
    Version {
        /// The version of the recording.
        found: u32,
    },
    /// It ends, or is damaged, before the first sample could be.
    #[error("the recording holds nothing that can be read")]
    NoStart(#[source] Damage),
    /// The sink could not take what was read.
    #[error(transparent)]
    Sink(E),
}

/// Plays a recording into `sink`, which gives everything ids of its own. `input` is read once, from its start.
///
/// Damage is no error: all that lies before it is played, and the outcome says where it is.
///
/// # Errors
/// When `input` is no recording that can be read, or when `sink` refuses.
pub fn read<S>(input: impl Read, sink: &mut S) -> Result<ReadOutcome, ReadError<S::Error>>
where
    S: SampleSink<Error: Error + 'static>,
{
    let mut input = BufReader::new(input);
    match read_version(&mut input)? {
        version @ 1..=2 => read_v1(version, Chunks::new(input, HEADER_BYTES as u64), sink),
        found => Err(ReadError::Version { found }),
    }
}

/// What is known of when a recording started.
///
/// # Errors
/// When `input` is no recording that can be read.
pub fn read_info<E: Error>(input: impl Read) -> Result<RecordingInfo, ReadError<E>> {
    let mut input = BufReader::new(input);
    match read_version(&mut input)? {
        1..=2 => {
            read_start(&mut Chunks::new(input, HEADER_BYTES as u64)).map_err(ReadError::NoStart)
        }
        found => Err(ReadError::Version { found }),
    }
}

fn read_version<E: Error>(input: &mut impl Read) -> Result<u32, ReadError<E>> {
    let mut header = [0; HEADER_BYTES];
    let read = read_full(input, &mut header).map_err(ReadError::Io)?;
    if read == 0 {
        return Err(ReadError::Empty);
    }
    let known = read.min(MAGIC.len());
    if header[..known] != MAGIC[..known] {
        return Err(ReadError::NotARecording);
    }
    if read < HEADER_BYTES {
        return Err(ReadError::NoStart(Damage {
            offset: 0,
            what: DamageKind::Truncated,
        }));
    }
    let [.., v0, v1, v2, v3] = header;
    Ok(u32::from_le_bytes([v0, v1, v2, v3]))
}

fn read_v1<R, S>(
    version: u32,
    mut chunks: Chunks<R>,
    sink: &mut S,
) -> Result<ReadOutcome, ReadError<S::Error>>
where
    R: Read,
    S: SampleSink<Error: Error + 'static>,
{
    let info = read_start(&mut chunks).map_err(ReadError::NoStart)?;
    let mut replay = Replay::new(version, sink);
    let (complete, damage) = loop {
        match chunks.next() {
            Err(damage) => break (false, Some(damage)),
            Ok(None) => break (false, None),
            Ok(Some(ChunkKind::Start)) => {
                let what = DamageKind::Kind(ChunkKind::Start as u8);
                break (false, Some(chunks.damage(what)));
            }
            Ok(Some(ChunkKind::End)) => match chunks.at_end() {
                Ok(true) => break (true, None),
                Ok(false) => break (true, Some(chunks.damage(DamageKind::AfterEnd))),
                Err(damage) => break (true, Some(damage)),
            },
            Ok(Some(ChunkKind::Records)) => match replay.chunk(chunks.content()) {
                Ok(()) => {}
                Err(ReplayError::Sink(error)) => return Err(ReadError::Sink(error)),
                Err(ReplayError::Record(what)) => {
                    break (false, Some(chunks.damage(DamageKind::Record(what))));
                }
            },
        }
    };
    Ok(ReadOutcome {
        info,
        summary: replay.into_summary(),
        complete,
        damage,
    })
}

fn read_start<R: Read>(chunks: &mut Chunks<R>) -> Result<RecordingInfo, Damage> {
    let what = match chunks.next()? {
        Some(ChunkKind::Start) => match super::v1::start_info(chunks.content()) {
            Ok(info) => return Ok(info),
            Err(what) => DamageKind::Record(what),
        },
        Some(other) => DamageKind::Kind(other as u8),
        None => DamageKind::Truncated,
    };
    Err(chunks.damage(what))
}
