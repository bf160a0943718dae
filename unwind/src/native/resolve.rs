//! What an address of an image calls for, decided once and remembered.

use gimli::UnwindContext;

use super::cache::{AddressKind, Key, RuleCache};
use super::cfi::{self, CfiLookup, CfiRow};
use super::complex::{COMPLEX_RULES_MAX, ComplexRule};
use super::go;
use super::machine::{Code, Followed, INSTRUCTION_BYTES_MAX, Machine};
use super::rule::{Rule, RuleKind};
use crate::address::{Avma, Svma};
use crate::elf::ElfImage;
use crate::modules::{Modules, Piece};

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
    pub(crate) fn rule<A: Machine>(
        &mut self,
        modules: &Modules,
        piece: &Piece,
        pc: Avma,
        is_return_address: bool,
    ) -> Rule {
        let svma = piece.bias.svma(pc);
        let key = Key::new(piece.image, svma, address_kind(is_return_address));
        match modules.get(piece.module) {
            Some(module) if module.image.machine() == A::ELF_MACHINE => {
                self.decide_and_keep::<A>(key, &module.image, svma, is_return_address)
            }
            // A file that is mapped as data, or hostile.
            Some(_) | None => Rule::of(RuleKind::NoCode),
        }
    }

    /// The rule that `rule`, which is that of `pc`, comes to when the stack pointer is all that is known: the code is
    /// followed from the function's start to `pc`. `None` where the distance is not fixed.
    pub(crate) fn rule_by_stack<A: Machine>(
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
                let by_stack = A::rule_by_stack(image, lookup, pc, rule);
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
    fn decide_and_keep<A: Machine>(
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
        let rule = self.decide::<A>(image, pc, is_return_address);
        if let Some(key) = key {
            self.cache.insert(key, rule);
        }
        rule
    }

    /// The complex rule that `rule` stands for.
    pub(crate) fn complex(&self, rule: Rule) -> Option<&ComplexRule> {
        self.complex
            .get(usize::try_from(rule.complex_index()).ok()?)
    }

    fn decide<A: Machine>(&mut self, image: &ElfImage, pc: Svma, is_return_address: bool) -> Rule {
        let code = image.code_at(pc).unwrap_or_default();
        let before = image
            .code_before(pc, A::CALL_BYTES_MAX as u64)
            .unwrap_or_default();
        if A::is_signal_trampoline(code)
            || !is_return_address && A::is_signal_trampoline_call(before, code)
        {
            return Rule::of(RuleKind::SignalTrampoline);
        }
        if !is_return_address {
            return match code {
                [] => Rule::of(RuleKind::NoCode),
                // Whatever its tables say: some begin to tell that there is no caller one instruction later.
                _ if pc == image.entry() && A::is_outermost_entry(code) => Rule::of(RuleKind::Root),
                _ => self.by_tables_or_code::<A>(image, pc, pc, false),
            };
        }
        match before {
            [] => Rule::of(RuleKind::NoCode),
            _ if A::ends_with_call(before) => self.after_call::<A>(image, pc, before, code),
            _ => self.after_no_call::<A>(image, pc),
        }
    }

    fn after_call<A: Machine>(
        &mut self,
        image: &ElfImage,
        pc: Svma,
        before: &[u8],
        code: &[u8],
    ) -> Rule {
        if A::is_thread_start(image, pc, before, code) {
            return Rule::of(RuleKind::Root);
        }
        // Inside the call: it may be the last instruction of its function.
        self.by_tables_or_code::<A>(image, Svma(pc.0 - 1), pc, true)
    }

    /// A return address that no call has made. Coroutine libraries start a stack by putting the address of a function
    /// there that goes on to the next context, so tables are asked for the address itself.
    fn after_no_call<A: Machine>(&mut self, image: &ElfImage, pc: Svma) -> Rule {
        if go::is_start(image, pc) {
            return Rule::of(RuleKind::Root);
        }
        let starts_function = cfi::function(image, pc).is_some_and(|range| range.start == pc);
        if starts_function && !matches!(A::follow(&image, pc.0), Followed::Returns(_)) {
            // It was not called and does not return: glibc's `__start_context`, whose tables do not end the stack.
            return Rule::of(RuleKind::Root);
        }
        for (lookup, counts) in [(Some(pc.0), starts_function), (pc.0.checked_sub(1), false)] {
            let Some(CfiLookup::Found(rule)) =
                lookup.map(|at| self.by_tables::<A>(image, Svma(at), pc))
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

    fn by_tables<A: Machine>(
        &mut self,
        image: &ElfImage,
        lookup: Svma,
        pc: Svma,
    ) -> CfiLookup<Rule> {
        let complex = &mut self.complex;
        cfi::look_up(image, lookup, &mut self.context, |row| {
            A::compact(image, pc, row)
                .or_else(|| keep_complex(complex, image, row, A::LINK_REGISTER))
        })
    }

    /// The rule in place of `rule` if `pc` is in the epilogue of a function that realigned its stack.
    ///
    /// GCC (12 at least) still says there that registers lie relative to rbp when rbp has been popped.
    fn epilogue_of_realigned<A: Machine>(
        &self,
        image: &ElfImage,
        pc: Svma,
        rule: Rule,
    ) -> Option<Rule> {
        let complex = self
            .complex(rule)
            .filter(|_| rule.kind() == RuleKind::Complex)?;
        complex
            .is_realigned(A::ARCH.frame_pointer)
            .then(|| A::realigned_epilogue(image, pc))?
    }

    fn by_tables_or_code<A: Machine>(
        &mut self,
        image: &ElfImage,
        lookup: Svma,
        pc: Svma,
        is_return_address: bool,
    ) -> Rule {
        if let Some(rule) = go::by_mark::<A>(image, lookup, pc) {
            return rule;
        }
        let none = match self.by_tables::<A>(image, lookup, pc) {
            CfiLookup::Found(rule) => {
                return self
                    .epilogue_of_realigned::<A>(image, pc, rule)
                    .unwrap_or(rule);
            }
            CfiLookup::None => RuleKind::NoCfi,
            CfiLookup::Bad => RuleKind::BadCfi,
        };
        go::by_movement::<A>(image, lookup)
            .or_else(|| A::by_code(image, pc, is_return_address))
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
    link_register: Option<u16>,
) -> Option<Rule> {
    let rule = ComplexRule::new(image, row, link_register)?;
    let index = u32::try_from(complex.len()).ok()?;
    complex.push(rule);
    Some(Rule::complex(index, row.source))
}
