//! Names of code that a process compiles while it runs: from its perf map, and from a jitdump.
//!
//! Both are files that the process writes; when a report is made they, or what they say, may be gone. So the names of
//! what was really sampled are taken into the recording, a bounded piece of reading at each flush. Whatever is in the
//! files is the target's to decide: they are opened with care, sizes in them are not believed, and what is kept of
//! them is bounded.

mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod jitdump;
mod perf_map;
mod wanted;

use std::path::Path;

use sampler_platforms::Pid;
use sampler_platforms::linux::proc::maps::Mapping;
use sampler_platforms::linux::proc::status;
use sampler_platforms::linux::{rooted_file, target_file};

use self::file::JitFile;
use self::wanted::Wanted;
use crate::profile::{JitCode, JitSource, ProcessId};

/// How much is read at a flush, of all files together, in bytes: some milliseconds.
const FLUSH_BYTES: u64 = 4 << 20;

/// How much is read when the recording ends, in bytes. Nobody is sampled then.
const END_BYTES: u64 = 2 << 30;

/// How many files of one process are read: its perf map and its jitdump; more only after it has replaced them.
const FILES_MAX: usize = 8;

/// How many codes are kept in a recording, and how long their names and lines are altogether, in bytes.
const CODES_MAX: usize = 1 << 19;
const TEXT_BYTES_MAX: usize = 64 << 20;

/// What may still be read and kept.
#[derive(Debug)]
pub(super) struct JitBudget {
    bytes: u64,
    codes: usize,
    text_bytes: usize,
    /// For how many codes there was no room.
    left_out: u64,
}

impl Default for JitBudget {
    fn default() -> Self {
        Self {
            bytes: 0,
            codes: CODES_MAX,
            text_bytes: TEXT_BYTES_MAX,
            left_out: 0,
        }
    }
}

impl JitBudget {
    /// A flush may read so much again.
    pub(super) fn begin_flush(&mut self) {
        self.bytes = FLUSH_BYTES;
    }

    /// The last reading may read all there is.
    pub(super) fn begin_end(&mut self) {
        self.bytes = END_BYTES;
    }

    /// Whether `code` may be kept; it is, then.
    fn take(&mut self, code: &JitCode) -> bool {
        let files: usize = code.files.iter().map(String::len).sum();
        let text_bytes = code.name.len() + files + size_of_val(code.lines.as_slice());
        let fits = self.codes > 0 && text_bytes <= self.text_bytes;
        if fits {
            self.codes -= 1;
            self.text_bytes -= text_bytes;
        } else {
            self.left_out += 1;
        }
        fits
    }

    /// How many codes were not kept because there was no room for them.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// What there is to name of one process, and the files that may do so.
#[derive(Debug, Default)]
pub(super) struct JitNames {
    wanted: Wanted,
    files: Vec<JitFile>,
}

impl JitNames {
    /// Code without a file was seen at `address`. Whether it is the first.
    pub(super) fn want(&mut self, address: u64) -> bool {
        let is_first = self.wanted.is_empty();
        self.wanted.add(address);
        is_first
    }

    /// Looks for the files of process `pid`, seen through its thread `living`, if there is something to name.
    pub(super) fn find_files(&mut self, living: Pid, mappings: &[Mapping]) {
        if self.wanted.is_empty() {
            return;
        }
        if let Some(file) = open_perf_map(living) {
            self.add(file);
        }
        for mapping in mappings.iter().filter(|mapping| is_jitdump(mapping)) {
            if let Some(file) = open_jitdump(living, mapping) {
                self.add(file);
            }
        }
    }

    fn add(&mut self, file: JitFile) {
        let is_known = self.files.iter().any(|known| known.is_same(&file));
        if !is_known && self.files.len() < FILES_MAX {
            self.files.push(file);
        }
    }

