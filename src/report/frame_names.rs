//! Names for frames that are not machine code, or whose machine code has no name.

use sampler_unwind::interpreter::{Function, FunctionKind, LinePrecision};

use super::By;
use crate::profile::{End, FrameKey, FrameKind, JitCode, ModuleInfo, ResolvedFrame, WaitInfo};
use crate::symbols::{Symbol, demangle, module_name, syscall_name};

/// What stands for the module of code that was compiled at run time.
const JIT_MODULE: &str = "[jit]";

/// Asleep in the kernel without a system call.
const PAGE_FAULT: &str = "page fault";
/// Stopped by a signal or a debugger.
const STOPPED: &str = "stopped";

/// The frame of interpreted code, of a function that is called `name`.
pub(super) fn interpreted_frame(
    function: &Function,
    name: &str,
    (line, precision): (u32, LinePrecision),
    kind: FunctionKind,
    by: By,
) -> ResolvedFrame {
    let shown_line = match by {
        By::Function => function.first_line,
        By::Line => line,
    };
    let file = file_name(&function.file);
    let place = match (file, shown_line) {
        ("", _) => String::new(),
        (file, 0) => file.to_owned(),
        (file, line) => format!("{file}:{line}"),
    };
    ResolvedFrame {
        function: match (name, place.as_str()) {
            (name, "") => name.to_owned(),
            ("", place) => place.to_owned(),
            (name, place) => format!("{name} ({place})"),
        },
        module: Some(function.language.name().to_owned()),
        file: Some(function.file.clone()).filter(|file| !file.is_empty()),
        line: Some(line).filter(|&line| line > 0),
        line_precision: Some(precision).filter(|_| line > 0),
        inlined: kind == FunctionKind::Inlined,
        kind: match kind {
            FunctionKind::Interpreted => FrameKind::Interpreted,
            FunctionKind::Compiled | FunctionKind::Inlined => FrameKind::Compiled,
            FunctionKind::Builtin => FrameKind::Builtin,
            FunctionKind::Pseudo => FrameKind::Runtime,
        },
        language: Some(function.language),
    }
}

/// The last part of a path; the whole of what is none, such as `[string "return 1 / 2"]`.
fn file_name(file: &str) -> &str {
    match file.starts_with(['[', '<']) {
        true => file,
        false => file.rsplit('/').next().unwrap_or(file),
    }
}

/// The frame for `key` where that is no machine code.
pub(super) fn special_frame(key: FrameKey) -> Option<ResolvedFrame> {
    let (function, kind) = match key {
        FrameKey::Code { .. }
        | FrameKey::Interpreted { .. }
        | FrameKey::Jit { .. }
        | FrameKey::BlockedOn(_)
        | FrameKey::HoldsLock => return None,
        FrameKey::Syscall(number) => (
            format!("[syscall: {}]", syscall_name(number)),
            FrameKind::Kernel,
        ),
        FrameKey::Blocked(number) => (format!("[{}]", syscall_name(number)), FrameKind::Blocked),
        FrameKey::BlockedInFault => (format!("[{PAGE_FAULT}]"), FrameKind::Blocked),
        FrameKey::Stopped => (format!("[{STOPPED}]"), FrameKind::Blocked),
        FrameKey::NotStopped => ("[running, not stopped]".to_owned(), FrameKind::Note),
        FrameKey::Asleep => ("[asleep]".to_owned(), FrameKind::Blocked),
        FrameKey::Ended => ("[thread ended unseen]".to_owned(), FrameKind::Note),
        FrameKey::ChildrenEnded => ("[children ended unseen]".to_owned(), FrameKind::Note),
        FrameKey::UnseenCpu => ("[cpu: never caught running]".to_owned(), FrameKind::Note),
        FrameKey::NoStack => ("[no stack]".to_owned(), FrameKind::Note),
    };
    Some(without_source(function, None, kind))
}

/// The frame of a sleeper of which it is known what it waits for.
pub(super) fn wait_frame(wait: &WaitInfo) -> ResolvedFrame {
    let name = format!("[{} {}]", syscall_name(wait.syscall), wait.what);
    // A file needs no word for what it is.
    let what = wait.what.strip_prefix("file ").unwrap_or(&wait.what);
    ResolvedFrame {
        file: Some(what.to_owned()),
        ..without_source(name, None, FrameKind::Blocked)
    }
}

