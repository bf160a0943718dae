//! A compact rule: how to get from a frame to its caller, decided once per address.

use gimli::{CfaRule, RegisterRule};

use super::cfi::{CfiRow, CfiSource};
use crate::address::Svma;
use crate::arch::Arch;
use crate::elf::ElfImage;
use crate::stack::FrameOrigin;

/// Slots for callee-saved registers in a rule, in the order of [`Arch::callee_saved`].
pub(crate) const SAVED_MAX: usize = 6;
/// The same room as [`ShortSlot`]s, for an architecture that saves more registers.
pub(crate) const SHORT_SAVED_MAX: usize = 12;

/// What an address calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RuleKind {
    /// CFA = register + offset; registers lie at offsets from it.
    Register,
    /// CFA = the word at register + offset (a realigned stack).
    Memory,
    /// The index of a [`super::complex::ComplexRule`] is in [`Rule::offset`].
    Complex,
    /// The outermost frame.
    Root,
    /// The kernel's context lies at the stack pointer.
    SignalTrampoline,
    /// There is no call frame information for this code.
    NoCfi,
    /// There is call frame information for this code and it makes no sense.
    BadCfi,
    /// For a return address: no call lies before it, nor is it a known exception.
    NotAfterCall,
    /// The image has no code here: a hole between its segments, or data.
    NoCode,
    /// The code has gone on from another stack, and nothing on this one says where that is.
    OtherStack,
}

/// Where a callee-saved register of the caller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(i16);

impl Slot {
    /// Still in the register.
    pub(crate) const SAME: Slot = Slot(i16::MIN);
    /// Nowhere.
    pub(crate) const LOST: Slot = Slot(i16::MIN + 1);

    /// In memory, `bytes` from the CFA; `None` for what does not fit the compact form.
    pub(crate) fn at(bytes: i64) -> Option<Self> {
        let words = i16::try_from(bytes / 8).ok()?;
        (bytes % 8 == 0 && words > Self::LOST.0).then_some(Slot(words))
    }

    const fn bits(self) -> u32 {
        self.0.cast_unsigned() as u32
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a slot is the lower half of the word that it is taken from"
    )]
    fn from_bits(bits: u32) -> Self {
        Slot((bits as u16).cast_signed())
    }

    #[inline]
    pub(crate) fn is_lost(self) -> bool {
        self == Self::LOST
    }

    /// The position from the CFA in bytes, if the register is in memory.
    #[inline]
    pub(crate) fn offset(self) -> Option<i64> {
        (self.0 > Self::LOST.0).then(|| i64::from(self.0) * 8)
    }
}

/// As [`Slot`], in a byte: a register that is saved below the CFA, by no more than some 2000 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShortSlot(u8);

impl ShortSlot {
    /// Still in the register.
    pub(crate) const SAME: ShortSlot = ShortSlot(0);
    /// Nowhere.
    pub(crate) const LOST: ShortSlot = ShortSlot(u8::MAX);

    /// In memory, `bytes` from the CFA; `None` for what does not fit.
    pub(crate) fn at(bytes: i64) -> Option<Self> {
        let words = u8::try_from(bytes.checked_neg()? / 8).ok()?;
        let slot = ShortSlot(words);
        (bytes % 8 == 0 && slot != Self::SAME && slot != Self::LOST).then_some(slot)
    }

    /// The same as a [`Slot`].
    #[inline]
    pub(crate) fn long(self) -> Slot {
        match self {
            Self::SAME => Slot::SAME,
            Self::LOST => Slot::LOST,
            ShortSlot(words) => Slot(-i16::from(words)),
        }
    }
}

/// How to get from a frame to its caller.
///
/// The caller's stack pointer is the word above the return address: only rules for which that is the CFA are kept in
/// this form.
///
/// Packed by hand, so that a rule and its key fill half a line of cache and that all copies of it are made of the same
/// parts: a walk copies one for each frame, and the processor waits when a part just stored is read as part of a larger
/// one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The offset; three pairs of slots, or twelve short ones; the return address's slot, the register, and kind and marks.
    words: [u32; 5],
}

