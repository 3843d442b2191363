//! A read cache in pages over another device, for metadata: many small reads close to one another become few larger
//! ones. File contents are read from the device below and pass it by.

use std::ops::Range;
use std::sync::Arc;

use super::{BlockDevice, Extent, HostRange, Lru, Status, Surveyor, Sweep, check_range};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;

/// Bytes of one page. 16 KiB costs little more than 4 KiB to read from the page cache and holds 64 inodes.
const PAGE: u64 = 16 << 10;

/// Pages of one read ahead.
const PREFETCH: usize = 16;

/// A device whose recently read pages are kept in memory.
#[derive(Debug)]
pub struct Cached {
    device: Arc<dyn BlockDevice>,
    pages: Lru<u64, Arc<[u8]>>,
}

impl Cached {
    /// A cache of at most about `bytes` over `device`.
    #[must_use]
    pub fn new(device: Arc<dyn BlockDevice>, bytes: usize) -> Self {
        Self { device, pages: Lru::new(bytes.checked_div(to_usize(PAGE)).unwrap_or(1)) }
    }

    /// The device below.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// Reads the pages that hold the bytes at `offsets`, in the order of the device and neighbours in one read, so that later
    /// reads find them. It is advice: what cannot be read is left to those who ask for it.
    pub fn prefetch(&self, offsets: impl Iterator<Item = u64>) {
        let mut numbers: Vec<u64> = offsets.filter_map(|offset| offset.checked_div(PAGE)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| self.pages.get(number).is_none());
        for run in numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
            for part in run.chunks(PREFETCH) {
                self.read_pages(part);
            }
        }
    }

    /// Reads neighbouring pages at once.
    fn read_pages(&self, numbers: &[u64]) {
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return };
        let start = first.saturating_mul(PAGE);
        let end = last.saturating_add(1).saturating_mul(PAGE).min(self.device.size());
        let mut bytes = vec![0; to_usize(end.saturating_sub(start))];
        if self.device.read_exact_at(&mut bytes, start).is_ok() {
            for (number, page) in numbers.iter().zip(bytes.chunks(to_usize(PAGE))) {
                self.pages.insert(*number, Arc::from(page));
            }
        }
    }

    fn page(&self, number: u64) -> Result<Arc<[u8]>> {
        self.pages.get_or_read(number, || {
            let start = number.saturating_mul(PAGE);
            let len = self.device.size().saturating_sub(start).min(PAGE);
            let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, to_usize(len)).collect();
            if let Some(buf) = Arc::get_mut(&mut bytes) {
                self.device.read_exact_at(buf, start)?;
            }
            Ok(bytes)
        })
    }
}

impl BlockDevice for Cached {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        if to_u64(buf.len()) > PAGE.saturating_mul(4) {
            return self.device.read_exact_at(buf, offset);
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let within = to_usize(at.checked_rem(PAGE).unwrap_or(0));
            let page = self.page(at.checked_div(PAGE).unwrap_or(0))?;
            let bytes = page.get(within..).unwrap_or_default();
            let len = bytes.len().min(rest.len()).max(1);
            let (head, tail) = rest.split_at_mut(len);
            if let Some(bytes) = bytes.get(..len) {
                head.copy_from_slice(bytes);
            }
            at = at.saturating_add(to_u64(len));
            rest = tail;
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.device.next_extent(range)
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        self.device.status(range)
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        self.device.host_range(range)
    }

    fn surveyor(&self) -> Option<Box<dyn Surveyor + '_>> {
        self.device.surveyor()
    }

    fn audit(&self, sweep: Sweep) -> Result<()> {
        self.device.audit(sweep)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    #[test]
    fn reads_like_the_device_below_at_every_seam() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let cached = Cached::new(Arc::new(Memory::new(bytes.clone())), 64 << 10);
        for (offset, len) in
            [(0, 1), (16_383, 2), (16_380, 40_000), (99_999, 1), (0, 100_000), (5, 70_000), (98_304, 1_696)]
        {
            let mut buf = vec![0; len];
            cached.read_exact_at(&mut buf, offset as u64).unwrap();
            assert_eq!(buf, bytes[offset..offset + len], "{offset} {len}");
        }
        assert!(cached.read_exact_at(&mut [0; 2], 99_999).is_err());
        let ahead = Cached::new(Arc::new(Memory::new(bytes.clone())), 256 << 10);
        ahead.prefetch([99_999, 0, 40_000, 16_384, 7, 1 << 40].into_iter());
        for (offset, len) in [(0, 33_000), (98_304, 1_696), (32_768, 20_000)] {
            let mut buf = vec![0; len];
            ahead.read_exact_at(&mut buf, offset as u64).unwrap();
            assert_eq!(buf, bytes[offset..offset + len], "{offset} {len}");
        }
    }
}
