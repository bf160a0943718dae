//! Rules that the compact form cannot say: expressions, signal frames, registers saved in odd places.

use gimli::{CfaRule, EvaluationResult, EvaluationStorage, Location, Piece, RegisterRule, Value};

use super::cfi::{CfiRow, CfiSource, Reader};
use super::rule::{expression_bytes, register_plus_offset};
use crate::address::Avma;
use crate::elf::ElfImage;
use crate::memory::{MemoryReader, ReadError};
use crate::registers::Registers;
use crate::stack::StackEnd;

/// Operations that one expression may take; real ones take some ten.
const EXPRESSION_STEPS_MAX: u32 = 1000;
/// Complex rules that are kept: they take up to some 300 bytes each, and a program shows a few hundred.
pub(crate) const COMPLEX_RULES_MAX: usize = 1 << 13;
/// Registers that one row may give rules for.
const REGISTER_RULES_MAX: usize = 64;

/// Where an expression lies in its image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpressionAt {
    source: CfiSource,
    expression: gimli::UnwindExpression<usize>,
}

/// How to find a value. `pushed` values are on an expression's stack when it starts: the CFA.
#[derive(Clone, Copy, Debug)]
enum Place {
    Unchanged,
    Lost,
    /// In memory, at the CFA plus this.
    AtCfa(i64),
    /// The CFA plus this.
    CfaPlus(i64),
    /// In another register.
    In(u16),
    /// In memory, at a register plus this.
    AtRegister(u16, i32),
    /// In memory, where an expression says.
    AtExpression(ExpressionAt),
    /// What an expression says.
    Expression(ExpressionAt),
    Constant(u64),
}

/// One row of call frame information, kept as it is.
#[derive(Debug)]
pub(crate) struct ComplexRule {
    cfa: Place,
    return_address: Place,
    registers: Box<[(u16, Place)]>,
    pub(crate) is_signal_frame: bool,
}

/// What a complex rule gives: the caller's registers. An undefined return address is the end of the stack.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) registers: Registers,
    pub(crate) return_address: Option<u64>,
}

impl ComplexRule {
    /// Keeps the row in `cfi`; `None` if it makes no sense. A return address that is not mentioned is still in
    /// `link_register`, where there is such a register.
    pub(crate) fn new(
        image: &ElfImage,
        cfi: &CfiRow<'_>,
        link_register: Option<u16>,
    ) -> Option<Self> {
        let at = |expression: &gimli::UnwindExpression<usize>| ExpressionAt {
            source: cfi.source,
            expression: *expression,
        };
        let cfa = match cfi.row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                Place::AtRegister(register.0, i32::try_from(*offset).ok()?)
            }
            CfaRule::Expression(expression) => Place::Expression(at(expression)),
        };
        let place = |rule: &RegisterRule<usize>| match rule {
            RegisterRule::Undefined => Some(Place::Lost),
            RegisterRule::SameValue => Some(Place::Unchanged),
            RegisterRule::Offset(offset) => Some(Place::AtCfa(*offset)),
            RegisterRule::ValOffset(offset) => Some(Place::CfaPlus(*offset)),
            RegisterRule::Register(register) => Some(Place::In(register.0)),
            RegisterRule::Expression(expression) => {
                let bytes = expression_bytes(image, cfi.source, expression)?;
                Some(match register_plus_offset(bytes) {
                    Some((register, offset)) => Place::AtRegister(register, offset),
                    None => Place::AtExpression(at(expression)),
                })
            }
            RegisterRule::ValExpression(expression) => Some(Place::Expression(at(expression))),
            RegisterRule::Constant(value) => Some(Place::Constant(*value)),
            RegisterRule::Architectural => None,
        };
        let registers: Vec<_> = cfi
            .row
            .registers()
            .filter(|(register, _)| register.0 != cfi.return_address)
            .take(REGISTER_RULES_MAX)
            .map(|(register, rule)| Some((register.0, place(rule)?)))
            .collect::<Option<_>>()?;
        let return_address = cfi.row.register(gimli::Register(cfi.return_address));
        let is_unchanged = matches!(return_address, None | Some(RegisterRule::SameValue));
        Some(Self {
            cfa,
            return_address: match link_register.filter(|_| is_unchanged) {
                Some(register) => Place::In(register),
                None => place(&return_address?)?,
            },
            registers: registers.into(),
            is_signal_frame: cfi.is_signal_frame,
        })
    }

    /// Whether registers lie relative to the frame pointer, as in a function that realigned its stack.
    pub(crate) fn is_realigned(&self, frame_pointer: u16) -> bool {
        self.registers
            .iter()
            .any(|(_, place)| matches!(place, Place::AtRegister(base, _) if *base == frame_pointer))
    }

    /// Applies the rule to a frame whose registers are `inner`.
    ///
    /// # Errors
    /// Why the walk ends here.
    pub(crate) fn apply<M: MemoryReader + ?Sized>(
        &self,
        image: &ElfImage,
        inner: &Registers,
        memory: &M,
    ) -> Result<Caller, StackEnd> {
        let frame = Frame {
            image,
            inner,
            memory,
        };
        let cfa = match self.cfa {
            Place::AtRegister(register, offset) => frame
                .register(register)?
                .wrapping_add_signed(i64::from(offset)),
            place => frame.value(place, None)?.ok_or(frame.bad())?,
        };
        let return_address = frame.value(self.return_address, Some(cfa))?;
        let mut registers = *inner;
        let arch = inner.arch();
        if !self.is_signal_frame {
            registers.keep_callee_saved();
        }
        registers.set(arch.stack_pointer, cfa);
        for (register, place) in &self.registers {
            if matches!(place, Place::Unchanged) {
                if let Some(value) = inner.get(*register) {
                    registers.set(*register, value);
                }
                continue;
            }
            // A register that cannot be recovered is unknown in the caller; only the ones that are needed end a walk.
            match frame.value(*place, Some(cfa)) {
                Ok(Some(value)) => registers.set(*register, value),
                Ok(None) | Err(_) => registers.forget(*register),
            }
        }
        match return_address {
            Some(value) => registers.set(arch.return_address, value),
            None => registers.forget(arch.return_address),
        }
        Ok(Caller {
            registers,
            return_address,
        })
    }
}