const SAME_PAIR: u32 = Slot::SAME.bits() << 16 | Slot::SAME.bits();
const KIND_MASK: u32 = 0b1111 << 24;
const ORIGIN_SHIFT: u32 = 28;
const ORIGIN_MASK: u32 = 0b111 << ORIGIN_SHIFT;
const FRAMEHOP_EXACT: u32 = 1 << 31;

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule")
            .field("kind", &self.kind())
            .field("register", &self.register())
            .field("offset", &self.offset())
            .field("saved", &self.saved())
            .field("return_address", &self.return_address())
            .field("origin", &self.origin())
            .finish()
    }
}

impl Rule {
    /// A rule that is all said by its kind.
    pub(crate) const fn of(kind: RuleKind) -> Self {
        Self {
            words: [
                0,
                SAME_PAIR,
                SAME_PAIR,
                SAME_PAIR,
                Slot::LOST.bits() | (kind as u32) << 24,
            ],
        }
    }

    /// CFA = `register` + `offset`, the return address just below it, all registers unchanged.
    pub(crate) fn simple(register: u16, offset: i32, origin: FrameOrigin) -> Self {
        Self::new(RuleKind::Register, register, offset, Slot(-1), origin)
    }

    /// The CFA is at, or is the word at, `register` + `offset`.
    pub(crate) fn new(
        kind: RuleKind,
        register: u16,
        offset: i32,
        return_address: Slot,
        origin: FrameOrigin,
    ) -> Self {
        let mut rule = Self::of(kind).on_register(register, offset);
        rule.words[4] = rule.words[4] & !0xffff | return_address.bits();
        rule.with_origin(origin)
    }

    /// This rule with its CFA at `register` + `offset`.
    pub(crate) fn on_register(mut self, register: u16, offset: i32) -> Self {
        self.words[0] = offset.cast_unsigned();
        self.words[4] = self.words[4] & !0xff_0000 | u32::from(register & 0xff) << 16;
        self
    }

    /// This rule with the callee-saved registers in `slots`, in the order of [`Arch::callee_saved`].
    pub(crate) fn with_saved(mut self, slots: [Slot; SAVED_MAX]) -> Self {
        let [a, b, c, d, e, f] = slots.map(Slot::bits);
        self.words[1] = a | b << 16;
        self.words[2] = c | d << 16;
        self.words[3] = e | f << 16;
        self
    }

    /// Where the caller's callee-saved registers are, in the order of [`Arch::callee_saved`].
    #[inline]
    pub(crate) fn saved(&self) -> [Slot; SAVED_MAX] {
        let [_, ab, cd, ef, _] = self.words;
        [ab, ab >> 16, cd, cd >> 16, ef, ef >> 16].map(Slot::from_bits)
    }

    /// Whether all callee-saved registers are still in place.
    #[inline]
    pub(crate) fn saves_nothing(&self) -> bool {
        let [_, ab, cd, ef, _] = self.words;
        (ab, cd, ef) == (SAME_PAIR, SAME_PAIR, SAME_PAIR)
    }

    /// This rule with registers in `slots`; which those are is the architecture's matter.
    pub(crate) fn with_short_saved(mut self, slots: [ShortSlot; SHORT_SAVED_MAX]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = slots.map(|ShortSlot(byte)| byte);
        self.words[1] = u32::from_le_bytes([a, b, c, d]);
        self.words[2] = u32::from_le_bytes([e, f, g, h]);
        self.words[3] = u32::from_le_bytes([i, j, k, l]);
        self
    }

    /// What [`Rule::with_short_saved`] was given.
    #[inline]
    pub(crate) fn short_saved(&self) -> [ShortSlot; SHORT_SAVED_MAX] {
        let [_, first, second, third, _] = self.words.map(u32::to_le_bytes);
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (first, second, third);
        [a, b, c, d, e, f, g, h, i, j, k, l].map(ShortSlot)
    }

    /// The CFA's distance from [`Rule::register`].
    #[inline]
    pub(crate) fn offset(&self) -> i32 {
        self.words[0].cast_signed()
    }

    /// The register from which the CFA is told.
    #[inline]
    pub(crate) fn register(&self) -> u16 {
        u16::from(self.words[4].to_le_bytes()[2])
    }

    /// Where the return address lies from the CFA, in bytes.
    #[inline]
    pub(crate) fn return_address(&self) -> i64 {
        Slot::from_bits(self.words[4]).offset().unwrap_or_default()
    }

