//! pprof: the protocol buffer that `go tool pprof` and many services read (github.com/google/pprof, proto/profile.proto),
//! compressed by gzip.
//!
//! All weights are in it, each as a sample type with its unit; the one that was asked for is the default. Samples have
//! their thread and process as labels.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use rustc_hash::FxHashMap;

use super::units;
use crate::profile::{ResolvedFrame, ResolvedProfile, Weight};

/// The weights, with what pprof calls them.
const SAMPLE_TYPES: [(Weight, &str, &str); 5] = [
    (Weight::Samples, "samples", "count"),
    (Weight::Cpu, "cpu", "nanoseconds"),
    (Weight::Wall, "wall", "nanoseconds"),
    (Weight::OffCpu, "off_cpu", "nanoseconds"),
    (Weight::RunQueue, "run_queue", "nanoseconds"),
];

/// Writes `profile`, recorded from `start_unix_ns` on.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(
    profile: &ResolvedProfile,
    weight: Weight,
    start_unix_ns: u64,
    out: &mut impl Write,
) -> io::Result<()> {
    let message = Tables::default().message(profile, weight, start_unix_ns);
    let mut compressed = GzEncoder::new(out, Compression::default());
    compressed.write_all(&message.encode_to_vec())?;
    compressed.finish()?;
    Ok(())
}

/// The fields of profile.proto that are used here, under its own names and numbers.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// Innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
    #[prost(int64, tag = "3")]
    num: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// What is numbered: texts from 0, mappings and functions from 1.
#[derive(Default)]
struct Tables {
    texts: Vec<String>,
    text_ids: FxHashMap<String, i64>,
    mappings: FxHashMap<i64, u64>,
    functions: FxHashMap<(i64, i64), u64>,
}

impl Tables {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(&id) = self.text_ids.get(text) {
            return id;
        }
        // As many texts as do not fit in 63 bits would not fit in memory.
        let id = i64::try_from(self.texts.len()).unwrap_or(i64::MAX);
        self.texts.push(text.to_owned());
        self.text_ids.insert(text.to_owned(), id);
        id
    }

    fn value_type(&mut self, name: &str, unit: &str) -> ValueType {
        ValueType {
            r#type: self.text(name),
            unit: self.text(unit),
        }
    }

    fn message(mut self, profile: &ResolvedProfile, weight: Weight, start_unix_ns: u64) -> Profile {
        // The first text is always the empty one.
        self.text("");
        let mut message = Profile {
            sample_type: SAMPLE_TYPES
                .map(|(_, name, unit)| self.value_type(name, unit))
                .into(),
            time_nanos: signed(start_unix_ns),
            duration_nanos: signed(profile.summary.wall_ns),
            period_type: Some(self.value_type("cpu", "nanoseconds")),
            period: period_ns(profile.summary.rate_hz_achieved),
            ..Profile::default()
        };
        let default = SAMPLE_TYPES.iter().find(|(known, ..)| *known == weight);
        message.default_sample_type = default.map_or(0, |(_, name, _)| self.text(name));
        message.comment = profile.notes.iter().map(|note| self.text(note)).collect();
        for (id, frame) in (1..).zip(&profile.frames) {
            let location = self.location(id, frame, &mut message);
            message.location.push(location);
        }
        let labels: Vec<Vec<Label>> = profile
            .threads
            .iter()
            .map(|thread| {
                let mut label = |key: &str, str: Option<&str>, num: i32| Label {
                    key: self.text(key),
                    str: str.map_or(0, |text| self.text(text)),
                    num: num.into(),
                };
                vec![
                    label("thread", Some(&thread.name), 0),
                    label("tid", None, thread.tid),
                    label("process", Some(&thread.command), 0),
                    label("pid", None, thread.pid),
                ]
            })
            .collect();
        message.sample = profile
            .stacks
            .iter()
            .map(|stack| Sample {
                location_id: stack
                    .frames
                    .iter()
                    .rev()
                    .map(|&frame| u64::from(frame) + 1)
                    .collect(),
                value: SAMPLE_TYPES
                    .map(|(weight, ..)| signed(stack.weights.get(weight)))
                    .into(),
                label: labels
                    .get(stack.thread as usize)
                    .cloned()
                    .unwrap_or_default(),
            })
            .collect();
        message.string_table = self.texts;
        message
    }

    fn location(&mut self, id: u64, frame: &ResolvedFrame, message: &mut Profile) -> Location {
        let mapping_id = match &frame.module {
            None => 0,
            Some(module) => {
                let filename = self.text(module);
                let next = self.mappings.len() as u64 + 1;
                *self.mappings.entry(filename).or_insert_with(|| {
                    message.mapping.push(Mapping {
                        id: next,
                        filename,
                        // Nobody needs to look for names: those that there are are here.
                        has_functions: true,
                        has_filenames: true,
                        has_line_numbers: true,
                        has_inline_frames: true,
                    });
                    next
                })
            }
        };
        let name = self.text(&frame.function);
        let filename = frame.file.as_deref().map_or(0, |file| self.text(file));
        let next = self.functions.len() as u64 + 1;
        let function_id = *self.functions.entry((name, filename)).or_insert_with(|| {
            message.function.push(Function {
                id: next,
                name,
                system_name: name,
                filename,
            });
            next
        });
        Location {
            id,
            mapping_id,
            line: vec![Line {
                function_id,
                line: frame.line.unwrap_or(0).into(),
            }],
        }
    }
}

/// A weight as pprof has it; nothing real is beyond 2^63.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a period of more than 292 years is cut to that"
)]
fn period_ns(rate_hz: f64) -> i64 {
    if rate_hz > 0.0 {
        (units::ratio(1_000_000_000, 1) / rate_hz) as i64
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::super::example;
    use super::*;

    #[test]
    fn what_is_read_back_is_the_profile() {
        let profile = example::profile();
        let mut bytes = Vec::new();
        write(&profile, Weight::OffCpu, 7, &mut bytes).expect("memory can be written");
        let mut plain = Vec::new();
        GzDecoder::new(&*bytes)
            .read_to_end(&mut plain)
            .expect("it is compressed");
        let message = Profile::decode(&*plain).expect("it is a message");
        let text = |id: i64| message.string_table[usize::try_from(id).expect("an id")].as_str();
        assert_eq!(text(0), "");
        assert_eq!(text(message.default_sample_type), "off_cpu");
        assert_eq!(
            (message.time_nanos, message.duration_nanos),
            (7, 3_000_000_000)
        );
        let sum = |at: usize| {
            message
                .sample
                .iter()
                .map(|sample| sample.value[at])
                .sum::<i64>()
        };
        assert_eq!(sum(1), signed(profile.total().cpu_ns));
        assert_eq!(sum(3), signed(profile.total().off_cpu_ns));
        let function = |id: u64| {
            let location = message.location.iter().find(|location| location.id == id);
            let line = location.expect("each location is there").line[0];
            let function = message
                .function
                .iter()
                .find(|function| function.id == line.function_id);
            text(function.expect("each function is there").name)
        };
        let innermost: Vec<_> = message
            .sample
            .iter()
            .map(|sample| function(sample.location_id[0]))
            .collect();
        assert_eq!(&innermost[2..5], ["main", "[syscall: write]", "[futex]"]);
        assert!(
            message
                .mapping
                .iter()
                .any(|mapping| text(mapping.filename) == "libstore.so.2")
        );
    }
}
