//! `sampler top`: where a program spends its time, while it does.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use sampler_platforms::linux::proc::cgroup::Cgroup;
use sampler_platforms::linux::proc::{names, task};
use sampler_platforms::linux::{self, JobControl, interrupts};
use sampler_platforms::{Pid, Tid};

use super::failure::{self, Failure};
use super::options::{Target, TopOptions};
use super::record::put_down_rights;
use super::serve::{self, LiveView};
use crate::profile::{Feed, ProfileBuilder, Weight};
use crate::record::{
    Over, PAUSE_MAX_DEFAULT, RecordSettings, Recorder, STACK_BYTES_MAX_DEFAULT, Selection,
};
use crate::recording::{self, BackgroundWriter, RecordingInfo, Writer};
use crate::report::FrameFilter;
use crate::serve::{Bound, MakerSettings};
use crate::symbols::{Remembered, Symbolize};
use crate::top::{Action, Screen, Table, Totals, Watch, draw};

/// How long to wait for a key before what has been recorded meanwhile is drawn.
const REFRESH: Duration = Duration::from_millis(250);

/// Shows what `options` say until the user has seen enough: on the terminal, in browsers, or both. Where to look is said
/// on `messages`.
///
/// # Errors
/// When the targets cannot be looked at, or there is nowhere to show them.
pub fn run(options: &TopOptions, messages: &mut impl Write) -> anyhow::Result<()> {
    let has_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !has_terminal && options.serve.is_none() {
        bail!(
            "top needs a terminal; where there is none, use `sampler top --serve` and a browser, or `sampler record` and \
             `sampler report`"
        );
    }
    interrupts::install().context("cannot listen for signals")?;
    // All threads inherit this, but for the one that holds threads of the targets and knows when it does not.
    let job_control = JobControl::hold_back().context("cannot hold signals back")?;
    let bound = options.serve.as_ref().map(serve::bind).transpose()?;
    let (selection, title) = select(&options.target)?;
    let selection = selection.with_subprocesses(options.subprocesses);
    let totals = Arc::new(Mutex::new(Totals::default()));
    let frames = FrameFilter {
        languages: options.languages,
        native: !options.no_native,
        only_lock_holders: false,
    };
    let symbolizer = Arc::new(Mutex::new(Remembered::new(options.symbols.symbolizer()?)));
    let mut outputs = Outputs::default();
    // Threads that give way to all others, as soon as they are there.
    let (tids, apart) = channel();
    let names = match has_terminal {
        true => {
            let watch = Watch::new(Arc::clone(&symbolizer), frames, Arc::clone(&totals));
            Some(spawn_names(outputs.add()?, watch, tids.clone())?)
        }
        false => None,
    };
    let page = match &bound {
        Some(_) => Some(outputs.add()?),
        None => None,
    };
    let is_done = Arc::new(AtomicBool::new(false));
    let is_done_there = Arc::clone(&is_done);
    let settings = options.clone();
    let sampling = job_control.allow(|| {
        spawn("sampling", move || {
            sample(&settings, selection, outputs, &apart, &is_done_there)
        })
    })?;
    // Rights are a thread's: the other two put down their own, the sampling one after it has made use of them.
    put_down_rights();
    let url = bound.as_ref().map(Bound::url);
    let live = match (bound, page) {
        (Some(bound), Some(page)) => {
            serve::announce(&bound, messages);
            let settings = MakerSettings {
                weight: Weight::Cpu,
                frames,
                max_overhead: options.max_overhead,
            };
            let live = LiveView::start(bound, symbolizer, settings)?;
            live.play(page);
            if let Some(tid) = live.tid() {
                // Why nobody samples any more is told at the end.
                let _unheard = tids.send(tid);
            }
            Some(live)
        }
        _ => None,
    };
    drop(tids);
    let shown = match has_terminal {
        true => show_on_terminal(&totals, &sampling, &title, url.as_deref()),
        false => {
            wait(&sampling);
            Ok(())
        }
    };
    is_done.store(true, Ordering::Relaxed);
    let sampled = join(sampling);
    let named = names.map_or(Ok(()), join);
    if let Some(live) = live {
        live.finish();
    }
    sampled.and(named).and(shown)
}

