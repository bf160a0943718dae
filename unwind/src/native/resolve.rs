//! What an address of an image calls for, decided once and remembered.

use gimli::UnwindContext;

use super::cache::{AddressKind, Key, RuleCache};
use super::cfi::{self, CfiLookup, CfiRow};
use super::complex::{COMPLEX_RULES_MAX, ComplexRule};
use super::go;
use super::rule::{self, Rule, RuleKind};
use super::x86_64::decode::decode;
use super::x86_64::follow::{
    Code, Followed, epilogue, follow, has_fixed_stack, loader_start, rule_from_entry, rule_of_body,
};
use super::x86_64::{self, CALL_BYTES_MAX, INSTRUCTION_BYTES_MAX};
use crate::address::{Avma, Svma};
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::modules::{Modules, Piece};
use crate::stack::FrameOrigin;

/// Decides rules, and keeps them.
pub(crate) struct Resolver {
    cache: RuleCache,
    complex: Vec<ComplexRule>,
    context: UnwindContext<usize>,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            cache: RuleCache::default(),
            complex: Vec::new(),
            context: UnwindContext::new(),
            hits: 0,
            misses: 0,
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("hits", &self.hits)
            .field("misses", &self.misses)
            .field("complex", &self.complex.len())
            .finish_non_exhaustive()
    }
}

impl Code for &ElfImage {
    fn fetch(&self, at: u64, into: &mut [u8; INSTRUCTION_BYTES_MAX]) -> usize {
        let code = self.code_at(Svma(at)).unwrap_or_default();
        let bytes = code.len().min(into.len());
        into[..bytes].copy_from_slice(&code[..bytes]);
        bytes
    }
}

impl Resolver {
    /// As [`Resolver::rule`], if it is known from before.
    #[inline]
    pub(crate) fn known_rule(
        &mut self,
        piece: &Piece,
        pc: Avma,
        is_return_address: bool,
    ) -> Option<&Rule> {
        let kind = address_kind(is_return_address);
        let key = Key::new(piece.image, piece.bias.svma(pc), kind)?;
        let rule = self.cache.get(key)?;
        self.hits += 1;
        Some(rule)
    }

    /// The rule for the code at `pc`, which is in `piece`. For a return address that includes whether it can be one.
    pub(crate) fn rule(
        &mut self,
        modules: &Modules,
        piece: &Piece,
        pc: Avma,
        is_return_address: bool,
    ) -> Rule {
        let svma = piece.bias.svma(pc);
        let key = Key::new(piece.image, svma, address_kind(is_return_address));
        match modules.get(piece.module) {
            Some(module) => self.decide_and_keep(key, &module.image, svma, is_return_address),
            None => Rule::of(RuleKind::NoCode),
        }
    }

    /// The rule that `rule`, which is that of `pc`, comes to when the stack pointer is all that is known: the code is
    /// followed from the function's start to `pc`. `None` where the distance is not fixed.
    pub(crate) fn rule_by_stack(
        &mut self,
        image: &ElfImage,
        pc: Svma,
        is_return_address: bool,
        rule: Rule,
    ) -> Option<Rule> {
        let kind = match is_return_address {
            false => AddressKind::InterruptedByStack,
            true => AddressKind::ReturnByStack,
        };
        let key = Key::new(image.id(), pc, kind);
        let by_stack = match key.and_then(|key| self.cache.get(key)) {
            Some(kept) => *kept,
            None => {
                let lookup = Svma(pc.0.wrapping_sub(u64::from(is_return_address)));
                let by_stack = decide_by_stack(image, lookup, pc, rule);
                let by_stack = by_stack.unwrap_or(Rule::of(RuleKind::NoCfi));
                if let Some(key) = key {
                    self.cache.insert(key, by_stack);
                }
                by_stack
            }
        };
        (by_stack.kind() == RuleKind::Register).then_some(by_stack)
    }

    #[cold]
    fn decide_and_keep(
        &mut self,
        key: Option<Key>,
        image: &ElfImage,
        pc: Svma,
        is_return_address: bool,
    ) -> Rule {
        self.misses += 1;
        if self.complex.len() >= COMPLEX_RULES_MAX {
            self.complex.clear();
            self.cache.clear();
        }
        let rule = self.decide(image, pc, is_return_address);
        if let Some(key) = key {
            self.cache.insert(key, rule);
        }
        rule
    }

