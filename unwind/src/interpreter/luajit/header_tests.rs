//! The tables against the headers of the LuaJITs that tests build: the original of 2026 and OpenResty's of 2020, each
//! with references of both sizes; and for aarch64, for which the headers give the same numbers on any machine of its
//! kind (64 bits, little-endian) that compiles them.
#![expect(clippy::disallowed_types, reason = "the compiler is asked")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::layout::{
    GC32, GC32_OLDER, GC64, GC64_AARCH64, GC64_OLDER, GC64_OLDER_AARCH64_OLDER, GCT_FUNCTION,
    GCT_PROTO, GCT_STRING, GCT_THREAD, GCT_TRACE, Layout,
};
use super::{calibrate, names, trace};
use crate::arch::Arch;

/// Prints where the fields are that the tables name.
const PROGRAM: &str = r#"
#include <stddef.h>
#include <stdio.h>
#include "lj_obj.h"
#include "lj_bc.h"
#include "lj_jit.h"
#include "lj_frame.h"
#include "lj_dispatch.h"
#define P(name, value) printf("%s %llu\n", name, (unsigned long long)(value))
#define GLOBAL(field) (offsetof(GG_State, g) + offsetof(global_State, field))
#define JIT(field) (offsetof(GG_State, J) + offsetof(jit_State, field))
int main(void) {
    P("gct", offsetof(GChead, gct));
    P("string", (uint8_t)~LJ_TSTR);
    P("thread", (uint8_t)~LJ_TTHREAD);
    P("proto", (uint8_t)~LJ_TPROTO);
    P("function", (uint8_t)~LJ_TFUNC);
    P("trace", (uint8_t)~LJ_TTRACE);
    P("thread.glref", offsetof(lua_State, glref));
    P("thread.base", offsetof(lua_State, base));
    P("thread.top", offsetof(lua_State, top));
    P("thread.maxstack", offsetof(lua_State, maxstack));
    P("thread.stack", offsetof(lua_State, stack));
    P("thread.cframe", offsetof(lua_State, cframe));
    P("proto.bytes", sizeof(GCproto));
    P("proto.sizebc", offsetof(GCproto, sizebc));
    P("proto.k", offsetof(GCproto, k));
    P("proto.sizept", offsetof(GCproto, sizept));
    P("proto.chunkname", offsetof(GCproto, chunkname));
    P("proto.firstline", offsetof(GCproto, firstline));
    P("proto.numline", offsetof(GCproto, numline));
    P("proto.lineinfo", offsetof(GCproto, lineinfo));
    P("proto.uvinfo", offsetof(GCproto, uvinfo));
    P("proto.varinfo", offsetof(GCproto, varinfo));
    P("function.ffid", offsetof(GCfuncL, ffid));
    P("function.pc", offsetof(GCfuncL, pc));
    P("string.data", sizeof(GCstr));
    P("trace.nsnap", offsetof(GCtrace, nsnap));
    P("trace.ir", offsetof(GCtrace, ir));
    P("trace.nsnapmap", offsetof(GCtrace, nsnapmap));
    P("trace.snap", offsetof(GCtrace, snap));
    P("trace.snapmap", offsetof(GCtrace, snapmap));
    P("trace.startpt", offsetof(GCtrace, startpt));
    P("trace.startpc", offsetof(GCtrace, startpc));
    P("trace.szmcode", offsetof(GCtrace, szmcode));
    P("trace.mcode", offsetof(GCtrace, mcode));
    P("trace.traceno", offsetof(GCtrace, traceno));
    P("snapshot.bytes", sizeof(SnapShot));
    P("code unit", sizeof(MCode));
    P("cframe.nres", CFRAME_OFS_NRES);
    P("cframe.thread", CFRAME_OFS_L);
    P("cframe.pc", CFRAME_OFS_PC);
    P("cframe.prev", CFRAME_OFS_PREV);
    P("cframe.bytes", CFRAME_SIZE);
    P("vmstate before main", GLOBAL(mainthref) - GLOBAL(vmstate));
    P("empty string before main", GLOBAL(mainthref) - GLOBAL(strempty));
    P("string.length", offsetof(GCstr, len));
    P("jit_base behind current", GLOBAL(jit_base) - GLOBAL(cur_L));
    P("size behind traces", JIT(sizetrace) - JIT(trace));
    P("within main", GLOBAL(mainthref) - offsetof(GG_State, g));
    P("within current", GLOBAL(cur_L) - offsetof(GG_State, g));
    P("within traces", JIT(trace) - offsetof(GG_State, g));
    P("MOV", BC_MOV);
    P("UGET", BC_UGET);
    P("GGET", BC_GGET);
    P("TGETS", BC_TGETS);
    P("CALLM", BC_CALLM);
    P("CALL", BC_CALL);
    P("CALLT", BC_CALLT);
    P("ITERC", BC_ITERC);
    P("ITERN", BC_ITERN);
    return 0;
}
"#;

