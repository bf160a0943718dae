//! What is done when a stack shows that other modules lie in a process than were known.

use sampler_platforms::linux::clock;

use super::images::Images;
use super::look::Looker;
use super::process::TargetProcess;
use crate::profile::SampleSink;

/// Walks the last stack of thread `at` once more where other modules lay there than the first walk believed. Says
/// whether the mappings were found to be others.
///
/// # Errors
/// When `sink` could not keep what is new.
pub(super) fn settle<S: SampleSink>(
    looker: &mut Looker,
    process: &mut TargetProcess,
    at: usize,
    images: &mut Images,
    sink: &mut S,
) -> Result<bool, S::Error> {
    if process.switch_modules(looker.marks()) {
        walk_again(looker, process, at);
    }
    process.check(looker.stack(), looker.marks());
    if !process.refresh_stale_mappings(clock::monotonic_ns(), images, sink)? {
        return Ok(false);
    }
    walk_again(looker, process, at);
    process.check_new(looker.stack(), looker.marks());
    Ok(true)
}

fn walk_again(looker: &mut Looker, process: &mut TargetProcess, at: usize) {
    let (view, interpreters, threads) = process.split();
    if let Some(thread) = threads.get_mut(at) {
        looker.walk_again(view, interpreters, thread);
    }
}
