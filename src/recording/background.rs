//! Writing that never makes the caller wait.
//!
//! Whoever samples may hold threads of the target: those that were asked to stop and have not yet. They are let go by
//! the thread that asked, so that thread must not wait for a slow disk or for the reader of a pipe.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sampler_platforms::linux::JobControl;

/// How much may wait to be written before the recording is given up, in bytes: minutes of a hundred busy threads, and
/// no more than what memory a recording may take.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// How long a visitor waits for more to be written at most: a flush is due once a second, if there is anything to tell.
const VISIT_WAITS: Duration = Duration::from_millis(1500);

/// What the thread is given to do.
enum Message<W> {
    Write(Vec<u8>),
    Visit(Visit<W>),
}

type Visit<W> = Box<dyn FnOnce(&mut W) + Send>;

/// Hands what is written to a thread that writes it to `W`.
///
/// An error of that thread is told by the next call, or by [`BackgroundWriter::finish`].
pub struct BackgroundWriter<W> {
    /// `None` when the thread has ended or is to end.
    sender: Option<Arc<Sender<Message<W>>>>,
    thread: Option<JoinHandle<(W, io::Result<()>)>>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl<W> fmt::Debug for BackgroundWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting_bytes.load(Ordering::Relaxed);
        f.debug_struct("BackgroundWriter")
            .field("waiting_bytes", &waiting)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send + 'static> BackgroundWriter<W> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(output: W) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&waiting_bytes);
        // What it inherits: if it took Ctrl-Z, that would stop us while a thread of the target is held.
        let _for_now = JobControl::hold_back();
        let thread = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write_all(output, &receiver, &waiting))?;
        Ok(Self {
            sender: Some(Arc::new(sender)),
            thread: Some(thread),
            waiting_bytes,
        })
    }

    /// What lets others than the writer itself look at the output while it grows.
    pub fn visitor(&self) -> Visitor<W> {
        Visitor {
            sender: self.sender.as_ref().map(Arc::downgrade).unwrap_or_default(),
        }
    }

    /// Waits until everything is written, and gives the output back.
    ///
    /// # Errors
    /// The first error there was.
    pub fn finish(mut self) -> io::Result<W> {
        match self.join() {
            Some((output, written)) => written.map(|()| output),
            None => Err(io::Error::other("the writing thread is gone")),
        }
    }

    fn join(&mut self) -> Option<(W, io::Result<()>)> {
        self.sender = None;
        self.thread.take()?.join().ok()
    }

    /// Why the thread has ended before it was told to.
    fn error(&mut self) -> io::Error {
        match self.join() {
            Some((_, Err(error))) => error,
            Some((_, Ok(()))) | None => io::Error::from(io::ErrorKind::BrokenPipe),
        }
    }
}

impl<W: Write + Send + 'static> Write for BackgroundWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.waiting_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        if before > WAITING_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the output takes less than is recorded: 16 MiB wait to be written",
            ));
        }
        let sent = self
            .sender
            .as_ref()
            .map(|sender| sender.send(Message::Write(bytes.to_vec())));
        match sent {
            Some(Ok(())) => Ok(bytes.len()),
            Some(Err(_)) | None => Err(self.error()),
        }
    }

    /// Writes nothing that is not on its way already.
    fn flush(&mut self) -> io::Result<()> {
        match &self.thread {
            Some(thread) if !thread.is_finished() => Ok(()),
            Some(_) | None => Err(self.error()),
        }
    }
}

/// Has something done to the output of a [`BackgroundWriter`], by its thread.
pub struct Visitor<W> {
    /// The thread ends when its writer goes, whoever holds this.
    sender: Weak<Sender<Message<W>>>,
}

impl<W> fmt::Debug for Visitor<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").finish_non_exhaustive()
    }
}

impl<W> Visitor<W> {
    /// Has `visit` done once more was written, or nothing was for a while. Nobody is waited for. Says whether the
    /// writer is there still.
    pub fn visit(&self, visit: impl FnOnce(&mut W) + Send + 'static) -> bool {
        let sender = self.sender.upgrade();
        sender.is_some_and(|sender| sender.send(Message::Visit(Box::new(visit))).is_ok())
    }
}

fn write_all<W: Write>(
    mut output: W,
    receiver: &Receiver<Message<W>>,
    waiting_bytes: &AtomicUsize,
) -> (W, io::Result<()>) {
    let mut visits: Vec<Visit<W>> = Vec::new();
    let mut due = Instant::now();
    loop {
        let message = match visits.is_empty() {
            true => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => receiver.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match message {
            Ok(Message::Write(bytes)) => {
                let written = output.write_all(&bytes).and_then(|()| output.flush());
                waiting_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                if written.is_err() {
                    return (output, written);
                }
            }
            Ok(Message::Visit(visit)) => {
                if visits.is_empty() {
                    due = Instant::now() + VISIT_WAITS;
                }
                visits.push(visit);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            // All is written; who wanted to see what is there sees the whole.
            Err(RecvTimeoutError::Disconnected) => return (output, Ok(())),
        }
        visits.drain(..).for_each(|visit| visit(&mut output));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order() {
        let mut writer = BackgroundWriter::start(Vec::new()).unwrap();
        for byte in 0..100 {
            writer.write_all(&[byte]).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn a_visitor_sees_what_was_written_and_does_not_keep_the_thread() {
        let mut writer = BackgroundWriter::start(Vec::new()).unwrap();
        let visitor = writer.visitor();
        let (sender, seen) = channel();
        assert!(visitor.visit(move |output| sender.send(output.clone()).unwrap()));
        writer.write_all(b"x").unwrap();
        assert_eq!(seen.recv().unwrap(), b"x");
        // Without more to be written it does not wait for ever.
        let (sender, seen) = channel();
        assert!(visitor.visit(move |output| sender.send(output.clone()).unwrap()));
        assert_eq!(seen.recv().unwrap(), b"x");
        assert_eq!(writer.finish().unwrap(), b"x");
        assert!(!visitor.visit(|_| ()));
    }

    /// Its output is what is blocked in the thread that writes.
    struct Blocked(String);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let status = std::fs::read_to_string("/proc/thread-self/status")?;
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            self.0 = blocked.unwrap_or_default().trim().to_owned();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_stops_programs_is_not_taken_by_the_thread() {
        const SIGTSTP: u32 = 20; // signal(7)
        let mut writer = BackgroundWriter::start(Blocked(String::new())).unwrap();
        writer.write_all(b"x").unwrap();
        let blocked = u64::from_str_radix(&writer.finish().unwrap().0, 16).unwrap();
        assert_ne!(blocked & 1 << (SIGTSTP - 1), 0, "{blocked:x}");
    }

    #[test]
    fn an_error_is_told() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut writer = BackgroundWriter::start(full).unwrap();
        writer.write_all(b"x").unwrap();
        let error = writer.finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_reader_that_has_stopped_reading_is_not_waited_for() {
        let (reader, writer) = io::pipe().unwrap();
        let mut background = BackgroundWriter::start(writer).unwrap();
        let error = loop {
            if let Err(error) = background.write_all(&vec![0; 1 << 20]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(reader);
        assert!(background.finish().is_err());
    }
}
