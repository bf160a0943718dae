//! `--verbose`: what is done and found, on standard error. Off, and then free, unless it is asked for; nothing that is done
//! for each sample is told.

use std::io;

use tracing::Level;
use tracing_subscriber::fmt::time;

/// From now on what is told is shown, the more the more often `--verbose` was given.
pub fn start(times: u8) {
    let level = match times {
        0 => return,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // Only the first of a process counts; a test may have been it.
    let _there_is_one = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_timer(time::uptime())
        .with_target(false)
        .with_writer(io::stderr)
        .try_init();
}
