//! From a recording to what is shown.

mod frame_names;
mod functions;
mod layout;
mod names;
mod overview;
mod resolve;
mod selection;
mod unnamed;
mod view;

pub use layout::{Grouping, Layout, Shape, lay_out};
pub use overview::{JitOverview, ModuleOverview, Seen, SymbolsOverview, overview};
pub use resolve::{resolve, resolve_by};
pub use selection::{Focus, NamePattern, NothingSelected, Selection, States, select};
pub use view::{FrameFilter, filter};

/// What frames are told apart by, besides their module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Their functions.
    #[default]
    Function,
    /// Their functions and lines.
    Line,
}
