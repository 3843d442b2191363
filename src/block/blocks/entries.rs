//! A table of integers in a file, read in slices as they are needed: a hostile header may state a table of gigabytes, and
//! a small read needs one entry.

use std::sync::Arc;

use crate::block::{BlockDevice, Lru};
use crate::bytes::to_usize;
use crate::error::{Error, Result};

/// Entries of a slice, as bits.
const SLICE_BITS: u32 = 9;
/// Bytes of a slice with the widest entries.
const SLICE_BYTES: usize = 4096;
/// Slices kept by the image itself; each image below keeps half of the one above.
const SLICES: usize = 512;
const HALVINGS: u64 = 6;

/// How an entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::block) enum Width {
    Be32,
    Le32,
    Le64,
}

impl Width {
    fn bytes(self) -> u64 {
        match self {
            Self::Be32 | Self::Le32 => 4,
            Self::Le64 => 8,
        }
    }
}

/// A table of `count` entries at byte `start` of a file. The caller has checked that the file has them all.
#[derive(Debug)]
pub(in crate::block) struct Entries {
    file: Arc<dyn BlockDevice>,
    start: u64,
    count: u64,
    width: Width,
    slices: Lru<u64, Arc<[u64]>>,
}

/// The slice that a walk is in, so that neighbours cost no look-up.
#[derive(Debug, Default)]
pub(in crate::block) struct Window {
    slice: u64,
    entries: Arc<[u64]>,
}

impl Entries {
    /// `depth` is how many images refer to this one.
    pub(in crate::block) fn new(file: Arc<dyn BlockDevice>, start: u64, count: u64, width: Width, depth: u64) -> Self {
        let halvings = crate::bytes::low_u32(depth.min(HALVINGS));
        Self { file, start, count, width, slices: Lru::new(SLICES.wrapping_shr(halvings)) }
    }

    /// Where entry `index` stands in the file.
    pub(in crate::block) fn position(&self, index: u64) -> u64 {
        self.start.saturating_add(index.saturating_mul(self.width.bytes()))
    }

    /// Entry `index`. A table has no entry past its end.
    pub(in crate::block) fn get(&self, window: &mut Window, index: u64) -> Result<u64> {
        let slice = index.wrapping_shr(SLICE_BITS);
        if window.entries.is_empty() || window.slice != slice {
            *window = Window { slice, entries: self.slices.get_or_read(slice, || self.read(slice))? };
        }
        let within = index & 1u64.wrapping_shl(SLICE_BITS).wrapping_sub(1);
        window.entries.get(to_usize(within)).copied().ok_or_else(|| {
            Error::corrupt("table", "entry", self.position(index), index, format!("less than {}", self.count))
        })
    }

    fn read(&self, slice: u64) -> Result<Arc<[u64]>> {
        let first = slice.wrapping_shl(SLICE_BITS);
        let len = self.count.saturating_sub(first).min(1u64.wrapping_shl(SLICE_BITS));
        let mut bytes = [0u8; SLICE_BYTES];
        let bytes = bytes.get_mut(..to_usize(len.saturating_mul(self.width.bytes()))).unwrap_or_default();
        self.file.read_exact_at(bytes, self.position(first))?;
        Ok(match self.width {
            Width::Be32 => bytes.as_chunks().0.iter().map(|entry| u32::from_be_bytes(*entry).into()).collect(),
            Width::Le32 => bytes.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry).into()).collect(),
            Width::Le64 => bytes.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    #[test]
    fn entries_are_read_in_every_width_and_not_past_the_end() {
        let mut bytes = vec![0xee; 8];
        bytes.extend((0..2000u32).flat_map(u32::to_be_bytes));
        let table = Entries::new(Arc::new(Memory::new(bytes)), 8, 2000, Width::Be32, 0);
        let mut window = Window::default();
        for index in [0, 1, 511, 512, 1999, 3] {
            assert_eq!(table.get(&mut window, index).unwrap(), index);
        }
        assert!(table.get(&mut window, 2000).is_err());
        assert_eq!(table.position(5), 28);
        let wide = Entries::new(Arc::new(Memory::new(vec![1; 16])), 0, 2, Width::Le64, 200);
        assert_eq!(wide.get(&mut Window::default(), 1).unwrap(), 0x0101_0101_0101_0101);
    }
}
