//! The tables against the headers of every CPython that is on the machine: that of the distribution, those of a version
//! manager, and those that `tests/more-runtimes` has got. From 3.13 on the headers tell where the offsets are that a build
//! states of itself, and what they would be.
#![expect(clippy::disallowed_types, reason = "the compiler is asked")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::debug_offsets;
use super::layout::{Boundary, Current, Gil, Instruction, Layout, PythonVersion};
use super::objects::{self, Attributes, Keys};

/// Prints where the fields are that the tables name.
const PROGRAM: &str = r#"
#define NDEBUG 1
#define Py_BUILD_CORE 1
#include <Python.h>
#include <frameobject.h>
#include <stddef.h>
#include <stdio.h>
#if PY_VERSION_HEX >= 0x03090000
#include "internal/pycore_interp.h"
#include "internal/pycore_runtime.h"
#endif
#include "internal/pycore_pystate.h"
#include "internal/pycore_gil.h"
#if PY_VERSION_HEX >= 0x030b0000
#include "internal/pycore_dict.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_object.h"
#endif
#if PY_VERSION_HEX >= 0x030d0000
#include "internal/pycore_moduleobject.h"
#endif
#if PY_VERSION_HEX >= 0x030c0000
#include "internal/pycore_long.h"
#define ONE_DIGIT (1 << _PyLong_NON_SIZE_BITS)
#define MODULES imports.modules
#else
#define ONE_DIGIT 1
#define MODULES modules
#endif
#if PY_VERSION_HEX >= 0x030e0000
#include "internal/pycore_interpframe_structs.h"
#include "internal/pycore_debug_offsets.h"
#endif
#if PY_VERSION_HEX >= 0x030e0000
#define FRAME_OWNER_OF_NONE FRAME_OWNED_BY_INTERPRETER
#else
#define FRAME_OWNER_OF_NONE FRAME_OWNED_BY_CSTACK
#endif
#define P(name, value) printf("%s %zu\n", name, (size_t)(value))
int main(void) {
    P("interpreters_head", offsetof(_PyRuntimeState, interpreters.head));
    P("interpreter_next", offsetof(PyInterpreterState, next));
    P("thread_next", offsetof(PyThreadState, next));
    P("thread_id", offsetof(PyThreadState, thread_id));
    P("gil_holder", offsetof(struct _gil_runtime_state, last_holder));
    P("gil_locked", offsetof(struct _gil_runtime_state, locked));
    P("file", offsetof(PyCodeObject, co_filename));
    P("first_line", offsetof(PyCodeObject, co_firstlineno));
    P("ascii", sizeof(PyASCIIObject));
    P("text", sizeof(PyCompactUnicodeObject));
    P("length", offsetof(PyASCIIObject, length));
    P("state", offsetof(PyASCIIObject, state));
    P("bytes", offsetof(PyBytesObject, ob_sval));
    P("modules", offsetof(PyInterpreterState, MODULES));
    P("type", offsetof(PyObject, ob_type));
    P("basic_size", offsetof(PyTypeObject, tp_basicsize));
    P("flags", offsetof(PyTypeObject, tp_flags));
    P("dict_offset", offsetof(PyTypeObject, tp_dictoffset));
    P("cached_keys", offsetof(PyHeapTypeObject, ht_cached_keys));
    P("dict_keys", offsetof(PyDictObject, ma_keys));
    P("dict_values", offsetof(PyDictObject, ma_values));
    P("number_size", offsetof(PyVarObject, ob_size));
    P("one_digit", ONE_DIGIT);
#if PY_VERSION_HEX >= 0x030c0000
    P("digits", offsetof(PyLongObject, long_value.ob_digit));
#else
    P("digits", offsetof(PyLongObject, ob_digit));
#endif
#if PY_VERSION_HEX >= 0x030d0000
    P("module_dict", offsetof(PyModuleObject, md_dict));
    P("inline_values", Py_TPFLAGS_INLINE_VALUES);
    P("before_object", -MANAGED_DICT_OFFSET);
#elif PY_VERSION_HEX >= 0x030b0000
    {
        PyObject *object = (PyObject *)4096;
#if PY_VERSION_HEX >= 0x030c0000
        P("before_object", (char *)object - (char *)_PyObject_DictOrValuesPointer(object));
#else
        P("before_object", (char *)object - (char *)_PyObject_ManagedDictPointer(object));
        P("values_before_object", (char *)object - (char *)_PyObject_ValuesPointer(object));
#endif
    }
#endif
#if PY_VERSION_HEX >= 0x030b0000
    P("managed_dict", Py_TPFLAGS_MANAGED_DICT);
    P("keys_log_bytes", offsetof(PyDictKeysObject, dk_log2_index_bytes));
    P("keys_kind", offsetof(PyDictKeysObject, dk_kind));
    P("keys_general", DICT_KEYS_GENERAL);
    P("keys_count", offsetof(PyDictKeysObject, dk_nentries));
    P("keys_indices", offsetof(PyDictKeysObject, dk_indices));
    P("entry_value", offsetof(PyDictKeyEntry, me_value));
    P("short_entry", sizeof(PyDictUnicodeEntry));
    P("values", offsetof(struct _dictvalues, values));
#endif
#if PY_VERSION_HEX >= 0x030c0000
    P("gil", offsetof(PyInterpreterState, ceval.gil));
    P("owner", offsetof(_PyInterpreterFrame, owner));
#else
    P("gil", offsetof(_PyRuntimeState, ceval.gil));
#endif
#if PY_VERSION_HEX >= 0x030b0000
    P("threads_head", offsetof(PyInterpreterState, threads.head));
    P("native_thread_id", offsetof(PyThreadState, native_thread_id));
    P("chunk", offsetof(PyThreadState, datastack_chunk));
    P("name", offsetof(PyCodeObject, co_qualname));
    P("lines", offsetof(PyCodeObject, co_linetable));
    P("instructions", offsetof(PyCodeObject, co_code_adaptive));
    P("previous", offsetof(_PyInterpreterFrame, previous));
#if PY_VERSION_HEX >= 0x030d0000
    P("current", offsetof(PyThreadState, current_frame));
    P("code", offsetof(_PyInterpreterFrame, f_executable));
    P("instruction", offsetof(_PyInterpreterFrame, instr_ptr));
#else
    P("c_frame", offsetof(PyThreadState, cframe));
    P("root_c_frame", offsetof(PyThreadState, root_cframe));
    P("current", offsetof(_PyCFrame, current_frame));
    P("outer", offsetof(_PyCFrame, previous));
    P("code", offsetof(_PyInterpreterFrame, f_code));
    P("instruction", offsetof(_PyInterpreterFrame, prev_instr));
#endif
#else
    P("threads_head", offsetof(PyInterpreterState, tstate_head));
    P("current", offsetof(PyThreadState, frame));
    P("name", offsetof(PyCodeObject, co_name));
    P("previous", offsetof(PyFrameObject, f_back));
    P("code", offsetof(PyFrameObject, f_code));
    P("instruction", offsetof(PyFrameObject, f_lasti));
#endif
#if PY_VERSION_HEX < 0x030a0000
    P("lines", offsetof(PyCodeObject, co_lnotab));
#elif PY_VERSION_HEX < 0x030b0000
    P("lines", offsetof(PyCodeObject, co_linetable));
#elif PY_VERSION_HEX < 0x030c0000
    P("is_entry", offsetof(_PyInterpreterFrame, is_entry));
#endif
#if PY_VERSION_HEX >= 0x030d0000
    /* What a build states of itself, as far as it is read; all else stays a number that no offset is. */
    struct _Py_DebugOffsets o;
    memset(&o, 0x7f, sizeof o);
    memcpy(o.cookie, "xdebugpy", 8);
    o.version = PY_VERSION_HEX;
    o.free_threaded = 0;
    o.runtime_state.interpreters_head = offsetof(_PyRuntimeState, interpreters.head);
    o.interpreter_state.next = offsetof(PyInterpreterState, next);
    o.interpreter_state.threads_head = offsetof(PyInterpreterState, threads.head);
    o.interpreter_state.imports_modules = offsetof(PyInterpreterState, imports.modules);
    o.interpreter_state.ceval_gil = offsetof(PyInterpreterState, ceval.gil);
    o.thread_state.prev = offsetof(PyThreadState, prev);
    o.thread_state.next = offsetof(PyThreadState, next);
    o.thread_state.current_frame = offsetof(PyThreadState, current_frame);
    o.thread_state.thread_id = offsetof(PyThreadState, thread_id);
    o.thread_state.native_thread_id = offsetof(PyThreadState, native_thread_id);
    o.thread_state.datastack_chunk = offsetof(PyThreadState, datastack_chunk);
    o.interpreter_frame.previous = offsetof(_PyInterpreterFrame, previous);
    o.interpreter_frame.executable = offsetof(_PyInterpreterFrame, f_executable);
    o.interpreter_frame.instr_ptr = offsetof(_PyInterpreterFrame, instr_ptr);
    o.interpreter_frame.owner = offsetof(_PyInterpreterFrame, owner);
    o.code_object.filename = offsetof(PyCodeObject, co_filename);
    o.code_object.qualname = offsetof(PyCodeObject, co_qualname);
    o.code_object.linetable = offsetof(PyCodeObject, co_linetable);
    o.code_object.firstlineno = offsetof(PyCodeObject, co_firstlineno);
    o.code_object.co_code_adaptive = offsetof(PyCodeObject, co_code_adaptive);
    o.pyobject.size = sizeof(PyObject);
    o.pyobject.ob_type = offsetof(PyObject, ob_type);
#if PY_VERSION_HEX >= 0x030f0000
    o.heap_type_object.ht_cached_keys = offsetof(PyHeapTypeObject, ht_cached_keys);
#endif
    o.bytes_object.ob_size = offsetof(PyBytesObject, ob_base.ob_size);
    o.bytes_object.ob_sval = offsetof(PyBytesObject, ob_sval);
    o.unicode_object.state = offsetof(PyASCIIObject, state);
    o.unicode_object.length = offsetof(PyASCIIObject, length);
    o.unicode_object.asciiobject_size = sizeof(PyASCIIObject);
    printf("stated ");
    for (size_t i = 0; i < sizeof o; i++) printf("%02x", ((unsigned char *)&o)[i]);
    printf("\n");
    P("owned_by_none", FRAME_OWNER_OF_NONE);
#elif PY_VERSION_HEX >= 0x030c0000
    P("owned_by_none", FRAME_OWNED_BY_CSTACK);
#endif
    return 0;
}
"#;

