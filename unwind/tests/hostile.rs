//! Whatever files, tables, memory and registers hold, a walk ends and says why.

mod support;

use std::sync::{Arc, LazyLock};

use object::{Object, ObjectSection};
use proptest::prelude::*;
use sampler_unwind::{
    Arch, Avma, ElfImage, ImageBytes, LoadBias, Module, Modules, Registers, SliceMemory, Stack,
    StackEnd, Unwinder,
};
use support::programs::build;

/// As in the walk; a stack is never longer.
const FRAMES_MAX: usize = 1 << 17;

const STACK: u64 = 0x7fff_0000_0000;
const BIAS: u64 = 0x5555_0000_0000;

static TINY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let flags = ["-O2", "-nostdlib", "-static", "-Wl,--build-id", "-g", "-gz"];
    std::fs::read(build("tiny", "gcc", "tiny.c", &flags)).unwrap()
});

/// Where things lie in the undamaged file.
struct Layout {
    text: std::ops::Range<u64>,
    /// In the file: the headers and tables, which are damaged.
    tables: Vec<std::ops::Range<usize>>,
}

static LAYOUT: LazyLock<Layout> = LazyLock::new(|| {
    let file = object::File::parse(&TINY[..]).unwrap();
    let text = file.section_by_name(".text").unwrap();
    let in_file = |name: &str| {
        let (start, size) = file.section_by_name(name)?.file_range()?;
        let start = usize::try_from(start).unwrap();
        Some(start..start + usize::try_from(size).unwrap())
    };
    let named = [".eh_frame", ".eh_frame_hdr"]
        .into_iter()
        .filter_map(in_file);
    Layout {
        text: text.address()..text.address() + text.size(),
        tables: named.chain(std::iter::once(0..64 + 56 * 8)).collect(),
    }
});

fn image(bytes: Vec<u8>) -> Option<ElfImage> {
    ElfImage::parse(ImageBytes::new(Arc::new(bytes))).ok()
}

fn modules(image: ElfImage) -> Modules {
    let range = Avma(BIAS)..Avma(BIAS + (1 << 32));
    let module = Module {
        avma: range.clone(),
        bias: LoadBias(BIAS),
        image: Arc::new(image),
    };
    Modules::new(vec![module], vec![range])
}

/// Registers that point into the stack, words that are addresses of code or of the stack, and some that are neither.
fn word() -> impl Strategy<Value = u64> {
    let text = LAYOUT.text.clone();
    prop_oneof![
        4 => text.prop_map(|svma| svma + BIAS),
        4 => (0u64..1024).prop_map(|offset| STACK + offset),
        1 => any::<u64>(),
        1 => Just(0u64),
    ]
}

fn registers() -> impl Strategy<Value = Registers> {
    let values = prop::collection::vec(prop::option::weighted(0.8, word()), 17);
    let pc = LAYOUT.text.clone();
    (values, pc, 0u64..64).prop_map(|(values, pc, sp)| {
        let mut registers = Registers::unknown(&Arch::X86_64);
        for (register, value) in (0u16..).zip(values) {
            if let Some(value) = value {
                registers.set(register, value);
            }
        }
        registers.set(7, STACK + sp);
        registers.set(16, BIAS + pc);
        registers
    })
}

/// A program for aarch64, which has tables for a part of its code.
static AARCH64: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = "../fixtures/captures/shapes-aarch64-musl";
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
});

/// Words as [`word`] gives them, for that program.
fn word_of_aarch64() -> impl Strategy<Value = u64> {
    let file = object::File::parse(&AARCH64[..]).unwrap();
    let text = file.section_by_name(".text").unwrap();
    let words = (text.address() / 4)..(text.address() + text.size()) / 4;
    prop_oneof![
        // Some signed.
        6 => (words, prop::option::of(any::<u8>())).prop_map(|(word, signature)| {
            (word * 4 + BIAS) | (u64::from(signature.unwrap_or(0) & 0x7f) << 48)
        }),
        4 => (0u64..1024).prop_map(|offset| STACK + offset),
        1 => any::<u64>(),
        1 => Just(0u64),
    ]
}

