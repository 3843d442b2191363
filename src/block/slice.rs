//! A part of a device as a device: a partition, a member of an OVA, a volume's segment.

use std::ops::Range;
use std::sync::Arc;

use super::{BlockDevice, BlockWrite, Extent, HostRange, Status, Sweep, check_range};
use crate::bytes::to_usize;
use crate::error::{Error, Result};

/// `size` bytes of another device, from `start`.
#[derive(Debug, Clone)]
pub struct Slice<D: ?Sized = dyn BlockDevice> {
    start: u64,
    size: u64,
    device: Arc<D>,
}

impl<D: BlockDevice + ?Sized> Slice<D> {
    /// The bytes `start..start + size` of `device`, which must lie inside it.
    pub fn new(device: Arc<D>, start: u64, size: u64) -> Result<Self> {
        check_range(device.size(), start, to_usize(size))?;
        Ok(Self { start, size, device })
    }

    /// `range` of this slice as a range of the device below.
    fn below(&self, range: &Range<u64>) -> Result<Range<u64>> {
        match (self.start.checked_add(range.start), self.start.checked_add(range.end)) {
            (Some(start), Some(end)) if range.end <= self.size => Ok(start..end),
            _ => Err(Error::corrupt("slice", "range", range.start, range.end, format!("at most {} bytes", self.size))),
        }
    }

    fn offset_below(&self, offset: u64, len: usize) -> Result<u64> {
        let end = check_range(self.size, offset, len)?;
        Ok(self.below(&(offset..end))?.start)
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for Slice<D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.device.read_exact_at(buf, self.offset_below(offset, buf.len())?)
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.device.next_extent(self.below(&range)?)
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        self.device.status(self.below(&range)?)
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        self.device.host_range(self.below(&range).ok()?)
    }

    fn audit(&self, sweep: Sweep) -> Result<()> {
        self.device.audit(sweep)
    }
}

impl<D: BlockWrite + ?Sized> BlockWrite for Slice<D> {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.device.write_all_at(bytes, self.offset_below(offset, bytes.len())?)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.device.write_zeroes(self.below(&range)?)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.device.discard(self.below(&range)?)
    }

    fn flush(&self) -> Result<()> {
        self.device.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    #[test]
    fn a_slice_reads_its_part_and_no_more() {
        let device = Arc::new(Memory::new((0..100).collect()));
        let slice = Slice::new(device.clone(), 10, 5).unwrap();
        let mut buf = [0; 5];
        slice.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [10, 11, 12, 13, 14]);
        assert!(slice.read_exact_at(&mut buf, 1).is_err());
        assert!(Slice::new(device, 96, 5).is_err());
    }
}
