//! Names of threads in a memory that is laid out by hand, as each version would, and damaged.

use std::cell::Cell;

use proptest::prelude::*;

use super::hints::Hints;
use super::layout::{Layout, PythonVersion};
use super::names::{MODULE_DICT, NAME_CHARACTERS_MAX, Names};
use super::objects::{self, Attributes, Keys, ObjectLayout};
use super::threads::{ThreadState, ThreadStates};
use crate::address::Avma;
use crate::memory::{MemoryReader, ReadError, SliceMemory};

const START: u64 = 0x10000;
const TID: i32 = 777;
const IDENT: u64 = 0x7f12_3456_7640;
/// What the objects of a test are given for types: nothing is read of these.
const TEXT: u64 = 0x1111_0000;
const NUMBER: u64 = 0x2222_0000;
const DICT: u64 = 0x3333_0000;
/// Behind the last field of an interpreter and of a class that is read.
const INTERPRETER_BYTES: usize = 8000;
const CLASS_BYTES: usize = 900;

/// That of 3.8 to 3.12, and one as 3.13 and later state it.
fn layouts() -> Vec<Layout> {
    let of = |minor| *Layout::of(PythonVersion { minor, micro: None }).unwrap();
    let mut layouts: Vec<Layout> = (8..=12).map(of).collect();
    let stated = ObjectLayout {
        modules: 7656,
        cached_keys: 880,
        keys: Keys::Kinds,
        attributes: Attributes::Inline,
        values: 8,
        one_digit: 8,
    };
    layouts.push(Layout {
        objects: stated,
        ..of(12)
    });
    layouts
}

/// Where the attributes of a thread's object are.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// Where those of most objects are: its keys are shared with others of its class.
    Shared,
    /// In a dictionary that shares its keys.
    SharedDict,
    /// In a dictionary of its own.
    OwnDict,
}

const ALL_KEPT: [Kept; 3] = [Kept::Shared, Kept::SharedDict, Kept::OwnDict];

/// What the object of the thread says.
#[derive(Clone, Copy, Debug)]
struct Said<'a> {
    name: &'a str,
    name_type: u64,
    native_id: u32,
    /// Places in the hash table of `_active`.
    places: u64,
}

const SAID: Said<'static> = Said {
    name: "writer of pages",
    name_type: TEXT,
    native_id: TID.cast_unsigned(),
    places: 8,
};

struct Heap {
    layout: Layout,
    bytes: Vec<u8>,
}

impl Heap {
    fn new(layout: Layout) -> Self {
        Self {
            layout,
            bytes: Vec::new(),
        }
    }

    fn take(&mut self, bytes: usize) -> u64 {
        let at = self.bytes.len().next_multiple_of(16);
        self.bytes.resize(at + bytes, 0);
        START + at as u64
    }

