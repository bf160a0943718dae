//! A panic inside a library is an answer that was not given, not the end of the report.
//!
//! blazesym 0.2.7 panics on DWARF that a damaged or hostile file can hold: a row of a line table that names a file
//! the table does not list is unwrapped (`dwarf/lines.rs`, `row_location`), and sums of addresses may overflow.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// A panic was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the debug information makes no sense")]
pub(super) struct Panicked;

/// Runs `call`; a panic in it says nothing on standard error and comes back as an error.
///
/// What `call` changed before it panicked is kept: it must only use what stays sound when a call was cut short.
///
/// # Errors
/// When `call` panicked.
pub(super) fn contain<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    keep_quiet_when_contained();
    let before = CONTAINED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    CONTAINED.set(before);
    result.map_err(|_| Panicked)
}

/// Makes the panic hook, which prints, leave out panics that are contained. Others go to the hook that was there.
fn keep_quiet_when_contained() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                print(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_the_next_call_works() {
        assert_eq!(contain(|| -> u8 { panic!("contained") }), Err(Panicked));
        assert_eq!(contain(|| 1), Ok(1));
        assert!(!CONTAINED.get());
    }
}