/// What expressions are evaluated against.
struct Frame<'a, M: ?Sized> {
    image: &'a ElfImage,
    inner: &'a Registers,
    memory: &'a M,
}

/// An evaluation's stacks without the heap. gimli's own limit on the heap is none.
struct FixedStorage;

impl<R: gimli::Reader> EvaluationStorage<R> for FixedStorage {
    type Stack = [Value; 64];
    type ExpressionStack = [(R, R); 1];
    type Result = [Piece<R>; 1];
}

impl<M: MemoryReader + ?Sized> Frame<'_, M> {
    fn pc(&self) -> Avma {
        self.inner.pc().unwrap_or_default()
    }

    fn bad(&self) -> StackEnd {
        StackEnd::BadUnwindInfo(self.pc())
    }

    fn register(&self, register: u16) -> Result<u64, StackEnd> {
        self.inner.get(register).ok_or(StackEnd::UnknownRegister {
            pc: self.pc(),
            register,
        })
    }

    fn word(&self, at: u64) -> Result<u64, StackEnd> {
        self.memory.read_u64(Avma(at)).map_err(StackEnd::Unreadable)
    }

    /// The value at `place`; `None` if it is lost. `cfa` is `None` only while the CFA itself is sought.
    fn value(&self, place: Place, cfa: Option<u64>) -> Result<Option<u64>, StackEnd> {
        let from_cfa = |offset| Ok(cfa.ok_or(self.bad())?.wrapping_add_signed(offset));
        match place {
            Place::Lost | Place::Unchanged => Ok(None),
            Place::AtCfa(offset) => self.word(from_cfa(offset)?).map(Some),
            Place::CfaPlus(offset) => from_cfa(offset).map(Some),
            Place::In(register) => self.register(register).map(Some),
            Place::AtRegister(register, offset) => {
                let base = self.register(register)?;
                self.word(base.wrapping_add_signed(i64::from(offset)))
                    .map(Some)
            }
            Place::AtExpression(at) => self.word(self.evaluate(at, cfa)?).map(Some),
            Place::Expression(at) => self.evaluate(at, cfa).map(Some),
            Place::Constant(value) => Ok(Some(value)),
        }
    }

    fn evaluate(&self, at: ExpressionAt, pushed: Option<u64>) -> Result<u64, StackEnd> {
        let bytes = expression_bytes(self.image, at.source, &at.expression).ok_or(self.bad())?;
        let encoding = gimli::Encoding {
            address_size: 8,
            format: gimli::Format::Dwarf32,
            version: 4,
        };
        let mut evaluation = gimli::Evaluation::<Reader<'_>, FixedStorage>::new_in(
            gimli::EndianSlice::new(bytes, gimli::LittleEndian),
            encoding,
        );
        evaluation.set_max_iterations(EXPRESSION_STEPS_MAX);
        if let Some(value) = pushed {
            evaluation.set_initial_value(value);
        }
        let bad = |_| self.bad();
        let mut state = evaluation.evaluate().map_err(bad)?;
        // Each turn executes at least one operation, and those are bounded.
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = Value::Generic(self.register(register.0)?);
                    evaluation.resume_with_register(value).map_err(bad)?
                }
                EvaluationResult::RequiresMemory {
                    address,
                    size,
                    space: None,
                    ..
                } => {
                    let value = Value::Generic(self.bytes(address, size)?);
                    evaluation.resume_with_memory(value).map_err(bad)?
                }
                _ => return Err(self.bad()),
            };
        }
        match evaluation.as_result() {
            [
                Piece {
                    location: Location::Address { address },
                    ..
                },
            ] => Ok(*address),
            [
                Piece {
                    location: Location::Value { value },
                    ..
                },
            ] => value.to_u64(u64::MAX).map_err(bad),
            _ => Err(self.bad()),
        }
    }

    /// `size` bytes as a little-endian number.
    fn bytes(&self, at: u64, size: u8) -> Result<u64, StackEnd> {
        let mut word = [0; 8];
        let wanted = word.get_mut(..usize::from(size)).ok_or(self.bad())?;
        self.memory
            .read_exact(Avma(at), wanted)
            .map_err(|error: ReadError| StackEnd::Unreadable(error))?;
        Ok(u64::from_le_bytes(word))
    }
}
