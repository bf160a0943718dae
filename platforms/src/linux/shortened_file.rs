//! What happens when a file becomes shorter than it was when it was mapped.
//!
//! To touch a mapped page that the file no longer reaches raises SIGBUS, which ends the process (mmap(2)). A target can
//! shorten its own files at any moment, also those that we have mapped, so we would die with it. The other ways were
//! weighed: a copy costs hundreds of megabytes for one file; reading by pread(2) what is needed would make a system
//! call of each step of a walk, and a library that looks names up maps its files itself. So the fault is handled: from
//! the page on that is not there to the end of its mapping, zeros are put in the place of the file. To its readers that
//! is a damaged file, and they are made for those.
//!
//! Only mappings that no process of ours executes from or writes to are treated so: shared, and readable alone, as
//! [`MappedFile`](crate::MappedFile) and `memmap2` make them. Any other SIGBUS goes where it went before.

use std::io;
use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

/// The smallest page.
const PAGE_MASK: usize = 0xfff;

/// How much of a line of /proc/self/maps is looked at: it ends before the path.
const LINE_BYTES: usize = 96;

/// How much of /proc/self/maps is read in one go: on the stack of whoever touched the page.
const CHUNK_BYTES: usize = 1024;

/// What was done with SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// How many mappings have lost their end.
static SHORTENED: AtomicU64 = AtomicU64::new(0);

/// How often it was noticed by now that a mapped file had become shorter. Where this grows while a file is read, what
/// was read of it may have been zeros.
pub fn shortened_files() -> u64 {
    SHORTENED.load(Ordering::Relaxed)
}

/// From now on this process outlives it when files become shorter that it has mapped.
///
/// # Errors
/// What sigaction(2) answers.
pub(crate) fn outlive() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let answer = INSTALLED.get_or_init(|| {
        // SAFETY: sigaction is plain data for which zeroes are valid.
        let mut before: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: the new action is not given, the old one is ours to write.
        let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) };
        Errno::result(asked).map_err(|errno| errno as i32)?;
        // Known before the handler may need it.
        BEFORE.get_or_init(|| before);
        // SAFETY: as above: an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = handle as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler makes system calls and touches its own stack and atomics alone, so it may run at any
        // point; `action` is only read.
        let answer = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
        Errno::result(answer)
            .map(drop)
            .map_err(|errno| errno as i32)
    });
    answer.map_err(io::Error::from_raw_os_error)
}

/// Runs where a page was touched that is not there. When it returns, the page is touched again.
extern "C" fn handle(_signal: i32, information: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let errno = Errno::last();
    // SAFETY: the kernel hands a valid siginfo_t to a handler with SA_SIGINFO, and nobody else has it.
    let information = unsafe { &*information };
    // SAFETY: this is read of it only for a SIGBUS that a fault raised, which has an address.
    let at = || unsafe { information.si_addr() } as usize;
    if information.si_code != libc::BUS_ADRERR || !put_zeros(at()) {
        give_up();
    }
    errno.set();
}

