//! What a recording has names for, module by module, and where they come from: `sampler symbols`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::names::lookup_of;
use super::resolve::frames;
use crate::profile::{FrameKey, JitSource, ModuleInfo, Profile};
use crate::symbols::{FileSymbolizer, ModuleSources, NameSource, NameTable, Symbol, Symbolize};

/// All modules in which samples were taken, those with most first.
#[derive(Debug, Default)]
pub struct SymbolsOverview {
    /// How many samples there are.
    pub samples: u64,
    /// Samples with at least one frame of machine code that has no name.
    pub unnamed_samples: u64,
    /// The modules.
    pub modules: Vec<ModuleOverview>,
    /// Code that was compiled at run time, if any was seen.
    pub jit: Option<JitOverview>,
}

/// What is known of a module.
#[derive(Debug)]
pub struct ModuleOverview {
    /// The module.
    pub module: ModuleInfo,
    /// Its files on this machine.
    pub sources: ModuleSources,
    /// How it was seen.
    pub seen: Seen,
    /// How many of its addresses have names from where.
    pub names: BTreeMap<NameSource, u64>,
    /// How many have a source line.
    pub with_line: u64,
}

/// How often something was seen, and without a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Different addresses.
    pub addresses: u64,
    /// Those without a name.
    pub unnamed_addresses: u64,
    /// Samples with one of them in their stack.
    pub samples: u64,
    /// Samples with one in their stack that has no name.
    pub unnamed_samples: u64,
}

/// Code that was compiled at run time.
#[derive(Debug, Default)]
pub struct JitOverview {
    /// How it was seen.
    pub seen: Seen,
    /// How many functions were named by what.
    pub functions: BTreeMap<JitSource, u64>,
}

/// Where code of a frame is: a position in the list of modules, or behind it for code compiled at run time.
#[derive(Clone, Copy, Debug)]
struct Place {
    module: usize,
    is_named: bool,
}

/// Names all addresses of `profile` by `symbolizer`, and says where the names come from.
pub fn overview(profile: &Profile, symbolizer: &mut FileSymbolizer) -> SymbolsOverview {
    let (mut modules, places) = name_all(profile, symbolizer);
    let mut overview = SymbolsOverview::default();
    let mut tally = Tally::new(profile.modules.len() + 1);
    for stack in &profile.stacks {
        let Some(&(innermost, _)) = profile.table.stacks().get(stack.stack.index()) else {
            continue;
        };
        let process = profile
            .threads
            .get(stack.thread.index())
            .map(|thread| thread.process);
        tally.begin_stack(stack.weights.samples);
        for frame in frames(&profile.table, innermost) {
            let Some(place) = places.get(frame.index()).copied().flatten() else {
                continue;
            };
            let key = profile.table.frames().get(frame.index());
            let late = || {
                let address = key?.anonymous_code()?;
                profile.jit.find_whenever(process?, address)
            };
            tally.count(place.module, place.is_named || late().is_some());
        }
        overview.unnamed_samples += if tally.is_unnamed {
            stack.weights.samples
        } else {
            0
        };
        overview.samples += stack.weights.samples;
    }
    let jit = tally.seen.pop().unwrap_or_default();
    for (position, module) in &mut modules {
        if let Some(seen) = tally.seen.get(*position) {
            module.seen.samples = seen.samples;
            module.seen.unnamed_samples = seen.unnamed_samples;
        }
    }
    overview.modules = modules.into_values().collect();
    overview
        .modules
        .sort_by_key(|module| (Reverse(module.seen.samples), module.module.path.clone()));
    overview.jit = (jit.samples > 0 || !profile.jit.codes().is_empty()).then(|| {
        let mut functions = BTreeMap::new();
        for code in profile.jit.codes() {
            *functions.entry(code.source).or_default() += 1;
        }
        JitOverview {
            seen: Seen {
                addresses: count(&places, profile.modules.len(), |_| true),
                unnamed_addresses: count(&places, profile.modules.len(), |place| !place.is_named),
                ..jit
            },
            functions,
        }
    });
    overview
}

