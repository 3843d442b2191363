//! A database file as pages: read ahead where it is read in order, and each page used once.

use crate::block::{BlockDevice, check_range};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;

/// Bytes read ahead when the last read went on where the one before ended.
const AHEAD: u64 = 128 << 10;
/// The least that is read.
const LEAST: u64 = 4 << 10;

/// A file with a window over it, so that pages that follow one another are not read one by one.
pub(super) struct Window<'a> {
    device: &'a dyn BlockDevice,
    bytes: Vec<u8>,
    start: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(device: &'a dyn BlockDevice) -> Self {
        Self { device, bytes: Vec::new(), start: 0 }
    }

    pub(super) fn size(&self) -> u64 {
        self.device.size()
    }

    /// `len` bytes at `offset`; `len` must have been held against a limit.
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let end = check_range(self.device.size(), offset, len)?;
        let window_end = self.start.saturating_add(to_u64(self.bytes.len()));
        if offset < self.start || end > window_end {
            let in_order = (self.start..=window_end).contains(&offset);
            self.fill(offset, to_u64(len).max(if in_order { AHEAD } else { LEAST }))?;
        }
        let at = to_usize(offset.saturating_sub(self.start));
        Ok(self.bytes.get(at..at.saturating_add(len)).unwrap_or_default())
    }

    fn fill(&mut self, start: u64, len: u64) -> Result<()> {
        let len = len.min(self.device.size().saturating_sub(start));
        self.bytes.resize(to_usize(len), 0);
        self.start = start;
        let outcome = self.device.read_exact_at(&mut self.bytes, start);
        if outcome.is_err() {
            self.bytes.clear();
        }
        outcome
    }
}

/// Which pages have been used. In a sound database each belongs to one place; a page seen twice is a cycle or an
/// attempt to make a small file take for ever.
pub(super) struct Seen(Vec<u64>);

impl Seen {
    /// None of `pages` pages; the count must have been held against a limit.
    pub(super) fn new(pages: u64) -> Self {
        Self(vec![0; to_usize(pages.div_ceil(64))])
    }

    /// Marks `page`; false when it was marked before or there is no such page.
    pub(super) fn mark(&mut self, page: u64) -> bool {
        let bit = 1u64.checked_shl(crate::bytes::low_u32(page & 63)).unwrap_or(0);
        match self.0.get_mut(to_usize(page >> 6)) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    #[test]
    fn a_window_reads_like_the_device() {
        let bytes: Vec<u8> = (0..400_000u32).map(|n| (n % 251) as u8).collect();
        let device = Memory::new(bytes.clone());
        let mut window = Window::new(&device);
        for (offset, len) in [(0, 10), (10, 5_000), (5_010, 200_000), (3, 3), (399_999, 1), (0, 400_000), (150_000, 24)]
        {
            assert_eq!(window.read(offset as u64, len).unwrap(), &bytes[offset..offset + len], "{offset} {len}");
        }
        assert!(window.read(399_999, 2).is_err());
        assert!(window.read(u64::MAX, 2).is_err());
    }

    #[test]
    fn a_page_is_marked_once() {
        let mut seen = Seen::new(65);
        assert!(seen.mark(0) && seen.mark(63) && seen.mark(64));
        assert!(!seen.mark(0) && !seen.mark(64) && !seen.mark(128));
    }
}
