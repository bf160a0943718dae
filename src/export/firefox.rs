//! The processed format of the Firefox Profiler (profiler.firefox.com): threads with their samples in time, what kind of
//! code they were in, CPU use, and where they waited as markers.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use fxprof_processed_profile::{
    CategoryColor, CategoryHandle, CpuDelta, Frame, FrameFlags, FrameInfo, MarkerFieldFlags,
    MarkerFieldFormat, MarkerTiming, Profile, SamplingInterval, StackHandle, StaticSchemaMarker,
    StaticSchemaMarkerField, StringHandle, ThreadHandle, Timestamp, WeightType,
};
use rustc_hash::FxHashMap;
use sampler_unwind::interpreter::Language;

use super::moments::{Span, shares, spans};
use super::roots::process_label;
use crate::profile::{FrameKind, ResolvedFrame, ResolvedProfile, ThreadState, Weight};

/// Writes `profile` by `weight`, recorded from `start_unix_ns` on. Times are weighed in whole milliseconds; what is
/// rounded is made up for by the next sample of the same stack.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(
    profile: &ResolvedProfile,
    weight: Weight,
    start_unix_ns: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut converter = Converter::new(profile, weight, start_unix_ns);
    converter.add_samples(weight);
    converter.add_markers();
    converter.made.set_symbolicated(true);
    serde_json::to_writer(&mut *out, &converter.made)?;
    writeln!(out)
}

struct Converter<'a> {
    profile: &'a ResolvedProfile,
    made: Profile,
    threads: Vec<ThreadHandle>,
    categories: Categories,
    /// By position in the profile's frames.
    frames: Vec<FrameInfo>,
    /// By position in the profile's stacks, made when they are met.
    stacks: FxHashMap<u32, Option<StackHandle>>,
}

struct Categories {
    native: CategoryHandle,
    languages: Vec<(Language, CategoryHandle)>,
    kernel: CategoryHandle,
    blocked: CategoryHandle,
    note: CategoryHandle,
}

impl Categories {
    fn new(made: &mut Profile) -> Self {
        const LANGUAGE_COLORS: [CategoryColor; 4] = [
            CategoryColor::Green,
            CategoryColor::Yellow,
            CategoryColor::Purple,
            CategoryColor::Magenta,
        ];
        Self {
            native: made.add_category("Native", CategoryColor::Blue),
            languages: Language::ALL
                .into_iter()
                .zip(LANGUAGE_COLORS.into_iter().cycle())
                .map(|(language, color)| {
                    let name = language.name();
                    let (first, rest) = name.split_at(name.len().min(1));
                    let name = first.to_uppercase() + rest;
                    (language, made.add_category(&name, color))
                })
                .collect(),
            kernel: made.add_category("Kernel", CategoryColor::Orange),
            blocked: made.add_category("Blocked", CategoryColor::LightBlue),
            note: made.add_category("Note", CategoryColor::Gray),
        }
    }

    fn of(&self, frame: &ResolvedFrame) -> CategoryHandle {
        let of_language = |language| {
            let mut known = self.languages.iter();
            known.find(|(known, _)| *known == language)
        };
        match frame.kind {
            FrameKind::Kernel => self.kernel,
            FrameKind::Blocked => self.blocked,
            FrameKind::Note => self.note,
            FrameKind::Native
            | FrameKind::Interpreted
            | FrameKind::Compiled
            | FrameKind::Builtin
            | FrameKind::Runtime => match frame.language.and_then(of_language) {
                Some((_, category)) => *category,
                None => self.native,
            },
        }
    }
}