fn number<N>(number: N) -> u32
where
    u32: TryFrom<N, Error: std::fmt::Debug>,
{
    u32::try_from(number).unwrap()
}

/// What the table says, in the words of the program.
fn table(layout: &Layout) -> BTreeMap<&'static str, u32> {
    let mut fields = BTreeMap::from([
        ("interpreters_head", layout.interpreters_head),
        ("interpreter_next", layout.interpreter_next),
        ("threads_head", layout.threads_head),
        ("thread_next", layout.thread.next),
        ("thread_id", layout.thread.thread_id),
        ("gil_holder", super::layout::GIL_LAST_HOLDER),
        ("gil_locked", super::layout::GIL_LOCKED),
        ("previous", layout.frame.previous),
        ("code", layout.frame.code),
        ("name", layout.code.name),
        ("file", layout.code.file),
        ("first_line", layout.code.first_line),
        ("lines", layout.code.lines),
        ("ascii", layout.ascii_header),
        ("text", layout.text_header),
        ("length", 16),
        ("state", 32),
        ("bytes", 32),
        ("modules", layout.objects.modules),
        ("type", objects::TYPE),
        ("basic_size", objects::BASIC_SIZE),
        ("flags", objects::FLAGS),
        ("dict_offset", objects::DICT_OFFSET),
        ("cached_keys", layout.objects.cached_keys),
        ("dict_keys", objects::DICT_KEYS),
        ("dict_values", objects::DICT_VALUES),
        ("number_size", objects::NUMBER_SIZE),
        ("one_digit", number(layout.objects.one_digit)),
        ("digits", objects::DIGITS),
    ]);
    // Before 3.11 tables of keys are in no header; before 3.13 modules are not.
    if layout.objects.keys == Keys::Kinds {
        fields.extend([
            ("managed_dict", number(objects::MANAGED_DICT)),
            ("keys_log_bytes", number(objects::KEYS_LOG_BYTES)),
            ("keys_kind", number(objects::KEYS_KIND)),
            ("keys_general", objects::KEYS_GENERAL.into()),
            ("keys_count", number(objects::KEYS_COUNT)),
            ("keys_indices", number(objects::KEYS_INDICES)),
            ("entry_value", 8 * number(objects::ENTRY_WORDS - 1)),
            ("short_entry", 8 * number(objects::SHORT_ENTRY_WORDS)),
            ("values", layout.objects.values),
            ("before_object", number(objects::BEFORE_OBJECT)),
        ]);
    }
    match layout.objects.attributes {
        Attributes::Dict | Attributes::ValuesOrDict => {}
        Attributes::ValuesAndDict => fields.extend([(
            "values_before_object",
            number(objects::VALUES_BEFORE_OBJECT),
        )]),
        Attributes::Inline => fields.extend([
            ("module_dict", super::names::MODULE_DICT),
            ("inline_values", number(objects::INLINE_VALUES)),
        ]),
    }
    let (Gil::OfRuntime(gil) | Gil::OfInterpreter(gil)) = layout.gil;
    fields.insert("gil", gil);
    fields.extend(
        layout
            .thread
            .native_thread_id
            .map(|at| ("native_thread_id", at)),
    );
    fields.extend(layout.thread.chunk.map(|at| ("chunk", at)));
    match layout.thread.current {
        Current::Frame(at) => fields.extend([("current", at)]),
        Current::CFrame {
            pointer,
            frame,
            previous,
            root,
        } => fields.extend([
            ("c_frame", pointer),
            ("current", frame),
            ("outer", previous),
            ("root_c_frame", root),
        ]),
    }
    match layout.frame.instruction {
        Instruction::Index { at, .. } => fields.extend([("instruction", at)]),
        Instruction::Pointer(at) => fields.extend([
            ("instruction", at),
            ("instructions", layout.code.instructions),
        ]),
    }
    match layout.frame.boundary {
        Boundary::EachFrame => {}
        Boundary::IsEntry(at) => fields.extend([("is_entry", at)]),
        Boundary::Shim { owner, from } => {
            fields.extend([("owner", owner), ("owned_by_none", u32::from(from))]);
        }
    }
    fields
}

