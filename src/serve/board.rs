//! Where states of the profile are posted, for those who watch.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For so long after the page was asked for its states are wanted: then it has asked for them itself, or was left.
const PAGE_WANTS: Duration = Duration::from_secs(10);

/// The profile as it was at some moment.
#[derive(Debug)]
pub struct State {
    /// From 1, each higher than the one before.
    pub id: u64,
    /// As the page reads it.
    pub packed: String,
}

/// The newest state, and whether anybody wants one.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    latest: Option<Arc<State>>,
    viewers: usize,
    wanted_until: Option<Instant>,
    is_over: bool,
}

/// What there is to tell somebody who watches.
#[derive(Clone, Debug)]
pub enum News {
    /// A state newer than the one that is known.
    State(Arc<State>),
    /// The recording is over, and the newest state is known.
    Over,
    /// Nothing new.
    None,
}

/// Somebody who watches, for as long as this lives.
#[derive(Debug)]
pub(super) struct Viewer<'b> {
    board: &'b Board,
}

impl Board {
    /// Posts the newest state.
    pub fn post(&self, packed: String) {
        let mut inner = self.lock();
        let id = inner.latest.as_ref().map_or(0, |latest| latest.id) + 1;
        inner.latest = Some(Arc::new(State { id, packed }));
        self.changed.notify_all();
    }

    /// Whether somebody watches.
    pub fn is_wanted(&self) -> bool {
        let inner = self.lock();
        let is_page_new = inner
            .wanted_until
            .is_some_and(|until| Instant::now() < until);
        inner.viewers > 0 || is_page_new
    }

    /// There will be no further state.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Waits until something has changed here, at most for so long.
    pub fn wait(&self, at_most: Duration) {
        let waited = self.changed.wait_timeout(self.lock(), at_most);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Wakes who waits here, to look at something else.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// The page is asked for: soon its states will be.
    pub(super) fn announce(&self) {
        self.lock().wanted_until = Some(Instant::now() + PAGE_WANTS);
        self.changed.notify_all();
    }

    /// Somebody watches from now on.
    pub(super) fn watch(&self) -> Viewer<'_> {
        self.lock().viewers += 1;
        self.changed.notify_all();
        Viewer { board: self }
    }

    /// What is newer than the state `known` (0: none is), which is waited for at most for so long.
    pub(super) fn news(&self, known: u64, at_most: Duration) -> News {
        let until = Instant::now() + at_most;
        let mut inner = self.lock();
        loop {
            if let Some(latest) = inner.latest.as_ref().filter(|latest| latest.id > known) {
                return News::State(Arc::clone(latest));
            }
            let left = until.saturating_duration_since(Instant::now());
            if inner.is_over {
                return News::Over;
            }
            if left.is_zero() {
                return News::None;
            }
            let waited = self.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked meanwhile has left it whole: each change is a single one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Viewer<'_> {
    fn drop(&mut self) {
        self.board.lock().viewers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_states_in_between_only_the_last_is_told() {
        let board = Board::default();
        assert!(matches!(board.news(0, Duration::ZERO), News::None));
        for text in ["one", "two", "three"] {
            board.post(text.to_owned());
        }
        let News::State(state) = board.news(1, Duration::ZERO) else {
            panic!("there is a newer one");
        };
        assert_eq!((state.id, state.packed.as_str()), (3, "three"));
        board.end();
        assert!(matches!(board.news(2, Duration::ZERO), News::State(_)));
        assert!(matches!(board.news(3, Duration::MAX / 4), News::Over));
    }

    #[test]
    fn it_is_wanted_while_somebody_watches() {
        let board = Board::default();
        assert!(!board.is_wanted());
        let viewer = board.watch();
        assert!(board.is_wanted());
        drop(viewer);
        assert!(!board.is_wanted());
        board.announce();
        assert!(board.is_wanted());
    }
}
