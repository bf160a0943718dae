//! The memory of a live process.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use sampler_unwind::{Avma, MemoryReader, ReadError};

use super::abilities::{Abilities, MemoryWay};
use super::ptrace;
use super::stopped_thread::StoppedThread;
use crate::{Pid, Tid};

/// How many regions one call reads: as many as the kernel takes without allocating (`UIO_FASTIOV`, linux/uio.h).
pub const REGIONS_MAX: usize = 8;

/// The smallest page of any architecture here. Only a granularity to look for the end of what is mapped.
const PAGE_BYTES: u64 = 4096;

/// Reads a process's memory, whether it is stopped or runs. Needs the right to trace it.
///
/// By process_vm_readv(2); where that does not exist or is forbidden (Docker before 2021 had a filter that allowed
/// ptrace and not this), for good by reading `/proc/PID/mem`. Neither allocates. Where that is not to be had either,
/// only a thread that stands still can be read, word by word: [`ProcessMemory::through`].
#[derive(Debug)]
pub struct ProcessMemory {
    pid: Pid,
    /// The way it is read, as a position in [`WAYS`]: from there on only downwards.
    way: AtomicU8,
    /// A thread of it that stands still; zero when none does.
    through: AtomicI32,
    /// `/proc/PID/mem`. Belongs to the program that ran when it was opened, and is opened again after an exec.
    file: Mutex<Option<File>>,
}

/// From the best to the last resort.
const WAYS: [MemoryWay; 3] = [MemoryWay::Call, MemoryWay::File, MemoryWay::Words];

/// While it lives, a [`ProcessMemory`] is read through a thread that stands still, where there is no other way.
#[derive(Debug)]
pub struct Through<'a>(&'a ProcessMemory);

impl Drop for Through<'_> {
    fn drop(&mut self) {
        self.0.through.store(0, Ordering::Relaxed);
    }
}

impl ProcessMemory {
    /// Nothing is opened or read yet, so nothing can fail yet. A thread's number serves as well as its process's.
    pub fn new(pid: Pid) -> Self {
        let memory = Self {
            pid,
            way: AtomicU8::new(0),
            through: AtomicI32::new(0),
            file: Mutex::new(None),
        };
        memory.descend_to(Abilities::here().memory_way().unwrap_or(MemoryWay::Words));
        memory
    }

    /// How it is read, as far as that is known: by the best way that has not been refused.
    pub fn way(&self) -> MemoryWay {
        let way = WAYS.get(usize::from(self.way.load(Ordering::Relaxed)));
        way.copied().unwrap_or(MemoryWay::Words)
    }

    fn descend_to(&self, way: MemoryWay) {
        let position = (0u8..).zip(WAYS).find(|(_, other)| *other == way);
        self.way
            .store(position.map_or(0, |(at, _)| at), Ordering::Relaxed);
    }

    /// For as long as the answer lives, reads go through `stopped`, one of the process's threads, where words are the
    /// only way. Without it they find [`ReadError::NotCopied`] there.
    pub fn through<'a>(&'a self, stopped: &'a StoppedThread) -> Through<'a> {
        self.through.store(stopped.tid().0, Ordering::Relaxed);
        Through(self)
    }

    /// Whose memory it is.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Reads several regions with one system call where possible, and says for each how many bytes from its start on
    /// could be read; zero where not even the first.
    ///
    /// # Errors
    /// [`ReadError::Gone`] and [`ReadError::Denied`], which concern all regions.
    pub fn read_regions<const N: usize>(
        &self,
        mut regions: [(Avma, &mut [u8]); N],
    ) -> Result<[usize; N], ReadError> {
        const { assert!(N <= REGIONS_MAX) };
        let mut lengths = [0; N];
        self.read_in_turn(&mut regions, &mut lengths)?;
        Ok(lengths)
    }

