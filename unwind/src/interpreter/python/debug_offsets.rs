//! `_Py_DebugOffsets`: what CPython 3.13 and later say of themselves at the start of `_PyRuntime`
//! (`Include/internal/pycore_runtime.h`, from 3.14 on `pycore_debug_offsets.h`).
//!
//! A cookie of eight bytes, the version, whether the build is free-threaded, and then one 64-bit number after the other,
//! in groups, one for each structure. Later versions put numbers into the groups, so that the place of a number depends on
//! the version. Numbers that never change are read too: where they are not what they must be, the groups lie otherwise than
//! is thought, and nothing is believed.

use super::layout::{
    Boundary, CodeLayout, Current, FrameLayout, Gil, Instruction, Layout, LineTable, PythonVersion,
    ThreadLayout,
};
use super::objects::{Attributes, Keys, ObjectLayout};

/// `PyHeapTypeObject.ht_cached_keys` of 3.13 and 3.14, which do not state it.
const CACHED_KEYS: u32 = 880;

const COOKIE: &[u8; 8] = b"xdebugpy";

/// Bytes that [`parse`] looks at, at most.
pub(super) const BYTES_MAX: usize = 8 * 100;

/// Why a build of CPython is not one whose frames can be read, as part of a sentence that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub(super) enum Unsupported {
    /// Its threads run code from copies of their own, and none of them holds a lock.
    #[error("it is free-threaded")]
    FreeThreaded,
    /// Older than 3.8 or newer than 3.15.
    #[error("only 3.8 to 3.15 are")]
    Version,
    /// Which version it is could not be found out.
    #[error("its version is unknown")]
    UnknownVersion,
    /// Its own description of itself is not one that is known.
    #[error("what it says of its own layout is not understood")]
    Layout,
}

/// How many numbers the groups have that are read, and those between them; and which number of a group is which, where that
/// differs.
struct Shape {
    interpreter: usize,
    /// `PyInterpreterState.ceval.gil` in its group; `imports.modules` is three before it.
    gil: usize,
    thread: usize,
    /// `PyThreadState.thread_id` in its group; the native one and the chunk of frames follow.
    thread_id: usize,
    /// Of groups between those of threads and of frames.
    behind_thread: usize,
    frame: usize,
    code: usize,
    /// `PyTypeObject`, and in 3.15 `PyHeapTypeObject`.
    kind: usize,
    set: usize,
    text: usize,
}

const SHAPE_3_13: Shape = Shape {
    interpreter: 13,
    gil: 8,
    thread: 9,
    thread_id: 5,
    behind_thread: 0,
    frame: 6,
    code: 10,
    kind: 4,
    set: 0,
    text: 4,
};

const SHAPE_3_14: Shape = Shape {
    interpreter: 16,
    gil: 9,
    frame: 8,
    code: 11,
    set: 4,
    ..SHAPE_3_13
};

const SHAPE_3_15: Shape = Shape {
    thread: 16,
    thread_id: 8,
    behind_thread: 1,
    kind: 8,
    text: 5,
    ..SHAPE_3_14
};

/// What a build states of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stated {
    pub version: Option<PythonVersion>,
    pub layout: Result<Layout, Unsupported>,
}

/// The first `bytes` of `_PyRuntime`: what they state; `None` when there is no cookie, as before 3.13.
pub(super) fn parse(bytes: &[u8]) -> Option<Stated> {
    let words = bytes.strip_prefix(COOKIE)?;
    let words: Vec<u64> = words
        .chunks_exact(8)
        .take(BYTES_MAX / 8)
        .filter_map(|word| Some(u64::from_le_bytes(*word.first_chunk()?)))
        .collect();
    let version = words.first().and_then(|hex| u32::try_from(*hex).ok());
    let version = version.and_then(PythonVersion::from_hex);
    let layout = match (version, words.as_slice()) {
        (Some(version), &[_, free_threaded, ref numbers @ ..]) => {
            read(version, free_threaded, numbers)
        }
        _ => Err(Unsupported::UnknownVersion),
    };
    Some(Stated { version, layout })
}

fn read(
    version: PythonVersion,
    free_threaded: u64,
    numbers: &[u64],
) -> Result<Layout, Unsupported> {
    if free_threaded != 0 {
        return Err(Unsupported::FreeThreaded);
    }
    let shape = match version.minor {
        13 => SHAPE_3_13,
        14 => SHAPE_3_14,
        15 => SHAPE_3_15,
        _ => return Err(Unsupported::Version),
    };
    Groups { rest: numbers }
        .layout(&shape)
        .ok_or(Unsupported::Layout)
}

