//! What `sampler top` shows: a recording that is read while it is being made.
//!
//! The recorder writes into a pipe, and another thread plays what comes out of it, as a report plays a file, and
//! [`Watch`] adds up: so the sampling thread waits neither for names nor for the terminal. [`Totals`] is what there is to show, [`Screen`] what the user
//! has chosen of it; `cli::top` has the terminal.

mod draw;
mod screen;
mod totals;
mod watch;

pub use draw::draw;
pub use screen::{Action, Column, Screen, Table};
pub use totals::{LineName, NameRow, Sums, ThreadRow, Totals};
pub use watch::Watch;
