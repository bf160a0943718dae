//! The JSON of `sampler dump`, as types: what a test asks of a stack.

use std::cell::Cell;

use serde::Deserialize;

use crate::{Done, Sampler, Target};

/// The stacks of a process.
#[derive(Debug, Default, Deserialize)]
pub struct Dump {
    /// Threads that are at the same place.
    pub groups: Vec<Group>,
}

/// Threads that are at the same place.
#[derive(Debug, Deserialize)]
pub struct Group {
    /// How many.
    pub count: usize,
    /// What they do.
    pub state: String,
    /// Whether the stack reaches its outermost frame.
    pub complete: bool,
    /// Innermost first.
    pub frames: Vec<DumpFrame>,
}

/// A frame of a dump.
#[derive(Debug, Deserialize)]
pub struct DumpFrame {
    /// Its function, or what stands for it.
    pub function: String,
    /// The file name of its module.
    pub module: Option<String>,
    /// Whether it was inlined into the next one.
    pub inlined: bool,
}

/// Libraries of the distribution: what their functions are called depends on which debug packages are installed.
const OF_THE_DISTRIBUTION: [&str; 5] = [
    "ld-linux",
    "libc.so",
    "libgcc_s.so",
    "libm.so",
    "libstdc++.so",
];

impl Dump {
    /// What a dump printed.
    ///
    /// # Panics
    /// When it is not what is promised.
    #[track_caller]
    pub fn parse(done: &Done) -> Self {
        done.expect_code(0);
        serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", done.text()))
    }

    /// What the threads of `target` do.
    ///
    /// # Panics
    /// When it cannot be looked at.
    #[track_caller]
    pub fn of(sampler: &Sampler, target: &Target) -> Self {
        Self::parse(&sampler.run(&["dump", "--json", "-p", &target.pid_text()]))
    }

    /// The same once `target`, which spins from when it is ready, has left the code that said so; and again where one
    /// of its threads got no CPU in time to be looked at.
    ///
    /// # Panics
    /// When it cannot be looked at.
    #[track_caller]
    pub fn of_spinning(sampler: &Sampler, target: &Target) -> Self {
        target.until_it_ran();
        let seen = Cell::new(Self::of(sampler, target));
        target.until("a CPU for all threads", || {
            let dump = seen.take();
            let is_seen = dump.groups.iter().all(|group| !group.frames.is_empty());
            seen.set(if is_seen {
                dump
            } else {
                Self::of(sampler, target)
            });
            is_seen
        });
        seen.into_inner()
    }

    /// The only thread there is.
    ///
    /// # Panics
    /// When there are others.
    #[track_caller]
    pub fn only(&self) -> &Group {
        assert_eq!(self.groups.len(), 1, "{self:?}");
        &self.groups[0]
    }

    /// The first stack with this function.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn with(&self, function: &str) -> &Group {
        let mut groups = self.groups.iter();
        groups
            .find(|group| group.frames.iter().any(|frame| frame.function == function))
            .unwrap_or_else(|| panic!("no `{function}` in {self:?}"))
    }
}

impl Group {
    /// The functions, innermost first, without inlined ones; `[libc.so.6]` and the like for those of the distribution.
    pub fn functions(&self) -> Vec<String> {
        let frames = self.frames.iter().filter(|frame| !frame.inlined);
        frames.map(DumpFrame::shown).collect()
    }

    /// Asserts that the stack is complete and consists of these functions.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn expect<S: AsRef<str>>(&self, what: &str, functions: &[S]) {
        let expected: Vec<&str> = functions.iter().map(AsRef::as_ref).collect();
        assert_eq!(self.functions(), expected, "{what}");
        assert!(self.complete, "{what} is not complete: {expected:?}");
    }
}

impl DumpFrame {
    fn shown(&self) -> String {
        let module = self.module.as_deref().unwrap_or_default();
        let is_of_it = OF_THE_DISTRIBUTION
            .iter()
            .any(|name| module.starts_with(name));
        if is_of_it {
            format!("[{module}]")
        } else {
            self.function.clone()
        }
    }
}