/// Puts zeros in the place of the page at `at` and of all that follow in its mapping. `false` where that is none of the
/// mappings meant.
fn put_zeros(at: usize) -> bool {
    match find_mapping(at) {
        Some((_, Kind::Zeros)) => true, // another thread was faster
        Some((range, Kind::File)) => {
            let start = at & !PAGE_MASK;
            // SAFETY: these addresses belong to a read-only mapping of a file, from a page on that cannot be touched;
            // no reference to it can have been read through. See mmap(2).
            let answer = unsafe {
                libc::mmap(
                    start as *mut libc::c_void,
                    range.end - start,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            let is_done = answer != libc::MAP_FAILED;
            SHORTENED.fetch_add(u64::from(is_done), Ordering::Relaxed);
            is_done
        }
        None => false,
    }
}

/// SIGBUS does again what it did before; it will be raised once more, as the page is touched once more.
fn give_up() {
    if let Some(before) = BEFORE.get() {
        // SAFETY: `before` is what sigaction(2) said. It cannot fail for a signal that it was asked for.
        unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    }
}

/// What a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file, mapped as [`crate::MappedFile`] does it.
    File,
    /// Memory without a file that can only be read.
    Zeros,
}

/// The mapping of ours that `at` lies in, if it is of either kind. Allocates nothing.
fn find_mapping(at: usize) -> Option<(Range<usize>, Kind)> {
    // SAFETY: the path is a text that ends with a zero; nothing else is read.
    let file = unsafe {
        libc::open(
            c"/proc/self/maps".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    if file < 0 {
        return None;
    }
    let mut search = Search::new(at);
    let mut chunk = [0u8; CHUNK_BYTES];
    let found = loop {
        // SAFETY: `chunk` is ours and has the size that is said.
        let bytes = unsafe { libc::read(file, chunk.as_mut_ptr().cast(), chunk.len()) };
        match usize::try_from(bytes) {
            Ok(0) => break None,
            Ok(bytes) => {
                if let Some(found) = search.feed(chunk.get(..bytes).unwrap_or_default()) {
                    break found;
                }
            }
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => break None,
        }
    };
    // SAFETY: `file` was opened here, and nobody else knows it.
    unsafe { libc::close(file) };
    found
}

/// Looks for an address in /proc/PID/maps, as it comes in pieces.
#[derive(Debug)]
struct Search {
    at: usize,
    /// The beginning of the line that has not come to its end.
    line: [u8; LINE_BYTES],
    /// How much of it is used.
    used: usize,
}

impl Search {
    fn new(at: usize) -> Self {
        Self {
            at,
            line: [0; LINE_BYTES],
            used: 0,
        }
    }

    /// `Some` once the line was there that has the address, or when none can follow; with `None` in it where that is of
    /// another kind.
    fn feed(&mut self, text: &[u8]) -> Option<Option<(Range<usize>, Kind)>> {
        for &byte in text {
            if byte != b'\n' {
                if let Some(slot) = self.line.get_mut(self.used) {
                    *slot = byte;
                    self.used += 1;
                }
                continue;
            }
            let line = self.line.get(..self.used).unwrap_or_default();
            let parsed = parse_line(line);
            self.used = 0;
            match parsed {
                Some((range, kind)) if range.contains(&self.at) => {
                    return Some(kind.map(|kind| (range, kind)));
                }
                // They are in order.
                Some((range, _)) if range.start > self.at => return Some(None),
                Some(_) | None => {}
            }
        }
        None
    }
}

/// `START-END PERMISSIONS OFFSET DEVICE INODE …` (proc_pid_maps(5)).
fn parse_line(line: &[u8]) -> Option<(Range<usize>, Option<Kind>)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let range = fields.next()?;
    let dash = range.iter().position(|&byte| byte == b'-')?;
    let (start, end) = range.split_at_checked(dash)?;
    let range = hexadecimal(start)?..hexadecimal(end.get(1..)?)?;
    let permissions = fields.next()?;
    let inode = fields.nth(2)?;
    let kind = match (permissions, inode) {
        (b"r--p", b"0") => Some(Kind::Zeros),
        (b"r--s", b"0") => None,
        (b"r--s", _) => Some(Kind::File),
        _ => None,
    };
    Some((range, kind))
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0usize, |value, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        value.checked_mul(16)?.checked_add(digit as usize)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;
    use crate::MappedFile;

    const PAGE: usize = PAGE_MASK + 1;

    fn file_of(pages: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; pages * PAGE]).unwrap();
        file
    }

    /// What is mapped, after the file was cut to `bytes`.
    fn expect(mapped: &MappedFile, bytes: usize) {
        let (kept, gone) = mapped.as_ref().split_at(bytes);
        assert!(kept.iter().all(|&byte| byte == 7));
        assert!(gone.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_a_file_no_longer_has_is_zeros() {
        for (left, whole) in [(0, 1), (PAGE + 10, 64), (63 * PAGE, 64)] {
            let file = file_of(whole);
            let (mapped, other) = (MappedFile::map(&file).unwrap(), file_of(2));
            let untouched = MappedFile::map(&other).unwrap();
            assert_eq!(mapped.as_ref().last(), Some(&7));
            file.set_len(left as u64).unwrap();
            let before = shortened_files();
            // From its end, so that it happens once for each page, and from its start, once for all.
            assert_eq!(mapped.as_ref().last(), Some(&0));
            assert!(shortened_files() > before);
            expect(&mapped, left);
            expect(&untouched, 2 * PAGE);
        }
    }

    #[test]
    fn threads_that_meet_it_together_go_on() {
        const THREADS: usize = 4;
        let file = file_of(256);
        let mapped = MappedFile::map(&file).unwrap();
        file.set_len(PAGE as u64).unwrap();
        let together = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    together.wait();
                    expect(&mapped, PAGE);
                });
            }
        });
    }

    #[test]
    fn a_mapping_is_found_whatever_pieces_its_line_comes_in() {
        let text =
            b"1000-2000 r--s 00000000 08:01 12   /a path\n2000-3000 r-xp 00000000 08:01 12 /b\n\
            5000-6000 r--p 00000000 00:00 0 \n7000-8000 r--s 00000000 00:01 0 \n";
        for piece in 1..text.len() {
            let find = |at| {
                let mut search = Search::new(at);
                text.chunks(piece).find_map(|piece| search.feed(piece))
            };
            assert_eq!(find(0x1fff), Some(Some((0x1000..0x2000, Kind::File))));
            assert_eq!(find(0x5000), Some(Some((0x5000..0x6000, Kind::Zeros))));
            let others = [0, 0x2000, 0x4000, 0x7000];
            assert!(others.into_iter().all(|at| find(at) == Some(None)));
            assert_eq!(find(0x8000), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in prop::collection::vec(any::<u8>(), 0..500), at: usize) {
            let _ = Search::new(at).feed(&text);
        }
    }
}
