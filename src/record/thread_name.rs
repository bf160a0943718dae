//! What a thread is called: by the kernel, and by the runtime that executes its scripts.
//!
//! Runtimes have names of their own for threads, and many never tell the kernel: then all threads of a process are called
//! like its first one, who was called like the program. The runtime's name is shown where the kernel's says nothing. One
//! that somebody has given a thread on purpose says something, and is what other tools show.

/// How long after a runtime was first asked for a thread's name it is asked again, in nanoseconds; then twice as long, and
/// so on. Threads are mostly named when they begin.
const PAUSE_NS_MIN: u64 = 500_000_000;
/// How long that comes to be at most, in nanoseconds.
const PAUSE_NS_MAX: u64 = 16_000_000_000;

/// What a thread is called.
#[derive(Debug)]
pub(super) struct ThreadName {
    kernel: String,
    /// The kernel's name says no more than the runtime's says, or has said.
    is_told_by_runtime: bool,
    runtime: Option<String>,
    shows_runtime: bool,
    asking: Asking,
}

/// When the runtime is asked for its name of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// Never: it has not been seen in one.
    Never,
    /// From this time on.
    From {
        due_ns: u64,
        /// How long it is left alone after that.
        pause_ns: u64,
    },
}

impl ThreadName {
    /// That of a thread that the kernel calls `kernel`.
    pub(super) fn new(kernel: String) -> Self {
        Self {
            kernel,
            is_told_by_runtime: false,
            runtime: None,
            shows_runtime: false,
            asking: Asking::Never,
        }
    }

    /// What it is shown as.
    pub(super) fn shown(&self) -> &str {
        match &self.runtime {
            Some(runtime) if self.shows_runtime => runtime,
            Some(_) | None => &self.kernel,
        }
    }

    /// What the kernel calls it: at most 15 bytes.
    pub(super) fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The kernel calls it `name`.
    pub(super) fn set_kernel(&mut self, name: String) {
        self.kernel = name;
        self.is_told_by_runtime = false;
    }

    /// Its runtime calls it `name`.
    pub(super) fn set_runtime(&mut self, name: String) {
        self.runtime = Some(name);
    }

    /// Chooses between both. `is_of_process` says whether a name is one that threads of the process have without being
    /// given one.
    pub(super) fn choose(&mut self, is_of_process: impl FnOnce(&str) -> bool) {
        let runtime = self.runtime.as_ref();
        self.is_told_by_runtime |= runtime.is_some_and(|name| is_beginning(&self.kernel, name));
        self.shows_runtime = self.is_told_by_runtime || is_of_process(&self.kernel);
    }

    /// It was seen in a runtime. Says whether that is to be asked what it calls it, which was never done.
    pub(super) fn met_runtime(&mut self) -> bool {
        let is_first = self.asking == Asking::Never;
        if is_first {
            self.asking = Asking::From {
                due_ns: 0,
                pause_ns: PAUSE_NS_MIN,
            };
        }
        is_first
    }

    /// Whether the runtime is to be asked.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        matches!(self.asking, Asking::From { due_ns, .. } if due_ns <= now_ns)
    }

    /// The runtime is being asked.
    pub(super) fn asked(&mut self, now_ns: u64) {
        if let Asking::From { due_ns, pause_ns } = &mut self.asking {
            *due_ns = now_ns.saturating_add(*pause_ns);
            *pause_ns = pause_ns.saturating_mul(2).min(PAUSE_NS_MAX);
        }
    }
}

/// Whether the kernel's name is the beginning of the runtime's: runtimes that tell the kernel have it cut.
fn is_beginning(kernel: &str, runtime: &str) -> bool {
    // What is left of a character that was cut through.
    let kernel = kernel.trim_end_matches(char::REPLACEMENT_CHARACTER);
    runtime.starts_with(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kernel: &str, runtime: &str, expected: &str) {
        let mut name = ThreadName::new(kernel.to_owned());
        assert_eq!(name.shown(), kernel);
        name.set_runtime(runtime.to_owned());
        name.choose(is_of_process);
        assert_eq!(name.shown(), expected);
    }

    fn is_of_process(name: &str) -> bool {
        name == "python3"
    }

    #[test]
    fn a_name_that_says_nothing_gives_way() {
        check("python3", "writer of pages", "writer of pages");
        check("python3", "Thread-1 (work)", "Thread-1 (work)");
        check("", "writer", "writer");
    }

    #[test]
    fn what_the_kernel_has_cut_is_whole() {
        check(
            "writer of pages",
            "writer of pages of books",
            "writer of pages of books",
        );
        check(
            "Schreiber f\u{fffd}",
            "Schreiber für ältere",
            "Schreiber für ältere",
        );
        check("writer", "writer", "writer");
    }

    #[test]
    fn a_name_given_on_purpose_stays() {
        check("io-7", "Thread-1 (work)", "io-7");
        check("io-7", "writer", "io-7");
    }

    /// A runtime tells the kernel only when the thread itself is what names it.
    #[test]
    fn what_a_runtime_has_told_the_kernel_is_not_on_purpose() {
        let mut name = ThreadName::new("writer".to_owned());
        name.set_runtime("writer".to_owned());
        name.choose(is_of_process);
        name.set_runtime("reader".to_owned());
        name.choose(is_of_process);
        assert_eq!(name.shown(), "reader");
        name.set_kernel("io-7".to_owned());
        name.choose(is_of_process);
        assert_eq!(name.shown(), "io-7");
    }

    #[test]
    fn a_runtime_is_asked_when_it_is_met_and_then_ever_more_seldom() {
        const SECOND_NS: u64 = 1_000_000_000;
        let mut name = ThreadName::new(String::new());
        assert!(!name.is_due(u64::MAX));
        assert!(name.met_runtime() && !name.met_runtime());
        let mut asked = Vec::new();
        for now_ns in (0..100 * SECOND_NS).step_by(250_000_000) {
            if name.is_due(now_ns) {
                name.asked(now_ns);
                asked.push(now_ns / 100_000_000);
            }
        }
        assert_eq!(asked, [0, 5, 15, 35, 75, 155, 315, 475, 635, 795, 955]);
    }
}