/// The groups that have not been read yet.
struct Groups<'a> {
    rest: &'a [u64],
}

impl<'a> Groups<'a> {
    fn next(&mut self, numbers: usize) -> Option<Group<'a>> {
        let (group, rest) = self.rest.split_at_checked(numbers)?;
        self.rest = rest;
        Some(Group(group))
    }

    fn layout(mut self, shape: &Shape) -> Option<Layout> {
        let runtime = self.next(3)?;
        let interpreter = self.next(shape.interpreter)?;
        let thread = self.next(shape.thread)?;
        let _behind_thread = self.next(shape.behind_thread)?;
        let frame = self.next(shape.frame)?;
        let code = self.next(shape.code)?;
        let object = self.next(2)?;
        let kind = self.next(shape.kind)?;
        let _tuple = self.next(3)?;
        let _list = self.next(3)?;
        let _set = self.next(shape.set)?;
        let _dict = self.next(3)?;
        let _float = self.next(2)?;
        let _long = self.next(3)?;
        let bytes = self.next(3)?;
        let text = self.next(shape.text)?;
        let is_as_ever = object.0 == [16, 8]
            && bytes.0.ends_with(&[16, 32])
            && text.0.get(1..4) == Some(&[32, 16, 40])
            && thread.0.get(1) < thread.0.get(2);
        if !is_as_ever {
            return None;
        }
        Some(Layout {
            interpreters_head: runtime.get_far(2)?,
            interpreter_next: interpreter.get_far(2)?,
            threads_head: interpreter.get_far(3)?,
            gil: Gil::OfInterpreter(interpreter.get_far(shape.gil)?),
            thread: ThreadLayout {
                next: thread.get(2)?,
                thread_id: thread.get(shape.thread_id)?,
                native_thread_id: Some(thread.get(shape.thread_id + 1)?),
                current: Current::Frame(thread.get(4)?),
                chunk: Some(thread.get(shape.thread_id + 2)?),
            },
            frame: FrameLayout {
                previous: frame.get(1)?,
                code: frame.get(2)?,
                instruction: Instruction::Pointer(frame.get(3)?),
                boundary: Boundary::Shim {
                    owner: frame.get(5)?,
                    from: 3,
                },
            },
            code: CodeLayout {
                name: code.get(3)?,
                file: code.get(1)?,
                first_line: code.get(5)?,
                lines: code.get(4)?,
                instructions: code.get(9)?,
            },
            lines: LineTable::Locations,
            ascii_header: text.get(3)?,
            // The length in UTF-8 and a pointer to that lie between.
            text_header: text.get(3)? + 16,
            objects: ObjectLayout {
                modules: interpreter.get_far(shape.gil - 3)?,
                cached_keys: kind.get(7).unwrap_or(CACHED_KEYS),
                keys: Keys::Kinds,
                attributes: Attributes::Inline,
                values: 8,
                one_digit: 8,
            },
        })
    }
}

/// The offsets of one structure.
#[derive(Clone, Copy)]
struct Group<'a>(&'a [u64]);

