//! Sector bitmaps of differencing images: a set bit is a sector of the image's own, a clear one its parent's. They are
//! read 512 bytes at a time, which is 4096 sectors.

use std::sync::Arc;

use crate::block::{BlockDevice, Lru};
use crate::bytes::to_usize;
use crate::error::Result;

const CHUNK: usize = 512;
const CHUNK_BITS: u64 = 4096;
/// Chunks kept: 256 KiB, and there may be 200 images.
const CHUNKS: usize = 512;

/// Which bit of a byte is its first sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::block) enum BitOrder {
    MostSignificantFirst,
    LeastSignificantFirst,
}

/// The bitmaps of one image.
#[derive(Debug)]
pub(in crate::block) struct SectorBitmaps {
    file: Arc<dyn BlockDevice>,
    order: BitOrder,
    /// By the byte of the file where they begin; in words whose lowest bit is the first sector.
    chunks: Lru<u64, Arc<[u64]>>,
}

impl SectorBitmaps {
    pub(in crate::block) fn new(file: Arc<dyn BlockDevice>, order: BitOrder) -> Self {
        Self { file, order, chunks: Lru::new(CHUNKS) }
    }

    /// Whether bit `bit` of the bitmap at byte `start` of the file is set, and how many from there on are equal, at least
    /// one and at most `most`; a long run may come in pieces. The caller has checked that the file has the bitmap, to a
    /// multiple of 512 bytes.
    pub(in crate::block) fn run(&self, start: u64, bit: u64, most: u64) -> Result<(bool, u64)> {
        let (chunk, within) = crate::bytes::div_rem(bit, CHUNK_BITS);
        let position = start.saturating_add(chunk.saturating_mul(crate::bytes::to_u64(CHUNK)));
        let words = self.chunks.get_or_read(position, || self.read(position))?;
        let (word, low) = crate::bytes::div_rem(within, 64);
        let low = crate::bytes::low_u32(low);
        let first = words.get(to_usize(word)).copied().unwrap_or(0);
        let set = first.wrapping_shr(low) & 1 == 1;
        // Bits that differ from the first one are ones.
        let differ = |word: u64| if set { !word } else { word };
        let here = differ(first).wrapping_shr(low).trailing_zeros();
        let mut len = u64::from(here.min(64u32.saturating_sub(low)));
        if u64::from(low).saturating_add(len) == 64 {
            for next in words.iter().skip(to_usize(word.saturating_add(1))) {
                let equal = differ(*next).trailing_zeros();
                len = len.saturating_add(equal.into());
                if equal < 64 {
                    break;
                }
            }
        }
        Ok((set, len.clamp(1, most.max(1))))
    }

    fn read(&self, position: u64) -> Result<Arc<[u64]>> {
        let mut bytes = [0u8; CHUNK];
        self.file.read_exact_at(&mut bytes, position)?;
        if self.order == BitOrder::MostSignificantFirst {
            bytes.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
        Ok(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    #[test]
    fn runs_of_bits_are_found_in_both_orders() {
        let mut seed = 7u64;
        let bytes: Vec<u8> = (0..1024)
            .map(|at| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Long runs and noise.
                if at % 200 < 150 { if at % 400 < 200 { 0xff } else { 0 } } else { (seed >> 40) as u8 }
            })
            .collect();
        for order in [BitOrder::MostSignificantFirst, BitOrder::LeastSignificantFirst] {
            let bit = |at: u64| {
                let byte = bytes[at as usize / 8];
                let within = at % 8;
                byte >> (if order == BitOrder::LeastSignificantFirst { within } else { 7 - within }) & 1 == 1
            };
            let bitmaps = SectorBitmaps::new(Arc::new(Memory::new(bytes.clone())), order);
            for start in 0..8192u64 {
                let (set, len) = bitmaps.run(0, start, 8192 - start).unwrap();
                assert!((start..start + len).all(|at| bit(at) == set), "{start} {len}");
                let end = start + len;
                assert!(end % 4096 == 0 || bit(end) != set, "{start}: {len} is too short");
            }
            assert_eq!(bitmaps.run(0, 8191, 1).unwrap().1, 1);
        }
    }
}