/// Folders with headers, and the minor version they are of.
fn headers() -> Vec<(u8, PathBuf)> {
    let folders_in = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    };
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let managed = folders_in(home.join(".pyenv/versions")).map(|root| root.join("include"));
    let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/runtimes");
    let fetched = folders_in(fetched).map(|root| root.join("usr/include"));
    let roots = std::iter::once(PathBuf::from("/usr/include"));
    let folders = roots.chain(managed).chain(fetched);
    let folders = folders
        .flat_map(|root| (8..=15).map(move |minor| (minor, root.join(format!("python3.{minor}")))));
    folders
        .filter(|(_, folder)| folder.join("internal/pycore_gil.h").exists())
        .collect()
}

/// What the program says that was compiled with the headers in `folder`.
fn compiled(folder: &Path) -> String {
    let name = format!("python_layout_{}", std::process::id());
    let program = std::env::temp_dir().join(name);
    let source = program.with_extension("c");
    std::fs::write(&source, PROGRAM).unwrap();
    let mut gcc = Command::new("/usr/bin/gcc");
    gcc.arg("-w").arg("-I").arg(folder);
    gcc.arg("-I").arg(folder.join("internal"));
    // Where Debian has what depends on the architecture.
    gcc.arg("-I").arg(folder.join(".."));
    gcc.arg("-o").arg(&program).arg(&source);
    assert!(gcc.status().unwrap().success(), "{folder:?}");
    let output = Command::new(&program).output().unwrap();
    for path in [source, program] {
        std::fs::remove_file(path).unwrap();
    }
    String::from_utf8(output.stdout).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().as_chunks::<2>().0.iter();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
    pairs.map(|pair| byte(pair).unwrap()).collect()
}

#[test]
fn the_tables_are_what_the_headers_say() {
    let headers = headers();
    assert!(
        !headers.is_empty(),
        "this test needs Python.h: apt-get install -y --no-install-recommends python3-dev"
    );
    for (minor, folder) in headers {
        let output = compiled(&folder);
        let pairs = output.lines().map(|line| line.split_once(' ').unwrap());
        let mut said: BTreeMap<&str, &str> = pairs.collect();
        let layout = match said.remove("stated") {
            None => *Layout::of(PythonVersion { minor, micro: None }).unwrap(),
            Some(stated) => {
                let stated = debug_offsets::parse(&bytes(stated)).unwrap();
                assert_eq!(stated.version.unwrap().minor, minor);
                stated.layout.unwrap()
            }
        };
        let said: BTreeMap<&str, u32> = said
            .into_iter()
            .map(|(name, value)| (name, value.parse().unwrap()))
            .collect();
        assert_eq!(table(&layout), said, "{folder:?}");
    }
}