    fn put(&mut self, at: u64, word: u64) {
        let at = usize::try_from(at - START).unwrap();
        self.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn object(&mut self, kind: u64, words: &[u64]) -> u64 {
        let at = self.take(16 + words.len() * 8);
        self.put(at + u64::from(objects::TYPE), kind);
        for (offset, word) in (16..).step_by(8).zip(words) {
            self.put(at + offset, *word);
        }
        at
    }

    fn text(&mut self, kind: u64, text: &str) -> u64 {
        let header = self.layout.ascii_header as usize;
        let at = self.take(header + text.len());
        self.put(at + u64::from(objects::TYPE), kind);
        self.put(at + 16, text.len() as u64);
        self.put(at + 32, 1 << 2 | 0x60);
        let from = usize::try_from(at - START).unwrap() + header;
        self.bytes[from..from + text.len()].copy_from_slice(text.as_bytes());
        at
    }

    fn number(&mut self, number: u32) -> u64 {
        let size = self.layout.objects.one_digit;
        self.object(NUMBER, &[size, number.into()])
    }

    /// A table of keys with a hash table of `places`; `entries` are hash, key and value.
    fn keys(&mut self, places: u64, entries: &[(u64, u64, u64)], are_texts: bool) -> u64 {
        let width = match places {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        };
        let count = entries.len() as u64;
        let is_short = are_texts && self.layout.objects.keys == Keys::Kinds;
        let header: &[u64] = match self.layout.objects.keys {
            Keys::Sized => &[1, places, 0, 0, count],
            Keys::Kinds => {
                let (log, log_bytes) = (places.ilog2(), (places * width).ilog2());
                let kinds = log | log_bytes << 8 | u32::from(is_short) << 16;
                &[1, kinds.into(), 0, count]
            }
        };
        let words = header.len() * 8 + usize::try_from(places * width).unwrap();
        let at = self.take(words + entries.len() * 24);
        for (offset, word) in (0..).step_by(8).zip(header) {
            self.put(at + offset, *word);
        }
        let mut to = at + words as u64;
        for (hash, key, value) in entries {
            let words = [*hash, *key, *value];
            for word in words.iter().skip(usize::from(is_short)) {
                self.put(to, *word);
                to += 8;
            }
        }
        at
    }

    fn dict(&mut self, keys: u64, values: u64) -> u64 {
        self.object(DICT, &[0, 0, keys, values])
    }

    /// A dictionary whose keys are texts, with some others before the last one.
    fn dict_with(&mut self, key: &str, value: u64) -> u64 {
        let others = ["sys", "_abc", "t", "_limbo_", "threadinG"];
        let mut entries: Vec<_> = others
            .iter()
            .map(|other| (5, self.text(TEXT, other), START))
            .collect();
        entries.push((5, 0, 0)); // was taken out
        entries.push((5, self.text(TEXT, key), value));
        let keys = self.keys(16, &entries, true);
        self.dict(keys, 0)
    }

    /// An array of values, behind what lies before it.
    fn values(&mut self, values: &[u64]) -> u64 {
        let before = u64::from(self.layout.objects.values);
        let at = self.take(8 + values.len() * 8);
        for (offset, value) in (before..).step_by(8).zip(values) {
            self.put(at + offset, *value);
        }
        at
    }

    /// The object of a thread with these attributes.
    fn thread(&mut self, attributes: &[(&str, u64)], kept: Kept) -> u64 {
        let ObjectLayout {
            attributes: way,
            cached_keys,
            ..
        } = self.layout.objects;
        let values: Vec<u64> = attributes.iter().map(|(_, value)| *value).collect();
        let keys: Vec<_> = attributes
            .iter()
            .map(|(key, _)| (5, self.text(TEXT, key), 0))
            .collect();
        let shared_keys = self.keys(16, &keys, true);
        let own: Vec<_> = keys
            .iter()
            .zip(&values)
            .map(|((hash, key, _), value)| (*hash, *key, *value))
            .collect();
        let class = self.take(CLASS_BYTES);
        self.put(class + u64::from(cached_keys), shared_keys);
        let is_managed = way != Attributes::Dict;
        let flags = match way {
            Attributes::Dict => 0,
            Attributes::ValuesAndDict | Attributes::ValuesOrDict => objects::MANAGED_DICT,
            Attributes::Inline => objects::MANAGED_DICT | objects::INLINE_VALUES,
        };
        self.put(class + u64::from(objects::FLAGS), flags | 1 << 9);
        self.put(class + u64::from(objects::BASIC_SIZE), 16);
        let offset = if is_managed { u64::MAX } else { 16 };
        self.put(class + u64::from(objects::DICT_OFFSET), offset);
        let object = self.take(48 + 24 + values.len() * 8) + 48;
        self.put(object + u64::from(objects::TYPE), class);
        let shared_values = self.values(&values);
        let dict = match kept {
            Kept::Shared if is_managed => 0,
            Kept::Shared | Kept::SharedDict => self.dict(shared_keys, shared_values),
            Kept::OwnDict => {
                let keys = self.keys(16, &own, true);
                self.dict(keys, 0)
            }
        };
        match (way, dict) {
            (Attributes::Dict, dict) => self.put(object + 16, dict),
            (Attributes::ValuesAndDict, 0) => self.put(object - 32, shared_values),
            (Attributes::ValuesOrDict, 0) => self.put(object - 24, shared_values - 1),
            (Attributes::Inline, 0) => {
                self.put(object + 16, 1 << 24 | 1 << 16 | 0x0e1e);
                for (offset, value) in (24..).step_by(8).zip(&values) {
                    self.put(object + offset, *value);
                }
            }
            (_, dict) => self.put(object - 24, dict),
        }
        object
    }

    /// A runtime with one interpreter, and one thread besides the main one. Says where the runtime is.
    fn runtime(&mut self, said: Said<'_>, kept: Kept) -> Avma {
        let name = self.text(said.name_type, said.name);
        let native_id = self.number(said.native_id);
        let thread = self.thread(
            &[
                ("_target", 0),
                ("_name", name),
                ("_args", START),
                ("_native_id", native_id),
            ],
            kept,
        );
        let ident = self.number(1);
        let active = [(1, ident, thread), (7, 0, 0), (IDENT, ident, thread)];
        let active = self.keys(said.places, &active, false);
        self.runtime_with(active)
    }

    /// One whose threads are in a dictionary with these keys.
    fn runtime_with(&mut self, active: u64) -> Avma {
        let layout = self.layout;
        let active = self.dict(active, 0);
        let globals = self.dict_with("_active", active);
        let threading = self.object(NUMBER, &[globals]);
        assert_eq!(MODULE_DICT, 16);
        let modules = self.dict_with("threading", threading);
        let interpreter = self.take(INTERPRETER_BYTES);
        self.put(interpreter + u64::from(layout.objects.modules), modules);
        let runtime = self.take(64);
        self.put(runtime + u64::from(layout.interpreters_head), interpreter);
        Avma(runtime)
    }
}

fn state(thread_id: u64) -> ThreadState {
    ThreadState {
        address: Avma(START),
        thread_id,
        gil: None,
        hints: Hints::default(),
    }
}

/// What is found, in the words of `bytes` as they lay from [`START`] on; the second time as the first.
fn read(layout: &Layout, runtime: Avma, bytes: &[u8]) -> Vec<(i32, String)> {
    let mut states = ThreadStates::default();
    states.insert(TID, vec![state(IDENT)]);
    let memory = SliceMemory::new(Avma(START), bytes);
    let mut names = Names::default();
    let mut read = || names.read(layout, runtime, &states, &[TID, 5], &memory);
    let found = read();
    assert_eq!(read(), found);
    found
}

#[track_caller]
fn check(said: Said<'_>, expected: Option<&str>) {
    let expected: Vec<_> = expected
        .map(|name| (TID, name.to_owned()))
        .into_iter()
        .collect();
    for layout in layouts() {
        for kept in ALL_KEPT {
            let mut heap = Heap::new(layout);
            let runtime = heap.runtime(said, kept);
            let found = read(&layout, runtime, &heap.bytes);
            assert_eq!(found, expected, "{kept:?}, {:?}", layout.objects);
        }
    }
}

#[test]
fn a_name_is_found_wherever_the_object_keeps_it() {
    check(SAID, Some("writer of pages"));
}

#[test]
fn a_name_is_found_in_large_tables() {
    for places in [128, 256, 4096, 0x1_0000] {
        check(Said { places, ..SAID }, Some("writer of pages"));
    }
}

#[test]
fn what_nobody_has_called_a_thread_is_no_name() {
    for name in ["Dummy-1", "Dummy-120", ""] {
        check(Said { name, ..SAID }, None);
    }
    for name in ["Dummy-x", "Dummies", "Thread-1 (work)"] {
        check(Said { name, ..SAID }, Some(name));
    }
}

#[test]
fn the_name_of_another_thread_or_of_another_type_is_none() {
    let native_id = SAID.native_id + 1;
    check(Said { native_id, ..SAID }, None);
    let name_type = DICT;
    check(Said { name_type, ..SAID }, None);
}

#[test]
fn a_long_name_is_cut() {
    let name = "a".repeat(NAME_CHARACTERS_MAX + 1);
    let cut = format!("…{}", "a".repeat(NAME_CHARACTERS_MAX));
    check(
        Said {
            name: &name,
            ..SAID
        },
        Some(&cut),
    );
}

/// Counts how often it is read.
struct Counting<'a>(SliceMemory<'a>, Cell<usize>);

