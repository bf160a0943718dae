//! Mapped files that somebody shortens: to touch what is gone raises SIGBUS (mmap(2)), which would end us in the middle
//! of a recording. Here it gets a page of zeros instead.

use std::io;
use std::mem;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;

/// How many files can be mapped at once.
const MAPPED_MAX: usize = 1 << 14;

/// Where a file is mapped: from its first byte to behind its last one. The first is 0 for no file, and [`TAKEN`] while
/// it is being written; a handler of signals reads them, so there is no lock.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
}

/// The place of a file whose addresses are not there yet. Nothing is ever mapped at it.
const TAKEN: usize = 1;

static SLOTS: [Slot; MAPPED_MAX] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
    }
}; MAPPED_MAX];

/// So many of them were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Whoever had the signal before.
static PREVIOUS: PreviousAction = PreviousAction(std::sync::OnceLock::new());

struct PreviousAction(std::sync::OnceLock<libc::sigaction>);

// SAFETY: a sigaction is plain data, among it the address of a function, and is not written to once it is there.
unsafe impl Sync for PreviousAction {}

/// A stretch of memory in which SIGBUS is answered with zeros; no longer once this is dropped.
#[derive(Debug)]
pub(crate) struct Guarded {
    slot: usize,
}

/// Answers SIGBUS in the `length` bytes from `start` on.
///
/// # Errors
/// When there are too many such stretches, or the signal cannot be had.
pub(crate) fn guard(start: usize, length: usize) -> io::Result<Guarded> {
    install()?;
    let free = SLOTS.iter().position(|slot| {
        let taken = slot
            .start
            .compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    });
    let slot = free.ok_or_else(|| io::Error::other("too many files are mapped"))?;
    SLOTS[slot]
        .end
        .store(start.saturating_add(length), Ordering::Release);
    SLOTS[slot].start.store(start, Ordering::Release);
    USED.fetch_max(slot + 1, Ordering::AcqRel);
    Ok(Guarded { slot })
}

impl Drop for Guarded {
    fn drop(&mut self) {
        SLOTS[self.slot].start.store(0, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    static ERROR: AtomicUsize = AtomicUsize::new(0);
    INSTALL.call_once(|| {
        if let Err(error) = handle() {
            let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
            ERROR.store(usize::try_from(errno).unwrap_or(1), Ordering::Relaxed);
        }
    });
    match ERROR.load(Ordering::Relaxed) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(
            i32::try_from(errno).unwrap_or(libc::EINVAL),
        )),
    }
}

fn handle() -> io::Result<()> {
    // SAFETY: sigaction is plain data for which zeroes are valid.
    let mut previous: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: `previous` is ours and writable for the length of the call; nothing is set.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Before the handler is there, which reads it.
    let _only_once = PREVIOUS.0.set(previous);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    action.sa_sigaction = handler as libc::sighandler_t;
    // On the stack that std has for its own handler.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler makes system calls and reads atomic numbers and what was written before it was there.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a valid siginfo_t, which lives until the handler returns.
    let info = unsafe { &*info };
    let code = info.si_code;
    // SAFETY: of a signal that a process has sent the field holds something else, which is not looked at.
    let at = unsafe { info.si_addr() } as usize;
    // By the kernel, for an address: codes above 0 (sigaction(2)).
    if code > 0 && is_guarded(at) && put_zeros(at) {
        return;
    }
    if let Some(previous) = PREVIOUS.0.get() {
        // SAFETY: it is what the kernel had given us. The access that failed is repeated then, and is its business.
        unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
    }
    if code <= 0 {
        // SAFETY: takes a number; nothing would be repeated of a signal that somebody has sent.
        unsafe { libc::raise(signal) };
    }
}

fn is_guarded(at: usize) -> bool {
    let used = USED.load(Ordering::Acquire).min(MAPPED_MAX);
    SLOTS.iter().take(used).any(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        start > TAKEN && start <= at && at < page_end(slot.end.load(Ordering::Acquire))
    })
}

/// The smallest page of any architecture here; where pages are larger, the address of one is a multiple of this too.
const PAGE_BYTES: usize = 4096;

fn page_end(end: usize) -> usize {
    end.checked_next_multiple_of(PAGE_BYTES)
        .unwrap_or(usize::MAX)
}

/// Maps zeros in the place of the page at `at`. Keeps errno: the code that is interrupted may be about to read it.
fn put_zeros(at: usize) -> bool {
    // SAFETY: takes a number. Unlike most functions it may be called in a handler in practice: it looks into a table.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).unwrap_or(PAGE_BYTES).max(PAGE_BYTES);
    let errno = Errno::last_raw();
    // SAFETY: the page is part of a mapping of ours that nothing was or will be written to, and reads as zeros from now
    // on. It is released with that mapping.
    let mapped = unsafe {
        libc::mmap(
            (at - at % page) as *mut libc::c_void,
            page,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    Errno::set_raw(errno);
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use crate::MappedFile;
    use std::io::Write as _;

    #[test]
    fn what_was_cut_off_a_mapped_file_reads_as_zeros() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 * 4096 + 5]).unwrap();
        let mapped = MappedFile::map(&file).unwrap();
        let bytes = mapped.as_ref();
        assert!(bytes.iter().all(|byte| *byte == 7));
        file.set_len(4096).unwrap();
        assert_eq!((bytes[0], bytes[4095]), (7, 7));
        assert!(bytes[4096..].iter().all(|byte| *byte == 0));
        assert_eq!(bytes.len(), 3 * 4096 + 5);
        // Another one in its place is as good as new.
        drop(mapped);
        file.set_len(0).unwrap();
        file.set_len(4096).unwrap();
        assert_eq!(MappedFile::map(&file).unwrap().as_ref().len(), 4096);
    }
}
