//! What functions of interpreted code are called.

use rustc_hash::FxHashMap;
use sampler_unwind::interpreter::{Function, Language};

/// By position in `functions`, the name of each. Where names belong to callers (Lua), a function may have been recorded
/// with a name and without, or with several: all of them are one function, under the first name that was seen.
pub(super) fn names(functions: &[Function]) -> Vec<&str> {
    let place = |function: &Function| (function.language, function.first_line);
    let mut by_place: FxHashMap<_, &str> = FxHashMap::default();
    let has_place = |function: &&Function| is_named_by_place(function);
    for function in functions.iter().filter(has_place) {
        let name = by_place
            .entry((function.file.as_str(), place(function)))
            .or_default();
        if name.is_empty() {
            *name = &function.name;
        }
    }
    let name = functions.iter().map(|function| {
        let of_place = by_place.get(&(function.file.as_str(), place(function)));
        let of_place = of_place.filter(|_| is_named_by_place(function));
        of_place.copied().unwrap_or(&function.name)
    });
    name.collect()
}

/// Whether a function is known by its place alone. Several functions of Python begin in one line, each with its own name.
fn is_named_by_place(function: &Function) -> bool {
    function.language == Language::Lua && !function.file.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, file: &str, first_line: u32) -> Function {
        Function {
            language: Language::Lua,
            name: name.into(),
            file: file.into(),
            first_line,
        }
    }

    #[test]
    fn a_function_has_the_first_name_it_was_called_by() {
        let functions = [
            function("", "a.lua", 3),
            function("fib", "a.lua", 3),
            function("other", "a.lua", 3),
            function("", "a.lua", 9),
            function("", "b.lua", 3),
            function("string.rep", "", 0),
            function("[gc]", "", 0),
        ];
        let expected = ["fib", "fib", "fib", "", "", "string.rep", "[gc]"];
        assert_eq!(names(&functions), expected);
    }
}