    /// Reads on, as far as `budget` goes; gives the codes that are to be recorded, with times since `began_ns`.
    /// After the process's end files no longer grow: what looks unfinished in them is taken as it is.
    pub(super) fn read(
        &mut self,
        process: ProcessId,
        now_ns: u64,
        began_ns: u64,
        has_ended: bool,
        budget: &mut JitBudget,
    ) -> Vec<JitCode> {
        self.wanted.sort();
        let mut codes = Vec::new();
        for file in &mut self.files {
            let mut bytes = std::mem::take(&mut budget.bytes);
            file.read(
                &self.wanted,
                now_ns,
                has_ended,
                &mut bytes,
                &mut |named, time_ns| {
                    let code = JitCode {
                        process,
                        start: named.start,
                        size: named.size,
                        from_ns: time_ns.map_or(0, |time_ns| time_ns.saturating_sub(began_ns)),
                        source: named.source,
                        name: named.name,
                        files: named.files,
                        lines: named.lines,
                    };
                    if budget.take(&code) {
                        codes.push(code);
                    }
                },
            );
            budget.bytes = bytes;
        }
        codes
    }

    /// Whether nothing would come of reading on, if the files stay as they are.
    pub(super) fn is_done(&self) -> bool {
        self.files.iter().all(|file| file.is_done(&self.wanted))
    }
}

/// The files with names of code compiled at run time that a process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenJitFiles {
    /// `/tmp/perf-PID.map` is there, and its own.
    pub has_perf_map: bool,
    /// How many jitdumps it has mapped.
    pub jitdumps: usize,
}

impl SeenJitFiles {
    /// Looks for those of process `pid`.
    pub(super) fn of(pid: Pid, mappings: &[Mapping]) -> Self {
        let jitdumps = mappings.iter().filter(|mapping| is_jitdump(mapping));
        Self {
            has_perf_map: open_perf_map(pid).is_some(),
            jitdumps: jitdumps
                .filter_map(|mapping| open_jitdump(pid, mapping))
                .count(),
        }
    }
}

/// `/tmp/perf-PID.map`, by the number that the process has for itself (tools/perf/Documentation/jit-interface.txt).
fn open_perf_map(living: Pid) -> Option<JitFile> {
    let status = status::read(living).ok()?;
    let own_pid = match (status.namespace_pids.last(), living == status.process) {
        (Some(&own), true) => own,
        // Of the process, not of the thread through which it is seen.
        (Some(_), false) => *status::read(status.process).ok()?.namespace_pids.last()?,
        (None, _) => status.process.0,
    };
    let path = format!("/tmp/perf-{own_pid}.map");
    let file = rooted_file::open(living, Path::new(&path)).ok()?;
    JitFile::new(file, JitSource::PerfMap)
}

/// A process that writes a jitdump maps its first page as code, so that it is noticed
/// (tools/perf/Documentation/jitdump-specification.txt).
pub(super) fn is_jitdump(mapping: &Mapping) -> bool {
    let name = mapping.path().and_then(Path::file_name);
    let is_named = |name: &str| name.starts_with("jit-") && name.ends_with(".dump");
    mapping.executable && name.is_some_and(|name| is_named(&name.to_string_lossy()))
}

fn open_jitdump(living: Pid, mapping: &Mapping) -> Option<JitFile> {
    let file = target_file::open(living, mapping).ok()?.file;
    rooted_file::check_owner(living, &file).ok()?;
    JitFile::new(file, JitSource::JitDump)
}

/// A code that a file names, before it is known when it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedCode {
    start: u64,
    size: u64,
    source: JitSource,
    name: String,
    files: Vec<String>,
    lines: Vec<crate::profile::JitLine>,
}

/// How long a name is kept, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// `bytes` as a name: as much of it as is kept, with what is no text replaced, as a terminal might obey it.
fn name_of(bytes: &[u8]) -> String {
    let kept = bytes.get(..NAME_BYTES_MAX).unwrap_or(bytes);
    let text = |c: char| match c.is_control() {
        true => char::REPLACEMENT_CHARACTER,
        false => c,
    };
    String::from_utf8_lossy(kept).chars().map(text).collect()
}
