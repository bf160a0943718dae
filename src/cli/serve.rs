//! `--serve`: the page, live, while something is recorded or watched.

use std::fs::File;
use std::io::{Read, Write};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use sampler_platforms::Tid;
use sampler_platforms::linux::{self, JobControl};

use super::record::put_down_rights;
use crate::profile::{Feed, ProfileBuilder};
use crate::recording;
use crate::serve::{
    Board, Bound, Growing, GrowingFile, Maker, MakerSettings, ServeAddress, Server,
};
use crate::symbols::Symbolize;

/// At the end, the last state has so long to be made, and those who watch so long to take it.
const LAST_STATE_WITHIN: Duration = Duration::from_secs(2);
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Takes the address, before anything is begun that would have to be undone.
///
/// # Errors
/// When it is not there, or not free.
pub(super) fn bind(address: &ServeAddress) -> anyhow::Result<Bound> {
    Bound::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// Says where to look, and to whom else that is open.
pub(super) fn announce(bound: &Bound, messages: &mut impl Write) {
    // Nobody may be there any more, which changes nothing.
    let _unheard = writeln!(messages, "sampler: live at {}", bound.url());
    if bound.is_open_to_others() {
        let _unheard = writeln!(
            messages,
            "sampler: warning: other machines can reach it, and what is sent is not encrypted: whoever sees the token \
             sees the profile"
        );
    }
}

/// What is played to the page.
struct Source {
    input: Box<dyn Read + Send>,
    growing: Arc<Growing>,
}

/// The page, while it is served.
pub(super) struct LiveView {
    server: Server,
    board: Arc<Board>,
    /// The file that is followed.
    growing: Arc<Growing>,
    /// The thread that makes states; it ends when it is given nothing more.
    player: JoinHandle<()>,
    sources: Sender<Source>,
    is_done: Receiver<()>,
    /// The same thread, where it gives way to all others.
    tid: Option<Tid>,
}

impl std::fmt::Debug for LiveView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveView")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl LiveView {
    /// Serves, of what will be played, the names that `symbolizer` gives. Threads are started: after rights were put
    /// down.
    ///
    /// # Errors
    /// When there can be no further threads.
    pub(super) fn start<S: Symbolize + Send + 'static>(
        bound: Bound,
        symbolizer: S,
        settings: MakerSettings,
    ) -> anyhow::Result<Self> {
        // What these threads inherit: one of them that took Ctrl-Z would stop us while a thread of the target is held.
        let _for_now = JobControl::hold_back();
        let board = Arc::new(Board::default());
        let maker = Maker::new(symbolizer, settings, Arc::clone(&board));
        let (sources, given) = channel();
        let (done, is_done) = channel();
        let (tid_sender, tid) = channel();
        let player = thread::Builder::new().name("page".to_owned());
        let player = player.spawn(move || {
            put_down_rights();
            // As for the names of `top`: the target is to feel nothing of it.
            if let Ok(tid) = linux::give_way() {
                let _unheard = tid_sender.send(tid);
            }
            drop(tid_sender);
            play_all(&given, maker);
            let _unheard = done.send(());
        });
        Ok(Self {
            server: bound
                .serve(Arc::clone(&board))
                .context("cannot start a thread")?,
            board,
            growing: Arc::default(),
            player: player.context("cannot start a thread")?,
            sources,
            is_done,
            tid: tid.recv().ok(),
        })
    }

    /// The thread whose CPU time is apart from what was promised.
    pub(super) fn tid(&self) -> Option<Tid> {
        self.tid
    }

    /// Shows the recording that comes through a pipe.
    pub(super) fn play(&self, input: impl Read + Send + 'static) {
        self.give(Box::new(input), Arc::default());
    }

    /// Shows the recording that grows in `file`, until [`LiveView::part_ended`].
    pub(super) fn follow(&mut self, file: File) {
        self.growing = Arc::default();
        let growing = Arc::clone(&self.growing);
        let input = GrowingFile::new(file, Arc::clone(&growing), Arc::clone(&self.board));
        self.give(Box::new(input), growing);
    }

    fn give(&self, input: Box<dyn Read + Send>, growing: Arc<Growing>) {
        // If the thread has panicked, that is told in the end.
        let _unheard = self.sources.send(Source { input, growing });
    }

    /// The file that is followed is whole.
    pub(super) fn part_ended(&self) {
        self.growing.end();
        self.board.wake();
    }

    /// Whoever watches sees the last state, if that takes no longer than it may; then all is over.
    pub(super) fn finish(self) {
        self.part_ended();
        drop(self.sources);
        let done = self.is_done.recv_timeout(LAST_STATE_WITHIN);
        self.server.close(TOLD_WITHIN);
        if done != Err(RecvTimeoutError::Timeout)
            && let Err(panic) = self.player.join()
        {
            resume_unwind(panic);
        }
    }
}

fn play_all<S: Symbolize>(sources: &Receiver<Source>, mut maker: Maker<S>) {
    for Source { input, growing } in sources {
        maker.of(growing);
        let mut feed = Feed::new(ProfileBuilder::new().with_timeline(), maker);
        let played = recording::read(input, &mut feed);
        let (mut builder, of_feed) = feed.into_parts();
        maker = of_feed;
        match played {
            Ok(_) => maker.make(&mut builder),
            // Nobody watched, or nothing was recorded.
            Err(error) => tracing::info!("nothing more for the page: {error}"),
        }
    }
}