impl MemoryReader for Counting<'_> {
    fn read(&self, at: Avma, into: &mut [u8]) -> Result<usize, ReadError> {
        self.1.set(self.1.get() + 1);
        self.0.read(at, into)
    }
}

/// Many threads with many attributes, none of which are what they should be.
#[test]
fn what_is_read_is_bounded() {
    for layout in layouts() {
        let mut heap = Heap::new(layout);
        let name = heap.text(TEXT, "otherwise_");
        let attributes: Vec<_> = (0..250).map(|_| ("_native_iD", name)).collect();
        let thread = heap.thread(&attributes, Kept::OwnDict);
        let active: Vec<_> = (0..16_000)
            .map(|thread_id| (thread_id % 1000, name, thread))
            .collect();
        let active = heap.keys(0x8000, &active, false);
        let runtime = heap.runtime_with(active);
        let states = (0..1000).map(|tid| (tid, vec![state(u64::try_from(tid).unwrap())]));
        let wanted: Vec<i32> = (0..1000).collect();
        let memory = Counting(SliceMemory::new(Avma(START), &heap.bytes), Cell::new(0));
        let states = states.collect();
        let found = Names::default().read(&layout, runtime, &states, &wanted, &memory);
        assert_eq!(found, []);
        let reads = memory.1.get();
        assert!((1000..50_000).contains(&reads), "{reads} reads");
    }
}

/// What a damaged word is: a pointer into the memory, a small or a large number.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..0x3000).prop_map(|offset| START + offset),
        0u64..64,
        any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn any_damage_is_survived(
        version in 0usize..6,
        kept in 0usize..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), word()), 0..8),
    ) {
        let layout = layouts()[version];
        let mut heap = Heap::new(layout);
        let runtime = heap.runtime(SAID, ALL_KEPT[kept]);
        let used: Vec<usize> = heap
            .bytes
            .chunks_exact(8)
            .enumerate()
            .filter(|(_, word)| word.iter().any(|byte| *byte != 0))
            .map(|(index, _)| index * 8)
            .collect();
        for (index, word) in damage {
            let at = used[index.index(used.len())];
            heap.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        for (tid, name) in read(&layout, runtime, &heap.bytes) {
            prop_assert_eq!(tid, TID);
            prop_assert!(name.chars().count() <= NAME_CHARACTERS_MAX + 1);
        }
    }
}
