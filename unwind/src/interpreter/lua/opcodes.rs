//! The instructions of PUC Lua that names are found by, by version (`lopcodes.h`).

/// An instruction.
pub(super) type Instruction = u32;

/// Numbers of instructions, and how their operands lie.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opcodes {
    /// The fields of an instruction.
    pub fields: Fields,
    /// `OP_MOVE`: from register B to A.
    pub copy: u8,
    /// `OP_LOADK`: constant Bx.
    pub load_constant: u8,
    /// `OP_LOADNIL`: registers from A on.
    pub load_nil: u8,
    /// Whether the B of [`Opcodes::load_nil`] is the last register (5.1), rather than how many follow.
    pub nil_to_register: bool,
    /// `OP_GETUPVAL`: variable B of a function around.
    pub get_upvalue: u8,
    /// `OP_GETGLOBAL` (5.1): the global named by constant Bx.
    pub get_global: Option<u8>,
    /// `OP_GETTABUP` (5.2): field C of variable B of a function around.
    pub get_of_upvalue: Option<u8>,
    /// `OP_GETTABLE`: field C of register B.
    pub get: u8,
    /// `OP_GETFIELD` (5.4): the field named by constant C of register B.
    pub get_field: Option<u8>,
    /// `OP_SELF`: the method of register B named by C.
    pub method: u8,
    /// Whether that C is always a constant (5.5).
    pub is_method_constant: bool,
    /// `OP_JMP`.
    pub jump: u8,
    /// `OP_CALL`, `OP_TAILCALL`: what is in register A.
    pub call: u8,
    /// As [`Opcodes::call`].
    pub tail_call: u8,
    /// `OP_TFORCALL`, in 5.1 `OP_TFORLOOP`.
    pub for_call: u8,
    /// `testAMode`: a bit for each instruction that writes register A.
    pub writes_a: u128,
    /// What instructions call that are no calls.
    pub metamethods: &'static [(u8, &'static str)],
    /// `OP_MMBIN`, `OP_MMBINI`, `OP_MMBINK` (5.4): C is the number of what they call.
    pub binary_metamethods: Option<(u8, u8)>,
}

/// How the operands of an instruction lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// Opcode of 6 bits, A of 8, C of 9, B of 9; the highest bit of B and C says that it is a constant.
    Until5_3,
    /// Opcode of 7 bits, A of 8, k of 1, B of 8, C of 8.
    From5_4,
}

/// The metamethods by their number (`ltm.h` of 5.4), the first that are called by instructions with two operands.
const BINARY: [&str; 25] = [
    "__index",
    "__newindex",
    "__gc",
    "__mode",
    "__len",
    "__eq",
    "__add",
    "__sub",
    "__mul",
    "__mod",
    "__pow",
    "__div",
    "__idiv",
    "__band",
    "__bor",
    "__bxor",
    "__shl",
    "__shr",
    "__unm",
    "__bnot",
    "__lt",
    "__le",
    "__concat",
    "__call",
    "__close",
];

impl Opcodes {
    pub(super) fn opcode(&self, instruction: Instruction) -> u8 {
        let bits = match self.fields {
            Fields::Until5_3 => 6,
            Fields::From5_4 => 7,
        };
        (instruction.to_le_bytes()[0]) & ((1 << bits) - 1)
    }

    pub(super) fn a(&self, instruction: Instruction) -> u32 {
        match self.fields {
            Fields::Until5_3 => instruction >> 6 & 0xff,
            Fields::From5_4 => instruction >> 7 & 0xff,
        }
    }

    pub(super) fn b(&self, instruction: Instruction) -> u32 {
        match self.fields {
            Fields::Until5_3 => instruction >> 23,
            Fields::From5_4 => instruction >> 16 & 0xff,
        }
    }

    pub(super) fn c(&self, instruction: Instruction) -> u32 {
        match self.fields {
            Fields::Until5_3 => instruction >> 14 & 0x1ff,
            Fields::From5_4 => instruction >> 24,
        }
    }

    pub(super) fn bx(&self, instruction: Instruction) -> u32 {
        match self.fields {
            Fields::Until5_3 => instruction >> 14,
            Fields::From5_4 => instruction >> 15,
        }
    }

    /// The number of the constant that operand `c` names, if it is none of a register.
    pub(super) fn constant_in(&self, c: u32) -> Option<u32> {
        const IS_CONSTANT: u32 = 1 << 8;
        (self.fields == Fields::Until5_3 && c & IS_CONSTANT != 0).then_some(c & !IS_CONSTANT)
    }

    /// The same of a method's name: in 5.4 a bit of the instruction says so.
    pub(super) fn constant_of_method(&self, instruction: Instruction) -> Option<u32> {
        const IS_CONSTANT: u32 = 1 << 15;
        let c = self.c(instruction);
        match self.fields {
            Fields::Until5_3 => self.constant_in(c),
            Fields::From5_4 => {
                (self.is_method_constant || instruction & IS_CONSTANT != 0).then_some(c)
            }
        }
    }

    /// Whether C of [`Opcodes::get_of_upvalue`] is always a constant.
    pub(super) fn has_field_keys(&self) -> bool {
        self.fields == Fields::From5_4
    }

    /// Where `instruction`, which stands at `at`, jumps to, if it does nothing but that, and forwards.
    pub(super) fn jump_target(&self, instruction: Instruction, at: u32) -> Option<u32> {
        if self.opcode(instruction) != self.jump {
            return None;
        }
        let (raw, zero) = match self.fields {
            Fields::Until5_3 => (instruction >> 14, (1 << 17) - 1),
            Fields::From5_4 => (instruction >> 7, (1 << 24) - 1),
        };
        at.checked_add(1)?.checked_add(raw.checked_sub(zero)?)
    }