    /// The rule that is kept at `index` among the complex ones.
    pub(crate) fn complex(index: u32, source: CfiSource) -> Self {
        Self::of(RuleKind::Complex)
            .on_register(0, index.cast_signed())
            .with_origin(source.origin())
    }

    /// The index of a complex rule.
    pub(crate) fn complex_index(&self) -> u32 {
        self.words[0]
    }

    #[inline]
    pub(crate) fn kind(&self) -> RuleKind {
        match (self.words[4] & KIND_MASK) >> 24 {
            0 => RuleKind::Register,
            1 => RuleKind::Memory,
            2 => RuleKind::Complex,
            3 => RuleKind::Root,
            4 => RuleKind::SignalTrampoline,
            5 => RuleKind::NoCfi,
            6 => RuleKind::BadCfi,
            7 => RuleKind::NotAfterCall,
            9 => RuleKind::OtherStack,
            _ => RuleKind::NoCode,
        }
    }

    /// How a frame found by this rule was found.
    #[inline]
    pub(crate) fn origin(&self) -> FrameOrigin {
        match (self.words[4] & ORIGIN_MASK) >> ORIGIN_SHIFT {
            0 => FrameOrigin::CallFrameInfo,
            1 => FrameOrigin::DebugFrame,
            2 => FrameOrigin::KnownCode,
            4 => FrameOrigin::GoTable,
            _ => FrameOrigin::Prologue,
        }
    }

    pub(crate) fn with_origin(mut self, origin: FrameOrigin) -> Self {
        let number = match origin {
            FrameOrigin::DebugFrame => 1,
            FrameOrigin::KnownCode => 2,
            FrameOrigin::Prologue => 3,
            FrameOrigin::GoTable => 4,
            _ => 0,
        };
        self.words[4] = self.words[4] & !ORIGIN_MASK | number << ORIGIN_SHIFT;
        self
    }

    /// Whether the rule is one of call frame information.
    pub(crate) fn is_cfi(&self) -> bool {
        matches!(
            self.origin(),
            FrameOrigin::CallFrameInfo | FrameOrigin::DebugFrame
        )
    }

    /// This rule, marked as one that framehop represents exactly.
    pub(crate) fn framehop_exact(mut self) -> Self {
        self.words[4] |= FRAMEHOP_EXACT;
        self
    }

    /// Whether framehop 0.16 represents this rule exactly.
    pub(crate) fn is_framehop_exact(&self) -> bool {
        self.words[4] & FRAMEHOP_EXACT != 0
    }
}

/// The compact rule of x86_64 for `row` at `pc`, or `None` when only a complex rule says all of it.
pub(crate) fn compact(arch: &Arch, image: &ElfImage, pc: Svma, cfi: &CfiRow<'_>) -> Option<Rule> {
    if cfi.is_signal_frame {
        return None;
    }
    let rule = compact_cfa(arch, image, pc, cfi)?;
    match cfi.row.register(gimli::Register(cfi.return_address))? {
        // Elsewhere the caller's stack pointer would not be the word above it.
        RegisterRule::Offset(-8) => {}
        RegisterRule::Undefined => return Some(Rule::of(RuleKind::Root)),
        _ => return None,
    }
    let mut saved = [Slot::SAME; SAVED_MAX];
    for (register, register_rule) in cfi.row.registers() {
        if register.0 == cfi.return_address {
            continue;
        }
        let is_it = |saved: &u16| *saved == register.0;
        match arch.callee_saved.iter().position(is_it) {
            Some(position) => *saved.get_mut(position)? = compact_slot(register_rule)?,
            // Vector registers and the like are not followed.
            None if usize::from(register.0) >= arch.register_names.len() => {}
            None if *register_rule == RegisterRule::Undefined => {}
            None => return None,
        }
    }
    let rule = rule.with_saved(saved).with_origin(cfi.source.origin());
    let is_exact = is_framehop_exact(arch, cfi, &rule);
    Some(if is_exact {
        rule.framehop_exact()
    } else {
        rule
    })
}

fn compact_slot(rule: &RegisterRule<usize>) -> Option<Slot> {
    match rule {
        RegisterRule::Offset(offset) => Slot::at(*offset),
        RegisterRule::SameValue => Some(Slot::SAME),
        RegisterRule::Undefined => Some(Slot::LOST),
        _ => None,
    }
}

