//! `sampler symbols`: what there are names for, from where, and how to get the rest; and packs of them for elsewhere.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, bail};
use serde::Serialize;

use super::advice::{Distribution, advice};
use super::options::{Input, PackOptions, SymbolsOptions};
use super::output_file;
use super::reading::read_profile;
use crate::profile::{FrameKey, JitSource, ModuleInfo, Profile};
use crate::report::{ModuleOverview, Seen, SymbolsOverview, overview};
use crate::symbols::Symbolize;

/// Lists the modules of a recording.
///
/// # Errors
/// When it cannot be read, or nothing be printed.
pub fn run(options: &SymbolsOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let recording = read_profile(&options.input)?;
    let mut symbolizer = options.symbols.symbolizer()?;
    let overview = overview(&recording.profile, &mut symbolizer);
    let mut notes = recording.remarks;
    notes.extend(symbolizer.notes());
    let listing = Listing::new(&overview, notes);
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &listing)?;
        writeln!(out)?;
    } else {
        listing.write(out)?;
    }
    Ok(())
}

/// Writes a symbol pack.
///
/// # Errors
/// When the recording cannot be read, or the pack not be written.
pub fn pack(options: &PackOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let path = &options.output;
    if matches!(&options.input, Input::File(input) if input == path) {
        bail!(
            "{} is the recording, and not to be overwritten",
            path.display()
        );
    }
    let recording = read_profile(&options.input)?;
    let mut symbolizer = options.symbols.symbolizer()?;
    let modules = sampled_modules(&recording.profile);
    let cannot_write = || format!("cannot write {}", path.display());
    let file = output_file::create(path).with_context(cannot_write)?;
    let packed = symbolizer.pack(&modules, BufWriter::new(file));
    if packed.is_err() {
        // What there is of it is of no use.
        let _left_behind = std::fs::remove_file(path);
    }
    let summary = packed.with_context(cannot_write)?;
    for note in recording.remarks.iter().chain(&summary.notes) {
        writeln!(out, "note: {note}")?;
    }
    let bytes = std::fs::metadata(path).with_context(cannot_write)?.len();
    writeln!(
        out,
        "{}: {} files that ran and {} debug files of {} modules, {:.1} MB",
        path.display(),
        summary.modules,
        summary.debug_files,
        modules.len(),
        bytes as f64 / 1e6
    )?;
    writeln!(
        out,
        "elsewhere: sampler report --symbols {}",
        path.display()
    )?;
    Ok(())
}

