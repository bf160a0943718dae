//! `sampler record`: from the command line to a recording on disk.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use sampler_platforms::Pid;
use sampler_platforms::linux::proc::cgroup::Cgroup;
use sampler_platforms::linux::proc::{names, task};
use sampler_platforms::linux::spawn::{self, ChildStdout, Ended, Launched};
use sampler_platforms::linux::{self, interrupts, privileges};

use super::exit::Exit;
use super::failure::{self, Failure};
use super::options::{Output, RecordOptions, Target};
use super::progress::Progress;
use super::recording_files::{Copies, Goal, Growing, RecordingFiles};
use super::serve::{self, LiveView};
use crate::export::summary_words;
use crate::profile::Summary;
use crate::record::{Over, RecordSettings, Recorder, Selection};
use crate::recording::{BackgroundWriter, RecordingFile, RecordingInfo, Visitor, Writer};
use crate::report::FrameFilter;
use crate::serve::{Bound, MakerSettings};
use crate::symbols::Remembered;

/// How often threads are looked for that have yet to stop, after the last sample, in nanoseconds.
const STRAYS_NS: u64 = 1_000_000;

/// Who has to wait longer than this for the next look is told so.
const TOO_LONG: Duration = Duration::from_secs(2);

/// Less CPU time of a command's children than this is not worth a word.
const CHILDREN_CPU_MIN: Duration = Duration::from_millis(100);

/// Records what `options` say and says on `messages` what came of it.
///
/// # Errors
/// When nothing could be recorded, or what was recorded could not be kept. In every case the targets run on.
pub fn run(options: &RecordOptions, messages: &mut impl Write) -> anyhow::Result<Exit> {
    interrupts::install().context("cannot listen for Ctrl-C")?;
    interrupts::install_copies().context("cannot listen for SIGUSR1")?;
    // Without these, sampling works all the same: waiting for a stop polls, and files are opened for each read.
    let _without_timer = linux::prepare_sampling_thread();
    let _few_descriptors = task::raise_descriptor_limit();
    match &options.target {
        Target::Pids(pids) => {
            let pids: Vec<Pid> = pids.iter().copied().map(Pid).collect();
            for &pid in &pids {
                if let Some(denied) = failure::check_states(pid)? {
                    tell_denied(&denied, messages);
                }
            }
            attach(options, Selection::processes(&pids), &pids, messages)
        }
        Target::Pgrep(pattern) => {
            attach(options, Selection::matching(pattern.clone()), &[], messages)
        }
        Target::Cgroup(path) => {
            let cgroup = Cgroup::find(path);
            let cgroup = cgroup.ok_or_else(|| Failure::NoSuchCgroup(path.clone()))?;
            attach(options, Selection::cgroup(cgroup), &[], messages)
        }
        Target::Command(words) => launch(options, words, messages),
    }
}

fn attach(
    options: &RecordOptions,
    selection: Selection,
    pids: &[Pid],
    messages: &mut impl Write,
) -> anyhow::Result<Exit> {
    let first = pids.first();
    let name = first.and_then(|&pid| names::of_a_process(pid).ok());
    let mut files = RecordingFiles::new(options, first.map(|pid| pid.0), name);
    let bound = bind(options, messages)?;
    let growing = files.begin()?;
    put_down_rights();
    let mut session = Session {
        options,
        selection: selection.clone(),
        further: selection,
        words: &[],
        pids,
        live: live_view(options, bound)?,
    };
    let recorded = session.record(&mut files, growing, messages)?;
    recorded.tell(options, messages);
    if recorded.samples == 0 {
        let missed = no_samples_because(options, &recorded.summary);
        Err(Failure::NoSamples { missed }.into())
    } else {
        Ok(Exit::Ok)
    }
}

/// Says that of a process only the little that everybody may know will be recorded, and why.
fn tell_denied(denied: &Failure, messages: &mut impl Write) {
    say(
        messages,
        &format!("{denied}; recording only which of its threads run, and their CPU time"),
    );
    if let Some(hint) = failure::hint_for(denied) {
        let _unheard = writeln!(messages, "  hint: {hint}");
    }
}

/// Whatever happens from now on happens without rights that it does not take.
pub(super) fn put_down_rights() {
    match privileges::put_down_what_is_not_needed() {
        Ok(left) => tracing::info!("capabilities in force from now on: {left:#x}"),
        // They are not needed, and do no harm by themselves.
        Err(error) => tracing::warn!("rights that are not needed cannot be put down: {error}"),
    }
}