/// Plays what comes through a pipe to the terminal's sums.
fn spawn_names<S: Symbolize + Send + 'static>(
    input: io::PipeReader,
    watch: Watch<S>,
    tids: Sender<Tid>,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    spawn("names", move || {
        put_down_rights();
        // A large program has names for seconds; the target is to feel nothing of it.
        if let Ok(tid) = linux::give_way() {
            tids.send(tid).context("nobody samples")?;
        }
        drop(tids);
        let mut feed = Feed::new(ProfileBuilder::new(), watch);
        recording::read(input, &mut feed)
            .map(drop)
            .context("cannot read what was recorded")
    })
}

/// The pipes that what is recorded goes to.
#[derive(Debug, Default)]
struct Outputs {
    pipes: Vec<io::PipeWriter>,
}

impl Outputs {
    /// One more, and its other end.
    fn add(&mut self) -> anyhow::Result<io::PipeReader> {
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        self.pipes.push(writer);
        Ok(reader)
    }
}

impl Write for Outputs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for pipe in &mut self.pipes {
            pipe.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spawn(
    name: &str,
    run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).context("cannot start a thread")
}

fn join(thread: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Whom to look at, and what they are called.
fn select(target: &Target) -> anyhow::Result<(Selection, String)> {
    match target {
        Target::Pids(pids) => {
            let pids: Vec<Pid> = pids.iter().copied().map(Pid).collect();
            for &pid in &pids {
                failure::check(pid)?;
            }
            let title = |pid: &Pid| {
                let name = names::of_a_process(*pid).unwrap_or_default();
                format!("{} ({name})", pid.0)
            };
            let titles: Vec<String> = pids.iter().map(title).collect();
            Ok((Selection::processes(&pids), titles.join(", ")))
        }
        Target::Pgrep(pattern) => {
            let title = format!("processes like '{}'", pattern.as_str());
            Ok((Selection::matching(pattern.clone()), title))
        }
        Target::Cgroup(path) => {
            let cgroup = Cgroup::find(path);
            let cgroup = cgroup.ok_or_else(|| Failure::NoSuchCgroup(path.clone()))?;
            Ok((Selection::cgroup(cgroup), path.display().to_string()))
        }
        // What it prints would be in the way of what is shown.
        Target::Command(_) => bail!("top starts no commands"),
    }
}

/// Records into `output` until the targets have ended or `is_done`; the threads `apart` have the lowest priority.
fn sample(
    options: &TopOptions,
    selection: Selection,
    output: Outputs,
    apart: &Receiver<Tid>,
    is_done: &AtomicBool,
) -> anyhow::Result<()> {
    // Without these, sampling works all the same: waiting for a stop polls, and files are opened for each read.
    let _without_timer = linux::prepare_sampling_thread();
    let _few_descriptors = task::raise_descriptor_limit();
    put_down_rights();
    let info = RecordingInfo {
        rate_hz: options.rate_hz,
        ..RecordingInfo::default()
    };
    let mut writer = Writer::create(BackgroundWriter::start(output)?, &info)?;
    let settings = RecordSettings {
        rate_hz: options.rate_hz,
        stack_bytes_max: STACK_BYTES_MAX_DEFAULT,
        max_overhead: options.max_overhead,
        pause_max: PAUSE_MAX_DEFAULT,
        languages: options.languages,
        may_stop: true,
    };
    let mut recorder = Recorder::new(settings, selection, &mut writer)?;
    for tid in apart {
        recorder.leave_apart(tid);
    }
    recorder.run(|_, _| is_done.load(Ordering::Relaxed).then_some(Over::Interrupted))?;
    let summary = recorder.summary();
    drop(recorder);
    writer.finish(&summary)?.finish()?;
    Ok(())
}

/// Waits until the targets have ended, or we are asked to end.
fn wait(sampling: &JoinHandle<anyhow::Result<()>>) {
    while interrupts::requested() == 0 && !sampling.is_finished() {
        thread::sleep(REFRESH);
    }
}

/// As [`show`]; whatever happens gives the terminal back.
fn show_on_terminal(
    totals: &Mutex<Totals>,
    sampling: &JoinHandle<anyhow::Result<()>>,
    title: &str,
    served: Option<&str>,
) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let shown = show(&mut terminal, totals, sampling, title, served);
    ratatui::restore();
    shown
}