    /// The rule for `pc` if its function begins at `function`.
    pub(crate) fn rule_from_entry(
        &mut self,
        image: &ElfImage,
        function: Svma,
        pc: Svma,
    ) -> Option<Rule> {
        rule_from_entry(&image, function.0, pc.0).or_else(|| rule_of_body(&image, function.0))
    }

    /// The complex rule that `rule` stands for.
    pub(crate) fn complex(&self, rule: Rule) -> Option<&ComplexRule> {
        self.complex
            .get(usize::try_from(rule.complex_index()).ok()?)
    }

    fn decide(&mut self, image: &ElfImage, pc: Svma, is_return_address: bool) -> Rule {
        let code = image.code_at(pc).unwrap_or_default();
        let before = image
            .code_before(pc, CALL_BYTES_MAX as u64)
            .unwrap_or_default();
        if x86_64::is_signal_trampoline(code)
            || !is_return_address && x86_64::is_signal_trampoline_call(before, code)
        {
            return Rule::of(RuleKind::SignalTrampoline);
        }
        if !is_return_address {
            return match code {
                [] => Rule::of(RuleKind::NoCode),
                // Whatever its tables say: some begin to tell that there is no caller one instruction later.
                _ if pc == image.entry() && x86_64::clears_frame_pointer(code) => {
                    Rule::of(RuleKind::Root)
                }
                _ => self.by_tables_or_code(image, pc, pc, false),
            };
        }
        match before {
            [] => Rule::of(RuleKind::NoCode),
            _ if x86_64::ends_with_call(before) => self.after_call(image, pc, before, code),
            _ => self.after_no_call(image, pc),
        }
    }

    fn after_call(&mut self, image: &ElfImage, pc: Svma, before: &[u8], code: &[u8]) -> Rule {
        if is_thread_start(image, pc, before, code) {
            return Rule::of(RuleKind::Root);
        }
        // Inside the call: it may be the last instruction of its function.
        self.by_tables_or_code(image, Svma(pc.0 - 1), pc, true)
    }

    /// A return address that no call has made. Coroutine libraries start a stack by putting the address of a function
    /// there that goes on to the next context, so tables are asked for the address itself.
    fn after_no_call(&mut self, image: &ElfImage, pc: Svma) -> Rule {
        if go::is_start(image, pc) {
            return Rule::of(RuleKind::Root);
        }
        let starts_function = cfi::function(image, pc).is_some_and(|range| range.start == pc);
        if starts_function && !matches!(follow(&image, pc.0), Followed::Returns(_)) {
            // It was not called and does not return: glibc's `__start_context`, whose tables do not end the stack.
            return Rule::of(RuleKind::Root);
        }
        for (lookup, counts) in [(Some(pc.0), starts_function), (pc.0.checked_sub(1), false)] {
            let Some(CfiLookup::Found(rule)) = lookup.map(|at| self.by_tables(image, Svma(at), pc))
            else {
                continue;
            };
            let is_signal_frame = rule.kind() == RuleKind::Complex
                && self.complex(rule).is_some_and(|rule| rule.is_signal_frame);
            if counts || is_signal_frame || rule.kind() == RuleKind::Root {
                return rule;
            }
        }
        Rule::of(RuleKind::NotAfterCall)
    }

    fn by_tables(&mut self, image: &ElfImage, lookup: Svma, pc: Svma) -> CfiLookup<Rule> {
        let complex = &mut self.complex;
        cfi::look_up(image, lookup, &mut self.context, |row| {
            rule::compact(&Arch::X86_64, image, pc, row)
                .or_else(|| keep_complex(complex, image, row))
        })
    }

    /// The rule in place of `rule` if `pc` is in the epilogue of a function that realigned its stack.
    ///
    /// GCC (12 at least) still says there that registers lie relative to rbp when rbp has been popped.
    fn epilogue_of_realigned(&self, image: &ElfImage, pc: Svma, rule: Rule) -> Option<Rule> {
        let complex = self
            .complex(rule)
            .filter(|_| rule.kind() == RuleKind::Complex)?;
        complex
            .is_realigned(Arch::X86_64.frame_pointer)
            .then(|| epilogue(&image, pc.0))?
    }

    fn by_tables_or_code(
        &mut self,
        image: &ElfImage,
        lookup: Svma,
        pc: Svma,
        is_return_address: bool,
    ) -> Rule {
        if let Some(rule) = go::by_mark(image, lookup, pc) {
            return rule;
        }
        let none = match self.by_tables(image, lookup, pc) {
            CfiLookup::Found(rule) => {
                return self.epilogue_of_realigned(image, pc, rule).unwrap_or(rule);
            }
            CfiLookup::None => RuleKind::NoCfi,
            CfiLookup::Bad => RuleKind::BadCfi,
        };
        go::by_movement(image, lookup)
            .or_else(|| by_code(image, pc, is_return_address))
            .unwrap_or(Rule::of(none))
    }
}