fn stack_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(word(), 0..128)
        .prop_map(|words| words.into_iter().flat_map(u64::to_le_bytes).collect())
}

fn check_walk(modules: &Modules, registers: &Registers, bytes: &[u8]) {
    let mut unwinder = Unwinder::new();
    let mut stack = Stack::empty();
    let memory = SliceMemory::new(Avma(STACK), bytes);
    unwinder.walk(modules, registers, &memory, &mut stack);
    assert!(!stack.frames.is_empty() && stack.frames.len() <= FRAMES_MAX);
    // What was decided is kept, and comes out the same again; and of the fast storey too.
    let mut again = Stack::empty();
    unwinder.walk(modules, registers, &memory, &mut again);
    assert_eq!(stack, again);
    let mut fast = Unwinder::new().with_fast_storey(true);
    fast.walk(modules, registers, &memory, &mut again);
    assert_eq!(stack, again);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_stack_of_a_sound_program(registers in registers(), bytes in stack_bytes()) {
        check_walk(&modules(image(TINY.clone()).unwrap()), &registers, &bytes);
    }

    #[test]
    fn any_stack_of_a_damaged_program(
        registers in registers(),
        bytes in stack_bytes(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..24),
    ) {
        let mut file = TINY.clone();
        for (table, at, byte) in damage {
            let range = LAYOUT.tables[table.index(LAYOUT.tables.len())].clone();
            file[range.start + at.index(range.len())] = byte;
        }
        for parse in [ElfImage::parse, ElfImage::parse_memory] {
            if let Ok(image) = parse(ImageBytes::new(Arc::new(file.clone()))) {
                check_walk(&modules(image), &registers, &bytes);
            }
        }
    }

    #[test]
    fn any_stack_of_a_program_for_aarch64(
        values in prop::collection::vec(prop::option::weighted(0.8, word_of_aarch64()), 31),
        pc in word_of_aarch64(),
        sp in 0u64..64,
        words in prop::collection::vec(word_of_aarch64(), 0..128),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..24),
    ) {
        let mut registers = Registers::at(&Arch::AARCH64, Avma(pc), Avma(STACK + sp));
        for (register, value) in (0u16..).zip(values) {
            if let Some(value) = value {
                registers.set(register, value);
            }
        }
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        let mut file = AARCH64.clone();
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(image) = image(file) {
            check_walk(&modules(image), &registers, &bytes);
        }
    }

    #[test]
    fn any_stack_of_a_truncated_program(
        registers in registers(),
        bytes in stack_bytes(),
        length in 0usize..20_000,
    ) {
        let mut file = TINY.clone();
        file.truncate(length);
        if let Some(image) = image(file) {
            check_walk(&modules(image), &registers, &bytes);
        }
    }

    #[test]
    fn any_bytes_as_a_file(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut with_magic = b"\x7fELF\x02\x01\x01".to_vec();
        with_magic.extend(&bytes);
        for bytes in [bytes, with_magic] {
            for parse in [ElfImage::parse, ElfImage::parse_memory] {
                if let Ok(image) = parse(ImageBytes::new(Arc::new(bytes.clone()))) {
                    let registers = Registers::at(&Arch::X86_64, Avma(BIAS), Avma(STACK));
                    check_walk(&modules(image), &registers, &[0; 64]);
                }
            }
        }
    }
}

#[test]
fn a_walk_without_a_pc_or_a_stack_pointer_has_no_frames() {
    let mut stack = Stack::empty();
    let memory = SliceMemory::new(Avma(STACK), &[]);
    for (known, missing) in [(7, 16), (16, 7)] {
        let mut registers = Registers::unknown(&Arch::X86_64);
        registers.set(known, STACK);
        Unwinder::new().walk(&Modules::default(), &registers, &memory, &mut stack);
        let expected = StackEnd::UnknownRegister {
            pc: Avma(0),
            register: missing,
        };
        assert_eq!((stack.frames.len(), stack.end), (0, expected));
    }
}
