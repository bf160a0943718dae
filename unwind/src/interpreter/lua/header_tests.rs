//! The tables against the headers of every version, which the crate `lua-src` brings.
#![expect(clippy::disallowed_types, reason = "the compiler is asked")]

use std::collections::BTreeMap;
use std::process::Command;

use sampler_tests_support::lua_sources;

use super::layout::{CLOSURE_IS_C, Calls, Layout, LuaVersion, STRING_LENGTH, TAG, TAG_OF_THREAD};
use super::opcodes::Opcodes;

/// Prints where the fields are that the tables name.
const PROGRAM: &str = r#"
#include <stddef.h>
#include <stdio.h>
#include "lua.h"
#include "lobject.h"
#include "lstate.h"
#include "lfunc.h"
#include "lopcodes.h"
#define P(name, value) printf("%s %llu\n", name, (unsigned long long)(value))
#define AT(name, type, field) P(name, offsetof(type, field))
int main(void) {
    AT("global", lua_State, l_G);
    AT("call", lua_State, ci);
    AT("stack", lua_State, stack);
    AT("function", CallInfo, func);
    AT("closure_proto", LClosure, p);
    AT("code", Proto, code);
    AT("instructions", Proto, sizecode);
    AT("lines", Proto, lineinfo);
    AT("line_count", Proto, sizelineinfo);
    AT("source", Proto, source);
    AT("first_line", Proto, linedefined);
    AT("constants", Proto, k);
    AT("constant_count", Proto, sizek);
    AT("upvalues", Proto, upvalues);
    AT("upvalue_count", Proto, sizeupvalues);
    P("upvalue_bytes", sizeof(*((Proto *)0)->upvalues));
    AT("variables", Proto, locvars);
    AT("variable_count", Proto, sizelocvars);
    P("variable_bytes", sizeof(LocVar));
    P("value_bytes", sizeof(TValue));
    P("instruction_bytes", sizeof(Instruction));
    P("tag", offsetof(lua_State, tt));
    P("thread_tag", LUA_TTHREAD);
#if LUA_VERSION_NUM == 501
    AT("saved_pc", CallInfo, savedpc);
    AT("base", lua_State, base_ci);
    P("stride", sizeof(CallInfo));
    AT("innermost_pc", lua_State, savedpc);
    AT("tail_calls", CallInfo, tailcalls);
    AT("is_c", CClosure, isC);
    P("proto_tag", LUA_TPROTO);
    P("length", offsetof(TString, tsv.len));
    P("characters", sizeof(TString));
    P("get_global", OP_GETGLOBAL);
    P("for_call", OP_TFORLOOP);
#else
    AT("saved_pc", CallInfo, u.l.savedpc);
    AT("previous", CallInfo, previous);
    AT("status", CallInfo, callstatus);
    P("proto_tag", LUA_TPROTO);
    P("tail", CIST_TAIL);
#ifdef CIST_FIN
    P("unseen", CIST_HOOKED | CIST_FIN);
#else
    P("unseen", CIST_HOOKED);
#endif
#ifdef CIST_LUA
    P("lua_bits", CIST_LUA);
    P("lua", CIST_LUA);
#else
    P("lua_bits", CIST_C);
    P("lua", 0);
#endif
#ifdef CIST_FRESH
    P("fresh_bits", CIST_FRESH);
    P("fresh", CIST_FRESH);
#else
    P("fresh_bits", CIST_REENTRY);
    P("fresh", 0);
#endif
#if LUA_VERSION_NUM == 502
    P("length", offsetof(TString, tsv.len));
    P("characters", sizeof(TString));
#elif LUA_VERSION_NUM < 505
    P("length", offsetof(TString, u.lnglen));
    P("characters", (size_t)getstr((TString *)0));
#else
    P("length", offsetof(TString, u.lnglen));
    P("characters", offsetof(TString, contents));
#endif
    P("get_of_upvalue", OP_GETTABUP);
    P("for_call", OP_TFORCALL);
#endif
#if LUA_VERSION_NUM >= 504
    AT("absolute", Proto, abslineinfo);
    AT("absolute_count", Proto, sizeabslineinfo);
    P("get_field", OP_GETFIELD);
    P("first_binary", OP_MMBIN);
    P("last_binary", OP_MMBINK);
#endif
    P("copy", OP_MOVE);
    P("load_constant", OP_LOADK);
    P("load_nil", OP_LOADNIL);
    P("get_upvalue", OP_GETUPVAL);
    P("get", OP_GETTABLE);
    P("method", OP_SELF);
    P("jump", OP_JMP);
    P("call", OP_CALL);
    P("tail_call", OP_TAILCALL);
    unsigned long long writes[2] = {0, 0};
    for (int i = 0; i < (int)NUM_OPCODES; i++)
        if (testAMode(i)) writes[i / 64] |= 1ull << i % 64;
    P("writes_low", writes[0]);
    P("writes_high", writes[1]);
    return 0;
}
"#;

fn version(text: &str) -> LuaVersion {
    let (minor, release) = text
        .strip_prefix("5.")
        .and_then(|rest| rest.split_once('.'))
        .unwrap();
    LuaVersion {
        minor: minor.parse().unwrap(),
        release: release.parse().unwrap(),
    }
}

