//! Dictionaries and the attributes of objects, as they lie in memory (`Objects/dictobject.c`; from 3.11 on also
//! `pycore_dict.h` and `pycore_object.h`).
//!
//! A dictionary has a table of keys: a hash table of numbers of entries, then the entries in the order in which they came.
//! The values are in the entries, or, where many objects of a class share the keys, apart: in a dictionary of their own
//! with an array of values; from 3.11 on without a dictionary, in an array that the object leads to; from 3.13 on inside
//! the object. They are read while the program runs: what is found may never have been, and whoever uses it checks it.

use super::layout::Layout;
use crate::address::Avma;
use crate::memory::MemoryReader;

/// `PyObject.ob_type`.
pub(super) const TYPE: u32 = 8;
/// `PyTypeObject.tp_basicsize`.
pub(super) const BASIC_SIZE: u32 = 32;
/// `PyTypeObject.tp_flags`.
pub(super) const FLAGS: u32 = 168;
/// `PyTypeObject.tp_dictoffset`.
pub(super) const DICT_OFFSET: u32 = 288;
/// `Py_TPFLAGS_INLINE_VALUES` (3.13).
pub(super) const INLINE_VALUES: u64 = 1 << 2;
/// `Py_TPFLAGS_MANAGED_DICT` (3.11).
pub(super) const MANAGED_DICT: u64 = 1 << 4;
/// `PyDictObject.ma_keys`.
pub(super) const DICT_KEYS: u32 = 32;
/// `PyDictObject.ma_values`.
pub(super) const DICT_VALUES: u32 = 40;
/// `PyVarObject.ob_size`, from 3.12 on `PyLongObject.long_value.lv_tag`.
pub(super) const NUMBER_SIZE: u32 = 16;
/// `PyLongObject.ob_digit`, from 3.12 on `long_value.ob_digit`.
pub(super) const DIGITS: u32 = 24;

/// `PyDictKeysObject.dk_log2_index_bytes` (3.11).
pub(super) const KEYS_LOG_BYTES: usize = 9;
/// `PyDictKeysObject.dk_kind` (3.11), and `DICT_KEYS_GENERAL`.
pub(super) const KEYS_KIND: usize = 10;
pub(super) const KEYS_GENERAL: u8 = 0;
/// `PyDictKeysObject.dk_nentries` (3.11).
pub(super) const KEYS_COUNT: usize = 24;
/// `PyDictKeysObject.dk_indices` (3.11).
pub(super) const KEYS_INDICES: u64 = 32;
/// The words of an entry: hash, key and value; those of `PyDictUnicodeEntry` (3.11) have no hash.
pub(super) const ENTRY_WORDS: usize = 3;
pub(super) const SHORT_ENTRY_WORDS: usize = 2;
/// How far before an object the word is that leads to its attributes (3.11), and in 3.11 that to its values, in bytes.
pub(super) const BEFORE_OBJECT: u64 = 24;
pub(super) const VALUES_BEFORE_OBJECT: u64 = 32;

/// Bytes of a table of keys before its hash table, whichever version it is of.
const KEYS_HEADER_MAX: usize = 40;
/// The largest hash table that is believed, as the logarithm of its size in bytes.
const LOG_INDEX_BYTES_MAX: u8 = 32;
/// The largest object that is believed to have attributes, in bytes.
const OBJECT_BYTES_MAX: u64 = 1 << 12;
/// Attributes of one object that are looked at.
const ATTRIBUTES_MAX: usize = 256;

/// Where these lie, as far as it differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObjectLayout {
    /// `PyInterpreterState.modules`, from 3.12 on `imports.modules`: the dictionary `sys.modules`.
    pub modules: u32,
    /// `PyHeapTypeObject.ht_cached_keys`: the keys that objects of a class share.
    pub cached_keys: u32,
    /// How a table of keys begins.
    pub keys: Keys,
    /// Where an object has its attributes.
    pub attributes: Attributes,
    /// `_dictvalues.values`: what lies before the values of an object.
    pub values: u32,
    /// What `ob_size`, from 3.12 on `lv_tag`, is of a positive number with one digit of 30 bits.
    pub one_digit: u64,
}