fn address_kind(is_return_address: bool) -> AddressKind {
    match is_return_address {
        false => AddressKind::Interrupted,
        true => AddressKind::Return,
    }
}

fn keep_complex(
    complex: &mut Vec<ComplexRule>,
    image: &ElfImage,
    row: &CfiRow<'_>,
) -> Option<Rule> {
    let rule = ComplexRule::new(image, row)?;
    let index = u32::try_from(complex.len()).ok()?;
    complex.push(rule);
    Some(Rule::complex(index, row.source))
}

/// `rule` with the stack pointer in place of its register.
fn decide_by_stack(image: &ElfImage, lookup: Svma, pc: Svma, rule: Rule) -> Option<Rule> {
    let function = cfi::function(image, lookup)?;
    let by_code = has_fixed_stack(&image, function.start.0..function.end.0)
        .then(|| rule_from_entry(&image, function.start.0, pc.0))??;
    // The tables know better where registers are saved.
    Some(rule.on_register(Arch::X86_64.stack_pointer, by_code.offset()))
}

/// The rule for code without tables, from the code itself.
fn by_code(image: &ElfImage, pc: Svma, is_return_address: bool) -> Option<Rule> {
    if is_program_start(image, pc, is_return_address) {
        return Some(Rule::of(RuleKind::Root));
    }
    if !is_return_address {
        let before = image
            .code_before(pc, CALL_BYTES_MAX as u64)
            .unwrap_or_default();
        if let Some(offset) = x86_64::plt_cfa_offset(before, image.code_at(pc)?) {
            let stack_pointer = Arch::X86_64.stack_pointer;
            return Some(Rule::simple(stack_pointer, offset, FrameOrigin::KnownCode));
        }
    }
    match follow(&image, pc.0) {
        Followed::Returns(rule) => Some(rule),
        // What comes back to end the thread has no caller. Only after a call: the function that itself ends the
        // thread (`_exit`) has one.
        Followed::Exits if is_return_address => Some(Rule::of(RuleKind::Root)),
        Followed::Exits | Followed::Unknown => None,
    }
}

/// Whether `pc` is in the code at the image's entry point, up to and including its first call, which never returns;
/// or further on in that of the dynamic loader, or behind a call that it makes with rbp cleared, to run constructors.
fn is_program_start(image: &ElfImage, pc: Svma, is_return_address: bool) -> bool {
    const INSTRUCTIONS_MAX: usize = 16;
    const LOADER_BYTES_MAX: u64 = 128;
    if !is_return_address
        && loader_start(&image, image.entry().0).is_some_and(|start| start.contains(&pc.0))
    {
        return true;
    }
    let mut at = image.entry();
    for _ in 0..INSTRUCTIONS_MAX {
        if !is_return_address && at == pc {
            return true;
        }
        let Some(code) = image.code_at(at) else {
            return false;
        };
        let Some(instruction) = decode(code) else {
            break;
        };
        at = Svma(at.0.saturating_add(instruction.bytes as u64));
        if matches!(code, [0xe8 | 0xff, ..]) {
            if is_return_address && at == pc {
                return true;
            }
            break;
        }
    }
    let from_entry = pc.0.checked_sub(image.entry().0);
    is_return_address
        && from_entry.is_some_and(|bytes| bytes < LOADER_BYTES_MAX)
        && matches!(
            image.code_before(pc, CALL_BYTES_MAX as u64),
            Some([0x31, 0xed, 0xe8, ..])
        )
}

/// Whether `pc` is where a thread's start routine returns to in a `clone` that carries wrong tables: rbp was cleared
/// shortly before the call, and what was returned becomes the thread's exit code.
///
/// musl's tables for its assembly, where it has them, are generated and do not end the stack.
fn is_thread_start(image: &ElfImage, pc: Svma, before: &[u8], code: &[u8]) -> bool {
    const XOR_EBP_EBP: [u8; 2] = [0x31, 0xed];
    const MOV_EDI_EAX: [u8; 2] = [0x89, 0xc7];
    code.starts_with(&MOV_EDI_EAX)
        && before.windows(2).any(|bytes| bytes == XOR_EBP_EBP)
        && follow(&image, pc.0) == Followed::Exits
}
