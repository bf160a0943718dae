//! What `sampler top` shows: a recording that is read while it is being made.
//!
//! The recorder writes into a pipe, and [`Feed`] plays what comes out of it, as a report plays a file: so the sampling
//! thread waits neither for names nor for the terminal. [`Totals`] is what there is to show, [`Screen`] what the user
//! has chosen of it; `cli::top` has the terminal.

mod draw;
mod feed;
mod screen;
mod totals;

pub use draw::draw;
pub use feed::Feed;
pub use screen::{Action, Column, Screen, Table};
pub use totals::{LineName, NameRow, Sums, ThreadRow, Totals};
