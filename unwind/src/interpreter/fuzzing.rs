//! Any bytes as the memory of an interpreter: what the fuzz targets call. Only there when those are built.

use super::lua::hostile as lua;
use super::luajit::machine as luajit;
use super::python::hostile as python;

/// The words that fill the memory of a walk from `bytes`; zeros where there are no more. A word is two bytes: the first
/// quarter of all values is small numbers, the rest places in the memory, but for the last 256, which take eight bytes
/// more for a value of their own.
fn words(bytes: &mut Bytes<'_>, start: u64, count: u64) -> Vec<u64> {
    let word = |_| match u64::from(bytes.u16()) {
        small @ 0..0x4000 => small,
        offset @ 0x4000..0xff00 => start + offset % (count * 8),
        _ => bytes.u64(),
    };
    (0..count).map(word).collect()
}

/// Walks any memory as PUC Lua.
pub fn lua(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let minor = 1 + bytes.u8() % 5;
    let states = bytes.places(1, 4, lua::WORDS - 32);
    let native = bytes.places(1, 8, lua::WORDS);
    lua::walk_any(
        words(&mut bytes, lua::START, lua::WORDS),
        minor,
        &states,
        &native,
    );
}

/// Walks any memory as CPython.
pub fn cpython(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let minor = 8 + bytes.u8() % 5;
    let native = bytes.places(0, 8, python::WORDS);
    python::walk_any(
        &words(&mut bytes, python::START, python::WORDS),
        minor,
        &native,
    );
}

/// Walks a machine of LuaJIT in which any words are others.
pub fn luajit(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let state = u32::from_le_bytes(bytes.take());
    let kind = bytes.u8();
    let is_on_trace = kind % 2 == 1;
    let like = usize::from(kind / 2);
    let registers: Vec<(u16, u64)> = (0..bytes.u8() % 4)
        .map(|_| (u16::from(bytes.u8() % 32), bytes.value()))
        .collect();
    let before = bytes.damage(0, luajit::HEAP_BYTES as u64 / 4);
    let native = bytes.damage(0x40, 0xc0);
    let after = bytes.damage(0, luajit::HEAP_BYTES as u64 / 4);
    luajit::walk_damaged(
        like,
        &before,
        &after,
        &native,
        state,
        &registers,
        is_on_trace,
    );
}

/// Bytes that are used up; zeros follow.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((taken, rest)) => {
                self.0 = rest;
                *taken
            }
            None => {
                self.0 = &[];
                [0; N]
            }
        }
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// From `least` to `most` numbers below `below`.
    fn places(&mut self, least: u8, most: u8, below: u64) -> Vec<u64> {
        let count = least + self.u8() % (most - least);
        (0..count).map(|_| u64::from(self.u16()) % below).collect()
    }

    /// A number that mostly leads somewhere in a machine of LuaJIT.
    fn value(&mut self) -> u64 {
        match self.u8() {
            0..160 => luajit::HEAP + u64::from(self.u16()) % luajit::HEAP_BYTES as u64,
            160..200 => luajit::NATIVE + u64::from(self.u16()) % luajit::NATIVE_BYTES as u64,
            200..220 => u64::from(self.u16()),
            _ => self.u64(),
        }
    }

    fn damage(&mut self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let count = self.u8() % 16;
        (0..count)
            .map(|_| (from + u64::from(self.u16()) % (to - from), self.value()))
            .collect()
    }
}