/// The modules in which samples were taken and that are files.
fn sampled_modules(profile: &Profile) -> Vec<ModuleInfo> {
    let mut is_sampled = vec![false; profile.modules.len()];
    for key in profile.table.frames() {
        if let FrameKey::Code {
            module: Some(module),
            ..
        } = key
            && let Some(is_sampled) = is_sampled.get_mut(module.index())
        {
            *is_sampled = true;
        }
    }
    profile
        .modules
        .iter()
        .zip(is_sampled)
        .filter(|(module, is_sampled)| *is_sampled && module.image.is_none())
        .map(|(module, _)| module.clone())
        .collect()
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Listing {
    samples: u64,
    /// Samples with an address in their stack that has no name.
    unnamed_samples: u64,
    modules: Vec<Module>,
    jit: Option<Jit>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Module {
    path: String,
    build_id: Option<String>,
    samples: u64,
    unnamed_samples: u64,
    addresses: u64,
    unnamed_addresses: u64,
    addresses_with_line: u64,
    /// The file that ran, and its separate debug file, where they are here.
    file: Option<String>,
    debug_file: Option<String>,
    names: Vec<Names>,
    /// What would get what is missing.
    advice: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Names {
    from: String,
    addresses: u64,
}

#[derive(Debug, Serialize)]
struct Jit {
    samples: u64,
    unnamed_samples: u64,
    addresses: u64,
    unnamed_addresses: u64,
    functions_in_perf_maps: u64,
    functions_in_jitdumps: u64,
}

impl Listing {
    fn new(overview: &SymbolsOverview, notes: Vec<String>) -> Self {
        let distribution = Distribution::here();
        let modules = overview.modules.iter();
        Self {
            samples: overview.samples,
            unnamed_samples: overview.unnamed_samples,
            modules: modules
                .map(|module| Module::new(module, &distribution))
                .collect(),
            jit: overview.jit.as_ref().map(|jit| {
                let functions = |source| jit.functions.get(&source).copied().unwrap_or(0);
                let Seen {
                    addresses,
                    unnamed_addresses,
                    samples,
                    unnamed_samples,
                } = jit.seen;
                Jit {
                    samples,
                    unnamed_samples,
                    addresses,
                    unnamed_addresses,
                    functions_in_perf_maps: functions(JitSource::PerfMap),
                    functions_in_jitdumps: functions(JitSource::JitDump),
                }
            }),
            notes,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{} samples; {} with code that has no name in them",
            self.samples,
            self.percent(self.unnamed_samples)
        )?;
        for module in &self.modules {
            self.write_module(module, out)?;
        }
        if let Some(jit) = &self.jit {
            self.write_jit(jit, out)?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        Ok(())
    }

    fn write_module(&self, module: &Module, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\n{}", module.path)?;
        writeln!(
            out,
            "    seen in     {} of samples, without a name in {}",
            self.percent(module.samples),
            self.percent(module.unnamed_samples)
        )?;
        if let Some(build_id) = &module.build_id {
            writeln!(out, "    build ID    {build_id}")?;
        }
        if let Some(debug_file) = &module.debug_file {
            writeln!(out, "    debug file  {debug_file}")?;
        }
        for names in &module.names {
            writeln!(
                out,
                "    names       {} of {} addresses from {}",
                names.addresses, module.addresses, names.from
            )?;
        }
        if module.unnamed_addresses > 0 {
            writeln!(
                out,
                "    missing     names of {} of {} addresses",
                module.unnamed_addresses, module.addresses
            )?;
        }
        writeln!(
            out,
            "    lines       {} of {} addresses",
            module.addresses_with_line, module.addresses
        )?;
        for line in &module.advice {
            writeln!(out, "    to get more {line}")?;
        }
        Ok(())
    }

    fn write_jit(&self, jit: &Jit, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\ncode compiled at run time")?;
        writeln!(
            out,
            "    seen in     {} of samples, without a name in {}",
            self.percent(jit.samples),
            self.percent(jit.unnamed_samples)
        )?;
        for (functions, from) in [
            (jit.functions_in_perf_maps, "perf maps"),
            (jit.functions_in_jitdumps, "jitdumps"),
        ] {
            if functions > 0 {
                writeln!(out, "    names       {functions} functions from {from}")?;
            }
        }
        if jit.unnamed_addresses > 0 {
            writeln!(
                out,
                "    missing     names of {} of {} addresses",
                jit.unnamed_addresses, jit.addresses
            )?;
            writeln!(
                out,
                "    to get more let the program write a perf map or jitdump: node --perf-basic-prof, \
                 DOTNET_PerfMapEnabled=1, erl +JPperf true"
            )?;
        }
        Ok(())
    }

    fn percent(&self, samples: u64) -> String {
        format!(
            "{:.1} %",
            samples as f64 * 100.0 / self.samples.max(1) as f64
        )
    }
}

impl Module {
    fn new(overview: &ModuleOverview, distribution: &Distribution) -> Self {
        let path = |path: &std::path::PathBuf| path.display().to_string();
        let ModuleOverview {
            module,
            sources,
            seen,
            ..
        } = overview;
        Self {
            path: module.path.clone(),
            build_id: module.build_id.as_ref().map(ToString::to_string),
            samples: seen.samples,
            unnamed_samples: seen.unnamed_samples,
            addresses: seen.addresses,
            unnamed_addresses: seen.unnamed_addresses,
            addresses_with_line: overview.with_line,
            file: sources.main.as_ref().map(path),
            debug_file: sources.debug.as_ref().map(path),
            names: overview
                .names
                .iter()
                .map(|(source, &addresses)| Names {
                    from: source.to_string(),
                    addresses,
                })
                .collect(),
            advice: advice(overview, distribution),
        }
    }
}
