//! Which modules lack names, and how much that matters: what the user should install debug symbols for.

use std::cmp::Reverse;

use crate::profile::ModuleInfo;
use crate::symbols::module_name;

/// A module without names is mentioned from this share of the samples on.
const MENTIONED_FROM_PER_MILLE: u128 = 10;
/// How many modules without names are mentioned.
const MENTIONED_MAX: usize = 10;

/// Counts, per module, addresses without a name and samples that have one in their stack.
#[derive(Debug)]
pub(super) struct Unnamed {
    /// Behind the last module, code that no file backs.
    modules: Vec<Counts>,
    samples: u64,
    /// Stacks begun so far, and the samples of the current one.
    stacks: u64,
    samples_of_stack: u64,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    addresses: u64,
    unnamed_addresses: u64,
    /// Samples with an address without a name in their stack.
    samples: u64,
    /// Which stack was counted last.
    last_stack: u64,
}

impl Unnamed {
    /// Nothing counted for `modules` modules.
    pub(super) fn new(modules: usize) -> Self {
        Self {
            modules: vec![Counts::default(); modules + 1],
            samples: 0,
            stacks: 0,
            samples_of_stack: 0,
        }
    }

    /// Counts an address of the module at position `module`.
    pub(super) fn count_address(&mut self, module: usize, is_named: bool) {
        if let Some(counts) = self.modules.get_mut(module) {
            counts.addresses += 1;
            counts.unnamed_addresses += u64::from(!is_named);
        }
    }

    /// Begins a stack that was seen `samples` times.
    pub(super) fn begin_stack(&mut self, samples: u64) {
        self.stacks += 1;
        self.samples = self.samples.saturating_add(samples);
        self.samples_of_stack = samples;
    }

    /// Counts the current stack for the module at position `module`, once however often it is called.
    pub(super) fn count_in_stack(&mut self, module: usize) {
        if let Some(counts) = self.modules.get_mut(module)
            && counts.last_stack != self.stacks
        {
            counts.last_stack = self.stacks;
            counts.samples = counts.samples.saturating_add(self.samples_of_stack);
        }
    }

    /// The modules that matter, the most important first, each a line.
    pub(super) fn notes(&self, modules: &[ModuleInfo]) -> Vec<String> {
        let mut mentioned: Vec<(&Counts, &ModuleInfo)> = self
            .modules
            .iter()
            .zip(modules)
            .filter(|(counts, _)| counts.samples > 0)
            .filter(|(counts, _)| self.per_mille(counts) >= MENTIONED_FROM_PER_MILLE)
            .collect();
        mentioned.sort_by_key(|(counts, _)| Reverse(counts.samples));
        mentioned.truncate(MENTIONED_MAX);
        let mut notes: Vec<String> = mentioned
            .into_iter()
            .map(|(counts, module)| self.note(counts, module_name(module)))
            .collect();
        notes.extend(self.note_of_anonymous_code());
        notes
    }

    fn note_of_anonymous_code(&self) -> Option<String> {
        let per_mille = self.per_mille(self.modules.last()?);
        (per_mille >= MENTIONED_FROM_PER_MILLE).then(|| {
            format!(
                "code compiled at run time: no names ({}.{} % of samples); a perf map or jitdump would have them, e.g. \
                 of node --perf-basic-prof",
                per_mille / 10,
                per_mille % 10
            )
        })
    }

    fn note(&self, counts: &Counts, name: &str) -> String {
        let missing = if counts.unnamed_addresses == counts.addresses {
            "no symbols".to_owned()
        } else {
            format!(
                "no symbol at {} of {} addresses",
                counts.unnamed_addresses, counts.addresses
            )
        };
        let per_mille = self.per_mille(counts);
        format!(
            "{name}: {missing} ({}.{} % of samples)",
            per_mille / 10,
            per_mille % 10
        )
    }

    fn per_mille(&self, counts: &Counts) -> u128 {
        u128::from(counts.samples) * 1000 / u128::from(self.samples.max(1))
    }
}
