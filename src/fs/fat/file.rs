//! A file's content: the runs of its cluster chain, in order, cut to its size.

use std::ops::Range;
use std::sync::Arc;

use super::table::Run;
use crate::block::{Below, BlockDevice, Extent, HostRange, check_range};
use crate::bytes::{low_u32, to_u64, to_usize};
use crate::error::Result;

/// A regular file as a device. FAT has no holes: what is zero or a hole is so in the device below.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) device: Arc<dyn BlockDevice>,
    /// The first byte of cluster 2.
    pub(super) data: u64,
    pub(super) cluster_size: u64,
    /// They cover the size.
    pub(super) runs: Vec<Run>,
    pub(super) size: u64,
}

impl Content {
    /// Where the beginning of `range`, which is not empty and inside the file, lies on the device, as far as it lies there
    /// in one piece.
    fn place(&self, range: &Range<u64>) -> Range<u64> {
        let index = low_u32(range.start.checked_div(self.cluster_size).unwrap_or(0));
        let after = self.runs.partition_point(|run| run.index <= index);
        let Some(run) = after.checked_sub(1).and_then(|at| self.runs.get(at)) else { return 0..0 };
        let begin = u64::from(run.index).saturating_mul(self.cluster_size);
        let end = begin.saturating_add(u64::from(run.len).saturating_mul(self.cluster_size));
        let first = u64::from(run.cluster.saturating_sub(2)).saturating_mul(self.cluster_size);
        let start = self.data.saturating_add(first).saturating_add(range.start.saturating_sub(begin));
        let len = end.min(range.end).saturating_sub(range.start);
        start..start.saturating_add(len)
    }
}

impl BlockDevice for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size, offset, buf.len())?;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let below = self.place(&(at..end));
            let len = below.end.saturating_sub(below.start);
            check_range(self.size, at, to_usize(len.max(1)))?;
            let (head, tail) = rest.split_at_mut(to_usize(len).clamp(1, rest.len()));
            self.device.read_exact_at(head, below.start)?;
            at = at.saturating_add(to_u64(head.len()));
            rest = tail;
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.device.next_extent(self.place(&range))
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        self.device.host_range(self.place(&range))
    }

    fn below(&self, range: Range<u64>) -> Option<Below<'_>> {
        let place = self.place(&range);
        let len = place.end.saturating_sub(place.start);
        (len > 0).then_some(Below { device: &self.device, offset: place.start, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    #[test]
    fn reads_run_by_run_at_every_seam() {
        let run = |index, cluster, len| Run { index, cluster, len };
        let bytes: Vec<u8> = (0..100).collect();
        // Clusters of 10 bytes from byte 20 on: 2 is at 20, 5 at 50.
        let content = Content {
            device: Arc::new(Memory::new(bytes)),
            data: 20,
            cluster_size: 10,
            runs: vec![run(0, 5, 2), run(2, 2, 1), run(3, 9, 1)],
            size: 35,
        };
        let all: Vec<u8> = (50..70).chain(20..30).chain(90..95).collect();
        for start in 0..35usize {
            for end in start..=35 {
                let mut buf = vec![0; end - start];
                content.read_exact_at(&mut buf, start as u64).unwrap();
                assert_eq!(buf, all[start..end], "{start}..{end}");
            }
        }
        assert!(content.read_exact_at(&mut [0; 2], 34).is_err());
        assert_eq!(content.next_extent(5..35).unwrap().len, 15);
        assert_eq!(content.place(&(30..35)), 90..95);
    }
}