/// Why there are no samples, as far as it is known.
fn no_samples_because(options: &RecordOptions, summary: &Summary) -> Option<String> {
    let left_out = || summary_words::left_out(summary).map(|words| format!("left out {words}"));
    if summary.processes > 0 {
        return summary_words::missed(summary).or_else(left_out);
    }
    // Ticks at which there was nobody can have been missed too.
    let nobody = match &options.target {
        Target::Pgrep(pattern) => format!("no process matches '{}'", pattern.as_str()),
        Target::Cgroup(path) => {
            let path = path.display();
            format!("no process was in the control group {path}")
        }
        _ => return left_out().or_else(|| summary_words::missed(summary)),
    };
    Some(left_out().unwrap_or(nobody))
}

fn launch(
    options: &RecordOptions,
    words: &[OsString],
    messages: &mut impl Write,
) -> anyhow::Result<Exit> {
    let (program, arguments) = words.split_first().context("no command was given")?;
    let bound = bind(options, messages)?;
    // Whatever is wrong with the file is told before anything is started, unless its name depends on that.
    let mut files = RecordingFiles::new(options, None, None);
    let growing = match RecordingFiles::is_named_by_pid(options) {
        true => None,
        false => Some(files.begin()?),
    };
    // What the command prints must not come between the bytes of the recording.
    let its_stdout = match options.output {
        Output::Stdout => ChildStdout::ToStderr,
        Output::File(_) => ChildStdout::Inherited,
    };
    // With all rights that we were started with: they are the user's.
    let launched = match spawn::launch(program, arguments, its_stdout) {
        Ok(launched) => launched,
        Err(error) => {
            // Nothing is in it.
            if let Some(growing) = growing {
                growing.file.discard()?;
            }
            return Err(error.into());
        }
    };
    let pid = launched.pid();
    let growing = match growing {
        Some(growing) => Ok(growing),
        None => {
            files = RecordingFiles::new(options, Some(pid.0), None);
            files.begin()
        }
    };
    put_down_rights();
    let recorded = growing.and_then(|growing| {
        let mut session = Session {
            options,
            selection: Selection::command(pid),
            // What it has used by then is in the files before.
            further: Selection::processes(&[pid]),
            words,
            pids: &[],
            live: live_view(options, bound)?,
        };
        session.record(&mut files, growing, messages)
    });
    match &recorded {
        Ok(recorded) => {
            recorded.tell(options, messages);
            if recorded.over != Over::TargetsEnded && !options.quiet {
                let line =
                    "the command still runs; waiting for it (Ctrl-C again: leave it running)";
                say(messages, line);
            }
        }
        // It may run for days; what went wrong is not to be told only then.
        Err(error) => say(messages, &format!("{error:#}; waiting for the command")),
    }
    let Some(ended) = wait(launched)? else {
        return Ok(Exit::CommandLeftRunning);
    };
    if let Ok(recorded) = &recorded {
        recorded.tell_of_children(&ended, options, messages);
    }
    match recorded {
        Ok(_) => Ok(ended.status.into()),
        Err(_) => Ok(Exit::SamplerFailed),
    }
}

/// Takes the address of `--serve`, and says what to open: before there is anything to undo.
fn bind(options: &RecordOptions, messages: &mut impl Write) -> anyhow::Result<Option<Bound>> {
    let Some(served) = &options.serve else {
        return Ok(None);
    };
    let bound = serve::bind(&served.address)?;
    serve::announce(&bound, messages);
    Ok(Some(bound))
}

/// What shows the recording live on that address.
fn live_view(options: &RecordOptions, bound: Option<Bound>) -> anyhow::Result<Option<LiveView>> {
    let (Some(served), Some(bound)) = (&options.serve, bound) else {
        return Ok(None);
    };
    let settings = MakerSettings {
        weight: served.weight,
        frames: FrameFilter {
            languages: options.languages,
            native: true,
            only_lock_holders: false,
        },
        max_overhead: options.max_overhead,
    };
    let symbolizer = Remembered::new(served.symbols.symbolizer()?);
    LiveView::start(bound, symbolizer, settings).map(Some)
}

/// Says something for a person to read. Nobody may be there any more, which changes nothing.
fn say(messages: &mut impl Write, line: &str) {
    let _unheard = writeln!(messages, "sampler: {line}");
}

