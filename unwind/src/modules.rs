//! Which ELF image lies where in a process.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::address::{Avma, LoadBias, Svma};
use crate::elf::{ElfImage, ImageId};

/// One loaded ELF image of a process: several mappings of one file.
#[derive(Clone, Debug)]
pub struct Module {
    /// From its first to its last mapped byte. Other mappings may lie in holes between its segments.
    pub avma: Range<Avma>,
    /// What the loader added to the addresses the file states.
    pub bias: LoadBias,
    /// The parsed file, shared between all processes that map it.
    pub image: Arc<ElfImage>,
}

impl Module {
    /// The address the file states for `avma`.
    pub fn svma(&self, avma: Avma) -> Svma {
        self.bias.svma(avma)
    }
}

/// Tells lists of modules apart; equal only for copies of one list, none of which changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModulesId(u64);

/// The modules of one process by address, and where code may lie at all.
#[derive(Clone, Debug, Default)]
pub struct Modules {
    id: ModulesId,
    modules: Vec<Module>,
    /// Where each module is the one that is found; sorted, and without overlap.
    pieces: Vec<Piece>,
    executable: Vec<Range<Avma>>,
}

/// A stretch of addresses that belongs to one module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) avma: Range<Avma>,
    pub(crate) module: usize,
    /// The module's own, kept here because a walk looks at them for each frame.
    pub(crate) bias: LoadBias,
    pub(crate) image: ImageId,
}

impl Modules {
    /// `modules` in any order; `executable` are all executable mappings, also those without a file (JIT code).
    ///
    /// Where modules overlap, because one lies in a hole of another or because hostile input claims it, the one that
    /// starts last below an address is found.
    pub fn new(mut modules: Vec<Module>, mut executable: Vec<Range<Avma>>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        modules.sort_by_key(|module| module.avma.start);
        executable.sort_by_key(|range| range.start);
        Self {
            id: ModulesId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            pieces: pieces_of(&modules),
            modules,
            executable,
        }
    }

    /// Identifies this list.
    pub(crate) fn id(&self) -> ModulesId {
        self.id
    }

    /// Whether any two modules share addresses.
    pub(crate) fn overlap(&self) -> bool {
        self.modules
            .iter()
            .zip(self.modules.iter().skip(1))
            .any(|(inner, outer)| outer.avma.start < inner.avma.end)
    }

    /// The module that `avma` lies in.
    pub fn find(&self, avma: Avma) -> Option<&Module> {
        self.modules.get(self.find_index(avma)?)
    }

    /// The position in [`Modules::iter`] of the module that `avma` lies in.
    pub fn find_index(&self, avma: Avma) -> Option<usize> {
        self.find_piece(avma).map(|piece| piece.module)
    }

    /// The stretch that `avma` lies in, for callers that expect the next address close by.
    pub(crate) fn find_piece(&self, avma: Avma) -> Option<&Piece> {
        let after = self
            .pieces
            .partition_point(|piece| piece.avma.start <= avma);
        self.pieces
            .get(after.checked_sub(1)?)
            .filter(|piece| avma < piece.avma.end)
    }

    /// The module at `index` in [`Modules::iter`].
    pub(crate) fn get(&self, index: usize) -> Option<&Module> {
        self.modules.get(index)
    }

    /// Whether code may lie at `avma`.
    pub fn is_executable(&self, avma: Avma) -> bool {
        let after = self.executable.partition_point(|range| range.start <= avma);
        after
            .checked_sub(1)
            .and_then(|index| self.executable.get(index))
            .is_some_and(|range| avma < range.end)
    }

    /// All modules by ascending address.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Module> {
        self.modules.iter()
    }
}

/// Cuts modules, sorted by their starts, into pieces that do not overlap.
fn pieces_of(modules: &[Module]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(modules.len());
    // Modules that began and may not have ended, the one that began last on top.
    let mut open: Vec<usize> = Vec::new();
    let mut at = Avma(0);
    let starts = modules.iter().map(|module| module.avma.start);
    for (next, start) in (0..).zip(starts.chain([Avma(u64::MAX)])) {
        while let Some((index, module)) = open
            .last()
            .and_then(|index| Some((*index, modules.get(*index)?)))
        {
            if module.avma.end > at && at < start {
                let upto = module.avma.end.min(start);
                pieces.push(Piece {
                    avma: at..upto,
                    module: index,
                    bias: module.bias,
                    image: module.image.id(),
                });
                at = upto;
            }
            if at >= start {
                break;
            }
            open.pop();
        }
        at = start;
        open.push(next);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::elf::test_images::empty_image;

    fn modules(ranges: &[(u64, u64)]) -> Modules {
        let image = Arc::new(empty_image());
        let module = |&(start, length): &(u64, u64)| Module {
            avma: Avma(start)..Avma(start + length),
            bias: LoadBias(0),
            image: Arc::clone(&image),
        };
        Modules::new(ranges.iter().map(module).collect(), Vec::new())
    }

    #[test]
    fn a_module_goes_on_behind_another_that_lies_in_its_hole() {
        let modules = modules(&[(0x1000, 0x3000), (0x2000, 0x1000)]);
        let found = |avma| modules.find_index(Avma(avma));
        assert_eq!(
            [
                0xfff, 0x1000, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3fff, 0x4000
            ]
            .map(found),
            [
                None,
                Some(0),
                Some(0),
                Some(1),
                Some(1),
                Some(0),
                Some(0),
                None
            ]
        );
    }

    proptest! {
        #[test]
        fn the_module_that_starts_last_is_found(
            ranges in prop::collection::vec((0u64..64, 0u64..32), 0..12),
            at in 0u64..100,
        ) {
            let modules = modules(&ranges);
            let expected = modules
                .iter()
                .filter(|module| module.avma.contains(&Avma(at)))
                .map(|module| module.avma.start)
                .max();
            prop_assert_eq!(modules.find(Avma(at)).map(|module| module.avma.start), expected);
        }
    }
}
