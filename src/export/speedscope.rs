//! speedscope's own format (www.speedscope.app/file-format-schema.json): one profile for each thread, in the order of time.

use std::io::{self, Write};

use serde::Serialize;

use super::moments::shares;
use super::roots::{process_label, thread_label};
use crate::profile::{ResolvedProfile, Weight};

/// Writes `profile` by `weight`.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(profile: &ResolvedProfile, weight: Weight, out: &mut impl Write) -> io::Result<()> {
    let mut threads: Vec<Sampled<'_>> = profile
        .threads
        .iter()
        .map(|thread| Sampled {
            r#type: "sampled",
            name: format!("{} of {}", thread_label(thread), process_label(thread)),
            unit: match weight {
                Weight::Samples => "none",
                Weight::Cpu | Weight::Wall | Weight::OffCpu | Weight::RunQueue => "nanoseconds",
            },
            start_value: 0,
            end_value: 0,
            last: None,
            samples: Vec::new(),
            weights: Vec::new(),
        })
        .collect();
    let shares = shares(profile, weight, |value| value);
    let moments = profile.moments.iter().map(|moment| moment.stack);
    let seen = moments.zip(shares.of_moments.iter().copied());
    for (position, value) in seen.chain(shares.unseen.iter().copied()) {
        let Some(stack) = profile.stacks.get(position as usize) else {
            continue;
        };
        if let Some(thread) = threads.get_mut(stack.thread as usize).filter(|_| value > 0) {
            thread.add(position, &stack.frames, value);
        }
    }
    threads.retain(|thread| !thread.samples.is_empty());
    threads.sort_by_key(|thread| std::cmp::Reverse(thread.end_value));
    let document = Document {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: concat!("sampler ", env!("CARGO_PKG_VERSION")),
        shared: Shared {
            frames: profile
                .frames
                .iter()
                .map(|frame| Frame {
                    name: &frame.function,
                    file: frame.file.as_deref().or(frame.module.as_deref()),
                    line: frame.line,
                })
                .collect(),
        },
        active_profile_index: 0,
        profiles: threads,
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    shared: Shared<'a>,
    active_profile_index: usize,
    profiles: Vec<Sampled<'a>>,
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<Frame<'a>>,
}

#[derive(Serialize)]
struct Frame<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled<'a> {
    r#type: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    /// The stack of the last sample.
    #[serde(skip)]
    last: Option<u32>,
    /// Outermost frame first.
    samples: Vec<&'a [u32]>,
    weights: Vec<u64>,
}

impl<'a> Sampled<'a> {
    /// Appends a sample, or lets the last one take longer.
    fn add(&mut self, stack: u32, frames: &'a [u32], value: u64) {
        self.end_value = self.end_value.saturating_add(value);
        match self.weights.last_mut() {
            Some(last) if self.last == Some(stack) => *last = last.saturating_add(value),
            _ => {
                self.last = Some(stack);
                self.samples.push(frames);
                self.weights.push(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn each_thread_is_a_profile_in_the_order_of_time() {
        let profile = example::in_time();
        let text = example::written(|out| write(&profile, Weight::Cpu, out));
        let document: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let of = |at: usize| &document["profiles"][at];
        assert_eq!(of(0)["name"], "server (4711) of ./server --port 80 (4711)");
        assert_eq!(of(0)["unit"], "nanoseconds");
        assert_eq!(of(0)["samples"][0], serde_json::json!([0, 1, 2, 3]));
        let mut whole = 0;
        for thread in document["profiles"].as_array().expect("a list") {
            let weights = thread["weights"].as_array().expect("a list");
            assert_eq!(
                Some(weights.len()),
                thread["samples"].as_array().map(Vec::len)
            );
            let sum: u64 = weights.iter().filter_map(serde_json::Value::as_u64).sum();
            assert_eq!(thread["endValue"], sum);
            whole += sum;
        }
        assert_eq!(whole, profile.total().cpu_ns);
        assert_eq!(document["shared"]["frames"][3]["line"], 7);
    }
}
