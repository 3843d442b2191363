//! An image in memory that can be damaged, and the values that damage fields best.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::shell;

/// An image's bytes; zeroes follow them up to `len`.
#[derive(Clone, Default)]
pub struct Disk {
    pub bytes: Vec<u8>,
    pub len: u64,
}

impl From<Vec<u8>> for Disk {
    fn from(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, bytes }
    }
}

impl Disk {
    /// What `script` leaves in the file `disk`.
    pub fn build(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        shell(dir.path(), script);
        std::fs::read(dir.path().join("disk")).unwrap().into()
    }

    /// Writes the image; what is zero stays a hole.
    pub fn write(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.len).unwrap();
        for (index, chunk) in self.bytes.chunks(4096).enumerate() {
            if chunk.iter().any(|byte| *byte != 0) {
                file.write_all_at(chunk, index as u64 * 4096).unwrap();
            }
        }
    }

    /// Makes the image `len` bytes long.
    pub fn resize(&mut self, len: u64) {
        self.bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        self.len = len;
    }

    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn get(&self, at: usize, len: usize) -> &[u8] {
        &self.bytes[at..at + len]
    }

    /// Puts the low `size` bytes of `value`, little-endian.
    pub fn le(&mut self, at: usize, size: usize, value: u64) {
        self.put(at, &value.to_le_bytes()[..size]);
    }

    /// Puts the low `size` bytes of `value`, big-endian.
    pub fn be(&mut self, at: usize, size: usize, value: u64) {
        self.put(at, &value.to_be_bytes()[8 - size..]);
    }

    pub fn le_at(&self, at: usize, size: usize) -> u64 {
        self.get(at, size).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    pub fn be_at(&self, at: usize, size: usize) -> u64 {
        self.get(at, size).iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// What a field of `size` bytes that holds `now` is set to: the edges of its range, of narrower ranges and its
/// neighbours.
pub fn boundaries(size: usize, now: u64) -> Vec<u64> {
    let max = u64::MAX >> (64 - 8 * size);
    let edges =
        [0, 1, max / 2, max - 1, max, 1 << 31, 1 << 32, 1 << 63, 0x7fff, now.wrapping_add(1), now.wrapping_sub(1)];
    let mut values: Vec<u64> = edges.into_iter().filter(|value| *value <= max && *value != now).collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// A generator of numbers that are random enough (xorshift64*).
#[derive(Clone, Copy)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