/// `PyDictKeysObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// `dk_size` is the number of places in the hash table, and all entries have the hash of their key (before 3.11).
    Sized,
    /// The logarithm of its bytes is given, and entries whose keys all are strings do without their hash (3.11).
    Kinds,
}

/// What leads from an object to its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attributes {
    /// A dictionary at `tp_dictoffset` (before 3.11).
    Dict,
    /// Two words before the object and its collector's head: the values, and a dictionary (3.11).
    ValuesAndDict,
    /// One word: the values, marked by its lowest bit and one byte too low, or a dictionary (3.12).
    ValuesOrDict,
    /// One word: a dictionary. If there is none, the values lie behind the object (3.13).
    Inline,
}

/// One entry of a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What the key's hash is, where the table has it: that of a small number is the number.
    pub hash: Option<u64>,
    /// The key.
    pub key: Avma,
    /// The value.
    pub value: Avma,
}

fn word(memory: &dyn MemoryReader, at: Avma, offset: u32) -> Option<u64> {
    memory.read_u64(at.checked_add(u64::from(offset))?).ok()
}

/// The pointer at `at`, if it is one to something.
pub(super) fn pointer(memory: &dyn MemoryReader, at: Avma, offset: u32) -> Option<Avma> {
    word(memory, at, offset)
        .map(Avma)
        .filter(|at| *at != Avma(0))
}

/// The entries of the dictionary at `at` that have a value: the first `entries_max` of them.
pub(super) fn dict(
    layout: &Layout,
    at: Avma,
    entries_max: usize,
    memory: &dyn MemoryReader,
) -> Option<Vec<Entry>> {
    let keys = pointer(memory, at, DICT_KEYS)?;
    let mut entries = self::keys(layout, keys, entries_max, memory)?;
    if let Some(values) = pointer(memory, at, DICT_VALUES) {
        put_values(layout, values, &mut entries, memory)?;
    }
    entries.retain(|entry| entry.key != Avma(0) && entry.value != Avma(0));
    Some(entries)
}

/// The attributes that the object at `object` has of its own.
pub(super) fn attributes(
    layout: &Layout,
    object: Avma,
    memory: &dyn MemoryReader,
) -> Option<Vec<Entry>> {
    let class = pointer(memory, object, TYPE)?;
    let flags = word(memory, class, FLAGS)?;
    let dict = |at: Option<Avma>| dict(layout, at?, ATTRIBUTES_MAX, memory);
    let before = |bytes: u64| pointer(memory, Avma(object.0.checked_sub(bytes)?), 0);
    let shared = |values: Avma| shared(layout, class, values, memory);
    if flags & MANAGED_DICT == 0 || layout.objects.attributes == Attributes::Dict {
        let offset = word(memory, class, DICT_OFFSET)?;
        let offset = u32::try_from(offset).ok()?;
        let is_inside = (1..OBJECT_BYTES_MAX).contains(&u64::from(offset));
        return dict(pointer(memory, object, offset).filter(|_| is_inside));
    }
    match layout.objects.attributes {
        Attributes::Dict => None,
        Attributes::ValuesAndDict => match before(VALUES_BEFORE_OBJECT) {
            Some(values) => shared(values),
            None => dict(before(BEFORE_OBJECT)),
        },
        Attributes::ValuesOrDict => match before(BEFORE_OBJECT)? {
            Avma(values) if values & 1 != 0 => shared(Avma(values.checked_add(1)?)),
            at => dict(Some(at)),
        },
        Attributes::Inline => match before(BEFORE_OBJECT) {
            Some(at) => dict(Some(at)),
            None if flags & INLINE_VALUES == 0 => None,
            None => {
                let bytes = word(memory, class, BASIC_SIZE)?;
                let bytes = Some(bytes).filter(|bytes| *bytes < OBJECT_BYTES_MAX)?;
                let values = object.checked_add(bytes)?;
                // `capacity`, `size`, `embedded`, `valid`: a byte each.
                let [_, _, _, valid, ..] = word(memory, values, 0)?.to_le_bytes();
                (valid == 1).then(|| shared(values))?
            }
        },
    }
}

