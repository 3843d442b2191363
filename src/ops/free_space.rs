//! What a disk's filesystems say is free, so that a copy can leave it out.
//!
//! A byte is free only when the one filesystem it belongs to says so: a filesystem on the bare disk, in a partition, or
//! on a logical volume. Everything else is kept: partition tables, gaps, boot loaders, swap, LVM's own space, filesystems
//! whose free space is not read, those that are damaged or encrypted, and whatever two partitions or volumes share. In
//! volume groups that are not all here, or that hold volumes of other kinds than linear and striped (a snapshot needs what
//! its origin has freed), nothing is free.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{BlockDevice, Extent, ExtentKind, Status};
use crate::bytes::to_u64;
use crate::error::{ErrorKind, Result};
use crate::fs;
use crate::limits;
use crate::volume::lvm::{self, VolumeGroup};
use crate::volume::{self, Partition, PartitionKind};

/// Pieces of a logical volume that are followed; more is not worth it.
const PIECES: usize = 65_536;

/// The ranges of `disk` that its filesystems say are free: in ascending order, not empty, apart from one another.
///
/// Damage makes less free and is no error; reading the disk may fail. With more than [`limits::FREE_RUNS`] runs the shortest
/// are left out, and what lies behind [`limits::FREE_VISITS`] runs or [`limits::FREE_READ_BYTES`] of metadata is kept.
pub fn free_ranges(disk: &Arc<dyn BlockDevice>) -> Result<Vec<Range<u64>>> {
    let disk: Arc<dyn BlockDevice> = Arc::new(Located { disk: disk.clone(), read: AtomicU64::new(0) });
    let mut free = Free::default();
    // Behind a table that cannot be read nothing is looked for.
    let Some(table) = tolerate(volume::scan(&disk))? else { return Ok(Vec::new()) };
    let Some(table) = table.filter(|table| !table.partitions.is_empty()) else {
        add(&mut free, &disk, &[("disk".to_owned(), disk.clone())])?;
        return Ok(free.finish());
    };
    let mut devices = Vec::new();
    for partition in table.partitions.iter().filter(|partition| partition.kind != PartitionKind::Extended) {
        if !table.partitions.iter().any(|other| overlap(partition, other)) {
            devices.push((format!("partition {}", partition.number), partition.device(&disk)?));
        }
    }
    add(&mut free, &disk, &devices)?;
    Ok(free.finish())
}

/// What a disk's damage stops is left as it is; what the host stops is an error.
fn tolerate<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::Io { .. } | ErrorKind::Cancelled) => Err(error),
        Err(error) => {
            log::debug!("kept as it is: {error}");
            Ok(None)
        }
    }
}

/// Whether both hold the same bytes. A logical partition lies in an extended one.
fn overlap(partition: &Partition, other: &Partition) -> bool {
    let within = other.kind == PartitionKind::Extended && partition.kind == PartitionKind::Logical;
    let end = |partition: &Partition| partition.start.saturating_add(partition.size);
    partition.number != other.number && !within && partition.start < end(other) && other.start < end(partition)
}

/// Adds what is free on `devices`, and on the logical volumes over them.
fn add(free: &mut Free, disk: &Arc<dyn BlockDevice>, devices: &[(String, Arc<dyn BlockDevice>)]) -> Result<()> {
    for (name, device) in devices {
        add_filesystem(free, name, device)?;
    }
    for group in tolerate(lvm::scan(devices))?.unwrap_or_default() {
        if !group.unsupported.is_empty() || !group.notes.is_empty() {
            log::debug!("volume group {}: kept as it is", group.name);
        } else if apart(&group, disk.size())? {
            for volume in &group.logical_volumes {
                add_filesystem(free, &volume.device_path(), &volume.device)?;
            }
        }
    }
    Ok(())
}

/// Whether no two volumes of `group` share a byte of the disk.
fn apart(group: &VolumeGroup, size: u64) -> Result<bool> {
    let mut pieces = Vec::new();
    for volume in &group.logical_volumes {
        let whole = 0..volume.device.size();
        let all = for_each_piece(&*volume.device, whole, &mut |piece| {
            pieces.push((piece.start, piece.end));
            Ok(pieces.len() < PIECES)
        })?;
        if !all {
            return Ok(false);
        }
    }
    pieces.sort_unstable();
    let ends = pieces.iter().map(|(_, end)| *end);
    let starts = pieces.iter().skip(1).map(|(start, _)| *start).chain([size]);
    Ok(ends.zip(starts).all(|(end, start)| end <= start))
}