    /// Whether `instruction` may put something into `register`.
    pub(super) fn writes(&self, instruction: Instruction, register: u32) -> bool {
        let (opcode, a) = (self.opcode(instruction), self.a(instruction));
        if opcode == self.load_nil {
            let b = self.b(instruction);
            let last = if self.nil_to_register { b } else { a + b };
            return (a..=last).contains(&register);
        }
        if opcode == self.for_call {
            return register >= a + 2;
        }
        if opcode == self.call || opcode == self.tail_call {
            return register >= a;
        }
        self.writes_a >> opcode & 1 == 1 && register == a
    }

    /// The metamethod that `instruction` calls, if it calls one.
    pub(super) fn metamethod(&self, instruction: Instruction) -> Option<&'static str> {
        let opcode = self.opcode(instruction);
        if let Some((first, last)) = self.binary_metamethods
            && (first..=last).contains(&opcode)
        {
            let number = usize::try_from(self.c(instruction)).ok()?;
            return BINARY.get(number).copied();
        }
        let found = self.metamethods.iter().find(|(of, _)| *of == opcode);
        found.map(|(_, name)| *name)
    }
}

pub(super) static V5_1: Opcodes = Opcodes {
    fields: Fields::Until5_3,
    copy: 0,
    load_constant: 1,
    load_nil: 3,
    nil_to_register: true,
    get_upvalue: 4,
    get_global: Some(5),
    get_of_upvalue: None,
    get: 6,
    get_field: None,
    method: 11,
    is_method_constant: false,
    jump: 22,
    call: 28,
    tail_call: 29,
    for_call: 33,
    writes_a: 0x31_bc3f_fc7f,
    metamethods: &[
        (5, "__index"),
        (6, "__index"),
        (7, "__newindex"),
        (9, "__newindex"),
        (11, "__index"),
        (12, "__add"),
        (13, "__sub"),
        (14, "__mul"),
        (15, "__div"),
        (16, "__mod"),
        (17, "__pow"),
        (18, "__unm"),
        (20, "__len"),
        (21, "__concat"),
        (23, "__eq"),
        (24, "__lt"),
        (25, "__le"),
    ],
    binary_metamethods: None,
};

pub(super) static V5_2: Opcodes = Opcodes {
    load_nil: 4,
    nil_to_register: false,
    get_upvalue: 5,
    get_global: None,
    get_of_upvalue: Some(6),
    get: 7,
    method: 12,
    jump: 23,
    call: 29,
    tail_call: 30,
    for_call: 34,
    writes_a: 0x6b_707f_f8ff,
    metamethods: &[
        (6, "__index"),
        (7, "__index"),
        (8, "__newindex"),
        (10, "__newindex"),
        (12, "__index"),
        (13, "__add"),
        (14, "__sub"),
        (15, "__mul"),
        (16, "__div"),
        (17, "__mod"),
        (18, "__pow"),
        (19, "__unm"),
        (21, "__len"),
        (22, "__concat"),
        (24, "__eq"),
        (25, "__lt"),
        (26, "__le"),
    ],
    ..V5_1
};

pub(super) static V5_3: Opcodes = Opcodes {
    jump: 30,
    call: 36,
    tail_call: 37,
    for_call: 41,
    writes_a: 0x35b8_3fff_f8ff,
    metamethods: &[
        (6, "__index"),
        (7, "__index"),
        (8, "__newindex"),
        (10, "__newindex"),
        (12, "__index"),
        (13, "__add"),
        (14, "__sub"),
        (15, "__mul"),
        (16, "__mod"),
        (17, "__pow"),
        (18, "__div"),
        (19, "__idiv"),
        (20, "__band"),
        (21, "__bor"),
        (22, "__bxor"),
        (23, "__shl"),
        (24, "__shr"),
        (25, "__unm"),
        (26, "__bnot"),
        (28, "__len"),
        (29, "__concat"),
        (31, "__eq"),
        (32, "__lt"),
        (33, "__le"),
    ],
    ..V5_2
};

pub(super) static V5_4: Opcodes = Opcodes {
    fields: Fields::From5_4,
    load_constant: 3,
    load_nil: 8,
    get_upvalue: 9,
    get_of_upvalue: Some(11),
    get: 12,
    get_field: Some(14),
    method: 20,
    jump: 56,
    call: 68,
    tail_call: 69,
    for_call: 76,
    writes_a: 0x3_a638_003e_3fff_fff8_7bff,
    metamethods: &[
        (11, "__index"),
        (12, "__index"),
        (13, "__index"),
        (14, "__index"),
        (15, "__newindex"),
        (16, "__newindex"),
        (17, "__newindex"),
        (18, "__newindex"),
        (20, "__index"),
        (49, "__unm"),
        (50, "__bnot"),
        (52, "__len"),
        (53, "__concat"),
        (54, "__close"),
        (57, "__eq"),
        (58, "__lt"),
        (59, "__le"),
        (62, "__lt"),
        (63, "__le"),
        (64, "__lt"),
        (65, "__le"),
        (70, "__close"),
    ],
    binary_metamethods: Some((46, 48)),
    ..V5_3
};

/// As far as they are used here the numbers are the same.
pub(super) static V5_5: Opcodes = Opcodes {
    is_method_constant: true,
    ..V5_4
};