    /// As [`ProcessMemory::read_regions`], of up to [`REGIONS_MAX`] regions.
    fn read_in_turn(
        &self,
        regions: &mut [(Avma, &mut [u8])],
        lengths: &mut [usize],
    ) -> Result<(), ReadError> {
        let mut first = 0;
        // Each turn finishes at least one region: a call ends where something is not mapped.
        while let Some(rest) = regions
            .get_mut(first..)
            .filter(|regions| !regions.is_empty())
        {
            let done = match self.way() {
                MemoryWay::Call => self.read_some(rest).unwrap_or(0),
                MemoryWay::File | MemoryWay::Words => 0,
            };
            let finished = share_out(done, rest, &mut lengths[first..]);
            first += finished;
            if finished == 0 {
                let (at, into) = &mut regions[first];
                lengths[first] = or_unmapped(self.read(*at, into))?;
                first += 1;
            }
        }
        Ok(())
    }

    /// One call for all of `regions`; the bytes that could be read before the first that could not.
    fn read_some(&self, regions: &mut [(Avma, &mut [u8])]) -> Result<usize, Errno> {
        const NOTHING: RemoteIoVec = RemoteIoVec { base: 0, len: 0 };
        let count = regions.len();
        let mut remote = [NOTHING; REGIONS_MAX];
        let mut local: [IoSliceMut<'_>; REGIONS_MAX] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for (((at, into), remote), local) in regions.iter_mut().zip(&mut remote).zip(&mut local) {
            *remote = remote_region(*at, into.len());
            *local = IoSliceMut::new(into);
        }
        let pid = nix::unistd::Pid::from_raw(self.pid.0);
        process_vm_readv(pid, &mut local[..count], &remote[..count])
    }

    fn read_by_call(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let answer = match self.read_some(&mut [(at, &mut *into)]) {
            // Before some version the kernel copied nothing when the end of the region was not mapped.
            Err(Errno::EFAULT) => self.read_page_by_page(at, into),
            answer => answer,
        };
        match answer {
            Ok(0) | Err(Errno::EFAULT | Errno::EINVAL) => Err(ReadError::Unmapped(at)),
            Ok(bytes) => Ok(bytes),
            Err(Errno::ESRCH) => Err(ReadError::Gone(at)),
            Err(_refused) => Err(ReadError::Denied(at)),
        }
    }

    fn read_page_by_page(&self, at: Avma, into: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while let Some(next) = at.checked_add(done as u64).filter(|_| done < into.len()) {
            let to_page_end = usize::try_from(PAGE_BYTES - next.0 % PAGE_BYTES).unwrap_or(1);
            let end = into.len().min(done + to_page_end);
            match self.read_some(&mut [(next, &mut into[done..end])]) {
                Ok(bytes) if bytes > 0 => done += bytes,
                Ok(_) | Err(_) if done > 0 => break,
                answer => return answer,
            }
        }
        Ok(done)
    }

    fn read_by_file(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Once for the file that is open, once for a fresh one.
        for _ in 0..2 {
            let file = match &mut *slot {
                Some(file) => file,
                empty => {
                    let path = format!("/proc/{}/mem", self.pid);
                    empty.insert(File::open(path).map_err(|error| open_error(&error, at))?)
                }
            };
            match file.read_at(into, at.0) {
                // The program whose memory this was has ended, or has executed another.
                Ok(0) => *slot = None,
                Ok(bytes) => return Ok(bytes),
                Err(error) => return Err(file_error(&error, at)),
            }
        }
        Err(ReadError::Gone(at))
    }

    fn read_by_words(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        const WORD_BYTES: usize = size_of::<u64>();
        let tid = match self.through.load(Ordering::Relaxed) {
            0 => return Err(ReadError::NotCopied(at)),
            tid => Tid(tid),
        };
        let mut done = 0;
        while let Some(next) = at.checked_add(done as u64).filter(|_| done < into.len()) {
            // Aligned, so that no word reaches into a page of which nothing is wanted.
            let skip = usize::try_from(next.0 % WORD_BYTES as u64).unwrap_or(0);
            let word = match ptrace::peek_word(tid, next.0 - skip as u64) {
                Ok(word) => word,
                Err(Errno::ESRCH) if done == 0 => return Err(ReadError::Gone(at)),
                Err(Errno::EPERM) if done == 0 => return Err(ReadError::Denied(at)),
                Err(_) if done == 0 => return Err(ReadError::Unmapped(at)),
                Err(_) => break,
            };
            let wanted = word.get(skip..).unwrap_or_default();
            let bytes = wanted.len().min(into.len() - done);
            into[done..done + bytes].copy_from_slice(&wanted[..bytes]);
            done += bytes;
        }
        Ok(done)
    }
}

