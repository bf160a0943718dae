//! What the black-box tests and the benches share: fixtures built when they are first needed, targets that are killed
//! on drop, the command under test, and its report as types.
//!
//! A helper here panics with what went wrong: it is called by tests alone. Nothing sleeps for luck: a target says
//! `ready`, a file is waited for through inotify, and whatever hangs is killed by a watchdog and fails its test.

mod bare_cycle;
mod browser;
mod dump;
mod fixture;
mod luajit;
mod need;
mod report;
mod runtimes;
mod sampler;
mod target;
mod watchdog;

pub use bare_cycle::{STACK_BYTES, bare_cycle};
pub use browser::{Browser, need_speedscope};
pub use dump::{Dump, DumpFrame, Group};
pub use fixture::{RECIPES, Recipe, Tool, fixture, fixtures_dir, repository};
pub use luajit::{LuaJit, need_lupa, never_were};
pub use need::{PACKAGES, installed, need, need_root};
pub use nix::sys::signal::Signal;
pub use report::{Frame, Overhead, PauseNs, Process, Report, Stack, Summary, Thread, Weights};
pub use runtimes::{EMBEDS_LUA, lua_built, lua_sources, more_runtimes};
pub use sampler::{Done, Running, Sampler};
pub use target::{Ended, Target, number_after};
pub use watchdog::{LIMIT, Watchdog};

/// The command under test, in a folder of its own. To be used in the integration tests and benches of package
/// `sampler`, for which cargo builds the command and says where it is.
#[macro_export]
macro_rules! sampler {
    () => {
        $crate::Sampler::new(env!("CARGO_BIN_EXE_sampler"))
    };
}