impl<'a> Converter<'a> {
    fn new(profile: &'a ResolvedProfile, weight: Weight, start_unix_ns: u64) -> Self {
        let began = UNIX_EPOCH + Duration::from_nanos(start_unix_ns);
        let rate_hz = profile.summary.rate_hz_achieved.max(0.001);
        let interval_ns = Duration::try_from_secs_f64(1.0 / rate_hz)
            .ok()
            .and_then(|interval| u64::try_from(interval.as_nanos()).ok());
        let interval = SamplingInterval::from_nanos(interval_ns.unwrap_or(1_000_000).max(1));
        let mut made = Profile::new("sampler", began.into(), interval);
        made.set_os_name("Linux");
        let categories = Categories::new(&mut made);
        let zero = Timestamp::from_nanos_since_reference(0);
        let mut processes = FxHashMap::default();
        let mut threads = Vec::with_capacity(profile.threads.len());
        for thread in &profile.threads {
            let process = *processes.entry(thread.process_index).or_insert_with(|| {
                made.add_process(&process_label(thread), thread.pid.unsigned_abs(), zero)
            });
            let is_main = thread.tid == thread.pid;
            let handle = made.add_thread(process, thread.tid.unsigned_abs(), zero, is_main);
            made.set_thread_name(handle, &thread.name);
            made.set_thread_samples_weight_type(
                handle,
                match weight {
                    Weight::Samples => WeightType::Samples,
                    _ => WeightType::TracingMs,
                },
            );
            threads.push(handle);
        }
        let frames = profile
            .frames
            .iter()
            .map(|frame| {
                let name = match &frame.module {
                    Some(module) => format!("{} [{module}]", frame.function),
                    None => frame.function.clone(),
                };
                FrameInfo {
                    frame: Frame::Label(made.intern_string(&name)),
                    category_pair: categories.of(frame).into(),
                    flags: FrameFlags::empty(),
                }
            })
            .collect();
        Self {
            profile,
            made,
            threads,
            categories,
            frames,
            stacks: FxHashMap::default(),
        }
    }

    /// The thread of a stack, and the stack.
    fn stack(&mut self, position: u32) -> Option<(ThreadHandle, Option<StackHandle>)> {
        let stack = self.profile.stacks.get(position as usize)?;
        let thread = *self.threads.get(stack.thread as usize)?;
        let frames = &self.frames;
        let made = &mut self.made;
        let handle = *self.stacks.entry(position).or_insert_with(|| {
            let frames = stack
                .frames
                .iter()
                .filter_map(|&frame| frames.get(frame as usize));
            made.intern_stack_frames(thread, frames.cloned())
        });
        Some((thread, handle))
    }

    fn add_samples(&mut self, weight: Weight) {
        let profile = self.profile;
        let shares = shares(profile, weight, |value| match weight {
            Weight::Samples => value,
            _ => value.saturating_add(500_000) / 1_000_000,
        });
        let moments = profile.moments.iter().zip(&shares.of_moments);
        let mut ends_ns = 0;
        for (moment, &value) in moments {
            ends_ns = moment.at_ns.max(ends_ns);
            if moment.state == ThreadState::Unseen && value == 0 && moment.weights.cpu_ns == 0 {
                continue;
            }
            let cpu = CpuDelta::from_nanos(moment.weights.cpu_ns);
            self.add_sample(moment.stack, moment.at_ns, cpu, value);
        }
        for &(stack, value) in &shares.unseen {
            self.add_sample(stack, ends_ns, CpuDelta::ZERO, value);
        }
    }

    fn add_sample(&mut self, stack: u32, at_ns: u64, cpu: CpuDelta, value: u64) {
        let Some((thread, stack)) = self.stack(stack) else {
            return;
        };
        let at = Timestamp::from_nanos_since_reference(at_ns);
        let weight = i32::try_from(value).unwrap_or(i32::MAX);
        self.made.add_sample(thread, at, stack, cpu, weight);
    }

    /// Marks where threads waited, and for what.
    fn add_markers(&mut self) {
        let profile = self.profile;
        let mut open: Vec<Option<Span>> = vec![None; profile.threads.len()];
        for span in spans(profile) {
            let Some(open) = open.get_mut(span.thread as usize) else {
                continue;
            };
            match open {
                Some(waits) if span.is_asleep && waits.stack == span.stack => {
                    waits.to_ns = span.to_ns;
                }
                _ => {
                    let ended = std::mem::replace(open, span.is_asleep.then_some(span));
                    if let Some(ended) = ended {
                        self.add_marker(ended);
                    }
                }
            }
        }
        for ended in open.into_iter().flatten() {
            self.add_marker(ended);
        }
    }