/// The attributes whose keys all objects of `class` share, with the values at `values`.
fn shared(
    layout: &Layout,
    class: Avma,
    values: Avma,
    memory: &dyn MemoryReader,
) -> Option<Vec<Entry>> {
    let keys = pointer(memory, class, layout.objects.cached_keys)?;
    let mut entries = self::keys(layout, keys, ATTRIBUTES_MAX, memory)?;
    put_values(layout, values, &mut entries, memory)?;
    entries.retain(|entry| entry.key != Avma(0) && entry.value != Avma(0));
    Some(entries)
}

/// The entries of the table of keys at `at`, used or not.
fn keys(
    layout: &Layout,
    at: Avma,
    entries_max: usize,
    memory: &dyn MemoryReader,
) -> Option<Vec<Entry>> {
    let mut header = [0; KEYS_HEADER_MAX];
    memory.read_exact(at, &mut header).ok()?;
    let header_word = |offset: usize| {
        let bytes = header.get(offset..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let (header_bytes, index_bytes, count, has_hashes) = match layout.objects.keys {
        Keys::Sized => {
            let size = header_word(8)?;
            let width = match size {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            (40, size.checked_mul(width)?, header_word(32)?, true)
        }
        Keys::Kinds => {
            let (log, kind) = (*header.get(KEYS_LOG_BYTES)?, *header.get(KEYS_KIND)?);
            let log = Some(log).filter(|log| *log <= LOG_INDEX_BYTES_MAX)?;
            let count = header_word(KEYS_COUNT)?;
            (KEYS_INDICES, 1 << log, count, kind == KEYS_GENERAL)
        }
    };
    let entries = at.checked_add(header_bytes)?.checked_add(index_bytes)?;
    let count = usize::try_from(count).ok()?.min(entries_max);
    let words = if has_hashes {
        ENTRY_WORDS
    } else {
        SHORT_ENTRY_WORDS
    };
    let words_of_entries = read_words(memory, entries, count * words)?;
    let entry = |words: &[u64]| match *words {
        [hash, key, value] => Some((Some(hash), key, value)),
        [key, value] => Some((None, key, value)),
        _ => None,
    };
    let entries = words_of_entries.chunks_exact(words).filter_map(entry);
    let entries = entries.map(|(hash, key, value)| Entry {
        hash,
        key: Avma(key),
        value: Avma(value),
    });
    Some(entries.collect())
}

/// Gives `entries` the values that are kept apart from them.
fn put_values(
    layout: &Layout,
    values: Avma,
    entries: &mut [Entry],
    memory: &dyn MemoryReader,
) -> Option<()> {
    let values = values.checked_add(u64::from(layout.objects.values))?;
    let values = read_words(memory, values, entries.len())?;
    for (entry, value) in entries.iter_mut().zip(values) {
        entry.value = Avma(value);
    }
    Some(())
}

fn read_words(memory: &dyn MemoryReader, at: Avma, count: usize) -> Option<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    memory.read_exact(at, &mut bytes).ok()?;
    let words = bytes.chunks_exact(8);
    let words = words.filter_map(|word| Some(u64::from_le_bytes(*word.first_chunk()?)));
    Some(words.collect())
}

/// The positive number of at most 30 bits at `at`.
pub(super) fn small_number(layout: &Layout, at: Avma, memory: &dyn MemoryReader) -> Option<u32> {
    /// `IMMORTALITY_BIT_MASK` (3.14): set in numbers that are never freed.
    const NEVER_FREED: u64 = 1 << 2;
    let one_digit = layout.objects.one_digit;
    let size = word(memory, at, NUMBER_SIZE)?;
    let is_one = size == one_digit || (one_digit > NEVER_FREED && size == one_digit | NEVER_FREED);
    let digits = at.checked_add(u64::from(DIGITS))?;
    is_one.then(|| memory.read_u32(digits).ok())?
}
