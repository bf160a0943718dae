//! What each frame of a recording is called: every address is looked up once, every frame is made once.

use rustc_hash::FxHashMap;

use super::frame_names::{
    interpreted_frame, jit_frame, named_frame, special_frame, unknown_frame, wait_frame,
};
use super::{By, functions};
use crate::profile::{FrameKey, FrameKind, Profile, ResolvedFrame};
use crate::symbols::{NameTable, Symbolize};

/// Resolved frames, each once.
#[derive(Debug, Default)]
pub(super) struct FrameSet {
    /// By position.
    pub(super) frames: Vec<ResolvedFrame>,
    ids: FxHashMap<ResolvedFrame, u32>,
}

impl FrameSet {
    /// The position of `frame`.
    pub(super) fn add(&mut self, frame: ResolvedFrame) -> u32 {
        if let Some(&id) = self.ids.get(&frame) {
            return id;
        }
        // There are fewer frames than there are addresses and lines in memory, far below 2^32.
        let id = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        self.frames.push(frame.clone());
        self.ids.insert(frame, id);
        id
    }
}

/// What each frame of the table is called.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The frames that the expansions are of.
    pub(super) frames: FrameSet,
    /// By `FrameId`.
    pub(super) expansions: Vec<Expansion>,
}

/// The resolved frames that one frame of the table stands for.
#[derive(Clone, Debug, Default)]
pub(super) struct Expansion {
    /// Innermost first: inlined functions, then the one whose code it is.
    pub(super) frames: Vec<u32>,
    /// Position of the module whose code has no name here; behind the last for code that no file backs.
    pub(super) unnamed_module: Option<usize>,
    /// Whether it is a remark of ours.
    pub(super) is_note: bool,
    /// Whether it marks that the thread held its interpreter's lock.
    pub(super) is_lock: bool,
}

impl Names {
    /// Asks `symbolizer`, module by module.
    pub(super) fn of(profile: &Profile, symbolizer: &mut dyn Symbolize, by: By) -> Self {
        let keys = profile.table.frames();
        let mut names = Self {
            expansions: vec![Expansion::default(); keys.len()],
            ..Self::default()
        };
        let mut by_module: Vec<Vec<usize>> = vec![Vec::new(); profile.modules.len()];
        let function_names = functions::names(&profile.functions);
        for (index, &key) in keys.iter().enumerate() {
            if key == FrameKey::HoldsLock {
                names.mark_lock(index);
                continue;
            }
            if let FrameKey::Interpreted {
                function,
                line,
                precision,
                kind,
            } = key
            {
                let function = function.index();
                let name = function_names.get(function).copied().unwrap_or_default();
                let function = profile.functions.get(function);
                let frame = function
                    .map(|function| interpreted_frame(function, name, (line, precision), kind, by));
                names.set(index, frame, None);
                continue;
            }
            if let FrameKey::BlockedOn(wait) = key {
                let wait = profile.waits.get(wait.index());
                names.set(index, wait.map(wait_frame), None);
                continue;
            }
            match special_frame(key).or_else(|| named_jit_frame(profile, key)) {
                Some(frame) => names.set(index, [frame], None),
                None => match module_of(key).and_then(|module| by_module.get_mut(module)) {
                    Some(of_module) => of_module.push(index),
                    None => {
                        let frame = unknown_frame(None, address_of(key));
                        let is_anonymous = key.anonymous_code().is_some();
                        let counted = is_anonymous.then_some(profile.modules.len());
                        names.set(index, [frame], counted);
                    }
                },
            }
        }
        for (module, indices) in by_module.iter().enumerate() {
            if !indices.is_empty() {
                names.add_module(profile, module, indices, symbolizer, by);
            }
        }
        names
    }

    /// Names the frames at `indices` in the table, all of the module at position `module`.
    fn add_module(
        &mut self,
        profile: &Profile,
        module: usize,
        indices: &[usize],
        symbolizer: &mut dyn Symbolize,
        by: By,
    ) {
        let Some(info) = profile.modules.get(module) else {
            return;
        };
        let keys = profile.table.frames();
        let key = |index: &usize| keys.get(*index).copied().unwrap_or(FrameKey::NoStack);
        let mut addresses: Vec<u64> = indices.iter().map(|index| lookup_of(key(index))).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let symbols = symbolizer.symbolize(info, &addresses);
        for index in indices {
            let at = addresses.binary_search(&lookup_of(key(index))).ok();
            let symbols = at
                .and_then(|at| symbols.get(at))
                .filter(|at| !at.is_empty());
            match symbols {
                Some(symbols) => {
                    let frames = symbols
                        .iter()
                        .map(|symbol| named_frame(info, symbol.clone(), by));
                    let is_made_up = symbols
                        .iter()
                        .any(|symbol| symbol.source.table == NameTable::Fde);
                    self.set(*index, frames, is_made_up.then_some(module));
                }
                None => {
                    let frame = unknown_frame(Some(info), address_of(key(index)));
                    self.set(*index, [frame], Some(module));
                }
            }
        }
    }

    /// Makes the frame at `index` of the table stand for `frames`, innermost first.
    fn set(
        &mut self,
        index: usize,
        frames: impl IntoIterator<Item = ResolvedFrame>,
        unnamed_module: Option<usize>,
    ) {
        let mut is_note = false;
        let frames = frames
            .into_iter()
            .map(|frame| {
                is_note |= frame.kind == FrameKind::Note;
                self.frames.add(frame)
            })
            .collect();
        if let Some(expansion) = self.expansions.get_mut(index) {
            *expansion = Expansion {
                frames,
                unnamed_module,
                is_note,
                is_lock: false,
            };
        }
    }

    /// Makes the frame at `index` of the table stand for no frame, but for the mark of a lock that is held.
    fn mark_lock(&mut self, index: usize) {
        if let Some(expansion) = self.expansions.get_mut(index) {
            *expansion = Expansion {
                is_lock: true,
                ..Expansion::default()
            };
        }
    }
}

/// The frame of code that was compiled at run time.
fn named_jit_frame(profile: &Profile, key: FrameKey) -> Option<ResolvedFrame> {
    match key {
        FrameKey::Jit {
            code,
            address,
            is_return_address,
        } => {
            let lookup_address = address.saturating_sub(u64::from(is_return_address));
            Some(jit_frame(profile.jit.get(code)?, lookup_address))
        }
        _ => None,
    }
}

/// The position of its module, for code that is in one.
pub(super) fn module_of(key: FrameKey) -> Option<usize> {
    match key {
        FrameKey::Code { module, .. } => module.map(|module| module.index()),
        _ => None,
    }
}

fn address_of(key: FrameKey) -> u64 {
    match key {
        FrameKey::Code { address, .. } | FrameKey::Jit { address, .. } => address,
        _ => 0,
    }
}

/// Inside the call for a return address: the call may be the last instruction of its function.
pub(super) fn lookup_of(key: FrameKey) -> u64 {
    match key {
        FrameKey::Code {
            address,
            is_return_address,
            ..
        } => address.saturating_sub(u64::from(is_return_address)),
        _ => 0,
    }
}