/// The system call that a frame of [`special_frame`] or [`wait_frame`] is in.
pub(super) fn syscall_of(frame: &ResolvedFrame) -> Option<&str> {
    let name = frame.function.strip_prefix('[')?.strip_suffix(']')?;
    match frame.kind {
        FrameKind::Kernel => name.strip_prefix("syscall: "),
        FrameKind::Blocked if name == PAGE_FAULT || name == STOPPED => None,
        FrameKind::Blocked => name.split(' ').next(),
        _ => None,
    }
}

/// The frame outside the outermost one of a stack that ended as `end` says; `None` for a complete one.
pub(super) fn end_frame(end: End) -> Option<ResolvedFrame> {
    let function = match end {
        End::Complete => return None,
        End::Truncated => "[cut]",
        End::Partial => "[incomplete]",
    };
    Some(without_source(function.to_owned(), None, FrameKind::Note))
}

/// The frame of machine code at `address` that has no name.
pub(super) fn unknown_frame(module: Option<&ModuleInfo>, address: u64) -> ResolvedFrame {
    let module = module.map(module_name);
    let function = match module {
        Some(module) => format!("[unknown in {module}+{address:#x}]"),
        None => format!("[unknown {address:#x}]"),
    };
    without_source(function, module, FrameKind::Native)
}

/// The frame of a function in `module`.
pub(super) fn named_frame(module: &ModuleInfo, symbol: Symbol, by: By) -> ResolvedFrame {
    let function = match (&symbol.file, symbol.line, by) {
        (Some(file), Some(line), By::Line) => {
            format!("{} ({}:{line})", symbol.function, file_name(file))
        }
        _ => symbol.function,
    };
    ResolvedFrame {
        function,
        module: Some(module_name(module).to_owned()),
        file: symbol.file,
        line: symbol.line,
        line_precision: None,
        inlined: symbol.inlined,
        kind: FrameKind::Native,
        language: None,
    }
}

/// The frame of `code` at `lookup_address` in the process.
pub(super) fn jit_frame(code: &JitCode, lookup_address: u64) -> ResolvedFrame {
    let line = code.line_at(lookup_address);
    ResolvedFrame {
        function: demangle(&code.name),
        module: Some(JIT_MODULE.to_owned()),
        file: line.map(|(file, _)| file.to_owned()),
        line: line.map(|(_, line)| line),
        line_precision: None,
        inlined: false,
        kind: FrameKind::Native,
        language: None,
    }
}

fn without_source(function: String, module: Option<&str>, kind: FrameKind) -> ResolvedFrame {
    ResolvedFrame {
        function,
        module: module.map(str::to_owned),
        file: None,
        line: None,
        line_precision: None,
        inlined: false,
        kind,
        language: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_for_what() {
        let frame = |what: &str| {
            wait_frame(&WaitInfo {
                syscall: 0,
                what: what.to_owned(),
            })
        };
        let file = frame("file /var/lib/x y");
        assert_eq!(file.function, "[read file /var/lib/x y]");
        assert_eq!(file.file.as_deref(), Some("/var/lib/x y"));
        assert_eq!(syscall_of(&file), Some("read"));
        let peer = frame("tcp 10.0.0.5:5432");
        assert_eq!(
            (peer.function.as_str(), peer.file.as_deref()),
            ("[read tcp 10.0.0.5:5432]", Some("tcp 10.0.0.5:5432"))
        );
        let others = [
            FrameKey::Syscall(1),
            FrameKey::Blocked(35),
            FrameKey::BlockedInFault,
            FrameKey::Stopped,
        ];
        let calls = others.map(|key| {
            let frame = special_frame(key)?;
            syscall_of(&frame).map(str::to_owned)
        });
        assert_eq!(
            calls,
            [Some("write".into()), Some("nanosleep".into()), None, None]
        );
    }

    #[test]
    fn system_calls_are_named_and_unknown_ones_numbered() {
        let name = |key| special_frame(key).map(|frame| frame.function);
        for (key, expected) in [
            (FrameKey::Syscall(0), "[syscall: read]"),
            (FrameKey::Syscall(999), "[syscall: 999]"),
            (FrameKey::Syscall(u32::MAX), "[syscall: 4294967295]"),
            (FrameKey::Blocked(202), "[futex]"),
            (FrameKey::Blocked(232), "[epoll_wait]"),
            (FrameKey::BlockedInFault, "[page fault]"),
            (FrameKey::Stopped, "[stopped]"),
            (FrameKey::NotStopped, "[running, not stopped]"),
            (FrameKey::Asleep, "[asleep]"),
            (FrameKey::Ended, "[thread ended unseen]"),
            (FrameKey::ChildrenEnded, "[children ended unseen]"),
            (FrameKey::NoStack, "[no stack]"),
        ] {
            assert_eq!(name(key).as_deref(), Some(expected));
        }
    }
}