impl Group<'_> {
    /// An offset; `None` for one that lies further on than the structures of CPython reach that are read whole.
    fn get(self, index: usize) -> Option<u32> {
        self.up_to(index, 1 << 10)
    }

    /// An offset in a structure of some hundred kilobytes.
    fn get_far(self, index: usize) -> Option<u32> {
        self.up_to(index, 1 << 24)
    }

    fn up_to(self, index: usize, max: u32) -> Option<u32> {
        let offset = u32::try_from(*self.0.get(index)?).ok()?;
        (offset < max).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As they stand in the `libpython3.13.so` of 3.13.0.
    const NUMBERS_3_13: [u64; 69] = [
        283_320, 608, 632, 194_968, 7272, 7264, 7344, 7400, 7656, 7640, 7648, 16, 7752, 0, 7768,
        7760, 304, 0, 8, 16, 72, 152, 160, 232, 32, 80, 8, 0, 56, 72, 70, 208, 112, 120, 128, 136,
        68, 52, 96, 104, 200, 16, 8, 416, 24, 88, 168, 32, 24, 16, 40, 24, 16, 48, 32, 40, 24, 16,
        32, 16, 24, 40, 16, 32, 64, 32, 16, 40, 240,
    ];

    fn runtime(hex: u64, free_threaded: u64, numbers: &[u64]) -> Vec<u8> {
        let words = [hex, free_threaded]
            .into_iter()
            .chain(numbers.iter().copied());
        COOKIE
            .iter()
            .copied()
            .chain(words.flat_map(u64::to_le_bytes))
            .collect()
    }

    /// The numbers of 3.13 with those between them that 3.14 has added.
    fn numbers_3_14() -> Vec<u64> {
        let mut numbers = NUMBERS_3_13.to_vec();
        numbers.splice(50..50, [200, 24, 40, 32]); // set, behind list
        numbers.splice(41..41, [192]); // co_tlbc, behind co_code_adaptive
        numbers.splice(31..31, [64, 0]); // stackpointer and tlbc_index, behind owner
        numbers.splice(16..16, [1, 2]); // the generations, behind the gil's holder
        numbers.splice(7..7, [7352]); // threads.main, behind threads.head
        numbers
    }

    #[test]
    fn what_3_13_says_of_itself() {
        let stated = parse(&runtime(0x030d_00f0, 0, &NUMBERS_3_13)).unwrap();
        let (version, layout) = (stated.version.unwrap(), stated.layout.unwrap());
        assert_eq!((version.minor, version.micro), (13, Some(0)));
        assert_eq!(
            (
                layout.interpreters_head,
                layout.interpreter_next,
                layout.threads_head
            ),
            (632, 7264, 7344)
        );
        assert_eq!(layout.gil, Gil::OfInterpreter(16));
        assert_eq!(
            (layout.objects.modules, layout.objects.cached_keys),
            (7656, 880)
        );
        assert_eq!(layout.thread.current, Current::Frame(72));
        assert_eq!(layout.thread.native_thread_id, Some(160));
        assert_eq!(
            (
                layout.code.name,
                layout.code.file,
                layout.code.first_line,
                layout.code.lines
            ),
            (128, 112, 68, 136)
        );
        assert_eq!(layout.code.instructions, 200);
        assert_eq!(layout.ascii_header, 40);
    }

    /// The version and the layout that are stated so.
    fn stated(hex: u64, numbers: &[u64]) -> (u8, Layout) {
        let stated = parse(&runtime(hex, 0, numbers)).unwrap();
        (stated.version.unwrap().minor, stated.layout.unwrap())
    }

    #[test]
    fn what_3_14_has_added_moves_nothing() {
        let (_, before) = stated(0x030d_00f0, &NUMBERS_3_13);
        assert_eq!(stated(0x030e_00f0, &numbers_3_14()), (14, before));
    }

    /// The numbers of 3.14 with those between them that 3.15 has added.
    fn numbers_3_15() -> Vec<u64> {
        let mut numbers = numbers_3_14();
        let collector = numbers.len() - 1;
        numbers.insert(collector, 56); // compactunicodeobject_size
        numbers.splice(53..53, [24, 264, 1000, 880]); // behind tp_flags; and PyHeapTypeObject
        numbers.splice(28..28, [200, 208, 120, 128, 0]); // behind status; and the exception stack's item
        numbers.splice(24..24, [80, 88, 96]); // base_frame and two more, behind current_frame
        numbers
    }

    #[test]
    fn what_3_15_has_added_moves_nothing() {
        let (_, before) = stated(0x030e_00f0, &numbers_3_14());
        assert_eq!(stated(0x030f_02f0, &numbers_3_15()), (15, before));
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        #[track_caller]
        fn check(
            hex: u64,
            free_threaded: u64,
            numbers: &[u64],
            minor: Option<u8>,
            why: Unsupported,
        ) {
            let stated = parse(&runtime(hex, free_threaded, numbers)).unwrap();
            assert_eq!(stated.version.map(|version| version.minor), minor);
            assert_eq!(stated.layout, Err(why));
        }
        let numbers = &NUMBERS_3_13;
        check(0x030d_00f0, 1, numbers, Some(13), Unsupported::FreeThreaded);
        check(0x0310_00a1, 0, numbers, Some(16), Unsupported::Version);
        check(0x040d_00f0, 0, numbers, None, Unsupported::UnknownVersion);
        check(0x030e_00f0, 0, numbers, Some(14), Unsupported::Layout);
        check(
            0x030d_00f0,
            0,
            &numbers[..60],
            Some(13),
            Unsupported::Layout,
        );
        assert_eq!(parse(&[0; 64]), None);
    }

    proptest! {
        #[test]
        fn any_numbers_are_read_or_refused(
            minor in 13u64..16,
            numbers in prop::collection::vec(any::<u64>(), 0..120),
        ) {
            let layout = parse(&runtime(0x0300_00f0 | minor << 16, 0, &numbers)).unwrap().layout;
            prop_assert!(layout.is_ok() || layout == Err(Unsupported::Layout));
        }
    }
}
