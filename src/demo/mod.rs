//! The demonstration's workload.

pub mod workload;

pub use workload::{FUNCTIONS, Truth};
