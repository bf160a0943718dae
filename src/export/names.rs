//! Foreign names made harmless: a symbol or a thread's name can hold anything.

use std::borrow::Cow;

/// In place of a character that would do something rather than be seen: the replacement character.
const REPLACEMENT: &str = "\u{fffd}";
/// In place of a name of nothing.
const NAMELESS: &str = "[no name]";

/// `name` without anything that moves a cursor, breaks a line, turns text around, or is no character in XML.
pub(crate) fn printable(name: &str) -> Cow<'_, str> {
    if name.trim().is_empty() {
        return NAMELESS.into();
    }
    if name.contains(is_hostile) {
        name.replace(is_hostile, REPLACEMENT).into()
    } else {
        name.into()
    }
}

fn is_hostile(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            // Line breaks, direction overrides, a byte order mark, and what XML does not have.
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

/// `name` as one frame of a folded stack: without the `;` that parts frames, and without an end that readers would
/// take for a number of samples.
pub(super) fn folded(name: &str) -> String {
    let mut folded = printable(name.trim()).replace(';', ":");
    if let Some(space) = folded.rfind(' ') {
        let is_number = |letter: char| letter.is_ascii_digit() || letter == '.';
        if folded[space + 1..].chars().all(is_number) {
            folded.replace_range(space..=space, "_");
        }
    }
    // A line that begins so is a comment to some readers.
    if folded.starts_with("# ") {
        folded.replace_range(1..2, "_");
    }
    folded
}

/// `name` in at most `width` characters, with its middle left out: of a long C++ name the start tells the class, the
/// end the function and what it takes.
pub(crate) fn fit(name: &str, width: usize) -> Cow<'_, str> {
    let length = name.chars().count();
    if length <= width {
        return name.into();
    }
    let Some(kept) = width.checked_sub(1) else {
        return "".into();
    };
    let tail = kept / 2;
    let head = kept - tail;
    let head = name.chars().take(head);
    let tail = name.chars().skip(length - tail);
    head.chain(['…']).chain(tail).collect::<String>().into()
}

/// How many columns `text` takes. Wide characters are taken for one; names in code hardly have them.
pub(super) fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_codes_and_line_breaks_are_seen_rather_than_done() {
        assert_eq!(
            printable("evil\x1b[2J\nname"),
            "evil\u{fffd}[2J\u{fffd}name"
        );
        assert_eq!(printable("a\u{202e}b"), "a\u{fffd}b");
        assert_eq!(printable(" \t"), "[no name]");
        assert_eq!(printable("Größe::new"), "Größe::new");
    }

    #[test]
    fn a_folded_name_has_no_separator_and_no_number_at_its_end() {
        assert_eq!(folded("fill<[u8; 8]>"), "fill<[u8: 8]>");
        assert_eq!(folded("worker 3"), "worker_3");
        assert_eq!(folded("a 1 2"), "a 1_2");
        assert_eq!(folded("v 1.5"), "v_1.5");
        assert_eq!(folded("operator new "), "operator new");
        assert_eq!(folded("# main"), "#_main");
        assert_eq!(folded(""), "[no name]");
    }

    #[test]
    fn the_middle_is_left_out() {
        assert_eq!(fit("abcdefgh", 8), "abcdefgh");
        assert_eq!(fit("abcdefgh", 5), "ab…gh");
        assert_eq!(fit("abcdefgh", 4), "ab…h");
        assert_eq!(fit("abcdefgh", 1), "…");
        assert_eq!(fit("abcdefgh", 0), "");
    }

    proptest! {
        #[test]
        fn any_name_becomes_harmless_and_fits(name: String, width in 0usize..40) {
            prop_assert!(!printable(&name).contains(char::is_control));
            let folded = folded(&name);
            prop_assert!(!folded.is_empty() && !folded.contains([';', '\n']));
            let last = folded.rsplit(' ').next().unwrap_or_default();
            prop_assert!(last == folded || last.chars().any(|letter| !letter.is_ascii_digit()));
            prop_assert!(columns(&fit(&name, width)) <= width);
        }
    }
}
