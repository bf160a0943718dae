//! Where a recording is written to.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sampler_platforms::linux::privileges::{self, NO_LINK_NOR_WAITING, Owner};

use super::chunk::{ChunkKind, encode};

/// The file a recording grows in. It lies as `NAME.partial` beside `NAME` until [`RecordingFile::finish`] renames it,
/// so that an older recording is not lost to one that fails; what was written stays readable there.
///
/// `-` is standard output. A path that is there and is no regular file (a pipe, `/dev/null`) is written to as it is.
#[derive(Debug)]
pub struct RecordingFile {
    output: Output,
    /// What is written to, as messages name it.
    path: PathBuf,
    /// What it is called in the end, where that is something else.
    name: Option<PathBuf>,
    /// Whose it is to be, if not ours.
    owner: Option<Owner>,
}

/// How much of a recording is copied at once, in bytes.
const COPY_BYTES: usize = 256 << 10;

#[derive(Debug)]
enum Output {
    File(File),
    Stdout(io::Stdout),
}

/// A recording could not be opened, written or named.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file could not be created.
    #[error("cannot create {}", path.display())]
    Create {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another sampler is writing a recording of the same name.
    #[error("{} is being written by another sampler", path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// It could not be written to: the disk is full, the reader of a pipe has gone.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The finished recording could not get its name; it is whole under the other one.
    #[error("cannot rename {} to {}", from.display(), to.display())]
    Rename {
        /// Where the recording is.
        from: PathBuf,
        /// Where it should be.
        to: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl RecordingFile {
    /// Opens the file for the recording that shall be called `path`; `-` for standard output.
    ///
    /// # Errors
    /// When it cannot be created, or `path` is a directory.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        Self::create_for(path, None)
    }

    /// Likewise; a file that is made for it belongs to `owner`.
    ///
    /// # Errors
    /// As for [`RecordingFile::create`].
    pub fn create_for(path: &Path, owner: Option<Owner>) -> Result<Self, OutputError> {
        privileges::with_rights_to_write(|| Self::open(path, owner))
    }

    fn open(path: &Path, owner: Option<Owner>) -> Result<Self, OutputError> {
        if path == Path::new("-") {
            return Ok(Self {
                output: Output::Stdout(io::stdout()),
                path: PathBuf::from("standard output"),
                name: None,
                owner,
            });
        }
        let create = |path: &Path| {
            File::create(path).map_err(|source| OutputError::Create {
                path: path.to_owned(),
                source,
            })
        };
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => Ok(Self {
                output: Output::File(create(path)?),
                path: path.to_owned(),
                name: None,
                owner,
            }),
            // Whatever else is wrong with the path, creating a file there tells.
            _ => {
                // A symbolic link stays one: what it leads to is replaced.
                let name = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
                let partial = partial_path(&name);
                Ok(Self {
                    output: Output::File(create_alone(&partial, owner)?),
                    path: partial,
                    name: Some(name),
                    owner,
                })
            }
        }
    }

    /// Where the bytes are until the recording is finished: `NAME.partial`, or `standard output`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for who reads it while it grows, at positions of its own; `None` where what was written cannot be read
    /// again.
    ///
    /// # Errors
    /// When there is no further descriptor.
    pub fn reader(&self) -> io::Result<Option<File>> {
        match (&self.output, &self.name) {
            (Output::File(file), Some(_)) => file.try_clone().map(Some),
            _ => Ok(None),
        }
    }

    /// Gives the recording its name.
    ///
    /// # Errors
    /// When what is left could not be written, or the file not be renamed.
    pub fn finish(mut self) -> Result<(), OutputError> {
        let flushed = self.inner().flush();
        flushed.map_err(|source| OutputError::Write {
            path: self.path.clone(),
            source,
        })?;
        let Some(name) = self.name else {
            return Ok(());
        };
        rename(self.path, name)
    }

    /// Leaves the recording where it is, for a report to be made of it, and says where. Does not give it its name.
    ///
    /// # Errors
    /// When what is left could not be written.
    pub fn leave(mut self) -> Result<PathBuf, OutputError> {
        let flushed = self.inner().flush();
        flushed.map_err(|source| OutputError::Write {
            path: self.path.clone(),
            source,
        })?;
        Ok(self.path)
    }

    /// Writes a whole recording of what is there so far to `name`, in the place of what may be there. To be called
    /// between two chunks.
    ///
    /// # Errors
    /// When this is no file that is going to be renamed, or the copy cannot be written.
    pub fn copy_so_far(&self, name: &Path) -> Result<(), OutputError> {
        let failed = |source| OutputError::Write {
            path: name.to_owned(),
            source,
        };
        let (Output::File(file), Some(_)) = (&self.output, &self.name) else {
            return Err(failed(io::Error::other(
                "what was written so far cannot be read again",
            )));
        };
        privileges::with_rights_to_write(|| {
            let copy_path = with_suffix(name, ".copy");
            let copy = create_alone(&copy_path, self.owner)?;
            copy_all(file, &copy).map_err(failed)?;
            rename(copy_path, name.to_owned())
        })
    }

    /// Removes what was written: there is nothing in it.
    ///
    /// # Errors
    /// When the file could not be removed.
    pub fn discard(self) -> io::Result<()> {
        match self.name {
            Some(_) => privileges::with_rights_to_write(|| fs::remove_file(&self.path)),
            None => Ok(()),
        }
    }

    fn inner(&mut self) -> &mut dyn Write {
        match &mut self.output {
            Output::File(file) => file,
            Output::Stdout(stdout) => stdout,
        }
    }

    /// Puts the path into an error, and keeps its kind.
    fn named(&self, source: io::Error) -> io::Error {
        let path = self.path.clone();
        io::Error::new(source.kind(), OutputError::Write { path, source })
    }
}

