//! What `threading` calls threads: `sys.modules['threading']._active[ident]._name` (`Lib/threading.py`, from 3.8 to 3.15
//! the same). Only from 3.14 on the kernel is told, too, and then no more than 15 bytes.
//!
//! It is read while the program runs: some hundred reads to find `_active`, and some twenty for each name. What is read may
//! be freed meanwhile: a name counts when the object that has it says that it is of that very thread, and still has it
//! afterwards.

use rustc_hash::FxHashMap;

use super::layout::Layout;
use super::objects::{self, Entry};
use super::text;
use super::threads::{self, ThreadStates};
use crate::address::Avma;
use crate::memory::MemoryReader;

/// Interpreters of one process whose threads get names: the oldest ones, of which the first is the main one.
const INTERPRETERS_NAMED_MAX: usize = 8;
/// Entries of `sys.modules` among which `threading` is looked for: it is one of the first hundred or so.
const MODULES_MAX: usize = 1 << 12;
/// Entries among which `_active` is looked for.
const GLOBALS_MAX: usize = 1 << 10;
/// Entries of `_active` that are looked at.
const ACTIVE_MAX: usize = 1 << 14;
/// Keys that are compared for one call of [`Names::read`].
const COMPARED_MAX: usize = 1 << 13;
/// Characters of a name. Of a longer one the last ones are shown.
pub(super) const NAME_CHARACTERS_MAX: usize = 200;
/// `PyModuleObject.md_dict` (3.8 to 3.15).
pub(super) const MODULE_DICT: u32 = 16;

/// Where the names of one process are.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// `threading._active` of interpreters in which it was found.
    active: Vec<(Avma, Avma)>,
    name: Word,
    native_id: Word,
    /// Keys that may still be compared.
    compared_left: usize,
}

impl Names {
    /// The names of those of the threads `wanted` that have one, by their numbers.
    pub(super) fn read(
        &mut self,
        layout: &Layout,
        runtime: Avma,
        states: &ThreadStates,
        wanted: &[i32],
        memory: &dyn MemoryReader,
    ) -> Vec<(i32, String)> {
        let mut idents = FxHashMap::default();
        for tid in wanted {
            let states = states.get(tid).into_iter().flatten();
            idents.extend(states.map(|state| (state.thread_id, *tid)));
        }
        self.compared_left = COMPARED_MAX;
        let mut found = Vec::new();
        let interpreters = threads::interpreters(layout, runtime, memory);
        // New ones are put in front.
        for interpreter in interpreters.iter().rev().take(INTERPRETERS_NAMED_MAX) {
            if idents.is_empty() {
                break;
            }
            let Some(active) = self.active(layout, *interpreter, memory) else {
                continue;
            };
            let entries = objects::dict(layout, active, ACTIVE_MAX, memory).unwrap_or_default();
            // No key is in a dictionary twice.
            let mut sought = idents.clone();
            for Entry { hash, value, .. } in entries {
                let Some(tid) = hash.and_then(|hash| sought.remove(&hash)) else {
                    continue;
                };
                if let Some(name) = self.name(layout, value, tid, memory) {
                    idents.retain(|_, other| *other != tid);
                    found.push((tid, name));
                }
            }
        }
        // Perhaps another program is executed by now, and they lie elsewhere.
        if found.is_empty() {
            self.active.clear();
        }
        found
    }

    /// The dictionary `threading._active` of `interpreter`.
    fn active(
        &mut self,
        layout: &Layout,
        interpreter: Avma,
        memory: &dyn MemoryReader,
    ) -> Option<Avma> {
        let modules = objects::pointer(memory, interpreter, layout.objects.modules)?;
        let dict_type = objects::pointer(memory, modules, objects::TYPE)?;
        let is_dict = |at: &Avma| objects::pointer(memory, *at, objects::TYPE) == Some(dict_type);
        let known = self.active.iter().position(|known| known.0 == interpreter);
        if let Some(known) = known {
            let (_, active) = self.active.swap_remove(known);
            if is_dict(&active) {
                self.active.push((interpreter, active));
                return Some(active);
            }
        }
        let left = &mut self.compared_left;
        let mut value_of = |dict, entries_max, key| {
            let entries = objects::dict(layout, dict, entries_max, memory)?;
            Word::default().find(&entries, |at| is(layout, at, key, left, memory))
        };
        let threading = value_of(modules, MODULES_MAX, "threading")?;
        let globals = objects::pointer(memory, threading, MODULE_DICT).filter(is_dict)?;
        let active = value_of(globals, GLOBALS_MAX, "_active").filter(is_dict)?;
        self.active.push((interpreter, active));
        Some(active)
    }

    /// The name of the thread whose object is at `thread`, if that is of the thread `tid`.
    fn name(
        &mut self,
        layout: &Layout,
        thread: Avma,
        tid: i32,
        memory: &dyn MemoryReader,
    ) -> Option<String> {
        let attributes = objects::attributes(layout, thread, memory)?;
        let left = &mut self.compared_left;
        let native_id = self
            .native_id
            .find(&attributes, |at| is(layout, at, "_native_id", left, memory))?;
        let native_id = objects::small_number(layout, native_id, memory)?;
        if i32::try_from(native_id) != Ok(tid) {
            return None;
        }
        let at = self
            .name
            .find(&attributes, |at| is(layout, at, "_name", left, memory))?;
        let key = self.name.0?;
        let type_of = |at| objects::pointer(memory, at, objects::TYPE);
        if type_of(at) != type_of(key) {
            return None;
        }
        let name = text::read(layout, at, NAME_CHARACTERS_MAX, memory)?;
        let after = objects::attributes(layout, thread, memory)?;
        let is_still = after
            .iter()
            .any(|entry| (entry.key, entry.value) == (key, at));
        (is_still && !name.is_empty() && !is_of_a_stranger(&name)).then_some(name)
    }
}

/// What `threading` calls threads that others have started, when they ask for it: `Dummy-7`. Nobody has called them so.
fn is_of_a_stranger(name: &str) -> bool {
    let number = name.strip_prefix("Dummy-");
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether the string at `at` is `text`, as long as there are comparisons `left`.
fn is(layout: &Layout, at: Avma, text: &str, left: &mut usize, memory: &dyn MemoryReader) -> bool {
    match left.checked_sub(1) {
        None => false,
        Some(rest) => {
            *left = rest;
            text::is(layout, at, text, memory)
        }
    }
}

/// Where a string lies that is a key of many dictionaries: those of attributes are interned, and the same everywhere.
#[derive(Clone, Copy, Debug, Default)]
struct Word(Option<Avma>);

impl Word {
    /// The value of the key that is this string, or, if none lies there, that `is_it` says is such a one.
    fn find(&mut self, entries: &[Entry], mut is_it: impl FnMut(Avma) -> bool) -> Option<Avma> {
        let known = self.0;
        let known = entries.iter().find(|entry| Some(entry.key) == known);
        let entry = known.or_else(|| entries.iter().find(|entry| is_it(entry.key)))?;
        self.0 = Some(entry.key);
        Some(entry.value)
    }
}
