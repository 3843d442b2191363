//! A table of integers in a file, read in slices as they are needed: a hostile header may state a table of gigabytes, and
//! a small read needs one entry.

use std::sync::Arc;

use crate::block::{BlockDevice, ExtentKind, Lru};
use crate::bytes::{div_rem, to_u64, to_usize};
use crate::error::{Error, Result};

/// Entries of a slice, as bits.
const SLICE_BITS: u32 = 9;
/// Bytes of a slice with the widest entries.
const SLICE_BYTES: usize = 4096;
/// Bytes read at once when all of it is.
const PIECE: u64 = 64 << 10;
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

    fn entries(self, bytes: &[u8]) -> impl Iterator<Item = u64> {
        bytes.chunks_exact(to_usize(self.bytes())).map(move |entry| match (self, entry.try_into(), entry.try_into()) {
            (Self::Be32, Ok(entry), _) => u32::from_be_bytes(entry).into(),
            (Self::Le32, Ok(entry), _) => u32::from_le_bytes(entry).into(),
            (Self::Le64, _, Ok(entry)) => u64::from_le_bytes(entry),
            _ => 0,
        })
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

    /// How many entries from `index` on are the same as it, as far as the window that it was got through goes.
    pub(in crate::block) fn alike(window: &Window, index: u64) -> u64 {
        let within = index & 1u64.wrapping_shl(SLICE_BITS).wrapping_sub(1);
        let rest = window.entries.get(to_usize(within)..).unwrap_or_default();
        to_u64(rest.iter().take_while(|entry| Some(*entry) == rest.first()).count())
    }

    /// Whether entry `index` was never stored, in a hole of the file; and the first entry after it for which that is
    /// not so, or may be not.
    fn stored(&self, index: u64) -> Result<(bool, u64)> {
        let (at, end) = (self.position(index), self.position(self.count));
        if at >= end {
            return Ok((true, self.count.max(index)));
        }
        let extent = self.file.next_extent(at..end)?;
        let (whole, rest) = div_rem(extent.len, self.width.bytes());
        // An entry of which a part is stored is stored.
        let stored = extent.kind == ExtentKind::Data || whole == 0;
        let entries = if stored { whole.saturating_add(u64::from(rest > 0)) } else { whole };
        Ok((stored, index.saturating_add(entries.max(1)).min(self.count)))
    }

    /// The first entry from `index` on that is stored: the others lie in a hole of the file.
    pub(in crate::block) fn unstored_until(&self, index: u64) -> Result<u64> {
        let (stored, end) = self.stored(index)?;
        Ok(if stored { index } else { end })
    }

    /// Refuses a table of which two entries or more were never stored: they are 0, which names one place. Nobody leaves a
    /// hole in such a table, and a file of no size has room for one of gigabytes.
    pub(in crate::block) fn refuse_unstored(&self, format: &'static str, field: &'static str) -> Result<()> {
        let mut index = 0;
        while index < self.count {
            let (stored, end) = self.stored(index)?;
            let entries = end.saturating_sub(index);
            if !stored && entries > 1 {
                let (found, expected) = (format!("{entries} entries of 0"), "a place for each");
                return Err(Error::corrupt(format, field, self.position(index), found, expected));
            }
            index = end;
        }
        Ok(())
    }

    /// Calls `visit` with each entry and its index, but not where the file has a hole.
    pub(in crate::block) fn for_each_stored(&self, visit: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let mut bytes = vec![0; to_usize(self.count.saturating_mul(self.width.bytes()).min(PIECE))];
        let mut index = 0;
        while index < self.count {
            let (stored, end) = self.stored(index)?;
            if !stored {
                index = end;
                continue;
            }
            let left = end.saturating_sub(index).saturating_mul(self.width.bytes());
            let piece = bytes.get_mut(..to_usize(left.min(PIECE))).unwrap_or_default();
            self.file.read_exact_at(piece, self.position(index))?;
            for entry in self.width.entries(piece) {
                visit(index, entry)?;
                index = index.saturating_add(1);
            }
        }
        Ok(())
    }

    fn read(&self, slice: u64) -> Result<Arc<[u64]>> {
        let first = slice.wrapping_shl(SLICE_BITS);
        let len = self.count.saturating_sub(first).min(1u64.wrapping_shl(SLICE_BITS));
        let mut bytes = [0u8; SLICE_BYTES];
        let bytes = bytes.get_mut(..to_usize(len.saturating_mul(self.width.bytes()))).unwrap_or_default();
        self.file.read_exact_at(bytes, self.position(first))?;
        Ok(self.width.entries(bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    /// A table of 3000 entries of which the first 4 KiB and the last 10 entries are stored.
    #[test]
    fn what_was_never_stored_is_passed_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let put = |bytes: &[u8], at| std::os::unix::fs::FileExt::write_all_at(file.as_file(), bytes, at).unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        put(&[7; 4096], 4096);
        put(&[9; 40], 524_288 - 40);
        let device = Arc::new(crate::block::HostFile::open(file.path()).unwrap());
        let count = (524_288 - 4096) / 4;
        let table = Entries::new(device.clone(), 4096, count, Width::Le32, 0);
        let mut seen = Vec::new();
        table
            .for_each_stored(&mut |index, entry| {
                seen.push((index, entry));
                Ok(())
            })
            .unwrap();
        // Where this filesystem keeps no holes all is stored.
        let holes = device.next_extent(0..4096).unwrap().kind == ExtentKind::Hole;
        let stored = if holes { 2048 } else { count as usize };
        assert_eq!((seen.len(), seen[0], seen[1023]), (stored, (0, 0x0707_0707), (1023, 0x0707_0707)));
        assert_eq!(*seen.last().unwrap(), (count - 1, 0x0909_0909));
        assert_eq!(table.unstored_until(1024).unwrap(), if holes { count - 1024 } else { 1024 });
        assert_eq!((table.unstored_until(3).unwrap(), table.unstored_until(count).unwrap()), (3, count));
    }

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