fn start(
    options: &RecordOptions,
    words: &[OsString],
    pids: &[Pid],
    file: RecordingFile,
) -> anyhow::Result<BackgroundRecording> {
    let info = RecordingInfo {
        sampler_version: env!("CARGO_PKG_VERSION").to_owned(),
        start_unix_ns: since_epoch_ns(),
        rate_hz: options.rate_hz,
        kernel_release: kernel_release(),
        arch: std::env::consts::ARCH.to_owned(),
        command: words
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        pids: pids.iter().map(|pid| pid.0).collect(),
    };
    let output = BackgroundWriter::start(file)?;
    let visitor = output.visitor();
    let writer = Writer::create(output, &info)?;
    Ok(BackgroundRecording { writer, visitor })
}

/// A recording that is written by a thread of its own.
#[derive(Debug)]
struct BackgroundRecording {
    writer: Writer<BackgroundWriter<RecordingFile>>,
    visitor: Visitor<RecordingFile>,
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim_end().to_owned())
        .unwrap_or_default()
}

fn since_epoch_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn used_up(wait: Duration) -> String {
    format!(
        "sampler: what --max-overhead allows is used up: the next look can be paid for in {:.0} s",
        wait.as_secs_f64()
    )
}

/// A recording that is complete.
#[derive(Debug)]
struct Recorded {
    over: Over,
    /// Of the last file.
    summary: Summary,
    /// Of all files.
    samples: u64,
    /// Likewise.
    cpu_ns: u64,
    /// The last file that was written.
    last: Option<PathBuf>,
}

/// What is recorded, into however many files.
#[derive(Debug)]
struct Session<'a> {
    options: &'a RecordOptions,
    /// For the first file.
    selection: Selection,
    /// For those after it.
    further: Selection,
    /// The command, if one was started.
    words: &'a [OsString],
    pids: &'a [Pid],
    /// Where it is seen meanwhile.
    live: Option<LiveView>,
}

/// One file of a session.
#[derive(Debug)]
struct Part {
    /// `None` when the next file is due.
    over: Option<Over>,
    summary: Summary,
    file: RecordingFile,
}

impl Session<'_> {
    /// Records until there is a reason to end; so does what is shown meanwhile.
    fn record(
        &mut self,
        files: &mut RecordingFiles<'_>,
        growing: Growing,
        messages: &mut impl Write,
    ) -> anyhow::Result<Recorded> {
        let recorded = self.record_all(files, growing, messages);
        self.end_live();
        recorded
    }

    fn end_live(&mut self) {
        if let Some(live) = self.live.take() {
            live.finish();
        }
    }

    fn record_all(
        &mut self,
        files: &mut RecordingFiles<'_>,
        mut growing: Growing,
        messages: &mut impl Write,
    ) -> anyhow::Result<Recorded> {
        let began = Instant::now();
        let mut selection = self.selection.clone();
        let (mut samples, mut cpu_ns, mut last) = (0, 0, None);
        loop {
            let (file, goal) = growing.split();
            if let Some(live) = &mut self.live {
                let file = file.reader().context("cannot read what is recorded")?;
                live.follow(file.context("--serve needs a file to record into")?);
            }
            let part = self.record_part(selection, file, &goal, began, messages)?;
            if part.over.is_some() {
                // A report of it may take longer than anybody wants to wait for the last state.
                self.end_live();
            } else if let Some(live) = &self.live {
                live.part_ended();
            }
            samples += part.summary.samples;
            cpu_ns += part.summary.cpu_ns;
            if part.summary.samples == 0 {
                // An older recording is worth more.
                part.file.discard()?;
            } else {
                last = files.finish(part.file, goal)?.or(last);
            }
            if let Some(over) = part.over {
                let summary = part.summary;
                return Ok(Recorded {
                    over,
                    summary,
                    samples,
                    cpu_ns,
                    last,
                });
            }
            if let Some(last) = &last
                && !self.options.quiet
                && part.summary.samples > 0
            {
                say(messages, &format!("wrote {}", last.display()));
            }
            growing = files.begin()?;
            selection = self.further.clone();
        }
    }

    fn record_part(
        &self,
        selection: Selection,
        file: RecordingFile,
        goal: &Goal,
        began: Instant,
        messages: &mut impl Write,
    ) -> anyhow::Result<Part> {
        let options = self.options;
        let BackgroundRecording {
            mut writer,
            visitor,
        } = start(options, self.words, self.pids, file)?;
        let settings = RecordSettings {
            rate_hz: options.rate_hz,
            stack_bytes_max: options.stack_bytes_max,
            max_overhead: options.max_overhead,
            pause_max: options.pause_max,
            languages: options.languages,
            may_stop: options.may_stop,
        };
        let selection = selection.with_subprocesses(options.subprocesses);
        let mut recorder = Recorder::new(settings, selection, &mut writer)?;
        if let Some(page) = self.live.as_ref().and_then(LiveView::tid) {
            recorder.leave_apart(page);
        }
        if recorder.has_nobody() && !options.quiet {
            let nobody = match summary_words::left_out(&recorder.summary()) {
                Some(left_out) => format!("nobody to record yet, left out {left_out}"),
                None => "nobody to record yet".to_owned(),
            };
            say(messages, &format!("{nobody}; waiting"));
        }
        let progress = Progress::start(options.duration, options.quiet);
        let has_report = options.report.is_some();
        let mut copies = Copies::new(visitor, goal, has_report, interrupts::copies_requested());
        let (mut is_warned, mut is_next_due) = (false, false);
        let over = recorder.run(|elapsed_ns, costs| {
            let elapsed = began.elapsed();
            progress.update(costs.samples(), costs.ticks, elapsed);
            if costs.longest_wait > TOO_LONG && !is_warned && !options.quiet {
                is_warned = true;
                progress.warn(&used_up(costs.longest_wait));
            }
            copies.keep_up(interrupts::copies_requested(), |line| {
                if !options.quiet {
                    progress.warn(&format!("sampler: {line}"));
                }
            });
            let part_elapsed = Duration::from_nanos(elapsed_ns);
            if interrupts::requested() > 0 {
                Some(Over::Interrupted)
            } else if options.duration.is_some_and(|duration| elapsed >= duration) {
                Some(Over::Duration)
            } else if options.rotate.is_some_and(|rotate| part_elapsed >= rotate) {
                is_next_due = true;
                Some(Over::Duration)
            } else {
                None
            }
        });
        let summary = recorder.summary();
        drop(recorder);
        progress.finish();
        let over = over?;
        let file = writer.finish(&summary)?.finish()?;
        Ok(Part {
            over: (!is_next_due || over != Over::Duration).then_some(over),
            summary,
            file,
        })
    }
}