/// Draws and asks for keys until the user has seen enough.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    totals: &Mutex<Totals>,
    sampling: &JoinHandle<anyhow::Result<()>>,
    title: &str,
    served: Option<&str>,
) -> anyhow::Result<()> {
    let mut screen = Screen::default();
    loop {
        {
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.is_over = sampling.is_finished();
            terminal
                .draw(|frame| draw(frame, &screen, &totals, title, served))
                .context("cannot draw")?;
        }
        if interrupts::requested() > 0 {
            return Ok(());
        }
        if !is_ready()? {
            continue;
        }
        let Event::Key(key) = event::read().context("cannot read keys")? else {
            continue;
        };
        match action_of(key, screen.is_typing) {
            Some(Action::Quit) => return Ok(()),
            Some(action) => {
                let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                screen.act(action, &mut totals);
            }
            None => {}
        }
    }
}

/// Whether a key was pressed, or the terminal has another size, by the time of the next drawing.
fn is_ready() -> anyhow::Result<bool> {
    match event::poll(REFRESH) {
        Ok(is_ready) => Ok(is_ready),
        // A signal, which is asked for elsewhere.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error).context("cannot wait for keys"),
    }
}

/// How far page up and page down move.
const PAGE: isize = 15;

/// What a key asks for, if anything.
fn action_of(key: KeyEvent, is_typing: bool) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Action::Quit);
    }
    if is_typing {
        return match key.code {
            KeyCode::Char(letter) => Some(Action::Letter(letter)),
            KeyCode::Backspace => Some(Action::Backspace),
            KeyCode::Enter => Some(Action::Enter),
            KeyCode::Esc => Some(Action::Escape),
            _ => None,
        };
    }
    match key.code {
        KeyCode::Char('q') => Some(Action::Quit),
        KeyCode::Char(' ' | 'p') => Some(Action::Pause),
        KeyCode::Tab => Some(Action::NextTable),
        KeyCode::Char('1') => Some(Action::Show(Table::Functions)),
        KeyCode::Char('2' | 't') => Some(Action::Show(Table::Threads)),
        KeyCode::Char('3' | 'l') => Some(Action::Show(Table::Lines)),
        KeyCode::Char('s') => Some(Action::NextColumn),
        KeyCode::Char('w') => Some(Action::NextWeight),
        KeyCode::Char('r') => Some(Action::Reset),
        KeyCode::Char('/') => Some(Action::Filter),
        KeyCode::Char('?' | 'h') => Some(Action::Help),
        KeyCode::Esc => Some(Action::Escape),
        KeyCode::Up | KeyCode::Char('k') => Some(Action::Scroll(-1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Action::Scroll(1)),
        KeyCode::PageUp => Some(Action::Scroll(-PAGE)),
        KeyCode::PageDown => Some(Action::Scroll(PAGE)),
        KeyCode::Home => Some(Action::Home),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn letters_are_keys_until_a_filter_is_typed() {
        let q = pressed(KeyCode::Char('q'));
        assert_eq!(action_of(q, false), Some(Action::Quit));
        assert_eq!(action_of(q, true), Some(Action::Letter('q')));
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(action_of(ctrl_c, true), Some(Action::Quit));
        let ctrl_q = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::CONTROL);
        assert_eq!(action_of(ctrl_q, false), None);
        assert_eq!(action_of(pressed(KeyCode::Esc), true), Some(Action::Escape));
        assert_eq!(action_of(pressed(KeyCode::F(1)), false), None);
    }
}