/// What the tables say, in the words of the program.
fn table(layout: &Layout) -> BTreeMap<&'static str, u64> {
    let (proto, names) = (&layout.proto, &layout.names);
    let mut fields = BTreeMap::from([
        ("global", layout.global),
        ("call", layout.call),
        ("stack", layout.stack),
        ("function", layout.function),
        ("saved_pc", layout.saved_pc),
        ("closure_proto", layout.closure_proto),
        ("proto_tag", u32::from(proto.tag)),
        ("code", proto.code),
        ("instructions", proto.instructions),
        ("lines", proto.lines),
        ("line_count", proto.line_count),
        ("source", proto.source),
        ("first_line", proto.first_line),
        ("constants", names.constants),
        ("constant_count", names.constant_count),
        ("upvalues", names.upvalues),
        ("upvalue_count", names.upvalue_count),
        ("upvalue_bytes", names.upvalue_bytes),
        ("variables", names.variables),
        ("variable_count", names.variable_count),
    ]);
    fields.extend(
        proto
            .absolute
            .iter()
            .flat_map(|(lines, count)| [("absolute", *lines), ("absolute_count", *count)]),
    );
    match layout.calls {
        Calls::Array {
            base,
            stride,
            innermost_pc,
            tail_calls,
        } => fields.extend([
            ("base", base),
            ("stride", stride),
            ("innermost_pc", innermost_pc),
            ("tail_calls", tail_calls),
            ("is_c", u32::try_from(CLOSURE_IS_C).unwrap()),
        ]),
        Calls::List {
            previous,
            status,
            flags,
        } => fields.extend([
            ("previous", previous),
            ("status", status),
            ("tail", flags.tail),
            ("unseen", flags.unseen),
            ("lua_bits", flags.lua.0),
            ("lua", flags.lua.1),
            ("fresh_bits", flags.fresh.0),
            ("fresh", flags.fresh.1),
        ]),
    }
    let mut fields: BTreeMap<_, _> = fields
        .into_iter()
        .map(|(name, value)| (name, u64::from(value)))
        .collect();
    fields.extend([
        ("tag", TAG),
        ("thread_tag", u64::from(TAG_OF_THREAD)),
        ("length", STRING_LENGTH as u64),
        ("characters", 24),
        ("instruction_bytes", 4),
        ("variable_bytes", 16),
        ("value_bytes", 16),
    ]);
    fields.extend(numbers(layout.opcodes));
    fields
}

fn numbers(opcodes: &Opcodes) -> BTreeMap<&'static str, u64> {
    let mut numbers = BTreeMap::from([
        ("copy", opcodes.copy),
        ("load_constant", opcodes.load_constant),
        ("load_nil", opcodes.load_nil),
        ("get_upvalue", opcodes.get_upvalue),
        ("get", opcodes.get),
        ("method", opcodes.method),
        ("jump", opcodes.jump),
        ("call", opcodes.call),
        ("tail_call", opcodes.tail_call),
        ("for_call", opcodes.for_call),
    ]);
    let some = [
        ("get_global", opcodes.get_global),
        ("get_of_upvalue", opcodes.get_of_upvalue),
        ("get_field", opcodes.get_field),
    ];
    numbers.extend(
        some.iter()
            .filter_map(|(name, number)| Some((*name, (*number)?))),
    );
    if let Some((first, last)) = opcodes.binary_metamethods {
        numbers.extend([("first_binary", first), ("last_binary", last)]);
    }
    let mut numbers: BTreeMap<_, _> = numbers
        .into_iter()
        .map(|(name, number)| (name, u64::from(number)))
        .collect();
    let [low, high] = [opcodes.writes_a, opcodes.writes_a >> 64];
    numbers.insert(
        "writes_low",
        u64::try_from(low & u128::from(u64::MAX)).unwrap(),
    );
    numbers.insert("writes_high", u64::try_from(high).unwrap());
    numbers
}

#[test]
fn the_tables_are_what_the_headers_say() {
    let sources = lua_sources();
    assert_eq!(sources.len(), 5, "{sources:?}");
    let program = std::env::temp_dir().join(format!("lua_layout_{}", std::process::id()));
    let source = program.with_extension("c");
    for (text, folder) in sources {
        std::fs::write(&source, PROGRAM).unwrap();
        let mut gcc = Command::new("/usr/bin/gcc");
        gcc.arg("-w").arg("-I").arg(&folder).arg("-o").arg(&program);
        gcc.arg(&source).arg(folder.join("lopcodes.c"));
        assert!(gcc.status().unwrap().success(), "{folder:?}");
        let output = Command::new(&program).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let pairs = output.lines().map(|line| line.split_once(' ').unwrap());
        let said: BTreeMap<&str, u64> = pairs
            .map(|(name, value)| (name, value.parse().unwrap()))
            .collect();
        let layout = Layout::of(version(&text)).unwrap();
        assert_eq!(table(&layout), said, "{text}");
    }
    for path in [source, program] {
        std::fs::remove_file(path).unwrap();
    }
}