fn rename(from: PathBuf, to: PathBuf) -> Result<(), OutputError> {
    let renamed = privileges::with_rights_to_write(|| fs::rename(&from, &to));
    renamed.map_err(|source| OutputError::Rename { from, to, source })
}

/// Appends all of `from`, from its first byte on, and the mark that ends a recording.
fn copy_all(from: &File, mut to: &File) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    loop {
        match from.read_at(&mut buffer, done)? {
            0 => break,
            bytes => {
                to.write_all(&buffer[..bytes])?;
                done += bytes as u64;
            }
        }
    }
    to.write_all(&encode(ChunkKind::End, &[]))
}

/// Creates the file unless another sampler is writing to it.
///
/// No link is followed: whoever may write to the folder could lay one to a file of somebody else's.
fn create_alone(path: &Path, owner: Option<Owner>) -> Result<File, OutputError> {
    let failed = |source| OutputError::Create {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(NO_LINK_NOR_WAITING)
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is there, and no regular file")));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OutputError::InUse {
                path: path.to_owned(),
            });
        }
        // A file system without locks.
        Err(TryLockError::Error(_)) => {}
    }
    file.set_len(0).map_err(failed)?;
    if let Some(owner) = owner {
        owner.take(&file).map_err(failed)?;
    }
    Ok(file)
}