impl MemoryReader for ProcessMemory {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.way() == MemoryWay::Call {
            match self.read_by_call(at, into) {
                Err(ReadError::Denied(_)) => self.descend_to(MemoryWay::File),
                answer => return answer,
            }
        }
        if self.way() == MemoryWay::File {
            match self.read_by_file(at, into) {
                Err(ReadError::Denied(_)) if self.through.load(Ordering::Relaxed) != 0 => {
                    self.descend_to(MemoryWay::Words);
                }
                answer => return answer,
            }
        }
        self.read_by_words(at, into)
    }

    fn read_each(&self, regions: &mut [(Avma, &mut [u8])], copied: &mut [usize]) {
        let copied = copied.chunks_mut(REGIONS_MAX);
        for (regions, copied) in regions.chunks_mut(REGIONS_MAX).zip(copied) {
            // A process that is gone or closed to us has no memory to give: nothing is what was copied.
            if self.read_in_turn(regions, copied).is_err() {
                break;
            }
        }
    }
}

fn remote_region(at: Avma, len: usize) -> RemoteIoVec {
    match usize::try_from(at.0) {
        Ok(base) => RemoteIoVec { base, len },
        // On a 32-bit machine no process has such an address.
        Err(_) => RemoteIoVec { base: 0, len },
    }
}

/// Notes for each of `regions` how much of the `done` bytes belong to it, and says how many regions are finished:
/// filled, or read up to where they end to be mapped.
fn share_out(mut done: usize, regions: &[(Avma, &mut [u8])], lengths: &mut [usize]) -> usize {
    let mut finished = 0;
    for ((_, into), length) in regions.iter().zip(lengths) {
        *length = done.min(into.len());
        done -= *length;
        if *length == 0 && !into.is_empty() {
            break;
        }
        finished += 1;
    }
    finished
}

fn or_unmapped(answer: Result<usize, ReadError>) -> Result<usize, ReadError> {
    match answer {
        Err(ReadError::Unmapped(_)) => Ok(0),
        answer => answer,
    }
}

fn open_error(error: &io::Error, at: Avma) -> ReadError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => ReadError::Gone(at),
        _ => ReadError::Denied(at),
    }
}