impl Recorded {
    fn tell(&self, options: &RecordOptions, messages: &mut impl Write) {
        if options.quiet {
            return;
        }
        match (&self.last, &options.output) {
            (Some(last), _) if self.summary.samples > 0 => {
                say(messages, &format!("wrote {}", last.display()));
            }
            (None, Output::File(path)) => say(
                messages,
                &format!("no samples: {} is not written", path.display()),
            ),
            (_, Output::Stdout | Output::File(_)) => {}
        }
        if linux::shortened_file::shortened_files() > 0 {
            let cut =
                "a file became shorter while it was in use: stacks that lead through it may be cut";
            say(messages, cut);
        }
        // As for `say`.
        let _unheard = summary_words::write(&self.summary, messages);
    }

    /// Says so if the command's children used much of the CPU time and are not part of the recording.
    fn tell_of_children(&self, ended: &Ended, options: &RecordOptions, messages: &mut impl Write) {
        let all = ended.user + ended.system;
        let others = all.saturating_sub(Duration::from_nanos(self.cpu_ns));
        let is_much = others > all / 10 && others > CHILDREN_CPU_MIN;
        let is_told = self.over == Over::TargetsEnded && !options.subprocesses;
        if is_much && is_told && !options.quiet {
            let seconds = others.as_secs_f64();
            say(
                messages,
                &format!(
                    "{seconds:.2} s of CPU time were used by processes that the command started; they are not recorded"
                ),
            );
        }
    }
}

/// Waits for a command, unless told a second time to stop: then `None`.
///
/// # Errors
/// When it cannot be waited for.
pub(super) fn wait(launched: Launched) -> anyhow::Result<Option<Ended>> {
    let asked_before = interrupts::requested();
    let failed = "cannot wait for the command";
    loop {
        let has_ended = if linux::release_strays() {
            linux::clock::sleep_until(linux::clock::monotonic_ns() + STRAYS_NS);
            launched.try_wait_keep().context(failed)?
        } else {
            launched.wait_keep().context(failed)?
        };
        if has_ended {
            let ended = launched.reap();
            return ended.map(Some).context("cannot tell how the command ended");
        }
        if interrupts::requested() > asked_before {
            return Ok(None);
        }
    }
}
