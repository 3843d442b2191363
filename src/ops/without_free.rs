//! A disk whose free space reads as zeroes: what `convert --skip-free` copies.

use std::ops::Range;
use std::sync::Arc;

use super::free_space::free_ranges;
use crate::block::{BlockDevice, Extent, ExtentKind, HostRange, Sweep};
use crate::error::Result;

/// A disk without what its filesystems say is free. Bytes of deleted files are gone from it.
#[derive(Debug)]
pub struct WithoutFree {
    disk: Arc<dyn BlockDevice>,
    /// Ascending and apart.
    free: Vec<Range<u64>>,
}

impl WithoutFree {
    /// Asks the filesystems on `disk`. What cannot be understood counts as used.
    pub fn new(disk: Arc<dyn BlockDevice>) -> Result<Self> {
        let free = free_ranges(&disk)?;
        Ok(Self { disk, free })
    }

    /// Bytes that are free.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|run| run.end - run.start).sum()
    }

    /// The beginning of `range` as far as it is all free or all used, and whether it is free.
    fn first(&self, range: &Range<u64>) -> (Range<u64>, bool) {
        let next = self.free.partition_point(|run| run.end <= range.start);
        match self.free.get(next) {
            Some(run) if run.start <= range.start => (range.start..range.end.min(run.end), true),
            Some(run) => (range.start..range.end.min(run.start), false),
            None => (range.clone(), false),
        }
    }
}

impl BlockDevice for WithoutFree {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (run, free) = self.first(&(at..at.saturating_add(rest.len() as u64)));
            let (part, tail) = rest.split_at_mut((run.end - run.start) as usize);
            if free {
                part.fill(0);
            } else {
                self.disk.read_exact_at(part, at)?;
            }
            (rest, at) = (tail, run.end);
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let (run, free) = self.first(&range);
        if free {
            return Ok(Extent { kind: ExtentKind::Hole, len: run.end - run.start });
        }
        self.disk.next_extent(run)
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        let (run, free) = self.first(&range);
        if free { None } else { self.disk.host_range(run) }
    }

    fn audit(&self, sweep: Sweep) -> Result<()> {
        self.disk.audit(sweep)
    }
}
