//! Any file, any stack and any registers: a walk ends, and the fast storey agrees.
//!
//! Input: 17 registers, the stack's length as two bytes, the stack, the file. Start from real files put together so
//! (see README.md); an ELF header is hard to come by otherwise.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sampler_unwind::{
    Arch, Avma, ElfImage, ImageBytes, LoadBias, Module, Modules, Registers, SliceMemory, Stack,
    Unwinder,
};

const STACK: u64 = 0x7fff_0000_0000;

fuzz_target!(|bytes: &[u8]| {
    let Some((registers, rest)) = bytes.split_at_checked(17 * 8) else {
        return;
    };
    let Some((length, rest)) = rest.split_first_chunk() else {
        return;
    };
    let Some((stack_bytes, file)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
    else {
        return;
    };
    let mut start = Registers::unknown(&Arch::X86_64);
    for (number, value) in (0u16..).zip(registers.chunks_exact(8)) {
        start.set(number, u64::from_le_bytes(value.try_into().unwrap()));
    }
    let Ok(image) = ElfImage::parse(ImageBytes::new(Arc::new(file.to_vec()))) else {
        return;
    };
    let all = Avma(0)..Avma(STACK);
    let module = Module {
        avma: all.clone(),
        bias: LoadBias(0),
        image: Arc::new(image),
    };
    let modules = Modules::new(vec![module], vec![all]);
    let memory = SliceMemory::new(Avma(STACK), stack_bytes);
    let (mut complete, mut fast) = (Stack::empty(), Stack::empty());
    Unwinder::new().walk(&modules, &start, &memory, &mut complete);
    Unwinder::new()
        .with_fast_storey(true)
        .walk(&modules, &start, &memory, &mut fast);
    assert_eq!(complete, fast);
});
