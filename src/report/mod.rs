//! From a recording to what is shown.

mod frame_names;
mod resolve;
mod unnamed;

pub use resolve::resolve;
