//! How much of each thing a recording may hold.
//!
//! Writer and reader keep the same limits, so that what was written can be read, and a forged recording cannot take
//! more memory than a real one. Each is far above what a day of recording brings.

/// Bytes of a chunk before compression, and after.
pub(super) const CHUNK_BYTES_MAX: usize = 16 << 20;

/// Bytes of one text or image. A record has at most two of them, and a chunk of [`CHUNK_BYTES_GOAL`] takes one more
/// record of this size.
///
/// [`CHUNK_BYTES_GOAL`]: super::writer::CHUNK_BYTES_GOAL
pub(super) const FIELD_BYTES_MAX: usize = 4 << 20;

/// Bytes of the start record before compression.
pub(super) const START_BYTES_MAX: usize = 4 << 20;

/// Frames of one stack. The unwinder's own bound is far below.
pub(super) const STACK_FRAMES_MAX: u32 = 1 << 17;

/// Frames, nodes and stacks of one epoch, each.
pub(super) const TABLE_ENTRIES_MAX: usize = 1 << 24;

const PROCESSES_MAX: u32 = 1 << 20;
pub(super) const THREADS_MAX: u32 = 1 << 22;
const MODULES_MAX: u32 = 1 << 20;
const MAPPINGS_MAX: u32 = 1 << 22;
pub(super) const FUNCTIONS_MAX: u32 = 1 << 18;
/// What sleepers wait for.
const WAITS_MAX: u32 = 1 << 18;
const JIT_CODES_MAX: u32 = 1 << 20;
/// What a line of code that was compiled at run time takes in memory, beside the texts.
const JIT_LINE_BYTES: usize = 16;
/// Command lines, paths, names and images of the whole recording, and the lines of code that was compiled at run time.
const TEXT_BYTES_MAX: usize = 256 << 20;

/// A recording would hold more of something than a reader takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many {what}, or too large")]
pub struct LimitExceeded {
    /// Of what.
    pub what: &'static str,
}

/// What a recording holds so far of the things that are kept until its end.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) processes: u32,
    pub(super) threads: u32,
    pub(super) modules: u32,
    pub(super) functions: u32,
    pub(super) waits: u32,
    mappings: u32,
    jit_codes: u32,
    text_bytes: usize,
}

impl Counts {
    pub(super) fn add_process(&mut self) -> Result<u32, LimitExceeded> {
        next(&mut self.processes, PROCESSES_MAX, "processes")
    }

    pub(super) fn add_thread(&mut self) -> Result<u32, LimitExceeded> {
        next(&mut self.threads, THREADS_MAX, "threads")
    }

    pub(super) fn add_module(&mut self) -> Result<u32, LimitExceeded> {
        next(&mut self.modules, MODULES_MAX, "modules")
    }

    pub(super) fn add_function(&mut self) -> Result<u32, LimitExceeded> {
        next(&mut self.functions, FUNCTIONS_MAX, "functions")
    }

    pub(super) fn add_wait(&mut self, what: &str) -> Result<u32, LimitExceeded> {
        self.add_text(what.as_bytes())?;
        next(&mut self.waits, WAITS_MAX, "waits")
    }

    pub(super) fn add_mapping(&mut self) -> Result<u32, LimitExceeded> {
        next(&mut self.mappings, MAPPINGS_MAX, "mappings")
    }

    pub(super) fn add_jit_code<T: AsRef<[u8]>>(
        &mut self,
        name: &str,
        files: &[T],
        lines: usize,
    ) -> Result<(), LimitExceeded> {
        next(
            &mut self.jit_codes,
            JIT_CODES_MAX,
            "functions compiled at run time",
        )?;
        self.add_text(name.as_bytes())?;
        files
            .iter()
            .try_for_each(|file| self.add_text(file.as_ref()))?;
        self.text_bytes = self
            .text_bytes
            .saturating_add(lines.saturating_mul(JIT_LINE_BYTES));
        at_most(
            self.text_bytes,
            TEXT_BYTES_MAX,
            "lines of code compiled at run time",
        )
    }

    pub(super) fn add_text(&mut self, bytes: &[u8]) -> Result<(), LimitExceeded> {
        let exceeded = LimitExceeded {
            what: "names and images",
        };
        if bytes.len() > FIELD_BYTES_MAX {
            return Err(exceeded);
        }
        self.text_bytes = self.text_bytes.saturating_add(bytes.len());
        at_most(self.text_bytes, TEXT_BYTES_MAX, exceeded.what)
    }
}

/// Hands out the id that follows.
fn next(count: &mut u32, max: u32, what: &'static str) -> Result<u32, LimitExceeded> {
    let id = *count;
    if id >= max {
        return Err(LimitExceeded { what });
    }
    *count += 1;
    Ok(id)
}

/// Whether `len` is within `max`.
pub(super) fn at_most(len: usize, max: usize, what: &'static str) -> Result<(), LimitExceeded> {
    if len > max {
        Err(LimitExceeded { what })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_up_to_the_limit() {
        let mut count = 0;
        assert_eq!(next(&mut count, 2, "things"), Ok(0));
        assert_eq!(next(&mut count, 2, "things"), Ok(1));
        assert_eq!(
            next(&mut count, 2, "things"),
            Err(LimitExceeded { what: "things" })
        );
    }

    #[test]
    fn one_text_and_all_texts_are_bounded() {
        let mut counts = Counts::default();
        assert!(counts.add_text(&vec![0; FIELD_BYTES_MAX + 1]).is_err());
        let text = vec![0; FIELD_BYTES_MAX];
        let taken = (0..1000).take_while(|_| counts.add_text(&text).is_ok());
        assert_eq!(taken.count(), TEXT_BYTES_MAX / FIELD_BYTES_MAX);
    }
}