fn compact_cfa(arch: &Arch, image: &ElfImage, pc: Svma, cfi: &CfiRow<'_>) -> Option<Rule> {
    match cfi.row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let offset = i32::try_from(*offset).ok()?;
            // A CFA at or below the stack pointer is the complex rule's matter.
            let advances = register.0 != arch.stack_pointer || offset > 0;
            (advances && usize::from(register.0) < arch.register_names.len())
                .then(|| Rule::simple(register.0, offset, FrameOrigin::CallFrameInfo))
        }
        CfaRule::Expression(expression) => {
            let bytes = expression_bytes(image, cfi.source, expression)?;
            if let Some(offset) = plt_offset(bytes, pc) {
                return Some(Rule::simple(
                    arch.stack_pointer,
                    offset,
                    FrameOrigin::CallFrameInfo,
                ));
            }
            word_at_register(bytes).map(|(register, offset)| {
                let origin = FrameOrigin::CallFrameInfo;
                Rule::new(RuleKind::Memory, register, offset, Slot(-1), origin)
            })
        }
    }
}

/// The bytes of `expression`.
pub(crate) fn expression_bytes<'a>(
    image: &'a ElfImage,
    source: CfiSource,
    expression: &gimli::UnwindExpression<usize>,
) -> Option<&'a [u8]> {
    source
        .section(image)?
        .slice()
        .get(expression.offset..)?
        .get(..expression.length)
}

/// The CFA's distance from RSP by the expression that GNU ld writes for x86_64 PLTs: `RSP + n`, and 8 more from that
/// instruction of each 16-byte stub on which has pushed. Depends on nothing but the PC, so it is decided at once.
fn plt_offset(expression: &[u8], pc: Svma) -> Option<i32> {
    // breg7 n; breg16 0; lit15; and; litM; ge; lit3; shl; plus
    let [
        0x77,
        n @ 0..0x40,
        0x80,
        0,
        0x3f,
        0x1a,
        literal @ 0x30..=0x4f,
        0x2a,
        0x33,
        0x24,
        0x22,
    ] = expression
    else {
        return None;
    };
    let pushed = pc.0 & 15 >= u64::from(literal - 0x30);
    Some(i32::from(*n) + if pushed { 8 } else { 0 })
}

/// `DW_OP_bregN offset; DW_OP_deref`, which GCC writes for a function that realigned its stack.
fn word_at_register(expression: &[u8]) -> Option<(u16, i32)> {
    let (last, register_and_offset) = expression.split_last()?;
    (*last == gimli::DW_OP_deref.0).then_some(())?;
    register_plus_offset(register_and_offset)
}

/// `DW_OP_bregN offset` and nothing more.
pub(crate) fn register_plus_offset(expression: &[u8]) -> Option<(u16, i32)> {
    let (operation, offset) = expression.split_first()?;
    let register = operation.checked_sub(gimli::DW_OP_breg0.0)?;
    let mut reader = gimli::EndianSlice::new(offset, gimli::LittleEndian);
    let value = gimli::leb128::read::signed(&mut reader).ok()?;
    (register <= 16 && reader.is_empty())
        .then_some((u16::from(register), i32::try_from(value).ok()?))
}

/// framehop 0.16 keeps, for x86_64, CFA = RSP + 8n with RBP unchanged or at CFA - 8m, and CFA = RBP + 16 with RBP at
/// CFA - 16, the return address at CFA - 8 in each (`x86_64/unwind_rule.rs`).
fn is_framehop_exact(arch: &Arch, cfi: &CfiRow<'_>, rule: &Rule) -> bool {
    let is_it = |saved: &u16| *saved == arch.frame_pointer;
    let position = arch.callee_saved.iter().position(is_it);
    let frame_pointer = position.and_then(|position| rule.saved().get(position).copied());
    if !matches!(cfi.row.cfa(), CfaRule::RegisterAndOffset { .. }) {
        return false;
    }
    if rule.register() == arch.stack_pointer {
        let is_kept = rule.offset() % 8 == 0 && (8..=1 << 17).contains(&rule.offset());
        is_kept && frame_pointer != Some(Slot::LOST)
    } else {
        let is_frame_pointer = rule.register() == arch.frame_pointer;
        is_frame_pointer && rule.offset() == 16 && frame_pointer == Some(Slot(-2))
    }
}