    fn add_marker(&mut self, span: Span) {
        let profile = self.profile;
        let stack = profile.stacks.get(span.stack as usize);
        let leaf = stack.and_then(|stack| profile.frames.get(*stack.frames.last()? as usize));
        let (Some(leaf), Some((thread, stack))) = (leaf, self.stack(span.stack)) else {
            return;
        };
        let marker = Wait {
            name: self.made.intern_string(&leaf.function),
            what: self
                .made
                .intern_string(leaf.file.as_deref().unwrap_or_default()),
            category: self.categories.blocked,
        };
        let at = |ns: u64| Timestamp::from_nanos_since_reference(ns);
        let timing = MarkerTiming::Interval(at(span.from_ns), at(span.to_ns));
        let marker = self.made.add_marker(thread, timing, marker);
        self.made.set_marker_stack(thread, marker, stack);
    }
}

/// The time in which a thread waited.
#[derive(Clone, Debug)]
struct Wait {
    name: StringHandle,
    what: StringHandle,
    category: CategoryHandle,
}

impl StaticSchemaMarker for Wait {
    const UNIQUE_MARKER_TYPE_NAME: &'static str = "Blocked";
    const DESCRIPTION: Option<&'static str> = Some("The thread waited in the kernel.");
    const CHART_LABEL: Option<&'static str> = Some("{marker.name}");
    const TABLE_LABEL: Option<&'static str> = Some("{marker.name}");
    const FIELDS: &'static [StaticSchemaMarkerField] = &[StaticSchemaMarkerField {
        key: "what",
        label: "Waits for",
        format: MarkerFieldFormat::String,
        flags: MarkerFieldFlags::SEARCHABLE,
    }];

    fn name(&self, _profile: &mut Profile) -> StringHandle {
        self.name
    }

    fn category(&self, _profile: &mut Profile) -> CategoryHandle {
        self.category
    }

    fn string_field_value(&self, _field_index: u32) -> StringHandle {
        self.what
    }

    /// Never asked for: there is no such field.
    fn number_field_value(&self, _field_index: u32) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn made(weight: Weight) -> serde_json::Value {
        let profile = example::in_time();
        let text = example::written(|out| write(&profile, weight, 1_000_000_000, out));
        serde_json::from_str(&text).expect("it is JSON")
    }

    #[test]
    fn threads_have_samples_categories_cpu_use_and_waits() {
        let made = made(Weight::Samples);
        let names: Vec<_> = made["meta"]["categories"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|category| category["name"].as_str())
            .collect();
        for name in ["Native", "Lua", "Python", "Kernel", "Blocked"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert_eq!(made["meta"]["startTime"], 1000.0);
        let threads = made["threads"].as_array().expect("a list");
        assert_eq!(threads.len(), 2);
        let worker = threads.iter().find(|thread| thread["name"] == "worker; 1");
        let worker = worker.expect("it is there");
        assert_eq!(worker["samples"]["weightType"], "samples");
        assert!(worker["samples"]["threadCPUDelta"].is_array());
        assert_eq!(worker["markers"]["length"], 1);
        assert_eq!(worker["markers"]["data"][0]["type"], "Blocked");
    }

    #[test]
    fn times_are_weighed_in_milliseconds() {
        let made = made(Weight::Cpu);
        let threads = made["threads"].as_array().expect("a list").iter();
        let weights = threads.clone().flat_map(|thread| {
            assert_eq!(thread["samples"]["weightType"], "tracing-ms");
            thread["samples"]["weight"].as_array().expect("a list")
        });
        let sum: i64 = weights.filter_map(serde_json::Value::as_i64).sum();
        assert_eq!(sum, 2_080);
    }
}