fn file_error(error: &io::Error, at: Avma) -> ReadError {
    match error.raw_os_error() {
        Some(libc::ESRCH) => ReadError::Gone(at),
        Some(libc::EACCES | libc::EPERM) => ReadError::Denied(at),
        // EIO: not mapped. EINVAL: an address that is negative as a file offset.
        _ => ReadError::Unmapped(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::{Mapped, Target, own_pid};

    fn address_of<T: ?Sized>(value: &T) -> Avma {
        Avma(std::ptr::from_ref(value).cast::<u8>() as usize as u64)
    }

    /// The ways to read ourselves, which must answer the same.
    fn check(test: impl Fn(&ProcessMemory)) {
        let memory = ProcessMemory::new(own_pid());
        test(&memory);
        assert_eq!(
            memory.way(),
            MemoryWay::Call,
            "process_vm_readv was refused here"
        );
        memory.descend_to(MemoryWay::File);
        test(&memory);
        assert_eq!(
            memory.way(),
            MemoryWay::File,
            "/proc/PID/mem was refused here"
        );
    }

    #[test]
    fn reads_what_is_there() {
        let value = *b"some bytes of ours";
        check(|memory| {
            let mut into = [0; 18];
            assert_eq!(memory.read(address_of(&value), &mut into), Ok(18));
            assert_eq!(into, value);
            assert_eq!(memory.read(address_of(&value), &mut []), Ok(0));
        });
    }

    #[test]
    fn ends_where_nothing_is_mapped() {
        let mapped = Mapped::with_a_hole_behind(2);
        let start = mapped.start();
        check(|memory| {
            let mut into = [1; 3 * 4096];
            assert_eq!(
                memory.read(Avma(start.0 + 10), &mut into),
                Ok(2 * 4096 - 10)
            );
            let hole = Avma(start.0 + 2 * 4096);
            assert_eq!(memory.read(hole, &mut into), Err(ReadError::Unmapped(hole)));
            for far in [0, 1 << 63, u64::MAX - 7, u64::MAX] {
                let far = Avma(far);
                assert_eq!(memory.read(far, &mut into), Err(ReadError::Unmapped(far)));
            }
        });
    }

    #[test]
    fn page_by_page_finds_the_same_end() {
        let mapped = Mapped::with_a_hole_behind(2);
        let memory = ProcessMemory::new(own_pid());
        let at = Avma(mapped.start().0 + 10);
        assert_eq!(
            memory.read_page_by_page(at, &mut [0; 3 * 4096]),
            Ok(2 * 4096 - 10)
        );
    }

    #[test]
    fn regions_are_read_whatever_lies_between_them() {
        let mapped = Mapped::with_a_hole_behind(1);
        let (start, value) = (mapped.start(), [7u8; 16]);
        let hole = Avma(start.0 + 4096);
        check(|memory| {
            let [mut a, mut b, mut c, mut d, mut e] = [[1; 16]; 5];
            let lengths = memory.read_regions([
                (address_of(&value), &mut a[..]),
                (hole, &mut b[..]),
                (Avma(hole.0 - 4), &mut c[..]),
                (Avma(hole.0 - 16), &mut d[..]),
                (address_of(&value), &mut e[..]),
            ]);
            assert_eq!(lengths, Ok([16, 0, 4, 16, 16]));
            assert_eq!((a, e), (value, value));
        });
        assert_eq!(ProcessMemory::new(own_pid()).read_regions([]), Ok([]));
    }

    #[test]
    fn a_process_that_has_ended_is_gone() {
        let target = Target::pausing();
        let by_call = ProcessMemory::new(target.pid());
        let by_file = ProcessMemory::new(target.pid());
        by_file.descend_to(MemoryWay::File);
        let value = 0x1234_5678_u64;
        let at = address_of(&value);
        // The target is a copy of this process, so our variable lies in it, too.
        assert_eq!(by_file.read(at, &mut [0; 8]), Ok(8));
        target.end();
        for memory in [by_call, by_file] {
            assert_eq!(memory.read(at, &mut [0; 8]), Err(ReadError::Gone(at)));
            assert_eq!(
                memory.read_regions([(at, &mut [0; 8][..])]),
                Err(ReadError::Gone(at))
            );
        }
    }

    #[test]
    fn words_are_read_of_a_thread_that_stands_still_and_of_no_other() {
        let value = *b"some bytes of ours, of which there is a copy in the target";
        let mapped = Mapped::with_a_hole_behind(1);
        let target = Target::pausing();
        let memory = ProcessMemory::new(target.pid());
        memory.descend_to(MemoryWay::Words);
        let mut into = [0; 29];
        let at = Avma(address_of(&value).0 + 3);
        assert_eq!(memory.read(at, &mut into), Err(ReadError::NotCopied(at)));
        let second = std::time::Duration::from_secs(1);
        let stopped = crate::linux::stop(target.pid(), target.tid(), second, second).unwrap();
        let through = memory.through(&stopped);
        assert_eq!(memory.read(at, &mut into), Ok(29));
        assert_eq!(into[..], value[3..32]);
        let hole = Avma(mapped.start().0 + 4096);
        assert_eq!(memory.read(Avma(hole.0 - 13), &mut into), Ok(13));
        assert_eq!(memory.read(hole, &mut into), Err(ReadError::Unmapped(hole)));
        drop(through);
        stopped.detach().unwrap();
        assert_eq!(memory.read(at, &mut into), Err(ReadError::NotCopied(at)));
    }
}
