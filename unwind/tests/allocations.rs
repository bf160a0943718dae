//! A walk whose rules are known allocates nothing.

mod support;

use std::ffi::OsStr;

use sampler_unwind::{Stack, StackEnd, Unwinder};
use support::capture::Capture;
use support::programs::{build, directory, run};

#[test]
fn a_warm_walk_allocates_nothing() {
    let flags = ["-O2", "-fno-optimize-sibling-calls", "-pthread"];
    let program = build("allocations", "gcc", "shapes.c", &flags);
    // Expressions, signal frames, code without tables; and, for a sleeper, registers to be solved for.
    for shape in ["recursion", "signal_nested", "assembly", "thread"] {
        let path = directory("allocations").join(shape);
        run(&program, &[path.as_os_str(), OsStr::new(shape)]);
        let capture = Capture::load(&path);
        let (mut unwinder, mut stack) = (Unwinder::new(), Stack::empty());
        let mut walk = || {
            unwinder.walk(
                &capture.modules,
                &capture.registers,
                &capture.memory,
                &mut stack,
            )
        };
        let cold = allocation_counter::measure(&mut walk);
        let warm = allocation_counter::measure(&mut walk);
        assert_eq!(stack.end, StackEnd::Root);
        assert!(cold.count_total > 0);
        assert_eq!(warm.count_total, 0, "{shape}: {warm:?}");
    }
}
