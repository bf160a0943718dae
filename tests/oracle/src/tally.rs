//! What came of all comparisons, by address and by cause.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use sampler_unwind::{Avma, ElfImage, FrameOrigin, Stack, StackEnd, Svma};

use crate::images::Images;
use crate::verdict::{Judged, Verdict};

/// An address in a file, or without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The position in [`Tally::modules`]; `None` outside of all.
    pub(crate) module: Option<usize>,
    /// The address the file states, or that in the process.
    pub(crate) svma: Svma,
}

/// How often each verdict was given.
pub(crate) type Counts = [u64; Verdict::COUNT];

/// A file in which instructions were looked at.
#[derive(Debug)]
pub(crate) struct ModuleTally {
    /// Its path.
    pub(crate) name: String,
    /// The file.
    pub(crate) image: Option<Arc<ElfImage>>,
    /// The innermost addresses, with the verdicts on stacks that began there.
    pub(crate) addresses: FxHashMap<Svma, Counts>,
}

/// A frame from which the walk went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// Its address.
    pub(crate) at: Place,
    /// Whether it is the innermost frame.
    pub(crate) is_innermost: bool,
}

/// What went wrong first at a [`Fault`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Example {
    /// The innermost address of that stack.
    pub(crate) pc: Place,
    /// What was found as the caller, and how.
    pub(crate) found: Option<(Place, FrameOrigin)>,
    /// What the caller is; `None` if there is none.
    pub(crate) truth: Option<Place>,
    /// How the stack ended.
    pub(crate) end: StackEnd,
}

/// All verdicts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By file, with one for what lies in none.
    pub(crate) modules: Vec<ModuleTally>,
    /// By the frame at fault.
    pub(crate) faults: FxHashMap<Fault, (Counts, Example)>,
    /// Instructions on a stack that the shadow does not follow.
    pub(crate) unjudged: u64,
    by_name: FxHashMap<String, usize>,
    /// For the module at each index in the target, the position in `modules`.
    current: Vec<usize>,
}

impl Tally {
    /// To be called when `images` have changed.
    pub(crate) fn settle(&mut self, images: &Images) {
        self.current.clear();
        for (index, module) in images.modules().iter().enumerate() {
            let image = Some(Arc::clone(&module.image));
            let position = self.position(images.name(index), image);
            self.current.push(position);
        }
    }

    /// Counts the verdict on `stack`.
    pub(crate) fn count(&mut self, images: &Images, stack: &Stack, truth: &[u64], judged: Judged) {
        let Some(first) = stack.frames.first() else {
            return;
        };
        let pc = self.place(images, first.address);
        let module = match pc.module {
            Some(module) => module,
            None => self.position("(no file)", None),
        };
        let verdict = judged.verdict as usize;
        let at = self.modules.get_mut(module);
        if let Some(module) = at {
            module.addresses.entry(pc.svma).or_default()[verdict] += 1;
        }
        if judged.verdict == Verdict::Exact {
            return;
        }
        let failed = stack.frames.get(judged.failed_at).unwrap_or(first);
        let fault = Fault {
            at: self.place(images, failed.address),
            is_innermost: judged.failed_at == 0,
        };
        let example = Example {
            pc,
            found: stack
                .frames
                .get(judged.failed_at + 1)
                .map(|frame| (self.place(images, frame.address), frame.origin)),
            truth: truth
                .get(judged.failed_at)
                .map(|truth| self.place(images, Avma(*truth))),
            end: stack.end,
        };
        self.faults
            .entry(fault)
            .or_insert(([0; Verdict::COUNT], example))
            .0[verdict] += 1;
    }

    fn place(&self, images: &Images, at: Avma) -> Place {
        let modules = images.modules();
        let index = modules.find_index(at);
        match (index, modules.find(at)) {
            (Some(index), Some(module)) => Place {
                module: self.current.get(index).copied(),
                svma: module.svma(at),
            },
            _ => Place {
                module: None,
                svma: Svma(at.0),
            },
        }
    }

    fn position(&mut self, name: &str, image: Option<Arc<ElfImage>>) -> usize {
        if let Some(position) = self.by_name.get(name) {
            return *position;
        }
        let position = self.modules.len();
        self.by_name.insert(name.to_owned(), position);
        self.modules.push(ModuleTally {
            name: name.to_owned(),
            image,
            addresses: FxHashMap::default(),
        });
        position
    }
}