/// What the table says, in the words of the program.
fn table(layout: &Layout) -> BTreeMap<&'static str, u64> {
    let wide = |at: usize| at as u64;
    let (thread, proto, of_trace) = (&layout.thread, &layout.proto, &layout.trace);
    let cframe = &layout.processor.cframe;
    let mut fields = BTreeMap::from([
        ("gct", layout.gct),
        ("string", GCT_STRING.into()),
        ("thread", GCT_THREAD.into()),
        ("proto", GCT_PROTO.into()),
        ("function", GCT_FUNCTION.into()),
        ("trace", GCT_TRACE.into()),
        ("thread.glref", thread.glref),
        ("thread.base", thread.base),
        ("thread.top", thread.top),
        ("thread.maxstack", thread.maxstack),
        ("thread.stack", thread.stack),
        ("thread.cframe", thread.cframe),
        ("proto.bytes", proto.bytes),
        ("proto.sizebc", wide(proto.sizebc)),
        ("proto.k", wide(proto.k)),
        ("proto.sizept", wide(proto.sizept)),
        ("proto.chunkname", wide(proto.chunkname)),
        ("proto.firstline", wide(proto.firstline)),
        ("proto.numline", wide(proto.numline)),
        ("proto.lineinfo", wide(proto.lineinfo)),
        ("proto.uvinfo", wide(proto.uvinfo)),
        ("proto.varinfo", wide(proto.varinfo)),
        ("function.ffid", layout.function_ffid),
        ("function.pc", layout.function_pc),
        ("string.data", layout.string_data),
        ("trace.nsnap", wide(of_trace.nsnap)),
        ("trace.ir", wide(of_trace.ir)),
        ("trace.nsnapmap", wide(of_trace.nsnapmap)),
        ("trace.snap", wide(of_trace.snap)),
        ("trace.snapmap", wide(of_trace.snapmap)),
        ("trace.startpt", wide(of_trace.startpt)),
        ("trace.startpc", wide(of_trace.startpc)),
        ("trace.szmcode", wide(of_trace.szmcode)),
        ("trace.mcode", wide(of_trace.mcode)),
        ("trace.traceno", wide(of_trace.traceno)),
        ("snapshot.bytes", wide(trace::SNAPSHOT_BYTES)),
        ("code unit", layout.processor.code_unit),
        ("cframe.nres", cframe.nres),
        ("cframe.thread", cframe.thread),
        ("cframe.pc", cframe.pc),
        ("cframe.prev", cframe.prev),
        ("cframe.bytes", cframe.bytes),
        ("vmstate before main", layout.vmstate_before_main),
        ("jit_base behind current", layout.reference_bytes()),
        ("size behind traces", 12),
        ("MOV", names::MOV.into()),
        ("UGET", names::UGET.into()),
        ("GGET", names::GGET.into()),
        ("TGETS", names::TGETS.into()),
        ("CALLM", names::CALLM.into()),
        ("CALL", names::CALL.into()),
        ("CALLT", names::CALLT.into()),
        ("ITERC", names::ITERC.into()),
        ("ITERN", names::ITERN.into()),
    ]);
    if let Some(empty) = &layout.empty_string {
        fields.insert("empty string before main", wide(empty.before_main));
        fields.insert("string.length", wide(empty.length));
    }
    fields
}

/// The headers of the package that the one in `fixtures/luajit/NAME` depends on.
fn headers(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/luajit");
    let manifest = fixtures.join(name).join("Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .arg("--manifest-path")
        .arg(&manifest)
        .output()
        .unwrap();
    let metadata = String::from_utf8(output.stdout).unwrap();
    let mut texts = metadata.split('"');
    let package = texts.find(|text| text.contains("/luajit-src-") && text.ends_with("/Cargo.toml"));
    let Some(package) = package else {
        let manifest = manifest.display();
        panic!(
            "this test needs LuaJIT's headers: cargo fetch --locked --manifest-path {manifest} (or tests/run)"
        );
    };
    Path::new(package).with_file_name("luajit2/src")
}

#[test]
fn the_tables_are_what_the_headers_say() {
    let program = std::env::temp_dir().join(format!("luajit_layout_{}", std::process::id()));
    let source = program.with_extension("c");
    std::fs::write(&source, PROGRAM).unwrap();
    for (name, layout) in [
        ("2020-openresty", &GC64_OLDER),
        ("2020-openresty", &GC32_OLDER),
        ("2026", &GC64),
        ("2026", &GC32),
        ("2020-openresty", &GC64_OLDER_AARCH64_OLDER),
        ("2026", &GC64_AARCH64),
    ] {
        let mut gcc = Command::new("/usr/bin/gcc");
        gcc.arg("-w")
            .arg("-I")
            .arg(headers(name))
            .arg("-o")
            .arg(&program)
            .arg(&source);
        if !layout.gc64 {
            gcc.arg("-DLUAJIT_DISABLE_GC64");
        }
        if layout.processor.arch == &Arch::AARCH64 {
            gcc.arg("-DLUAJIT_TARGET=LUAJIT_ARCH_arm64");
        }
        assert!(gcc.status().unwrap().success(), "{gcc:?}");
        let output = Command::new(&program).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let pairs = output.lines().map(|line| line.rsplit_once(' ').unwrap());
        let mut said: BTreeMap<&str, u64> = pairs
            .map(|(name, value)| (name, value.parse().unwrap()))
            .collect();
        // These are looked for, and differ between versions.
        let current = match layout.gc64 {
            true => calibrate::CURRENT_WITHIN_GC64,
            false => calibrate::CURRENT_WITHIN_GC32,
        };
        for (field, within) in [
            ("within main", calibrate::MAIN_WITHIN),
            ("within current", current),
            ("within traces", calibrate::TRACES_WITHIN),
        ] {
            let at = said
                .remove(field)
                .and_then(|at| usize::try_from(at).ok())
                .unwrap();
            assert!(
                within.contains(&at),
                "{name}: {field}: {at:#x} in {within:#x?}"
            );
        }
        if layout.empty_string.is_none() {
            said.retain(|field, _| !["empty string before main", "string.length"].contains(field));
        }
        let arch = layout.processor.arch.name;
        assert_eq!(table(layout), said, "{name}, {arch}, GC64: {}", layout.gc64);
    }
    for path in [source, program] {
        std::fs::remove_file(path).unwrap();
    }
}