/// `NAME.partial` for `NAME`.
fn partial_path(path: &Path) -> PathBuf {
    with_suffix(path, ".partial")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

impl Write for RecordingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner().write(bytes);
        written.map_err(|error| match error.kind() {
            // The caller tries again.
            io::ErrorKind::Interrupted => error,
            _ => self.named(error),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.inner().flush();
        flushed.map_err(|error| self.named(error))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    type TestResult = Result<(), Box<dyn Error>>;

    #[test]
    fn the_old_recording_stays_until_the_new_one_is_finished() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("sampler.data");
        fs::write(&path, "old")?;
        let mut file = RecordingFile::create(&path)?;
        file.write_all(b"new")?;
        let partial = directory.path().join("sampler.data.partial");
        assert_eq!(fs::read(&path)?, b"old");
        assert_eq!(fs::read(&partial)?, b"new");
        file.finish()?;
        assert_eq!(fs::read(&path)?, b"new");
        assert!(!partial.exists());
        Ok(())
    }

    #[test]
    fn a_recording_that_is_not_finished_stays_beside_the_old_one() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("sampler.data");
        fs::write(&path, "old")?;
        let mut file = RecordingFile::create(&path)?;
        file.write_all(b"new")?;
        drop(file);
        assert_eq!(fs::read(&path)?, b"old");
        let partial = directory.path().join("sampler.data.partial");
        assert_eq!(fs::read(partial)?, b"new");
        Ok(())
    }

    #[test]
    fn a_link_is_followed_and_stays_a_link() -> TestResult {
        let directory = tempfile::tempdir()?;
        let (path, link) = (directory.path().join("data"), directory.path().join("link"));
        fs::write(&path, "old")?;
        std::os::unix::fs::symlink(&path, &link)?;
        let mut file = RecordingFile::create(&link)?;
        file.write_all(b"new")?;
        file.finish()?;
        assert_eq!(fs::read(&path)?, b"new");
        assert!(fs::symlink_metadata(&link)?.is_symlink());
        Ok(())
    }

    #[test]
    fn what_there_is_can_be_had_before_the_end() -> TestResult {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("sampler.data");
        let mut file = RecordingFile::create(&path)?;
        file.write_all(b"one")?;
        file.copy_so_far(&path)?;
        let end = encode(ChunkKind::End, &[]);
        assert_eq!(fs::read(&path)?, [b"one".as_slice(), &end].concat());
        file.write_all(b"two")?;
        file.finish()?;
        assert_eq!(fs::read(&path)?, b"onetwo");
        assert_eq!(fs::read_dir(directory.path())?.count(), 1);
        let device = RecordingFile::create(Path::new("/dev/null"))?;
        assert!(device.copy_so_far(&path).is_err());
        Ok(())
    }

    #[test]
    fn a_link_in_the_place_of_what_grows_is_not_followed() -> TestResult {
        let directory = tempfile::tempdir()?;
        let precious = directory.path().join("precious");
        fs::write(&precious, "kept")?;
        let partial = directory.path().join("sampler.data.partial");
        std::os::unix::fs::symlink(&precious, &partial)?;
        let path = directory.path().join("sampler.data");
        RecordingFile::create(&path).expect_err("a link is there");
        fs::remove_file(&partial)?;
        fs::create_dir(&partial)?;
        RecordingFile::create(&path).expect_err("a folder is there");
        assert_eq!(fs::read(&precious)?, b"kept");
        Ok(())
    }

    #[test]
    fn a_device_is_written_to_as_it_is() -> TestResult {
        let mut file = RecordingFile::create(Path::new("/dev/null"))?;
        assert_eq!(file.path(), Path::new("/dev/null"));
        file.write_all(b"bytes")?;
        file.finish()?;
        Ok(())
    }

    #[test]
    fn a_full_disk_is_named_and_keeps_its_kind() -> TestResult {
        let mut file = RecordingFile::create(Path::new("/dev/full"))?;
        let error = file
            .write_all(b"bytes")
            .expect_err("/dev/full takes nothing");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(error.to_string(), "cannot write /dev/full");
        Ok(())
    }

    #[test]
    fn what_cannot_be_created_is_named() {
        let error = RecordingFile::create(Path::new("/no-such-directory/sampler.data"))
            .expect_err("there is no such directory");
        assert_eq!(
            error.to_string(),
            "cannot create /no-such-directory/sampler.data.partial"
        );
        RecordingFile::create(Path::new("/")).expect_err("a directory is no file");
    }
}
