//! The tables against the headers of every CPython that is on the machine: that of the distribution, and those of a version
//! manager.
#![expect(clippy::disallowed_types, reason = "the compiler is asked")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use super::layout::{Boundary, Current, Gil, Instruction, Layout, PythonVersion};

/// Prints where the fields are that the tables name.
const PROGRAM: &str = r#"
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
#include "internal/pycore_frame.h"
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
    P("c_frame", offsetof(PyThreadState, cframe));
    P("root_c_frame", offsetof(PyThreadState, root_cframe));
    P("current", offsetof(_PyCFrame, current_frame));
    P("outer", offsetof(_PyCFrame, previous));
    P("name", offsetof(PyCodeObject, co_qualname));
    P("lines", offsetof(PyCodeObject, co_linetable));
    P("instructions", offsetof(PyCodeObject, co_code_adaptive));
    P("previous", offsetof(_PyInterpreterFrame, previous));
    P("code", offsetof(_PyInterpreterFrame, f_code));
    P("instruction", offsetof(_PyInterpreterFrame, prev_instr));
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
    return 0;
}
"#;

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
    ]);
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
        Boundary::Shim { owner, .. } => fields.extend([("owner", owner)]),
    }
    fields
}

/// Folders with headers, and the minor version they are of.
fn headers() -> Vec<(u8, PathBuf)> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let managed = std::fs::read_dir(PathBuf::from(home).join(".pyenv/versions"));
    let managed = managed.into_iter().flatten().flatten();
    let roots = managed.map(|entry| entry.path().join("include"));
    let roots = std::iter::once(PathBuf::from("/usr/include")).chain(roots);
    let folders = roots
        .flat_map(|root| (8..=12).map(move |minor| (minor, root.join(format!("python3.{minor}")))));
    folders
        .filter(|(_, folder)| folder.join("internal/pycore_gil.h").exists())
        .collect()
}

#[test]
fn the_tables_are_what_the_headers_say() {
    let headers = headers();
    assert!(
        !headers.is_empty(),
        "this test needs Python.h: apt-get install -y --no-install-recommends python3-dev"
    );
    let program = std::env::temp_dir().join(format!("python_layout_{}", std::process::id()));
    let source = program.with_extension("c");
    std::fs::write(&source, PROGRAM).unwrap();
    for (minor, folder) in headers {
        let mut gcc = Command::new("/usr/bin/gcc");
        gcc.arg("-w")
            .arg("-I")
            .arg(&folder)
            .arg("-I")
            .arg(folder.join("internal"));
        assert!(
            gcc.arg("-o")
                .arg(&program)
                .arg(&source)
                .status()
                .unwrap()
                .success(),
            "{folder:?}"
        );
        let output = Command::new(&program).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let pairs = output.lines().map(|line| line.split_once(' ').unwrap());
        let said: BTreeMap<&str, u32> = pairs
            .map(|(name, value)| (name, value.parse().unwrap()))
            .collect();
        let layout = Layout::of(PythonVersion { minor, micro: None }).unwrap();
        assert_eq!(table(layout), said, "{folder:?}");
    }
    for path in [source, program] {
        std::fs::remove_file(path).unwrap();
    }
}
