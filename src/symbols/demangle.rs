//! The name a person wrote, from the name the linker saw.

use std::fmt::{self, Write};

use cpp_demangle::{BorrowedSymbol, DemangleOptions};

/// A demangled name may be this long. A mangled name of a few hundred bytes can stand for one of gigabytes, because a
/// part that was named once is repeated by number.
const NAME_BYTES_MAX: usize = 1 << 14;

/// At so many places of a name its signature is thought to begin.
const SIGNATURE_STARTS_MAX: usize = 64;

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
    demangle_cpp(name, &DemangleOptions::default()).or_else(|| demangle_cpp_without_signature(name))
}

fn demangle_cpp(name: &str, options: &DemangleOptions) -> Option<String> {
    let (symbol, tail) = BorrowedSymbol::with_tail(name.as_bytes()).ok()?;
    if !tail.is_empty() {
        return None;
    }
    bounded(|out| symbol.structured_demangle(out, options))
}

/// `std::swap<int>` of a template function whose result type or parameters the demangler does not take
/// (gimli-rs/cpp_demangle#308: `std::swap` is one).
///
/// The shortest start of the name that is a name by itself ends where the signature begins: neither a nested name nor
/// template arguments are complete before their `E` (Itanium C++ ABI, 5.1.2 and 5.1.5).
fn demangle_cpp_without_signature(name: &str) -> Option<String> {
    let options = DemangleOptions::default().no_params().no_return_type();
    name.match_indices('E')
        .take(SIGNATURE_STARTS_MAX)
        .find_map(|(at, _)| demangle_cpp(name.get(..=at)?, &options))
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
    fn cpp_names_with_a_signature_that_is_not_understood_go_without_it() {
        let swap = "_ZSt4swapIjENSt9enable_ifIXsrSt6__and_IJSt6__not_ISt15__is_tuple_likeIT_EESt21is_move_\
            constructibleIS4_ESt18is_move_assignableIS4_EEE5valueEvE4typeERS4_SE_";
        assert_eq!(demangle(swap), "std::swap<unsigned int>");
        // As if no more than the name were there: a part of the parameters would look like all of them.
        assert_eq!(demangle("_Z1f1pIiiE!"), "f");
        assert_eq!(demangle("_ZN1a1bIiE1cEv!"), "a::b<int>::c");
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
