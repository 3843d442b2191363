//! Disks whose data lies at awkward places.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A generator of numbers that are the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// Writes a sparse raw disk of `size` bytes with about `pieces` stretches: text that compresses, noise that does not,
/// stored zeroes; short and long, on sector, page and cluster borders and off them; something in the last sector.
pub fn sparse(path: &Path, seed: u64, size: u64, pieces: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut random = Random::new(seed);
    for _ in 0..pieces {
        let unit = [512, 4096, 65_536, 1 << 20][random.below(4) as usize];
        let start = random.below(size.div_ceil(unit)) * unit;
        let len = ((1 + random.below(3)) * unit).min(300_000);
        let len = len.min(size.saturating_sub(start)) as usize;
        let kind = random.below(4);
        let bytes: Vec<u8> = (0..len)
            .map(|at| match kind {
                0 => 0,
                1 => random.below(256) as u8,
                _ => b'a' + (at / 7 % 20) as u8,
            })
            .collect();
        file.write_all_at(&bytes, start).unwrap();
    }
    if size > 0 {
        file.write_all_at(b"end", size - 3).unwrap();
    }
}
