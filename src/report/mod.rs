//! From a recording to what is shown.

mod frame_names;
mod resolve;
mod unnamed;

pub use frame_names::syscall_name;
pub use resolve::resolve;