/// Calls `visit` with the places of `range` on the disk, as long as it says so; whether it did to the end.
fn for_each_piece(
    device: &dyn BlockDevice,
    range: Range<u64>,
    visit: &mut dyn FnMut(Range<u64>) -> Result<bool>,
) -> Result<bool> {
    let mut at = range.start;
    while at < range.end {
        let Status { len, offset, .. } = device.status(at..range.end)?;
        let Some(offset) = offset else { return Ok(false) };
        if !visit(offset..offset.saturating_add(len))? {
            return Ok(false);
        }
        at = at.saturating_add(len.max(1));
    }
    Ok(true)
}

/// Adds what the filesystem on `device` says is free, if there is one that can say it.
fn add_filesystem(free: &mut Free, name: &str, device: &Arc<dyn BlockDevice>) -> Result<()> {
    let Some(filesystem) = tolerate(fs::open(device.clone()))? else { return Ok(()) };
    let size = device.size();
    let before = free.bytes;
    let told = filesystem.free_extents(&mut |run| {
        free.visits = limits::check("runs of free space", free.visits.saturating_add(1), limits::FREE_VISITS)?;
        let run = run.start.min(size)..run.end.min(size);
        for_each_piece(&**device, run, &mut |piece| {
            free.add(piece);
            Ok(true)
        })
        .map(|_| ())
    });
    tolerate(told)?;
    log::debug!("{name}: {} bytes are free", free.bytes.saturating_sub(before));
    Ok(())
}

/// A disk that tells of each of its bytes where it is, through partitions and volumes, and that is not read without end:
/// a small image can hold a large filesystem, or a thousand.
#[derive(Debug)]
struct Located {
    disk: Arc<dyn BlockDevice>,
    /// Bytes read so far.
    read: AtomicU64,
}

/// What a short read counts for.
const READ_MIN: usize = 4096;

impl BlockDevice for Located {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = to_u64(buf.len().max(READ_MIN));
        let read = self.read.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        limits::check("bytes of metadata about free space", read, limits::FREE_READ_BYTES)?;
        self.disk.read_exact_at(buf, offset)
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.disk.next_extent(range)
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        let (len, offset) = (range.end.saturating_sub(range.start), Some(range.start));
        Ok(Status { len, kind: ExtentKind::Data, depth: 0, allocated: true, compressed: false, offset })
    }
}

/// Runs of free bytes, bounded.
#[derive(Debug, Default)]
struct Free {
    runs: Vec<Range<u64>>,
    /// Runs shorter than this are forgotten.
    shortest: u64,
    bytes: u64,
    /// Runs that filesystems told of.
    visits: u64,
}

impl Free {
    fn add(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        self.bytes = self.bytes.saturating_add(run.end - run.start);
        match self.runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => {
                if self.runs.len() >= limits::FREE_RUNS {
                    self.forget();
                }
                self.runs.push(run);
            }
        }
    }

    /// Forgets the shortest half of the runs or more.
    fn forget(&mut self) {
        while self.runs.len() > limits::FREE_RUNS / 2 {
            self.shortest = (self.shortest * 2).max(8192);
            self.runs.retain(|run| run.end - run.start >= self.shortest);
        }
    }

    fn finish(mut self) -> Vec<Range<u64>> {
        self.runs.sort_unstable_by_key(|run| run.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for run in self.runs {
            match merged.last_mut() {
                Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                _ => merged.push(run),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_merged_and_never_more_than_the_limit() {
        let mut free = Free::default();
        for run in [10..20, 20..25, 40..50, 0..5, 5..10] {
            free.add(run);
        }
        assert_eq!(free.finish(), [0..25, 40..50]);

        let mut free = Free::default();
        let many = limits::FREE_RUNS as u64 + 10;
        for number in 0..many {
            let len = if number % 4 == 0 { 100_000 } else { 4096 };
            free.add(number << 20..(number << 20) + len);
        }
        let runs = free.finish();
        assert!(runs.len() < limits::FREE_RUNS);
        assert_eq!(runs.iter().filter(|run| run.end - run.start == 100_000).count() as u64, many.div_ceil(4));
    }
}
