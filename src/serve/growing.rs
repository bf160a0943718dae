//! A recording that is read while it is being written.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::board::Board;

/// How long is waited until it is looked whether more was written: a state comes no sooner for looking more often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What is known of a file that grows, between who writes and who reads it.
#[derive(Debug, Default)]
pub struct Growing {
    is_over: AtomicBool,
    /// Whether there is more in it than was read.
    is_behind: AtomicBool,
}

impl Growing {
    /// Nothing more will be written to it.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Whether there is more in it than was read.
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }
}

/// Reads a file from its start on, for as long as it grows and as somebody watches: until then nothing is read, and
/// nothing more from when nobody watches any longer.
#[derive(Debug)]
pub struct GrowingFile {
    file: File,
    position: u64,
    growing: Arc<Growing>,
    board: Arc<Board>,
}

impl GrowingFile {
    /// Reads `file`, and tells `growing` how far it is.
    pub fn new(file: File, growing: Arc<Growing>, board: Arc<Board>) -> Self {
        Self {
            file,
            position: 0,
            growing,
            board,
        }
    }
}

impl Read for GrowingFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Before the file: what was written last is read after this has been seen.
            let is_over = self.growing.is_over.load(Ordering::Acquire);
            if self.board.is_wanted() {
                let bytes = self.file.read_at(buffer, self.position)?;
                self.position += bytes as u64;
                let is_behind = self.file.metadata()?.len() > self.position;
                self.growing.is_behind.store(is_behind, Ordering::Relaxed);
                if bytes > 0 || is_over {
                    return Ok(bytes);
                }
            } else if is_over {
                return Ok(0);
            }
            self.board.wait(LOOK_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn it_is_read_to_its_end_as_it_grows() -> io::Result<()> {
        let mut file = tempfile::tempfile()?;
        let (growing, board) = (Arc::new(Growing::default()), Arc::new(Board::default()));
        let viewer = board.watch();
        let mut reader =
            GrowingFile::new(file.try_clone()?, Arc::clone(&growing), Arc::clone(&board));
        let mut bytes = [0; 3];
        file.write_all(b"one")?;
        reader.read_exact(&mut bytes[..1])?;
        assert!(growing.is_behind());
        reader.read_exact(&mut bytes[1..])?;
        assert!(!growing.is_behind());
        assert_eq!(&bytes, b"one");
        let ended = Arc::clone(&growing);
        let writer = std::thread::spawn(move || {
            let written = file.write_all(b"two");
            ended.end();
            written
        });
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest)?;
        assert_eq!(rest, b"two");
        drop(viewer);
        writer.join().expect("it does not panic")
    }

    #[test]
    fn nothing_is_read_for_nobody() -> io::Result<()> {
        let mut file = tempfile::tempfile()?;
        file.write_all(b"bytes")?;
        let (growing, board) = (Arc::new(Growing::default()), Arc::new(Board::default()));
        growing.end();
        let mut reader = GrowingFile::new(file, growing, board);
        let mut rest = Vec::new();
        assert_eq!(reader.read_to_end(&mut rest)?, 0);
        Ok(())
    }
}
