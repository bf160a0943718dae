//! The name a person wrote, from the name the linker saw.

use std::fmt::{self, Write};

use cpp_demangle::{BorrowedSymbol, DemangleOptions};

/// A demangled name may be this long. A mangled name of a few hundred bytes can stand for one of gigabytes, because a
/// part that was named once is repeated by number.
const NAME_BYTES_MAX: usize = 1 << 14;

/// What compilers append, after a dot, to the name of a function that they made from another one.
///
/// GCC: cold parts, interprocedural copies; LLVM: cold parts, hot parts, names made unique for ThinLTO.
const CLONES: [&str; 12] = [
    "cold",
    "isra",
    "constprop",
    "part",
    "lto_priv",
    "localalias",
    "clone",
    "ipa",
    "resolver",
    "warm",
    "eh",
    "__uniq",
];

/// The name of a function as it was written: Rust (both manglings, without the hash) and C++ are demangled, a symbol
/// version is dropped, and what a compiler appended to a copy comes last, as `c++filt` has it: `foo [clone .cold]`.
///
/// A name that is not mangled, or not well, comes back as it is.
pub fn demangle(name: &str) -> String {
    let name = without_version(name);
    let (base, clones) = split_clones(name);
    let mut demangled = demangle_base(base).unwrap_or_else(|| base.to_owned());
    if let Some(clones) = clones {
        demangled.push_str(" [clone ");
        demangled.push_str(clones);
        demangled.push(']');
    }
    demangled
}

/// `memcpy@@GLIBC_2.14` is `memcpy`.
fn without_version(name: &str) -> &str {
    match name.split_once('@') {
        Some((base, _)) if !base.is_empty() => base,
        _ => name,
    }
}

/// Splits `foo.part.0.cold` into `foo` and `.part.0.cold`. LLVM's `.llvm.123`, a hash, is dropped.
fn split_clones(name: &str) -> (&str, Option<&str>) {
    let name = match name.split_once(".llvm.") {
        Some((base, hash)) if !base.is_empty() && is_number(hash) => base,
        _ => name,
    };
    // From the end: words that compilers append and numbers, as long as it goes on like that.
    let mut base = name;
    let mut rest = name;
    while let Some((before, last)) = rest.rsplit_once('.') {
        if before.is_empty() {
            break;
        }
        if CLONES.contains(&last) {
            base = before;
        } else if !is_number(last) {
            break;
        }
        rest = before;
    }
    match name.get(base.len()..) {
        Some(clones) if !clones.is_empty() => (base, Some(clones)),
        _ => (name, None),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn demangle_base(name: &str) -> Option<String> {
    // Rust first: its older mangling is a C++ name as well, with the hash as the last part.
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return bounded(|out| write!(out, "{rust:#}"));
    }
    if !name.starts_with("_Z") && !name.starts_with("__Z") {
        return None;
    }
    let (symbol, tail) = BorrowedSymbol::with_tail(name.as_bytes()).ok()?;
    if !tail.is_empty() {
        return None;
    }
    bounded(|out| symbol.structured_demangle(out, &DemangleOptions::default()))
}

fn bounded(write: impl FnOnce(&mut BoundedString) -> fmt::Result) -> Option<String> {
    let mut out = BoundedString(String::new());
    write(&mut out).ok()?;
    Some(out.0).filter(|name| !name.is_empty())
}

/// Refuses to grow beyond [`NAME_BYTES_MAX`], which ends the demangling.
struct BoundedString(String);

impl Write for BoundedString {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len().saturating_add(text.len()) > NAME_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rust_names_lose_their_hash() {
        assert_eq!(
            demangle("_ZN4core3ptr13drop_in_place17h0123456789abcdefE"),
            "core::ptr::drop_in_place"
        );
        assert_eq!(
            demangle("_RNvMsr_NtCs3ssYzQotkvD_3std4pathNtB5_7PathBuf3new"),
            "<std::path::PathBuf>::new"
        );
        assert_eq!(
            demangle("_ZN3foo3bar17h0123456789abcdefE.llvm.1234567"),
            "foo::bar"
        );
    }

    #[test]
    fn cpp_names_show_their_templates() {
        assert_eq!(
            demangle("_ZNSt6vectorIiSaIiEE9push_backERKi"),
            "std::vector<int, std::allocator<int> >::push_back(int const&)"
        );
        assert_eq!(demangle("_ZN1a1bIiEEvT_"), "void a::b<int>(int)");
    }

    #[test]
    fn copies_say_what_they_are_after_the_name() {
        for (mangled, name) in [
            ("_Z3foov.cold", "foo() [clone .cold]"),
            ("_Z3foov.part.0.cold", "foo() [clone .part.0.cold]"),
            ("foo.isra.0", "foo [clone .isra.0]"),
            ("foo.constprop.12", "foo [clone .constprop.12]"),
            ("foo.cold.3", "foo [clone .cold.3]"),
            (
                "_ZN3foo3bar17h0123456789abcdefE.cold",
                "foo::bar [clone .cold]",
            ),
            // Not appended by a compiler: the number makes a local name unique, `.shim` is part of one.
            ("counter.1", "counter.1"),
            ("vtable.shim", "vtable.shim"),
            (".cold", ".cold"),
        ] {
            assert_eq!(demangle(mangled), name);
        }
    }

    #[test]
    fn versions_are_dropped() {
        assert_eq!(demangle("memcpy@@GLIBC_2.14"), "memcpy");
        assert_eq!(demangle("memcpy@GLIBC_2.2.5"), "memcpy");
        assert_eq!(demangle("@odd"), "@odd");
    }

    #[test]
    fn other_names_stay_as_they_are() {
        for name in ["main", "", "_Z", "_ZN", "__libc_start_main", "_R", "a b"] {
            assert_eq!(demangle(name), name);
        }
    }

    #[test]
    fn a_name_that_would_explode_stays_mangled() {
        // Each pair takes the one before it twice.
        let mut name = "_Z1f1pIiiE".to_owned();
        for substitution in ["S_", "S0_", "S1_", "S2_", "S3_", "S4_", "S5_", "S6_"] {
            name.push_str(&format!("S_I{substitution}{substitution}E"));
        }
        assert!(demangle(&name).len() <= NAME_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn any_name_gives_one_of_bounded_length(name in "(_Z|_R|_ZN)?[A-Za-z0-9_.$@]{0,80}") {
            prop_assert!(demangle(&name).len() <= NAME_BYTES_MAX + name.len() + 16);
        }
    }
}
