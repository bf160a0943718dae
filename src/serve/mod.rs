//! The HTML page, shown while the recording is being made: a small HTTP server, and who makes what it shows.
//!
//! [`Maker`] watches a recording that is played as it grows ([`GrowingFile`], or a pipe) and posts states of its profile
//! to a [`Board`]; [`Server`] gives the page out, and each newer state as a server-sent event (HTML Living Standard,
//! 9.2). A state is made only where somebody watches, and no more often than it is worth ([`Pace`]); of those that a
//! slow reader has no time for only the last is sent.
//!
//! Who does not know the token gets nothing, nor does a page of elsewhere that had a name of its own lead here (DNS
//! rebinding); requests, connections and the time that they may take are bounded.

mod address;
mod board;
mod connection;
mod growing;
mod maker;
mod pace;
mod request;
mod server;
mod token;

pub use address::{NotAnAddress, ServeAddress};
pub use board::{Board, News, State};
pub use growing::{Growing, GrowingFile};
pub use maker::{Maker, MakerSettings};
pub use pace::Pace;
pub use server::{Bound, Server};
