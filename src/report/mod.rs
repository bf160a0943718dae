//! From a recording to what is shown.

mod frame_names;
mod overview;
mod resolve;
mod unnamed;

pub use overview::{JitOverview, ModuleOverview, Seen, SymbolsOverview, overview};
pub use resolve::resolve;