fn count(places: &[Option<Place>], module: usize, pleases: impl Fn(&Place) -> bool) -> u64 {
    let of_module = places
        .iter()
        .flatten()
        .filter(|place| place.module == module);
    of_module.filter(|place| pleases(place)).count() as u64
}

/// The modules by position, and for each frame of the table where its code is.
fn name_all(
    profile: &Profile,
    symbolizer: &mut FileSymbolizer,
) -> (BTreeMap<usize, ModuleOverview>, Vec<Option<Place>>) {
    let keys = profile.table.frames();
    let mut places = vec![None; keys.len()];
    let mut by_module: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, (key, place)) in keys.iter().zip(&mut places).enumerate() {
        match key {
            FrameKey::Code {
                module: Some(module),
                ..
            } => by_module.entry(module.index()).or_default().push(index),
            FrameKey::Code { module: None, .. } | FrameKey::Jit { .. } => {
                *place = Some(Place {
                    module: profile.modules.len(),
                    is_named: matches!(key, FrameKey::Jit { .. }),
                });
            }
            _ => {}
        }
    }
    let mut modules = BTreeMap::new();
    for (position, frames) in by_module {
        let Some(module) = profile.modules.get(position) else {
            continue;
        };
        let addresses: Vec<u64> = frames
            .iter()
            .filter_map(|&frame| keys.get(frame))
            .map(|&key| lookup_of(key))
            .collect();
        let symbols = symbolizer.symbolize(module, &addresses);
        for (&frame, symbols) in frames.iter().zip(&symbols) {
            if let Some(place) = places.get_mut(frame) {
                *place = Some(Place {
                    module: position,
                    is_named: symbols.iter().any(has_name),
                });
            }
        }
        let sources = symbolizer.sources(module);
        modules.insert(position, of_module(module, sources, &addresses, &symbols));
    }
    (modules, places)
}

/// What is called after where it starts has no name.
fn has_name(symbol: &Symbol) -> bool {
    symbol.source.table != NameTable::Fde
}

fn of_module(
    module: &ModuleInfo,
    sources: ModuleSources,
    addresses: &[u64],
    symbols: &[Vec<Symbol>],
) -> ModuleOverview {
    // An address can be that of several frames: found in another way, returned to or not.
    let by_address: BTreeMap<u64, &[Symbol]> = addresses
        .iter()
        .copied()
        .zip(symbols.iter().map(Vec::as_slice))
        .collect();
    let mut overview = ModuleOverview {
        module: module.clone(),
        sources,
        seen: Seen {
            addresses: by_address.len() as u64,
            ..Seen::default()
        },
        names: BTreeMap::new(),
        with_line: 0,
    };
    for symbols in by_address.values() {
        match symbols.last().filter(|function| has_name(function)) {
            Some(function) => *overview.names.entry(function.source).or_default() += 1,
            None => overview.seen.unnamed_addresses += 1,
        }
        overview.with_line += u64::from(symbols.iter().any(|symbol| symbol.line.is_some()));
    }
    overview
}

/// Counts samples, each once for a module however often it is in the stack.
#[derive(Debug)]
struct Tally {
    seen: Vec<Seen>,
    /// By module, the stack that was counted last, and the one that was as unnamed.
    last: Vec<(u64, u64)>,
    stack: u64,
    samples: u64,
    is_unnamed: bool,
}

impl Tally {
    fn new(modules: usize) -> Self {
        Self {
            seen: vec![Seen::default(); modules],
            last: vec![(0, 0); modules],
            stack: 0,
            samples: 0,
            is_unnamed: false,
        }
    }

    fn begin_stack(&mut self, samples: u64) {
        self.stack += 1;
        self.samples = samples;
        self.is_unnamed = false;
    }

    fn count(&mut self, module: usize, is_named: bool) {
        let (Some(seen), Some((last, last_unnamed))) =
            (self.seen.get_mut(module), self.last.get_mut(module))
        else {
            return;
        };
        if std::mem::replace(last, self.stack) != self.stack {
            seen.samples += self.samples;
        }
        if !is_named {
            self.is_unnamed = true;
            if std::mem::replace(last_unnamed, self.stack) != self.stack {
                seen.unnamed_samples += self.samples;
            }
        }
    }
}
