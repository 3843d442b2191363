//! A logical volume's bytes: segments one behind the other, each linear or striped over parts of physical volumes.

use std::ops::Range;
use std::sync::Arc;

use super::label::FORMAT;
use crate::block::{BlockDevice, Extent, HostRange, Status, Sweep};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};

/// The device of a logical volume.
#[derive(Debug)]
pub(super) struct Mapped {
    size: u64,
    /// In order, without gaps.
    segments: Vec<Mapping>,
}

/// One segment of a [`Mapped`].
#[derive(Debug)]
pub(super) struct Mapping {
    /// First byte of the logical volume.
    pub(super) start: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Bytes of a stripe; the whole size for a linear segment. Never 0.
    pub(super) stripe_size: u64,
    /// Each stripe's device and its first byte there. Never empty.
    pub(super) stripes: Vec<(Arc<dyn BlockDevice>, u64)>,
}

/// A run of bytes that lie together on one physical volume.
struct Run<'a> {
    device: &'a dyn BlockDevice,
    offset: u64,
    len: u64,
}

impl Mapping {
    /// The run at byte `at` of the segment, at most `len` long.
    fn run(&self, at: u64, len: u64) -> Option<Run<'_>> {
        let count = to_u64(self.stripes.len());
        let chunk = at.checked_div(self.stripe_size)?;
        let within = at.checked_rem(self.stripe_size)?;
        let (device, start) = self.stripes.get(to_usize(chunk.checked_rem(count)?))?;
        let before = chunk.checked_div(count)?.checked_mul(self.stripe_size)?;
        let offset = start.checked_add(before)?.checked_add(within)?;
        let len = len.min(self.stripe_size.saturating_sub(within)).min(self.size.saturating_sub(at));
        Some(Run { device, offset, len })
    }
}

impl Mapped {
    pub(super) fn new(segments: Vec<Mapping>) -> Self {
        let size = segments.last().map_or(0, |last| last.start.saturating_add(last.size));
        Self { size, segments }
    }

    /// The run that begins at `range.start`, at most as long as `range`.
    fn run(&self, range: &Range<u64>) -> Result<Run<'_>> {
        let index = self.segments.partition_point(|segment| segment.start <= range.start).checked_sub(1);
        let segment = index.and_then(|index| self.segments.get(index));
        let run = segment.and_then(|segment| {
            segment.run(range.start.saturating_sub(segment.start), range.end.saturating_sub(range.start))
        });
        let outside =
            || Error::corrupt(FORMAT, "offset", range.start, "a place past the end", format!("< {}", self.size));
        run.filter(|run| run.len > 0 && range.end <= self.size).ok_or_else(outside)
    }
}

impl BlockDevice for Mapped {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut at = offset;
        let end = offset.saturating_add(to_u64(buf.len()));
        let mut rest = buf;
        while !rest.is_empty() {
            let run = self.run(&(at..end))?;
            let Some((head, tail)) = rest.split_at_mut_checked(to_usize(run.len)) else { break };
            run.device.read_exact_at(head, run.offset)?;
            at = at.saturating_add(run.len);
            rest = tail;
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let run = self.run(&range)?;
        run.device.next_extent(run.offset..run.offset.saturating_add(run.len))
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        let run = self.run(&range).ok()?;
        run.device.host_range(run.offset..run.offset.saturating_add(run.len))
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        let run = self.run(&range)?;
        run.device.status(run.offset..run.offset.saturating_add(run.len))
    }

    fn audit(&self, sweep: Sweep) -> Result<()> {
        let mut audited: Vec<*const ()> = Vec::new();
        for (device, _) in self.segments.iter().flat_map(|segment| &segment.stripes) {
            let identity = Arc::as_ptr(device).cast();
            if !audited.contains(&identity) {
                audited.push(identity);
                device.audit(sweep)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Memory, read_vec};

    #[test]
    fn stripes_and_segments_are_put_together_in_order() {
        let a: Arc<dyn BlockDevice> = Arc::new(Memory::new((0..32).collect()));
        let b: Arc<dyn BlockDevice> = Arc::new(Memory::new((100..132).collect()));
        let device = Mapped::new(vec![
            Mapping { start: 0, size: 3, stripe_size: 3, stripes: vec![(a.clone(), 20)] },
            Mapping { start: 3, size: 8, stripe_size: 2, stripes: vec![(a, 4), (b, 8)] },
        ]);
        assert_eq!(device.size(), 11);
        assert_eq!(read_vec(&device, 0, 11).unwrap(), [20, 21, 22, 4, 5, 108, 109, 6, 7, 110, 111]);
        assert_eq!(read_vec(&device, 4, 3).unwrap(), [5, 108, 109]);
        assert_eq!(device.next_extent(4..11).unwrap().len, 1);
        assert!(device.read_exact_at(&mut [0; 2], 10).is_err());
        assert!(device.read_exact_at(&mut [], 11).is_ok());
    }
}
